//! The visitor's own images.

use crate::json;
use fmnist_gpu::data::FASHION_MNIST;
use fmnist_gpu::photo::{Garment, Invert, Photo, prepare};
use serde::Serialize;
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

/// An image as the network sees it.
#[wasm_bindgen(getter_with_clone)]
pub struct Prepared {
    /// `[28, 28]`: 0 is background, 255 is full ink.
    pub image: Vec<u8>,
    /// How it was made, as JSON.
    pub description: String,
}

#[derive(Serialize)]
struct Described {
    inverted: bool,
    crop: [usize; 4],
    size: [usize; 2],
    doubts: Vec<String>,
}

/// The names of the classes, as JSON.
#[wasm_bindgen]
pub fn class_names() -> String {
    json(&FASHION_MNIST.class_names)
}

/// Makes an image of the data set's kind of a photo, four bytes per pixel, as the browser decodes it; `invert` is `auto`, `yes` or `no`.
#[wasm_bindgen]
pub fn prepare_photo(rgba: Vec<u8>, width: usize, invert: &str) -> Result<Prepared, JsError> {
    let photo = photo(rgba, width)?;
    let invert = match invert {
        "yes" => Invert::Yes,
        "no" => Invert::No,
        _ => Invert::Auto,
    };
    let Garment { image, inverted, crop, doubts } = prepare(&photo, invert);
    let doubts = doubts.iter().map(ToString::to_string).collect();
    let description = json(&Described { inverted, crop, size: [photo.width, photo.height], doubts });
    Ok(Prepared { image, description })
}

/// The grey values of a photo, 0 to 255, at most `side` wide and high: its columns, then the values.
#[wasm_bindgen]
pub fn grey_photo(rgba: Vec<u8>, width: usize, side: usize) -> Result<Vec<f32>, JsError> {
    let (values, [_, columns]) = photo(rgba, width)?.grey(side);
    Ok(std::iter::once(columns as f32).chain(values).collect())
}

fn photo(rgba: Vec<u8>, width: usize) -> Result<Photo, JsError> {
    let height = (rgba.len() / 4).checked_div(width).unwrap_or(0);
    if height == 0 || rgba.len() != 4 * width * height {
        return Err(JsError::new("the image has no pixels"));
    }
    Ok(Photo { width, height, rgba })
}
