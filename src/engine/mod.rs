//! The engines, and the interface through which the trainer drives them: training, evaluation, prediction, parameters.

mod gpu;
mod kernel_times;
mod loss;
mod mixing;
#[cfg(feature = "native")]
mod native;
mod operations;
mod optimizer;
mod reference;
mod schedule;
mod step;

#[cfg(feature = "disk")]
pub use gpu::autotune;
pub use gpu::{Batches, GpuEngine, TileChoices};
pub use kernel_times::{KernelTime, KernelTimes};
pub use loss::{ClassWeights, LossConfig};
pub use mixing::Mixing;
#[cfg(feature = "native")]
pub use native::NativeEngine;
pub use optimizer::Optimizer;
pub use reference::{Batch, Pass, ReferenceEngine};
pub use schedule::{Schedule, Shape};
pub use step::{Factors, Rates, StepConfig};

use crate::cpu::batch_gather::{Augmented, Mix, batch_gather_augmented};
use crate::cpu::philox::Random;
use crate::data::Split;
use crate::gpu::GpuError;
use crate::lower::LowerError;
use crate::model::{Model, ModelError, Parameter};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::pin::Pin;
use thiserror::Error;

/// Errors of the engines.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model cannot be lowered for the batch size.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The images, the labels or their order are invalid: the kernels index by them unchecked.
    #[error("the samples cannot be used: {0}")]
    Samples(String),
    /// The state to restore belongs to another model or optimizer.
    #[error("the state does not fit: {0}")]
    State(String),
    /// The weights of the classes are not one for each.
    #[error("there {} for the classes in the loss, but the model has {classes} classes", if *given == 1 { "is 1 weight".into() } else { format!("are {given} weights") })]
    ClassWeights {
        /// The number of weights.
        given: usize,
        /// The number of classes.
        classes: usize,
    },
    /// The engine was created without a training set.
    #[error("the engine was created for evaluation only; create one with a training set")]
    NoTraining,
    /// There is not enough memory for a tensor of that many bytes.
    #[error("not enough memory for a tensor of {0} bytes; use a smaller batch size")]
    Memory(usize),
    /// The threads of the native engine could not be started.
    #[error("could not start {threads} thread{}: {reason}; use fewer threads", if *threads == 1 { "" } else { "s" })]
    Threads {
        /// How many threads.
        threads: usize,
        /// The error of the operating system.
        reason: String,
    },
    /// The model has too many parameters for the adapter, at any batch size.
    #[error(
        "the parameters of the model need {bytes} bytes in one buffer, but `{adapter}` allows {allowed}; make its layers smaller"
    )]
    Parameters {
        /// The bytes that they need.
        bytes: u64,
        /// The bytes that one buffer may have.
        allowed: u64,
        /// The adapter.
        adapter: String,
    },
    /// A batch does not fit the adapter.
    #[error("batch size {batch_size} does not fit this adapter; the largest that does is {largest}")]
    TooLarge {
        /// The requested batch size.
        batch_size: usize,
        /// The largest batch size that fits.
        largest: usize,
        /// What does not fit.
        source: GpuError,
    },
    /// A batch would keep the adapter busy for so long that its driver would consider it hung and reset it.
    #[error(
        "at batch size {batch_size}, a single dispatch would take more than a second on `{adapter}`, and drivers reset a device that is busy \
         for about two; use a batch size of at most {largest}"
    )]
    Slow {
        /// The requested batch size.
        batch_size: usize,
        /// The largest batch size within the limit.
        largest: usize,
        /// The adapter.
        adapter: String,
    },
}

/// One epoch of training.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    /// Its number, counted from 1: draws follow from it.
    pub number: u64,
    /// The order of the samples.
    pub order: Vec<u32>,
    /// The numbers of each batch.
    pub rates: Vec<Rates>,
    /// How the images of each batch are mixed; empty if none are.
    pub mixes: Vec<Mix>,
    /// The part that is already done: training resumes with the next batch and adds to these sums.
    pub done: Totals,
}

