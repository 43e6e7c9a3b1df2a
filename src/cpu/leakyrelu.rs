//! The leaky rectified linear unit, `y = x` above zero and `slope * x` elsewhere.
//!
//! The slope is not negative, so y is above zero exactly where x is. Source: Maas, Hannun and Ng, Rectifier Nonlinearities
//! Improve Neural Network Acoustic Models, 2013; tf.nn.leaky_relu, whose gradient at 0 is the slope.

use super::real::Real;

/// Computes `y = x` where x is above zero, else `slope * x`, for any shape.
pub fn leakyrelu_forward<T: Real>(slope: f64, x: &[T], y: &mut [T]) {
    let slope = T::from_f64(slope);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = if x > T::ZERO { x } else { slope * x };
    }
}

/// Computes `dx = dy` where the output y is above zero, else `slope * dy`, for any shape.
pub fn leakyrelu_backward_x<T: Real>(slope: f64, y: &[T], dy: &[T], dx: &mut [T]) {
    let slope = T::from_f64(slope);
    for ((dx, &dy), &y) in dx.iter_mut().zip(dy).zip(y) {
        *dx = if y > T::ZERO { dy } else { slope * dy };
    }
}
