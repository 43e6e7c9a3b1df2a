//! Reports: HTML pages, plots and rooflines as SVG, and grids of captioned images as PNG.
//!
//! [`draw_grid`] lays images out and draws them (`grid`) on a white [`Picture`] (`canvas`), with the embedded typeface of
//! `assets/` (`text`). The drawing code does not depend on models or files: the caller provides the captions and writes the
//! bytes of [`Picture::encode_png`].

mod canvas;
pub mod comparison;
mod filter;
mod grid;
pub mod maps;
pub mod metrics;
mod page;
mod parallel;
pub mod plots;
pub mod ranking;
mod roofline;
pub mod run_page;
mod samples;
mod text;
mod tiles;

pub use canvas::Picture;
pub use filter::{draw_filter, short};
pub use grid::{GridItem, PIXEL_SCALE, Tone, columns_for, draw_grid, prediction_caption};
pub use roofline::{Roofline, RooflinePoint, draw_roofline};
pub use samples::{grid_png, predictions_png, samples_png};
pub use tiles::{Tile, draw_tiles};

use crate::engine::EngineError;
use crate::model::ModelError;
use thiserror::Error;

/// Why a report, or an image of it, could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A grid without images.
    #[error("the grid has no images; draw at least one")]
    NoImages,
    /// A grid without columns.
    #[error("the grid of {n_items} images has 0 columns; expected at least 1")]
    NoColumns {
        /// Number of images.
        n_items: usize,
    },
    /// An image of another size than those of the data set, or with several bytes per pixel.
    #[error(
        "image {index} of the grid has {found} bytes; expected {} ({height} x {width}, one byte per pixel)",
        height * width
    )]
    ImageLength {
        /// Index of the image, from 0.
        index: usize,
        /// Number of bytes.
        found: usize,
        /// Rows of an image of the data set.
        height: usize,
        /// Columns of an image of the data set.
        width: usize,
    },
    /// More pixels than the limit.
    #[error(
        "the grid of {n_items} images would have {width} x {height} pixels, and the limit is {limit} pixels; draw fewer images"
    )]
    TooLarge {
        /// Number of images.
        n_items: usize,
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// Maximum number of pixels.
        limit: u64,
    },
    /// An image whose bytes do not match its size.
    #[error("the image of {width} x {height} pixels has {found} bytes; expected 3 per pixel (red, green, blue)")]
    PictureLength {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes in `rgb`.
        found: usize,
    },
    /// A plot could not be drawn, for this reason.
    #[error("the plot could not be drawn: {0}")]
    Plot(String),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model cannot be evaluated.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A page could not be written.
    #[error("the page could not be written")]
    Page(#[from] askama::Error),
    /// The encoder failed.
    #[error("the image of {width} x {height} pixels could not be encoded as PNG")]
    Encode {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The encoder's error.
        source: png::EncodingError,
    },
}