impl Epoch {
    /// What the draws of a batch follow from, counted from 0.
    fn random(&self, config: &StepConfig, batch: usize) -> Random {
        Random { seed: config.seed, epoch: self.number as u32, step: batch as u32 }
    }

    /// Returns the images of a batch, counted from 0, as training sees them: the values, from 0 to 1, of the samples of `split` in their order.
    /// `shape` is that of an image, `[H, W, C]`.
    pub fn images(
        &self,
        config: &StepConfig,
        split: &Split,
        batch_size: usize,
        index: usize,
        shape: [usize; 3],
    ) -> Vec<f64> {
        let first = index * batch_size;
        let n = batch_size.min(self.order.len().saturating_sub(first));
        let (mut x, mut labels) = (vec![0.0; n * shape.iter().product::<usize>()], vec![0; n]);
        let (augment, mix, random) = (config.augment, self.mixes.get(index).copied(), self.random(config, index));
        let how = Augmented { shape, augment, mix, random };
        batch_gather_augmented(&how, &split.images, &split.labels, &self.order, first, &mut x, &mut labels);
        x
    }

    /// How a batch is made of images of the shape `[H, W, C]`, if it is more than these.
    fn augmented(&self, config: &StepConfig, batch: usize, shape: [usize; 3]) -> Option<Augmented> {
        let (augment, mix) = (config.augment, self.mixes.get(batch).copied());
        config.changes_images().then(|| Augmented { shape, augment, mix, random: self.random(config, batch) })
    }
}

/// Everything that training changes in an engine. Training resumed from it gives the same bits as uninterrupted training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The parameters in the order of [`crate::model::Model::parameters`].
    pub parameters: Vec<Vec<f32>>,
    /// What the optimizer keeps for each trained parameter: one list per name of [`Optimizer::slots`].
    pub slots: Vec<Vec<Vec<f32>>>,
    /// The moving average of each parameter; empty if training keeps none.
    pub averages: Vec<Vec<f32>>,
}

/// Sums over the samples seen so far in an epoch or an evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Sum of the losses.
    pub loss: f64,
    /// Number of correct predictions.
    pub correct: u64,
    /// Number of samples.
    pub samples: u64,
    /// Number of batches.
    pub batches: usize,
}

impl Totals {
    /// The mean loss.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.samples as f64
    }

    /// The accuracy, 0 to 1.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }

    /// Adds a batch of `samples` samples.
    pub(crate) fn add(&mut self, loss: f64, correct: u64, samples: usize) {
        self.loss += loss;
        self.correct += correct;
        self.samples += samples as u64;
        self.batches += 1;
    }
}

/// The first tensor in which a value was not finite, and what wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The step within the epoch, counted from 1.
    pub step: usize,
    /// The name of the tensor.
    pub tensor: String,
    /// The kernel that wrote it, or the operation on the CPU.
    pub operation: String,
    /// The index of the first element that is not finite.
    pub index: usize,
    /// The number of elements that are not finite.
    pub count: usize,
}

impl State {
    /// Whether every value is finite.
    pub fn is_finite(&self) -> bool {
        let tensors = self.parameters.iter().chain(self.slots.iter().flatten()).chain(&self.averages);
        tensors.flatten().all(|value| value.is_finite())
    }

    /// The parameters that evaluate, and that a user gets: the averages, if there are any.
    pub fn result(&self) -> &[Vec<f32>] {
        if self.averages.is_empty() { &self.parameters } else { &self.averages }
    }

