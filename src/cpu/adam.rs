//! Adam as in Keras. Source: Kingma and Ba, Adam, 2015, end of section 2; keras.optimizers.Adam.

use super::real::Real;
use serde::{Deserialize, Serialize};

/// Settings of Adam; the defaults are those of Keras.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamConfig {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        AdamConfig { learning_rate: 1e-3, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7 }
    }
}

impl AdamConfig {
    /// Returns `learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)` for step t, counted from 1.
    pub fn step_size(&self, step: u64) -> f64 {
        let t = step as f64;
        self.learning_rate * (1.0 - self.beta_2.powf(t)).sqrt() / (1.0 - self.beta_1.powf(t))
    }
}

/// Takes one step: `m += (g - m) * (1 - beta_1)`, `v += (g*g - v) * (1 - beta_2)`, `w -= alpha * m / (sqrt(v) +
/// epsilon)`.
///
/// g, w, m and v have the same length; `alpha` is [`AdamConfig::step_size`].
pub fn adam_step<T: Real>(config: &AdamConfig, alpha: T, g: &[T], w: &mut [T], m: &mut [T], v: &mut [T]) {
    let (first, second) = (T::from_f64(1.0 - config.beta_1), T::from_f64(1.0 - config.beta_2));
    let epsilon = T::from_f64(config.epsilon);
    for i in 0..w.len() {
        m[i] += (g[i] - m[i]) * first;
        v[i] += (g[i] * g[i] - v[i]) * second;
        w[i] -= alpha * m[i] / (v[i].sqrt() + epsilon);
    }
}
