//! The checkpoints in a run folder.

use super::{Checkpoint, CheckpointError, FOLDER, MAX_CHECKPOINT_BYTES, PREFIX, SUFFIX, name, to_bytes};
use crate::engine::State;
use crate::files::{read_bounded, sync_folder, write_whole};
use crate::run::RunConfig;
use crate::run::disk::{entries, file_name};
use crate::train::Position;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The checkpoints of a run: written, found again, and the oldest removed.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// The checkpoints of the run folder `run`; when one is written, the newest `keep` stay.
    pub fn new(run: &Path, keep: usize) -> Self {
        Checkpoints { folder: run.join(FOLDER), keep }
    }

    /// Writes a checkpoint, returns its path, and removes the oldest beyond those to keep.
    ///
    /// # Errors
    /// The file could not be written; earlier ones are as they were.
    pub fn write(&self, config: &RunConfig, position: &Position, state: &State) -> Result<PathBuf, CheckpointError> {
        let io = |source| CheckpointError::Io { path: self.folder.clone(), source };
        // Without the folders above it: a run folder that was removed must not reappear as half of one.
        match std::fs::create_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => {
                made.map_err(io)?;
                // The name of the folder must last as long as the files in it.
                sync_folder(self.folder.parent().unwrap_or(Path::new("."))).map_err(io)?;
            }
        }
        let path = self.folder.join(name(config, position));
        write_whole(&path, &to_bytes(config, position, state)?, true)?;
        let paths = self.newest_first()?;
        for old in paths.iter().skip(self.keep).filter(|old| **old != path) {
            // A file that cannot be removed takes up space and does nothing else.
            let _ = std::fs::remove_file(old);
        }
        Ok(path)
    }

    /// The newest checkpoint that is whole. `on_damaged` is called for each newer one that is not.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn newest(
        &self,
        on_damaged: &mut dyn FnMut(&Path, &CheckpointError),
    ) -> Result<Option<(PathBuf, Checkpoint)>, CheckpointError> {
        for path in self.newest_first()? {
            let read = read_bounded(&path, MAX_CHECKPOINT_BYTES)
                .map_err(|source| CheckpointError::Io { path: path.clone(), source });
            match read.and_then(|bytes| Checkpoint::from_bytes(&bytes)) {
                Ok(checkpoint) => return Ok(Some((path, checkpoint))),
                Err(error) => on_damaged(&path, &error),
            }
        }
        Ok(None)
    }

    /// The files, the last step first; none if there is no folder.
    fn newest_first(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let io = |source| CheckpointError::Io { path: self.folder.clone(), source };
        let mut found = files(&self.folder).map_err(io)?;
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }
}

/// The files of the checkpoints of the run folder `run`, relative to it, in no order; none if the folder cannot be read.
pub fn names(run: &Path) -> Vec<String> {
    let found = files(&run.join(FOLDER)).unwrap_or_default();
    found.iter().map(|(_, path)| format!("{FOLDER}/{}", file_name(path))).collect()
}

/// The checkpoints in a folder with their steps, in no order; none if there is no folder. A folder of such a name is not one.
pub(in crate::run) fn files(folder: &Path) -> std::io::Result<Vec<(u64, PathBuf)>> {
    let step = |path: &Path| file_name(path).strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse::<u64>().ok();
    let found = entries(folder)?.into_iter().filter_map(|path| Some((step(&path)?, path)));
    Ok(found.filter(|(_, path)| !path.is_dir()).collect())
}
