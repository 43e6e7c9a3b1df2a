//! Images of layers.

use crate::failed;
use fmnist_gpu::data::FASHION_MNIST;
use fmnist_gpu::model::Model;
use fmnist_gpu::report::maps::{LayerPicture, feature_maps};
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

/// An image of a layer: a title, a text alternative, the bytes of a PNG.
#[wasm_bindgen(getter_with_clone)]
pub struct Figure {
    pub title: String,
    pub description: String,
    pub png: Vec<u8>,
}

impl Figure {
    pub(crate) fn new(layer: &LayerPicture) -> Result<Self, JsError> {
        let (title, description) = (layer.title.clone(), layer.description.clone());
        Ok(Figure { title, description, png: layer.picture.encode_png().map_err(failed)? })
    }
}

/// What each layer makes of an image, `[28, 28]`.
pub(crate) fn maps(model: &Model, parameters: &[Vec<f32>], image: &[u8]) -> Result<Vec<Figure>, JsError> {
    let maps = feature_maps(model, parameters, image, &FASHION_MNIST).map_err(failed)?;
    maps.iter().map(Figure::new).collect()
}
