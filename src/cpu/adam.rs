//! Adam as in Keras, and with the decoupled decay of AdamW. Source: Kingma and Ba, Adam, 2015, end of section 2; Loshchilov and Hutter, Decoupled
//! Weight Decay Regularization, 2019; keras.optimizers.Adam and AdamW. PyTorch's form adds epsilon to another number: ours is
//! `epsilon * sqrt(1 - beta_2^t)` there.

use super::real::Real;
use super::step::Step;
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

/// Takes one step: `m += (g - m) * (1 - beta_1)`, `v += (g*g - v) * (1 - beta_2)`, `w -= size * m / (sqrt(v) + epsilon)`, where `g` is the
/// gradient times `step.clip`, and w has decayed before.
///
/// g, w, m and v have the same length; `step.size` is [`AdamConfig::step_size`] times the factors of schedule and parameter.
pub fn adam_step<T: Real>(config: &AdamConfig, step: Step<T>, g: &[T], w: &mut [T], m: &mut [T], v: &mut [T]) {
    let (first, second) = (T::from_f64(1.0 - config.beta_1), T::from_f64(1.0 - config.beta_2));
    let epsilon = T::from_f64(config.epsilon);
    for i in 0..w.len() {
        let g = step.clip * g[i];
        m[i] += (g - m[i]) * first;
        v[i] += (g * g - v[i]) * second;
        w[i] = step.decayed(w[i]) - step.size * m[i] / (v[i].sqrt() + epsilon);
    }
}
