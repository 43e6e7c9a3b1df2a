//! What a training step does besides running the program of the model.

use super::{LossConfig, Mixing, Optimizer, Schedule, Shape};
use crate::cpu::batch_gather::{Augment, Mix};
use crate::cpu::real::Real;
use crate::cpu::step::Step;
use crate::model::Role;
use crate::ops::adam::AdamConfig;
use crate::ops::average::AverageConfig;
use bytemuck::{Pod, Zeroable};

/// How a model is trained on a batch: the same for every step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepConfig {
    /// How the parameters follow from the gradients.
    pub optimizer: Optimizer,
    /// How the learning rate changes from step to step.
    pub schedule: Schedule,
    /// The decay of weights, relative to the learning rate: each step takes `learning rate * weight_decay` of every weight away. Biases, scales and
    /// shifts do not decay.
    pub weight_decay: f64,
    /// The learning rates of other parameters than weights.
    pub factors: Factors,
    /// The largest norm of all gradients together; longer ones are shortened to it.
    pub clip_norm: Option<f64>,
    /// What the loss compares the probabilities with.
    pub loss: LossConfig,
    /// The moving average of the parameters, which is then what evaluates and what a user gets.
    pub average: Option<AverageConfig>,
    /// What everything follows from that a step draws.
    pub seed: u64,
    /// How each image is changed.
    pub augment: Augment,
    /// How images are mixed: each with the next one of its batch, and its target with that of the other, by [`Rates::share`].
    pub mixing: Mixing,
}

/// Factors of the learning rate by the role of a parameter; that of weights is 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Of biases.
    pub bias: f64,
    /// Of the scales of normalizations.
    pub scale: f64,
    /// Of the shifts of normalizations.
    pub shift: f64,
}

impl Default for Factors {
    fn default() -> Self {
        Factors { bias: 1.0, scale: 1.0, shift: 1.0 }
    }
}

impl Factors {
    /// The roles in the order of their groups on a GPU.
    pub(super) const ROLES: [Role; 4] = [Role::Weight, Role::Bias, Role::Scale, Role::Shift];

    /// Returns the factor for parameters of a role.
    pub fn of(&self, role: Role) -> f64 {
        match role {
            Role::Bias => self.bias,
            Role::Scale => self.scale,
            Role::Shift => self.shift,
            Role::Weight | Role::Mean | Role::Variance => 1.0,
        }
    }
}

/// Training with this optimizer and nothing else.
impl From<Optimizer> for StepConfig {
    fn from(optimizer: Optimizer) -> Self {
        StepConfig {
            optimizer,
            schedule: Schedule::default(),
            weight_decay: 0.0,
            factors: Factors::default(),
            clip_norm: None,
            loss: LossConfig::default(),
            average: None,
            seed: 0,
            augment: Augment::default(),
            mixing: Mixing::default(),
        }
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
    /// The factor of the update: [`Optimizer::step_size`] times [`Schedule::share`].
    pub size: f32,
    /// The part of each weight that decays: the learning rate of this step times that of [`StepConfig::weight_decay`].
    pub decay: f32,
    /// The part of the way that the average of the parameters moves towards them; at 0 the step leaves it as it is.
    pub average: f32,
    /// The share of its own label in the target of an image that is mixed with another one.
    pub share: f32,
}

impl StepConfig {
    /// Returns the numbers of a step, counted from 1, of a training of so many steps.
    ///
    /// All is computed in double precision, and rounded to single once.
    pub fn rates(&self, step: u64, steps: u64) -> Rates {
        let share = self.schedule.share(step, steps);
        Rates {
            size: (self.optimizer.step_size(step) * share) as f32,
            decay: (self.optimizer.learning_rate() * share * self.weight_decay) as f32,
            average: self.average.map_or(0.0, |average| average.rate(step, steps) as f32),
            share: 1.0,
        }
    }

    /// Returns the numbers of a step on a parameter of this role; `clip` is the factor of the gradients.
    pub(super) fn on<T: Real>(&self, role: Role, rates: Rates, clip: T) -> Step<T> {
        let number = |value: f32| T::from_f64(f64::from(value));
        let size = number(rates.size) * T::from_f64(self.factors.of(role));
        Step { size, decay: if role == Role::Weight { number(rates.decay) } else { T::ZERO }, clip }
    }

    /// Returns the name of the first setting that makes steps depend on the number of all steps, if there is one: such a training cannot be
    /// given another number of epochs once it has begun.
    pub fn needs_end(&self) -> Option<&'static str> {
        match (self.schedule, self.average) {
            (schedule, _) if schedule.shape != Shape::Constant => Some("schedule"),
            (schedule, _) if schedule.needs_end() => Some("warmup"),
            (_, Some(AverageConfig::Lookahead { .. })) => Some("average"),
            _ => None,
        }
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
    pub fn changes_images(&self) -> bool {
        self.augment != Augment::default() || !self.mixing.is_none()
    }
}
