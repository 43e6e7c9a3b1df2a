//! Proof of the bias: its kernels agree with [`crate::cpu::bias`].

use super::gradients::Gradients;
use super::{Bounded, Verifier};
use crate::cpu::bias as cpu;
use crate::gpu::GpuError;
use crate::ops::bias::{BACKWARD_B, BiasDims, FORWARD, record_backward_b, record_forward};

/// Returns db.
pub(super) fn backward_b(d: &BiasDims, dy: &[f32]) -> Bounded {
    Bounded::mirrored([dy], d.o, d.n, |[dy], db| cpu::bias_backward_b(d, dy, db))
}

/// Compares both kernels with the mirror on one shape.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &BiasDims) -> Result<(), GpuError> {
    let case = format!("{}x{}", d.n, d.o);
    let (x, b, dy) = (v.random(d.n * d.o), v.random(d.o), v.random(d.n * d.o));
    let y = Bounded::mirrored([&x, &b], x.len(), 1, |[x, b], y| cpu::bias_forward(d, x, b, y));
    v.check(FORWARD.entry, &case, [&x, &b], [&y], |plan, [x, b], [y]| record_forward(plan, d, [x, b, y]))?;
    let db = backward_b(d, &dy);
    v.check(BACKWARD_B.entry, &case, [&dy], [&db], |plan, [dy], [db]| record_backward_b(plan, d, [dy, db]))
}

/// Checks the shapes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    [(196, 64), (7, 13), (1, 1)].into_iter().try_for_each(|(n, o)| verify(v, &BiasDims { n, o }))
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, o) in [(5, 3), (1, 1)] {
        let d = BiasDims { n, o };
        let (x, b, dy) = (g.values(d.n * d.o), g.values(d.o), g.values(d.n * d.o));
        let mut db = vec![0.0; d.o];
        cpu::bias_backward_b(&d, &dy, &mut db);
        g.check("bias_backward_b", &format!("{d:?}"), [&b, &db], &dy, |b, y| cpu::bias_forward(&d, &x, b, y));
    }
}
