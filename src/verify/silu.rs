//! Proof of the SiLU: its kernels agree with [`crate::cpu::silu`].

use super::gradients::Gradients;
use super::{Bounded, UNIT_ROUNDOFF, Verifier, widen};
use crate::cpu::silu::{self as cpu, FAR};
use crate::gpu::GpuError;
use crate::ops::silu::{BACKWARD_X, FORWARD, record_backward_x, record_forward};

/// The parts of y and of its derivative at one x, and the errors of those that are inexact, in roundoffs and relative.
struct Parts {
    /// exp(-x).
    e: f64,
    e_error: f64,
    /// 1 / (1 + e).
    s: f64,
    s_error: f64,
}

/// Derives the errors from what the WGSL specification guarantees for `exp` and for a division.
fn parts(z: f64) -> Parts {
    let e = (-z).exp();
    // exp(a): 3 + 2|a| units in the last place, two roundoffs each.
    let e_error = 2.0 * (3.0 + 2.0 * z.abs());
    // The sum is off by the part e of the error of e and one roundoff, the quotient by 2.5 units.
    let s = 1.0 / (1.0 + e);
    Parts { e, e_error, s, s_error: e_error * e * s + 6.0 }
}

/// Returns y of x.
pub(super) fn forward(x: &[f32]) -> Bounded {
    let (x, mut values) = (widen(x), vec![0.0; x.len()]);
    cpu::silu_forward(&x, &mut values);
    Bounded { values, bound: x.iter().map(|&x| forward_bound(x)).collect() }
}

/// Returns dx of x and dy.
pub(super) fn backward_x(x: &[f32], dy: &[f32]) -> Bounded {
    let (x, dy, mut values) = (widen(x), widen(dy), vec![0.0; x.len()]);
    cpu::silu_backward_x(&x, &dy, &mut values);
    Bounded { values, bound: x.iter().zip(&dy).map(|(&x, &dy)| backward_x_bound(x, dy)).collect() }
}

/// Returns the error that y may have.
fn forward_bound(x: f64) -> f64 {
    if x < -FAR {
        return 0.0;
    }
    let Parts { s, s_error, .. } = parts(x.min(FAR));
    // One product; a y below the smallest normal number may be flushed to zero.
    (s_error + 1.0) * UNIT_ROUNDOFF * (x * s).abs() + f64::from(f32::MIN_POSITIVE)
}

/// Returns the error that dx may have.
fn backward_x_bound(x: f64, dy: f64) -> f64 {
    let z = x.clamp(-FAR, FAR);
    let Parts { e, e_error, s, s_error } = parts(z);
    // dx = dy (s (1 + w)), w = z (e s).
    let w = (z * e * s).abs();
    // e s is e / (1 + e): of the error of e, the part s remains. The sum, the quotient and the product e s add 7
    // roundoffs, the product with z one.
    let w_error = e_error * s + 7.0 + 1.0;
    // The sum 1 + w and the two products round once each.
    let derivative_error = s * ((1.0 + w) * (s_error + 3.0) + w * w_error);
    // Any part below the smallest normal number may be flushed to zero.
    dy.abs() * derivative_error * UNIT_ROUNDOFF + (1.0 + dy.abs()) * f64::from(f32::MIN_POSITIVE)
}

/// Returns inputs of every kind: near zero, where the derivative changes its sign, far out, and the largest numbers.
pub(super) fn inputs(mut random: impl FnMut(usize) -> Vec<f32>, len: usize) -> Vec<f32> {
    const NEAR: [f32; 7] = [0.0, -0.0, 1e-30, -1e-30, -1.278, 1.0, -1.0];
    const FAR_OUT: [f32; 9] = [86.999, -86.999, 87.0, -87.0, -87.001, 1e4, -1e4, f32::MAX, f32::MIN];
    let special = [&NEAR[..], &FAR_OUT].concat();
    let scales = [1.0, 5.0, 20.0, 100.0];
    let value = |(i, x)| if i % 5 == 4 { special[i / 5 % special.len()] } else { scales[i % scales.len()] * x };
    random(len).into_iter().enumerate().map(value).collect()
}

/// Compares both kernels with the mirror.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, len: usize) -> Result<(), GpuError> {
    let case = format!("{len}");
    let (x, dy) = (inputs(|len| v.random(len), len), v.random(len));
    v.check(FORWARD.entry, &case, [&x], [&forward(&x)], |plan, [x], [y]| record_forward(plan, len, [x, y]))?;
    v.check(BACKWARD_X.entry, &case, [&x, &dy], [&backward_x(&x, &dy)], |plan, [x, dy], [dx]| {
        record_backward_x(plan, len, [x, dy, dx])
    })
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    [1, 63, 64, 65, 10_007].into_iter().try_for_each(|len| verify(v, len))
}

pub(super) fn gradients(g: &mut Gradients) {
    let x: Vec<f64> = g.values(41).iter().map(|x| x * 6.0).collect();
    let (dy, mut dx) = (g.values(41), vec![0.0; 41]);
    cpu::silu_backward_x(&x, &dy, &mut dx);
    g.check("silu_backward_x", "41", [&x, &dx], &dy, cpu::silu_forward);
}
