//! Errors of finding, downloading and reading a data set.

use crate::files::ShownPath;
use std::io;
use std::path::PathBuf;

/// One failed attempt to fetch a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The URL that was requested.
    pub url: String,
    /// Why the file could not be downloaded from there.
    pub reason: String,
}

/// Why a data set could not be loaded.
///
/// Every message names the file or folder, what was found, what was expected and what to do next. Causes are available
/// through [`std::error::Error::source`]; [`DataError::full_message`] joins them into one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system reported an error.
    #[error("cannot {action} {}", path.shown())]
    Io {
        /// What was attempted: "read", "create the folder", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Memory ran out; nothing is wrong with the file or its folder.
    #[error(
        "out of memory while reading {file}: its content needs {bytes} bytes; free memory or raise the memory limit"
    )]
    OutOfMemory {
        /// The file's name.
        file: String,
        /// Bytes needed.
        bytes: u64,
    },
    /// A path that should be a regular file is something else.
    #[error("{0} is not a regular file; expected an IDX file, plain or gzip")]
    NotAFile(String),
    /// A file of zero bytes.
    #[error("{0} is empty (0 bytes); expected an IDX file, plain or gzip: copy or download it again")]
    EmptyFile(String),
    /// A file that does not start like an IDX file.
    #[error(
        "{file} is not an IDX file: its content starts with the bytes {found:02x?}, expected 00 00, the element type and \
         the number of dimensions; check that the file belongs to the data set and is not, for example, a saved web page"
    )]
    NotIdx {
        /// The file's name.
        file: String,
        /// The first four bytes.
        found: [u8; 4],
    },
    /// An IDX file whose elements are not unsigned bytes.
    #[error("{file}: IDX element type 0x{found:02x} found, expected 0x08 (unsigned byte)")]
    ElementType {
        /// The file's name.
        file: String,
        /// The type code in the header.
        found: u8,
    },
    /// An IDX file with the wrong number of dimensions.
    #[error(
        "{file}: {found} dimensions found, expected {expected} (images have 3, labels 1); check that image and label \
         files have not been swapped"
    )]
    Rank {
        /// The file's name.
        file: String,
        /// Dimensions in the header.
        found: usize,
        /// Dimensions expected.
        expected: usize,
    },
    /// A header with a dimension of zero.
    #[error("{file}: dimension {axis} of the shape {shape:?} is 0, expected at least 1")]
    ZeroDimension {
        /// The file's name.
        file: String,
        /// Index of the dimension, from 0.
        axis: usize,
        /// All dimensions in the header.
        shape: Vec<usize>,
    },
    /// A header that announces more data than the file can hold.
    #[error(
        "{file}: the header announces the shape {shape:?}, more data than a file of {file_bytes} bytes can hold \
         (at most {possible_bytes} bytes); the file is damaged or truncated: copy or download it again"
    )]
    ImpossibleShape {
        /// The file's name.
        file: String,
        /// All dimensions in the header.
        shape: Vec<usize>,
        /// Size of the file.
        file_bytes: u64,
        /// Largest amount of data that a file of this size can hold.
        possible_bytes: u64,
    },
    /// Content that is shorter than the header announces.
    #[error(
        "{file} is truncated: {found} bytes of IDX content found, expected {expected}; the file is incomplete: copy or \
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
    /// Content that is longer than the header announces.
    #[error(
        "{file} has trailing bytes: at least {found} bytes of IDX content found, expected {expected}; the file is \
         damaged or its header is wrong: copy or download it again"
    )]
    TrailingBytes {
        /// The file's name.
        file: String,
        /// Bytes of uncompressed content read, the header included; there may be more.
        found: u64,
        /// Bytes of uncompressed content announced, the header included.
        expected: u64,
    },
    /// A gzip stream that ends early.
    #[error(
        "{file}: the gzip stream ends early, after {found} bytes of content; the file is incomplete: copy or download it \
         again"
    )]
    TruncatedGzip {
        /// The file's name.
        file: String,
        /// Bytes of content that could be read.
        found: u64,
    },
    /// A gzip stream that is invalid or whose checksum does not match.
    #[error(
        "{file}: the gzip stream is damaged after {found} bytes of content, expected a valid stream with a matching \
         checksum; copy or download the file again"
    )]
    CorruptGzip {
        /// The file's name.
        file: String,
        /// Bytes of content that could be read.
        found: u64,
        /// The decoder's error.
        source: io::Error,
    },
    /// A file far too large to be the one that its name suggests.
    #[error(
        "{file} has {found} bytes, expected {expected} (at most {limit} however compressed); it is not a Fashion-MNIST file: \
         replace it with the genuine one"
    )]
    TooLarge {
        /// The file's name.
        file: String,
        /// Its size in bytes.
        found: u64,
        /// The genuine size in bytes.
        expected: u64,
        /// Largest size that is read, in bytes.
        limit: u64,
    },
    /// A well-formed IDX file that is not the genuine one.
    #[error(
        "{file} has shape {shape:?} but is not the genuine file: SHA-256 {found} ({found_bytes} bytes), expected \
         {expected} ({expected_bytes} bytes); {guess}: replace it with the Fashion-MNIST file, or use another data \
         folder"
    )]
    WrongHash {
        /// The file's name.
        file: String,
        /// The shape in its header.
        shape: Box<[usize]>,
        /// SHA-256 of the file on disk.
        found: Box<str>,
        /// Size of the file on disk.
        found_bytes: u64,
        /// SHA-256 of the genuine file, likewise compressed or not.
        expected: Box<str>,
        /// Size of the genuine file, likewise compressed or not.
        expected_bytes: u64,
        /// What the file probably is instead.
        guess: &'static str,
    },
    /// Images that are not 28 x 28.
    #[error("{file}: images of {rows}x{cols} pixels found, expected 28x28")]
    ImageSize {
        /// The file's name.
        file: String,
        /// Rows per image.
        rows: usize,
        /// Columns per image.
        cols: usize,
    },
    /// Different numbers of images and labels.
    #[error(
        "{images_file} has {n_images} images but {labels_file} has {n_labels} labels, expected equal numbers; the two \
         files do not belong to the same data set: replace them"
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
    /// A label that is not a class.
    #[error("{file}: label {index} is {found}, expected 0 to 9; the file is not a Fashion-MNIST label file")]
    LabelRange {
        /// The file's name.
        file: String,
        /// Index of the label, from 0.
        index: usize,
        /// Its value.
        found: u8,
    },
    /// Some of a folder's four files are missing.
    #[error("{} lacks {} (plain or with .gz)", dir.shown(), missing.join(", "))]
    MissingFiles {
        /// The folder.
        dir: PathBuf,
        /// Names of the missing files, without `.gz`.
        missing: Vec<String>,
    },
    /// A folder that contains none of the four files.
    #[error(
        "{} contains none of the Fashion-MNIST files ({}, plain or with .gz), nor do its subfolders FashionMNIST/raw and raw",
        dir.shown(), expected.join(", ")
    )]
    NoFiles {
        /// The folder.
        dir: PathBuf,
        /// Names of the files, without `.gz`.
        expected: Vec<String>,
    },
    /// A path that does not exist or is not a folder.
    #[error("{} is not a folder", .0.shown())]
    NotAFolder(PathBuf),
    /// The data folder that the user specified cannot be used.
    #[error(
        "the data folder {}{} cannot be used; fix the problem below, or name no folder to search the usual ones and \
         download",
        dir.shown(),
        variable.map_or(String::new(), |name| format!(" (${name})"))
    )]
    NamedFolder {
        /// The environment variable that specified it; `None` if the caller did.
        variable: Option<&'static str>,
        /// The folder.
        dir: PathBuf,
        /// Why it cannot be used.
        source: Box<DataError>,
    },
    /// A data folder was specified for the synthetic data set, which reads no files.
    #[error(
        "the data folder {} was specified, but the synthetic data set reads no files; omit one of the two",
        .0.shown()
    )]
    FolderForSynthetic(PathBuf),
    /// There is no cache folder to download into.
    #[error(
        "there is no cache folder to download into (neither a home folder nor XDG_CACHE_HOME is set); put the four \
         Fashion-MNIST files into a folder and specify it as the data folder, or use the synthetic data set"
    )]
    NoCacheFolder,
    /// A file could not be downloaded from any mirror.
    #[error(
        "{file} could not be downloaded:{}\nput the four Fashion-MNIST files into a folder and specify it as the data \
         folder, or use the synthetic data set",
        listed(attempts)
    )]
    DownloadFailed {
        /// The file's name.
        file: String,
        /// The attempts, in order.
        attempts: Vec<Attempt>,
    },
    /// The user asked to stop.
    #[error("interrupted while loading the data set; completed downloads stay in the cache")]
    Interrupted,
    /// An unknown name of a data set.
    #[error("unknown data set `{0}`, expected auto, fashion-mnist or synthetic")]
    UnknownDataset(String),
}

impl DataError {
    /// Returns the message and those of its causes, joined by colons.
    pub fn full_message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    }
}

/// Returns each attempt on its own line.
fn listed(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return " no mirrors are configured".to_string();
    }
    attempts.iter().map(|attempt| format!("\n  {}: {}", attempt.url, attempt.reason)).collect()
}
