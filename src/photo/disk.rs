//! Photos on a disk.

use super::{Photo, PhotoError};
use crate::files::ShownPath;
use std::fs::File;
use std::path::Path;

impl Photo {
    /// Reads a PNG, JPEG, WebP or BMP file. The format is detected from the content, not from the name. A named pipe is read to its end.
    ///
    /// # Errors
    /// The file cannot be read, is not such an image, or exceeds [`MAX_FILE_BYTES`](super::MAX_FILE_BYTES), [`MAX_SIDE`](super::MAX_SIDE) or
    /// [`MAX_BYTES`](super::MAX_BYTES).
    pub fn open(path: &Path) -> Result<Self, PhotoError> {
        let name = path.shown();
        if path.is_dir() {
            return Err(PhotoError::Folder(name));
        }
        match File::open(path) {
            Ok(file) => Self::read(file, &name),
            Err(source) => Err(PhotoError::Read { name, source }),
        }
    }
}
