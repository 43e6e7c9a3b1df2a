//! A fixed factor; the results have the same bits as [`crate::cpu::scale`].

use super::vectorized_loop;

/// Computes `y = factor * x`, for any shape.
pub fn scale_forward(factor: f64, x: &[f32], y: &mut [f32]) {
    let factor = factor as f32;
    vectorized_loop(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = factor * x;
            }
        },
    );
}

/// Computes `dx = factor * dy`, for any shape.
pub fn scale_backward_x(factor: f64, dy: &[f32], dx: &mut [f32]) {
    scale_forward(factor, dy, dx);
}
