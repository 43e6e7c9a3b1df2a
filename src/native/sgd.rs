//! Gradient descent with momentum; the results have the same bits as [`crate::cpu::sgd`], except that velocities below
//! 1e-30 become 0.

use super::{negligible_to_zero, vectorized};

/// Takes one step on some elements of a parameter.
pub fn sgd_step(momentum: f64, alpha: f32, g: &[f32], w: &mut [f32], velocity: &mut [f32]) {
    let momentum = momentum as f32;
    vectorized(
        #[inline(always)]
        || {
            for ((&g, w), velocity) in g.iter().zip(w).zip(velocity) {
                *velocity = negligible_to_zero(momentum * *velocity - alpha * g);
                *w += *velocity;
            }
        },
    );
}
