//! Trained models as files for other tools, and the Python code that opens them.
//!
//! - [`onnx`]: the whole network as a graph, for onnxruntime, tract, browsers.
//! - [`torch`]: safetensors with PyTorch's names and layouts.
//! - [`keras`]: npz with Keras's names and layouts.
//! - [`npz`]: npz with this program's own names and layouts.
//! - [`half`]: this program's own weight file in half precision.
//! - [`html`]: a page that classifies images in any browser.
//!
//! `layers.rs` has the rules for each type of layer in all of them; the other files put these together.
//!
//! All take any [`Model`] with its parameters in the order of [`Model::parameters`], and equal models give equal bytes.
//! The reverse, from a safetensors file of another tool, is [`crate::import`]. `docs/exports.md` shows each format in
//! use.

pub mod half;
pub mod html;
pub mod keras;
mod layers;
pub(crate) mod layout;
pub mod npz;
pub mod onnx;
mod onnx_proto;
mod python;
pub mod torch;
mod window;

use crate::data::{DatasetKind, Description};
use crate::model::weights::WeightsError;
use crate::model::{LayerShape, Model, ModelError};
use thiserror::Error;

/// A model that cannot be exported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The parameters are not those of the model.
    #[error("the model `{model}` has {expected} parameter tensors, but the number given is {found}")]
    Count {
        /// The model.
        model: String,
        /// Tensors that the model has.
        expected: usize,
        /// Tensors that were given.
        found: usize,
    },
    /// A parameter does not have the length of its shape.
    #[error("the number of values of the parameter `{name}` is {found}, but its shape {shape:?} needs {expected}")]
    Length {
        /// Its name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Values that the shape needs.
        expected: usize,
        /// Values that were given.
        found: usize,
    },
    /// The model has so many bytes of parameters that ONNX does not support it.
    #[error(
        "the model has {} bytes of parameters, but an ONNX file can contain at most {}; torch, keras and npz have no such limit",
        .0,
        onnx::MAX_BYTES
    )]
    TooLarge(u64),
    /// A layer has a name that cannot be an attribute of a module of PyTorch.
    #[error(
        "the layer `{name}` cannot be exported for PyTorch, where its name is {reason}; give it another `name` in the model \
         file and train again, or export to another format"
    )]
    Attribute {
        /// The layer.
        name: String,
        /// What the name is in Python.
        reason: &'static str,
    },
    /// The safetensors file could not be created.
    #[error(transparent)]
    Safetensors(#[from] WeightsError),
    /// The page could not be rendered.
    #[error("the page could not be created")]
    Page(#[from] askama::Error),
    /// The page's content could not be compressed.
    #[error("the page's content could not be compressed: {0}")]
    Compression(#[source] std::io::Error),
    /// The archive could not be created.
    #[error("the npz archive could not be created: {0}")]
    Archive(#[from] zip::result::ZipError),
}

/// What is known about a trained model besides its layers and parameters; stored in an export's metadata.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// The images that it is for, and their classes.
    pub description: &'static Description,
    /// The data set that it was trained on.
    pub dataset: Option<DatasetKind>,
    /// Its accuracy on the test set, 0 to 1.
    pub test_accuracy: Option<f64>,
}

impl Facts {
    /// Returns the facts about a model of unknown origin.
    pub fn new(description: &'static Description) -> Self {
        Facts { description, dataset: None, test_accuracy: None }
    }

    /// Returns what a file says about its model, as keys and values; `layers` is the key of the model as JSON.
    fn metadata(&self, model: &Model, layers: &'static str) -> Result<Vec<(&'static str, String)>, WeightsError> {
        let description = serde_json::to_string(model).map_err(|error| WeightsError::Model(error.to_string()))?;
        let class_names = serde_json::Value::from(self.description.class_names.to_vec());
        let version = format!("fmnist-gpu {}", env!("CARGO_PKG_VERSION"));
        let mut entries = vec![("class_names", class_names.to_string()), (layers, description), ("version", version)];
        entries.extend(self.dataset.map(|dataset| ("dataset", dataset.to_string())));
        entries.extend(self.test_accuracy.map(|accuracy| ("test_accuracy", accuracy.to_string())));
        Ok(entries)
    }
}

/// Returns the layers of a model after checking its parameters.
fn checked_shapes(model: &Model, parameters: &[Vec<f32>]) -> Result<Vec<LayerShape>, ExportError> {
    let shapes = model.shapes()?;
    let expected = model.parameters()?;
    if expected.len() != parameters.len() {
        let (expected, found) = (expected.len(), parameters.len());
        return Err(ExportError::Count { model: model.name.clone(), expected, found });
    }
    for (parameter, values) in expected.into_iter().zip(parameters) {
        let needed = parameter.shape.iter().product();
        if values.len() != needed {
            let (name, shape, found) = (parameter.name, parameter.shape, values.len());
            return Err(ExportError::Length { name, shape, expected: needed, found });
        }
    }
    Ok(shapes)
}
