//! A training step of the native engine in its two parts, and the search for numbers that are not finite.

use super::batch::{BatchBuffers, Samples, Whole, slices};
use super::inputs;
use super::program::{Phase, Prepared, Shared};
use crate::clock::Instant;
use crate::data::Split;
use crate::engine::loss::SoftLoss;
use crate::engine::operations::{found, found_in};
use crate::engine::{EngineError, Epoch, NonFinite, Rates, StepConfig};
use crate::lower::Place;
use crate::model::Parameter;
use crate::native::conv2d::Scratch;
use crate::native::{Aligned, average, clip};
use rayon::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Minimum number of groups into which the rows of a batch are divided, if it has that many rows. Each group has its own sums of the
/// convolutions' gradients, so this is also the number of threads that a small batch can keep busy.
const GROUPS: usize = 8;

/// Maximum number of rows that are processed together: few enough that the output of a layer is still in the cache when the next layer reads it.
pub(super) const ROWS: usize = 32;

/// The additional state of training.
#[derive(Debug)]
pub(super) struct Training<'d> {
    pub(super) split: &'d Split,
    pub(super) config: StepConfig,
    pub(super) loss: Option<SoftLoss>,
    /// The parameters of the model.
    pub(super) described: Vec<Parameter>,
    pub(super) prepared: Prepared,
    /// In the order of [`Optimizer::slots`](crate::engine::Optimizer::slots); empty for parameters that are not trained.
    pub(super) slots: Vec<Vec<Aligned<f32>>>,
    /// Empty for parameters that are not trained.
    pub(super) gradients: Vec<Aligned<f32>>,
    /// The moving average of each parameter; empty if training keeps none.
    pub(super) averages: Vec<Aligned<f32>>,
    pub(super) batch: BatchBuffers,
    pub(super) batch_size: usize,
    /// The epoch that is trained, and how much of it is done.
    pub(super) epoch: Epoch,
    pub(super) has_run: bool,
}

/// Returns the number of rows per group of a batch.
pub(super) fn group_of(batch_size: usize) -> usize {
    batch_size.div_ceil(GROUPS).clamp(1, ROWS)
}

