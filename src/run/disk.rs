//! A finished run, read from its folder.

use super::folder::finish_replacement;
use super::{
    CONFIG_FILE, HISTORY_FILE, MAX_JSON_BYTES, MAX_WEIGHT_BYTES, MODEL_FILE, RunConfig, RunError, SUMMARY_FILE,
    Summary, parse_history,
};
use crate::files::read_bounded;
use crate::model::{Model, TRAINED_TINY, weights};
use crate::train::EpochRecord;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

impl RunConfig {
    /// The configuration of the run in the folder `run`; `None` if there is no such file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(run: &Path) -> Result<Option<Self>, RunError> {
        read_parsed(&run.join(CONFIG_FILE), RunConfig::parse)
    }
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
    /// The bytes of the weight file.
    pub model_file: Vec<u8>,
}

impl Run {
    /// Opens a run by its folder or by its model file.
    ///
    /// # Errors
    /// There is no such run, or its files are damaged.
    pub fn open(path: &Path) -> Result<Self, RunError> {
        let no_run = |reason: String| RunError::NoRun { path: path.to_path_buf(), reason };
        let metadata = path.metadata().map_err(|error| no_run(error.to_string()))?;
        let is_folder = metadata.is_dir();
        let file = if is_folder { path.join(MODEL_FILE) } else { path.to_path_buf() };
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        finish_replacement(&folder)?;
        let what = if is_folder { format!("{MODEL_FILE}: ") } else { String::new() };
        let model_file = read_bounded(&file, MAX_WEIGHT_BYTES).map_err(|error| no_run(format!("{what}{error}")))?;
        let (model, parameters) =
            weights::from_bytes(&model_file).map_err(|source| RunError::Weights { path: file, source })?;
        let config = RunConfig::read(&folder)?;
        Ok(Run { path: folder, model, parameters, config, model_file })
    }

    /// The trained model that comes with the program; it has no folder.
    pub fn built_in() -> Self {
        let model_file = TRAINED_TINY.to_vec();
        let (model, parameters) = weights::from_bytes(&model_file).expect("a test opens this file");
        Run { path: PathBuf::new(), model, parameters, config: None, model_file }
    }

    /// The summary; `None` if there is no such file, as beside a weight file alone.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn summary(&self) -> Result<Option<Summary>, RunError> {
        read_parsed(&self.path.join(SUMMARY_FILE), Summary::parse)
    }

    /// The epochs of `history.jsonl`; none if there is no such file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn history(&self) -> Result<Vec<EpochRecord>, RunError> {
        Ok(read_parsed(&self.path.join(HISTORY_FILE), parse_history)?.unwrap_or_default())
    }
}

/// The name of a run for people: that of its folder.
pub fn run_name(folder: &Path) -> String {
    let canonical = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    canonical.file_name().map_or_else(|| "run".to_string(), |name| name.to_string_lossy().into_owned())
}

/// What `parse` makes of a file of a run; `None` if there is no such file.
fn read_parsed<T>(path: &Path, parse: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<Option<T>, RunError> {
    let damaged = |reason| RunError::Damaged { path: path.to_path_buf(), reason };
    match read_bounded(path, MAX_JSON_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(error.to_string())),
        Ok(bytes) => parse(&bytes).map(Some).map_err(damaged),
    }
}

/// The paths in a folder; none if there is no such folder.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
