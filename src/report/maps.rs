//! Visualisations of a model: the filters of its first layer, and the output of each layer for one image.

use super::ReportError;
use super::canvas::Picture;
use super::tiles::{Tile, draw_tiles};
use crate::data::Description;
use crate::engine::ReferenceEngine;
use crate::model::{Layer, LayerShape, Model, Source};

/// A visualisation of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPicture {
    /// The layer's name, for example `conv2d_1`; `input` for the image itself.
    pub layer: String,
    /// A short description, used as the caption.
    pub title: String,
    /// A text alternative, with the minimum and the maximum.
    pub description: String,
    /// The image.
    pub picture: Picture,
}

/// Draws the weights that are applied to the pixels: those of the first convolution or dense layer that reads the image. Each filter,
/// or the weights of each unit, is an image. Returns `None` if only other layers read the image, or it has several channels.
///
/// # Errors
/// The model cannot be built, or the image cannot be drawn.
pub fn filters(model: &Model, parameters: &[Vec<f32>]) -> Result<Option<LayerPicture>, ReportError> {
    let shapes = model.shapes()?;
    let reads_pixels = |shape: &LayerShape| {
        let has_weights =
            matches!(shape.layer, Layer::Conv2d { .. } | Layer::DepthwiseConv2d { .. } | Layer::Dense { .. });
        has_weights && is_image(&shapes, shape.sources[0])
    };
    let Some(first) = shapes.iter().position(reads_pixels) else { return Ok(None) };
    let shape = &shapes[first];
    // Its weight comes after the parameters of the layers before it.
    let before: usize = shapes[..first].iter().map(|shape| shape.parameters().len()).sum();
    let Some(weights) = parameters.get(before) else { return Ok(None) };
    let [height, width, 1] = model.input else { return Ok(None) };
    let (size, n, kind) = match &shape.layer {
        Layer::Conv2d { kernel_size, filters, .. } => {
            ([kernel_size.0, kernel_size.1], *filters, format!("{filters} filters"))
        }
        Layer::DepthwiseConv2d { kernel_size, .. } => ([kernel_size.0, kernel_size.1], 1, "1 filter".to_string()),
        Layer::Dense { units, .. } => ([height, width], *units, format!("weights of its {units} units")),
        _ => return Ok(None),
    };
    let largest = largest(weights);
    let side = if size[1] < 12 { 61 } else { 2 * size[1] as u32 + 5 };
    let title = format!("{}: {kind}, {} x {}", shape.name, size[0], size[1]);
    let picture = draw_tiles(&channels(weights, n, size[1], largest), 16, [side, side])?;
    let description = format!(
        "{title}. Blue is positive, red negative, white zero; the strongest colour is {largest:.3}. \
         The largest weight is {:.3}, the smallest {:.3}.",
        extreme(weights, f32::max),
        extreme(weights, f32::min)
    );
    Ok(Some(LayerPicture { layer: shape.name.clone(), title, description, picture }))
}

/// Whether a value is the image, flattened or not.
fn is_image(shapes: &[LayerShape], source: Source) -> bool {
    match source {
        Source::Image => true,
        Source::Layer(i) => shapes[i].layer == Layer::Flatten {} && is_image(shapes, shapes[i].sources[0]),
    }
}

/// Draws an image and the output of each layer, computed by the plain loops: one tile per channel.
///
/// # Errors
/// The model cannot be built or evaluated, or an image cannot be drawn.
pub fn feature_maps(
    model: &Model,
    parameters: &[Vec<f32>],
    image: &[u8],
    description: &Description,
) -> Result<Vec<LayerPicture>, ReportError> {
    let (outputs, probabilities) = ReferenceEngine::<f32>::layer_outputs(model, parameters, image)?;
    let shapes = model.shapes()?;
    let [height, width] = [description.height(), description.width()];
    let input = Tile::ink(&image[..height * width], width, "");
    let mut pictures = vec![LayerPicture {
        layer: "input".to_string(),
        title: format!("input: {height} x {width} pixels"),
        description: "The input of the network.".to_string(),
        picture: draw_tiles(&[input], 1, [169, 169])?,
    }];
    for (i, (shape, output)) in shapes.iter().zip(&outputs).enumerate() {
        let is_last = i + 1 == shapes.len();
        let (size, picture) = match shape.output[..] {
            // A flattened tensor shows nothing new.
            _ if shape.layer == Layer::Flatten {} => continue,
            [height, width, n] => {
                let side = (2 * width as u32).max(56) + 1;
                let maps = channels(output, n, width, largest(output));
                (format!("{n} maps of {height} x {width}"), draw_tiles(&maps, 16, [side, side])?)
            }
            [n] if is_last => {
                let mut tiles = channels(&probabilities, n, 1, 1.0);
                for (class, tile) in tiles.iter_mut().enumerate() {
                    tile.caption = format!("{} {:.0} %", description.class_name(class), 100.0 * probabilities[class]);
                }
                (format!("{n} units"), draw_tiles(&tiles, 5, [121, 41])?)
            }
            [n] => (format!("{n} units"), draw_tiles(&channels(output, n, 1, largest(output)), 32, [25, 25])?),
            _ => continue,
        };
        let description = if is_last {
            let classes = probabilities.iter().zip(description.class_names);
            let listed: Vec<String> = classes.map(|(p, name)| format!("{name} {:.1} %", 100.0 * p)).collect();
            format!("Probabilities: {}.", listed.join(", "))
        } else {
            let n_zero = output.iter().filter(|&&v| v == 0.0).count();
            format!(
                "Output of {}, {size}: from {:.3} to {:.3}; {:.0} % are zero. Blue is positive, red negative.",
                shape.name,
                extreme(output, f32::min),
                extreme(output, f32::max),
                100.0 * n_zero as f64 / output.len() as f64
            )
        };
        let title = format!("{}: {size}", shape.name);
        pictures.push(LayerPicture { layer: shape.name.clone(), title, description, picture });
    }
    Ok(pictures)
}

/// Returns a tile for each of `n` channels, which alternate in `values`.
fn channels(values: &[f32], n: usize, width: usize, largest: f32) -> Vec<Tile> {
    let tile = |i: usize| {
        let channel: Vec<f32> = values.iter().copied().skip(i).step_by(n).collect();
        diverging(&channel, width, largest)
    };
    (0..n).map(tile).collect()
}

/// Returns a tile with colours from red (`-largest`) through white (0) to blue (`largest`); NaN is grey.
pub(super) fn diverging(values: &[f32], width: usize, largest: f32) -> Tile {
    const BLUE: [f32; 3] = [5.0, 48.0, 97.0];
    const RED: [f32; 3] = [150.0, 10.0, 31.0];
    let colour = |&value: &f32| {
        if value.is_nan() {
            return [160; 3];
        }
        let strength = if largest > 0.0 { (value.abs() / largest).min(1.0) } else { 0.0 };
        let end = if value < 0.0 { RED } else { BLUE };
        end.map(|end| (255.0 + (end - 255.0) * strength).round() as u8)
    };
    let rgb = values.iter().flat_map(colour).collect();
    Tile { width, height: values.len() / width, rgb, caption: String::new(), outline: None }
}

/// Returns the largest finite absolute value.
pub(super) fn largest(values: &[f32]) -> f32 {
    values.iter().map(|v| v.abs()).filter(|v| v.is_finite()).fold(0.0, f32::max)
}

/// Returns the largest or the smallest finite value; 0 if there is none.
fn extreme(values: &[f32], pick: fn(f32, f32) -> f32) -> f32 {
    values.iter().copied().filter(|v| v.is_finite()).reduce(pick).unwrap_or(0.0)
}
