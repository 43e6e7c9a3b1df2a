//! The sigmoid linear unit; see [`crate::cpu::silu`].

use super::exp::exp;
use super::vectorized_loop;
use crate::cpu::silu::FAR;

/// Computes `y = x / (1 + exp(-x))`, for any shape.
pub fn silu_forward(x: &[f32], y: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                let s = 1.0 / (1.0 + exp(-x.clamp(-FAR as f32, FAR as f32)));
                *y = if x < -FAR as f32 { 0.0 } else { x * s };
            }
        },
    );
}

/// Computes the gradient dx of the input x, for any shape.
pub fn silu_backward_x(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
                let z = x.clamp(-FAR as f32, FAR as f32);
                let e = exp(-z);
                let s = 1.0 / (1.0 + e);
                // e s is 1 - s, without cancellation.
                *dx = dy * (s * (1.0 + z * (e * s)));
            }
        },
    );
}
