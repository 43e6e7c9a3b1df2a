//! Data sets in memory: Fashion-MNIST from its files, found or downloaded, and a generated stand-in.
//!
//! [`load`] is the way in. It looks for the four files of Fashion-MNIST in the named folder, else in the places of
//! [`Places`], else downloads them ([`download`]), and checks their SHA-256 wherever they came from
//! ([`fashion_mnist`]). Only [`DatasetChoice::Auto`] ever takes the generated set ([`synthetic`]) in their stead, and
//! says so by [`DataEvent::FallingBack`] and by [`Dataset::kind`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcetera::BaseStrategy as _;
use serde::{Deserialize, Serialize};

pub mod download;
mod error;
pub mod fashion_mnist;
pub mod idx;
pub mod synthetic;
mod threads;

pub use download::{DownloadOptions, Proxies};
pub use error::{Attempt, DataError};
pub use fashion_mnist::{DataFile, FileSet};

/// Rows and columns of an image.
pub const IMAGE_SIDE: usize = 28;
/// Pixels of an image.
pub const PIXELS: usize = IMAGE_SIDE * IMAGE_SIDE;
/// Number of classes.
pub const N_CLASSES: usize = 10;
/// Names of the classes, in the order of their labels.
pub const CLASS_NAMES: [&str; N_CLASSES] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Images with their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// `[N, 28, 28]` grey values, row-major: 0 is background, 255 is full ink.
    pub images: Vec<u8>,
    /// `[N]` classes, 0 to 9.
    pub labels: Vec<u8>,
}

impl Split {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The 784 pixels of an image, row-major.
    ///
    /// # Panics
    /// If `i` is not below [`Split::len`].
    pub fn image(&self, i: usize) -> &[u8] {
        &self.images[i * PIXELS..(i + 1) * PIXELS]
    }

    /// Takes the images from index `first` on away into a split of their own.
    ///
    /// # Panics
    /// If `first` exceeds [`Split::len`].
    pub fn split_off(&mut self, first: usize) -> Split {
        let rest = Split { images: self.images.split_off(first * PIXELS), labels: self.labels.split_off(first) };
        // The larger part keeps no room for what it gave away.
        self.images.shrink_to_fit();
        self.labels.shrink_to_fit();
        rest
    }
}

/// A data set in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Images to train on.
    pub train: Split,
    /// Images to test on.
    pub test: Split,
    /// Which data set it is.
    pub kind: DatasetKind,
    /// Where it came from, for people: a folder, or how it was generated.
    pub source: String,
}

/// Which data set was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// The genuine Fashion-MNIST, checked by SHA-256.
    FashionMnist,
    /// The generated stand-in.
    Synthetic,
}

impl fmt::Display for DatasetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FashionMnist => "fashion-mnist",
            Self::Synthetic => "synthetic",
        })
    }
}

/// Which data set is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetChoice {
    /// Fashion-MNIST if it can be found or downloaded, else the generated set.
    #[default]
    Auto,
    /// Fashion-MNIST or an error.
    FashionMnist,
    /// The generated set.
    Synthetic,
}

impl fmt::Display for DatasetChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::FashionMnist => "fashion-mnist",
            Self::Synthetic => "synthetic",
        })
    }
}

impl FromStr for DatasetChoice {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "auto" => Ok(Self::Auto),
            "fashion-mnist" => Ok(Self::FashionMnist),
            "synthetic" => Ok(Self::Synthetic),
            _ => Err(DataError::UnknownDataset { found: name.into() }),
        }
    }
}

/// The folders that are searched, as far as the environment tells them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The folder that `$FMNIST_DATA_DIR` names: used like a named folder, alone.
    pub env_dir: Option<PathBuf>,
    /// Our own cache, searched first and downloaded into.
    pub cache_dir: Option<PathBuf>,
    /// Where other programs keep their copies, searched in this order and never written to.
    pub others: Vec<PathBuf>,
}

impl Places {
    /// The places of this user on this machine.
    ///
    /// The cache is `$XDG_CACHE_HOME/fmnist-gpu` or `~/.cache/fmnist-gpu` (on Windows below the local application
    /// data). Others are Keras's `datasets/fashion-mnist` below `$KERAS_HOME` and `~/.keras`, and
    /// `data/FashionMNIST/raw` below the working folder, where torchvision's examples put it.
    pub fn from_environment() -> Self {
        let variable = |name| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let keras_default = etcetera::home_dir().ok().map(|home| home.join(".keras"));
        let mut others: Vec<PathBuf> = Vec::new();
        for keras in [variable("KERAS_HOME"), keras_default].into_iter().flatten() {
            let folder = keras.join("datasets").join("fashion-mnist");
            if !others.contains(&folder) {
                others.push(folder);
            }
        }
        others.push(["data", "FashionMNIST", "raw"].iter().collect());
        Self {
            env_dir: variable("FMNIST_DATA_DIR"),
            cache_dir: etcetera::choose_base_strategy().ok().map(|base| base.cache_dir().join("fmnist-gpu")),
            others,
        }
    }
}

/// What to load, and from where.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Which data set.
    pub choice: DatasetChoice,
    /// The folder named by the user: used alone, and an error if it is unusable.
    pub data_dir: Option<PathBuf>,
    /// The folders to search if none is named.
    pub places: Places,
    /// The four files and their hashes.
    pub files: FileSet,
    /// Mirrors and time-outs.
    pub download: DownloadOptions,
    /// Training images of the generated set.
    pub synthetic_n_train: usize,
    /// Test images of the generated set.
    pub synthetic_n_test: usize,
    /// Seed of the generated set.
    pub synthetic_seed: u64,
    /// Set from elsewhere to stop: a download then ends within about 0.1 s and leaves no partial file.
    pub interrupt: Option<Arc<AtomicBool>>,
}

