//! What the training loss compares the probabilities with.

use super::{EngineError, StepConfig};
use crate::cpu::softmax_xent::SoftTargets;
use crate::data::Split;

/// What the training loss compares the probabilities of an image with; by default its label alone. Evaluation always does that.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossConfig {
    /// The part of each target that all classes share, at least 0 and less than 1: `(1 - s) * [class = label] + s / classes`, as in Keras
    /// and PyTorch.
    pub label_smoothing: f64,
    /// How much the images of each class count.
    pub class_weights: ClassWeights,
}

/// How much the images of each class count in the training loss: that of an image is multiplied by the weight of its class, and the mean is
/// still over the number of images, as with Keras's `class_weight`.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ClassWeights {
    /// All alike.
    #[default]
    Equal,
    /// All classes alike, however many images they have: images / (classes * images of the class), over the training images.
    Balanced,
    /// One number per class.
    Given(Vec<f64>),
}

impl ClassWeights {
    /// Returns the weight of each class in single precision; that of a class without images has no effect.
    fn resolve(&self, train: &Split, classes: usize) -> Result<Vec<f32>, EngineError> {
        match self {
            ClassWeights::Equal => Ok(vec![1.0; classes]),
            ClassWeights::Balanced => {
                let mut counts = vec![0u64; classes];
                train.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
                let weight = |&count: &u64| train.len() as f64 / (classes as f64 * count.max(1) as f64);
                Ok(counts.iter().map(|count| weight(count) as f32).collect())
            }
            ClassWeights::Given(weights) if weights.len() != classes => {
                Err(EngineError::ClassWeights { given: weights.len(), classes })
            }
            ClassWeights::Given(weights) => Ok(weights.iter().map(|&weight| weight as f32).collect()),
        }
    }
}

/// A loss with targets other than the labels alone, for a training set.
#[derive(Clone, Debug)]
pub(super) struct SoftLoss {
    pub(super) smoothing: f64,
    /// The weight of each class.
    pub(super) class_weights: Vec<f32>,
    pub(super) mixes: bool,
}

impl SoftLoss {
    /// The loss of a training; `None` if the labels alone are the targets.
    pub(super) fn new(config: &StepConfig, train: &Split, classes: usize) -> Result<Option<Self>, EngineError> {
        if config.loss == LossConfig::default() && config.mixing.is_none() {
            return Ok(None);
        }
        let class_weights = config.loss.class_weights.resolve(train, classes)?;
        Ok(Some(SoftLoss { smoothing: config.loss.label_smoothing, class_weights, mixes: !config.mixing.is_none() }))
    }

    /// The targets of rows, given the labels of the rows that they are mixed with, and the share of their own.
    pub(super) fn targets<'a>(&'a self, partners: &'a [u32], share: f32) -> SoftTargets<'a> {
        let SoftLoss { smoothing, class_weights, mixes } = self;
        let share = if *mixes { f64::from(share) } else { 1.0 };
        SoftTargets { smoothing: *smoothing, class_weights, partners, share }
    }
}

/// Returns the row that row `n` is mixed with: the next one of the `n_valid` rows that count.
pub(super) fn partner(n: usize, n_valid: usize) -> usize {
    (n + 1) % n_valid
}
