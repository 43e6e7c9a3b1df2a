//! Training and evaluation by the plain loops of [`crate::cpu`]: `--device reference`, for correctness, not for speed.
//!
//! Generic over the precision: the GPU is compared with it in single precision, and in double precision it is the ground truth.

use super::loss::{SoftLoss, partner};
use super::operations::{Answers, Operands, compute, found, found_in};
use super::{
    Engine, EngineError, Epoch, Inference, NonFinite, OnProgress, Pending, Rates, State, StepConfig, Totals,
    check_order, check_split, for_all, only_trained, pixels,
};
use crate::cpu::philox::Random;
use crate::cpu::real::Real;
use crate::cpu::softmax_xent::{SoftTargets, softmax_xent_totals};
use crate::cpu::{average, batch_gather, clip};
use crate::data::Split;
use crate::lower::{Buffer, Id, Mode, Place, Program, Tensor, lower};
use crate::model::{Model, Parameter};

/// Multiply-adds of the images that are predicted between two reports of progress: a small fraction of a second.
const INFERRED_WORK: usize = 100_000_000;

/// A model computed by the plain loops.
#[derive(Debug)]
pub struct ReferenceEngine<T> {
    model: Model,
    described: Vec<Parameter>,
    parameters: Vec<Vec<T>>,
    train: Split,
    /// The epoch that is trained, and how much of it is done.
    epoch: Epoch,
    batch_size: usize,
    config: StepConfig,
    loss: Option<SoftLoss>,
    /// What the optimizer keeps for each parameter, in the order of [`Optimizer::slots`](super::Optimizer::slots); nothing for those that are not trained.
    slots: Vec<Vec<Vec<T>>>,
    /// The moving average of each parameter; empty if training keeps none.
    averages: Vec<Vec<T>>,
    /// The gradients of the last training step; empty before the first.
    gradients: Vec<Vec<T>>,
}

/// A batch: images, labels, and the number of rows that count.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// `[N, pixels]`.
    pub x: Vec<T>,
    /// `[N]`.
    pub labels: Vec<u32>,
    /// Number of rows that count; the others are beyond the end of the epoch.
    pub n_valid: usize,
    /// What draws follow from.
    pub random: Random,
}

/// The result of a program on a batch.
#[derive(Debug)]
pub struct Pass<T> {
    /// `[N, classes]`.
    pub logits: Vec<T>,
    /// `[N, classes]`.
    pub probabilities: Vec<T>,
    /// `[N]`.
    pub loss: Vec<T>,
    /// `[N]`.
    pub correct: Vec<u32>,
    /// The gradients of the parameters; empty for those that are not trained, and without training.
    pub gradients: Vec<Vec<T>>,
    /// The parameters afterwards: training moves the statistics.
    parameters: Vec<Vec<T>>,
    program: Program,
    /// The content of the program's buffers.
    buffers: Vec<Vec<T>>,
}

impl<T: Real> Pass<T> {
    /// Runs a program on a batch.
    ///
    /// This is the meaning of a program: the engines must agree with it.
    pub fn run(program: Program, parameters: &[Vec<T>], batch: &Batch<T>) -> Self {
        Self::run_on(program, parameters, batch, None)
    }