impl Default for LoadOptions {
    /// Fashion-MNIST, the usual places and mirrors; else 60,000 + 10,000 generated images of seed 0.
    fn default() -> Self {
        Self {
            choice: DatasetChoice::default(),
            data_dir: None,
            places: Places::from_environment(),
            files: fashion_mnist::FILES,
            download: DownloadOptions::default(),
            synthetic_n_train: 60_000,
            synthetic_n_test: 10_000,
            synthetic_seed: 0,
            interrupt: None,
        }
    }
}

/// What happens during [`load`], for a progress bar and a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataEvent {
    /// A folder is being looked at; it need not exist.
    Searching {
        /// The folder.
        place: PathBuf,
    },
    /// A folder has some of the files but cannot be used.
    Skipped {
        /// The folder.
        place: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The data set was read from this folder.
    Found {
        /// The folder.
        place: PathBuf,
    },
    /// A mirror is being asked for a file.
    Connecting {
        /// The file's name.
        file: String,
        /// The mirror's address.
        mirror: String,
    },
    /// A file is being received.
    Downloading {
        /// The file's name.
        file: String,
        /// The mirror's address.
        mirror: String,
        /// Bytes received so far.
        received: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// A mirror did not give a file; the next one is tried.
    MirrorFailed {
        /// The file's name.
        file: String,
        /// The mirror's address.
        mirror: String,
        /// Why not.
        reason: String,
    },
    /// A file was received whole, checked and put into the cache.
    Downloaded {
        /// The file's name.
        file: String,
        /// Where it lies now.
        path: PathBuf,
    },
    /// Fashion-MNIST is not to be had: the generated set is taken in its stead.
    FallingBack {
        /// Why.
        reason: String,
    },
    /// Images are being generated.
    Generating {
        /// Training images.
        n_train: usize,
        /// Test images.
        n_test: usize,
        /// The seed.
        seed: u64,
    },
}

/// Loads the data set that is asked for.
///
/// A folder named by `data_dir` or by `$FMNIST_DATA_DIR` is used alone: if it is unusable, that is an error whatever
/// the choice. A damaged copy in one of the other places is reported by an event, and the search goes on. `events` is
/// called in this thread.
pub fn load(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    if options.choice == DatasetChoice::Synthetic {
        if let Some(dir) = &options.data_dir {
            return Err(DataError::FolderForSynthetic { dir: dir.clone() });
        }
        return generated(options, events);
    }
    if let Some(dataset) = named(options, events)? {
        return Ok(dataset);
    }
    if let Some(dataset) = searched(options, events)? {
        return Ok(dataset);
    }
    match downloaded(options, events) {
        Err(error @ (DataError::Interrupted | DataError::OutOfMemory { .. })) => Err(error),
        Err(error) if options.choice == DatasetChoice::Auto => {
            events(DataEvent::FallingBack { reason: error.full_message() });
            generated(options, events)
        }
        result => result,
    }
}

/// The data set of the folder that the user named, if any was named.
fn named(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Option<Dataset>, DataError> {
    let (origin, dir) = match (&options.data_dir, &options.places.env_dir) {
        (Some(dir), _) => ("--data-dir", dir),
        (None, Some(dir)) => ("$FMNIST_DATA_DIR", dir),
        (None, None) => return Ok(None),
    };
    events(DataEvent::Searching { place: dir.clone() });
    match read_folder(dir, &options.files, events) {
        Ok(dataset) => Ok(Some(dataset)),
        // Another folder would not help.
        Err(error @ DataError::OutOfMemory { .. }) => Err(error),
        Err(error) => Err(DataError::NamedFolder { origin, dir: dir.clone(), source: Box::new(error) }),
    }
}

/// The data set of the first usable one of the usual places.
fn searched(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Option<Dataset>, DataError> {
    for place in options.places.cache_dir.iter().chain(&options.places.others) {
        events(DataEvent::Searching { place: place.clone() });
        if fashion_mnist::find_folder(place, &options.files).is_none() {
            continue;
        }
        match read_folder(place, &options.files, events) {
            Ok(dataset) => return Ok(Some(dataset)),
            Err(error @ DataError::OutOfMemory { .. }) => return Err(error),
            Err(error) => events(DataEvent::Skipped { place: place.clone(), reason: error.full_message() }),
        }
    }
    Ok(None)
}

/// The data set as downloaded into the cache.
fn downloaded(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    let cache_dir = options.places.cache_dir.as_deref();
    let cache_dir = cache_dir.ok_or(DataError::NoCacheFolder)?;
    let interrupted = || is_interrupted(options);
    download::fetch(&options.files, cache_dir, &options.download, &interrupted, events)?;
    read_folder(cache_dir, &options.files, events)
}

fn read_folder(dir: &Path, files: &FileSet, events: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    let (train, test) = fashion_mnist::load_files_from_dir(dir, files)?;
    events(DataEvent::Found { place: dir.into() });
    // A resumed run looks here again, from whatever folder it is started in.
    let source = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    Ok(Dataset { train, test, kind: DatasetKind::FashionMnist, source: source.display().to_string() })
}

fn generated(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    let (n_train, n_test) = (options.synthetic_n_train, options.synthetic_n_test);
    let seed = options.synthetic_seed;
    events(DataEvent::Generating { n_train, n_test, seed });
    let (train, test) = synthetic::generate(n_train, n_test, seed);
    if is_interrupted(options) {
        return Err(DataError::Interrupted);
    }
    Ok(Dataset { train, test, kind: DatasetKind::Synthetic, source: format!("generated with seed {seed}") })
}

fn is_interrupted(options: &LoadOptions) -> bool {
    let flag = options.interrupt.as_deref();
    flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
}
