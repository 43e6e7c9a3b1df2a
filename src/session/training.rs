//! A plan carried out: the engine, the loop, the evaluation.

use super::{Device, Plan, PlanError};
use crate::data::{Dataset, Split};
use crate::engine::{Engine, EngineError, GpuEngine, Inference, Totals};
use crate::model::initial_parameters;
use crate::ops::SharedTiles;
use crate::run::{RunConfig, Summary};
use crate::train::validation::{HoldOut, hold_out};
use crate::train::{Event, Outcome, Position, TrainOptions, Trained, Trainer, train, unless};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

impl Plan {
    /// Takes the images for validation out of the training set.
    ///
    /// # Errors
    /// Nothing would be left to train on, or nothing to validate on.
    pub fn hold_out(&self, train: &mut Split) -> Result<Split, PlanError> {
        let (count, which) = match &self.begun {
            Some(begun) => (begun.validation_images.min(train.len()), begun.hold_out()),
            None => (self.recipe.held_out(train.len())?, HoldOut::Stratified(self.recipe.seed)),
        };
        Ok(hold_out(train, count, which))
    }

    /// The configuration of the run.
    pub fn config(&self, device: &Device, dataset: &Dataset, validation: &Split, tiles: SharedTiles) -> RunConfig {
        let [name, driver, backend] = device.describe();
        RunConfig {
            version: env!("CARGO_PKG_VERSION").to_string(),
            model: self.model.clone(),
            model_file: self.model_file.clone(),
            dataset: dataset.kind,
            data_source: dataset.source.clone(),
            train_images: dataset.train.len(),
            validation_images: validation.len(),
            validation_split: match &self.begun {
                Some(begun) => begun.validation_split,
                None => Some(self.recipe.validation_split).filter(|&share| share > 0.0),
            },
            seed: self.recipe.seed,
            epochs: self.recipe.epochs,
            batch_size: self.recipe.batch_size,
            optimizer: self.optimizer,
            device: name,
            driver,
            backend,
            safe: device.gpu().is_some_and(|gpu| gpu.checked()),
            tiles: device.has_tiles().then_some(tiles),
        }
    }

    /// Checks that the data are those that the resumed run was started with.
    ///
    /// # Errors
    /// They are another data set, or another number of images.
    pub fn check_data(&self, config: &RunConfig) -> Result<(), PlanError> {
        match &self.begun {
            Some(begun) if begun.dataset != config.dataset => {
                Err(PlanError::OtherData { now: config.dataset, then: begun.dataset })
            }
            Some(begun) if begun.train_images != config.train_images => {
                Err(PlanError::OtherImages { now: config.train_images, then: begun.train_images })
            }
            _ => Ok(()),
        }
    }
}

/// A training.
#[derive(Debug)]
pub struct Training<'a> {
    engine: Box<dyn Engine + 'a>,
    options: TrainOptions,
    start: Position,
    validation: &'a Split,
    interrupt: &'a AtomicBool,
}

impl<'a> Training<'a> {
    /// Creates the engine, in the state from which the plan starts. Once `interrupt` is set, training and evaluation stop soon.
    ///
    /// # Errors
    /// The model or the batch does not fit the device, the checkpoint does not fit the model, or the device failed.
    pub fn new(
        plan: &Plan,
        device: &'a Device,
        tiles: SharedTiles,
        train: &'a Split,
        validation: &'a Split,
        interrupt: &'a AtomicBool,
    ) -> Result<Self, EngineError> {
        let Plan { model, recipe, optimizer, start, .. } = plan;
        if let Some(gpu) = device.gpu() {
            // Before memory is taken for them here.
            GpuEngine::check_parameters(gpu, model)?;
        }
        let initial = initial_parameters(&model.parameters()?, recipe.seed);
        let mut engine = device.trainer(model, &initial, train, recipe.batch_size, optimizer, tiles)?;
        if let Some(checkpoint) = start {
            engine.restore(&checkpoint.state)?;
        }
        let mut options = TrainOptions::new(recipe.epochs, train.len(), recipe.batch_size, *optimizer);
        options.seed = recipe.seed;
        let start = start.as_ref().map(|checkpoint| checkpoint.position.clone()).unwrap_or_default();
        Ok(Training { engine, options, start, validation, interrupt })
    }

    /// Where it starts.
    pub fn start(&self) -> &Position {
        &self.start
    }

    /// Trains to the end of the plan, until an interruption, or until a value is not finite; passes each event to `on_event`. Pauses after
    /// `pause_after`, if there is such a limit, so that a checkpoint can be saved.
    ///
    /// # Errors
    /// The device failed.
    pub fn run(
        &mut self,
        pause_after: Option<Duration>,
        on_event: &mut dyn FnMut(&Event, &mut Trainer<'_>),
    ) -> Result<Trained, EngineError> {
        self.options.pause_after = pause_after;
        let Training { engine, options, start, validation, interrupt } = self;
        train(&mut **engine, options, start.clone(), validation, interrupt, on_event)
    }

    /// Computes loss, accuracy and probabilities of the test set, in one pass; `None` if the user interrupted.
    ///
    /// # Errors
    /// The device failed.
    pub fn evaluate(&mut self, test: &Split) -> Result<Option<Inference>, EngineError> {
        if unless(self.interrupt).is_break() {
            return Ok(None);
        }
        let inference = self.engine.infer(test, &mut |_| unless(self.interrupt))?;
        Ok((inference.totals.samples as usize == test.len()).then_some(inference))
    }
}

impl Summary {
    /// The result of a training, with that of its evaluation, if there was one.
    pub fn new(config: &RunConfig, trained: &Trained, test: Option<&Totals>) -> Self {
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
            status: status.to_string(),
            batch_size: config.batch_size,
            parameters: trained.state.parameters.iter().map(Vec::len).sum(),
            test_loss: test.map(Totals::mean_loss),
            test_accuracy: test.map(Totals::accuracy),
            train_seconds: seconds,
            images_per_second: if seconds > 0.0 { images as f64 / seconds } else { 0.0 },
            version: config.version.clone(),
        }
    }
}
