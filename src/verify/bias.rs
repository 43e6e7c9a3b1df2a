//! Proof of the bias: its kernels agree with [`crate::cpu::bias`].

use super::gradients::{Gradients, check, dot};
use super::{Verifier, absolute, widen};
use crate::cpu::bias as cpu;
use crate::gpu::GpuError;
use crate::ops::bias::{BACKWARD_B, BiasDims, FORWARD, record_backward_b, record_forward};

/// Compares both kernels with the mirror on one shape.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, d: &BiasDims) -> Result<(), GpuError> {
    let case = format!("{}x{}", d.n, d.o);
    let (x, b, dy) = (v.random(d.n * d.o), v.random(d.o), v.random(d.n * d.o));
    let (x64, b64, dy64) = (widen(&x), widen(&b), widen(&dy));

    let (mut y64, mut y_scale) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    cpu::bias_forward(d, &x64, &b64, &mut y64);
    cpu::bias_forward(d, &absolute(&x64), &absolute(&b64), &mut y_scale);
    let mut run = v.run();
    let (tx, tb, ty) = (run.input(&x)?, run.input(&b)?, run.output(x.len())?);
    record_forward(&mut run.plan, d, &tx, &tb, &ty)?;
    run.check_sums(FORWARD.entry, &case, &[(&ty, &y64, &y_scale, 1)])?;

    let (mut db64, mut db_scale) = (vec![0.0; d.o], vec![0.0; d.o]);
    cpu::bias_backward_b(d, &dy64, &mut db64);
    cpu::bias_backward_b(d, &absolute(&dy64), &mut db_scale);
    let mut run = v.run();
    let (tdy, tdb) = (run.input(&dy)?, run.output(d.o)?);
    record_backward_b(&mut run.plan, d, &tdy, &tdb)?;
    run.check_sums(BACKWARD_B.entry, &case, &[(&tdb, &db64, &db_scale, d.n)])
}

/// Checks the shapes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for (n, o) in [(196, 64), (7, 13), (1, 1)] {
        verify(v, &BiasDims { n, o })?;
    }
    Ok(())
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, o) in [(5, 3), (1, 1)] {
        let d = BiasDims { n, o };
        let (x, b, dy) = (g.values(d.n * d.o), g.values(d.o), g.values(d.n * d.o));
        let mut db = vec![0.0; d.o];
        cpu::bias_backward_b(&d, &dy, &mut db);
        g.note(check("bias_backward_b", &format!("{d:?}"), &b, &db, |b| {
            let mut y = vec![0.0; d.n * d.o];
            cpu::bias_forward(&d, &x, b, &mut y);
            dot(&y, &dy)
        }));
    }
}
