//! Files that appear whole: written under another name, synced, renamed. And untrusted files, read with a bound.

#[cfg(feature = "disk")]
mod disk;

#[cfg(feature = "download")]
pub(crate) use disk::temporary_files;
#[cfg(feature = "disk")]
pub use disk::{PART_PREFIX, PART_SUFFIX, check_target, discard_unfinished, read_bounded, write_whole};
#[cfg(feature = "disk")]
pub(crate) use disk::{Unfinished, create_folder, sync_folder};

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A file that could not be written.
#[derive(Debug, Error)]
pub enum FileError {
    /// Something of that name is there.
    #[error("{} exists, and nothing is overwritten unless asked for", .0.shown())]
    Exists(PathBuf),
    /// What is there is a folder, a pipe, a device or a dangling link, which a file must not replace.
    #[error("{} is not a regular file, and only files are overwritten; choose another name", .0.shown())]
    NotAFile(PathBuf),
    /// The system refused.
    #[error("{} could not be written: {source}", path.shown())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Paths for messages.
pub trait ShownPath {
    /// The path with its control characters as escapes: a file's name may hold line feeds and terminal sequences.
    fn shown(&self) -> String;
}

impl ShownPath for Path {
    fn shown(&self) -> String {
        let plain = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        self.to_string_lossy().chars().map(plain).collect()
    }
}

/// What a reader that the user named holds, at most `limit` bytes: a file, or a pipe such as standard input or `<(command)`.
///
/// # Errors
/// The system refuses, there is more, or memory runs out.
pub fn read_stream(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    read_to_limit(reader, limit, 0)
}

fn read_to_limit(reader: impl Read, limit: u64, expected: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    content.try_reserve_exact(expected)?;
    reader.take(limit + 1).read_to_end(&mut content)?;
    let bytes = content.len() as u64;
    if bytes > limit { Err(too_large(bytes, limit)) } else { Ok(content) }
}

fn too_large(bytes: u64, limit: u64) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it has {bytes} bytes or more, and at most {limit} are read"))
}
