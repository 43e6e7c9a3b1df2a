//! The run folder: configuration, weights, history, summary, pictures.

use super::engine::Optimizer;
use super::trainer::EpochRecord;
use crate::data::DatasetKind;
use crate::files::{FileError, PART_PREFIX, PART_SUFFIX, read_bounded, sync_folder, write_whole};
use crate::model::Model;
use crate::model::weights::{self, WeightsError};
use crate::ops::SharedTiles;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Name of the weight file.
pub const MODEL_FILE: &str = "model.safetensors";
/// Name of the weight file with the least validation loss.
pub const BEST_FILE: &str = "best.safetensors";
/// Name of the file that is locked while a run is written.
const LOCK_FILE: &str = ".lock";
/// Name of the configuration.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the history, one JSON object an epoch.
pub const HISTORY_FILE: &str = "history.jsonl";
/// Name of the report's figures.
pub const REPORT_FILE: &str = "report.json";
/// Name of the history as a table.
pub const HISTORY_CSV_FILE: &str = "history.csv";
/// Name of the summary.
pub const SUMMARY_FILE: &str = "summary.json";

/// Largest weight file or checkpoint that is read, bytes.
pub const MAX_WEIGHT_BYTES: u64 = 1 << 30;
/// Largest file of figures that is read, bytes: a history has some 200 an epoch.
pub const MAX_JSON_BYTES: u64 = 64 << 20;
/// Most images and epochs that a run can have been made of, far above any real run and far below what sums could overflow at.
const MAX_COUNT: u64 = 1 << 32;
/// Largest batch that a run can have been trained with.
pub const MAX_BATCH_SIZE: usize = 32_768;

/// A run folder that cannot be used.
#[derive(Debug, Error)]
pub enum RunError {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder exists already.
    #[error("{path} exists and is not empty; choose another --out, or overwrite its files with --force")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process trains into the folder.
    #[error("another training writes into {path} right now; wait for it, or choose another --out")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder could not be made.
    #[error("the run folder {path} could not be made: {source}")]
    Make {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// There is no run.
    #[error("{path} is no run: {reason}. A run is a folder made by `fmnist-gpu train`, or the {MODEL_FILE} in it")]
    NoRun {
        /// What was named.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// A file of the run cannot be read.
    #[error("{path}: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The weight file does not hold a model.
    #[error("{path}: {source}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: WeightsError,
    },
}

/// `config.json`: everything that was resolved before training began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// Version of the program.
    pub version: String,
    /// The model, layer by layer.
    pub model: Model,
    /// The data set that was used.
    pub dataset: DatasetKind,
    /// Where it was found.
    pub data_source: String,
    /// Training images used.
    pub train_images: usize,
    /// Images held out of the training set for validation; they follow the training images.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub validation_images: usize,
    /// Seed of the weights and the permutations.
    pub seed: u64,
    /// Epochs asked for.
    pub epochs: u64,
    /// Images a step.
    pub batch_size: usize,
    /// Optimizer with its settings.
    pub optimizer: Optimizer,
    /// The adapter.
    pub device: String,
    /// Its driver and version.
    pub driver: String,
    /// `vulkan`, `metal`, `dx12`, or `reference`.
    pub backend: String,
    /// Whether wgpu's run-time checks were on.
    pub safe: bool,
    /// How tiles in workgroup memory were cut; none where the device has no such tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<SharedTiles>,
}

