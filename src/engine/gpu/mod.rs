//! Training and evaluation on the GPU: a step is one recorded plan, which [`batches`] runs over the data.

mod autotune;
mod batches;
mod head;
mod limits;
mod program;

pub use autotune::TileChoices;
#[cfg(feature = "disk")]
pub use autotune::autotune;
pub use batches::Batches;

use crate::data::Split;
use crate::engine::loss::SoftLoss;
use crate::engine::operations::{OnGpu, record};
use crate::engine::{
    Engine, EngineError, Epoch, Inference, NonFinite, OnProgress, Pending, State, StepConfig, Totals, blank,
};
use crate::gpu::{Element, Gpu, Plan, PlanBuilder, Tensor};
use crate::lower::{Mode, Program, lower};
use crate::model::{Model, Parameter};
use crate::ops::softmax_xent::SoftTensors;
use crate::ops::{Groups, SharedTiles, adam, average, clip};
use batches::Feed;
use head::{Head, Unfinished};
use program::{Arena, GpuFusion};

/// Multiply-adds per evaluated batch: a quarter of a second on an adapter of 10 GFLOP/s, which is 100 times slower than a small GPU.
const EVALUATED_WORK: usize = 1_250_000_000;
/// Up to this batch size, preparation also runs the kernels on software adapters.
const TOUCHED_BATCH: usize = 256;

/// A model on a GPU, optionally with a training set.
#[derive(Debug)]
pub struct GpuEngine {
    gpu: Gpu,
    tiles: SharedTiles,
    model: Model,
    described: Vec<Parameter>,
    parameters: Arena,
    training: Option<Training>,
}

#[derive(Debug)]
struct Training {
    batches: Batches,
    /// What is to do before the first batch of an epoch: parameters may have been restored.
    once: Option<Plan>,
    update: Update,
    logits: Tensor,
}

/// What the update at the end of a training step needs.
#[derive(Debug)]
struct Update {
    config: StepConfig,
    rates: Tensor,
    /// The factor of the gradients.
    clip: Tensor,
    /// The training loss and its weights of the classes, if it compares with more than the labels.
    loss: Option<(SoftLoss, Tensor)>,
    gradients: Arena,
    /// In the order of [`Optimizer::slots`](crate::engine::Optimizer::slots).
    slots: Vec<Arena>,
    /// The moving average of all parameters, if training keeps one.
    averages: Option<Arena>,
}

impl Update {
    fn targets(&self) -> Option<SoftTensors<'_>> {
        self.loss.as_ref().map(|(loss, class_weights)| SoftTensors {
            smoothing: loss.smoothing,
            mixes: loss.mixes,
            class_weights,
            rates: &self.rates,
        })
    }
}

impl GpuEngine {
    /// Creates an engine for evaluation only.
    ///
    /// # Errors
    /// The model cannot be built, or the device failed.
    pub fn new(gpu: &Gpu, model: &Model, parameters: &[Vec<f32>]) -> Result<Self, EngineError> {
        let described = model.parameters()?;
        let arena = Arena::new(gpu, "parameters", &described, true)?;
        arena.write(gpu, parameters);
        let (gpu, model, tiles) = (gpu.clone(), model.clone(), SharedTiles::default());
        Ok(GpuEngine { gpu, tiles, model, described, parameters: arena, training: None })
    }

    /// Uses the tiles in workgroup memory that [`fn@super::autotune`] chose, from the next plan on; other tilings ignore them.
    pub fn with_tiles(self, tiles: SharedTiles) -> Self {
        GpuEngine { tiles, ..self }
    }

