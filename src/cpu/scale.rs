//! A fixed factor, `y = factor * x`. Source: keras.layers.Rescaling.

use super::real::Real;

/// Computes `y = factor * x`, for any shape.
pub fn scale_forward<T: Real>(factor: f64, x: &[T], y: &mut [T]) {
    let factor = T::from_f64(factor);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = factor * x;
    }
}

/// Computes `dx = factor * dy`, for any shape.
pub fn scale_backward_x<T: Real>(factor: f64, dy: &[T], dx: &mut [T]) {
    scale_forward(factor, dy, dx);
}
