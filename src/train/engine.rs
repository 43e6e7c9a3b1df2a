//! The seam between the trainer and what computes: an epoch, an evaluation, predictions, parameters out.

use crate::data::Split;
use crate::gpu::GpuError;
use crate::model::ModelError;
use crate::ops::adam::AdamConfig;
use crate::ops::sgd::SgdConfig;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use thiserror::Error;

/// What went wrong while computing.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Images, labels or their order are not what the kernels may index by.
    #[error("the samples cannot be used: {reason}")]
    Samples {
        /// What is wrong.
        reason: String,
    },
    /// A layer does not fit the batch size.
    #[error("layer `{layer}` at batch size {batch_size}: {reason}")]
    Batch {
        /// The layer.
        layer: String,
        /// The batch size.
        batch_size: usize,
        /// What does not fit.
        reason: String,
    },
}

/// How parameters follow their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam in Keras's form.
    Adam(AdamConfig),
    /// Stochastic gradient descent with momentum.
    Sgd(SgdConfig),
}

impl Optimizer {
    /// The factor of the update at a step, counted from 1: computed in double precision, used in single.
    pub fn step_size(&self, step: u64) -> f32 {
        match self {
            Optimizer::Adam(config) => config.step_size(step) as f32,
            Optimizer::Sgd(config) => config.learning_rate as f32,
        }
    }
}

/// What one epoch needs from the trainer.
#[derive(Clone, Debug)]
pub struct Epoch {
    /// The order of the samples.
    pub order: Vec<u32>,
    /// [`Optimizer::step_size`] of each batch.
    pub step_sizes: Vec<f32>,
}

/// Sums over the samples seen so far in an epoch or an evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Sum of the losses.
    pub loss: f64,
    /// Right answers.
    pub correct: u64,
    /// Samples.
    pub samples: u64,
    /// Batches.
    pub batches: usize,
}

impl Totals {
    /// Mean loss.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.samples as f64
    }

    /// Share of right answers, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }

    /// Adds a batch of `samples`.
    pub(crate) fn add(&mut self, loss: f64, correct: u64, samples: usize) {
        self.loss += loss;
        self.correct += correct;
        self.samples += samples as u64;
        self.batches += 1;
    }
}

/// Called several times a second with what was reached; `Break` ends the epoch after the work in flight.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Totals) -> ControlFlow<()>;

/// Something that trains and evaluates one model: the GPU, or the plain loops.
pub trait Engine: std::fmt::Debug {
    /// Trains on every sample of `epoch.order` once.
    ///
    /// # Errors
    /// The device failed.
    fn train_epoch(&mut self, epoch: &Epoch, on_progress: OnProgress<'_>) -> Result<Totals, EngineError>;

    /// Loss and accuracy on a split, without training.
    ///
    /// # Errors
    /// The device failed.
    fn evaluate(&mut self, split: &Split, on_progress: OnProgress<'_>) -> Result<Totals, EngineError>;

    /// Probabilities `[n, 10]` for `n` pictures of 784 bytes each.
    ///
    /// # Errors
    /// The device failed.
    fn predict(&mut self, images: &[u8]) -> Result<Vec<f32>, EngineError>;

    /// The parameters in the order of [`crate::model::Model::parameters`].
    ///
    /// # Errors
    /// The device failed.
    fn parameters(&mut self) -> Result<Vec<Vec<f32>>, EngineError>;

    /// The gradients of the last training step in the order of the parameters; none before the first.
    ///
    /// # Errors
    /// The device failed.
    fn last_gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError>;
}