impl RunConfig {
    /// The configuration in the bytes of a `config.json`.
    ///
    /// # Errors
    /// They are not one, or it is of a run that there cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let config: RunConfig =
            serde_json::from_slice(bytes).map_err(|error| format!("not a run configuration: {error}"))?;
        config.check().map(|()| config)
    }

    /// The configuration of the run in the folder `run`; none where there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>, RunError> {
        read_parsed(&run.join(CONFIG_FILE), RunConfig::parse)
    }

    /// Sees whether it is one that a run can have: sizes are divided by and multiplied, tiles compiled into shaders.
    ///
    /// # Errors
    /// What it cannot have.
    pub fn check(&self) -> Result<(), String> {
        self.model.shapes().map_err(|error| error.to_string())?;
        let images = [("train_images", self.train_images), ("validation_images", self.validation_images)];
        if let Some((name, count)) = images.into_iter().find(|&(_, count)| count as u64 > MAX_COUNT) {
            return Err(format!("{name} is {count}, and no run has more than {MAX_COUNT}"));
        }
        if self.train_images == 0 {
            return Err("train_images is 0".into());
        }
        if self.epochs > MAX_COUNT {
            return Err(format!("epochs is {}, and no run has more than {MAX_COUNT}", self.epochs));
        }
        if !(1..=MAX_BATCH_SIZE).contains(&self.batch_size) {
            return Err(format!("batch_size is {}; a run has 1 to {MAX_BATCH_SIZE}", self.batch_size));
        }
        match self.tiles {
            Some(tiles) if !tiles.is_possible() => Err(format!("{tiles:?} are no tiles that the shaders are made for")),
            _ => Ok(()),
        }
    }
}

/// `summary.json`: what came out.
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
    /// Epochs asked for.
    pub epochs: u64,
    /// Whole epochs that were done.
    pub epochs_completed: u64,
    /// `complete`, `interrupted` or `non-finite loss`.
    pub status: String,
    /// Images a step.
    pub batch_size: usize,
    /// Number of parameters.
    pub parameters: usize,
    /// Mean loss on the test set.
    pub test_loss: Option<f64>,
    /// Accuracy on the test set, 0 to 1.
    pub test_accuracy: Option<f64>,
    /// Time in epochs.
    pub train_seconds: f64,
    /// Training speed over all epochs.
    pub images_per_second: f64,
    /// Version of the program.
    pub version: String,
}

impl Summary {
    /// The summary in the bytes of a `summary.json`.
    ///
    /// # Errors
    /// They are not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("not a run's summary: {error}"))
    }
}

/// The epochs in the bytes of a `history.jsonl`.
///
/// # Errors
/// A line is no epoch's record.
pub fn parse_history(bytes: &[u8]) -> Result<Vec<EpochRecord>, String> {
    let line = |(i, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|error| format!("line {}: not an epoch's record: {error}", i + 1))
    };
    bytes.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()).map(line).collect()
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A run folder being written. No other process writes into it meanwhile.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    overwrite: bool,
    /// Whether anything was written; a folder that stayed empty is taken away again.
    used: std::cell::Cell<bool>,
    /// Open and locked while the folder is written; the system unlocks it when the process ends, however it ends.
    lock: Option<File>,
}

impl RunFolder {
    /// Makes the folder. `overwrite` allows a folder that holds something already; only files of the same name are replaced.
    ///
    /// # Errors
    /// It exists and is not empty, or cannot be made.
    pub fn create(path: &Path, overwrite: bool) -> Result<Self, RunError> {
        let fail = |source| RunError::Make { path: path.to_path_buf(), source };
        create_durably(path).map_err(fail)?;
        let is_empty = std::fs::read_dir(path).map_err(fail)?.next().is_none();
        if !is_empty && !overwrite {
            return Err(RunError::Exists { path: path.to_path_buf() });
        }
        RunFolder::locked(path, overwrite, !is_empty)
    }

    /// Opens the folder of a run that is to go on; files of it are replaced.
    ///
    /// # Errors
    /// There is no such folder, or another process writes into it.
    pub fn reopen(path: &Path) -> Result<Self, RunError> {
        if !path.is_dir() {
            let reason = "there is no such folder".to_string();
            return Err(RunError::NoRun { path: path.to_path_buf(), reason });
        }
        RunFolder::locked(path, true, true)
    }

