//! `model.safetensors`: the parameters, with the model itself and the layout in the metadata. Runs have them in single
//! precision; half precision, of half the size, is read too.

use super::{LayerShape, MAX_DESCRIPTION_BYTES, MAX_NAME, Model, ModelError, Parameter};
use crate::text::{shortened, shortened_words};
use half::f16;
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use thiserror::Error;

/// The layout of every tensor in the file, as described in its metadata.
pub const LAYOUT: &str = "row-major, last index fastest; activations NHWC; conv2d weight [KH, KW, C, O]; \
                          dense weight [in, out] with inputs flattened in the order H, W, C; pixels divided by 255";

/// The value of `format` in the metadata of a file in this layout.
pub(crate) const FORMAT: &str = "fmnist-gpu 1";

/// A weight file that cannot be used.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// It is not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// The metadata does not describe the model: this key is missing.
    #[error(
        "the file has no `{0}` in its metadata, so it is not the model of a run; weights in PyTorch's or Keras's layout \
         must be imported first"
    )]
    Metadata(&'static str),
    /// The model in the metadata cannot be read.
    #[error("the model in the metadata cannot be read: {0}")]
    Model(String),
    /// The file was written by a version of the program that this one does not know.
    #[error("the file has the format `{0}`, but this program reads `{FORMAT}`; use the version that wrote it")]
    Version(String),
    /// A weight is infinite or NaN.
    #[error("tensor `{name}` contains {value} at position {position}; every weight must be a finite number")]
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
    /// A tensor is missing.
    #[error("tensor `{name}` is missing; the file has {found}")]
    Missing {
        /// The tensor.
        name: String,
        /// The names of the tensors in the file.
        found: String,
    },
    /// The model has no such tensor.
    #[error("tensor `{0}` belongs to no layer of the model")]
    Unknown(String),
    /// A tensor has another shape or type.
    #[error("tensor `{name}` is {found}, but the model needs F32 or F16 {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Type and shape in the file.
        found: String,
        /// Shape in the model.
        expected: Vec<usize>,
    },
}

/// Returns the bytes of `model.safetensors`; equal models with equal parameters give equal bytes.
///
/// # Errors
/// The model cannot be built, or the lengths of `parameters` do not fit it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>]) -> Result<Vec<u8>, WeightsError> {
    let bytes: Vec<&[u8]> = parameters.iter().map(|values| bytemuck::cast_slice(values)).collect();
    to_bytes_of(model, Dtype::F32, &bytes)
}

