//! Training and evaluation on the GPU: a step is one recorded plan, which [`batches`] runs over the data.

mod autotune;
mod batches;
mod limits;
mod program;

pub use autotune::{TileChoices, autotune};

use crate::data::Split;
use crate::engine::steps::OnGpu;
use crate::engine::{Engine, EngineError, Epoch, NonFinite, OnProgress, Optimizer, State, Totals, pixels};
use crate::gpu::timing::Timings;
use crate::gpu::{DispatchInfo, Element, Gpu, Plan, PlanBuilder, Tensor};
use crate::lower::{Mode, Program, lower};
use crate::model::{Model, Parameter};
use crate::ops::adam::AdamTensors;
use crate::ops::{SharedTiles, adam, sgd};
use batches::{Batches, Feed};
use program::{Arena, GpuFusion};
use std::ops::ControlFlow;

/// Multiply-adds per evaluated batch: a quarter of a second on an adapter of 10 GFLOP/s, which is 100 times slower than a small GPU.
const EVALUATED_WORK: usize = 1_250_000_000;
/// Up to this batch size, preparation also runs the kernels on software adapters.
const TOUCHED_BATCH: usize = 256;

/// A model on a GPU, optionally with a training set.
#[derive(Debug)]
pub struct GpuEngine<'g> {
    gpu: &'g Gpu,
    tiles: SharedTiles,
    model: Model,
    described: Vec<Parameter>,
    parameters: Arena,
    training: Option<Training>,
}

#[derive(Debug)]
struct Training {
    batch: Batches,
    optimizer: Optimizer,
    step_sizes: Tensor,
    logits: Tensor,
    gradients: Arena,
    slots: Vec<Slot>,
}

/// What the update at the end of a training step needs.
#[derive(Clone, Copy)]
struct Update<'a> {
    optimizer: &'a Optimizer,
    step_sizes: &'a Tensor,
    gradients: &'a Arena,
    slots: &'a [Slot],
}

/// One kind of optimizer state, such as Adam's first moments.
#[derive(Debug)]
struct Slot {
    name: &'static str,
    arena: Arena,
}

/// A split on the GPU, and the plan that evaluates it.
#[derive(Debug)]
pub struct Evaluator<'g> {
    gpu: &'g Gpu,
    batches: Batches,
    samples: usize,
}

impl Evaluator<'_> {
    /// Evaluates the whole split; stops early, after the work in flight, if `on_progress` breaks.
    ///
    /// # Errors
    /// The device failed.
    pub fn run(&mut self, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        let order: Vec<u32> = (0..self.samples as u32).collect();
        self.batches.run(self.gpu, &order, Totals::default(), on_progress)
    }

    /// The dispatches of a batch.
    pub fn dispatches(&self) -> Vec<DispatchInfo> {
        self.batches.plan.dispatches().collect()
    }

    /// Evaluates one batch to warm up and `rounds` more, and times each dispatch.
    ///
    /// # Errors
    /// There are too few batches, or the device failed.
    pub fn time_batch(&self, rounds: usize) -> Result<Timings, EngineError> {
        self.batches.time(self.gpu, rounds)
    }

    /// Seconds of host time to record a batch (on hardware also to submit it), averaged over the batches so far.
    pub fn host_seconds_per_step(&self) -> f64 {
        self.batches.host_seconds_per_step()
    }
}

impl<'g> GpuEngine<'g> {
    /// Creates an engine for evaluation only.
    ///
    /// # Errors
    /// The model cannot be built, or the device failed.
    pub fn new(gpu: &'g Gpu, model: &Model, parameters: &[Vec<f32>]) -> Result<Self, EngineError> {
        GpuEngine::untrained(gpu, model, parameters, SharedTiles::default())
    }

    fn untrained(
        gpu: &'g Gpu,
        model: &Model,
        parameters: &[Vec<f32>],
        tiles: SharedTiles,
    ) -> Result<Self, EngineError> {
        let described = model.parameters()?;
        let arena = Arena::new(gpu, "parameters", &described, true)?;
        arena.write(gpu, parameters);
        Ok(GpuEngine { gpu, tiles, model: model.clone(), described, parameters: arena, training: None })
    }

