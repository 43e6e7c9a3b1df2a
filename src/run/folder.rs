//! A run folder while it is written: locked against other processes, and replaced as a whole.
//!
//! # How one run replaces another
//! A run that is to replace another one ([`RunFolder::create`] with `replace`) is written into `RUN/.new-run` until [`RunFolder::commit`], which
//! is called when there is something to resume from: the old run stays whole until then. The switch itself is one rename, to
//! `RUN/.replacement`: from then on the new run counts, whatever happens. What is left to do can be done again by anyone who opens the folder:
//! remove the files of the old run, rename `.replacement` to `.arriving` (so that nobody removes what has arrived), move its files up.

use super::checkpoint::{self, Checkpoints};
use super::disk::{entries, file_name};
use super::{
    CONFIG_FILE, HISTORY_CSV_FILE, HISTORY_FILE, RUN_FILES, RunConfig, RunError, SUMMARY_FILE, Summary,
    TENSORBOARD_FOLDER, history_csv, history_lines, is_feature_map, to_json,
};
use crate::clock::Instant;
use crate::files::{PART_PREFIX, PART_SUFFIX, Unfinished, create_folder, sync_folder, write_whole};
use crate::model::Model;
use crate::model::weights;
use crate::train::EpochRecord;
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the file that is locked while a run is written.
const LOCK_FILE: &str = ".lock";
/// A new run that has nothing to resume from yet.
const NEW: &str = ".new-run";
/// A new run that counts, beside files of the old one.
const REPLACEMENT: &str = ".replacement";
/// A new run whose files move into the folder; those of the old run are gone.
const ARRIVING: &str = ".arriving";

/// A run folder that is being written. No other process writes into it meanwhile.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Where the run's files are written now: the folder, or one in it until the run has replaced another.
    root: RefCell<PathBuf>,
    replace: bool,
    /// Whether anything was written; a folder that stayed empty is removed again.
    used: Cell<bool>,
    /// Open and locked while the folder is written; the system unlocks it when the process ends, however it ends.
    lock: Option<File>,
    /// Removes the lock where the process is left at once.
    _unfinished: Unfinished,
}

impl RunFolder {
    /// Creates the folder. `replace` allows a folder that holds something already: the files of a run in it are replaced, others stay.
    ///
    /// # Errors
    /// It exists and is not empty, or cannot be created.
    pub fn create(path: &Path, replace: bool) -> Result<Self, RunError> {
        let fail = |source| RunError::Folder { action: "create", path: path.to_path_buf(), source };
        create_folder(path).map_err(fail)?;
        let is_empty = fs::read_dir(path).map_err(fail)?.next().is_none();
        if !is_empty && !replace {
            return Err(RunError::Exists(path.to_path_buf()));
        }
        let folder = RunFolder::locked(path, replace, !is_empty)?;
        if !old_files(path).map_err(fail)?.is_empty() {
            let root = path.join(NEW);
            fs::create_dir(&root).map_err(fail)?;
            folder.root.replace(root);
        }
        Ok(folder)
    }

