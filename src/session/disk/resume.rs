//! What a run folder holds to resume its training from.

use crate::files::ShownPath;
use crate::model::{Model, Predict};
use crate::run::checkpoint::{self, Checkpoint, CheckpointError};
use crate::run::folder::RunFolder;
use crate::run::{CONFIG_FILE, Run, RunConfig, RunError};
use crate::session::Given;
use crate::train::Position;
use crate::train::settings::Value;
use serde::Serialize;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What training resumes from.
#[derive(Clone, Debug)]
pub struct Resumable {
    /// The configuration of the run.
    pub config: RunConfig,
    /// The newest checkpoint with its path; a run that was stopped before the first one starts at step 0.
    pub checkpoint: Option<(PathBuf, Checkpoint)>,
}

/// A run that cannot be resumed.
#[derive(Debug, Error)]
pub enum ResumeError {
    /// Its files cannot be read.
    #[error("{0}")]
    Run(#[from] RunError),
    /// Its checkpoints cannot be read.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// Every checkpoint is damaged.
    #[error("{} has no checkpoint that can be used (they are in {})", .0.shown(), .0.join(checkpoint::FOLDER).shown())]
    Damaged(PathBuf),
    /// There is neither a checkpoint nor a configuration.
    #[error("{} has neither a checkpoint nor a {CONFIG_FILE}, so there is nothing to resume", .0.shown())]
    Empty(PathBuf),
    /// The run has all its epochs, but no checkpoint to continue from.
    #[error("{} is complete and kept no checkpoint, so there is nothing to resume", .0.shown())]
    Complete(PathBuf),
    /// The configuration is not that of the checkpoint: nobody knows which of the two is meant.
    #[error("`{field}` is {found} in {}, but {was} in the checkpoint: it was changed since", path.shown())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value in the file.
        found: String,
        /// Its value in the checkpoint.
        was: String,
    },
}

impl Resumable {
    /// Searches the folder of a run. `given` are the settings that were given; `on_damaged` is called for each checkpoint that cannot be used.
    ///
    /// # Errors
    /// There is nothing to resume, or it was changed.
    pub fn find(
        folder: &RunFolder,
        given: Given<'_>,
        on_damaged: &mut dyn FnMut(&Path, &CheckpointError),
    ) -> Result<Self, ResumeError> {
        let mut damaged = false;
        let checkpoint = folder.checkpoints(1).newest(&mut |path, error| {
            on_damaged(path, error);
            damaged = true;
        })?;
        let config = match &checkpoint {
            Some((_, checkpoint)) => {
                check_config_file(folder.path(), &checkpoint.config)?;
                checkpoint.config.clone()
            }
            None if damaged => return Err(ResumeError::Damaged(folder.path().to_path_buf())),
            None => stopped_early(folder.path(), given)?,
        };
        Ok(Resumable { config, checkpoint })
    }
}

/// The configuration of a run without checkpoints, from which it starts once more.
fn stopped_early(path: &Path, given: Given<'_>) -> Result<RunConfig, ResumeError> {
    let config = RunConfig::read(path)?.ok_or_else(|| ResumeError::Empty(path.to_path_buf()))?;
    let epochs = given.iter().find_map(|(setting, value)| match value {
        Value::Count(epochs) if setting.name == "epochs" => Some(*epochs),
        _ => None,
    });
    // A run that was trained without checkpoints would be trained a second time to end as it is.
    let history = Run::open(path).and_then(|run| run.history()).unwrap_or_default();
    let position = Position { history, ..Position::default() };
    let patience = config.recipe().ok().and_then(|recipe| recipe.patience);
    let done = position.history.len() as u64;
    let is_over = patience.is_some_and(|patience| position.is_exhausted(patience));
    if done > 0 && (is_over || done >= epochs.unwrap_or(config.epochs)) {
        return Err(ResumeError::Complete(path.to_path_buf()));
    }
    Ok(config)
}

/// Compares the `config.json` in a run folder, if there is one, with the configuration in its checkpoint.
fn check_config_file(run: &Path, begun: &RunConfig) -> Result<(), ResumeError> {
    let Some(file) = RunConfig::read(run)? else { return Ok(()) };
    // The number of epochs, the device and the views may differ: a run may be resumed for longer, or elsewhere, and evaluated by others.
    let fields = |config: &RunConfig| {
        [
            ("model", json(&Model { predict: Predict::default(), ..config.model.clone() })),
            ("dataset", config.dataset.to_string()),
            ("train_images", config.train_images.to_string()),
            ("validation_images", config.validation_images.to_string()),
            ("validation_split", json(&config.validation_split)),
            ("seed", config.seed.to_string()),
            ("batch_size", config.batch_size.to_string()),
            ("optimizer", json(&config.optimizer)),
            ("recipe", json(&config.recipe)),
        ]
    };
    for ((field, found), (_, was)) in fields(&file).into_iter().zip(fields(begun)) {
        if found != was {
            return Err(ResumeError::Changed { path: run.join(CONFIG_FILE), field, found, was });
        }
    }
    Ok(())
}

/// As text, for comparison and for messages; numbers, strings and lists always have a JSON form.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