    /// Creates an engine that trains the model on `train`.
    ///
    /// # Errors
    /// The model cannot be built, a tensor exceeds the adapter's limits, or the device failed.
    pub fn with_training(
        gpu: &'g Gpu,
        model: &Model,
        parameters: &[Vec<f32>],
        train: &Split,
        batch_size: usize,
        optimizer: &Optimizer,
    ) -> Result<Self, EngineError> {
        GpuEngine::with_tiles(gpu, model, parameters, train, batch_size, optimizer, SharedTiles::default())
    }

    /// Like [`GpuEngine::with_training`], with the tiles in workgroup memory that [`fn@super::autotune`] chose; other tilings ignore them.
    ///
    /// # Errors
    /// The model cannot be built, a tensor exceeds the adapter's limits, or the device failed.
    pub fn with_tiles(
        gpu: &'g Gpu,
        model: &Model,
        parameters: &[Vec<f32>],
        train: &Split,
        batch_size: usize,
        optimizer: &Optimizer,
        tiles: SharedTiles,
    ) -> Result<Self, EngineError> {
        let mut engine = GpuEngine::untrained(gpu, model, parameters, tiles)?;
        let program = lower(model, Mode::Train, batch_size, &GpuFusion { gpu, tiles })?;
        log::debug!("a training step:\n{program}");
        let feed = Feed::new(gpu, "train", train, model, batch_size)?;
        let described = &engine.described;
        let gradients = Arena::new(gpu, "gradients", described, false)?;
        let slot = |&name: &&'static str| Ok(Slot { name, arena: Arena::new(gpu, name, described, false)? });
        let slots = optimizer.slots().iter().map(slot).collect::<Result<Vec<_>, EngineError>>()?;
        let tensors = program::tensors(gpu, &program, &engine.parameters, Some(&gradients))?;
        let logits = tensors[program.logits().0].clone();
        let step_sizes = gpu.tensor("step_sizes", &[train.len().div_ceil(batch_size)], Element::F32)?;
        let update = Update { optimizer, step_sizes: &step_sizes, gradients: &gradients, slots: &slots };
        let plan = engine.step(&feed, &program, &tensors, update)?;
        let entries: Vec<&str> = plan.dispatches().map(|dispatch| dispatch.entry).collect();
        log::debug!("a training step has {} dispatches: {}", entries.len(), entries.join(", "));
        let batch = feed.finish(gpu, plan)?;
        engine.training = Some(Training { batch, optimizer: *optimizer, step_sizes, logits, gradients, slots });
        Ok(engine)
    }

    /// Records a training step: the batch, the program, the optimizer.
    fn step(
        &self,
        feed: &Feed,
        program: &Program,
        tensors: &[Tensor],
        update: Update<'_>,
    ) -> Result<Plan, EngineError> {
        let Update { optimizer, step_sizes, gradients, slots } = update;
        let mut plan = PlanBuilder::new(self.gpu);
        feed.record_gather(&mut plan, &tensors[program.images.0])?;
        let on = OnGpu { tiles: self.tiles, tensors, labels: &feed.batch_labels, totals: feed.totals() };
        program::record_all(&mut plan, program, &program.steps, on)?;
        let (g, w) = (&gradients.whole, &self.parameters.trained(gradients));
        match (optimizer, slots) {
            (Optimizer::Adam(config), [m, v]) => {
                let (m, v) = (&m.arena.whole, &v.arena.whole);
                adam::record(&mut plan, config, &AdamTensors { g, w, m, v, step_sizes, progress: &feed.progress })?;
            }
            (Optimizer::Sgd(config), [velocity]) => {
                sgd::record(&mut plan, config, g, w, &velocity.arena.whole, step_sizes, &feed.progress)?;
            }
            (_, slots) => unreachable!("`Optimizer::slots` names {} slots for {optimizer:?}", slots.len()),
        }
        Ok(plan.finish()?)
    }

    /// Compiles the kernels for training `model` in advance, while the data is still being read, so that
    /// [`GpuEngine::with_tiles`] finds them ready. Has no effect on the results of training.
    ///
    /// Checks `wanted` now and then, and stops early once it returns false; the first step then compiles the rest.
    ///
    /// # Errors
    /// The same as for [`GpuEngine::with_training`].
    pub fn prepare_training(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        optimizer: &Optimizer,
        tiles: SharedTiles,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), EngineError> {
        // No kernel depends on the number of samples: one blank sample needs the same kernels as the whole data set.
        let blank = Split { images: vec![0; pixels(model)], labels: vec![0] };
        let engine = GpuEngine::with_tiles(gpu, model, &[], &blank, batch_size, optimizer, tiles)?;
        // Hardware drivers have compiled by now. Software adapters compile at the first dispatch, but wgpu zeroes the tensors
        // before it, which takes longer than it saves for large batches.
        if gpu.is_software() && batch_size <= TOUCHED_BATCH {
            engine.training.iter().try_for_each(|training| gpu.touch(&training.batch.plan, wanted))?;
        }
        Ok(())
    }

