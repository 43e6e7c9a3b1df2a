//! What a training is to do: from the settings that were given and a model file, or from the run that is resumed.

use crate::data::DatasetKind;
use crate::engine::StepConfig;
use crate::model::{Model, ModelError, ModelFile};
use crate::run::RunConfig;
use crate::run::checkpoint::Checkpoint;
use crate::train::settings::{Recipe, Setting, SettingError, Value};
use std::path::PathBuf;
use thiserror::Error;

/// Settings as they were given, in the order of the table.
pub type Given<'a> = &'a [(&'static Setting, Value)];

/// A training that has not started yet.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The model.
    pub model: Model,
    /// The file that it came from.
    pub model_file: Option<PathBuf>,
    /// The settings.
    pub recipe: Recipe,
    /// What a training step does.
    pub step: StepConfig,
    /// The configuration of the run that is resumed.
    pub begun: Option<RunConfig>,
    /// The checkpoint to resume from; a run that was stopped before the first one starts at step 0.
    pub start: Option<Checkpoint>,
}

/// Settings that contradict each other, or the run that is resumed.
#[derive(Debug, Error)]
pub enum PlanError {
    /// A setting cannot have its value.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The model file cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A setting is another one than when the run was started.
    #[error("`{}` is {given}, but the run was started with {was}", setting.name)]
    Changed {
        /// The setting.
        setting: &'static Setting,
        /// Its value now.
        given: Value,
        /// Its value then.
        was: String,
    },
    /// The model is another one than when the run was started.
    #[error("the model is {given}, but the run was started with another model, `{was}`")]
    OtherModel {
        /// As it was named.
        given: String,
        /// The name of the run's model.
        was: String,
    },
    /// The data set is another one than when the run was started.
    #[error("the data set is {now}, but the run was started with {then}")]
    OtherData {
        /// The data set now.
        now: DatasetKind,
        /// The data set then.
        then: DatasetKind,
    },
    /// The recipe of the run is one that no run can have.
    #[error("the recipe of the run: {0}")]
    Recorded(String),
    /// The number of training images is another one than when the run was started.
    #[error("there are {now} training images, but the run was started with {then}")]
    OtherImages {
        /// Their number now.
        now: usize,
        /// Their number then.
        then: usize,
    },
    /// The number of epochs is another one than when the run was started, and what the steps done so far were depends on it.
    #[error(
        "`epochs` is {epochs}, but the run was started with {was}, and its `{by}` depends on the number of all steps"
    )]
    OtherEnd {
        /// The epochs that were asked for.
        epochs: u64,
        /// The epochs of the run.
        was: u64,
        /// The name of the setting that depends on them.
        by: &'static str,
    },
    /// The run has more epochs than were asked for.
    #[error("`epochs` is {epochs}, but {done} {} done already; ask for at least as many", if *done == 1 { "epoch is" } else { "epochs are" })]
    Done {
        /// The epochs that were asked for.
        epochs: u64,
        /// The epochs that are done.
        done: u64,
    },
}

impl Plan {
    /// A new training: settings that were given take precedence over those of the model file.
    ///
    /// # Errors
    /// A setting cannot have its value, or contradicts another one.
    pub fn new(file: ModelFile, given: Given<'_>) -> Result<Self, PlanError> {
        let ModelFile { model, train, path: model_file } = file;
        let mut recipe = Recipe::default();
        recipe.read(&train).map_err(|reason| {
            PlanError::Model(ModelError::Parse { path: model_file.clone().unwrap_or_default(), reason })
        })?;
        given.iter().try_for_each(|(setting, value)| setting.set(&mut recipe, value.clone()))?;
        recipe.check_images(model.input)?;
        let step = recipe.step()?;
        recipe.check(&model)?;
        // Absolute, so that the command that repeats the run works anywhere.
        let model_file = model_file.map(|path| std::path::absolute(&path).unwrap_or(path));
        Ok(Plan { model, model_file, recipe, step, begun: None, start: None })
    }

    /// Resumes a run from a checkpoint, or from its first step. Only settings that [may change](Setting::may_change) may be given
    /// another value; `model` is the name of a model, if one was given.
    ///
    /// # Errors
    /// What was given contradicts the run.
    pub fn resume(
        config: RunConfig,
        start: Option<Checkpoint>,
        model: Option<&str>,
        given: Given<'_>,
    ) -> Result<Self, PlanError> {
        if let Some(name) = model
            && !Model::load(name)?.computes_like(&config.model)
        {
            return Err(PlanError::OtherModel { given: name.to_string(), was: config.model.name });
        }
        let all = config.train_images + config.validation_images;
        let was = config.recipe().map_err(PlanError::Recorded)?;
        let mut recipe = was.clone();
        for (setting, value) in given {
            setting.set(&mut recipe, value.clone())?;
            if !setting.may_change && !recipe.trains_like(&was, all) {
                let was = match (setting.get)(&was) {
                    Some(_) if setting.name == "validation_split" => {
                        format!("{} of {all} images held out", config.validation_images)
                    }
                    Some(was) => was.to_string(),
                    None => "none".to_string(),
                };
                return Err(PlanError::Changed { setting, given: value.clone(), was });
            }
        }
        let done = start.as_ref().map_or(0, |start| start.position.history.len() as u64);
        if recipe.epochs < done {
            return Err(PlanError::Done { epochs: recipe.epochs, done });
        }
        let step = config.step().map_err(PlanError::Recorded)?;
        let has_begun = start.as_ref().is_some_and(|start| start.position.steps(1) > 0);
        if let Some(by) = step.needs_end().filter(|_| has_begun && recipe.epochs != was.epochs) {
            return Err(PlanError::OtherEnd { epochs: recipe.epochs, was: was.epochs, by });
        }
        let (model, model_file) = (config.model.clone(), config.model_file.clone());
        Ok(Plan { model, model_file, recipe, step, begun: Some(config), start })
    }
}
