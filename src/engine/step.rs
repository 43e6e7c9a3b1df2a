//! What a training step does besides running the program of the model.

use super::{Mixing, Optimizer};
use crate::cpu::batch_gather::{Augment, Mix};
use crate::ops::adam::AdamConfig;
use bytemuck::{Pod, Zeroable};

/// How a model is trained on a batch: the same for every step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepConfig {
    /// How the parameters follow from the gradients.
    pub optimizer: Optimizer,
    /// What everything follows from that a step draws.
    pub seed: u64,
    /// How each image is changed.
    pub augment: Augment,
    /// How images are mixed.
    pub mixing: Mixing,
}

/// Without anything else.
impl From<Optimizer> for StepConfig {
    fn from(optimizer: Optimizer) -> Self {
        StepConfig { optimizer, seed: 0, augment: Augment::default(), mixing: Mixing::default() }
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

    /// Draws how the images, of the shape `[H, W, C]`, of each step from `first` on are mixed, and notes in its numbers the share that they
    /// keep. Returns nothing if none are mixed.
    pub fn mixes(&self, first: u64, rates: &mut [Rates], image: [usize; 3]) -> Vec<Mix> {
        let drawn = (first..).map_while(|step| self.mixing.draw(self.seed, step, image));
        let both = rates.iter_mut().zip(drawn);
        let noted = both.map(|(rates, mix)| {
            rates.share = mix.share(image);
            mix
        });
        noted.collect()
    }

    /// Whether batches are more than the images of the data set as they are.
    pub(super) fn changes_images(&self) -> bool {
        self.augment != Augment::default() || !self.mixing.is_none()
    }
}
