//! A trained model on the processor, without anything else.

use crate::failed;
use crate::figure::{Figure, maps};
use fmnist_gpu::engine::NativeEngine;
use fmnist_gpu::model::{Model, weights};
use fmnist_gpu::session::views;
use std::ops::ControlFlow;
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

/// A trained model.
#[wasm_bindgen]
pub struct Classifier {
    model: Model,
    parameters: Vec<Vec<f32>>,
}

#[wasm_bindgen]
impl Classifier {
    /// The model of a weight file.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: &[u8]) -> Result<Classifier, JsError> {
        let (model, parameters) = weights::from_bytes(bytes).map_err(failed)?;
        Ok(Classifier { model, parameters })
    }

    /// The probabilities of the classes of each image, `[N, 28, 28]`, by the views of the model.
    pub async fn predict(&self, images: Vec<u8>) -> Result<Vec<f32>, JsError> {
        let mut engine = NativeEngine::new(&self.model, &self.parameters, 1).map_err(failed)?;
        let go_on = &mut |_| ControlFlow::Continue(());
        views::predict(&mut engine, &images, self.model.predict.views, go_on).await.map_err(failed)
    }

    /// What each layer makes of an image.
    pub fn maps(&self, image: &[u8]) -> Result<Vec<Figure>, JsError> {
        maps(&self.model, &self.parameters, image)
    }
}
