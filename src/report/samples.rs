//! The article's two images: what a data set shows, and what a model says about it.

use super::metrics::argmax;
use super::{GridItem, ReportError, Tone, columns_for, draw_grid, prediction_caption};
use crate::data::{Description, Split};

/// The first `count` images with their class names, as PNG.
///
/// # Errors
/// The grid cannot be drawn.
pub fn samples_png(split: &Split, count: usize, description: &Description) -> Result<Vec<u8>, ReportError> {
    let caption = |i: usize| description.class_name(split.labels[i].into()).to_string();
    let item = |i: usize| GridItem { image: split.image(i), caption: caption(i), tone: Tone::Neutral };
    let items: Vec<GridItem<'_>> = (0..count).map(item).collect();
    grid_png(&items, description)
}

/// The images at `indices` with `Predicted 97% (Original)` under each, as PNG; `probabilities` is `[indices, classes]`.
///
/// # Errors
/// The grid cannot be drawn.
pub fn predictions_png(
    split: &Split,
    indices: &[usize],
    probabilities: &[f32],
    description: &Description,
) -> Result<Vec<u8>, ReportError> {
    let mut items = Vec::new();
    for (&index, row) in indices.iter().zip(probabilities.chunks(description.classes())) {
        let (class, label) = (argmax(row), usize::from(split.labels[index]));
        let caption = prediction_caption(description.class_name(class), row[class], description.class_name(label));
        let tone = if class == label { Tone::Right } else { Tone::Wrong };
        items.push(GridItem { image: split.image(index), caption, tone });
    }
    grid_png(&items, description)
}

/// A grid of images with captions, as PNG.
///
/// # Errors
/// The grid cannot be drawn.
pub fn grid_png(items: &[GridItem<'_>], description: &Description) -> Result<Vec<u8>, ReportError> {
    draw_grid(items, columns_for(items.len()), description)?.encode_png()
}