    fn locked(path: &Path, overwrite: bool, used: bool) -> Result<Self, RunError> {
        let fail = |source| RunError::Make { path: path.to_path_buf(), source };
        let file = path.join(LOCK_FILE);
        let lock = loop {
            let lock = File::options().create(true).truncate(false).write(true).open(&file).map_err(fail)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(RunError::Locked { path: path.to_path_buf() }),
                Err(TryLockError::Error(source)) => return Err(fail(source)),
            }
            // Whoever held it takes the file away before unlocking it: then this is a lock on a file that has no name any more,
            // and keeps nobody out.
            if is_at(&lock, &file).map_err(fail)? {
                break lock;
            }
        };
        let folder =
            RunFolder { path: path.to_path_buf(), overwrite, used: std::cell::Cell::new(used), lock: Some(lock) };
        folder.sweep();
        Ok(folder)
    }

    /// Takes away what a killed process left half-written. Nobody else writes here now.
    fn sweep(&self) {
        for folder in [self.path.clone(), self.path.join(super::checkpoint::FOLDER)] {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            for path in entries.map(|entry| entry.path()) {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                if name.starts_with(PART_PREFIX) && name.ends_with(PART_SUFFIX) {
                    // It costs room and nothing else.
                    let _ = std::fs::remove_file(path);
                }
            }
        }
    }

    /// Whether files of the same name are replaced.
    pub fn overwrites(&self) -> bool {
        self.overwrite
    }

    /// The first free folder `runs/<model>-<number>`.
    pub fn next_free(model: &str) -> PathBuf {
        // A model file may have any name; the folder keeps its plain characters.
        let name: String = model.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        (1u32..)
            .map(|number| Path::new("runs").join(format!("{name}-{number}")))
            .find(|path| path.symlink_metadata().is_err())
            .expect("four thousand million run folders do not fit a disk")
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_config(&self, config: &RunConfig) -> Result<(), RunError> {
        self.write_json(CONFIG_FILE, config, self.overwrite)
    }

    /// Writes `history.jsonl` and `history.csv` with all epochs so far; called after each epoch.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_history(&self, history: &[EpochRecord]) -> Result<(), RunError> {
        let mut text = String::new();
        for record in history {
            text.push_str(&to_json(record, false));
            text.push('\n');
        }
        // The folder was empty or may be overwritten, so an older file is one of this run.
        write_whole(&self.path.join(HISTORY_FILE), text.as_bytes(), true)?;
        Ok(write_whole(&self.path.join(HISTORY_CSV_FILE), history_csv(history).as_bytes(), true)?)
    }

    /// Writes `model.safetensors`; called after each epoch, so that no more than one epoch can be lost.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_model(&self, model: &Model, parameters: &[Vec<f32>]) -> Result<(), RunError> {
        self.write_weights(MODEL_FILE, model, parameters)
    }

    fn write_weights(&self, name: &str, model: &Model, parameters: &[Vec<f32>]) -> Result<(), RunError> {
        self.used.set(true);
        let path = self.path.join(name);
        let bytes =
            weights::to_bytes(model, parameters).map_err(|source| RunError::Weights { path: path.clone(), source })?;
        Ok(write_whole(&path, &bytes, true)?)
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), RunError> {
        self.write_json(SUMMARY_FILE, summary, self.overwrite)
    }

    /// Writes `best.safetensors`: the model with the least validation loss so far.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_best(&self, model: &Model, parameters: &[Vec<f32>]) -> Result<(), RunError> {
        self.write_weights(BEST_FILE, model, parameters)
    }

    /// Writes a picture and returns its path.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_picture(&self, name: &str, png: &[u8]) -> Result<PathBuf, RunError> {
        let path = self.path.join(name);
        write_whole(&path, png, self.overwrite)?;
        Ok(path)
    }

    fn write_json(&self, name: &str, value: &impl Serialize, overwrite: bool) -> Result<(), RunError> {
        self.used.set(true);
        Ok(write_whole(&self.path.join(name), (to_json(value, true) + "\n").as_bytes(), overwrite)?)
    }
}

/// Whether the open file is the one that `path` names.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        named => named.map(|named| (named.dev(), named.ino()) == (open.dev(), open.ino())),
    }
}

