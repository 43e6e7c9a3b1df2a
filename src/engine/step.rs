//! What a training step does besides running the program of the model.

use super::Optimizer;
use crate::ops::adam::AdamConfig;
use bytemuck::{Pod, Zeroable};

/// How a model is trained on a batch: the same for every step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepConfig {
    /// How the parameters follow from the gradients.
    pub optimizer: Optimizer,
}

impl From<Optimizer> for StepConfig {
    fn from(optimizer: Optimizer) -> Self {
        StepConfig { optimizer }
    }
}

impl From<&Optimizer> for StepConfig {
    fn from(optimizer: &Optimizer) -> Self {
        StepConfig::from(*optimizer)
    }
}

/// Adam with Keras's defaults.
impl Default for StepConfig {
    fn default() -> Self {
        StepConfig::from(Optimizer::Adam(AdamConfig::default()))
    }
}

impl From<&StepConfig> for StepConfig {
    fn from(config: &StepConfig) -> Self {
        config.clone()
    }
}

/// The numbers that change from step to step, computed in advance for every step of an epoch; a GPU reads them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Rates {
    /// The factor of the update: [`Optimizer::step_size`] times that of the schedule.
    pub size: f32,
    /// The part of each weight that decays.
    pub decay: f32,
    /// The part of the way that the average of the parameters moves towards them.
    pub average: f32,
    /// The share of its own label in the target of an image that is mixed with another one.
    pub share: f32,
}

impl StepConfig {
    /// Returns the numbers of a step, counted from 1, of a training of so many steps.
    pub fn rates(&self, step: u64, _steps: u64) -> Rates {
        Rates { size: self.optimizer.step_size(step), ..Rates::default() }
    }
}