    /// The same, with `targets` for the training loss besides the labels.
    pub fn run_on(program: Program, parameters: &[Vec<T>], batch: &Batch<T>, targets: Option<SoftTargets<'_>>) -> Self {
        let n = program.batch;
        let len = |buffer: &Buffer| if buffer.by_row { n * buffer.len } else { buffer.len };
        let mut buffers: Vec<Vec<T>> = program.buffers.iter().map(|buffer| vec![T::ZERO; len(buffer)]).collect();
        let mut indices: Vec<Vec<u32>> = program.buffers.iter().map(|buffer| vec![0; len(buffer)]).collect();
        let mut parameters = parameters.to_vec();
        let mut gradients: Vec<Vec<T>> = vec![Vec::new(); parameters.len()];
        let classes = program.classes;
        let (mut probabilities, mut loss, mut correct) = (vec![T::ZERO; n * classes], vec![T::ZERO; n], vec![0; n]);
        for instruction in program.once.iter().chain(&program.instructions) {
            let numbers = |ids: &[Id]| -> Vec<&Tensor> {
                ids.iter().map(|id| program.tensor(*id)).filter(|tensor| !tensor.is_index).collect()
            };
            let (read, written) = (numbers(&instruction.reads), numbers(&instruction.writes));
            let reads = read.iter().map(|tensor| match tensor.place {
                Place::Images => batch.x.clone(),
                Place::Parameter(i) => parameters[i].clone(),
                Place::Gradient(i) => gradients[i].clone(),
                Place::Constant(value) => vec![T::from_f64(f64::from(value)); tensor.len()],
                Place::Buffer(i) => buffers[i].clone(),
            });
            let reads: Vec<Vec<T>> = reads.collect();
            let writes = written.iter().map(|tensor| match tensor.place {
                // Moved from where it is.
                Place::Parameter(i) => parameters[i].clone(),
                _ => vec![T::ZERO; tensor.len_for(n)],
            });
            let mut writes: Vec<Vec<T>> = writes.collect();
            let mut positions = instruction.reads.iter().chain(&instruction.writes).map(|id| program.tensor(*id));
            let argmax = match positions.find(|tensor| tensor.is_index).and_then(Tensor::buffer) {
                Some(i) => &mut indices[i][..],
                None => &mut [],
            };
            let answers = Answers {
                labels: &batch.labels,
                targets,
                n_valid: batch.n_valid,
                probabilities: &mut probabilities,
                loss: &mut loss,
                correct: &mut correct,
            };
            let x: Vec<&[T]> = reads.iter().map(|values| &values[..]).collect();
            let mut y: Vec<&mut [T]> = writes.iter_mut().map(|values| &mut values[..]).collect();
            let random = batch.random;
            compute(instruction.op, Operands { n, first_row: 0, random, x: &x, y: &mut y, argmax, answers });
            for (tensor, values) in written.iter().zip(writes) {
                match tensor.place {
                    Place::Parameter(i) => parameters[i] = values,
                    Place::Gradient(i) => gradients[i] = values,
                    Place::Buffer(i) => buffers[i] = values,
                    Place::Images | Place::Constant(_) => unreachable!("no instruction writes it"),
                }
            }
        }
        let mut pass =
            Pass { logits: Vec::new(), probabilities, loss, correct, gradients, parameters, program, buffers };
        pass.logits = pass.values(pass.program.logits()).map(<[T]>::to_vec).unwrap_or_default();
        pass
    }

    /// Adds loss and accuracy of the first `n_valid` rows to some sums.
    fn add_to(&self, totals: &mut Totals, n_valid: usize) {
        let (loss, correct) = softmax_xent_totals(n_valid, &self.loss, &self.correct);
        totals.add(loss.to_f64(), u64::from(correct), n_valid);
    }

    /// Returns the content of a tensor that an instruction wrote, if it is a tensor of numbers.
    fn values(&self, id: Id) -> Option<&[T]> {
        match *self.program.tensor(id) {
            Tensor { is_index: true, .. } => None,
            Tensor { place: Place::Buffer(i), .. } => Some(&self.buffers[i]),
            Tensor { place: Place::Gradient(i), .. } => Some(&self.gradients[i]),
            Tensor { place: Place::Parameter(i), .. } => Some(&self.parameters[i]),
            Tensor { place: Place::Images | Place::Constant(_), .. } => None,
        }
    }
}

impl<T: Real> ReferenceEngine<T> {
    /// Creates an engine from a model and its training set; an empty training set means evaluation only.
    ///
    /// # Errors
    /// The model cannot be built, or the samples cannot be used.
    pub fn new(
        model: &Model,
        parameters: &[Vec<f32>],
        train: &Split,
        batch_size: usize,
        config: impl Into<StepConfig>,
    ) -> Result<Self, EngineError> {
        let config = config.into();
        check_split(train, model)?;
        let parameters: Vec<Vec<T>> = from_single(parameters);
        let described = model.parameters()?;
        let kept = |(parameter, values): (&Parameter, &Vec<T>)| {
            if parameter.is_trained() { vec![T::ZERO; values.len()] } else { Vec::new() }
        };
        let loss = SoftLoss::new(&config, train, model.classes())?;
        let averages = if config.average.is_some() && !train.is_empty() { parameters.clone() } else { Vec::new() };
        let zeros: Vec<Vec<T>> = described.iter().zip(&parameters).map(kept).collect();
        Ok(ReferenceEngine {
            model: model.clone(),
            described,
            slots: vec![zeros; config.optimizer.slots().len()],
            averages,
            gradients: Vec::new(),
            parameters,
            train: train.clone(),
            epoch: Epoch::default(),
            batch_size,
            config,
            loss,
        })
    }

    /// Returns rows `first..first + n` of a split in the given order.
    pub fn batch(split: &Split, order: &[u32], first: usize, n: usize) -> Batch<T> {
        let pixels = split.images.len() / split.len().max(1);
        let (mut x, mut labels) = (vec![T::ZERO; n * pixels], vec![0; n]);
        batch_gather::batch_gather(pixels, &split.images, &split.labels, order, first, &mut x, &mut labels);
        Batch { x, labels, n_valid: n.min(order.len() - first), random: Random::default() }
    }

