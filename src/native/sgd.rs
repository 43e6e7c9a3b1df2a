//! Gradient descent with momentum; see [`crate::cpu::sgd`], whose bits this gives, but for a velocity below 1e-30, which becomes 0.

use super::{negligible_to_zero, vectorised};

/// One step on some elements of a parameter.
pub fn sgd_step(momentum: f64, alpha: f32, g: &[f32], w: &mut [f32], velocity: &mut [f32]) {
    let momentum = momentum as f32;
    vectorised(
        #[inline(always)]
        || {
            for ((&g, w), velocity) in g.iter().zip(w).zip(velocity) {
                *velocity = negligible_to_zero(momentum * *velocity - alpha * g);
                *w += *velocity;
            }
        },
    );
}
