//! The optimizers, with what each engine does for a step of one.

use crate::cpu::real::Real;
use crate::cpu::step::Step;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::ops::adam::AdamConfig;
use crate::ops::sgd::SgdConfig;
use crate::ops::{Groups, adam, sgd};
use serde::{Deserialize, Serialize};

/// An optimizer with its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam as in Keras.
    Adam(AdamConfig),
    /// Adam for weights that decay: the same, but the name in a configuration.
    AdamW(AdamConfig),
    /// Stochastic gradient descent with momentum.
    Sgd(SgdConfig),
}

impl Optimizer {
    /// The names of the values that the optimizer keeps per parameter between steps.
    pub fn slots(&self) -> &'static [&'static str] {
        match self {
            Optimizer::Adam(_) | Optimizer::AdamW(_) => &["m", "v"],
            Optimizer::Sgd(_) => &["velocity"],
        }
    }

    /// The factor of the update at a step, counted from 1.
    pub fn step_size(&self, step: u64) -> f64 {
        match self {
            Optimizer::Adam(config) | Optimizer::AdamW(config) => config.step_size(step),
            Optimizer::Sgd(config) => config.learning_rate,
        }
    }

    /// The largest learning rate.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Optimizer::Adam(config) | Optimizer::AdamW(config) => config.learning_rate,
            Optimizer::Sgd(config) => config.learning_rate,
        }
    }

    /// The momentum and whether it is Nesterov's, of an optimizer that has one.
    pub fn momentum(&self) -> Option<(f64, bool)> {
        match self {
            Optimizer::Adam(_) | Optimizer::AdamW(_) => None,
            Optimizer::Sgd(config) => Some((config.momentum, config.nesterov)),
        }
    }

    /// The settings of Adam, with or without decay.
    pub(super) fn adam(&self) -> Option<&AdamConfig> {
        match self {
            Optimizer::Adam(config) | Optimizer::AdamW(config) => Some(config),
            Optimizer::Sgd(_) => None,
        }
    }

    /// Records a step of all trained parameters, given gradients and parameters, what is kept in the order of [`Optimizer::slots`], and the rates,
    /// the progress and the factor of the gradients.
    pub(super) fn record(
        &self,
        plan: &mut PlanBuilder,
        groups: &Groups,
        [g, w]: [&Tensor; 2],
        slots: &[&Tensor],
        [rates, progress, clip]: [&Tensor; 3],
    ) -> Result<(), GpuError> {
        match (self, slots) {
            (Optimizer::Adam(config) | Optimizer::AdamW(config), &[m, v]) => {
                adam::record(plan, config, groups, [g, w, m, v, rates, progress, clip])
            }
            (Optimizer::Sgd(config), &[velocity]) => {
                sgd::record(plan, config, groups, [g, w, velocity, rates, progress, clip])
            }
            _ => self.unreachable(slots.len()),
        }
    }

    /// Makes a step of one parameter by the plain loops.
    pub(super) fn step<T: Real>(&self, step: Step<T>, g: &[T], w: &mut [T], slots: &mut [&mut [T]]) {
        use crate::cpu::{adam, sgd};
        match (self, slots) {
            (Optimizer::Adam(config) | Optimizer::AdamW(config), [m, v]) => adam::adam_step(config, step, g, w, m, v),
            (Optimizer::Sgd(config), [velocity]) => sgd::sgd_step(config, step, g, w, velocity),
            (_, slots) => self.unreachable(slots.len()),
        }
    }

    /// Makes a step of a slice of a parameter by the native loops; `slots` has room for two.
    #[cfg(feature = "native")]
    pub(super) fn step_native(&self, step: Step<f32>, g: &[f32], w: &mut [f32], [first, second]: [&mut [f32]; 2]) {
        use crate::native::{adam, sgd};
        match self {
            Optimizer::Adam(config) | Optimizer::AdamW(config) => adam::adam_step(config, step, g, w, first, second),
            Optimizer::Sgd(config) => sgd::sgd_step(config, step, g, w, first),
        }
    }

    fn unreachable(&self, slots: usize) -> ! {
        unreachable!("`Optimizer::slots` names {slots} slots for {self:?}")
    }
}
