//! The leaky rectified linear unit; the results have the same bits as [`crate::cpu::leakyrelu`].

use super::vectorized_loop;

/// Computes `y = x` where x is above zero, else `slope * x`, for any shape.
pub fn leakyrelu_forward(slope: f64, x: &[f32], y: &mut [f32]) {
    let slope = slope as f32;
    vectorized_loop(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = if x > 0.0 { x } else { slope * x };
            }
        },
    );
}

/// Computes `dx = dy` where the output y is above zero, else `slope * dy`, for any shape.
pub fn leakyrelu_backward_x(slope: f64, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    let slope = slope as f32;
    vectorized_loop(
        #[inline(always)]
        || {
            for ((dx, &dy), &y) in dx.iter_mut().zip(dy).zip(y) {
                *dx = if y > 0.0 { dy } else { slope * dy };
            }
        },
    );
}
