//! Gradient descent with momentum as in Keras. Source: keras.optimizers.SGD without Nesterov.

use super::real::Real;
use serde::{Deserialize, Serialize};

/// Settings of gradient descent; the defaults are those of Keras.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SgdConfig {
    /// Step size.
    pub learning_rate: f64,
    /// Momentum: the fraction of the last update that is added to the next one.
    pub momentum: f64,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { learning_rate: 0.01, momentum: 0.0 }
    }
}

/// Takes one step: `velocity = momentum * velocity - alpha * g`, `w += velocity`. g, w and velocity have the same
/// length.
pub fn sgd_step<T: Real>(momentum: f64, alpha: T, g: &[T], w: &mut [T], velocity: &mut [T]) {
    let momentum = T::from_f64(momentum);
    for i in 0..w.len() {
        velocity[i] = momentum * velocity[i] - alpha * g[i];
        w[i] += velocity[i];
    }
}
