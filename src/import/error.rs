//! Why a file cannot be imported, and what to do about it.

use crate::model::ModelError;
use thiserror::Error;

/// A file that cannot be imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It is not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file describes its model, but the description cannot be read.
    #[error("the model in the file's metadata cannot be read: {0}; specify the model")]
    Metadata(String),
    /// A tensor is no parameter that a model can have.
    #[error(
        "tensor `{0}` is neither a weight nor a bias nor a statistic of a batch normalization: its name should end in \
         weight, kernel, depthwise_kernel, gamma, bias, beta, running_mean, moving_mean, running_var or moving_variance; layers with other \
         parameters cannot be imported"
    )]
    Name(String),
    /// Two tensors have the same meaning.
    #[error("tensors `{first}` and `{second}` are both the {role} of `{stem}`")]
    Twice {
        /// What the names start with.
        stem: String,
        /// `weight`, `bias`, `running_mean` or `running_var`.
        role: &'static str,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
    /// A bias has no weight.
    #[error("`{stem}` has a bias but no weight; every convolution and dense layer of a model has one")]
    Unpaired {
        /// What the names start with.
        stem: String,
    },
    /// The model's layer has a bias, but the file's has none.
    #[error(
        "`{stem}` has a weight but no bias, and `{layer}` has a bias in the model; specify a model with `use_bias = false` in this layer"
    )]
    NoBias {
        /// What the names start with.
        stem: String,
        /// The layer of the model.
        layer: String,
    },
    /// One of the statistics of a batch normalization is missing.
    #[error("`{name}` is a statistic of a batch normalization, but `{stem}` has no {lacks}; a normalization has both")]
    Statistic {
        /// What the names start with.
        stem: String,
        /// The tensor.
        name: String,
        /// `running_mean` or `running_var`.
        lacks: &'static str,
    },
    /// The model's normalization has no factor or no summand, but the file's has.
    #[error(
        "tensor `{name}` contains {value}, but `{layer}` has `{key} = false` in the model, so every value must be {expected}; \
         specify a model without `{key} = false`"
    )]
    NotFixed {
        /// The tensor.
        name: String,
        /// The first other value.
        value: f32,
        /// The layer of the model.
        layer: String,
        /// `scale` or `center`.
        key: &'static str,
        /// The value of a normalization without factor or summand.
        expected: f32,
    },
    /// A variance is negative.
    #[error("tensor `{name}` contains {value} at position {position}; a variance cannot be negative")]
    Negative {
        /// The tensor.
        name: String,
        /// The first such value.
        value: f32,
        /// Its position in the flat tensor.
        position: usize,
    },
    /// The shapes are not those of the model.
    #[error("the tensors do not fit the model `{model}`.\nThe file has:\n{found}\nThe model needs:\n{expected}")]
    Mismatch {
        /// The model.
        model: String,
        /// Shapes in the file, one per line.
        found: String,
        /// Shapes of the model in each layout that was tried, one per line.
        expected: String,
    },
    /// The shapes, which are listed one per line, fit no built-in model.
    #[error(
        "the file does not describe its model, and its tensors fit neither `cnn` nor `mlp`; \
         specify the model with a model file (docs/model-files.md).\nThe file has:\n{0}"
    )]
    NoModel(String),
    /// Several layers have the same shapes, and the names do not identify them.
    #[error(
        "{stems} have the same shapes, and their names do not show which are {layers}; rename the tensors in the file \
         to the names of the model's layers"
    )]
    AmbiguousLayers {
        /// Stems in the file.
        stems: String,
        /// Layers of the model.
        layers: String,
    },
    /// The shapes fit both layouts.
    #[error("the shapes fit both layouts; specify the layout: torch or keras")]
    AmbiguousLayout,
    /// A type that cannot be imported.
    #[error("tensor `{name}` has the type {dtype}; only F32, F16, BF16 and F64 can be imported")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A value is infinite or NaN.
    #[error("tensor `{name}` contains {value} at position {position}; weights must be finite in single precision")]
    NotFinite {
        /// The tensor.
        name: String,
        /// The first such value.
        value: f64,
        /// Its position in the flat tensor.
        position: usize,
    },
}
