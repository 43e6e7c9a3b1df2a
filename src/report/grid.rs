//! Grids of images, each with a caption below it.
//!
//! All cells of a grid have the same size: as wide as the widest caption, and at least as wide as an image. A caption wider
//! than [`MAX_CAPTION_WIDTH`] wraps to a second line. Nothing is drawn outside its cell; the gaps between cells are white.

use super::ReportError;
use super::canvas::{MAX_PIXELS, Picture, Rect, Rgb};
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
/// White gaps between adjacent cells.
const GUTTER_X: u32 = 18;
const GUTTER_Y: u32 = 20;
/// White gaps between an image and its caption, and between the title and the grid.
const CAPTION_GAP: u32 = 5;
const TITLE_GAP: u32 = 12;
/// Maximum width of a caption line; the longest caption of the ten classes, `Ankle boot 100% (Ankle boot)`, takes 192.
const MAX_CAPTION_WIDTH: u32 = 240;
const MAX_CAPTION_LINES: usize = 2;
/// Maximum width of a title line above a narrower grid.
const MAX_TITLE_WIDTH: u64 = 420;
const MAX_TITLE_LINES: usize = 3;
/// Em sizes in pixels. At 12.8 the x-height of the typeface is exactly seven pixels, which keeps its edges sharp.
const CAPTION_EM: f32 = 12.8;
const TITLE_EM: f32 = 18.3;

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
    fn text(self) -> Rgb {
        match self {
            Tone::Neutral => TEXT,
            Tone::Right => BLUE,
            Tone::Wrong => RED,
        }
    }

    fn frame(self) -> (u32, Rgb) {
        match self {
            Tone::Neutral | Tone::Right => (FRAME, FRAME_GREY),
            Tone::Wrong => (FRAME_WRONG, RED),
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

/// Draws grey images of a data set row by row, `columns` per row (fewer if there are fewer images), below the title if there is
/// one. The description of the data set says how large they are.
///
/// # Errors
/// No images, no columns, an image of another size, or more than 2^28 pixels in total.
pub fn draw_grid(
    items: &[GridItem<'_>],
    columns: usize,
    title: Option<&str>,
    description: &Description,
) -> Result<Picture, ReportError> {
    let [height, width] = [description.height(), description.width()];
    check(items, columns, [height, width])?;
    let typesetter = Typesetter::new(CAPTION_EM);
    let captions: Vec<Vec<String>> =
        items.iter().map(|item| typesetter.lines(&item.caption, MAX_CAPTION_WIDTH as f32, MAX_CAPTION_LINES)).collect();
    let scaled = [height, width].map(|side| side as u32 * PIXEL_SCALE);
    let layout = Layout::new(scaled, &captions, &typesetter, columns.min(items.len()));
    let heading = Heading::new(title, layout.inner_width);
    let layout = layout.below(&heading);
    let (width, height) = (layout.width(), layout.height());
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(ReportError::TooLarge { n_items: items.len(), width, height, limit: MAX_PIXELS });
    }

    // The limit guarantees that both sides fit in 32 bits.
    let mut picture = Picture::white(width as u32, height as u32);
    heading.draw(&mut picture);
    for (i, (item, caption)) in items.iter().zip(&captions).enumerate() {
        draw_item(&mut picture, item, caption, &typesetter, &layout, i);
    }
    Ok(picture)
}

fn check(items: &[GridItem<'_>], columns: usize, [height, width]: [usize; 2]) -> Result<(), ReportError> {
    if items.is_empty() {
        return Err(ReportError::NoImages);
    }
    if columns == 0 {
        return Err(ReportError::NoColumns { n_items: items.len() });
    }
    match items.iter().position(|item| item.image.len() != height * width) {
        Some(index) => Err(ReportError::ImageLength { index, found: items[index].image.len(), height, width }),
        None => Ok(()),
    }
}

/// The positions of the cells.
struct Layout {
    /// Height and width of a drawn image in pixels.
    image: [u32; 2],
    columns: usize,
    rows: usize,
    cell_width: u32,
    cell_height: u32,
    /// Width between the margins: that of the grid, or of a wider heading.
    inner_width: u64,
    heading_height: u32,
}

impl Layout {
    fn new(image: [u32; 2], captions: &[Vec<String>], typesetter: &Typesetter, columns: usize) -> Self {
        let n_lines = captions.iter().map(Vec::len).max().unwrap_or(0) as u32;
        let [framed_height, framed_width] = image.map(|side| side + 2 * FRAME_WRONG);
        let cell_width = framed_width.max(ink_width(typesetter, captions.iter().flatten()));
        Self {
            image,
            columns,
            rows: captions.len().div_ceil(columns),
            cell_width,
            cell_height: framed_height + CAPTION_GAP + n_lines * typesetter.line_height(),
            inner_width: span(columns, cell_width, GUTTER_X),
            heading_height: 0,
        }
    }

    /// Returns the layout with space for a heading, which may be wider.
    fn below(self, heading: &Heading) -> Self {
        let inner_width = self.inner_width.max(u64::from(heading.width()));
        Self { inner_width, heading_height: heading.height(), ..self }
    }

    /// Returns the width of the image.
    fn width(&self) -> u64 {
        self.inner_width + 2 * u64::from(MARGIN)
    }

    /// Returns the height of the image.
    fn height(&self) -> u64 {
        u64::from(self.heading_height) + span(self.rows, self.cell_height, GUTTER_Y) + 2 * u64::from(MARGIN)
    }

    /// Returns the cell of image `i`; the size of the image was checked before.
    fn cell(&self, i: usize) -> Rect {
        let (row, column) = ((i / self.columns) as u32, (i % self.columns) as u32);
        let indent = (self.inner_width - span(self.columns, self.cell_width, GUTTER_X)) as u32 / 2;
        Rect {
            left: MARGIN + indent + column * (self.cell_width + GUTTER_X),
            top: MARGIN + self.heading_height + row * (self.cell_height + GUTTER_Y),
            width: self.cell_width,
            height: self.cell_height,
        }
    }
}

/// Returns the length of `n` cells with gutters between them.
fn span(n: usize, cell: u32, gutter: u32) -> u64 {
    n as u64 * u64::from(cell + gutter) - u64::from(gutter)
}

/// Returns a width in whole pixels that fits every line, with one pixel on each side for letters that extend past their advance width.
fn ink_width<'a>(typesetter: &Typesetter, lines: impl Iterator<Item = &'a String>) -> u32 {
    let widest = lines.map(|line| typesetter.width(line)).fold(0.0, f32::max);
    widest.ceil() as u32 + 2
}

/// The title's lines, centred above the grid.
struct Heading {
    typesetter: Typesetter,
    lines: Vec<String>,
}

impl Heading {
    fn new(title: Option<&str>, grid_width: u64) -> Self {
        let typesetter = Typesetter::new(TITLE_EM);
        let max_width = grid_width.max(MAX_TITLE_WIDTH) as f32;
        let lines = typesetter.lines(title.unwrap_or(""), max_width, MAX_TITLE_LINES);
        Self { typesetter, lines }
    }

    fn width(&self) -> u32 {
        ink_width(&self.typesetter, self.lines.iter())
    }

    fn height(&self) -> u32 {
        match self.lines.len() as u32 {
            0 => 0,
            n => n * self.typesetter.line_height() + TITLE_GAP,
        }
    }

    fn draw(&self, picture: &mut Picture) {
        let area = Rect { left: 0, top: MARGIN, width: picture.width, height: self.height() };
        draw_lines(picture, &self.lines, &self.typesetter, area, TEXT);
    }
}

/// Draws item `i` into its cell.
fn draw_item(
    picture: &mut Picture,
    item: &GridItem<'_>,
    caption: &[String],
    typesetter: &Typesetter,
    layout: &Layout,
    i: usize,
) {
    let (cell, [height, width]) = (layout.cell(i), layout.image);
    let left = cell.left + (cell.width - width) / 2;
    let image = Rect { left, top: cell.top + FRAME_WRONG, width, height };
    let (frame, colour) = item.tone.frame();
    picture.fill(image.grown(frame), colour);
    draw_image(picture, item.image, image);
    let below = FRAME_WRONG + height + FRAME_WRONG + CAPTION_GAP;
    draw_lines(picture, caption, typesetter, Rect { top: cell.top + below, ..cell }, item.tone.text());
}

/// Draws every pixel as a square.
fn draw_image(picture: &mut Picture, image: &[u8], area: Rect) {
    let columns = area.width / PIXEL_SCALE;
    for (i, &value) in (0..).zip(image) {
        let (row, column) = (i / columns, i % columns);
        let left = area.left + column * PIXEL_SCALE;
        let top = area.top + row * PIXEL_SCALE;
        picture.fill(Rect { left, top, width: PIXEL_SCALE, height: PIXEL_SCALE }, [255 - value; 3]);
    }
}

/// Draws lines centred horizontally in `area`, from its top down.
fn draw_lines(picture: &mut Picture, lines: &[String], typesetter: &Typesetter, area: Rect, colour: Rgb) {
    let mut top = area.top;
    for line in lines {
        let left = area.left as f32 + (area.width as f32 - typesetter.width(line)) / 2.0;
        typesetter.draw(picture, line, left, top, colour);
        top += typesetter.line_height();
    }
}
