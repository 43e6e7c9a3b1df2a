//! The data sets.

use crate::{failed, json};
use fmnist_gpu::data::{Dataset, DatasetKind, FASHION_MNIST, fashion_mnist, synthetic};
use fmnist_gpu::report::samples_png;
use serde::Serialize;
use std::rc::Rc;
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

/// A data set in memory.
#[wasm_bindgen]
pub struct Data {
    pub(crate) dataset: Rc<Dataset>,
}

#[derive(Serialize)]
struct Described<'a> {
    dataset: DatasetKind,
    source: &'a str,
    train_images: usize,
    test_images: usize,
    class_names: &'a [&'a str],
    test_labels: &'a [u8],
}

#[wasm_bindgen]
impl Data {
    /// The generated set; the same images for the same seed.
    pub fn generated(train: usize, test: usize, seed: u32) -> Data {
        let (train, test) = synthetic::generate(train, test, seed.into());
        let source = format!("generated with seed {seed}");
        Data::new(Dataset { train, test, description: FASHION_MNIST, kind: DatasetKind::Synthetic, source })
    }

    /// Fashion-MNIST from its four files, plain or compressed, each of which must have the SHA-256 of the genuine one.
    pub fn read(files: Vec<js_sys::Uint8Array>, source: String) -> Result<Data, JsError> {
        let files: Vec<Vec<u8>> = files.iter().map(js_sys::Uint8Array::to_vec).collect();
        let [a, b, c, d] = &files[..] else {
            return Err(JsError::new(&format!("Fashion-MNIST has 4 files, and {} were given", files.len())));
        };
        let (train, test) = fashion_mnist::from_bytes([a, b, c, d], &fashion_mnist::FILES).map_err(failed)?;
        Ok(Data::new(Dataset { train, test, description: FASHION_MNIST, kind: DatasetKind::FashionMnist, source }))
    }

    /// The names of these files, in their order, as JSON; the compressed ones add `.gz`.
    pub fn file_names() -> String {
        json(&fashion_mnist::FILES.names())
    }

    /// Kind, origin, sizes, names of the classes, and labels of the test images, as JSON.
    pub fn describe(&self) -> String {
        let Dataset { train, test, description, kind, source } = &*self.dataset;
        json(&Described {
            dataset: *kind,
            source,
            train_images: train.len(),
            test_images: test.len(),
            class_names: description.class_names,
            test_labels: &test.labels,
        })
    }

    /// The first 25 training images with their classes: the bytes of a PNG.
    pub fn samples(&self) -> Result<Vec<u8>, JsError> {
        let Dataset { train, description, .. } = &*self.dataset;
        samples_png(train, train.len().min(25), description).map_err(failed)
    }

    /// The test images, `[N, 28, 28]`.
    pub fn test_images(&self) -> Vec<u8> {
        self.dataset.test.images.clone()
    }

    /// A test image, `[28, 28]`: 0 is background, 255 is full ink.
    pub fn test_image(&self, index: usize) -> Result<Vec<u8>, JsError> {
        let test = &self.dataset.test;
        if index >= test.len() {
            return Err(JsError::new(&format!("there are {} test images, and {index} is not one of them", test.len())));
        }
        Ok(test.image(index).to_vec())
    }
}

impl Data {
    fn new(dataset: Dataset) -> Self {
        Data { dataset: Rc::new(dataset) }
    }
}