    /// Returns the logits `[N, 10]` of the last training step, for tests; empty if the engine was not created for training.
    ///
    /// # Errors
    /// The device failed.
    pub fn last_logits(&self) -> Result<Vec<f32>, EngineError> {
        self.training.as_ref().map_or(Ok(Vec::new()), |training| Ok(self.gpu.read(&training.logits)?))
    }

    /// The entry points of a training step in order; empty if the engine was not created for training.
    pub fn step_entries(&self) -> Vec<&'static str> {
        self.step_dispatches().iter().map(|dispatch| dispatch.entry).collect()
    }

    /// Creates an evaluator that evaluates `split` repeatedly in batches of `batch_size`, for measurements.
    ///
    /// # Errors
    /// A tensor exceeds the adapter's limits, or the device failed.
    pub fn evaluator(&self, split: &Split, batch_size: usize) -> Result<Evaluator<'g>, EngineError> {
        let (batches, _) = self.inference(split, batch_size)?;
        Ok(Evaluator { gpu: self.gpu, batches, samples: split.len() })
    }

    /// The dispatches of a training step; empty if the engine was not created for training.
    pub fn step_dispatches(&self) -> Vec<DispatchInfo> {
        self.training.iter().flat_map(|training| training.batch.plan.dispatches()).collect()
    }

    /// Seconds of host time to record a training step (on hardware also to submit it), averaged over the steps so far.
    pub fn host_seconds_per_step(&self) -> f64 {
        self.training.as_ref().map_or(0.0, |training| training.batch.host_seconds_per_step())
    }

    /// Runs one training step to warm up and `rounds` more, and times each dispatch.
    ///
    /// # Errors
    /// The engine was not created for training, there are too few batches, or the device failed.
    pub fn time_step(&mut self, rounds: usize) -> Result<Timings, EngineError> {
        let training = self.training.as_ref().ok_or(EngineError::NoTraining)?;
        training.batch.time(self.gpu, rounds)
    }

    /// The batch size of evaluation and prediction: large enough to keep the adapter busy, small enough for a CPU's cache, for the time
    /// that a batch may take on the slowest adapter, and for the buffer size that every device supports (128 MiB).
    fn inference_batch(&self, samples: usize) -> Result<usize, EngineError> {
        const MAX_VALUES: usize = (96 << 20) / 4;
        let layers = self.model.graph()?;
        let widest = layers.iter().map(|layer| layer.output.iter().product()).max().unwrap_or(1);
        let multiply_adds: usize = layers.iter().map(|layer| layer.multiply_adds).sum();
        let wanted = if self.gpu.is_software() { 128 } else { 2500 };
        let by_work = EVALUATED_WORK / multiply_adds.max(1);
        Ok(samples.min(wanted).min((MAX_VALUES / widest).max(1)).min(by_work.max(1)))
    }

    /// Creates the plan that evaluates `split`, and the tensor of its probabilities.
    fn inference(&self, split: &Split, n: usize) -> Result<(Batches, Tensor), EngineError> {
        let (gpu, tiles) = (self.gpu, self.tiles);
        let program = lower(&self.model, Mode::Infer, n, &GpuFusion { gpu, tiles })?;
        let feed = Feed::new(gpu, "evaluation", split, &self.model, n)?;
        let tensors = program::tensors(gpu, &program, &self.parameters, None)?;
        let on = OnGpu { tiles, tensors: &tensors, labels: &feed.batch_labels, totals: feed.totals() };
        if !program.once.is_empty() {
            let mut once = PlanBuilder::new(gpu);
            program::record_all(&mut once, &program, &program.once, on)?;
            gpu.run(&once.finish()?)?;
        }
        let mut plan = PlanBuilder::new(gpu);
        feed.record_gather(&mut plan, &tensors[program.images.0])?;
        program::record_all(&mut plan, &program, &program.steps, on)?;
        let probabilities = tensors[program.steps[program.loss()].writes[0].0].clone();
        let plan = plan.finish()?;
        Ok((feed.finish(gpu, plan)?, probabilities))
    }
}

