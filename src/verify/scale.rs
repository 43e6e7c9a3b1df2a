//! Proof of the fixed factor: its kernels agree with [`crate::cpu::scale`].

use super::gradients::Gradients;
use super::{Bounded, Verifier, absolute, widen};
use crate::cpu::scale as cpu;
use crate::gpu::GpuError;
use crate::ops::scale::{BACKWARD_X, FORWARD, record_backward_x, record_forward};

/// The factors that the proofs use.
pub(super) const FACTORS: [f64; 3] = [0.1, -1.7, 300.0];

/// Compares both kernels with the mirror.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, factor: f64, len: usize) -> Result<(), GpuError> {
    let case = format!("{len}, factor {factor}");
    let (x, dy) = (v.random(len), v.random(len));
    // The factor and the product are rounded once each, which is the bound of a sum of one product.
    let of = |x: &[f32]| {
        let mut y = vec![0.0; len];
        cpu::scale_forward(factor, &widen(x), &mut y);
        let scale = absolute(&y);
        Bounded::sums(y, &scale, 1)
    };
    v.check(FORWARD.entry, &case, [&x], [&of(&x)], |plan, [x], [y]| record_forward(plan, factor, len, [x, y]))?;
    v.check(BACKWARD_X.entry, &case, [&dy], [&of(&dy)], |plan, [dy], [dx]| {
        record_backward_x(plan, factor, len, [dy, dx])
    })
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let mut cases = [1, 63, 64, 65, 10_007].into_iter().zip(FACTORS.into_iter().cycle());
    cases.try_for_each(|(len, factor)| verify(v, factor, len))
}

pub(super) fn gradients(g: &mut Gradients) {
    for factor in FACTORS {
        let (x, dy, mut dx) = (g.values(41), g.values(41), vec![0.0; 41]);
        cpu::scale_backward_x(factor, &dy, &mut dx);
        let case = format!("41, factor {factor}");
        g.check("scale_backward_x", &case, [&x, &dx], &dy, |x, y| cpu::scale_forward(factor, x, y));
    }
}
