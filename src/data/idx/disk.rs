//! IDX files on a disk.

use super::{Idx, parse};
use crate::data::DataError;
use crate::files::ShownPath;
use std::path::Path;

/// Reads a file that must have `rank` dimensions, plain or gzip; the values of labels are not checked.
///
/// Errors name the file, what was found and what was expected.
pub fn read(path: &Path, rank: usize) -> Result<Idx, DataError> {
    regular_file_size(path)?;
    let bytes = std::fs::read(path).map_err(DataError::io("read", path))?;
    parse(&path.shown(), &bytes, rank)
}

/// Returns the size of a regular file; opening anything else could block forever (a named pipe, a terminal).
pub(in crate::data) fn regular_file_size(path: &Path) -> Result<u64, DataError> {
    let metadata = std::fs::metadata(path).map_err(DataError::io("read", path))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(DataError::NotAFile(path.shown())) }
}
