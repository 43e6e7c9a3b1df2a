//! Grids of small colour images of any size, each fitted into a box of the same size, with a caption below it.

use super::ReportError;
use super::canvas::{Cells, Picture, Rect, Rgb};
use super::text::Typesetter;
use crate::photo::covered;

const MARGIN: u32 = 16;
const GUTTER: u32 = 10;
const CAPTION_GAP: u32 = 4;
const CAPTION_EM: f32 = 12.8;
const MAX_CAPTION_LINES: usize = 2;
const TEXT: Rgb = [0x22, 0x22, 0x22];
const FRAME: Rgb = [0xb0, 0xb0, 0xb0];
/// Orange: visible on white and on black, also with colour blindness.
const OUTLINE: Rgb = [0xe6, 0x7e, 0x00];
const OUTLINE_WIDTH: u32 = 2;

/// One image of a sheet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Width in pixels; at least 1.
    pub width: usize,
    /// Height in pixels; at least 1.
    pub height: usize,
    /// `[height, width, 3]`: red, green, blue, sRGB.
    pub rgb: Vec<u8>,
    /// The text below the image; may be empty.
    pub caption: String,
    /// A rectangle to outline, in the tile's own pixels: left, top, width, height.
    pub outline: Option<[usize; 4]>,
}

impl Tile {
    /// Returns a grey tile of `[height, width]` values; 0 is white and 255 black, like the images of the data set.
    pub fn ink(values: &[u8], width: usize, caption: impl Into<String>) -> Self {
        let rgb = values.iter().flat_map(|&value| [255 - value; 3]).collect();
        Tile { width, height: values.len() / width.max(1), rgb, caption: caption.into(), outline: None }
    }
}

/// Draws tiles row by row, `columns` per row, each in a box of this width and height in pixels. Small tiles are enlarged without
/// smoothing, large ones reduced by area averaging; the aspect ratio is preserved.
///
/// # Errors
/// No tiles, no columns, a tile whose bytes do not match its size, or more than 2^28 pixels in total.
pub fn draw_tiles(tiles: &[Tile], columns: usize, size: [u32; 2]) -> Result<Picture, ReportError> {
    for tile in tiles {
        if tile.rgb.len() != 3 * tile.width * tile.height || tile.rgb.is_empty() {
            let (width, height) = (tile.width as u32, tile.height as u32);
            return Err(ReportError::PictureLength { width, height, found: tile.rgb.len() });
        }
    }
    let [width, height] = size.map(|side| side.max(1));
    let typesetter = Typesetter::new(CAPTION_EM);
    let wrapped = |tile: &Tile| typesetter.lines(&tile.caption, width as f32, MAX_CAPTION_LINES);
    let captions: Vec<Vec<String>> = tiles.iter().map(wrapped).collect();
    let n_lines = captions.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let caption_height = if n_lines == 0 { 0 } else { CAPTION_GAP + n_lines * typesetter.line_height() };
    let cells = Cells { columns, size: [width, height + caption_height], gaps: [GUTTER; 2], margin: MARGIN };
    let mut picture = cells.white(tiles.len())?;
    for (i, (tile, caption)) in tiles.iter().zip(&captions).enumerate() {
        let cell = cells.cell(i);
        draw_tile(&mut picture, tile, Rect { height, ..cell });
        typesetter.draw_centred(&mut picture, caption, Rect { top: cell.top + height + CAPTION_GAP, ..cell }, TEXT);
    }
    Ok(picture)
}

/// Draws one tile centred in its box.
fn draw_tile(picture: &mut Picture, tile: &Tile, area: Rect) {
    let (inner_width, inner_height) = ((area.width - 1).max(1), (area.height - 1).max(1));
    let scale = (f64::from(inner_width) / tile.width as f64).min(f64::from(inner_height) / tile.height as f64);
    // An integer factor, so that all squares of an enlarged map have the same size.
    let scale = if scale >= 2.0 { scale.floor() } else { scale };
    let width = ((tile.width as f64 * scale).round() as u32).clamp(1, inner_width);
    let height = ((tile.height as f64 * scale).round() as u32).clamp(1, inner_height);
    let inside =
        Rect { left: area.left + (area.width - width) / 2, top: area.top + (area.height - height) / 2, width, height };
    frame(picture, inside, 1, FRAME);
    for y in 0..height {
        for x in 0..width {
            let colour = averaged(tile, [x, y], [width, height]);
            picture.fill(Rect { left: inside.left + x, top: inside.top + y, width: 1, height: 1 }, colour);
        }
    }
    if let Some([left, top, w, h]) = tile.outline {
        let (fx, fy) = (f64::from(width) / tile.width as f64, f64::from(height) / tile.height as f64);
        let outlined = Rect {
            left: inside.left + (left as f64 * fx) as u32,
            top: inside.top + (top as f64 * fy) as u32,
            width: ((w as f64 * fx) as u32).max(1),
            height: ((h as f64 * fy) as u32).max(1),
        };
        frame(picture, outlined, OUTLINE_WIDTH, OUTLINE);
    }
}

/// Draws a frame of this width around a rectangle, clipped to the image.
fn frame(picture: &mut Picture, rect: Rect, width: u32, colour: Rgb) {
    let (left, top) = (rect.left.saturating_sub(width), rect.top.saturating_sub(width));
    let (right, bottom) = (rect.left + rect.width, rect.top + rect.height);
    let across = right + width - left;
    let down = bottom + width - top;
    picture.fill(Rect { left, top, width: across, height: rect.top - top }, colour);
    picture.fill(Rect { left, top: bottom, width: across, height: width }, colour);
    picture.fill(Rect { left, top, width: rect.left - left, height: down }, colour);
    picture.fill(Rect { left: right, top, width, height: down }, colour);
}

/// Returns the mean colour of the tile's pixels that map to one pixel of the image; of an enlarged tile, that is one pixel.
fn averaged(tile: &Tile, [x, y]: [u32; 2], [width, height]: [u32; 2]) -> Rgb {
    let columns = covered(x as usize, width as usize, tile.width);
    let rows = covered(y as usize, height as usize, tile.height);
    let count = (columns.len() * rows.len()) as u64;
    let mut sum = [0u64; 3];
    for row in rows {
        for column in columns.clone() {
            let at = 3 * (row * tile.width + column);
            for (sum, &value) in sum.iter_mut().zip(&tile.rgb[at..at + 3]) {
                *sum += u64::from(value);
            }
        }
    }
    sum.map(|sum| ((sum + count / 2) / count) as u8)
}
