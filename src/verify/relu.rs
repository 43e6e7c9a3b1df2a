//! Proof of the rectified linear unit: its kernels agree with [`crate::cpu::relu`].

use super::gradients::{Gradients, check, dot};
use super::{Verifier, widen};
use crate::cpu::relu as cpu;
use crate::gpu::GpuError;
use crate::ops::relu::{BACKWARD_X, FORWARD, record_backward_x, record_forward};

/// Compares both kernels with the mirror; every fourth value is exactly zero.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, len: usize) -> Result<(), GpuError> {
    let case = format!("{len}");
    let x: Vec<f32> = v.random(len).into_iter().enumerate().map(|(i, x)| if i % 4 == 3 { 0.0 } else { x }).collect();
    let dy = v.random(len);
    let exact = vec![0.0; len];
    let mut y64 = vec![0.0; len];
    cpu::relu_forward(&widen(&x), &mut y64);
    let mut run = v.run();
    let (tx, ty) = (run.input(&x)?, run.output(len)?);
    record_forward(&mut run.plan, len, &tx, &ty)?;
    run.check(FORWARD.entry, &case, &[(&ty, &y64, &exact)], &[])?;

    let mut dx64 = vec![0.0; len];
    cpu::relu_backward_x(&y64, &widen(&dy), &mut dx64);
    let y: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
    let mut run = v.run();
    let (ty, tdy, tdx) = (run.input(&y)?, run.input(&dy)?, run.output(len)?);
    record_backward_x(&mut run.plan, len, &ty, &tdy, &tdx)?;
    run.check(BACKWARD_X.entry, &case, &[(&tdx, &dx64, &exact)], &[])
}

/// Checks the shapes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for len in [1, 63, 64, 65, 10_007] {
        verify(v, len)?;
    }
    Ok(())
}

pub(super) fn gradients(g: &mut Gradients) {
    let (x, dy) = (g.distinct(41), g.values(41));
    let (mut y, mut dx) = (vec![0.0; 41], vec![0.0; 41]);
    cpu::relu_forward(&x, &mut y);
    cpu::relu_backward_x(&y, &dy, &mut dx);
    g.note(check("relu_backward_x", "41", &x, &dx, |x| {
        let mut y = vec![0.0; 41];
        cpu::relu_forward(x, &mut y);
        dot(&y, &dy)
    }));
}