    /// Creates the first free folder `runs/<model>-<number>`.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn create_next(model: &str) -> Result<Self, RunError> {
        // A model file may have any name; the folder keeps its plain characters.
        let name: String = model.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let runs = Path::new("runs");
        for number in 1u32.. {
            let path = runs.join(format!("{name}-{number}"));
            let fail = |source| RunError::Folder { action: "create", path: path.clone(), source };
            create_folder(runs).map_err(fail)?;
            // Whoever creates a folder has it: of several processes that start at once, each gets another one.
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                created => {
                    created.and_then(|()| sync_folder(runs)).map_err(fail)?;
                    return RunFolder::locked(&path, false, false);
                }
            }
        }
        unreachable!("four thousand million run folders do not fit a disk")
    }

    /// Opens the folder of a run that is resumed; files of it are replaced one by one.
    ///
    /// # Errors
    /// There is no such folder, or another process writes into it.
    pub fn reopen(path: &Path) -> Result<Self, RunError> {
        if !path.is_dir() {
            let reason = if path.exists() { "it is a file; name the run folder" } else { "there is no such folder" };
            return Err(RunError::NoRun { path: path.to_path_buf(), reason: reason.to_string() });
        }
        RunFolder::locked(path, true, true)
    }

    fn locked(path: &Path, replace: bool, used: bool) -> Result<Self, RunError> {
        let fail = |source| RunError::Folder { action: "write to", path: path.to_path_buf(), source };
        let file = path.join(LOCK_FILE);
        let lock = loop {
            let lock = open_lock(&file).map_err(fail)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(RunError::Locked(path.to_path_buf())),
                Err(TryLockError::Error(source)) => return Err(fail(source)),
            }
            // Whoever held it removes the file before unlocking it: then this is a lock on a file that has no name any more, and keeps
            // nobody out.
            if is_at(&lock, &file).map_err(fail)? {
                break lock;
            }
        };
        let folder = RunFolder {
            path: path.to_path_buf(),
            root: RefCell::new(path.to_path_buf()),
            replace,
            used: Cell::new(used),
            lock: Some(lock),
            _unfinished: Unfinished::new(&file),
        };
        folder.sweep();
        for unfinished in [REPLACEMENT, ARRIVING] {
            let root = path.join(unfinished);
            if root.is_dir() {
                folder.root.replace(root);
                folder.commit()?;
            }
        }
        Ok(folder)
    }

    /// Removes what a killed process left half-written. Nobody else writes here now.
    fn sweep(&self) {
        // They take up space and do nothing else.
        let _ = fs::remove_dir_all(self.path.join(NEW));
        for folder in [self.path.clone(), self.path.join(checkpoint::FOLDER)] {
            for path in entries(&folder).unwrap_or_default() {
                let name = file_name(&path);
                if name.starts_with(PART_PREFIX) && name.ends_with(PART_SUFFIX) {
                    let _ = fs::remove_file(path);
                }
            }
        }
    }

    /// Makes the run count that was written so far, in place of the one that was here before. Called when there is something to resume from;
    /// does nothing where no run is replaced, or where it was done already. After an error it can be called again.
    ///
    /// # Errors
    /// The system refuses. The run that counted before still counts, or the new one does.
    pub fn commit(&self) -> Result<(), RunError> {
        let fail = |source| RunError::Folder { action: "write to", path: self.path.clone(), source };
        let [new, replacement, arriving] = [NEW, REPLACEMENT, ARRIVING].map(|name| self.path.join(name));
        let advance = |to: &Path| -> io::Result<()> {
            fs::rename(&*self.root.borrow(), to)?;
            self.root.replace(to.to_path_buf());
            sync_folder(&self.path)
        };
        if self.root() == new {
            advance(&replacement).map_err(fail)?;
        }
        if self.root() == replacement {
            let old = old_files(&self.path).map_err(fail)?;
            for path in &old {
                fs::remove_file(path).map_err(fail)?;
            }
            // Gone for good before the marker that says so.
            for folder in old.iter().filter_map(|path| path.parent()).collect::<BTreeSet<&Path>>() {
                sync_folder(folder).map_err(fail)?;
            }
            advance(&arriving).map_err(fail)?;
        }
        if self.root() == arriving {
            move_up(&arriving, &self.path).map_err(fail)?;
            self.root.replace(self.path.clone());
        }
        Ok(())
    }

    /// Whether the run in the folder is the one that is being written, and not one that it is to replace.
    pub fn is_committed(&self) -> bool {
        self.root() != self.path.join(NEW)
    }

    /// Whether files of the same name are replaced.
    pub fn replaces(&self) -> bool {
        self.replace
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn root(&self) -> PathBuf {
        self.root.borrow().clone()
    }

    /// The checkpoints of the run; of those that are written, the newest `keep` stay.
    pub fn checkpoints(&self, keep: usize) -> Checkpoints {
        Checkpoints::new(&self.root(), keep)
    }

    /// The newest whole checkpoint of the run that is being written; `None` as long as it does not count.
    pub fn newest_checkpoint(&self) -> Option<PathBuf> {
        let found = self.is_committed().then(|| self.checkpoints(1).newest(&mut |_, _| ()).ok().flatten());
        found.flatten().map(|(path, _)| path)
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_config(&self, config: &RunConfig) -> Result<(), RunError> {
        self.write_json(CONFIG_FILE, config)
    }

    /// Writes `history.jsonl` with all epochs so far; called after each epoch.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_history(&self, history: &[EpochRecord]) -> Result<(), RunError> {
        self.write(HISTORY_FILE, history_lines(history).as_bytes(), true)
    }

    /// Writes `history.csv` with all epochs so far; called after each epoch.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_history_csv(&self, history: &[EpochRecord]) -> Result<(), RunError> {
        self.write(HISTORY_CSV_FILE, history_csv(history).as_bytes(), true)
    }

    /// Writes the weights `name`: [`MODEL_FILE`](super::MODEL_FILE), after each epoch, so that no more than one epoch can be lost, or
    /// [`BEST_FILE`](super::BEST_FILE).
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_weights(&self, name: &str, model: &Model, parameters: &[Vec<f32>]) -> Result<(), RunError> {
        let bytes = weights::to_bytes(model, parameters)
            .map_err(|source| RunError::Weights { path: self.path.join(name), source })?;
        self.write(name, &bytes, true)
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), RunError> {
        self.write_json(SUMMARY_FILE, summary)
    }

    /// Writes an image and returns its path.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn write_picture(&self, name: &str, png: &[u8]) -> Result<PathBuf, RunError> {
        self.write(name, png, self.replace)?;
        Ok(self.path.join(name))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), RunError> {
        self.write(name, to_json(value).as_bytes(), self.replace)
    }

    fn write(&self, name: &str, bytes: &[u8], overwrite: bool) -> Result<(), RunError> {
        self.used.set(true);
        Ok(write_whole(&self.root().join(name), bytes, overwrite)?)
    }
}

