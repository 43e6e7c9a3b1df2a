//! Grids of images, each with a caption below it.
//!
//! All cells of a grid have the same size: as wide as the widest caption, and at least as wide as an image. A caption wider
//! than [`MAX_CAPTION_WIDTH`] wraps to a second line. Nothing is drawn outside its cell; the gaps between cells are white.

use super::ReportError;
use super::canvas::{Cells, Picture, Rect, Rgb};
use super::text::Typesetter;
use crate::data::Description;

/// Side in pixels of the square that represents one pixel of an image.
pub const PIXEL_SCALE: u32 = 6;

/// Width of the frame around an image.
const FRAME: u32 = 1;
/// Width of the frame around a misclassified image, which is recognisable without colour.
const FRAME_WRONG: u32 = 4;
/// White margin around the grid.
const MARGIN: u32 = 20;
/// White gaps between columns and between rows.
const GAPS: [u32; 2] = [18, 20];
/// White gap between an image and its caption.
const CAPTION_GAP: u32 = 5;
/// Maximum width of a caption line; the longest caption of the ten classes, `Ankle boot 100% (Ankle boot)`, takes 192.
const MAX_CAPTION_WIDTH: u32 = 240;
const MAX_CAPTION_LINES: usize = 2;
/// Em size in pixels, at which the x-height of the typeface is exactly seven pixels, which keeps its edges sharp.
const CAPTION_EM: f32 = 12.8;

const TEXT: Rgb = [0x22, 0x22, 0x22];
const FRAME_GREY: Rgb = [0xb0, 0xb0, 0xb0];
/// A blue and a red that remain distinguishable with the common kinds of colour blindness.
const BLUE: Rgb = [0x1f, 0x4f, 0xd8];
const RED: Rgb = [0xd6, 0x27, 0x28];

/// What a caption indicates about its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Neither correct nor wrong: a dark caption.
    Neutral,
    /// A correct prediction: a blue caption.
    Right,
    /// A wrong prediction: a red caption and a wide red frame around the image.
    Wrong,
}

impl Tone {
    /// Returns the colour of the caption, and the width and the colour of the frame.
    fn style(self) -> (Rgb, u32, Rgb) {
        match self {
            Tone::Neutral => (TEXT, FRAME, FRAME_GREY),
            Tone::Right => (BLUE, FRAME, FRAME_GREY),
            Tone::Wrong => (RED, FRAME_WRONG, RED),
        }
    }
}

/// One image of a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridItem<'a> {
    /// `[H, W]`: 0 is drawn white, 255 black.
    pub image: &'a [u8],
    /// The text below the image.
    pub caption: String,
    /// The colour of the text and the frame.
    pub tone: Tone,
}

/// Returns the number of columns that makes a grid of `count` images about square: 5 for 25, 6 for 30.
pub fn columns_for(count: usize) -> usize {
    let root = count.isqrt();
    if root * root < count { root + 1 } else { root }
}

/// Returns a caption in the article's format, `Ankle boot 97% (Ankle boot)` for example; `probability` is 0 to 1.
pub fn prediction_caption(predicted: &str, probability: f32, original: &str) -> String {
    format!("{predicted} {:2.0}% ({original})", probability * 100.0)
}

/// Draws grey images of a data set row by row, `columns` per row (fewer if there are fewer images). The description of the data set
/// says how large they are.
///
/// # Errors
/// No images, no columns, an image of another size, or more than 2^28 pixels in total.
pub fn draw_grid(items: &[GridItem<'_>], columns: usize, description: &Description) -> Result<Picture, ReportError> {
    let [height, width] = [description.height(), description.width()];
    if let Some(index) = items.iter().position(|item| item.image.len() != height * width) {
        return Err(ReportError::ImageLength { index, found: items[index].image.len(), height, width });
    }
    let typesetter = Typesetter::new(CAPTION_EM);
    let wrapped = |item: &GridItem<'_>| typesetter.lines(&item.caption, MAX_CAPTION_WIDTH as f32, MAX_CAPTION_LINES);
    let captions: Vec<Vec<String>> = items.iter().map(wrapped).collect();
    let n_lines = captions.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let widest = captions.iter().flatten().map(|line| typesetter.width(line)).fold(0.0, f32::max);
    // One pixel on each side for letters that extend past their advance width.
    let caption_width = widest.ceil() as u32 + 2;
    let [height, width] = [height, width].map(|side| side as u32 * PIXEL_SCALE);
    let below = height + 2 * FRAME_WRONG + CAPTION_GAP;
    let size = [caption_width.max(width + 2 * FRAME_WRONG), below + n_lines * typesetter.line_height()];
    let cells = Cells { columns, size, gaps: GAPS, margin: MARGIN };
    let mut picture = cells.white(items.len())?;
    for (i, (item, caption)) in items.iter().zip(&captions).enumerate() {
        let cell = cells.cell(i);
        let image = Rect { left: cell.left + (cell.width - width) / 2, top: cell.top + FRAME_WRONG, width, height };
        let (text, frame_width, frame) = item.tone.style();
        picture.fill(image.grown(frame_width), frame);
        draw_image(&mut picture, item.image, image);
        typesetter.draw_centred(&mut picture, caption, Rect { top: cell.top + below, ..cell }, text);
    }
    Ok(picture)
}

/// Draws every pixel as a square.
fn draw_image(picture: &mut Picture, image: &[u8], area: Rect) {
    let columns = area.width / PIXEL_SCALE;
    for (i, &value) in (0..).zip(image) {
        let left = area.left + i % columns * PIXEL_SCALE;
        let top = area.top + i / columns * PIXEL_SCALE;
        picture.fill(Rect { left, top, width: PIXEL_SCALE, height: PIXEL_SCALE }, [255 - value; 3]);
    }
}
