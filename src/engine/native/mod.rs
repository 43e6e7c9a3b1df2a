//! Training and evaluation on the CPU by the loops of [`crate::native`]: `--device cpu`.
//!
//! A step has two parts, each divided among the threads. In the first, a thread takes some rows of the batch from start to end: gather,
//! forward, loss, backward, and the partial sums of the convolutions; the threads meet only where a step looks at the whole batch. In the
//! second, it takes slices of the parameters: gradient over all rows, optimizer. No order of summation depends on the number of threads,
//! so any number gives the same bits.

mod batch;
mod inputs;
mod program;
mod times;
mod training;

use super::{
    Engine, EngineError, Epoch, Inference, NonFinite, OnProgress, Pending, State, StepConfig, Totals, check_order,
    check_split, for_all, loss::SoftLoss, only_trained,
};
use crate::clock::Instant;
use crate::data::Split;
use crate::gpu::peak::Peak;
use crate::lower::Mode;
use crate::model::{Model, Parameter};
use crate::native::conv2d::{Algorithm, Scratch};
use crate::native::{Aligned, peak};
use crate::threads::Pool;
use batch::{BatchBuffers, Share, Whole, totals};
use inputs::ByInputs;
use program::{Prepared, zeros};
use rayon::prelude::*;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::Duration;
use training::{ROWS, Training, group_of, of_this_thread};

/// How long the engine works between two reports of progress.
const SILENCE: Duration = Duration::from_millis(50);