impl Engine for GpuEngine<'_> {
    fn train_epoch(&mut self, epoch: &Epoch, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        let training = self.training.as_mut().ok_or(EngineError::NoTraining)?;
        self.gpu.write(&training.step_sizes, &epoch.step_sizes);
        training.batch.run(self.gpu, &epoch.order, epoch.done, on_progress)
    }

    fn evaluate(&mut self, split: &Split, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        if split.is_empty() {
            return Ok(Totals::default());
        }
        let order: Vec<u32> = (0..split.len() as u32).collect();
        let (mut batches, _) = self.inference(split, self.inference_batch(split.len())?)?;
        batches.run(self.gpu, &order, Totals::default(), on_progress)
    }

    fn predict(
        &mut self,
        images: &[u8],
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<f32>, EngineError> {
        let classes = self.model.classes();
        let n_images = images.len() / pixels(&self.model);
        if n_images == 0 {
            return Ok(Vec::new());
        }
        // The labels are unknown, and the loss that the plan computes from these is not read.
        let split = Split { images: images.to_vec(), labels: vec![0; n_images] };
        let (batches, probabilities) = self.inference(&split, self.inference_batch(n_images)?)?;
        let order: Vec<u32> = (0..n_images as u32).collect();
        self.gpu.write_u32(&batches.feed.order, &order);
        self.gpu.write_u32(&batches.feed.progress, &[0, n_images as u32]);
        let mut result = Vec::with_capacity(n_images * classes);
        while result.len() < n_images * classes {
            // Dispatch by dispatch, because it is not known how long one takes here.
            let mut encoder = self.gpu.encoder("prediction");
            self.gpu.submit_all_but_last(&mut encoder, &batches.plan)?;
            self.gpu.submit(encoder.finish())?;
            result.extend(self.gpu.read(&probabilities)?);
            // The last batch may have rows beyond the last image.
            result.truncate(n_images * classes);
            if on_progress(result.len() / classes).is_break() {
                break;
            }
        }
        Ok(result)
    }

    fn parameters(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        self.parameters.read(self.gpu)
    }

    fn state(&mut self) -> Result<State, EngineError> {
        let slots = self.training.iter().flat_map(|training| &training.slots);
        let slots = slots.map(|slot| slot.arena.read(self.gpu)).collect::<Result<_, _>>()?;
        Ok(State { parameters: self.parameters.read(self.gpu)?, slots })
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        let slots: Vec<&Slot> = self.training.iter().flat_map(|training| &training.slots).collect();
        state.check(&self.described, &slots.iter().map(|slot| slot.name).collect::<Vec<_>>())?;
        self.parameters.write(self.gpu, &state.parameters);
        for (slot, values) in slots.iter().zip(&state.slots) {
            slot.arena.write(self.gpu, values);
        }
        Ok(())
    }

    fn find_non_finite(&mut self, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError> {
        let training = self.training.as_ref().ok_or(EngineError::NoTraining)?;
        self.gpu.write(&training.step_sizes, &epoch.step_sizes);
        // The same steps, but with a buffer for each tensor, so that all are there to be searched after a step.
        let (gpu, tiles, batch) = (self.gpu, self.tiles, &training.batch);
        let program = lower(&self.model, Mode::Search, batch.batch_size(), &GpuFusion { gpu, tiles })?;
        let tensors = program::tensors(gpu, &program, &self.parameters, Some(&training.gradients))?;
        let Training { optimizer, step_sizes, gradients, slots, .. } = training;
        let plan = self.step(&batch.feed, &program, &tensors, Update { optimizer, step_sizes, gradients, slots })?;
        let found = batch.find_non_finite(gpu, &plan, epoch, last)?;
        // The optimizer writes all parameters in one dispatch; report the parameter that contains the element.
        let slots = training.slots.iter().map(|slot| &slot.arena);
        let arenas: Vec<&Arena> = slots.chain([&self.parameters, &training.gradients]).collect();
        Ok(found.map(|found| match arenas.iter().find(|arena| arena.whole.name() == found.tensor) {
            Some(arena) => {
                let (tensor, index) = arena.part_at(found.index);
                NonFinite { tensor, index, ..found }
            }
            None => found,
        }))
    }

    fn last_gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        let trained = self.training.iter().filter(|training| training.batch.has_run);
        trained.map(|training| training.gradients.read(self.gpu)).next().unwrap_or(Ok(Vec::new()))
    }
}
