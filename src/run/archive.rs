//! A run without a folder: its files in memory, and as a zip archive, in which it leaves a browser and comes into one.

use super::checkpoint::{self, Checkpoint, CheckpointError};
use super::{
    CONFIG_FILE, HISTORY_CSV_FILE, HISTORY_FILE, MAX_JSON_BYTES, MAX_WEIGHT_BYTES, MODEL_FILE, RunConfig, RunError,
    SUMMARY_FILE, Summary, history_csv, history_lines, parse_history, to_json,
};
use crate::files::read_stream;
use crate::model::{Model, weights};
use crate::train::EpochRecord;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::path::PathBuf;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

/// Files by their names; `/` separates folders.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Most files that an archive may have: a run has some thirty.
const MAX_FILES: usize = 10_000;

/// What the files of a run say.
#[derive(Clone, Debug)]
pub struct RunFiles {
    /// The model.
    pub model: Model,
    /// Its parameters in the order of [`Model::parameters`].
    pub parameters: Vec<Vec<f32>>,
    /// The configuration; a weight file alone has none.
    pub config: Option<RunConfig>,
    /// The epochs.
    pub history: Vec<EpochRecord>,
    /// The summary, if training has ended.
    pub summary: Option<Summary>,
    /// The newest checkpoint, if there is one.
    pub checkpoint: Option<Checkpoint>,
}

impl RunFiles {
    /// The files, as they lie in a run folder.
    ///
    /// # Errors
    /// The parameters or the checkpoint do not fit the model.
    pub fn files(&self) -> Result<Files, RunError> {
        let weights = weights::to_bytes(&self.model, &self.parameters)
            .map_err(|source| RunError::Weights { path: MODEL_FILE.into(), source })?;
        let mut files = Files::from([(MODEL_FILE.to_string(), weights)]);
        let mut keep = |name: &str, text: String| files.insert(name.to_string(), text.into_bytes());
        if let Some(config) = &self.config {
            keep(CONFIG_FILE, to_json(config));
        }
        if let Some(summary) = &self.summary {
            keep(SUMMARY_FILE, to_json(summary));
        }
        keep(HISTORY_FILE, history_lines(&self.history));
        keep(HISTORY_CSV_FILE, history_csv(&self.history));
        if let Some(checkpoint) = &self.checkpoint {
            let name = format!("{}/{}", checkpoint::FOLDER, checkpoint::name(&checkpoint.config, &checkpoint.position));
            files.insert(name.clone(), checkpoint.to_bytes().map_err(|error| damaged(&name, error))?);
        }
        Ok(files)
    }

    /// Reads the files of a run folder, or a weight file alone. They may lie in a folder: the one with the shortest path that has weights
    /// counts. A damaged checkpoint is passed over if there is an older one that is whole.
    ///
    /// # Errors
    /// No file has weights, or one is damaged.
    pub fn open(files: &Files) -> Result<Self, RunError> {
        let names = files.keys().filter(|name| *name == MODEL_FILE || name.ends_with(&format!("/{MODEL_FILE}")));
        // A weight file alone may have any name.
        let only = files.keys().next().filter(|name| files.len() == 1 && name.ends_with(".safetensors"));
        let Some(weights) = names.min_by_key(|name| name.len()).or(only) else {
            let reason = format!("none of its {} files is {MODEL_FILE}", files.len());
            return Err(RunError::NoRun { path: "the archive".into(), reason });
        };
        let folder = weights.rfind('/').map_or("", |end| &weights[..=end]);
        let (model, parameters) = weights::from_bytes(&files[weights])
            .map_err(|source| RunError::Weights { path: weights.into(), source })?;
        let config = parsed(files, folder, CONFIG_FILE, RunConfig::parse)?;
        let summary = parsed(files, folder, SUMMARY_FILE, Summary::parse)?;
        let history = parsed(files, folder, HISTORY_FILE, parse_history)?.unwrap_or_default();
        let prefix = format!("{folder}{}/", checkpoint::FOLDER);
        let checkpoints = files.iter().rev().filter(|(name, _)| name.starts_with(&prefix));
        let mut read =
            checkpoints.map(|(name, bytes)| Checkpoint::from_bytes(bytes).map_err(|error| damaged(name, error)));
        let checkpoint = match read.next() {
            Some(Err(error)) => Some(read.find_map(Result::ok).ok_or(error)?),
            newest => newest.transpose()?,
        };
        Ok(RunFiles { model, parameters, config, history, summary, checkpoint })
    }
}

fn damaged(name: &str, error: CheckpointError) -> RunError {
    RunError::Damaged { path: name.into(), reason: error.to_string() }
}

/// What `parse` makes of a file; `None` if there is no such file.
fn parsed<T>(
    files: &Files,
    folder: &str,
    name: &str,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<Option<T>, RunError> {
    let Some((path, bytes)) = files.get_key_value(&format!("{folder}{name}")) else { return Ok(None) };
    let path: PathBuf = path.into();
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(RunError::Damaged { path, reason: "it is too large".to_string() });
    }
    parse(bytes).map(Some).map_err(|reason| RunError::Damaged { path, reason })
}

/// Packs files into a zip archive, in a folder `name`. Equal files give equal bytes: no times, no compression, as weights do not shrink.
///
/// # Errors
/// There is more than an archive can hold.
pub fn pack(name: &str, files: &Files) -> Result<Vec<u8>, ZipError> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o644);
    for (file, bytes) in files {
        zip.start_file(format!("{name}/{file}"), options)?;
        zip.write_all(bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// The files of a zip archive.
///
/// # Errors
/// The bytes are no archive, or one that is damaged, too large, or compressed in an unusual way.
pub fn unpack(bytes: &[u8]) -> Result<Files, ZipError> {
    let mut zip = ZipArchive::new(Cursor::new(bytes))?;
    let too_large = || ZipError::Io(io::Error::from(io::ErrorKind::FileTooLarge));
    if zip.len() > MAX_FILES {
        return Err(too_large());
    }
    let (mut files, mut left) = (Files::new(), 2 * MAX_WEIGHT_BYTES);
    for i in 0..zip.len() {
        let file = zip.by_index(i)?;
        let name = file.name()?.into_owned();
        if name.ends_with('/') {
            continue;
        }
        // The sizes that an archive announces may be wrong.
        let content = read_stream(file, left)?;
        left -= content.len() as u64;
        files.insert(name, content);
    }
    Ok(files)
}