/// These functions are called from a thread of the pool, so that the other threads are awake.
impl Training<'_> {
    /// What the threads read.
    pub(super) fn shared<'a>(&'a self, parameters: &'a [Aligned<f32>]) -> Shared<'a> {
        self.prepared.shared(parameters, &self.gradients)
    }

    /// Returns a batch of an epoch, counted from 0: these samples, with what is drawn for them.
    pub(super) fn samples<'a>(&self, epoch: &Epoch, index: usize, order: &'a [u32], shape: [usize; 3]) -> Samples<'a> {
        let (augmented, random) = (epoch.augmented(&self.config, index, shape), epoch.random(&self.config, index));
        Samples { order, augmented, random }
    }

    /// Runs the first part of a step, over the rows.
    pub(super) fn forward_backward(
        &mut self,
        parameters: &mut [Aligned<f32>],
        scratch: &[Mutex<Scratch>],
        samples: Samples<'_>,
        rates: Rates,
    ) {
        let Training { split, loss, prepared: Prepared { program, whole, packed }, gradients, batch, .. } = self;
        let n = samples.order.len();
        let of_batch = Whole { n, loss: loss.as_ref().map(|loss| (loss, rates.share)) };
        batch.mix(split, samples.order, loss.as_ref());
        // One share per thread, so that each reads the dense weights only once, but no more rows than fit the cache.
        let groups = n.div_ceil(batch.group);
        let groups = groups.div_ceil(rayon::current_num_threads()).min((ROWS / batch.group).max(1));
        for (i, phase) in program.phases.iter().enumerate() {
            match phase {
                Phase::Rows(steps) => {
                    let shared = Shared { program, parameters, gradients, whole, packed };
                    let shares = batch.split(program, samples, groups * batch.group);
                    shares.into_par_iter().with_max_len(1).for_each(|mut share| {
                        if i == 0 {
                            share.gather(split);
                        }
                        let scratch = &mut of_this_thread(scratch);
                        steps.clone().for_each(|step| share.run(step, shared, of_batch, scratch));
                    });
                }
                Phase::Batch(step) => {
                    let step = &program.program.instructions[*step];
                    program.run_whole(step, n, &batch.tensors.floats, [parameters, gradients, whole]);
                }
                Phase::Inputs if inputs::IS_USED => {
                    let (x, layer) = batch.first_layer();
                    let w = &parameters[layer.weights];
                    layer.parts.par_iter_mut().with_max_len(1).for_each(|part| part.multiply(n, x, w));
                }
                Phase::Inputs => {}
            }
        }
    }

    /// Runs the second part of a step on `n` samples, over the parameters.
    pub(super) fn update(&mut self, parameters: &mut [Aligned<f32>], n: usize, rates: Rates) {
        let Training { config, described, prepared, slots, gradients, averages, batch, .. } = self;
        let Prepared { program, packed, .. } = prepared;
        average_untrained(config, described, parameters, averages, rates);
        let mut slices = slices(program, described, parameters, gradients, slots, averages, packed);
        let (program, batch, config) = (&*program, &*batch, &*config);
        let Some(clip_norm) = config.clip_norm else {
            slices.into_par_iter().with_max_len(1).for_each(|mut slice| {
                slice.gradient(program, batch, n);
                slice.step(program, config, rates, 1.0);
            });
            return;
        };
        // The threads meet between gradients and optimizer; the slices and their order are always the same, so the sums are too.
        let squares = slices.par_iter_mut().with_max_len(1).map(|slice| {
            slice.gradient(program, batch, n);
            clip::squared_norm(slice.g)
        });
        let squares: Vec<f64> = squares.collect();
        let factor = clip::clip_factor(clip_norm, &squares);
        slices.into_par_iter().with_max_len(1).for_each(|slice| slice.step(program, config, rates, factor));
    }

    /// Times one step in the calling thread, part by part. Returns their names and seconds.
    pub(super) fn timed_step(
        &mut self,
        parameters: &mut [Aligned<f32>],
        scratch: &[Mutex<Scratch>],
    ) -> Result<Vec<(String, f64)>, EngineError> {
        let mut times = Vec::new();
        let mut begin = Instant::now();
        let mut note = |name: String| {
            times.push((name, begin.elapsed().as_secs_f64()));
            begin = Instant::now();
        };
        let n = self.batch_size;
        let Training { split, config, loss, described, prepared, slots, gradients, averages, batch, .. } = self;
        let Prepared { program, whole, packed } = prepared;
        if split.len() < n {
            let reason = format!("a step takes {n} samples, but there are only {}", split.len());
            return Err(EngineError::Samples(reason));
        }
        let order: Vec<u32> = (0..n as u32).collect();
        let scratch = &mut *of_this_thread(scratch);
        let of_batch = Whole { n, loss: loss.as_ref().map(|loss| (loss, 1.0)) };
        batch.mix(split, &order, loss.as_ref());
        let at_loss = program.program.loss();
        let name_of = |i: usize| {
            let name = program.program.instructions[i].op.name();
            match i.cmp(&at_loss) {
                std::cmp::Ordering::Less => format!("{name}_forward"),
                std::cmp::Ordering::Equal => name.to_string(),
                std::cmp::Ordering::Greater => format!("{name}_backward"),
            }
        };
        for (phase_index, phase) in program.phases.iter().enumerate() {
            let steps = match phase {
                Phase::Batch(i) => {
                    let step = &program.program.instructions[*i];
                    program.run_whole(step, n, &batch.tensors.floats, [parameters, gradients, whole]);
                    note(name_of(*i));
                    continue;
                }
                Phase::Inputs if inputs::IS_USED => {
                    let (x, layer) = batch.first_layer();
                    let w = &parameters[layer.weights];
                    layer.parts.iter_mut().for_each(|part| part.multiply(n, x, w));
                    note(name_of(0));
                    continue;
                }
                Phase::Inputs => continue,
                Phase::Rows(steps) => steps,
            };
            let shared = Shared { program, parameters, gradients, whole, packed };
            for mut share in batch.split(program, &order[..], n) {
                note("shares".into());
                if phase_index == 0 {
                    share.gather(split);
                    note("batch_gather".into());
                }
                for i in steps.clone() {
                    share.run(i, shared, of_batch, scratch);
                    note(name_of(i));
                }
            }
        }
        for mut slice in slices(program, described, parameters, gradients, slots, averages, packed) {
            let name = format!("{}_update", program.operation_of(slice.index));
            slice.gradient(program, batch, n);
            let clip = config.clip_norm.map_or(1.0, |norm| clip::clip_factor(norm, &[clip::squared_norm(slice.g)]));
            slice.step(program, config, Rates::default(), clip);
            note(name);
        }
        Ok(times)
    }

    /// Returns the first tensor of the first part of a step on `n` samples with a value that is not finite, in the order of computation.
    /// Training must keep what it computes.
    pub(super) fn search_rows(&self, parameters: &[Aligned<f32>], step: usize, n: usize) -> Option<NonFinite> {
        let (program, shared) = (&self.prepared.program.program, self.shared(parameters));
        found_in(program, step, &self.batch.loss[..n], |id| {
            // The gradients of weights follow in the second part.
            let tensor = program.tensor(id);
            let is_of_rows = matches!(tensor.place, Place::Buffer(_)) && !tensor.is_index;
            is_of_rows.then(|| shared.rows(id, n, &self.batch.tensors.floats))
        })
    }

    /// The same for the second part.
    pub(super) fn search_parameters(&self, parameters: &[Aligned<f32>], step: usize) -> Option<NonFinite> {
        let kinds = [("gradients", "backward pass", &self.gradients[..])].into_iter();
        let slots = self.config.optimizer.slots().iter().zip(&self.slots);
        let kinds = kinds.chain(slots.map(|(&kind, tensors)| (kind, "optimizer step", &tensors[..])));
        let mut kinds = kinds
            .chain([("parameters", "optimizer step", parameters), ("averages", "optimizer step", &self.averages[..])]);
        kinds.find_map(|(kind, operation, tensors)| {
            let mut tensors = self.described.iter().zip(tensors);
            tensors.find_map(|(p, values)| found(step, format!("{kind}.{}", p.name), operation, values))
        })
    }
}

/// Moves the averages of the parameters that the optimizer leaves alone, of which there are no slices: statistics have few elements.
fn average_untrained(
    config: &StepConfig,
    described: &[Parameter],
    parameters: &mut [Aligned<f32>],
    averages: &mut [Aligned<f32>],
    rates: Rates,
) {
    let Some(config) = &config.average else { return };
    for ((_, w), average) in
        described.iter().zip(parameters).zip(averages).filter(|((parameter, _), _)| !parameter.is_trained())
    {
        average::average_step(rates.average, config.pulls(), w, average);
    }
}

/// Returns the element that belongs to the calling thread of a pool.
pub(super) fn of_this_thread<T>(of_threads: &[Mutex<T>]) -> MutexGuard<'_, T> {
    let index = rayon::current_thread_index().unwrap_or(0);
    // If a thread panicked, what it left behind is overwritten before it is read.
    of_threads[index].lock().unwrap_or_else(PoisonError::into_inner)
}