/// Whether the open file is the one that `path` names. Elsewhere a file that is open keeps its name until it is closed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> std::io::Result<bool> {
    Ok(true)
}

/// Makes a folder with those above it, whose names last as what will be written into them.
fn create_durably(path: &Path) -> std::io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Ok(());
    }
    create_durably(parent)?;
    match std::fs::create_dir(path) {
        // Another process was faster, or something else has the name; which of the two comes out as soon as it is opened.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.and_then(|()| sync_folder(parent)),
    }
}

/// The epochs as a table: a heading, then a line an epoch; a cell is empty where nothing was measured.
pub fn history_csv(history: &[EpochRecord]) -> String {
    let mut text = "epoch,loss,accuracy,val_loss,val_accuracy,seconds,images_per_second\n".to_string();
    for r in history {
        let optional = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        let (val_loss, val_accuracy) = (optional(r.val_loss), optional(r.val_accuracy));
        let row = [
            r.epoch.to_string(),
            r.loss.to_string(),
            r.accuracy.to_string(),
            val_loss,
            val_accuracy,
            r.seconds.to_string(),
            r.images_per_second.to_string(),
        ];
        text.push_str(&row.join(","));
        text.push('\n');
    }
    text
}

/// Unlocks the folder. One that was made for a run which never began is taken away again.
impl Drop for RunFolder {
    fn drop(&mut self) {
        let file = self.path.join(LOCK_FILE);
        let is_ours = self.lock.as_ref().is_some_and(|lock| is_at(lock, &file).unwrap_or(false));
        // Not where the folder was removed meanwhile, and another training has made it anew.
        if is_ours {
            let _ = std::fs::remove_file(file);
        }
        drop(self.lock.take());
        if !self.used.get() {
            // One with anything in it stays.
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// JSON text of one of the structs above.
fn to_json(value: &impl Serialize, pretty: bool) -> String {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.expect("structs of numbers, strings and lists always have a JSON form")
}

/// A finished run: its folder, its model and its parameters.
#[derive(Debug)]
pub struct Run {
    /// The folder.
    pub path: PathBuf,
    /// The model.
    pub model: Model,
    /// Its parameters in the order of [`Model::parameters`].
    pub parameters: Vec<Vec<f32>>,
    /// The configuration; a weight file alone has none.
    pub config: Option<RunConfig>,
}

impl Run {
    /// Opens a run by its folder or by its model file.
    ///
    /// # Errors
    /// There is no such run, or its files are damaged.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        let no_run = |reason: String| RunError::NoRun { path: path.to_path_buf(), reason };
        let metadata = path.metadata().map_err(|error| no_run(error.to_string()))?;
        let file = if metadata.is_dir() { path.join(MODEL_FILE) } else { path.to_path_buf() };
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        let bytes =
            read_bounded(&file, MAX_WEIGHT_BYTES).map_err(|error| no_run(format!("{}: {error}", file.display())))?;
        let (model, parameters) =
            weights::from_bytes(&bytes).map_err(|source| RunError::Weights { path: file, source })?;
        let config = RunConfig::read(&folder)?;
        Ok(Run { path: folder, model, parameters, config })
    }

    /// The summary; none where there is no such file, as beside a weight file alone.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn summary(&self) -> Result<Option<Summary>, RunError> {
        read_parsed(&self.path.join(SUMMARY_FILE), Summary::parse)
    }

    /// The epochs of `history.jsonl`; none where there is no such file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn history(&self) -> Result<Vec<EpochRecord>, RunError> {
        Ok(read_parsed(&self.path.join(HISTORY_FILE), parse_history)?.unwrap_or_default())
    }
}

/// What `parse` makes of a file of a run; none where there is no such file.
fn read_parsed<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<Option<T>, RunError> {
    let damaged = |reason| RunError::Damaged { path: path.to_path_buf(), reason };
    match read_bounded(path, MAX_JSON_BYTES) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(error.to_string())),
        Ok(bytes) => parse(&bytes).map(Some).map_err(damaged),
    }
}
