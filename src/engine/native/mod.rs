//! Training and evaluation on the CPU by the loops of [`crate::native`]: `--device cpu`.
//!
//! A step has two parts, each divided among the threads. In the first, a thread takes some rows of the batch from start to end: gather,
//! forward, loss, backward, and the partial sums of the convolutions. In the second, it takes slices of the parameters: gradient over all
//! rows, optimizer. No order of summation depends on the number of threads, so any number gives the same bits.

mod batch;
mod network;

use crate::cpu::non_finite::non_finite;
use crate::data::{PIXELS, Split};
use crate::engine::{
    Engine, EngineError, Epoch, NonFinite, OnProgress, Optimizer, State, Totals, check_order, check_split,
};
use crate::model::{Model, N_CLASSES};
use crate::native::Aligned;
use crate::native::conv2d::{Form, Packed, Scratch};
use crate::native::peak::Peak;
use batch::{Batch, Share, slices};
use network::{NativeNetwork, Owned, Weights, zeros};
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
    network: NativeNetwork,
    /// Names of the parameters.
    names: Vec<String>,
    parameters: Vec<Aligned<f32>>,
    packed: Vec<Packed>,
    /// One per thread.
    scratch: Vec<Mutex<Scratch>>,
    /// One per thread, created at the first evaluation.
    evaluation: Vec<Mutex<Batch>>,
    training: Option<Training<'d>>,
}

/// The additional state of training.
#[derive(Debug)]
struct Training<'d> {
    split: &'d Split,
    optimizer: Optimizer,
    /// In the order of [`Optimizer::slots`].
    slots: Vec<Vec<Aligned<f32>>>,
    gradients: Vec<Aligned<f32>>,
    batch: Batch,
    batch_size: usize,
    /// Rows per group.
    group: usize,
    has_run: bool,
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
        let network = NativeNetwork::new(model, form)?;
        // For 0, rayon would choose a number itself, but each thread needs its scratch memory.
        let threads = threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("native {i}"));
        let pool = pool.build().map_err(|error| EngineError::Threads { threads, reason: error.to_string() })?;
        let described = model.parameters()?;
        let lengths: Vec<usize> = described.iter().map(|p| p.shape.iter().product()).collect();
        State { parameters: parameters.to_vec(), slots: Vec::new() }.check(&lengths, &[])?;
        let mut packed = Vec::new();
        let parameters = aligned(parameters);
        network.pack(&parameters, &mut packed);
        let worker = Worker {
            scratch: (0..threads).map(|_| Mutex::new(network.scratch())).collect(),
            evaluation: Vec::new(),
            network,
            names: described.into_iter().map(|parameter| parameter.name).collect(),
            parameters,
            packed,
            training: None,
        };
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
        check_split(split)?;
        let group = batch_size.div_ceil(GROUPS).clamp(1, ROWS);
        let Worker { network, parameters, training, .. } = &mut self.worker;
        let alike = || parameters.iter().map(|values| zeros(values.len())).collect::<Result<Vec<_>, _>>();
        *training = Some(Training {
            split,
            optimizer: *optimizer,
            slots: optimizer.slots().iter().map(|_| alike()).collect::<Result<_, _>>()?,
            gradients: alike()?,
            batch: Batch::new(network, batch_size, Some(batch_size.div_ceil(group)))?,
            batch_size,
            group,
            has_run: false,
        });
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
        self.worker.network.describe()
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
        training.batch.tensors.outputs.last().map(|logits| &**logits)
    }
}