    /// Checks that every tensor has the length that the model's parameters and the optimizer need, and that there are averages if training
    /// keeps them.
    ///
    /// # Errors
    /// A tensor has another length, or there is one too many or too few.
    pub fn check(&self, parameters: &[Parameter], slots: &[&str], has_averages: bool) -> Result<(), EngineError> {
        let fail = |reason| Err(EngineError::State(reason));
        if self.slots.len() != slots.len() {
            return fail(format!("{} kinds of optimizer state, expected: {}", self.slots.len(), slots.join(", ")));
        }
        let lengths: Vec<usize> = parameters.iter().map(Parameter::len).collect();
        let trained = only_trained(parameters, &lengths);
        let kinds = slots.iter().copied().zip(&self.slots).map(|(kind, tensors)| (kind, tensors, &trained[..]));
        let averages = if has_averages { &lengths[..] } else { &[] };
        let all = [("parameters", &self.parameters, &lengths[..]), ("averages", &self.averages, averages)];
        for (kind, tensors, lengths) in all.into_iter().chain(kinds) {
            let found: Vec<usize> = tensors.iter().map(Vec::len).collect();
            if found != lengths {
                return fail(format!("{kind} have the lengths {found:?}, expected: {lengths:?}"));
            }
        }
        Ok(())
    }
}

/// Returns what belongs to the trained ones among the parameters.
fn only_trained<T: Clone>(parameters: &[Parameter], values: &[T]) -> Vec<T> {
    let trained = parameters.iter().zip(values).filter(|(parameter, _)| parameter.is_trained());
    trained.map(|(_, value)| value.clone()).collect()
}

/// Returns one list for each parameter from those of the trained ones: empty for the others.
fn for_all(parameters: &[Parameter], trained: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut trained = trained.iter();
    let mut next = || trained.next().cloned().unwrap_or_default();
    parameters.iter().map(|parameter| if parameter.is_trained() { next() } else { Vec::new() }).collect()
}

/// Returns the number of bytes of an image.
fn pixels(model: &Model) -> usize {
    model.input.iter().product()
}

/// Returns blank images, to measure a model on.
fn blank(model: &Model, samples: usize) -> Split {
    Split { images: vec![0; samples * pixels(model)], labels: vec![0; samples] }
}

/// Checks that a split has a label for each image, that each label is a class, and that the images have the size that the model reads.
fn check_split(split: &Split, model: &Model) -> Result<(), EngineError> {
    let samples = split.len();
    if split.images.len() != samples * pixels(model) {
        return Err(EngineError::Samples(format!("{} bytes of images for {samples} labels", split.images.len())));
    }
    let classes = model.classes();
    if let Some(i) = split.labels.iter().position(|&label| usize::from(label) >= classes) {
        let reason = format!("sample {i} has the label {}, but the largest is {}", split.labels[i], classes - 1);
        return Err(EngineError::Samples(reason));
    }
    Ok(())
}

/// Checks that an order names only existing samples.
fn check_order(order: &[u32], samples: usize) -> Result<(), EngineError> {
    match order.iter().find(|&&index| index as usize >= samples) {
        Some(index) => {
            Err(EngineError::Samples(format!("the order names sample {index}, but there are only {samples}")))
        }
        None => Ok(()),
    }
}

/// Called several times per second with the sums so far; `Break` stops after the work in flight.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Totals) -> ControlFlow<()>;

/// Called several times per second with the number of images done so far; `Break` stops after those.
pub type OnImages<'a> = &'a mut dyn FnMut(usize) -> ControlFlow<()>;

/// What a model says about images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inference {
    /// Loss and accuracy of the images that were done, by their labels.
    pub totals: Totals,
    /// The probabilities of these images, `[n, classes]`.
    pub probabilities: Vec<f32>,
}

/// What an engine will answer. Awaiting it does the work; outside of a browser, that blocks until the work is done. One that is dropped before
/// it has answered leaves the work half done: the engine is of no further use.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + 'a>>;

/// An engine that trains and evaluates one model: on the GPU, on the CPU, or by the plain loops.
///
/// What may have to wait for a device is [`Pending`]. [`Engine::advance`] does many steps at a time and waits once.
pub trait Engine: std::fmt::Debug {
    /// Starts an epoch: from now on, [`Engine::advance`] trains on the samples of `epoch.order`, starting after the batches of `epoch.done`.
    ///
    /// # Errors
    /// The engine was not created for training, the order does not fit the training set, or the device failed.
    fn begin_epoch<'a>(&'a mut self, epoch: &'a Epoch) -> Pending<'a, ()>;

