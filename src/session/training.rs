//! A plan carried out: the data that it is for, the engine, the loop, the evaluation.

use super::views::{Evaluation, infer};
use super::{Device, Plan, PlanError};
use crate::data::{Dataset, Split};
use crate::engine::{Engine, EngineError, GpuEngine, StepConfig, Totals};
use crate::ops::SharedTiles;
use crate::run::{RunConfig, Summary};
use crate::train::validation::{HoldOut, hold_out};
use crate::train::{Event, Outcome, Position, TrainOptions, Trained, Trainer, train, unless};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// A plan with the device and the data that it is carried out with.
#[derive(Debug)]
pub struct Session<'a> {
    /// What to train and how.
    pub plan: &'a Plan,
    /// What computes.
    pub device: &'a Device,
    /// The tile sizes in workgroup memory; devices without [tiles](Device::has_tiles) ignore them.
    pub tiles: SharedTiles,
    /// The data, without the images for validation.
    pub dataset: Dataset,
    /// The images that were held out of the training set for validation.
    pub validation: Split,
    /// All of it, as a run records it.
    pub config: RunConfig,
    /// Once it is set, training and evaluation stop soon.
    pub interrupt: &'a AtomicBool,
}

impl<'a> Session<'a> {
    /// Takes the images for validation out of the training set, and checks that the data are those of the run that is resumed.
    ///
    /// # Errors
    /// Nothing would be left to train on, or nothing to validate on; or the run was started with another data set, or another number of images.
    pub fn new(
        plan: &'a Plan,
        device: &'a Device,
        tiles: SharedTiles,
        mut dataset: Dataset,
        interrupt: &'a AtomicBool,
    ) -> Result<Self, PlanError> {
        let (count, which) = match &plan.begun {
            Some(begun) => (begun.validation_images.min(dataset.train.len()), begun.hold_out()),
            None => (plan.recipe.held_out(dataset.train.len())?, HoldOut::Stratified(plan.recipe.seed)),
        };
        let validation = hold_out(&mut dataset.train, count, which);
        match &plan.begun {
            Some(begun) if begun.dataset != dataset.kind => {
                return Err(PlanError::OtherData { now: dataset.kind, then: begun.dataset });
            }
            Some(begun) if begun.train_images != dataset.train.len() => {
                return Err(PlanError::OtherImages { now: dataset.train.len(), then: begun.train_images });
            }
            _ => {}
        }
        let config = config(plan, device, tiles, &dataset, &validation);
        Ok(Session { plan, device, tiles, dataset, validation, config, interrupt })
    }
}

impl Session<'_> {
    /// Returns the first `count` training images, or as many as there are, as the training sees them in an epoch, counted from 1: as the plan
    /// augments and mixes them.
    pub fn augmented(&self, count: usize, epoch: u64) -> Split {
        let (train, recipe) = (&self.dataset.train, &self.plan.recipe);
        let config = StepConfig { seed: recipe.seed, ..self.plan.step.clone() };
        let mut options = TrainOptions::new(recipe.epochs, train.len(), recipe.batch_size, config);
        options.seed = recipe.seed;
        let shape = self.plan.model.input;
        let (epoch, pixels) = (options.epoch(epoch, shape), shape.iter().product::<usize>());
        let mut seen = train.clone();
        seen.truncate(count);
        let count = seen.len();
        for (index, batch) in epoch.order.chunks(recipe.batch_size).enumerate() {
            let mut wanted = batch.iter().map(|&sample| sample as usize).enumerate().filter(|(_, i)| *i < count);
            let Some(first) = wanted.next() else { continue };
            let images = epoch.images(&options.step, train, recipe.batch_size, index, shape);
            for (row, sample) in std::iter::once(first).chain(wanted) {
                let bytes = images[row * pixels..][..pixels].iter().map(|x| (x * 255.0).round() as u8);
                seen.images.splice(sample * pixels..(sample + 1) * pixels, bytes);
            }
        }
        seen
    }
}

/// The configuration of a run.
fn config(plan: &Plan, device: &Device, tiles: SharedTiles, dataset: &Dataset, validation: &Split) -> RunConfig {
    let [name, driver, backend] = device.describe();
    RunConfig {
        version: env!("CARGO_PKG_VERSION").to_string(),
        model: plan.model.clone(),
        model_file: plan.model_file.clone(),
        dataset: dataset.kind,
        data_source: dataset.source.clone(),
        train_images: dataset.train.len(),
        validation_images: validation.len(),
        validation_split: match &plan.begun {
            Some(begun) => begun.validation_split,
            None => Some(plan.recipe.validation_split).filter(|&share| share > 0.0),
        },
        seed: plan.recipe.seed,
        epochs: plan.recipe.epochs,
        batch_size: plan.recipe.batch_size,
        optimizer: plan.step.optimizer,
        recipe: plan.recipe.recorded(),
        device: name,
        driver,
        backend,
        safe: device.gpu().is_some_and(|gpu| gpu.checked()),
        tiles: device.has_tiles().then_some(tiles),
    }
}

