//! Data sets in memory: Fashion-MNIST, found on disk or downloaded, and a synthetic substitute.
//!
//! [`load`] is the entry point. It looks for the four files of Fashion-MNIST in the data folder if one is specified, else
//! in the folders of [`Places`], else downloads them ([`download`]). It verifies their SHA-256 wherever they come from
//! ([`fashion_mnist`]). Only [`DatasetChoice::Auto`] falls back to the synthetic set ([`synthetic`]), and reports it through
//! [`DataEvent::FallingBack`] and [`Dataset::kind`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[cfg(feature = "disk")]
mod disk;
#[cfg(feature = "download")]
pub mod download;
mod error;
pub mod fashion_mnist;
pub mod idx;
pub mod synthetic;

#[cfg(feature = "disk")]
pub use disk::{DataEvent, LoadOptions, Places, load};
#[cfg(feature = "download")]
pub use download::{DownloadOptions, Proxies};
pub use error::{Attempt, DataError};
pub use fashion_mnist::{DataFile, FileSet};

// Fashion-MNIST in numbers, for its reader and its substitute, which know no other images; the rest reads a `Description`.

/// Rows and columns per image.
const IMAGE_SIDE: usize = 28;
/// Pixels per image.
const PIXELS: usize = IMAGE_SIDE * IMAGE_SIDE;
/// Number of classes.
const N_CLASSES: usize = 10;
/// Names of the classes, in the order of their labels.
const CLASS_NAMES: [&str; N_CLASSES] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// What the images of a data set look like, and what they show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name, for messages.
    pub name: &'static str,
    /// Height, width and channels of an image.
    pub shape: [usize; 3],
    /// Names of the classes, in the order of their labels.
    pub class_names: &'static [&'static str],
}

impl Description {
    /// Returns the number of rows of an image.
    pub const fn height(&self) -> usize {
        self.shape[0]
    }

    /// Returns the number of columns of an image.
    pub const fn width(&self) -> usize {
        self.shape[1]
    }

    /// Returns the number of values of an image, one byte each: height x width x channels.
    pub const fn pixels(&self) -> usize {
        self.shape[0] * self.shape[1] * self.shape[2]
    }

    /// Returns the number of classes.
    pub const fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// Returns the name of a class.
    ///
    /// # Panics
    /// Panics unless `class` is below [`Description::classes`].
    pub fn class_name(&self, class: usize) -> &str {
        self.class_names[class]
    }
}

/// The data set that the program comes with; the generated set is like it.
pub static FASHION_MNIST: Description =
    Description { name: "Fashion-MNIST", shape: [IMAGE_SIDE, IMAGE_SIDE, 1], class_names: &CLASS_NAMES };

/// Images with their labels. The images are all of the same size, which follows from the number of labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// `[N, H, W, C]` values, row-major: in Fashion-MNIST, 0 is background, 255 is full ink.
    pub images: Vec<u8>,
    /// `[N]` classes, from 0.
    pub labels: Vec<u8>,
}

impl Split {
    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the values of an image, row-major.
    ///
    /// # Panics
    /// Panics unless `i` is below [`Split::len`].
    pub fn image(&self, i: usize) -> &[u8] {
        let pixels = self.pixels();
        &self.images[i * pixels..(i + 1) * pixels]
    }

    /// Moves the images from index `first` on into a new split.
    ///
    /// # Panics
    /// Panics if `first` exceeds [`Split::len`].
    pub fn split_off(&mut self, first: usize) -> Split {
        let images = self.images.split_off(first * self.pixels());
        let rest = Split { images, labels: self.labels.split_off(first) };
        // Releases the memory of the part that was moved.
        self.images.shrink_to_fit();
        self.labels.shrink_to_fit();
        rest
    }

    /// Drops the images from index `n` on, if there are any.
    pub fn truncate(&mut self, n: usize) {
        self.images.truncate(n.saturating_mul(self.pixels()));
        self.labels.truncate(n);
    }

    /// Returns the number of values of an image; 0 if there are no images.
    fn pixels(&self) -> usize {
        self.images.len().checked_div(self.labels.len()).unwrap_or(0)
    }
}

/// A data set in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Training images.
    pub train: Split,
    /// Test images.
    pub test: Split,
    /// What its images look like, and what they show.
    pub description: Description,
    /// Which data set it is.
    pub kind: DatasetKind,
    /// Human-readable origin: the absolute path of the folder, or how it was generated.
    pub source: String,
}

/// Which data set was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetKind {
    /// The genuine Fashion-MNIST, verified by SHA-256.
    FashionMnist,
    /// The synthetic substitute.
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

/// Which data set to load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetChoice {
    /// Fashion-MNIST if it can be found or downloaded, else the synthetic set.
    #[default]
    Auto,
    /// Fashion-MNIST, or an error.
    FashionMnist,
    /// The synthetic set.
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
        let choices = [Self::Auto, Self::FashionMnist, Self::Synthetic];
        let found = choices.into_iter().find(|choice| choice.to_string() == name);
        found.ok_or_else(|| DataError::UnknownDataset(name.into()))
    }
}
