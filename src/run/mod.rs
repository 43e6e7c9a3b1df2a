//! The files of a run, and how a finished run is read: configuration, weights, history, summary, images.

pub mod archive;
pub mod checkpoint;
#[cfg(feature = "disk")]
mod disk;
#[cfg(feature = "disk")]
pub mod folder;

pub use archive::RunFiles;
#[cfg(feature = "disk")]
pub use disk::{Run, run_name};

use crate::data::DatasetKind;
use crate::engine::{Optimizer, StepConfig};
use crate::files::{FileError, ShownPath};
use crate::model::Model;
use crate::model::weights::WeightsError;
use crate::ops::SharedTiles;
use crate::train::EpochRecord;
use crate::train::settings::{MAX_BATCH_SIZE, MAX_EPOCHS, Method, Recipe};
use crate::train::validation::HoldOut;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Name of the weight file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Name of the weight file with the lowest validation loss.
pub const BEST_FILE: &str = "best.safetensors";
/// Name of the configuration.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the history, one JSON object per epoch.
pub const HISTORY_FILE: &str = "history.jsonl";
/// Name of the report's figures.
pub const REPORT_FILE: &str = "report.json";
/// Name of the history as a table.
pub const HISTORY_CSV_FILE: &str = "history.csv";
/// Name of the summary.
pub const SUMMARY_FILE: &str = "summary.json";

/// Name of the folder of TensorBoard's event files.
pub const TENSORBOARD_FOLDER: &str = "tensorboard";
/// Every file of a run but checkpoints, event files and [feature maps](is_feature_map): what goes when another run replaces it.
pub const RUN_FILES: [&str; 17] = [
    CONFIG_FILE,
    MODEL_FILE,
    BEST_FILE,
    HISTORY_FILE,
    HISTORY_CSV_FILE,
    SUMMARY_FILE,
    REPORT_FILE,
    "report.html",
    "samples.png",
    "predictions.png",
    "loss.svg",
    "accuracy.svg",
    "confusion.svg",
    "calibration.svg",
    "kernel_times.svg",
    "mistakes.png",
    "filters.png",
];

/// Whether a file of this name is one of a report's images of feature maps, one per layer.
pub fn is_feature_map(name: &str) -> bool {
    name.starts_with("feature_maps_") && name.ends_with(".png")
}

/// Largest weight file or checkpoint that is read, bytes.
pub const MAX_WEIGHT_BYTES: u64 = 1 << 30;
/// Largest file of figures that is read, bytes: a history has some 200 per epoch.
pub const MAX_JSON_BYTES: u64 = 64 << 20;
/// Most images that a run can have been trained on, far above any real run and far below where sums could overflow.
const MAX_IMAGES: u64 = 1 << 32;

/// A run folder that cannot be used.
#[derive(Debug, Error)]
pub enum RunError {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder exists already.
    #[error("{} exists and is not empty", .0.shown())]
    Exists(PathBuf),
    /// Another process trains into the folder.
    #[error("another training is writing into {}; wait for it, or choose another folder", .0.shown())]
    Locked(PathBuf),
    /// The folder cannot be created or written to.
    #[error("cannot {action} the run folder {}: {source}", path.shown())]
    Folder {
        /// What was attempted: "create" or "write to".
        action: &'static str,
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is no run.
    #[error("{} is not a run: {reason}", path.shown())]
    NoRun {
        /// What was named.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// A file of the run cannot be read.
    #[error("{}: {reason}", path.shown())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The weight file does not hold a model.
    #[error("{}: {source}", path.shown())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: WeightsError,
    },
}

/// `config.json`: every setting, as resolved before training started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Version of the program.
    pub version: String,
    /// The model, layer by layer.
    pub model: Model,
    /// The file that the model came from; `None` for a built-in model, and in runs of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_file: Option<PathBuf>,
    /// The data set that was used.
    pub dataset: DatasetKind,
    /// Where it was found.
    pub data_source: String,
    /// Training images used.
    pub train_images: usize,
    /// Images held out of the training set for validation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub validation_images: usize,
    /// The share that was to be held out of each class; `None` if nothing was, and in runs of version 0.1, which held out the last images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_split: Option<f64>,
    /// Seed of the weights and the permutations.
    pub seed: u64,
    /// Epochs requested.
    pub epochs: u64,
    /// Images per step.
    pub batch_size: usize,
    /// Optimizer with its settings.
    pub optimizer: Optimizer,
    /// The settings of the recipe that are not the default and have no field here.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub recipe: toml::Table,
    /// The adapter.
    pub device: String,
    /// Its driver and version.
    pub driver: String,
    /// `vulkan`, `metal`, `dx12`, `cpu` or `reference`.
    pub backend: String,
    /// Whether wgpu's run-time checks were on.
    pub safe: bool,
    /// The tile sizes in workgroup memory; `None` if the device has no such tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<SharedTiles>,
}

impl RunConfig {
    /// The settings of the training.
    ///
    /// # Errors
    /// The `recipe` has a setting that no run can have; [`RunConfig::check`] finds it.
    pub fn recipe(&self) -> Result<Recipe, String> {
        let all = self.train_images + self.validation_images;
        let (momentum, nesterov) = self.optimizer.momentum().unzip();
        let mut recipe = Recipe {
            epochs: self.epochs,
            batch_size: self.batch_size,
            optimizer: Method::from(&self.optimizer),
            learning_rate: self.optimizer.learning_rate(),
            momentum,
            nesterov: nesterov.unwrap_or(false),
            seed: self.seed,
            train_limit: Some(all as u64),
            validation_split: self.validation_split.unwrap_or(self.validation_images as f64 / all as f64),
            ..Recipe::default()
        };
        recipe.restore(&self.recipe).map(|()| recipe)
    }

