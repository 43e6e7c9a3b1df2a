//! What can go wrong between a data set's name and its pixels in memory.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

/// One failed attempt to fetch a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The address that was asked.
    pub url: String,
    /// Why the file was not had from there.
    pub reason: String,
}

/// Why a data set could not be loaded.
///
/// Every message names the file or folder, what was found, what was expected and what to do next. Causes are given by
/// [`std::error::Error::source`]; [`DataError::full_message`] joins them into one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused to read or write.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "read", "create the folder", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Memory ran out; the file and its folder are not to blame.
    #[error(
        "memory ran out while {file} was read: its content needs {bytes} bytes; free memory or raise the memory limit"
    )]
    OutOfMemory {
        /// The file's name.
        file: String,
        /// Bytes that were needed.
        bytes: u64,
    },
    /// A path that should be a regular file is something else.
    #[error("{file} is not a regular file; expected an IDX file, plain or gzip")]
    NotAFile {
        /// The path as given.
        file: String,
    },
    /// A file of no bytes.
    #[error("{file} is empty (0 bytes); expected an IDX file, plain or gzip: copy or download it again")]
    EmptyFile {
        /// The file's name.
        file: String,
    },
    /// A file whose first bytes are those of no IDX file.
    #[error(
        "{file} is not an IDX file: its content begins with the bytes {found:02x?}, expected 00 00, the element type and \
         the number of dimensions; check that the file is the data set's own and not, for example, a saved web page"
    )]
    NotIdx {
        /// The file's name.
        file: String,
        /// The first four bytes.
        found: [u8; 4],
    },
    /// An IDX file of elements other than unsigned bytes.
    #[error("{file}: IDX element type 0x{found:02x} found, expected 0x08 (unsigned byte)")]
    ElementType {
        /// The file's name.
        file: String,
        /// The type code in the header.
        found: u8,
    },
    /// An IDX file of another number of dimensions.
    #[error(
        "{file}: {found} dimensions found, expected {expected} (images have 3, labels 1); check that image and label \
         files have not been swapped"
    )]
    Rank {
        /// The file's name.
        file: String,
        /// Dimensions in the header.
        found: usize,
        /// Dimensions asked for.
        expected: usize,
    },
    /// A header with a dimension of zero.
    #[error("{file}: dimension {axis} of the shape {shape:?} is 0, expected at least 1")]
    ZeroDimension {
        /// The file's name.
        file: String,
        /// Which dimension, from 0.
        axis: usize,
        /// All dimensions in the header.
        shape: Vec<usize>,
    },
    /// A header whose dimensions cannot fit into the file.
    #[error(
        "{file}: the header announces the shape {shape:?}, more data than a file of {file_bytes} bytes can hold \
         (at most {possible_bytes} bytes); the file is damaged or cut off: copy or download it again"
    )]
    ImpossibleShape {
        /// The file's name.
        file: String,
        /// All dimensions in the header.
        shape: Vec<usize>,
        /// The size of the file.
        file_bytes: u64,
        /// The most data that a file of this size can hold.
        possible_bytes: u64,
    },
    /// Content that ends before the header's shape is filled.
    #[error(
        "{file} is cut off: {found} bytes of IDX content found, expected {expected}; the file is incomplete: copy or \
         download it again"
    )]
    Truncated {
        /// The file's name.
        file: String,
        /// Bytes of uncompressed content found, the header included.
        found: u64,
        /// Bytes of uncompressed content announced, the header included.
        expected: u64,
    },
    /// Content that goes on after the header's shape is filled.
    #[error(
        "{file} goes on after its end: at least {found} bytes of IDX content found, expected {expected}; the file is \
         damaged or not what its header says: copy or download it again"
    )]
    TrailingBytes {
        /// The file's name.
        file: String,
        /// Bytes of uncompressed content seen, the header included; there may be more.
        found: u64,
        /// Bytes of uncompressed content announced, the header included.
        expected: u64,
    },
    /// A gzip stream that breaks off.
    #[error(
        "{file}: the gzip stream breaks off after {found} bytes of content; the file is incomplete: copy or download it \
         again"
    )]
    TruncatedGzip {
        /// The file's name.
        file: String,
        /// Bytes of content that could be read.
        found: u64,
    },
    /// A gzip stream that is not valid, or whose checksum does not hold.
    #[error(
        "{file}: the gzip stream is damaged after {found} bytes of content, expected a valid stream with its checksum; \
         copy or download the file again"
    )]
    CorruptGzip {
        /// The file's name.
        file: String,
        /// Bytes of content that could be read.
        found: u64,
        /// What the decoder says.
        source: io::Error,
    },
    /// A file far too large to be the one that its name says.
    #[error(
        "{file} has {found} bytes, expected {expected} (at most {limit} in any packing); it is not a Fashion-MNIST file: \
         replace it by the genuine one"
    )]
    TooLarge {
        /// The file's name.
        file: String,
        /// Its size in bytes.
        found: u64,
        /// The genuine size in bytes.
        expected: u64,
        /// The most that is read in bytes.
        limit: u64,
    },
    /// A well-formed IDX file that is not the genuine one.
    #[error(
        "{file} holds shape {shape:?} but is not the genuine file: SHA-256 {found} ({found_bytes} bytes), expected \
         {expected} ({expected_bytes} bytes); {guess}: replace it with the Fashion-MNIST file, or use another data \
         folder"
    )]
    WrongHash {
        /// The file's name.
        file: String,
        /// The shape in its header.
        shape: Box<[usize]>,
        /// SHA-256 of the file as it lies.
        found: Box<str>,
        /// Size of the file as it lies.
        found_bytes: u64,
        /// SHA-256 of the genuine file in the same packing.
        expected: Box<str>,
        /// Size of the genuine file in the same packing.
        expected_bytes: u64,
        /// What the file probably is.
        guess: &'static str,
    },
    /// Images of another size than 28 x 28.
    #[error("{file}: images of {rows}x{cols} pixels found, expected 28x28")]
    ImageSize {
        /// The file's name.
        file: String,
        /// Rows of an image.
        rows: usize,
        /// Columns of an image.
        cols: usize,
    },
    /// Images and labels of different number.
    #[error(
        "{images_file} holds {n_images} images but {labels_file} holds {n_labels} labels, expected equal numbers; the \
         two files are not of one data set: replace them"
    )]
    CountMismatch {
        /// The image file's name.
        images_file: String,
        /// Images found.
        n_images: usize,
        /// The label file's name.
        labels_file: String,
        /// Labels found.
        n_labels: usize,
    },
    /// A label that names no class.
    #[error("{file}: label {index} is {found}, expected 0 to 9; the file is not a Fashion-MNIST label file")]
    LabelRange {
        /// The file's name.
        file: String,
        /// Which label, from 0.
        index: usize,
        /// Its value.
        found: u8,
    },
    /// Some of a folder's four files are not there.
    #[error("{} lacks {}, plain or with .gz", dir.display(), missing.join(", "))]
    MissingFiles {
        /// The folder.
        dir: PathBuf,
        /// Names of the missing files, without `.gz`.
        missing: Vec<String>,
    },
    /// A folder that holds none of the four files.
    #[error(
        "{} holds none of the Fashion-MNIST files ({}, plain or with .gz), nor do its subfolders FashionMNIST/raw and raw",
        dir.display(), expected.join(", ")
    )]
    NoFiles {
        /// The folder.
        dir: PathBuf,
        /// Names of the files, without `.gz`.
        expected: Vec<String>,
    },
    /// A named folder that is absent, or is not a folder.
    #[error("{} is not a folder", dir.display())]
    NotAFolder {
        /// The path as given.
        dir: PathBuf,
    },
    /// A folder that the user named cannot be used.
    #[error(
        "the data folder {} ({origin}) cannot be used; fix what is named below, or omit {origin} to search the usual \
         places and download",
        dir.display()
    )]
    NamedFolder {
        /// Where the folder was named: `--data-dir` or `$FMNIST_DATA_DIR`.
        origin: &'static str,
        /// The folder.
        dir: PathBuf,
        /// Why it cannot be used.
        source: Box<DataError>,
    },
    /// A folder of files was named for a data set that reads none.
    #[error(
        "the data folder {} was named, but the synthetic data set reads no files; omit one of the two",
        dir.display()
    )]
    FolderForSynthetic {
        /// The folder.
        dir: PathBuf,
    },
    /// There is no folder to download into.
    #[error(
        "no cache folder is known (neither a home folder nor XDG_CACHE_HOME is set), so nothing can be downloaded; put \
         the four Fashion-MNIST files into a folder and name it as the data folder, or use the synthetic data set"
    )]
    NoCacheFolder,
    /// No mirror gave a file.
    #[error(
        "{file} could not be downloaded:{}\nput the four Fashion-MNIST files into a folder and name it as the data \
         folder, or use the synthetic data set",
        Attempts(attempts)
    )]
    DownloadFailed {
        /// The file's name.
        file: String,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// The user asked to stop.
    #[error("interrupted while loading the data set; files that were complete stay in the cache")]
    Interrupted,
    /// A data set's name that is not known.
    #[error("unknown data set `{found}`, expected auto, fashion-mnist or synthetic")]
    UnknownDataset {
        /// The name as given.
        found: String,
    },
}

impl DataError {
    /// The message and those of its causes, joined by colons into one text.
    pub fn full_message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        text
    }

    /// A closure for `map_err` on input and output.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// Shows each attempt on its own line.
struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(" no mirrors are configured");
        }
        for attempt in self.0 {
            write!(f, "\n  {}: {}", attempt.url, attempt.reason)?;
        }
        Ok(())
    }
}
