//! Trained models in the formats of other tools, and back: ONNX, PyTorch, Keras, plain NumPy.
//!
//! [`export`] gives the bytes of a file and the lines of Python that open it. What differs between the tools is the order of the
//! numbers, and each difference has one function in `layout`: PyTorch and ONNX keep channels before rows and columns (`[N, C, H, W]`)
//! and outputs before inputs, Keras keeps ours. [`import`] reads a safetensors file in the layout of PyTorch or Keras.
//!
//! Every exported model takes pixels from 0 to 255 and divides by 255 itself.

mod import;
pub mod keras;
mod layout;
mod npz;
pub mod onnx;
pub mod torch;

pub use import::{ImportError, Imported, Layout, import};

use crate::model::{Model, ModelError};
use serde::Serialize;
use std::fmt;
use thiserror::Error;

/// A format that other tools open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A graph for onnxruntime, tract and others: `[batch, 28, 28, 1]` pixels in, `[batch, 10]` probabilities out.
    Onnx,
    /// A safetensors file in PyTorch's names and layouts, for `load_state_dict`.
    Torch,
    /// A NumPy archive in Keras's shapes, for `set_weights`.
    Keras,
    /// A NumPy archive of the parameters as they are here.
    Npz,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 4] = [Format::Onnx, Format::Torch, Format::Keras, Format::Npz];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Onnx => "onnx",
            Format::Torch => "torch",
            Format::Keras => "keras",
            Format::Npz => "npz",
        }
    }

    /// The name of its file in a run folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Format::Onnx => "model.onnx",
            Format::Torch => "model.torch.safetensors",
            Format::Keras => "model.keras.npz",
            Format::Npz => "model.npz",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A model that cannot be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The parameters are not those of the model.
    #[error("the parameters have lengths {found:?}, and the model `{model}` needs {expected:?}")]
    Parameters {
        /// The model.
        model: String,
        /// Lengths given.
        found: Vec<usize>,
        /// Lengths needed.
        expected: Vec<usize>,
    },
    /// The file could not be put together.
    #[error("the {format} file could not be made: {reason}")]
    Encode {
        /// The format.
        format: Format,
        /// The cause.
        reason: String,
    },
}

/// What an exported file says of its model besides the numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// `fashion-mnist` or `synthetic`, where it is known.
    pub dataset: Option<String>,
    /// Accuracy on the test set, 0 to 1, where it is known.
    pub test_accuracy: Option<f64>,
}

/// A file for another tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// The bytes of the file: the same for the same model, parameters and [`About`].
    pub bytes: Vec<u8>,
    /// Python that opens it, with `{file}` where the path belongs.
    pub python: String,
}

/// The model in `format`; parameters in the order of [`Model::parameters`].
///
/// # Errors
/// The parameters do not fit the model, or the format cannot hold it.
pub fn export(format: Format, model: &Model, parameters: &[Vec<f32>], about: &About) -> Result<Exported, ExportError> {
    let expected: Vec<usize> = model.parameters()?.iter().map(|p| p.shape.iter().product()).collect();
    let found: Vec<usize> = parameters.iter().map(Vec::len).collect();
    if found != expected {
        return Err(ExportError::Parameters { model: model.name.clone(), found, expected });
    }
    match format {
        Format::Onnx => onnx::export(model, parameters, about),
        Format::Torch => torch::export(model, parameters, about),
        Format::Keras => keras::export(model, parameters),
        Format::Npz => npz::export(model, parameters),
    }
}
