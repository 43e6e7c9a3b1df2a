//! Gradient descent with momentum as in Keras, also Nesterov's. Source: keras.optimizers.SGD. PyTorch's velocity does not contain the learning rate: with
//! one that changes, PyTorch applies the new rate to older gradients too.

use super::real::Real;
use super::step::Step;
use serde::{Deserialize, Serialize};

/// Settings of gradient descent; the defaults are those of Keras.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SgdConfig {
    /// Step size.
    pub learning_rate: f64,
    /// Momentum: the fraction of the last update that is added to the next one.
    pub momentum: f64,
    /// Nesterov's momentum: the gradient is applied as if the next update were already on its way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nesterov: bool,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { learning_rate: 0.01, momentum: 0.0, nesterov: false }
    }
}

/// Takes one step: `velocity = momentum * velocity - size * g`, and `w += velocity` or, with Nesterov's momentum, `w += momentum * velocity - size *
/// g`, where `g` is the gradient times `step.clip`, and w has decayed before. g, w and velocity have the same length.
pub fn sgd_step<T: Real>(config: &SgdConfig, step: Step<T>, g: &[T], w: &mut [T], velocity: &mut [T]) {
    let momentum = T::from_f64(config.momentum);
    for i in 0..w.len() {
        let downhill = step.size * (step.clip * g[i]);
        velocity[i] = momentum * velocity[i] - downhill;
        let change = if config.nesterov { momentum * velocity[i] - downhill } else { velocity[i] };
        w[i] = step.decayed(w[i]) + change;
    }
}
