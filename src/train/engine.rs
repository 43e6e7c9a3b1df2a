//! The seam between the trainer and what computes: an epoch, an evaluation, predictions, parameters out.

use crate::data::{PIXELS, Split};
use crate::gpu::GpuError;
use crate::model::{ModelError, N_CLASSES};
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
    /// A state to restore is that of another model or optimizer.
    #[error("the state does not fit: {reason}")]
    State {
        /// What does not fit, with names and numbers.
        reason: String,
    },
    /// The engine was created without a training set.
    #[error("the engine was created for evaluation only; create one with a training set")]
    NoTraining,
    /// There is no memory for a tensor.
    #[error("no memory for a tensor of {bytes} bytes; use a smaller batch size")]
    Memory {
        /// Its size.
        bytes: usize,
    },
    /// The threads of the native engine could not be started.
    #[error("could not start {threads} thread{}: {reason}; use fewer threads", if *threads == 1 { "" } else { "s" })]
    Threads {
        /// How many.
        threads: usize,
        /// What the system reports.
        reason: String,
    },
    /// The parameters are too many for the adapter, at any batch size.
    #[error(
        "the parameters of the model need {bytes} bytes in one buffer, and `{adapter}` allows {allowed}; make its layers smaller"
    )]
    Parameters {
        /// What they need.
        bytes: u64,
        /// What one buffer may have.
        allowed: u64,
        /// The adapter.
        adapter: String,
    },
    /// A batch would keep the adapter busy for so long that its driver takes it for hung.
    #[error(
        "at batch size {batch_size} a dispatch would take `{adapter}` more than a second, and drivers reset a device that is busy for about two; \
         the largest batch that stays below is {largest}"
    )]
    Slow {
        /// The batch size asked for.
        batch_size: usize,
        /// The largest that takes no longer than allowed.
        largest: usize,
        /// The adapter.
        adapter: String,
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
    /// Names of what it keeps for each parameter from step to step.
    pub fn slots(&self) -> &'static [&'static str] {
        match self {
            Optimizer::Adam(_) => &["m", "v"],
            Optimizer::Sgd(_) => &["velocity"],
        }
    }

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
    /// What was done of it already: training goes on with the batch after, and adds to these sums.
    pub done: Totals,
}

/// All that training changes in an engine. Training that goes on from it gives the same bits as training that never stopped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// In the order of [`crate::model::Model::parameters`].
    pub parameters: Vec<Vec<f32>>,
    /// What the optimizer keeps for each parameter: one list a name of [`Optimizer::slots`].
    pub slots: Vec<Vec<Vec<f32>>>,
}

/// Sums over the samples seen so far in an epoch or an evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// The first tensor in which training met a value that is no finite number, and what wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The step of the epoch, counted from 1.
    pub step: usize,
    /// The tensor.
    pub tensor: String,
    /// The kernel, or the operation of the plain loops, that wrote it.
    pub operation: String,
    /// The first element that is not finite.
    pub index: usize,
    /// How many elements are not finite.
    pub count: usize,
}

impl State {
    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        self.parameters.iter().chain(self.slots.iter().flatten()).flatten().all(|value| value.is_finite())
    }

    /// Sees whether every tensor has the length that the model and the optimizer need.
    ///
    /// # Errors
    /// One has not.
    pub fn check(&self, lengths: &[usize], slots: &[&str]) -> Result<(), EngineError> {
        let fail = |reason| Err(EngineError::State { reason });
        if self.slots.len() != slots.len() {
            return fail(format!("{} kinds of optimizer state, needed are {}", self.slots.len(), slots.join(", ")));
        }
        let kinds = std::iter::once(("parameters", &self.parameters)).chain(slots.iter().copied().zip(&self.slots));
        for (kind, tensors) in kinds {
            let found: Vec<usize> = tensors.iter().map(Vec::len).collect();
            if found != lengths {
                return fail(format!("{kind} of lengths {found:?}, needed are {lengths:?}"));
            }
        }
        Ok(())
    }
}

/// Sees whether a split has a label for each image, and each label a class.
///
/// # Errors
/// It has not.
pub(super) fn check_split(split: &Split) -> Result<(), EngineError> {
    let samples = split.len();
    if split.images.len() != samples * PIXELS {
        let reason = format!("{} bytes of images for {samples} labels", split.images.len());
        return Err(EngineError::Samples { reason });
    }
    if let Some(i) = split.labels.iter().position(|&label| usize::from(label) >= N_CLASSES) {
        let reason = format!("sample {i} has the label {}, above {}", split.labels[i], N_CLASSES - 1);
        return Err(EngineError::Samples { reason });
    }
    Ok(())
}

/// Sees whether an order names only samples that are there.
///
/// # Errors
/// It names another.
pub(super) fn check_order(order: &[u32], samples: usize) -> Result<(), EngineError> {
    match order.iter().find(|&&index| index as usize >= samples) {
        Some(index) => {
            Err(EngineError::Samples { reason: format!("the order names sample {index}, and there are {samples}") })
        }
        None => Ok(()),
    }
}

/// Called several times a second with what was reached; `Break` ends the epoch after the work in flight.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Totals) -> ControlFlow<()>;

/// Something that trains and evaluates one model: the GPU, the processor, or the plain loops.
pub trait Engine: std::fmt::Debug {
    /// Trains on every sample of `epoch.order` once, from the batch after those of `epoch.done` on. Returns the sums over the epoch,
    /// those of `epoch.done` among them.
    ///
    /// # Errors
    /// The device failed.
    fn train_epoch(&mut self, epoch: &Epoch, on_progress: OnProgress<'_>) -> Result<Totals, EngineError>;

    /// Loss and accuracy on a split, without training.
    ///
    /// # Errors
    /// The device failed.
    fn evaluate(&mut self, split: &Split, on_progress: OnProgress<'_>) -> Result<Totals, EngineError>;

    /// Returns the probabilities `[n, 10]` of `n` images of 784 bytes each.
    ///
    /// Calls `on_progress` several times per second with the number of images done so far, the last time with all of them. On
    /// `Break` it returns the probabilities of those images only.
    ///
    /// # Errors
    /// The device failed.
    fn predict(
        &mut self,
        images: &[u8],
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<f32>, EngineError>;

    /// The parameters in the order of [`crate::model::Model::parameters`].
    ///
    /// # Errors
    /// The device failed.
    fn parameters(&mut self) -> Result<Vec<Vec<f32>>, EngineError>;

    /// All that training changes, so that it can go on from there; the optimizer's part is empty for a model that is only
    /// evaluated.
    ///
    /// # Errors
    /// The device failed.
    fn state(&mut self) -> Result<State, EngineError>;

    /// Puts back what [`Engine::state`] gave, here or in another engine of the same model and optimizer.
    ///
    /// # Errors
    /// The state does not fit, or the device failed.
    fn restore(&mut self, state: &State) -> Result<(), EngineError>;

    /// Trains `epoch` again, up to and with its batch `last` (counted from 1), and looks at every tensor that a step writes: finds
    /// the first that is not finite. None where all of them are.
    ///
    /// # Errors
    /// The device failed.
    fn find_non_finite(&mut self, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError>;

    /// The gradients of the last training step in the order of the parameters; none before the first.
    ///
    /// # Errors
    /// The device failed.
    fn last_gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError>;
}