    /// Adds a training set.
    ///
    /// # Errors
    /// The samples cannot be used, a tensor exceeds the adapter's limits, or the device failed.
    pub async fn and_training(
        self,
        train: &Split,
        batch_size: usize,
        config: impl Into<StepConfig>,
    ) -> Result<Self, EngineError> {
        let config = config.into();
        let (gpu, described) = (&self.gpu, &self.described);
        let program = lower(&self.model, Mode::Train, batch_size, Some(&self.fusion()))?;
        log::debug!("a training step:\n{program}");
        let feed = Feed::new(gpu, "train", train, &self.model, batch_size, Some(&config))?;
        let gradients = Arena::new(gpu, "gradients", described, false)?;
        let slots = config.optimizer.slots().iter().map(|name| Arena::new(gpu, name, described, false));
        let slots = slots.collect::<Result<Vec<_>, EngineError>>()?;
        let averages = config.average.map(|_| self.new_averages()).transpose()?;
        let loss = SoftLoss::new(&config, train, self.model.classes())?;
        let loss = loss.map(|loss| {
            let weights = gpu.tensor_from("class_weights", &[loss.class_weights.len()], &loss.class_weights);
            weights.map(|weights| (loss, weights))
        });
        let mut tensors = self.tensors(&program, &self.parameters, Some(&gradients))?;
        let head = match loss {
            Some(_) => None,
            None => Head::find(gpu, self.tiles, &program, &mut tensors, &config, &gradients)?,
        };
        let logits = tensors[program.logits().0].clone();
        let rates = gpu.tensor("rates", &[train.len().div_ceil(batch_size), 4], Element::F32)?;
        let (clip, loss) = (gpu.tensor("clip", &[1], Element::F32)?, loss.transpose()?);
        let update = Update { config, rates, clip, loss, gradients, slots, averages };
        let plan = self.step(&feed, &program, &tensors, &update, head.as_ref()).await?;
        let once = self.once(&self.on_gpu(&feed, &program, &tensors)).await?;
        let entries: Vec<&str> = plan.dispatches().map(|dispatch| dispatch.entry).collect();
        log::debug!("a training step has {} dispatches: {}", entries.len(), entries.join(", "));
        let batches = Batches::new(gpu, feed, plan)?;
        Ok(GpuEngine { training: Some(Training { batches, once, update, logits }), ..self })
    }

    fn fusion(&self) -> GpuFusion {
        GpuFusion { gpu: self.gpu.clone(), tiles: self.tiles }
    }

    /// Creates the averages of all parameters, which start at their values.
    fn new_averages(&self) -> Result<Arena, EngineError> {
        let averages = Arena::new(&self.gpu, "averages", &self.described, true)?;
        let mut encoder = self.gpu.encoder("averages");
        averages.whole.copy_from(&mut encoder, &self.parameters.whole);
        self.gpu.submit(encoder.finish())?;
        Ok(averages)
    }

    /// The parameters that evaluate: the averages, if training keeps them.
    fn result(&self) -> &Arena {
        let averages = self.training.as_ref().and_then(|training| training.update.averages.as_ref());
        averages.unwrap_or(&self.parameters)
    }

    /// Records a training step: the batch, the program, the optimizer, the averages.
    async fn step(
        &self,
        feed: &Feed,
        program: &Program,
        tensors: &[Tensor],
        update: &Update,
        head: Option<&Head>,
    ) -> Result<Plan, EngineError> {
        let mut plan = PlanBuilder::new(&self.gpu);
        let unfinished = head.and_then(|head| head.unfinished.as_ref());
        let parts = unfinished.map_or(&[][..], |unfinished| &unfinished.parts);
        let on = OnGpu { targets: update.targets(), parts, ..self.on_gpu(feed, program, tensors) };
        feed.record(&mut plan, &on, Some(&update.config), head)?;
        self.record_update(&mut plan, feed, update, unfinished)?;
        Ok(plan.finish().await?)
    }

    /// Records the optimizer, before it the norm of the gradients if they are clipped, and after it the averages if there are any.
    fn record_update(
        &self,
        plan: &mut PlanBuilder,
        feed: &Feed,
        update: &Update,
        unfinished: Option<&Unfinished>,
    ) -> Result<(), EngineError> {
        let Update { config, rates, clip, gradients, slots, averages, .. } = update;
        let (g, w) = (&gradients.whole, &self.parameters.trained(gradients));
        if let Some(clip_norm) = config.clip_norm {
            clip::record(plan, clip_norm, g, clip)?;
        }
        let groups = Groups {
            starts: gradients.starts,
            factors: [config.factors.bias, config.factors.scale, config.factors.shift],
            decay: config.weight_decay > 0.0,
            clip: config.clip_norm.is_some(),
        };
        let slots: Vec<&Tensor> = slots.iter().map(|arena| &arena.whole).collect();
        match (unfinished, config.optimizer.adam(), &slots[..]) {
            (Some(Unfinished { of, whole, inputs, .. }), Some(adam), &[m, v]) => {
                let tensors = [g, w, m, v, rates, whole, inputs, &feed.all_totals];
                adam::record_pending(plan, adam, &groups, of, tensors, feed.slots())?;
            }
            _ => config.optimizer.record(plan, &groups, [g, w], &slots, [rates, &feed.progress, clip])?,
        }
        if let (Some(config), Some(averages)) = (&config.average, averages) {
            average::record(plan, config, [&self.parameters.whole, &averages.whole, rates, &feed.progress])?;
        }
        Ok(())
    }

