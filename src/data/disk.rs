//! Finds a data set on the disk, downloads it, or generates a substitute.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcetera::BaseStrategy as _;

#[cfg(feature = "download")]
use super::download::{self, DownloadOptions};
use super::fashion_mnist::{self, FileSet};
use super::{DataError, Dataset, DatasetChoice, DatasetKind, FASHION_MNIST, synthetic};

/// The folders that are searched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The folder in `$FMNIST_DATA_DIR`: if set, only this folder is used.
    pub env_dir: Option<PathBuf>,
    /// This program's cache: searched first, and the target of downloads.
    pub cache_dir: Option<PathBuf>,
    /// Where other programs keep their copies: searched in this order, never written to.
    pub others: Vec<PathBuf>,
}

impl Places {
    /// Returns the folders for the current user and environment.
    ///
    /// The cache is `$XDG_CACHE_HOME/fmnist-gpu` or `~/.cache/fmnist-gpu` (on Windows in the local application data). The
    /// others are Keras's `datasets/fashion-mnist` in `$KERAS_HOME` and `~/.keras`, and `data/FashionMNIST/raw` in the
    /// working folder, where torchvision's examples put it.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
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

    /// Returns the first of the folders that has files of a data set.
    pub fn find(&self, files: &FileSet) -> Option<PathBuf> {
        let folders = match &self.env_dir {
            Some(only) => vec![only.clone()],
            None => self.cache_dir.iter().chain(&self.others).cloned().collect(),
        };
        folders.iter().find_map(|folder| fashion_mnist::find_folder(folder, files))
    }
}

/// What to load, and from where.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Which data set to load.
    pub choice: DatasetChoice,
    /// The data folder that the user specified: only this folder is used, and it is an error if it is unusable.
    pub data_dir: Option<PathBuf>,
    /// The folders to search if no data folder is specified.
    pub places: Places,
    /// The four files and their hashes.
    pub files: FileSet,
    /// Mirrors, proxies and timeouts.
    #[cfg(feature = "download")]
    pub download: DownloadOptions,
    /// Number of training images of the synthetic set.
    pub synthetic_n_train: usize,
    /// Number of test images of the synthetic set.
    pub synthetic_n_test: usize,
    /// Seed of the synthetic set.
    pub synthetic_seed: u64,
    /// Set by another thread to interrupt: a download then stops within about 0.1 s and leaves no partial file.
    pub interrupt: Option<Arc<AtomicBool>>,
}

impl Default for LoadOptions {
    /// Returns Fashion-MNIST from the usual folders and mirrors, else 60,000 + 10,000 generated images with seed 0.
    fn default() -> Self {
        Self {
            choice: DatasetChoice::default(),
            data_dir: None,
            places: Places::from_environment(),
            files: fashion_mnist::FILES,
            #[cfg(feature = "download")]
            download: DownloadOptions::default(),
            synthetic_n_train: 60_000,
            synthetic_n_test: 10_000,
            synthetic_seed: 0,
            interrupt: None,
        }
    }
}

/// Events during [`load`], for a progress bar and a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataEvent {
    /// A folder is being searched; it need not exist.
    Searching(PathBuf),
    /// A folder contains some of the files but cannot be used.
    Skipped {
        /// The folder.
        place: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The data set was read from this folder.
    Found(PathBuf),
    /// A file is being requested from a mirror.
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
        /// Bytes received so far.
        received: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// A file could not be downloaded from a mirror; the next one is tried.
    MirrorFailed {
        /// The file's name.
        file: String,
        /// The mirror's address.
        mirror: String,
        /// Why not.
        reason: String,
    },
    /// A file was downloaded, verified and stored in the cache at this path.
    Downloaded(PathBuf),
    /// Fashion-MNIST is not available for this reason: the synthetic set is used instead.
    FallingBack(String),
    /// Images are being generated.
    Generating {
        /// Number of training images.
        n_train: usize,
        /// Number of test images.
        n_test: usize,
        /// The seed.
        seed: u64,
    },
}

/// Loads the requested data set.
///
/// If `data_dir` or `$FMNIST_DATA_DIR` specifies a folder, only that folder is used, and it is an error if it is unusable,
/// whatever the choice. A damaged copy in one of the other folders is reported through an event, and the search continues.
/// `events` is called on this thread.
pub fn load(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    if options.choice == DatasetChoice::Synthetic {
        if let Some(dir) = &options.data_dir {
            return Err(DataError::FolderForSynthetic(dir.clone()));
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
            events(DataEvent::FallingBack(error.full_message()));
            generated(options, events)
        }
        result => result,
    }
}

/// Loads the data set from the folder that the user specified, if any.
fn named(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Option<Dataset>, DataError> {
    let (variable, dir) = match (&options.data_dir, &options.places.env_dir) {
        (Some(dir), _) => (None, dir),
        (None, Some(dir)) => (Some("FMNIST_DATA_DIR"), dir),
        (None, None) => return Ok(None),
    };
    events(DataEvent::Searching(dir.clone()));
    match read_folder(dir, &options.files, events) {
        Ok(dataset) => Ok(Some(dataset)),
        // The folder is not at fault, and another one would not help.
        Err(error @ DataError::OutOfMemory { .. }) => Err(error),
        Err(error) => Err(DataError::NamedFolder { variable, dir: dir.clone(), source: Box::new(error) }),
    }
}

/// Loads the data set from the first usable one of the usual folders.
fn searched(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Option<Dataset>, DataError> {
    for place in options.places.cache_dir.iter().chain(&options.places.others) {
        events(DataEvent::Searching(place.clone()));
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

/// Downloads the data set into the cache and loads it.
#[cfg(feature = "download")]
fn downloaded(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    let cache_dir = options.places.cache_dir.as_deref().ok_or(DataError::NoCacheFolder)?;
    download::fetch(&options.files, cache_dir, &options.download, &|| is_interrupted(options), events)?;
    read_folder(cache_dir, &options.files, events)
}

/// Nothing is downloaded, as without mirrors.
#[cfg(not(feature = "download"))]
fn downloaded(options: &LoadOptions, _: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    Err(DataError::DownloadFailed { file: options.files.train_images.gz_name(), attempts: Vec::new() })
}

fn read_folder(dir: &Path, files: &FileSet, events: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    let (train, test) = fashion_mnist::load_from_dir(dir, files)?;
    events(DataEvent::Found(dir.into()));
    // A resumed run searches this folder again, whatever its working folder is.
    let source = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
    let (kind, source) = (DatasetKind::FashionMnist, source.display().to_string());
    Ok(Dataset { train, test, description: FASHION_MNIST, kind, source })
}

fn generated(options: &LoadOptions, events: &mut dyn FnMut(DataEvent)) -> Result<Dataset, DataError> {
    let LoadOptions { synthetic_n_train: n_train, synthetic_n_test: n_test, synthetic_seed: seed, .. } = *options;
    events(DataEvent::Generating { n_train, n_test, seed });
    let (train, test) = synthetic::generate_until(n_train, n_test, seed, &|| is_interrupted(options));
    if is_interrupted(options) {
        return Err(DataError::Interrupted);
    }
    let (kind, source) = (DatasetKind::Synthetic, format!("generated with seed {seed}"));
    Ok(Dataset { train, test, description: FASHION_MNIST, kind, source })
}

fn is_interrupted(options: &LoadOptions) -> bool {
    options.interrupt.as_deref().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

impl DataError {
    /// Returns a closure for `map_err` on I/O results.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