/// These functions are called from a thread of the pool, so that the other threads are awake.
impl<'d> Worker<'d> {
    fn training(&self) -> Result<&Training<'d>, EngineError> {
        self.training.as_ref().ok_or(EngineError::NoTraining)
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
        let Worker { network, parameters, packed, scratch, training, .. } = self;
        let training = training.as_mut().ok_or(EngineError::NoTraining)?;
        let (group, split, n) = (training.group, training.split, order.len());
        // One share per thread, so that each reads the dense weights only once, but no more rows than fit the cache.
        let groups = n.div_ceil(group);
        let groups = groups.div_ceil(rayon::current_num_threads()).min((ROWS / group).max(1));
        let weights = Weights { parameters, packed };
        let shares: Vec<Share<'_>> = training.batch.split(network, order, groups * group, group).collect();
        shares.into_par_iter().with_max_len(1).for_each(|mut share| {
            let scratch = &mut *of_this_thread(scratch);
            share.forward(split, network, weights, scratch);
            share.backward(network, weights, n, group, scratch);
        });
        Ok(())
    }

    /// Runs the second part of a step, over the parameters.
    fn update(&mut self, n: usize, step_size: f32) -> Result<(), EngineError> {
        let Worker { network, parameters, packed, training, .. } = self;
        let training = training.as_mut().ok_or(EngineError::NoTraining)?;
        let Training { optimizer, slots, gradients, batch, group, .. } = training;
        let slices = slices(network, parameters, gradients, slots, packed);
        let (tensors, group, optimizer) = (&batch.tensors, *group, &*optimizer);
        slices.into_par_iter().with_max_len(1).for_each(|slice| {
            slice.update(network, tensors, n, group, optimizer, step_size);
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
        let Worker { network, parameters, packed, scratch, training, .. } = self;
        let training = training.as_mut().ok_or(EngineError::NoTraining)?;
        let (group, split, n) = (training.group, training.split, training.batch_size);
        if split.len() < n {
            let reason = format!("a step takes {n} samples, but there are only {}", split.len());
            return Err(EngineError::Samples { reason });
        }
        let order: Vec<u32> = (0..n as u32).collect();
        let kinds: Vec<&str> = network.outputs().map(|(_, kind)| kind).collect();
        let scratch = &mut *of_this_thread(scratch);
        let weights = Weights { parameters, packed };
        for mut share in training.batch.split(network, &order, n, group) {
            note("shares".into());
            share.gather(split);
            note("batch_gather".into());
            for (i, kind) in kinds.iter().enumerate() {
                network.forward_call(i, weights, n, &mut share.rows, scratch);
                note(format!("{kind}_forward"));
            }
            share.loss();
            share.loss_backward(n);
            note("softmax_xent".into());
            for (i, kind) in kinds.iter().enumerate().rev() {
                network.backward_call(i, weights, n, group, &mut share.rows, scratch);
                note(format!("{kind}_backward"));
            }
        }
        let Training { optimizer, slots, gradients, batch, .. } = training;
        for slice in slices(network, parameters, gradients, slots, packed) {
            let name = format!("{}_update", kinds[network.step_of_parameter(slice.index)]);
            slice.update(network, &batch.tensors, n, group, optimizer, 0.0);
            note(name);
        }
        Ok(times)
    }

    /// Returns the first tensor of the first part of a step with a value that is not finite, in the order of computation.
    fn search_rows(&self, step: usize, n: usize) -> Result<Option<NonFinite>, EngineError> {
        let batch = &self.training()?.batch;
        let Owned { outputs, gradients, .. } = &batch.tensors;
        let of_outputs = self.network.outputs().zip(&outputs[1..]).map(|((layer, kind), values)| {
            let len = values.len() / batch.loss.len() * n;
            search(step, format!("{layer}.y"), kind, &values[..len])
        });
        let of_loss = std::iter::once_with(|| search(step, "loss".into(), "softmax_xent", &batch.loss[..n]));
        // The last layer's gradient is computed first.
        let names: Vec<&str> = self.network.outputs().map(|(layer, _)| layer).collect();
        let of_gradients = names.into_iter().zip(&gradients[1..]).rev().map(|(layer, values)| {
            let len = values.len() / batch.loss.len() * n;
            search(step, format!("{layer}.dy"), "backward pass", &values[..len])
        });
        Ok(of_outputs.chain(of_loss).chain(of_gradients).find_map(|found| found))
    }

    /// The same for the second part.
    fn search_parameters(&self, step: usize) -> Result<Option<NonFinite>, EngineError> {
        let training = self.training()?;
        let kinds = [("gradients", "backward pass", &training.gradients)].into_iter();
        let slots = training.optimizer.slots().iter().zip(&training.slots);
        let kinds = kinds.chain(slots.map(|(&kind, tensors)| (kind, "optimizer step", tensors)));
        let mut kinds = kinds.chain([("parameters", "optimizer step", &self.parameters)]);
        Ok(kinds.find_map(|(kind, operation, tensors)| {
            let mut tensors = self.names.iter().zip(tensors);
            tensors.find_map(|(name, values)| search(step, format!("{kind}.{name}"), operation, values))
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
            self.evaluation.push(Mutex::new(Batch::new(&self.network, ROWS, None)?));
        }
        let Worker { network, parameters, packed, scratch, evaluation, .. } = &*self;
        let weights = Weights { parameters, packed };
        let order: Vec<u32> = samples.map(|sample| sample as u32).collect();
        let shares = order.par_chunks(ROWS).with_max_len(1);
        let results = shares.map(|order| {
            let (mut scratch, mut batch) = (of_this_thread(scratch), of_this_thread(evaluation));
            let mut share = batch.split(network, order, ROWS, ROWS).next().expect("a chunk is never empty");
            share.forward(split, network, weights, &mut scratch);
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

fn search(step: usize, tensor: String, operation: &str, values: &[f32]) -> Option<NonFinite> {
    let [count, index] = non_finite(values);
    let (count, index, operation) = (count as usize, index as usize, operation.to_string());
    (count > 0).then_some(NonFinite { step, tensor, operation, index, count })
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
        check_split(split)?;
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
        let n = images.len() / PIXELS;
        let split = Split { images: images[..n * PIXELS].to_vec(), labels: vec![0; n] };
        let mut probabilities = Vec::with_capacity(n * N_CLASSES);
        let rows = |share: &mut Share<'_>| share.probabilities.to_vec();
        self.for_each_share(&split, rows, |shares| {
            shares.iter().for_each(|rows| probabilities.extend_from_slice(rows));
            on_progress(probabilities.len() / N_CLASSES)
        })?;
        Ok(probabilities)
    }

    fn parameters(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(plain(&self.worker.parameters))
    }

    fn state(&mut self) -> Result<State, EngineError> {
        let slots = self.worker.training.iter().flat_map(|training| &training.slots);
        let slots = slots.map(|slot| plain(slot)).collect();
        Ok(State { parameters: plain(&self.worker.parameters), slots })
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        let Worker { network, parameters, packed, training, .. } = &mut self.worker;
        let lengths: Vec<usize> = parameters.iter().map(|values| values.len()).collect();
        let names = training.as_ref().map_or(&[][..], |training| training.optimizer.slots());
        state.check(&lengths, names)?;
        *parameters = aligned(&state.parameters);
        if let Some(training) = training {
            training.slots = state.slots.iter().map(|slot| aligned(slot)).collect();
        }
        network.pack(parameters, packed);
        Ok(())
    }

    fn find_non_finite(&mut self, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError> {
        let NativeEngine { threads, worker } = self;
        check_order(&epoch.order, worker.training()?.split.len())?;
        threads.install(|| worker.find_non_finite(epoch, last))
    }

    fn last_gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        let trained = self.worker.training.iter().filter(|training| training.has_run);
        Ok(trained.map(|training| plain(&training.gradients)).next().unwrap_or_default())
    }
}