    /// Returns a batch of an epoch, counted from 0, as training sees it.
    fn training_batch(&self, epoch: &Epoch, index: usize) -> Batch<T> {
        let (Split { images, labels, .. }, first) = (&self.train, index * self.batch_size);
        let mut batch = Self::batch(&self.train, &epoch.order, first, self.batch_size);
        batch.random = epoch.random(&self.config, index);
        if let Some(how) = epoch.augmented(&self.config, index, self.model.input) {
            let (x, found) = (&mut batch.x, &mut batch.labels);
            batch_gather::batch_gather_augmented(&how, images, labels, &epoch.order, first, x, found);
        }
        batch
    }

    /// The parameters that evaluate: the averages, if training keeps them.
    fn result(&self) -> &[Vec<T>] {
        if self.averages.is_empty() { &self.parameters } else { &self.averages }
    }

    /// Computes predictions and loss, as in evaluation.
    ///
    /// # Errors
    /// A layer does not fit the batch size.
    pub fn forward(&self, batch: &Batch<T>) -> Result<Pass<T>, EngineError> {
        Ok(Pass::run(lower(&self.model, Mode::Infer, batch.labels.len(), None)?, self.result(), batch))
    }

    /// Computes predictions, loss, and the gradients of the mean loss with respect to every parameter, as a training step does whose images
    /// are not mixed.
    ///
    /// # Errors
    /// A layer does not fit the batch size.
    pub fn gradients(&self, batch: &Batch<T>) -> Result<Pass<T>, EngineError> {
        self.train_pass(batch, Rates { share: 1.0, ..Rates::default() })
    }

    /// The same, for a step with these numbers.
    fn train_pass(&self, batch: &Batch<T>, rates: Rates) -> Result<Pass<T>, EngineError> {
        let (labels, n) = (&batch.labels, batch.labels.len());
        let program = lower(&self.model, Mode::Train, n, None)?;
        let partners: Vec<u32> = (0..n).map(|i| labels[partner(i, batch.n_valid)]).collect();
        let targets = self.loss.as_ref().map(|loss| loss.targets(&partners, rates.share));
        Ok(Pass::run_on(program, &self.parameters, batch, targets))
    }

    /// Returns the output of every layer for one image, and the probabilities of the classes.
    ///
    /// # Errors
    /// The model cannot be built, or the image has another size.
    pub fn layer_outputs(
        model: &Model,
        parameters: &[Vec<f32>],
        image: &[u8],
    ) -> Result<(Vec<Vec<T>>, Vec<T>), EngineError> {
        let pixels = pixels(model);
        if image.len() != pixels {
            return Err(EngineError::Samples(format!("an image has {pixels} pixels, not {}", image.len())));
        }
        let batch = Self::batch(&Split { images: image.to_vec(), labels: vec![0] }, &[0], 0, 1);
        let pass = Pass::run(lower(model, Mode::Infer, 1, None)?, &from_single(parameters), &batch);
        // A reshaping of the images is the images.
        let output = |&id: &Id| pass.values(id).unwrap_or(&batch.x).to_vec();
        Ok((pass.program.outputs.iter().map(output).collect(), pass.probabilities.clone()))
    }

    /// Makes one optimizer step.
    fn update(&mut self, gradients: &[Vec<T>], rates: Rates) {
        let clip = self.config.clip_norm.map_or(T::ONE, |norm| clip::clip_factor(norm, gradients));
        for (i, g) in gradients.iter().enumerate().filter(|(i, _)| self.described[*i].is_trained()) {
            let step = self.config.on(self.described[i].role, rates, clip);
            let w = &mut self.parameters[i];
            let mut slots: Vec<&mut [T]> = self.slots.iter_mut().map(|slot| &mut slot[i][..]).collect();
            self.config.optimizer.step(step, g, w, &mut slots);
        }
    }

    /// Takes over the statistics that a pass has moved, makes one optimizer step with its gradients, and moves the averages.
    fn follow(&mut self, pass: &mut Pass<T>, rates: Rates) {
        self.parameters = std::mem::take(&mut pass.parameters);
        let gradients = std::mem::take(&mut pass.gradients);
        self.update(&gradients, rates);
        self.gradients = gradients;
        if let Some(config) = &self.config.average {
            let rate = T::from_f64(f64::from(rates.average));
            for (w, average) in self.parameters.iter_mut().zip(&mut self.averages) {
                average::average_step(rate, config.pulls(), w, average);
            }
        }
    }

    /// Checks that there is a training set, and that `epoch` names only samples of it.
    fn check_training(&self, epoch: &Epoch) -> Result<(), EngineError> {
        if self.train.is_empty() {
            return Err(EngineError::NoTraining);
        }
        check_order(&epoch.order, self.train.len())
    }

