//! One filter, or one pooling, on one image, number by number.

use crate::computer::Computer;
use crate::{failed, json};
use fmnist_gpu::cpu::conv2d::Padding;
use fmnist_gpu::cpu::pool2d::{Pool2dDims, pool2d_average_forward, pool2d_max_forward};
use fmnist_gpu::photo::{ImageFilter, Shown};
use fmnist_gpu::session::Device;
use serde::Serialize;
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

/// The filters that have a name, with their numbers row by row, as JSON.
#[wasm_bindgen]
pub fn named_filters() -> String {
    let named = |name: &&str| ImageFilter::built_in(name).map(|filter| (filter.name, filter.weights));
    json(&ImageFilter::NAMES.iter().filter_map(named).collect::<Vec<_>>())
}

/// What became of the image.
#[derive(Serialize)]
struct Computed {
    /// Rows and columns.
    size: [usize; 2],
    values: Vec<f32>,
    /// The values as shades of grey, 0 to 255.
    grey: Vec<u8>,
    /// How these were made: `clamped` or `magnitude`.
    shown: &'static str,
    /// Rows and columns of zeros above and left of the image.
    padding: [usize; 2],
}

/// Applies a filter, written as rows of numbers, to an image `[rows, columns]` by `conv2d_forward`; `padding` is `same` or `valid`.
#[wasm_bindgen]
pub async fn convolve(
    computer: &Computer,
    image: Vec<f32>,
    columns: usize,
    filter: &str,
    stride: usize,
    padding: &str,
) -> Result<String, JsError> {
    let filter = ImageFilter::parse("filter", filter).map_err(failed)?;
    let d = filter.dims([image.len() / columns.max(1), columns], stride, padding_of(padding)).map_err(failed)?;
    let values = match &*computer.device {
        Device::Gpu(gpu) => filter.apply(gpu, &d, &image).await.map_err(failed)?,
        _ => filter.apply_natively(&d, &image),
    };
    let shown = filter.shown();
    let grey = shown.grey(&d, &values);
    let shown = if shown == Shown::Clamped { "clamped" } else { "magnitude" };
    Ok(json(&Computed { size: [d.ho, d.wo], values, grey, shown, padding: [d.pad_top, d.pad_left] }))
}

/// Takes the largest value, or the mean, of each square of `side` by `side` in an image `[rows, columns]`.
#[wasm_bindgen]
pub fn pool(image: Vec<f32>, columns: usize, side: usize, stride: usize, average: bool) -> Result<String, JsError> {
    let shape = [image.len() / columns.max(1), columns, 1];
    let d = Pool2dDims::new(1, shape, [side; 2], [stride; 2], Padding::Valid).map_err(failed)?;
    let n = d.ho * d.wo;
    let (mut values, mut argmax) = (vec![0.0; n], vec![0; n]);
    if average {
        pool2d_average_forward(&d, &image, &mut values);
    } else {
        pool2d_max_forward(&d, &image, &mut values, &mut argmax);
    }
    let grey = values.iter().map(|value| value.clamp(0.0, 255.0).round() as u8).collect();
    Ok(json(&Computed { size: [d.ho, d.wo], values, grey, shown: "clamped", padding: [0, 0] }))
}

fn padding_of(name: &str) -> Padding {
    if name == "valid" { Padding::Valid } else { Padding::Same }
}
