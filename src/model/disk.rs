//! Model files on a disk.

use super::{MAX_DESCRIPTION_BYTES, ModelError, ModelFile};
use crate::files::read_bounded;
use std::io;
use std::path::Path;

impl ModelFile {
    /// Returns the file at this path.
    pub(super) fn read(name: &str) -> Result<Self, ModelError> {
        let path = Path::new(name);
        if !path.exists() && !name.ends_with(".toml") {
            return Err(ModelError::Unknown(name.to_string()));
        }
        let read = |source| ModelError::Read { path: path.to_path_buf(), source };
        let bytes = read_bounded(path, MAX_DESCRIPTION_BYTES as u64).map_err(read)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| read(io::Error::new(io::ErrorKind::InvalidData, error.utf8_error())))?;
        ModelFile::parse(path, &text)
    }
}
