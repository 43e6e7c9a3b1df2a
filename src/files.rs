//! Files that appear whole: written aside, synced, renamed. And files of strangers, read with a bound.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A file that could not be written.
#[derive(Debug, Error)]
pub enum FileError {
    /// Something of that name is there.
    #[error("{path} exists, and nothing is overwritten without --force")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{path} could not be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// How the name of a file begins that is still being written.
pub const PART_PREFIX: &str = ".fmnist-gpu-";
/// How it ends.
pub const PART_SUFFIX: &str = ".part";

/// Writes `bytes` to `path`, which then holds all of them or is as it was before.
///
/// # Errors
/// `path` exists and `overwrite` is off, or the system refuses.
pub fn write_whole(path: &Path, bytes: &[u8], overwrite: bool) -> Result<(), FileError> {
    let fail = |source| FileError::Write { path: path.to_path_buf(), source };
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(FileError::Exists { path: path.to_path_buf() });
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(PART_PREFIX)
        .suffix(PART_SUFFIX)
        .permissions_like_a_new_file()
        .tempfile_in(folder)
        .map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    if overwrite {
        file.persist(path).map_err(|error| fail(error.error))?;
    } else {
        // Refuses a file that appeared in the meantime.
        file.persist_noclobber(path).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => FileError::Exists { path: path.to_path_buf() },
            _ => fail(error.error),
        })?;
    }
    sync_folder(folder).map_err(fail)
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// The system refuses, the file is larger, or it is none: a pipe would block for ever, a device would never end.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // Asked before it is opened: to open a pipe already blocks.
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let refuse = |bytes: u64| {
        let reason = format!("it has {bytes} bytes or more, and at most {limit} are read");
        Err(io::Error::new(io::ErrorKind::FileTooLarge, reason))
    };
    if metadata.len() > limit {
        return refuse(metadata.len());
    }
    let mut content = Vec::with_capacity(metadata.len() as usize);
    // It may grow while it is read.
    File::open(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit { refuse(content.len() as u64) } else { Ok(content) }
}

/// Makes what happened to the names in a folder durable. Windows has no such call and needs none.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // A share that cannot, or a folder that may be written and not read: nothing more can be done for it.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) => Ok(()),
        result => result,
    }
}

/// Temporary files are private to the user by default; what they become should be as any new file.
trait LikeANewFile {
    fn permissions_like_a_new_file(&mut self) -> &mut Self;
}

impl LikeANewFile for tempfile::Builder<'_, '_> {
    #[cfg(unix)]
    fn permissions_like_a_new_file(&mut self) -> &mut Self {
        use std::os::unix::fs::PermissionsExt;
        // The system takes the user's umask off.
        self.permissions(std::fs::Permissions::from_mode(0o666))
    }

    #[cfg(not(unix))]
    fn permissions_like_a_new_file(&mut self) -> &mut Self {
        self
    }
}
