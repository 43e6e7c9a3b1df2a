//! The article's two images, drawn from data and predictions.

use anyhow::{Context, Result};
use fmnist_gpu::data::{Description, Split};
use fmnist_gpu::files::write_whole;
pub use fmnist_gpu::report::metrics::argmax;
use fmnist_gpu::report::{GridItem, Tone, columns_for, draw_grid, prediction_caption};
use std::path::Path;

/// The first `count` images with their class names, as PNG.
pub fn samples_png(split: &Split, count: usize, description: &Description) -> Result<Vec<u8>> {
    let caption = |i: usize| description.class_name(split.labels[i].into()).to_string();
    let item = |i: usize| GridItem { image: split.image(i), caption: caption(i), tone: Tone::Neutral };
    let items: Vec<GridItem<'_>> = (0..count).map(item).collect();
    grid_png(&items, description)
}

/// The images at `indices` with `Predicted 97% (Original)` under each, as PNG; `probabilities` is `[indices, classes]`.
pub fn predictions_png(
    split: &Split,
    indices: &[usize],
    probabilities: &[f32],
    description: &Description,
) -> Result<Vec<u8>> {
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
pub fn grid_png(items: &[GridItem<'_>], description: &Description) -> Result<Vec<u8>> {
    let picture = draw_grid(items, columns_for(items.len()), description).context("drawing the grid")?;
    picture.encode_png().context("encoding the image")
}

/// Writes an image to the file that the user named.
pub fn write_png(path: &Path, png: &[u8], force: bool) -> Result<()> {
    write_whole(path, png, force).context("writing the image")
}