    /// Records what is to do once after the parameters have changed; `None` if there is nothing.
    async fn once(&self, on: &OnGpu<'_>) -> Result<Option<Plan>, EngineError> {
        if on.program.once.is_empty() {
            return Ok(None);
        }
        let mut once = PlanBuilder::new(&self.gpu);
        on.program.once.iter().try_for_each(|step| record(&mut once, step, on))?;
        Ok(Some(once.finish().await?))
    }

    fn on_gpu<'a>(&self, feed: &'a Feed, program: &'a Program, tensors: &'a [Tensor]) -> OnGpu<'a> {
        let (labels, random) = (&feed.batch_labels, &feed.random);
        OnGpu { program, tiles: self.tiles, tensors, labels, targets: None, totals: feed.totals(), random, parts: &[] }
    }

    /// Compiles the kernels for training `model` in advance, while the data is still being read, so that
    /// [`GpuEngine::and_training`] finds them ready. Has no effect on the results of training.
    ///
    /// Checks `wanted` now and then, and stops early once it returns false; the first step then compiles the rest.
    ///
    /// # Errors
    /// The same as for [`GpuEngine::and_training`].
    pub async fn prepare_training(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        config: &StepConfig,
        tiles: SharedTiles,
        wanted: &dyn Fn() -> bool,
    ) -> Result<(), EngineError> {
        // No kernel depends on the number of samples: one blank sample needs the same kernels as the whole data set.
        let engine = GpuEngine::new(gpu, model, &[])?.with_tiles(tiles);
        let engine = engine.and_training(&blank(model, 1), batch_size, config).await?;
        // Hardware drivers have compiled by now. Software adapters compile at the first dispatch, but wgpu zeroes the tensors
        // before it, which takes longer than it saves for large batches.
        if let Some(training) = engine.training.filter(|_| gpu.is_software() && batch_size <= TOUCHED_BATCH) {
            gpu.touch(&training.batches.plan, wanted).await?;
        }
        Ok(())
    }

    /// Returns the logits `[N, 10]` of the last training step, for tests; empty if the engine was not created for training.
    ///
    /// # Errors
    /// The device failed.
    pub async fn last_logits(&self) -> Result<Vec<f32>, EngineError> {
        let Some(training) = &self.training else { return Ok(Vec::new()) };
        Ok(self.gpu.read(&training.logits).await?)
    }

    /// The training set and the step that trains on a batch of it, for measurements.
    ///
    /// # Errors
    /// The engine was not created for training.
    pub fn steps(&self) -> Result<&Batches, EngineError> {
        self.training.as_ref().map(|training| &training.batches).ok_or(EngineError::NoTraining)
    }

    /// Prepares the evaluation of `split` in batches of `batch_size`, for measurements.
    ///
    /// # Errors
    /// A tensor exceeds the adapter's limits, or the device failed.
    pub async fn evaluator(&self, split: &Split, batch_size: usize) -> Result<Batches, EngineError> {
        Ok(self.inference(split, batch_size).await?.0)
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
    async fn inference(&self, split: &Split, n: usize) -> Result<(Batches, Tensor), EngineError> {
        let gpu = &self.gpu;
        let program = lower(&self.model, Mode::Infer, n, Some(&self.fusion()))?;
        let feed = Feed::new(gpu, "evaluation", split, &self.model, n, None)?;
        let tensors = self.tensors(&program, self.result(), None)?;
        let on = self.on_gpu(&feed, &program, &tensors);
        if let Some(once) = self.once(&on).await? {
            gpu.run(&once).await?;
        }
        let mut plan = PlanBuilder::new(gpu);
        feed.record(&mut plan, &on, None, None)?;
        let probabilities = tensors[program.instructions[program.loss()].writes[0].0].clone();
        let plan = plan.finish().await?;
        Ok((Batches::new(gpu, feed, plan)?, probabilities))
    }
}

impl Engine for GpuEngine {
    fn begin_epoch<'a>(&'a mut self, epoch: &'a Epoch) -> Pending<'a, ()> {
        Box::pin(async move {
            let training = self.training.as_mut().ok_or(EngineError::NoTraining)?;
            self.gpu.write(&training.update.rates, bytemuck::cast_slice(&epoch.rates));
            training.batches.feed.write_draws(&self.gpu, epoch, &training.update.config);
            if let Some(once) = &training.once {
                self.gpu.run(once).await?;
            }
            training.batches.begin(&epoch.order, epoch.done).await
        })
    }

