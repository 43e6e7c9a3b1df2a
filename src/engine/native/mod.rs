//! Training and evaluation on the CPU by the loops of [`crate::native`]: `--device cpu`.
//!
//! A step has two parts, each divided among the threads. In the first, a thread takes some rows of the batch from start to end: gather,
//! forward, loss, backward, and the partial sums of the convolutions; the threads meet only where a step looks at the whole batch. In the
//! second, it takes slices of the parameters: gradient over all rows, optimizer. No order of summation depends on the number of threads,
//! so any number gives the same bits.

mod batch;
mod program;

use super::steps::found;
use super::{
    Engine, EngineError, Epoch, NonFinite, OnProgress, Optimizer, State, Totals, check_order, check_split, for_all,
    only_trained, pixels,
};
use crate::data::Split;
use crate::lower::{Mode, Place};
use crate::model::{Model, Parameter};
use crate::native::Aligned;
use crate::native::conv2d::{Form, Packed, Scratch};
use crate::native::peak::Peak;
use batch::{Batch, Share, slices};
use program::{NativeProgram, Phase, Shared, zeros};
use rayon::prelude::*;
use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Minimum number of groups into which the rows of a batch are divided, if it has that many rows. Each group has its own sums of the
/// convolutions' gradients, so this is also the number of threads that a small batch can keep busy.
const GROUPS: usize = 8;

/// Maximum number of rows that are processed together: few enough that the output of a layer is still in the cache when the next layer reads it.
const ROWS: usize = 32;

/// How long the engine works between two reports of progress.
const SILENCE: Duration = Duration::from_millis(50);

/// A model on the CPU.
#[derive(Debug)]
pub struct NativeEngine<'d> {
    threads: rayon::ThreadPool,
    worker: Worker<'d>,
}

/// The data that the threads work on.
#[derive(Debug)]
struct Worker<'d> {
    model: Model,
    form: Form,
    described: Vec<Parameter>,
    parameters: Vec<Aligned<f32>>,
    /// One per thread.
    scratch: Vec<Mutex<Scratch>>,
    inference: Prepared,
    /// One per thread, created at the first evaluation.
    evaluation: Vec<Mutex<Batch>>,
    training: Option<Training<'d>>,
}

/// A program with what it needs besides the tensors of a batch.
#[derive(Debug)]
struct Prepared {
    program: NativeProgram,
    /// The buffers without rows.
    whole: Vec<Aligned<f32>>,
    packed: Vec<Packed>,
}

/// The additional state of training.
#[derive(Debug)]
struct Training<'d> {
    split: &'d Split,
    optimizer: Optimizer,
    prepared: Prepared,
    /// In the order of [`Optimizer::slots`]; empty for statistics.
    slots: Vec<Vec<Aligned<f32>>>,
    /// Empty for statistics.
    gradients: Vec<Aligned<f32>>,
    batch: Batch,
    batch_size: usize,
    /// Rows per group.
    group: usize,
    has_run: bool,
}

impl Prepared {
    fn new(program: NativeProgram, parameters: &[Aligned<f32>]) -> Result<Self, EngineError> {
        let mut prepared = Prepared { whole: program.whole()?, packed: Vec::new(), program };
        prepared.prepare(parameters);
        Ok(prepared)
    }

    /// Computes again what follows from the parameters.
    fn prepare(&mut self, parameters: &[Aligned<f32>]) {
        let Prepared { program, whole, packed } = self;
        program.prepare(parameters, whole, packed);
    }
}

impl<'d> NativeEngine<'d> {
    /// The number of threads that this machine can run at once; 1 if it is unknown.
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Creates an engine for evaluation only, with `threads` threads, but at least one.
    ///
    /// # Errors
    /// The model cannot be built, or the threads cannot be started.
    pub fn new(model: &Model, parameters: &[Vec<f32>], threads: usize) -> Result<Self, EngineError> {
        Self::with_form(model, parameters, threads, Form::Fastest)
    }

