//! The rectified linear unit, `y = max(x, 0)`. Source: tf.nn.relu; the gradient at 0 is 0, as in TensorFlow.

use super::real::Real;

/// Computes `y = max(x, 0)`, for any shape.
pub fn relu_forward<T: Real>(x: &[T], y: &mut [T]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = if x > T::ZERO { x } else { T::ZERO };
    }
}

/// Computes `dx = dy` where the output y is above zero, else 0, for any shape.
pub fn relu_backward_x<T: Real>(y: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, &dy), &y) in dx.iter_mut().zip(dy).zip(y) {
        *dx = if y > T::ZERO { dy } else { T::ZERO };
    }
}