    fn advance(&mut self) -> Pending<'_, Totals> {
        Box::pin(async move { self.training.as_mut().ok_or(EngineError::NoTraining)?.batches.advance().await })
    }

    fn settle(&mut self) -> Pending<'_, Totals> {
        Box::pin(async move { self.training.as_mut().ok_or(EngineError::NoTraining)?.batches.settle().await })
    }

    fn infer<'a>(&'a mut self, split: &'a Split, on_progress: OnProgress<'a>) -> Pending<'a, Inference> {
        Box::pin(async move {
            if split.is_empty() {
                return Ok(Inference::default());
            }
            let (mut batches, of_batch) = self.inference(split, self.inference_batch(split.len())?).await?;
            let classes = self.model.classes();
            let all = self.gpu.tensor("probabilities", &[split.len(), classes], Element::F32)?;
            batches.outputs = Some([of_batch, all.clone()]);
            let totals = batches.run_all(on_progress).await?;
            let mut probabilities = self.gpu.read(&all).await?;
            probabilities.truncate(totals.samples as usize * classes);
            Ok(Inference { totals, probabilities })
        })
    }

    fn model(&self) -> &Model {
        &self.model
    }

    fn parameters(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        Box::pin(async move { self.result().read(&self.gpu).await })
    }

    fn state(&mut self) -> Pending<'_, State> {
        Box::pin(async move {
            let mut slots = Vec::new();
            for slot in self.training.iter().flat_map(|training| &training.update.slots) {
                slots.push(slot.read(&self.gpu).await?);
            }
            let averages = match self.training.as_ref().and_then(|training| training.update.averages.as_ref()) {
                Some(averages) => averages.read(&self.gpu).await?,
                None => Vec::new(),
            };
            Ok(State { parameters: self.parameters.read(&self.gpu).await?, slots, averages })
        })
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        let update = self.training.as_ref().map(|training| &training.update);
        let slots = update.map_or(&[][..], |update| update.config.optimizer.slots());
        let averages = update.and_then(|update| update.averages.as_ref());
        state.check(&self.described, slots, averages.is_some())?;
        averages.inspect(|averages| averages.write(&self.gpu, &state.averages));
        self.parameters.write(&self.gpu, &state.parameters);
        for (slot, values) in update.iter().flat_map(|update| &update.slots).zip(&state.slots) {
            slot.write(&self.gpu, values);
        }
        Ok(())
    }

    fn find_non_finite<'a>(&'a mut self, epoch: &'a Epoch, last: usize) -> Pending<'a, Option<NonFinite>> {
        Box::pin(async move {
            let Training { batches, update, .. } = self.training.as_ref().ok_or(EngineError::NoTraining)?;
            self.gpu.write(&update.rates, bytemuck::cast_slice(&epoch.rates));
            batches.feed.write_draws(&self.gpu, epoch, &update.config);
            // The same steps, but with a buffer for each tensor, so that all are there to be searched after a step.
            let program = lower(&self.model, Mode::Search, batches.feed.batch_size(), Some(&self.fusion()))?;
            let tensors = self.tensors(&program, &self.parameters, Some(&update.gradients))?;
            if let Some(once) = self.once(&self.on_gpu(&batches.feed, &program, &tensors)).await? {
                self.gpu.run(&once).await?;
            }
            let plan = self.step(&batches.feed, &program, &tensors, update, None).await?;
            let found = batches.search(&plan, epoch, last).await?;
            // The optimizer writes all parameters in one dispatch; report the parameter that contains the element.
            let mut arenas = update.slots.iter().chain([&self.parameters, &update.gradients]).chain(&update.averages);
            Ok(found.map(|found| match arenas.find(|arena| arena.whole.name() == found.tensor) {
                Some(arena) => {
                    let (tensor, index) = arena.part_at(found.index);
                    NonFinite { tensor, index, ..found }
                }
                None => found,
            }))
        })
    }

    fn last_gradients(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        Box::pin(async move {
            let training = self.training.as_ref().filter(|training| training.batches.has_run);
            let Some(training) = training else { return Ok(Vec::new()) };
            training.update.gradients.read(&self.gpu).await
        })
    }
}