    /// Makes one step of an epoch and searches its results for the first value that is not finite.
    fn searched_step(&mut self, epoch: &Epoch, step: usize) -> Result<Option<NonFinite>, EngineError> {
        let batch = self.training_batch(epoch, step - 1);
        let mut pass = self.train_pass(&batch, epoch.rates[step - 1])?;
        let found_before = found_in(&pass.program, step, &pass.loss, |id| pass.values(id));
        if found_before.is_some() {
            return Ok(found_before);
        }
        self.follow(&mut pass, epoch.rates[step - 1]);
        let kinds = self.config.optimizer.slots().iter().copied().zip(&self.slots);
        let mut kinds = kinds.chain([("parameters", &self.parameters), ("averages", &self.averages)]);
        Ok(kinds.find_map(|(kind, tensors)| {
            let mut named = self.described.iter().zip(tensors);
            named.find_map(|(p, values)| found(step, format!("{kind}.{}", p.name), "optimizer step", values))
        }))
    }
}

impl<T: Real> Engine for ReferenceEngine<T> {
    fn begin_epoch<'a>(&'a mut self, epoch: &'a Epoch) -> Pending<'a, ()> {
        Box::pin(async move {
            self.check_training(epoch)?;
            self.epoch = epoch.clone();
            Ok(())
        })
    }

    /// Makes one step.
    fn advance(&mut self) -> Pending<'_, Totals> {
        Box::pin(async move {
            let Epoch { order, rates, done, .. } = &self.epoch;
            if done.batches * self.batch_size >= order.len() {
                return Ok(*done);
            }
            let rates = rates[done.batches];
            let batch = self.training_batch(&self.epoch, done.batches);
            let mut pass = self.train_pass(&batch, rates)?;
            self.follow(&mut pass, rates);
            pass.add_to(&mut self.epoch.done, batch.n_valid);
            Ok(self.epoch.done)
        })
    }

    fn settle(&mut self) -> Pending<'_, Totals> {
        Box::pin(async move { Ok(self.epoch.done) })
    }

    fn infer<'a>(&'a mut self, split: &'a Split, on_progress: OnProgress<'a>) -> Pending<'a, Inference> {
        Box::pin(async move {
            check_split(split, &self.model)?;
            let order: Vec<u32> = (0..split.len() as u32).collect();
            // Each row is computed independently, so smaller batches give the same bits.
            let work: usize = self.model.graph()?.iter().map(|shape| shape.multiply_adds).sum();
            let batch_size = (INFERRED_WORK / work.max(1)).clamp(1, self.batch_size.max(1));
            let mut inference = Inference::default();
            for first in (0..split.len()).step_by(batch_size) {
                let batch = Self::batch(split, &order, first, batch_size.min(split.len() - first));
                let pass = self.forward(&batch)?;
                pass.add_to(&mut inference.totals, batch.n_valid);
                inference.probabilities.extend(pass.probabilities.iter().map(|p| p.to_f64() as f32));
                if on_progress(&inference.totals).is_break() {
                    break;
                }
            }
            Ok(inference)
        })
    }

    fn model(&self) -> &Model {
        &self.model
    }

    fn parameters(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        Box::pin(async move { Ok(to_single(self.result())) })
    }

    fn state(&mut self) -> Pending<'_, State> {
        Box::pin(async move {
            let trained = |slot: &Vec<Vec<T>>| to_single(&only_trained(&self.described, slot));
            let slots = if self.train.is_empty() { Vec::new() } else { self.slots.iter().map(trained).collect() };
            let (parameters, averages) = (to_single(&self.parameters), to_single(&self.averages));
            Ok(State { parameters, slots, averages })
        })
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        let slots = if self.train.is_empty() { &[] } else { self.config.optimizer.slots() };
        state.check(&self.described, slots, !self.averages.is_empty())?;
        self.parameters = from_single(&state.parameters);
        self.averages = from_single(&state.averages);
        for (slot, values) in self.slots.iter_mut().zip(&state.slots) {
            *slot = from_single(&for_all(&self.described, values));
        }
        Ok(())
    }

    fn find_non_finite<'a>(&'a mut self, epoch: &'a Epoch, last: usize) -> Pending<'a, Option<NonFinite>> {
        Box::pin(async move {
            self.check_training(epoch)?;
            let mut steps = epoch.done.batches + 1..=last;
            steps.find_map(|step| self.searched_step(epoch, step).transpose()).transpose()
        })
    }

    fn last_gradients(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        Box::pin(async move { Ok(to_single(&only_trained(&self.described, &self.gradients))) })
    }
}

fn from_single<T: Real>(tensors: &[Vec<f32>]) -> Vec<Vec<T>> {
    tensors.iter().map(|values| values.iter().map(|&v| T::from_f64(f64::from(v))).collect()).collect()
}

fn to_single<T: Real>(tensors: &[Vec<T>]) -> Vec<Vec<f32>> {
    tensors.iter().map(|values| values.iter().map(|v| v.to_f64() as f32).collect()).collect()
}
