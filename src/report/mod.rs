//! Pictures for people: a grid of images with a caption under each, as PNG, and the roofline of a profile, as SVG.
//!
//! [`draw_grid`] lays the images out and draws them (`grid`) on a white [`Picture`] (`canvas`), with the embedded typeface of
//! `assets/` (`text`). Nothing here knows of models or files: the caller brings captions, and writes the bytes of
//! [`Picture::encode_png`] where they belong.

mod canvas;
pub mod comparison;
mod filter;
mod grid;
pub mod maps;
pub mod metrics;
mod page;
pub mod plots;
mod roofline;
pub mod run_page;
mod text;
mod tiles;

pub use canvas::Picture;
pub use filter::{draw_filter, short};
pub use grid::{GridItem, PIXEL_SCALE, Tone, columns_for, draw_grid, prediction_caption};
pub use roofline::{Roofline, RooflinePoint, draw_roofline};
pub use tiles::{Sheet, Tile, draw_tiles};

use crate::data::{IMAGE_SIDE, PIXELS};
use thiserror::Error;

/// Why a picture could not be drawn or encoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A grid of nothing.
    #[error("the grid has no images; draw at least one")]
    NoImages,
    /// A grid without columns.
    #[error("the grid of {n_items} images has 0 columns; expected at least 1")]
    NoColumns {
        /// Images to be drawn.
        n_items: usize,
    },
    /// An image that is not 28 x 28 bytes.
    #[error(
        "image {index} of the grid has {found} bytes; expected {PIXELS} ({IMAGE_SIDE} x {IMAGE_SIDE}, one byte a pixel)"
    )]
    ImageLength {
        /// Which image, from 0.
        index: usize,
        /// Its bytes.
        found: usize,
    },
    /// More pixels than the limit.
    #[error(
        "the grid of {n_items} images would have {width} x {height} pixels, and the limit is {limit} in all; draw fewer images"
    )]
    TooLarge {
        /// Images to be drawn.
        n_items: usize,
        /// Pixels from left to right.
        width: u64,
        /// Pixels from top to bottom.
        height: u64,
        /// Most pixels that a picture may have.
        limit: u64,
    },
    /// A picture whose bytes do not match its size.
    #[error("the picture of {width} x {height} pixels has {found} bytes; expected 3 a pixel (red, green, blue)")]
    PictureLength {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
        /// Bytes in `rgb`.
        found: usize,
    },
    /// A plot could not be drawn.
    #[error("the plot could not be drawn: {reason}")]
    Plot {
        /// Why.
        reason: String,
    },
    /// The encoder refused.
    #[error("the picture of {width} x {height} pixels could not be encoded as PNG")]
    Encode {
        /// Pixels from left to right.
        width: u32,
        /// Pixels from top to bottom.
        height: u32,
        /// The encoder's reason.
        source: png::EncodingError,
    },
}
