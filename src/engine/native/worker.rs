//! The work of the native engine's threads: training steps, evaluation, the search for numbers that are not finite.

use super::batch::{Batch, Share, slices};
use super::program::{NativeProgram, Phase, Shared, zeros};
use crate::data::Split;
use crate::engine::steps::{found, found_in};
use crate::engine::{EngineError, Epoch, NonFinite, Optimizer, Totals, check_split};
use crate::lower::{Mode, Place};
use crate::model::{Model, Parameter};
use crate::native::Aligned;
use crate::native::conv2d::{Form, Packed, Scratch};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Minimum number of groups into which the rows of a batch are divided, if it has that many rows. Each group has its own sums of the
/// convolutions' gradients, so this is also the number of threads that a small batch can keep busy.
pub(super) const GROUPS: usize = 8;

/// Maximum number of rows that are processed together: few enough that the output of a layer is still in the cache when the next layer reads it.
pub(super) const ROWS: usize = 32;

/// How long the engine works between two reports of progress.
pub(super) const SILENCE: Duration = Duration::from_millis(50);

/// The data that the threads work on.
#[derive(Debug)]
pub(super) struct Worker<'d> {
    pub(super) model: Model,
    pub(super) form: Form,
    pub(super) described: Vec<Parameter>,
    pub(super) parameters: Vec<Aligned<f32>>,
    /// One per thread.
    pub(super) scratch: Vec<Mutex<Scratch>>,
    pub(super) inference: Prepared,
    /// One per thread, created at the first evaluation.
    pub(super) evaluation: Vec<Mutex<Batch>>,
    pub(super) training: Option<Training<'d>>,
}

/// A program with what it needs besides the tensors of a batch.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) program: NativeProgram,
    /// The buffers without rows.
    pub(super) whole: Vec<Aligned<f32>>,
    pub(super) packed: Vec<Packed>,
}

/// The additional state of training.
#[derive(Debug)]
pub(super) struct Training<'d> {
    pub(super) split: &'d Split,
    pub(super) optimizer: Optimizer,
    pub(super) prepared: Prepared,
    /// In the order of [`Optimizer::slots`]; empty for statistics.
    pub(super) slots: Vec<Vec<Aligned<f32>>>,
    /// Empty for statistics.
    pub(super) gradients: Vec<Aligned<f32>>,
    pub(super) batch: Batch,
    pub(super) batch_size: usize,
    /// Rows per group.
    pub(super) group: usize,
    pub(super) has_run: bool,
}

impl Prepared {
    /// Creates the memory of a program; [`Prepared::prepare`] fills it.
    pub(super) fn new(program: NativeProgram) -> Result<Self, EngineError> {
        Ok(Prepared { whole: program.whole()?, packed: Vec::new(), program })
    }

    /// Computes again what follows from the parameters.
    pub(super) fn prepare(&mut self, parameters: &mut [Aligned<f32>]) {
        let Prepared { program, whole, packed } = self;
        program.prepare(parameters, whole, packed);
    }
}

/// These functions are called from a thread of the pool, so that the other threads are awake.
impl<'d> Worker<'d> {
    pub(super) fn training(&self) -> Result<&Training<'d>, EngineError> {
        self.training.as_ref().ok_or(EngineError::NoTraining)
    }

    /// Prepares for training, or for a search.
    pub(super) fn train(
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
        let batch = Batch::new(&program, batch_size, batch_size.div_ceil(group))?;
        let (slots, gradients) = (optimizer.slots().iter().map(|_| alike()).collect::<Result<_, _>>()?, alike()?);
        let mut prepared = Prepared::new(program)?;
        prepared.prepare(&mut self.parameters);
        self.training = Some(Training {
            split,
            optimizer: *optimizer,
            slots,
            gradients,
            batch,
            prepared,
            batch_size,
            group,
            has_run: false,
        });
        Ok(())
    }

    /// What the threads read in training.
    pub(super) fn shared<'a>(&'a self, training: &'a Training<'d>) -> Shared<'a> {
        let Prepared { whole, packed, .. } = &training.prepared;
        Shared { parameters: &self.parameters, gradients: &training.gradients, whole, packed }
    }

    /// Makes one step on the samples `order` with the given factor of the update. Returns the sum of the losses and the correct predictions.
    pub(super) fn step(&mut self, order: &[u32], step_size: f32) -> Result<(f64, u64), EngineError> {
        self.forward_backward(order)?;
        self.update(order.len(), step_size)?;
        let training = self.training.as_mut().ok_or(EngineError::NoTraining)?;
        training.has_run = true;
        Ok(training.batch.totals(order.len()))
    }

    /// Runs the first part of a step, over the rows.
    pub(super) fn forward_backward(&mut self, order: &[u32]) -> Result<(), EngineError> {
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
    pub(super) fn update(&mut self, n: usize, step_size: f32) -> Result<(), EngineError> {
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
    pub(super) fn some_steps(&mut self, epoch: &Epoch, totals: &mut Totals) -> Result<(), EngineError> {
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
    pub(super) fn timed_step(&mut self) -> Result<Vec<(String, Vec<f64>)>, EngineError> {
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
    pub(super) fn search_rows(&self, step: usize, n: usize) -> Result<Option<NonFinite>, EngineError> {
        let training = self.training()?;
        let (batch, native, shared) = (&training.batch, &training.prepared.program, self.shared(training));
        Ok(found_in(native.program(), step, &batch.loss[..n], |id| {
            // The gradients of weights follow in the second part.
            let is_of_rows = matches!(native.program().tensor(id).place, Place::Buffer(_));
            is_of_rows.then(|| native.content(id, n, &batch.tensors, shared)).flatten()
        }))
    }

    /// The same for the second part.
    pub(super) fn search_parameters(&self, step: usize) -> Result<Option<NonFinite>, EngineError> {
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
    pub(super) fn some_shares<T: Send>(
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

    pub(super) fn find_non_finite(&mut self, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError> {
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

/// Returns the element that belongs to the calling thread of a pool.
fn of_this_thread<T>(of_threads: &[Mutex<T>]) -> MutexGuard<'_, T> {
    let index = rayon::current_thread_index().unwrap_or(0);
    // If a thread panicked, what it left behind is overwritten before it is read.
    of_threads[index].lock().unwrap_or_else(PoisonError::into_inner)
}