/// A session whose engine is ready.
#[derive(Debug)]
pub struct Training<'a> {
    session: &'a Session<'a>,
    engine: Box<dyn Engine + 'a>,
    options: TrainOptions,
    start: Position,
}

impl<'a> Training<'a> {
    /// Creates the engine, in the state from which the plan starts.
    ///
    /// # Errors
    /// The model or the batch does not fit the device, the checkpoint does not fit the model, or the device failed.
    pub async fn new(session: &'a Session<'a>) -> Result<Self, EngineError> {
        let Session { device, tiles, dataset, .. } = session;
        let Plan { model, recipe, start, .. } = session.plan;
        // Whoever has a plan may give it another seed.
        let step = &StepConfig { seed: recipe.seed, ..session.plan.step.clone() };
        if let Some(gpu) = device.gpu() {
            // Before memory is taken for them here.
            GpuEngine::check_parameters(gpu, model)?;
        }
        let initial = model.initial_parameters(&dataset.train, recipe.seed)?;
        let engine = device.trainer(model, &initial, &dataset.train, recipe.batch_size, step, *tiles);
        let mut engine = engine.await?;
        if let Some(checkpoint) = start {
            engine.restore(&checkpoint.state)?;
        }
        let mut options = TrainOptions::new(recipe.epochs, dataset.train.len(), recipe.batch_size, step);
        (options.seed, options.patience) = (recipe.seed, recipe.patience);
        let start = start.as_ref().map(|checkpoint| checkpoint.position.clone()).unwrap_or_default();
        Ok(Training { session, engine, options, start })
    }

    /// Trains to the end of the plan, until an interruption, or until a value is not finite; passes each event to `on_event`.
    ///
    /// # Errors
    /// The device failed.
    pub async fn run(&mut self, on_event: &mut dyn FnMut(&Event, &mut Trainer<'_>)) -> Result<Trained, EngineError> {
        let Training { session, engine, options, start } = self;
        train(&mut **engine, options, start.clone(), &session.validation, session.interrupt, on_event).await
    }

    /// A trainer at the start of the plan, for those who drive it themselves. It pauses after `pause_after`, if there is such a limit, so that a
    /// checkpoint can be saved.
    ///
    /// # Errors
    /// The device failed.
    pub async fn trainer(&mut self, pause_after: Option<Duration>) -> Result<Trainer<'_>, EngineError> {
        self.options.pause_after = pause_after;
        let Training { session, engine, options, start } = self;
        Trainer::new(&mut **engine, options, start.clone(), &session.validation, session.interrupt).await
    }

    /// Computes loss, accuracy and probabilities of the test set, in one pass for each view of the images that the model predicts by; `None` if
    /// the user interrupted.
    ///
    /// # Errors
    /// The device failed.
    pub async fn evaluate(&mut self) -> Result<Option<Evaluation>, EngineError> {
        let Session { dataset, interrupt, plan, .. } = self.session;
        if unless(interrupt).is_break() {
            return Ok(None);
        }
        let views = plan.model.predict.views;
        let evaluation = infer(&mut *self.engine, &dataset.test, views, &mut |_| unless(interrupt)).await?;
        Ok((evaluation.totals.samples as usize == dataset.test.len()).then_some(evaluation))
    }
}

impl Summary {
    /// The result of a training, with that of its evaluation, if there was one.
    pub fn new(config: &RunConfig, trained: &Trained, test: Option<&Evaluation>) -> Self {
        let one_view = test.and_then(|test| test.one_view);
        let test = test.map(|test| &test.totals);
        let status = match trained.outcome {
            Outcome::NonFinite { .. } => "non-finite loss",
            Outcome::Complete if test.is_some() => "complete",
            Outcome::Complete | Outcome::Interrupted => "interrupted",
        };
        let (seconds, images) = (trained.position.total_seconds(), trained.position.images(config.train_images));
        Summary {
            model: config.model.name.clone(),
            dataset: config.dataset,
            device: config.device.clone(),
            driver: config.driver.clone(),
            seed: config.seed,
            epochs: config.epochs,
            epochs_completed: trained.position.history.len() as u64,
            best_epoch: trained.best_epoch(),
            status: status.to_string(),
            batch_size: config.batch_size,
            parameters: trained.parameters().iter().map(Vec::len).sum(),
            test_loss: test.map(Totals::mean_loss),
            test_accuracy: test.map(Totals::accuracy),
            test_accuracy_one_view: one_view.as_ref().map(Totals::accuracy),
            views: one_view.map(|_| config.model.predict.views.list().len()),
            train_seconds: seconds,
            images_per_second: if seconds > 0.0 { images as f64 / seconds } else { 0.0 },
            version: config.version.clone(),
        }
    }
}
