//! Proof of the rectified linear unit: its kernels agree with [`crate::cpu::relu`].

use super::gradients::Gradients;
use super::{Bounded, Verifier, widen};
use crate::cpu::relu as cpu;
use crate::gpu::GpuError;
use crate::ops::relu::{BACKWARD_X, FORWARD, record_backward_x, record_forward};

/// Compares both kernels with the mirror; every fourth value is exactly zero.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, len: usize) -> Result<(), GpuError> {
    let case = format!("{len}");
    let x: Vec<f32> = v.random(len).into_iter().enumerate().map(|(i, x)| if i % 4 == 3 { 0.0 } else { x }).collect();
    let dy = v.random(len);
    let (mut y64, mut dx64) = (vec![0.0; len], vec![0.0; len]);
    cpu::relu_forward(&widen(&x), &mut y64);
    cpu::relu_backward_x(&y64, &widen(&dy), &mut dx64);
    let (y64, dx64) = (Bounded::exact(y64), Bounded::exact(dx64));
    v.check(FORWARD.entry, &case, [&x], [&y64], |plan, [x], [y]| record_forward(plan, len, [x, y]))?;
    v.check(BACKWARD_X.entry, &case, [&y64.narrow(), &dy], [&dx64], |plan, [y, dy], [dx]| {
        record_backward_x(plan, len, [y, dy, dx])
    })
}

/// Checks the shapes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    [1, 63, 64, 65, 10_007].into_iter().try_for_each(|len| verify(v, len))
}

pub(super) fn gradients(g: &mut Gradients) {
    let (x, dy) = (g.distinct(41), g.values(41));
    let (mut y, mut dx) = (vec![0.0; 41], vec![0.0; 41]);
    cpu::relu_forward(&x, &mut y);
    cpu::relu_backward_x(&y, &dy, &mut dx);
    g.check("relu_backward_x", "41", [&x, &dx], &dy, cpu::relu_forward);
}
