//! Draws a filter at work: the input, the filter with its weights, the output.

use super::ReportError;
use super::canvas::{Picture, Rect, Rgb};
use super::maps::{diverging, largest};
use super::text::Typesetter;
use super::tiles::{Tile, draw_tiles};
use crate::photo::ImageFilter;

/// Side of a box in pixels.
const BOX: u32 = 421;
const DARK: Rgb = [0x22, 0x22, 0x22];
const LIGHT: Rgb = [0xff, 0xff, 0xff];

/// Draws the image before, the filter, and the image after; `before` and `after` include their captions.
///
/// # Errors
/// A tile is empty, or there are too many pixels.
pub fn draw_filter(before: Tile, filter: &ImageFilter, after: Tile) -> Result<Picture, ReportError> {
    let [rows, columns] = filter.size;
    let caption = format!("{}, {rows} x {columns}", filter.name);
    let middle = Tile { caption, ..cells(filter) };
    draw_tiles(&[before, middle, after], 3, [BOX, BOX])
}

/// Draws one square per weight, blue for positive and red for negative, with its number if there is room.
fn cells(filter: &ImageFilter) -> Tile {
    let [rows, columns] = filter.size;
    let largest = largest(&filter.weights);
    // The tile is drawn at its final size, so that its numbers stay sharp.
    let side = (BOX - 1) / rows.max(columns) as u32;
    let colours = diverging(&filter.weights, columns, largest).rgb;
    let mut drawn = Picture::white(side * columns as u32, side * rows as u32);
    let typesetter = Typesetter::new((side as f32 * 0.24).min(28.0));
    for (i, (&weight, colour)) in filter.weights.iter().zip(colours.as_chunks::<3>().0).enumerate() {
        let (row, column) = ((i / columns) as u32, (i % columns) as u32);
        let cell = Rect { left: column * side, top: row * side, width: side, height: side };
        drawn.fill(cell, [0xb0; 3]);
        drawn.fill(Rect { left: cell.left + 1, top: cell.top + 1, width: side - 1, height: side - 1 }, *colour);
        let number = short(weight);
        let width = typesetter.width(&number);
        if width + 4.0 < side as f32 && side >= 26 {
            let ink = if weight.abs() > 0.55 * largest { LIGHT } else { DARK };
            let left = cell.left as f32 + (side as f32 - width) / 2.0;
            let top = cell.top + (side.saturating_sub(typesetter.line_height())) / 2;
            typesetter.draw(&mut drawn, &number, left, top, ink);
        }
    }
    let (width, height) = (drawn.width as usize, drawn.height as usize);
    Tile { width, height, rgb: drawn.rgb, caption: String::new(), outline: None }
}

/// Formats a number with at most four decimal places and no trailing zeros.
pub fn short(value: f32) -> String {
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_string() } else { text.to_string() }
}
