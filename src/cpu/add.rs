//! The sum of two tensors, `y = x1 + x2`. Source: keras.layers.Add.
//!
//! The gradient of each summand is dy itself, so there is no backward pass. If several layers read a tensor, its gradient
//! is the sum of theirs, which this operation also computes.

use super::real::Real;

/// Computes `y = x1 + x2`, for any shape; x1 and x2 may be the same tensor.
pub fn add_forward<T: Real>(x1: &[T], x2: &[T], y: &mut [T]) {
    for ((y, &x1), &x2) in y.iter_mut().zip(x1).zip(x2) {
        *y = x1 + x2;
    }
}
