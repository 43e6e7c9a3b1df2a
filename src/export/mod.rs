//! Trained models as files for other tools, and the Python code that opens them.
//!
//! - [`onnx`]: the whole network as a graph, for onnxruntime, tract, browsers.
//! - [`torch`]: safetensors with PyTorch's names and layouts.
//! - [`keras`]: npz with Keras's names and layouts.
//! - [`npz`]: npz with this program's own names and layouts.
//!
//! `layers.rs` has the rules for each type of layer in all of them; the other files put these together.
//!
//! All take any [`Model`] with its parameters in the order of [`Model::parameters`], and equal models give equal bytes.
//! The reverse, from a safetensors file of another tool, is [`crate::import`]. `docs/exports.md` shows each format in
//! use.

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
    /// The format does not support such a large model.
    #[error("the model has {bytes} bytes of parameters, but {format} can contain at most {limit}; {advice}")]
    TooLarge {
        /// The format.
        format: &'static str,
        /// Bytes of the parameters.
        bytes: u64,
        /// Maximum size of a file in bytes.
        limit: u64,
        /// What to do instead.
        advice: &'static str,
    },
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

    /// Returns the names of the classes as a JSON list.
    fn class_names(&self) -> String {
        serde_json::Value::from(self.description.class_names.to_vec()).to_string()
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
            return Err(ExportError::Length {
                name: parameter.name,
                shape: parameter.shape,
                expected: needed,
                found: values.len(),
            });
        }
    }
    Ok(shapes)
}