    /// Like [`NativeEngine::new`], with the convolutions in the given form.
    ///
    /// # Errors
    /// The same as for [`NativeEngine::new`].
    pub fn with_form(model: &Model, parameters: &[Vec<f32>], threads: usize, form: Form) -> Result<Self, EngineError> {
        let program = NativeProgram::new(model, Mode::Infer, form)?;
        // For 0, rayon would choose a number itself, but each thread needs its scratch memory.
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("native {i}"));
        let pool = pool.build().map_err(|error| EngineError::Threads { threads, reason: error.to_string() })?;
        let described = model.parameters()?;
        State { parameters: parameters.to_vec(), slots: Vec::new() }.check(&described, &[])?;
        let parameters = aligned(parameters);
        let scratch = (0..threads).map(|_| Mutex::new(Scratch::new(program.convolutions()))).collect();
        let inference = Prepared::new(program, &parameters)?;
        let (model, evaluation, training) = (model.clone(), Vec::new(), None);
        let worker = Worker { model, form, described, parameters, scratch, inference, evaluation, training };
        Ok(NativeEngine { threads: pool, worker })
    }

    /// Creates an engine that trains the model on `split`, with `threads` threads, but at least one.
    ///
    /// # Errors
    /// The model cannot be built, the samples cannot be used, the threads cannot be started, or there is not enough memory.
    pub fn with_training(
        model: &Model,
        parameters: &[Vec<f32>],
        split: &'d Split,
        batch_size: usize,
        optimizer: &Optimizer,
        threads: usize,
    ) -> Result<Self, EngineError> {
        Self::new(model, parameters, threads)?.and_training(split, batch_size, optimizer)
    }

    /// Adds a training set to an engine.
    ///
    /// # Errors
    /// The same as for [`NativeEngine::with_training`].
    pub fn and_training(
        mut self,
        split: &'d Split,
        batch_size: usize,
        optimizer: &Optimizer,
    ) -> Result<Self, EngineError> {
        self.worker.train(split, batch_size, optimizer, Mode::Train)?;
        Ok(self)
    }

    /// Times the parts of a training step in one thread, after one step to warm up. Returns their names and the seconds of each of `rounds`.
    ///
    /// # Errors
    /// The engine was not created for training, or the training set is smaller than a batch.
    pub fn time_step(&mut self, rounds: usize) -> Result<Vec<(String, Vec<f64>)>, EngineError> {
        let worker = &mut self.worker;
        let mut times = worker.timed_step()?;
        for (_, seconds) in &mut times {
            seconds.clear();
        }
        for _ in 0..rounds {
            for ((_, seconds), (_, of_round)) in times.iter_mut().zip(worker.timed_step()?) {
                seconds.extend(of_round);
            }
        }
        Ok(times)
    }

    /// Measures the peak performance of the engine's threads.
    pub fn peak(&self) -> Peak {
        self.threads.install(Peak::measure)
    }

    /// Describes how each convolution is computed forward and backward.
    pub fn describe(&self) -> Vec<String> {
        self.worker.training.as_ref().map_or(&self.worker.inference, |training| &training.prepared).program.describe()
    }

    /// Calls `work` for each share of [`ROWS`] samples of a split, on all threads, and passes the results to `on_some` in the order of the
    /// samples, about once per [`SILENCE`], until it breaks.
    fn for_each_share<T: Send>(
        &mut self,
        split: &Split,
        work: impl Fn(&mut Share<'_>) -> T + Sync,
        mut on_some: impl FnMut(Vec<T>) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let NativeEngine { threads, worker } = self;
        worker.inference.prepare(&worker.parameters);
        // Always whole shares: the same rows are computed together, whatever the number of shares at a time.
        let (mut first, mut shares) = (0, worker.scratch.len().max(1));
        while first < split.len() {
            let begin = Instant::now();
            let samples = first..split.len().min(first + shares * ROWS);
            first = samples.end;
            let results = threads.install(|| worker.some_shares(split, samples, &work))?;
            if on_some(results).is_break() {
                break;
            }
            let elapsed = begin.elapsed();
            if elapsed < SILENCE / 2 {
                shares *= 2;
            } else if elapsed > SILENCE * 2 {
                shares = (shares / 2).max(1);
            }
        }
        Ok(())
    }

    /// The logits of the last training step, `[N, 10]`; `None` before the first.
    pub fn last_logits(&self) -> Option<&[f32]> {
        let training = self.worker.training.as_ref().filter(|training| training.has_run)?;
        let program = &training.prepared.program;
        program.content(
            program.program().logits(),
            training.batch_size,
            &training.batch.tensors,
            self.worker.shared(training),
        )
    }
}

