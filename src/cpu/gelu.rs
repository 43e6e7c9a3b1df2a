//! The Gaussian error linear unit in its tanh form, `y = 0.5 x (1 + tanh(u))` with `u = sqrt(2/pi) (x + 0.044715 x^3)`.
//!
//! `0.5 (1 + tanh(u))` is `1 / (1 + exp(-2u))`, which loses no digits where tanh is near -1. Source: Hendrycks and
//! Gimpel, Gaussian Error Linear Units, 2016; keras.ops.gelu with approximate=True.

use super::real::Real;

/// `2 sqrt(2/pi)`.
pub const TWICE_ROOT: f64 = 1.595_769_121_605_730_7;

/// The factor of the third power.
pub const CUBIC: f64 = 0.044_715;

/// Beyond this number and its negative, the derivative is 1 or 0 to 35 digits; it is computed no farther out, where powers
/// of x would become infinite.
pub const FAR: f64 = 10.0;

/// Returns `1 / (1 + exp(-2u))`.
fn sigmoid<T: Real>(x: T) -> T {
    let twice_u = T::from_f64(TWICE_ROOT) * x * (T::ONE + T::from_f64(CUBIC) * (x * x));
    T::ONE / (T::ONE + (-twice_u).exp())
}

/// Computes `y = 0.5 x (1 + tanh(u))`, for any shape; 0 for x below -10, where y is closer to 0 than 1e-36.
pub fn gelu_forward<T: Real>(x: &[T], y: &mut [T]) {
    let far = T::from_f64(FAR);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = if x < -far { T::ZERO } else { x * sigmoid(x) };
    }
}

/// Computes `dx = dy dy/dx`, for any shape: with `s = 1 / (1 + exp(-2u))`, `dy/dx = s + x s (1 - s) d(2u)/dx`.
pub fn gelu_backward_x<T: Real>(x: &[T], dy: &[T], dx: &mut [T]) {
    let far = T::from_f64(FAR);
    for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
        let x = if x > far {
            far
        } else if x < -far {
            -far
        } else {
            x
        };
        let slope = T::from_f64(TWICE_ROOT) * (T::ONE + T::from_f64(3.0 * CUBIC) * (x * x));
        // s (1 - s), without the cancellation of 1 - s.
        let s = sigmoid(x);
        *dx = dy * (s + x * s * sigmoid(-x) * slope);
    }
}
