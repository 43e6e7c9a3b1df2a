//! The Gaussian error linear unit; see [`crate::cpu::gelu`].

use super::exp::exp;
use super::vectorized_loop;
use crate::cpu::gelu::{CUBIC, FAR, TWICE_ROOT};

/// Returns exp(-2u); `z` is x in -FAR..FAR.
#[inline(always)]
fn exponential(z: f32) -> f32 {
    exp(-(TWICE_ROOT as f32 * z * (1.0 + CUBIC as f32 * (z * z))))
}

/// Returns `0.5 x (1 + tanh(u))`.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let s = 1.0 / (1.0 + exponential(x.clamp(-FAR as f32, FAR as f32)));
    if x < -FAR as f32 { 0.0 } else { x * s }
}

/// Returns the gradient of x, from that of [`gelu`].
#[inline(always)]
pub(super) fn gelu_gradient(x: f32, dy: f32) -> f32 {
    let z = x.clamp(-FAR as f32, FAR as f32);
    let e = exponential(z);
    let s = 1.0 / (1.0 + e);
    let slope = TWICE_ROOT as f32 * (1.0 + (3.0 * CUBIC) as f32 * (z * z));
    // e s is 1 - s, without cancellation.
    dy * (s * (1.0 + z * (e * s) * slope))
}

/// Computes `y = 0.5 x (1 + tanh(u))`, for any shape.
pub fn gelu_forward(x: &[f32], y: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = gelu(x);
            }
        },
    );
}

/// Computes the gradient dx of the input x, for any shape.
pub fn gelu_backward_x(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
                *dx = gelu_gradient(x, dy);
            }
        },
    );
}
