//! IDX files on a disk.

use super::{Idx, UNSIGNED_BYTE, parse};
use crate::data::DataError;
use crate::files::ShownPath;
use std::path::Path;

impl Idx {
    /// Returns the header of this content; followed by the payload, it is the uncompressed file.
    pub(in crate::data) fn header(&self) -> Vec<u8> {
        let mut header = vec![0, 0, UNSIGNED_BYTE, self.shape.len() as u8];
        for &dimension in &self.shape {
            header.extend_from_slice(&(dimension as u32).to_be_bytes());
        }
        header
    }
}

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