/// These functions are called from a thread of the pool, so that the other threads are awake.
impl<'d> Worker<'d> {
    fn training(&self) -> Result<&Training<'d>, EngineError> {
        self.training.as_ref().ok_or(EngineError::NoTraining)
    }

    /// Prepares for training, or for a search.
    fn train(
        &mut self,
        split: &'d Split,
        batch_size: usize,
        optimizer: &Optimizer,
        mode: Mode,
    ) -> Result<(), EngineError> {
        check_split(split, &self.model)?;
        let program = NativeProgram::new(&self.model, mode, self.form)?;
        let group = batch_size.div_ceil(GROUPS).clamp(1, ROWS);
        let alike = || {
            let lens = self.described.iter().map(|p| if p.role.is_trained() { p.len() } else { 0 });
            lens.map(zeros).collect::<Result<Vec<_>, _>>()
        };
        for scratch in &mut self.scratch {
            let both = program.convolutions().iter().chain(self.inference.program.convolutions());
            *scratch = Mutex::new(Scratch::new(both));
        }
        self.training = Some(Training {
            split,
            optimizer: *optimizer,
            slots: optimizer.slots().iter().map(|_| alike()).collect::<Result<_, _>>()?,
            gradients: alike()?,
            batch: Batch::new(&program, batch_size, batch_size.div_ceil(group))?,
            prepared: Prepared::new(program, &self.parameters)?,
            batch_size,
            group,
            has_run: false,
        });
        Ok(())
    }

    /// What the threads read in training.
    fn shared<'a>(&'a self, training: &'a Training<'d>) -> Shared<'a> {
        let Prepared { whole, packed, .. } = &training.prepared;
        Shared { parameters: &self.parameters, gradients: &training.gradients, whole, packed }
    }

    /// Makes one step on the samples `order` with the given factor of the update. Returns the sum of the losses and the correct predictions.
    fn step(&mut self, order: &[u32], step_size: f32) -> Result<(f64, u64), EngineError> {
        self.forward_backward(order)?;
        self.update(order.len(), step_size)?;
        let training = self.training.as_mut().ok_or(EngineError::NoTraining)?;
        training.has_run = true;
        Ok(training.batch.totals(order.len()))
    }

    /// Runs the first part of a step, over the rows.
    fn forward_backward(&mut self, order: &[u32]) -> Result<(), EngineError> {
        let Worker { parameters, scratch, training, .. } = self;
        let Training { split, prepared, gradients, batch, group, .. } =
            training.as_mut().ok_or(EngineError::NoTraining)?;
        let (group, n) = (*group, order.len());
        // One share per thread, so that each reads the dense weights only once, but no more rows than fit the cache.
        let groups = n.div_ceil(group);
        let groups = groups.div_ceil(rayon::current_num_threads()).min((ROWS / group).max(1));
        let Prepared { program, whole, packed } = prepared;
        for (i, phase) in program.phases().iter().enumerate() {
            match phase {
                Phase::Rows(steps) => {
                    let shared = Shared { parameters, gradients, whole, packed };
                    let shares: Vec<Share<'_>> = batch.split(program, order, groups * group, group).collect();
                    shares.into_par_iter().with_max_len(1).for_each(|mut share| {
                        if i == 0 {
                            share.gather(split, program);
                        }
                        share.run(program, steps.clone(), shared, n, group, &mut of_this_thread(scratch));
                    });
                }
                Phase::Batch(step) => program.run_batch(*step, n, &batch.tensors, parameters, gradients, whole),
            }
        }
        Ok(())
    }

    /// Runs the second part of a step, over the parameters.
    fn update(&mut self, n: usize, step_size: f32) -> Result<(), EngineError> {
        let Worker { described, parameters, training, .. } = self;
        let training = training.as_mut().ok_or(EngineError::NoTraining)?;
        let Training { optimizer, prepared, slots, gradients, batch, group, .. } = training;
        let Prepared { program, packed, .. } = prepared;
        let slices = slices(program, described, parameters, gradients, slots, packed);
        let (program, tensors, group, optimizer) = (&*program, &batch.tensors, *group, &*optimizer);
        slices.into_par_iter().with_max_len(1).for_each(|slice| {
            slice.update(program, tensors, n, group, optimizer, step_size);
        });
        Ok(())
    }

    /// Continues an epoch until it is done or a report of progress is due.
    fn some_steps(&mut self, epoch: &Epoch, totals: &mut Totals) -> Result<(), EngineError> {
        let begin = Instant::now();
        let batch_size = self.training()?.batch_size;
        for (index, order) in epoch.order.chunks(batch_size).enumerate().skip(totals.batches) {
            let (loss, correct) = self.step(order, epoch.step_sizes[index])?;
            totals.add(loss, correct, order.len());
            // Report a loss that is not finite at once.
            if begin.elapsed() >= SILENCE || !loss.is_finite() {
                break;
            }
        }
        Ok(())
    }

    /// Times one step in the calling thread, part by part.
    fn timed_step(&mut self) -> Result<Vec<(String, Vec<f64>)>, EngineError> {
        let mut times = Vec::new();
        let mut begin = Instant::now();
        let mut note = |name: String| {
            times.push((name, vec![begin.elapsed().as_secs_f64()]));
            begin = Instant::now();
        };
        let Worker { described, parameters, scratch, training, .. } = self;
        let training = training.as_mut().ok_or(EngineError::NoTraining)?;
        let Training { split, optimizer, prepared, slots, gradients, batch, batch_size, group, .. } = training;
        let (group, n) = (*group, *batch_size);
        if split.len() < n {
            let reason = format!("a step takes {n} samples, but there are only {}", split.len());
            return Err(EngineError::Samples { reason });
        }
        let order: Vec<u32> = (0..n as u32).collect();
        let scratch = &mut *of_this_thread(scratch);
        let Prepared { program, whole, packed } = prepared;
        let loss = program.program().loss();
        let name_of = |i: usize| {
            let name = program.program().steps[i].op.name();
            match i.cmp(&loss) {
                std::cmp::Ordering::Less => format!("{name}_forward"),
                std::cmp::Ordering::Equal => name.to_string(),
                std::cmp::Ordering::Greater => format!("{name}_backward"),
            }
        };
        for (phase_index, phase) in program.phases().iter().enumerate() {
            let steps = match phase {
                Phase::Batch(i) => {
                    program.run_batch(*i, n, &batch.tensors, parameters, gradients, whole);
                    note(name_of(*i));
                    continue;
                }
                Phase::Rows(steps) => steps.clone(),
            };
            let shared = Shared { parameters, gradients, whole, packed };
            for mut share in batch.split(program, &order, n, group) {
                note("shares".into());
                if phase_index == 0 {
                    share.gather(split, program);
                    note("batch_gather".into());
                }
                for i in steps.clone() {
                    share.run(program, i..i + 1, shared, n, group, scratch);
                    note(name_of(i));
                }
            }
        }
        for slice in slices(program, described, parameters, gradients, slots, packed) {
            let name = format!("{}_update", program.operation_of(slice.index));
            slice.update(program, &batch.tensors, n, group, optimizer, 0.0);
            note(name);
        }
        Ok(times)
    }

    /// Returns the first tensor of the first part of a step with a value that is not finite, in the order of computation. Training must
    /// keep what it computes.
    fn search_rows(&self, step: usize, n: usize) -> Result<Option<NonFinite>, EngineError> {
        let training = self.training()?;
        let (batch, native) = (&training.batch, &training.prepared.program);
        let (program, shared) = (native.program(), self.shared(training));
        let loss = program.loss();
        let found = program.steps.iter().enumerate().find_map(|(i, of)| {
            let of_loss = || found(step, "loss".into(), "softmax_xent", &batch.loss[..n]);
            let operation = if i > loss { "backward pass" } else { of.op.name() };
            // The gradients of weights follow in the second part.
            let written = of.writes.iter().filter(|id| matches!(program.tensor(**id).place, Place::Buffer(_)));
            let search = |&id| {
                let values = native.content(id, n, &batch.tensors, shared)?;
                found(step, program.tensor(id).name.clone(), operation, values)
            };
            (i == loss).then(of_loss).flatten().or_else(|| written.into_iter().find_map(search))
        });
        Ok(found)
    }

    /// The same for the second part.
    fn search_parameters(&self, step: usize) -> Result<Option<NonFinite>, EngineError> {
        let training = self.training()?;
        let kinds = [("gradients", "backward pass", &training.gradients)].into_iter();
        let slots = training.optimizer.slots().iter().zip(&training.slots);
        let kinds = kinds.chain(slots.map(|(&kind, tensors)| (kind, "optimizer step", tensors)));
        let mut kinds = kinds.chain([("parameters", "optimizer step", &self.parameters)]);
        Ok(kinds.find_map(|(kind, operation, tensors)| {
            let mut tensors = self.described.iter().zip(tensors);
            tensors.find_map(|(p, values)| found(step, format!("{kind}.{}", p.name), operation, values))
        }))
    }

    /// Calls `work` for each share of [`ROWS`] of the given samples, on all threads, and returns its results in the order of the samples.
    fn some_shares<T: Send>(
        &mut self,
        split: &Split,
        samples: Range<usize>,
        work: &(impl Fn(&mut Share<'_>) -> T + Sync),
    ) -> Result<Vec<T>, EngineError> {
        while self.evaluation.len() < self.scratch.len() {
            self.evaluation.push(Mutex::new(Batch::new(&self.inference.program, ROWS, 0)?));
        }
        let Worker { parameters, scratch, inference: Prepared { program, whole, packed }, evaluation, .. } = &*self;
        let shared = Shared { parameters, gradients: &[], whole, packed };
        let steps = 0..program.program().steps.len();
        let order: Vec<u32> = samples.map(|sample| sample as u32).collect();
        let shares = order.par_chunks(ROWS).with_max_len(1);
        let results = shares.map(|order| {
            let (mut scratch, mut batch) = (of_this_thread(scratch), of_this_thread(evaluation));
            let mut share = batch.split(program, order, ROWS, ROWS).next().expect("a chunk is never empty");
            share.gather(split, program);
            share.run(program, steps.clone(), shared, order.len(), ROWS, &mut scratch);
            work(&mut share)
        });
        Ok(results.collect())
    }

    fn find_non_finite(&mut self, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError> {
        let batch_size = self.training()?.batch_size;
        for (index, order) in epoch.order.chunks(batch_size).enumerate().take(last).skip(epoch.done.batches) {
            self.forward_backward(order)?;
            let found = self.search_rows(index + 1, order.len())?;
            if found.is_some() {
                return Ok(found);
            }
            self.update(order.len(), epoch.step_sizes[index])?;
            let found = self.search_parameters(index + 1)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn aligned(tensors: &[Vec<f32>]) -> Vec<Aligned<f32>> {
    tensors.iter().map(|values| Aligned::from(&values[..])).collect()
}

fn plain(tensors: &[Aligned<f32>]) -> Vec<Vec<f32>> {
    tensors.iter().map(|values| values.to_vec()).collect()
}

/// Returns the element that belongs to the calling thread of a pool.
fn of_this_thread<T>(of_threads: &[Mutex<T>]) -> MutexGuard<'_, T> {
    let index = rayon::current_thread_index().unwrap_or(0);
    // If a thread panicked, what it left behind is overwritten before it is read.
    of_threads[index].lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine for NativeEngine<'_> {
    fn train_epoch(&mut self, epoch: &Epoch, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        let NativeEngine { threads, worker } = self;
        let training = worker.training()?;
        check_order(&epoch.order, training.split.len())?;
        let batches = epoch.order.len().div_ceil(training.batch_size);
        let mut totals = epoch.done;
        while totals.batches < batches {
            threads.install(|| worker.some_steps(epoch, &mut totals))?;
            if on_progress(&totals) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(totals)
    }

    fn evaluate(&mut self, split: &Split, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        check_split(split, &self.worker.model)?;
        let count = |share: &mut Share<'_>| {
            let loss: f64 = share.loss.iter().map(|&loss| f64::from(loss)).sum();
            (loss, share.correct.iter().map(|&correct| u64::from(correct)).sum(), share.loss.len())
        };
        let mut totals = Totals::default();
        self.for_each_share(split, count, |shares| {
            shares.into_iter().for_each(|(loss, correct, samples)| totals.add(loss, correct, samples));
            on_progress(&totals)
        })?;
        Ok(totals)
    }

    fn predict(
        &mut self,
        images: &[u8],
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<f32>, EngineError> {
        let (pixels, classes) = (pixels(&self.worker.model), self.worker.model.classes());
        let n = images.len() / pixels;
        let split = Split { images: images[..n * pixels].to_vec(), labels: vec![0; n] };
        let mut probabilities = Vec::with_capacity(n * classes);
        let rows = |share: &mut Share<'_>| share.probabilities.to_vec();
        self.for_each_share(&split, rows, |shares| {
            shares.iter().for_each(|rows| probabilities.extend_from_slice(rows));
            on_progress(probabilities.len() / classes)
        })?;
        Ok(probabilities)
    }

    fn parameters(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(plain(&self.worker.parameters))
    }

    fn state(&mut self) -> Result<State, EngineError> {
        let slots = self.worker.training.iter().flat_map(|training| &training.slots);
        let slots = slots.map(|slot| only_trained(&self.worker.described, &plain(slot))).collect();
        Ok(State { parameters: plain(&self.worker.parameters), slots })
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        let Worker { described, parameters, training, .. } = &mut self.worker;
        let names = training.as_ref().map_or(&[][..], |training| training.optimizer.slots());
        state.check(described, names)?;
        *parameters = aligned(&state.parameters);
        if let Some(training) = training {
            training.slots = state.slots.iter().map(|slot| aligned(&for_all(described, slot))).collect();
            training.prepared.prepare(parameters);
        }
        Ok(())
    }

    fn find_non_finite(&mut self, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError> {
        let NativeEngine { threads, worker } = self;
        let Training { split, optimizer, batch_size, .. } = worker.training()?;
        check_order(&epoch.order, split.len())?;
        // The same steps, but with a buffer for each tensor, so that all are there to be searched after a step.
        let (split, optimizer, batch_size) = (*split, *optimizer, *batch_size);
        let slots = std::mem::take(&mut worker.training.as_mut().ok_or(EngineError::NoTraining)?.slots);
        worker.train(split, batch_size, &optimizer, Mode::Search)?;
        worker.training.as_mut().ok_or(EngineError::NoTraining)?.slots = slots;
        threads.install(|| worker.find_non_finite(epoch, last))
    }

    fn last_gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        let trained = self.worker.training.iter().filter(|training| training.has_run);
        let trained = trained.map(|training| only_trained(&self.worker.described, &plain(&training.gradients)));
        Ok(trained.into_iter().next().unwrap_or_default())
    }
}
