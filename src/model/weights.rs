//! `model.safetensors`: the parameters in single precision, with the model itself and the layout in the metadata.

use super::{MAX_DESCRIPTION_BYTES, Model, ModelError};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use thiserror::Error;

/// The layout of every tensor in the file, as its metadata says it.
pub const LAYOUT: &str = "row-major, last index fastest; activations NHWC; conv2d weight [KH, KW, C, O]; \
                          dense weight [in, out] with inputs flattened in the order H, W, C; pixels divided by 255";

/// What the metadata's `format` says of a file in this layout.
pub(crate) const FORMAT: &str = "fmnist-gpu 1";

/// A weight file that cannot be used.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// Not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// The file says nothing of its model.
    #[error(
        "the file has no `{key}` in its metadata, so it is not the model of a run; weights in PyTorch's or Keras's layout \
         become a run by `fmnist-gpu import`"
    )]
    Metadata {
        /// The missing key.
        key: &'static str,
    },
    /// The file's model cannot be built.
    #[error("the model in the metadata cannot be read: {0}")]
    Model(String),
    /// The file is of a version of the program that this one does not know.
    #[error("it has the format `{found}`, and this program reads `{FORMAT}`; use the version that wrote it")]
    Version {
        /// The format in the file.
        found: String,
    },
    /// A weight is infinite or not a number.
    #[error("tensor `{name}` holds {value} at position {position}; every weight must be a finite number")]
    NotFinite {
        /// The tensor.
        name: String,
        /// The first such value.
        value: f32,
        /// Its position in the flat tensor.
        position: usize,
    },
    /// The file's model cannot be built.
    #[error(transparent)]
    Shapes(#[from] ModelError),
    /// A tensor is not there.
    #[error("tensor `{name}` is missing; the file has {found}")]
    Missing {
        /// The tensor.
        name: String,
        /// The names that are there.
        found: String,
    },
    /// A tensor is there that the model does not know.
    #[error("tensor `{name}` belongs to no layer of the model")]
    Unknown {
        /// The tensor.
        name: String,
    },
    /// A tensor is of another shape or type.
    #[error("tensor `{name}` is {found}, and the model needs F32 {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Type and shape in the file.
        found: String,
        /// Shape in the model.
        expected: Vec<usize>,
    },
}

/// The bytes of `model.safetensors`: the same bytes for the same model and parameters.
///
/// # Errors
/// The model cannot be built, or the lengths of `parameters` do not fit it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>]) -> Result<Vec<u8>, WeightsError> {
    let expected = model.parameters()?;
    let mut views = Vec::with_capacity(expected.len());
    for (parameter, values) in expected.iter().zip(parameters) {
        let view = TensorView::new(Dtype::F32, parameter.shape.clone(), bytemuck::cast_slice(values))
            .map_err(|error| WeightsError::Format(format!("tensor `{}`: {error}", parameter.name)))?;
        views.push((parameter.name.clone(), view));
    }
    let description = serde_json::to_string(model).map_err(|error| WeightsError::Model(error.to_string()))?;
    let metadata = HashMap::from([
        ("format".to_string(), FORMAT.to_string()),
        ("layout".to_string(), LAYOUT.to_string()),
        ("model".to_string(), description),
    ]);
    serialize(views, metadata)
}

/// The bytes of a safetensors file: the same bytes for the same tensors and metadata.
///
/// # Errors
/// The tensors make no file.
pub(crate) fn serialize(
    views: Vec<(String, TensorView<'_>)>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, WeightsError> {
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| WeightsError::Format(e.to_string()))?;
    sort_header(bytes)
}

/// Puts the keys of the header into alphabetical order.
///
/// The crate writes the metadata in the order of a hash map, which differs from run to run; equal models must be equal files.
pub(crate) fn sort_header(bytes: Vec<u8>) -> Result<Vec<u8>, WeightsError> {
    let fail = |what: &str| WeightsError::Format(format!("its header {what}"));
    let (size, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| fail("is cut"))?;
    let header_len = usize::try_from(u64::from_le_bytes(*size)).map_err(|_| fail("is too long"))?;
    let (header, data) = rest.split_at_checked(header_len).ok_or_else(|| fail("is cut"))?;
    // serde_json keeps an object's keys sorted.
    let sorted: serde_json::Value = serde_json::from_slice(header).map_err(|error| fail(&error.to_string()))?;
    let mut text = sorted.to_string().into_bytes();
    // The data must start at a multiple of eight bytes; spaces may follow the JSON.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut sorted = (text.len() as u64).to_le_bytes().to_vec();
    sorted.extend(text);
    sorted.extend(data);
    Ok(sorted)
}

/// Model and parameters from the bytes of a `model.safetensors`, in the order of [`Model::parameters`].
///
/// # Errors
/// The bytes are no safetensors file, or their tensors do not fit the model in the metadata.
pub fn from_bytes(bytes: &[u8]) -> Result<(Model, Vec<Vec<f32>>), WeightsError> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| WeightsError::Format(e.to_string()))?;
    let entry = |key| metadata.metadata().as_ref().and_then(|map| map.get(key)).ok_or(WeightsError::Metadata { key });
    let description = entry("model")?;
    let format = entry("format")?;
    if format != FORMAT {
        return Err(WeightsError::Version { found: format.clone() });
    }
    if description.len() > MAX_DESCRIPTION_BYTES {
        let reason = format!("it has {} bytes, and at most {MAX_DESCRIPTION_BYTES} are read", description.len());
        return Err(WeightsError::Model(reason));
    }
    let model: Model = serde_json::from_str(description).map_err(|e| WeightsError::Model(e.to_string()))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| WeightsError::Format(e.to_string()))?;
    let expected = model.parameters()?;
    for name in tensors.names() {
        if !expected.iter().any(|parameter| parameter.name == name) {
            return Err(WeightsError::Unknown { name: name.to_string() });
        }
    }
    let mut parameters = Vec::with_capacity(expected.len());
    for parameter in &expected {
        let tensor = tensors
            .tensor(&parameter.name)
            .map_err(|_| WeightsError::Missing { name: parameter.name.clone(), found: tensors.names().join(", ") })?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != parameter.shape {
            return Err(WeightsError::Shape {
                name: parameter.name.clone(),
                found: format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                expected: parameter.shape.clone(),
            });
        }
        let values = bytemuck::pod_collect_to_vec::<u8, f32>(tensor.data());
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            let (name, value) = (parameter.name.clone(), values[position]);
            return Err(WeightsError::NotFinite { name, value, position });
        }
        parameters.push(values);
    }
    Ok((model, parameters))
}
