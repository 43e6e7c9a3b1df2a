//! Proof of the leaky rectified linear unit: its kernels agree with [`crate::cpu::leakyrelu`].

use super::gradients::Gradients;
use super::{Bounded, Verifier, sum_bound, widen};
use crate::cpu::leakyrelu as cpu;
use crate::gpu::GpuError;
use crate::ops::leakyrelu::{BACKWARD_X, FORWARD, record_backward_x, record_forward};

/// The slopes that the proofs use: the default, a larger one, and that of a ReLU.
pub(super) const SLOPES: [f64; 3] = [0.01, 0.3, 0.0];

/// Bounds values that are copies where `copied` is above zero; elsewhere the slope and the product are rounded once each, which is the
/// bound of a sum of one product.
fn bounded(values: Vec<f64>, copied: &[f64]) -> Bounded {
    let bound = values.iter().zip(copied).map(|(value, &of)| if of > 0.0 { 0.0 } else { sum_bound(1, value.abs()) });
    Bounded { bound: bound.collect(), values }
}

/// Compares both kernels with the mirror; every fourth value is exactly zero.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, slope: f64, len: usize) -> Result<(), GpuError> {
    let case = format!("{len}, slope {slope}");
    let x: Vec<f32> = v.random(len).into_iter().enumerate().map(|(i, x)| if i % 4 == 3 { 0.0 } else { x }).collect();
    let dy = v.random(len);
    let (x64, mut y64, mut dx64) = (widen(&x), vec![0.0; len], vec![0.0; len]);
    cpu::leakyrelu_forward(slope, &x64, &mut y64);
    let y64 = bounded(y64, &x64);
    let y = y64.narrow();
    cpu::leakyrelu_backward_x(slope, &widen(&y), &widen(&dy), &mut dx64);
    let dx64 = bounded(dx64, &widen(&y));
    v.check(FORWARD.entry, &case, [&x], [&y64], |plan, [x], [y]| record_forward(plan, slope, len, [x, y]))?;
    v.check(BACKWARD_X.entry, &case, [&y, &dy], [&dx64], |plan, [y, dy], [dx]| {
        record_backward_x(plan, slope, len, [y, dy, dx])
    })
}

/// Checks the shapes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let mut cases = [1, 63, 64, 65, 10_007].into_iter().zip(SLOPES.into_iter().cycle());
    cases.try_for_each(|(len, slope)| verify(v, slope, len))
}

pub(super) fn gradients(g: &mut Gradients) {
    for slope in SLOPES {
        let (x, dy) = (g.distinct(41), g.values(41));
        let (mut y, mut dx) = (vec![0.0; 41], vec![0.0; 41]);
        cpu::leakyrelu_forward(slope, &x, &mut y);
        cpu::leakyrelu_backward_x(slope, &y, &dy, &mut dx);
        let case = format!("41, slope {slope}");
        g.check("leakyrelu_backward_x", &case, [&x, &dx], &dy, |x, y| cpu::leakyrelu_forward(slope, x, y));
    }
}
