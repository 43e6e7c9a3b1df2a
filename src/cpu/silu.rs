//! The sigmoid linear unit (swish), `y = x s` with `s = 1 / (1 + exp(-x))`. Source: Elfwing, Uchibe and Doya, Sigmoid-Weighted
//! Linear Units, 2017; keras.ops.silu.

use super::real::Real;

/// Beyond this number and its negative, s is 1 or 0 to 37 digits; it is computed no farther out, where exp(-x) would exceed
/// single precision.
pub const FAR: f64 = 87.0;

/// Returns `1 / (1 + exp(-x))`.
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// Computes `y = x s`, for any shape; 0 for x below -87, where y is closer to 0 than 2e-36.
pub fn silu_forward<T: Real>(x: &[T], y: &mut [T]) {
    let far = T::from_f64(FAR);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = if x < -far { T::ZERO } else { x * sigmoid(x) };
    }
}

/// Computes `dx = dy dy/dx`, for any shape: `dy/dx = s + x s (1 - s)`.
pub fn silu_backward_x<T: Real>(x: &[T], dy: &[T], dx: &mut [T]) {
    let far = T::from_f64(FAR);
    for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
        let x = if x > far {
            far
        } else if x < -far {
            -far
        } else {
            x
        };
        // 1 - s, without cancellation.
        let s = sigmoid(x);
        *dx = dy * (s + x * s * sigmoid(-x));
    }
}
