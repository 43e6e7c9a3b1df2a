//! Grids of small colour images of any size, each fitted into a box of the same size, with a caption below it.

use super::ReportError;
use super::canvas::{MAX_PIXELS, Picture, Rect, Rgb};
use super::text::Typesetter;

const MARGIN: u32 = 16;
const GUTTER: u32 = 10;
const CAPTION_GAP: u32 = 4;
const CAPTION_EM: f32 = 12.8;
const TITLE_EM: f32 = 16.0;
const MAX_CAPTION_LINES: usize = 2;
const MAX_TITLE_LINES: usize = 3;
/// Minimum width of the title above narrower tiles.
const MIN_TITLE_WIDTH: u32 = 300;
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

/// The layout of a sheet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sheet<'a> {
    /// Tiles per row.
    pub columns: usize,
    /// Width and height in pixels of the box for each tile.
    pub tile: [u32; 2],
    /// The title above the tiles; may be empty.
    pub title: &'a str,
}

/// Draws tiles row by row. Small tiles are enlarged without smoothing, large ones reduced by area averaging; the aspect ratio is
/// preserved.
///
/// # Errors
/// No tiles, no columns, a tile whose bytes do not match its size, or more than 2^28 pixels in total.
pub fn draw_tiles(tiles: &[Tile], sheet: Sheet<'_>) -> Result<Picture, ReportError> {
    if tiles.is_empty() {
        return Err(ReportError::NoImages);
    }
    if sheet.columns == 0 {
        return Err(ReportError::NoColumns { n_items: tiles.len() });
    }
    for tile in tiles {
        if tile.rgb.len() != 3 * tile.width * tile.height || tile.rgb.is_empty() {
            let (width, height) = (tile.width as u32, tile.height as u32);
            return Err(ReportError::PictureLength { width, height, found: tile.rgb.len() });
        }
    }
    let columns = sheet.columns.min(tiles.len()) as u32;
    let rows = (tiles.len() as u32).div_ceil(columns);
    let [box_width, box_height] = sheet.tile.map(|side| side.max(1));
    let small = Typesetter::new(CAPTION_EM);
    let large = Typesetter::new(TITLE_EM);
    let captions: Vec<Vec<String>> =
        tiles.iter().map(|tile| small.lines(&tile.caption, box_width as f32, MAX_CAPTION_LINES)).collect();
    let caption_lines = captions.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let caption_height = if caption_lines == 0 { 0 } else { CAPTION_GAP + caption_lines * small.line_height() };
    let (cell_width, cell_height) = (u64::from(box_width + GUTTER), u64::from(box_height + caption_height + GUTTER));
    let grid_width = u64::from(columns) * cell_width - u64::from(GUTTER);
    let title_width = grid_width.max(u64::from(MIN_TITLE_WIDTH)) as f32;
    let title = large.lines(sheet.title, title_width, MAX_TITLE_LINES);
    let title_height = if title.is_empty() { 0 } else { title.len() as u32 * large.line_height() + GUTTER };
    let widest_title = title.iter().map(|line| large.width(line).ceil() as u64).max().unwrap_or(0);
    let width = grid_width.max(widest_title) + 2 * u64::from(MARGIN);
    let height = u64::from(rows) * cell_height - u64::from(GUTTER) + u64::from(title_height) + 2 * u64::from(MARGIN);
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(ReportError::TooLarge { n_items: tiles.len(), width, height, limit: MAX_PIXELS });
    }
    let mut picture = Picture::white(width as u32, height as u32);
    for (i, line) in title.iter().enumerate() {
        large.draw(&mut picture, line, MARGIN as f32, MARGIN + i as u32 * large.line_height(), TEXT);
    }
    for (i, (tile, caption)) in tiles.iter().zip(&captions).enumerate() {
        let (row, column) = (i as u32 / columns, i as u32 % columns);
        let area = Rect {
            left: MARGIN + column * cell_width as u32,
            top: MARGIN + title_height + row * cell_height as u32,
            width: box_width,
            height: box_height,
        };
        draw_tile(&mut picture, tile, area);
        for (j, line) in caption.iter().enumerate() {
            let left = area.left as f32 + (area.width as f32 - small.width(line)) / 2.0;
            let top = area.top + area.height + CAPTION_GAP + j as u32 * small.line_height();
            small.draw(&mut picture, line, left, top, TEXT);
        }
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
    let range = |i: u32, size: u32, source: usize| {
        let first = i as usize * source / size as usize;
        first..((i as usize + 1) * source / size as usize).max(first + 1)
    };
    let (columns, rows) = (range(x, width, tile.width), range(y, height, tile.height));
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