    /// What a training step does.
    ///
    /// # Errors
    /// As [`RunConfig::recipe`].
    pub fn step(&self) -> Result<StepConfig, String> {
        let mut step = self.recipe()?.step().map_err(|error| error.to_string())?;
        // With all that is recorded of it: a recipe does not set everything.
        step.optimizer = self.optimizer;
        Ok(step)
    }

    /// Which images were held out.
    pub fn hold_out(&self) -> HoldOut {
        match self.validation_split {
            None if self.validation_images > 0 => HoldOut::Last,
            _ => HoldOut::Stratified(self.seed),
        }
    }

    /// Parses the bytes of a `config.json`.
    ///
    /// # Errors
    /// They are not a configuration, or one that no run can have.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let config: RunConfig =
            serde_json::from_slice(bytes).map_err(|error| format!("not a run configuration: {error}"))?;
        config.check().map(|()| config)
    }

    /// Checks whether a run can have it: sizes are divided by and multiplied, tiles compiled into shaders.
    ///
    /// # Errors
    /// The value that no run can have.
    pub fn check(&self) -> Result<(), String> {
        self.model.shapes().map_err(|error| error.to_string())?;
        let images = [("train_images", self.train_images), ("validation_images", self.validation_images)];
        if let Some((name, count)) = images.into_iter().find(|&(_, count)| count as u64 > MAX_IMAGES) {
            return Err(format!("{name} is {count}, and no run has more than {MAX_IMAGES}"));
        }
        if let Some(share) = self.validation_split.filter(|share| !(0.0..1.0).contains(share)) {
            return Err(format!("validation_split is {share}; it must be at least 0 and less than 1"));
        }
        if self.train_images == 0 {
            return Err("train_images is 0".into());
        }
        if self.epochs > MAX_EPOCHS {
            return Err(format!("epochs is {}, and no run has more than {MAX_EPOCHS}", self.epochs));
        }
        if !(1..=MAX_BATCH_SIZE).contains(&self.batch_size) {
            return Err(format!("batch_size is {}; it must be 1 to {MAX_BATCH_SIZE}", self.batch_size));
        }
        self.step()?;
        self.recipe()?.check(&self.model).map_err(|error| error.to_string())?;
        match self.tiles {
            Some(tiles) if !tiles.is_possible() => Err(format!("the shaders do not support {tiles:?}")),
            _ => Ok(()),
        }
    }
}

/// `summary.json`: the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the model.
    pub model: String,
    /// The data set: `fashion-mnist` or `synthetic`.
    pub dataset: DatasetKind,
    /// The adapter.
    pub device: String,
    /// Its driver and version.
    pub driver: String,
    /// Seed of the weights and the permutations.
    pub seed: u64,
    /// Epochs requested.
    pub epochs: u64,
    /// Epochs completed.
    pub epochs_completed: u64,
    /// The epoch whose weights are the result, if training had a patience: the one with the lowest validation loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<u64>,
    /// `complete`, `interrupted` or `non-finite loss`.
    pub status: String,
    /// Images per step.
    pub batch_size: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// Mean loss on the test set.
    pub test_loss: Option<f64>,
    /// Accuracy on the test set, 0 to 1.
    pub test_accuracy: Option<f64>,
    /// The same by the images alone, if the model predicts by several views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_accuracy_one_view: Option<f64>,
    /// The number of these views, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<usize>,
    /// Time in epochs.
    pub train_seconds: f64,
    /// Training speed over all epochs.
    pub images_per_second: f64,
    /// Version of the program.
    pub version: String,
}

impl Summary {
    /// Parses the bytes of a `summary.json`.
    ///
    /// # Errors
    /// They are not a summary.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("not a run's summary: {error}"))
    }
}

/// Parses the bytes of a `history.jsonl`.
///
/// # Errors
/// A line is not an epoch's record.
pub fn parse_history(bytes: &[u8]) -> Result<Vec<EpochRecord>, String> {
    let line = |(i, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|error| format!("line {}: not an epoch's record: {error}", i + 1))
    };
    bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()).map(line).collect()
}

/// The text of `history.jsonl`: a line per epoch.
pub fn history_lines(history: &[EpochRecord]) -> String {
    let line = |record| serde_json::to_string(record).expect(JSON) + "\n";
    history.iter().map(line).collect()
}

/// The text of a JSON file of a run.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect(JSON) + "\n"
}

/// Why what is written has a JSON form.
const JSON: &str = "structs of numbers, strings and lists always have a JSON form";

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// The epochs as a CSV table: a heading, then one line per epoch; a cell is empty if nothing was measured.
pub fn history_csv(history: &[EpochRecord]) -> String {
    let mut text = "epoch,loss,accuracy,val_loss,val_accuracy,seconds,images_per_second\n".to_string();
    for r in history {
        let optional = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let (val_loss, val_accuracy) = (optional(r.val_loss), optional(r.val_accuracy));
        let speed = r.images_per_second;
        text += &format!("{},{},{},{val_loss},{val_accuracy},{},{speed}\n", r.epoch, r.loss, r.accuracy, r.seconds);
    }
    text
}
