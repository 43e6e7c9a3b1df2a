//! Training and evaluation on the CPU by the loops of [`crate::native`]: `--device cpu`.
//!
//! A step has two parts, each divided among the threads. In the first, a thread takes some rows of the batch from start to end: gather,
//! forward, loss, backward, and the partial sums of the convolutions; the threads meet only where a step looks at the whole batch. In the
//! second, it takes slices of the parameters: gradient over all rows, optimizer. No order of summation depends on the number of threads,
//! so any number gives the same bits.

mod batch;
mod program;
mod worker;

use super::{
    Engine, EngineError, Epoch, NonFinite, OnProgress, Optimizer, State, Totals, check_order, check_split, for_all,
    only_trained, pixels,
};
use crate::data::Split;
use crate::gpu::peak::Peak;
use crate::lower::Mode;
use crate::model::Model;
use crate::native::conv2d::{Form, Scratch};
use crate::native::{Aligned, peak};
use batch::Share;
use program::NativeProgram;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::Instant;
use worker::{Prepared, ROWS, SILENCE, Training, Worker};

/// A model on the CPU.
#[derive(Debug)]
pub struct NativeEngine<'d> {
    threads: rayon::ThreadPool,
    worker: Worker<'d>,
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
        let inference = Prepared::new(program)?;
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
        let [gflops, gb_per_second] = self.threads.install(peak::measure);
        Peak { gflops, gb_per_second }
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
        worker.inference.prepare(&mut worker.parameters);
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

fn aligned(tensors: &[Vec<f32>]) -> Vec<Aligned<f32>> {
    tensors.iter().map(|values| Aligned::from(&values[..])).collect()
}

fn plain(tensors: &[Aligned<f32>]) -> Vec<Vec<f32>> {
    tensors.iter().map(|values| values.to_vec()).collect()
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