    /// Trains on the next batches of the epoch for a fraction of a second, and returns the sums over the epoch so far. Does nothing if the
    /// epoch is over: if the sums are over all of its samples.
    ///
    /// # Errors
    /// The device failed.
    fn advance(&mut self) -> Pending<'_, Totals>;

    /// Waits for the work that is in flight, starts no more, and returns the sums over the epoch. Until then, parameters and state must not
    /// be read or written.
    ///
    /// # Errors
    /// The device failed.
    fn settle(&mut self) -> Pending<'_, Totals>;

    /// Trains once on every sample of `epoch.order`, starting after the batches of `epoch.done`. Returns the sums over the epoch,
    /// including those of `epoch.done`.
    ///
    /// # Errors
    /// The engine was not created for training, the order does not fit the training set, or the device failed.
    fn train_epoch<'a>(&'a mut self, epoch: &'a Epoch, on_progress: OnProgress<'a>) -> Pending<'a, Totals> {
        Box::pin(async move {
            self.begin_epoch(epoch).await?;
            let mut totals = epoch.done;
            while (totals.samples as usize) < epoch.order.len() {
                totals = self.advance().await?;
                if on_progress(&totals).is_break() {
                    break;
                }
            }
            self.settle().await
        })
    }

    /// Computes loss, accuracy and probabilities of a split in one pass, without training.
    ///
    /// # Errors
    /// The split is invalid, or the device failed.
    fn infer<'a>(&'a mut self, split: &'a Split, on_progress: OnProgress<'a>) -> Pending<'a, Inference>;

    /// Computes loss and accuracy of a split, without training.
    ///
    /// # Errors
    /// The split is invalid, or the device failed.
    fn evaluate<'a>(&'a mut self, split: &'a Split, on_progress: OnProgress<'a>) -> Pending<'a, Totals> {
        Box::pin(async move { Ok(self.infer(split, on_progress).await?.totals) })
    }

    /// Returns the probabilities `[n, classes]` of `n` images, one byte for each value.
    ///
    /// The last call of `on_progress` is with all of them; on `Break` it returns the probabilities of those done, with those in flight.
    ///
    /// # Errors
    /// The images have another size than the model reads, or the device failed.
    fn predict<'a>(&'a mut self, images: &'a [u8], on_progress: OnImages<'a>) -> Pending<'a, Vec<f32>> {
        Box::pin(async move {
            // Nobody reads the loss that follows from these labels.
            let labels = vec![0; images.len() / pixels(self.model())];
            let split = Split { images: images.to_vec(), labels };
            Ok(self.infer(&split, &mut |totals| on_progress(totals.samples as usize)).await?.probabilities)
        })
    }

    /// The model.
    fn model(&self) -> &Model;

    /// Returns the parameters in the order of [`crate::model::Model::parameters`]: their averages, if training keeps them.
    ///
    /// # Errors
    /// The device failed.
    fn parameters(&mut self) -> Pending<'_, Vec<Vec<f32>>>;

    /// Returns everything that training changes, so that it can be resumed; the optimizer's part is empty if the engine was not
    /// created for training.
    ///
    /// # Errors
    /// The device failed.
    fn state(&mut self) -> Pending<'_, State>;

    /// Restores what [`Engine::state`] returned, from this or another engine of the same model and optimizer.
    ///
    /// # Errors
    /// The state does not fit, or the device failed.
    fn restore(&mut self, state: &State) -> Result<(), EngineError>;

    /// Repeats `epoch` up to and including its batch `last` (counted from 1), and searches every tensor that a step writes for the first
    /// value that is not finite. Returns `None` if all are finite.
    ///
    /// # Errors
    /// The engine was not created for training, the order does not fit the training set, or the device failed.
    fn find_non_finite<'a>(&'a mut self, epoch: &'a Epoch, last: usize) -> Pending<'a, Option<NonFinite>>;

    /// Returns the gradients of the last training step in the order of the parameters; empty before the first step.
    ///
    /// # Errors
    /// The device failed.
    fn last_gradients(&mut self) -> Pending<'_, Vec<Vec<f32>>>;
}
