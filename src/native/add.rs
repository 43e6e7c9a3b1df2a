//! The sum of two tensors; the results have the same bits as [`crate::cpu::add`].

use super::vectorized_loop;

/// Computes `y = x1 + x2`, for any shape; x1 and x2 may be the same tensor.
pub fn add_forward(x1: &[f32], x2: &[f32], y: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            for ((y, &x1), &x2) in y.iter_mut().zip(x1).zip(x2) {
                *y = x1 + x2;
            }
        },
    );
}
