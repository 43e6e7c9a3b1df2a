//! Files on a disk: written under another name, synced, renamed. And untrusted ones, read with a bound.

use super::{FileError, read_to_limit, too_large};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How the name of a file starts that is still being written.
pub const PART_PREFIX: &str = ".fmnist-gpu-";
/// How it ends.
pub const PART_SUFFIX: &str = ".part";

/// Writes `bytes` to `path`, which then holds all of them or is as it was before. A link is followed.
///
/// # Errors
/// `path` exists and `overwrite` is off, it is something other than a regular file, or the system refuses.
pub fn write_whole(path: &Path, bytes: &[u8], overwrite: bool) -> Result<(), FileError> {
    check_target(path, overwrite)?;
    let fail = |source| FileError::Write { path: path.to_path_buf(), source: without_path(source) };
    // Renaming onto a link would replace the link and leave the file behind it as it is.
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    let target = if is_link { path.canonicalize().map_err(fail)? } else { path.to_path_buf() };
    let folder = folder_of(&target);
    let mut file = temporary_files(PART_PREFIX, PART_SUFFIX).tempfile_in(folder).map_err(fail)?;
    let _unfinished = Unfinished::new(file.path());
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    if overwrite {
        file.persist(&target).map_err(|error| fail(error.error))?;
    } else {
        // Refuses a file that appeared in the meantime.
        file.persist_noclobber(&target).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => FileError::Exists(path.to_path_buf()),
            _ => fail(error.error),
        })?;
    }
    sync_folder(folder).map_err(fail)
}

/// The system's error without the name of the temporary file, which means nothing to the user.
fn without_path(error: io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|error| error.source()).and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error,
    }
}

/// Checks whether [`write_whole`] may write to `path`, so that a command can refuse before it starts to work.
///
/// # Errors
/// `path` exists and `overwrite` is off, or it is something other than a regular file.
pub fn check_target(path: &Path, overwrite: bool) -> Result<(), FileError> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    if !overwrite {
        return Err(FileError::Exists(path.to_path_buf()));
    }
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(()),
        _ => Err(FileError::NotAFile(path.to_path_buf())),
    }
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// The system refuses, the file is larger, or it is not a regular file: a pipe would block for ever, a device would never end.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open_at_once(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(if metadata.is_dir() { "it is a folder" } else { "not a regular file" }));
    }
    if metadata.len() > limit {
        return Err(too_large(metadata.len(), limit));
    }
    // It may grow while it is read.
    read_to_limit(file, limit, metadata.len() as usize)
}

/// Opens a file for reading without waiting: to open a pipe waits for its writer. On Windows, pipes have no names in the file system, and
/// the system's error for a folder does not say that it is one.
fn open_at_once(path: &Path) -> io::Result<File> {
    if !cfg!(unix) && path.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    options.read(true).open(path)
}

/// Temporary files that exist right now.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A temporary file that [`discard_unfinished`] removes while this value lives.
#[derive(Debug)]
pub(crate) struct Unfinished(PathBuf);

impl Unfinished {
    pub(crate) fn new(path: &Path) -> Self {
        unfinished().push(path.to_path_buf());
        Unfinished(path.to_path_buf())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished().retain(|path| *path != self.0);
    }
}

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the temporary files that exist right now, and the folders that hold nothing else: for a process that is about to end at once.
pub fn discard_unfinished() {
    for path in unfinished().iter() {
        let _ = std::fs::remove_file(path);
        // One with anything in it stays.
        let _ = path.parent().map(std::fs::remove_dir);
    }
}

/// The folder that holds the name of `path`.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Makes changes to the names in a folder durable. Windows has no such call and needs none.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // A network share that cannot sync, or a folder that may be written but not read: nothing more can be done for it.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) => Ok(()),
        result => result,
    }
}

/// Creates a folder with those above it, whose names last as what will be written into them.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = folder_of(path);
    create_folder(parent)?;
    match std::fs::create_dir(path) {
        // Another process was faster, or something else has the name; which of the two comes out as soon as it is opened.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        created => created.and_then(|()| sync_folder(parent)),
    }
}

/// Returns a builder of temporary files that are renamed when they are whole. By default they would be private to the user; what they
/// become should have the permissions of any new file, to which the system applies the user's umask.
pub(crate) fn temporary_files<'a>(prefix: &'a str, suffix: &'a str) -> tempfile::Builder<'a, 'a> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(suffix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Whoever creates a folder that others create at the same moment has it.
    #[test]
    fn several_may_create_a_folder_at_once() {
        let place = tempfile::tempdir().unwrap();
        let (barrier, had) = (Barrier::new(4), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..200 {
                        let path = place.path().join(format!("{round}/a/b"));
                        barrier.wait();
                        let created = create_folder(&path).is_ok() && path.is_dir();
                        had.fetch_add(usize::from(created), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(had.into_inner(), 4 * 200);
        let file = place.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(create_folder(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}