/// Unlocks the folder. One that was created for a run which never started is removed again.
impl Drop for RunFolder {
    fn drop(&mut self) {
        // What has nothing to resume from is not kept, and what is to be finished is.
        let _ = fs::remove_dir_all(self.path.join(NEW));
        let file = self.path.join(LOCK_FILE);
        let is_ours = self.lock.as_ref().is_some_and(|lock| is_at(lock, &file).unwrap_or(false));
        // Not where the folder was removed meanwhile, and another training has created it again.
        if is_ours {
            let _ = fs::remove_file(file);
        }
        drop(self.lock.take());
        if !self.used.get() {
            // One with anything in it stays.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Finishes what [`RunFolder::commit`] began in a process that was killed, before the run is read.
///
/// # Errors
/// It cannot be finished: the folder cannot be written to, or another process holds it for longer than it takes.
pub(super) fn finish_replacement(path: &Path) -> Result<(), RunError> {
    let begin = Instant::now();
    while [REPLACEMENT, ARRIVING].iter().any(|name| path.join(name).is_dir()) {
        match RunFolder::reopen(path) {
            // A training that is alive finishes it by itself.
            Err(RunError::Locked(_)) if begin.elapsed() < Duration::from_secs(2) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened.map(drop),
        }
    }
    Ok(())
}

/// The files of the run in a folder. What else lies there is the user's.
fn old_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = entries(path)?;
    files.retain(|file| {
        let name = file_name(file);
        RUN_FILES.contains(&name.as_str()) || is_feature_map(&name)
    });
    files.extend(checkpoint::files(&path.join(checkpoint::FOLDER))?.into_iter().map(|(_, file)| file));
    for part in ["train", "validation"] {
        let events = entries(&path.join(TENSORBOARD_FOLDER).join(part))?;
        files.extend(events.into_iter().filter(|file| file_name(file).starts_with("events.out.tfevents.")));
    }
    // A folder of such a name is not the run's.
    files.retain(|file| !file.is_dir());
    Ok(files)
}

/// Moves the content of `from`, files and folders of files, up into `to`, and removes `from`.
fn move_up(from: &Path, to: &Path) -> io::Result<()> {
    for path in entries(from)? {
        let target = to.join(file_name(&path));
        if path.is_dir() {
            create_folder(&target)?;
            move_up(&path, &target)?;
        } else {
            fs::rename(&path, &target)?;
        }
    }
    sync_folder(to)?;
    fs::remove_dir(from)?;
    sync_folder(from.parent().unwrap_or(to))
}

/// Opens the lock file, without waiting for whoever may be at the other end of a pipe of that name.
fn open_lock(file: &Path) -> io::Result<File> {
    if file.symlink_metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other(format!("{LOCK_FILE} in it is not a regular file; remove it")));
    }
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK | libc::O_NOFOLLOW);
    options.open(file)
}

/// Whether the open file is the one that `path` names.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        named => named.map(|named| (named.dev(), named.ino()) == (open.dev(), open.ino())),
    }
}

/// Whether the open file is the one that `path` names. Elsewhere a file that is open keeps its name until it is closed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}