/// A model on the CPU.
#[derive(Debug)]
pub struct NativeEngine<'d> {
    threads: Pool,
    model: Model,
    algorithm: Algorithm,
    described: Vec<Parameter>,
    parameters: Vec<Aligned<f32>>,
    /// One per thread.
    scratch: Vec<Mutex<Scratch>>,
    inference: Prepared,
    /// One per thread, created at the first evaluation.
    evaluation: Vec<Mutex<BatchBuffers>>,
    training: Option<Training<'d>>,
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
        Self::with_algorithm(model, parameters, threads, Algorithm::Fastest)
    }

    /// Like [`NativeEngine::new`], with the convolutions in the given algorithm.
    ///
    /// # Errors
    /// The same as for [`NativeEngine::new`].
    pub fn with_algorithm(
        model: &Model,
        parameters: &[Vec<f32>],
        threads: usize,
        algorithm: Algorithm,
    ) -> Result<Self, EngineError> {
        let inference = Prepared::new(model, Mode::Infer, algorithm)?;
        // For 0, rayon would choose a number itself, but each thread needs its scratch memory.
        let n = threads.max(1);
        let threads = Pool::new(n).map_err(|reason| EngineError::Threads { threads: n, reason })?;
        let described = model.parameters()?;
        State { parameters: parameters.to_vec(), ..State::default() }.check(&described, &[], false)?;
        let (model, parameters, evaluation) = (model.clone(), aligned(parameters), Vec::new());
        let scratch = (0..n).map(|_| Mutex::new(Scratch::new(&inference.program.convs))).collect();
        let training = None;
        Ok(NativeEngine { threads, model, algorithm, described, parameters, scratch, inference, evaluation, training })
    }

    /// Adds a training set.
    ///
    /// # Errors
    /// The samples cannot be used, or there is not enough memory.
    pub fn and_training(
        self,
        split: &'d Split,
        batch_size: usize,
        config: impl Into<StepConfig>,
    ) -> Result<Self, EngineError> {
        let config = config.into();
        let mut engine = self;
        check_split(split, &engine.model)?;
        let (prepared, batch) = engine.prepared(Mode::Train, batch_size)?;
        let zeros_alike = || {
            let lens = engine.described.iter().map(|p| if p.is_trained() { p.len() } else { 0 });
            lens.map(zeros).collect::<Result<Vec<_>, _>>()
        };
        let slots = config.optimizer.slots().iter().map(|_| zeros_alike()).collect::<Result<_, _>>()?;
        let gradients = zeros_alike()?;
        let described = engine.described.clone();
        let (epoch, has_run) = (Epoch::default(), false);
        let averages = if config.average.is_some() { aligned(&plain(&engine.parameters)) } else { Vec::new() };
        let loss = SoftLoss::new(&config, split, engine.model.classes())?;
        let training = Training {
            split,
            config,
            loss,
            described,
            prepared,
            slots,
            gradients,
            averages,
            batch,
            batch_size,
            epoch,
            has_run,
        };
        Ok(NativeEngine { training: Some(training), ..engine })
    }

    /// Creates a program for training, or for a search, and the tensors of its batch.
    fn prepared(&mut self, mode: Mode, batch_size: usize) -> Result<(Prepared, BatchBuffers), EngineError> {
        let mut prepared = Prepared::new(&self.model, mode, self.algorithm)?;
        for scratch in &mut self.scratch {
            let both = prepared.program.convs.iter().chain(&self.inference.program.convs);
            *scratch = Mutex::new(Scratch::new(both));
        }
        let mut batch = BatchBuffers::new(&prepared.program, batch_size, group_of(batch_size))?;
        batch.by_inputs = ByInputs::new(&mut prepared.program, batch_size)?;
        prepared.prepare(&mut self.parameters);
        Ok((prepared, batch))
    }

    /// Times the parts of a training step in one thread, after one step to warm up. Returns their names and the seconds of each of `rounds`.
    ///
    /// # Errors
    /// The engine was not created for training, or the training set is smaller than a batch.
    pub fn time_step(&mut self, rounds: usize) -> Result<Vec<(String, Vec<f64>)>, EngineError> {
        let NativeEngine { parameters, scratch, training, .. } = self;
        let training = training.as_mut().ok_or(EngineError::NoTraining)?;
        let mut timed_step = || training.timed_step(parameters, scratch);
        let mut times: Vec<_> = timed_step()?.into_iter().map(|(name, _)| (name, Vec::new())).collect();
        for _ in 0..rounds {
            for ((_, seconds), (_, of_round)) in times.iter_mut().zip(timed_step()?) {
                seconds.push(of_round);
            }
        }
        Ok(times)
    }

    /// Measures the peak performance of the engine's threads.
    pub fn peak(&self) -> Peak {
        let [gflops, gb_per_second] = self.threads.install(peak::measure);
        Peak { gflops, gb_per_second, launch_us: 0.0 }
    }

    /// Describes how each convolution is computed forward and backward.
    pub fn describe(&self) -> Vec<String> {
        let prepared = self.training.as_ref().map_or(&self.inference, |training| &training.prepared);
        prepared.program.convs.iter().map(|conv| conv.describe().join(", ")).collect()
    }

    /// Calls `work` for each share of [`ROWS`] samples of a split, on all threads, and passes the results to `on_some` in the order of the
    /// samples, about once per [`SILENCE`], until it breaks.
    fn for_each_share<T: Send>(
        &mut self,
        split: &Split,
        work: impl Fn(&mut Share<'_>) -> T + Sync,
        mut on_some: impl FnMut(Vec<T>) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        while self.evaluation.len() < self.scratch.len() {
            self.evaluation.push(Mutex::new(BatchBuffers::new(&self.inference.program, ROWS, ROWS)?));
        }
        let NativeEngine { threads, parameters, scratch, inference, evaluation, training, .. } = self;
        let averages = training.as_mut().map(|training| &mut training.averages).filter(|averages| !averages.is_empty());
        let parameters = averages.unwrap_or(parameters);
        inference.prepare(parameters);
        let (program, shared) = (&inference.program, inference.shared(parameters, &[]));
        let compute = |order: &[u32]| {
            let (mut scratch, mut batch) = (of_this_thread(scratch), of_this_thread(evaluation));
            let mut share = batch.split(program, order, ROWS).pop().expect("a chunk is never empty");
            share.gather(split);
            let whole = Whole { n: order.len(), loss: None };
            (0..program.program.instructions.len()).for_each(|i| share.run(i, shared, whole, &mut scratch));
            work(&mut share)
        };
        // Always whole shares: the same rows are computed together, whatever the number of shares at a time.
        let (mut first, mut shares) = (0, scratch.len().max(1));
        while first < split.len() {
            let begin = Instant::now();
            let order: Vec<u32> = (first..split.len().min(first + shares * ROWS)).map(|i| i as u32).collect();
            first += order.len();
            let results = threads.install(|| order.par_chunks(ROWS).with_max_len(1).map(&compute).collect());
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
        let training = self.training.as_ref().filter(|training| training.has_run)?;
        let logits = training.prepared.program.program.logits();
        Some(training.shared(&self.parameters).rows(logits, training.batch_size, &training.batch.tensors.floats))
    }
}

fn aligned(tensors: &[Vec<f32>]) -> Vec<Aligned<f32>> {
    tensors.iter().map(|values| Aligned::from(&values[..])).collect()
}

fn plain(tensors: &[Aligned<f32>]) -> Vec<Vec<f32>> {
    tensors.iter().map(|values| values.to_vec()).collect()
}

impl Engine for NativeEngine<'_> {
    fn begin_epoch<'a>(&'a mut self, epoch: &'a Epoch) -> Pending<'a, ()> {
        Box::pin(async move {
            let training = self.training.as_mut().ok_or(EngineError::NoTraining)?;
            check_order(&epoch.order, training.split.len())?;
            training.epoch = epoch.clone();
            Ok(())
        })
    }

    fn advance(&mut self) -> Pending<'_, Totals> {
        Box::pin(async move {
            let NativeEngine { threads, parameters, scratch, training, model, .. } = self;
            let training = training.as_mut().ok_or(EngineError::NoTraining)?;
            // Taken out while the batches borrow it.
            let epoch = std::mem::take(&mut training.epoch);
            let mut done = epoch.done;
            // From a thread of the pool, so that the others are awake.
            threads.install(|| {
                let begin = Instant::now();
                let is_first = !training.has_run;
                for (index, order) in epoch.order.chunks(training.batch_size).enumerate().skip(done.batches) {
                    let samples = training.samples(&epoch, index, order, model.input);
                    training.forward_backward(parameters, scratch, samples, epoch.rates[index]);
                    training.update(parameters, order.len(), epoch.rates[index]);
                    training.has_run = true;
                    let BatchBuffers { loss, correct, .. } = &training.batch;
                    let (loss, correct) = totals(&loss[..order.len()], &correct[..order.len()]);
                    done.add(loss, correct, order.len());
                    // Report the first step at once, and a loss that is not finite.
                    if is_first || begin.elapsed() >= SILENCE || !loss.is_finite() {
                        break;
                    }
                }
            });
            training.epoch = Epoch { done, ..epoch };
            Ok(done)
        })
    }

    fn settle(&mut self) -> Pending<'_, Totals> {
        Box::pin(async move { Ok(self.training.as_ref().ok_or(EngineError::NoTraining)?.epoch.done) })
    }

    fn infer<'a>(&'a mut self, split: &'a Split, on_progress: OnProgress<'a>) -> Pending<'a, Inference> {
        Box::pin(async move {
            check_split(split, &self.model)?;
            let mut inference = Inference::default();
            let results = |share: &mut Share<'_>| {
                let (loss, correct) = totals(share.loss, share.correct);
                (loss, correct, share.loss.len(), share.probabilities.to_vec())
            };
            self.for_each_share(split, results, |shares| {
                for (loss, correct, samples, probabilities) in shares {
                    inference.totals.add(loss, correct, samples);
                    inference.probabilities.extend(probabilities);
                }
                on_progress(&inference.totals)
            })?;
            Ok(inference)
        })
    }

    fn model(&self) -> &Model {
        &self.model
    }

    fn parameters(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        Box::pin(async move {
            let averages = self.training.as_ref().map(|training| &training.averages);
            Ok(plain(averages.filter(|averages| !averages.is_empty()).unwrap_or(&self.parameters)))
        })
    }

    fn state(&mut self) -> Pending<'_, State> {
        Box::pin(async move {
            let slots = self.training.iter().flat_map(|training| &training.slots);
            let slots = slots.map(|slot| only_trained(&self.described, &plain(slot))).collect();
            let averages = self.training.as_ref().map_or(Vec::new(), |training| plain(&training.averages));
            Ok(State { parameters: plain(&self.parameters), slots, averages })
        })
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        let NativeEngine { described, parameters, training, .. } = self;
        let slots = training.as_ref().map_or(&[][..], |training| training.config.optimizer.slots());
        let has_averages = training.as_ref().is_some_and(|training| !training.averages.is_empty());
        state.check(described, slots, has_averages)?;
        *parameters = aligned(&state.parameters);
        if let Some(training) = training {
            training.slots = state.slots.iter().map(|slot| aligned(&for_all(described, slot))).collect();
            training.averages = aligned(&state.averages);
            training.prepared.prepare(parameters);
        }
        Ok(())
    }

    fn find_non_finite<'a>(&'a mut self, epoch: &'a Epoch, last: usize) -> Pending<'a, Option<NonFinite>> {
        Box::pin(async move {
            let Training { split, batch_size, .. } = self.training.as_ref().ok_or(EngineError::NoTraining)?;
            check_order(&epoch.order, split.len())?;
            // The same steps, but with a buffer for each tensor, so that all are there to be searched after a step.
            let (prepared, batch) = self.prepared(Mode::Search, *batch_size)?;
            let NativeEngine { threads, parameters, scratch, training, model, .. } = self;
            let training = training.as_mut().ok_or(EngineError::NoTraining)?;
            (training.prepared, training.batch, training.has_run) = (prepared, batch, false);
            let mut batches = epoch.order.chunks(training.batch_size).enumerate().take(last).skip(epoch.done.batches);
            let found = threads.install(|| {
                batches.find_map(|(index, order)| {
                    let samples = training.samples(epoch, index, order, model.input);
                    training.forward_backward(parameters, scratch, samples, epoch.rates[index]);
                    training.search_rows(parameters, index + 1, order.len()).or_else(|| {
                        training.update(parameters, order.len(), epoch.rates[index]);
                        training.search_parameters(parameters, index + 1)
                    })
                })
            });
            Ok(found)
        })
    }

    fn last_gradients(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        Box::pin(async move {
            let training = self.training.as_ref().filter(|training| training.has_run);
            let gradients = training.map(|training| only_trained(&self.described, &plain(&training.gradients)));
            Ok(gradients.unwrap_or_default())
        })
    }
}