/// The same with each value rounded to half precision, which keeps eleven bits of it.
///
/// # Errors
/// The model cannot be built, the lengths of `parameters` do not fit it, or a value is larger than half precision has them.
pub fn to_half_bytes(model: &Model, parameters: &[Vec<f32>]) -> Result<Vec<u8>, WeightsError> {
    let half = |values: &Vec<f32>| values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    let bytes: Vec<Vec<u8>> = parameters.iter().map(half).collect();
    for (parameter, values) in model.parameters()?.iter().zip(parameters) {
        check_finite(&parameter.name, values.iter().map(|&value| f16::from_f32(value).to_f32()))?;
    }
    to_bytes_of(model, Dtype::F16, &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn to_bytes_of(model: &Model, dtype: Dtype, parameters: &[&[u8]]) -> Result<Vec<u8>, WeightsError> {
    let expected = model.parameters()?;
    let mut views = Vec::with_capacity(expected.len());
    for (parameter, values) in expected.iter().zip(parameters) {
        let view = TensorView::new(dtype, parameter.shape.clone(), values)
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

/// Returns the bytes of a safetensors file; equal tensors with equal metadata give equal bytes.
pub(crate) fn serialize(
    views: Vec<(String, TensorView<'_>)>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, WeightsError> {
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| WeightsError::Format(e.to_string()))?;
    sort_header(bytes)
}

/// Sorts the keys of the header alphabetically.
///
/// The crate writes the metadata in the order of a hash map, which differs between runs; equal models must give equal
/// files.
fn sort_header(bytes: Vec<u8>) -> Result<Vec<u8>, WeightsError> {
    let fail = |what: &str| WeightsError::Format(format!("its header {what}"));
    let (size, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| fail("is cut off"))?;
    let header_len = usize::try_from(u64::from_le_bytes(*size)).map_err(|_| fail("is too large"))?;
    let (header, data) = rest.split_at_checked(header_len).ok_or_else(|| fail("is cut off"))?;
    // serde_json keeps the keys of an object sorted.
    let sorted: serde_json::Value = serde_json::from_slice(header).map_err(|error| fail(&error.to_string()))?;
    let mut text = sorted.to_string().into_bytes();
    // The data must start at a multiple of eight bytes; the JSON may be followed by spaces.
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut sorted = (text.len() as u64).to_le_bytes().to_vec();
    sorted.extend(text);
    sorted.extend(data);
    Ok(sorted)
}

/// Reads the model and its parameters, in the order of [`Model::parameters`], from the bytes of a `model.safetensors`.
///
/// # Errors
/// The bytes are not a safetensors file, or its tensors do not fit the model in the metadata.
pub fn from_bytes(bytes: &[u8]) -> Result<(Model, Vec<Vec<f32>>), WeightsError> {
    let unreadable = |error: SafeTensorError| WeightsError::Format(shortened_words(&error.to_string()));
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(unreadable)?;
    let entry = |key| metadata.metadata().as_ref().and_then(|map| map.get(key)).ok_or(WeightsError::Metadata(key));
    let description = entry("model")?;
    let format = entry("format")?;
    if format != FORMAT {
        return Err(WeightsError::Version(shortened(format, 40)));
    }
    let model = described_model(description).map_err(WeightsError::Model)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(unreadable)?;
    let expected: Vec<Parameter> = model.shapes()?.iter().flat_map(LayerShape::parameters).collect();
    for name in tensors.names() {
        if !expected.iter().any(|parameter| parameter.name == name) {
            return Err(WeightsError::Unknown(shortened(name, MAX_NAME)));
        }
    }
    let mut parameters = Vec::with_capacity(expected.len());
    for parameter in &expected {
        let tensor = tensors.tensor(&parameter.name).map_err(|_| WeightsError::Missing {
            name: parameter.name.clone(),
            found: shortened(&tensors.names().join(", "), 400),
        })?;
        if !matches!(tensor.dtype(), Dtype::F32 | Dtype::F16) || tensor.shape() != parameter.shape {
            return Err(WeightsError::Shape {
                name: parameter.name.clone(),
                found: format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                expected: parameter.shape.clone(),
            });
        }
        let values = match tensor.dtype() {
            Dtype::F16 => {
                let pairs = tensor.data().as_chunks().0.iter();
                pairs.map(|&pair| f16::from_le_bytes(pair).to_f32()).collect()
            }
            _ => bytemuck::pod_collect_to_vec::<u8, f32>(tensor.data()),
        };
        check_finite(&parameter.name, values.iter().copied())?;
        parameters.push(values);
    }
    Ok((model, parameters))
}

fn check_finite(name: &str, values: impl Iterator<Item = f32>) -> Result<(), WeightsError> {
    match values.enumerate().find(|(_, value)| !value.is_finite()) {
        Some((position, value)) => Err(WeightsError::NotFinite { name: name.to_string(), value, position }),
        None => Ok(()),
    }
}

/// Parses the description of a model in the metadata of a file; the error is the reason as text.
pub(crate) fn described_model(text: &str) -> Result<Model, String> {
    if text.len() > MAX_DESCRIPTION_BYTES {
        return Err(format!("it has {} bytes, but at most {MAX_DESCRIPTION_BYTES} are allowed", text.len()));
    }
    serde_json::from_str(text).map_err(|error| shortened_words(&error.to_string()))
}
