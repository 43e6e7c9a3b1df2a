//! Parameters from a safetensors file of another tool.

use super::layout::{filters_last, inputs_first, layers};
use crate::model::{LayerShape, Model, ModelError};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// In which order another tool keeps its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Convolutions `[O, C, KH, KW]`, dense layers `[out, in]`, flattened in the order `[C, H, W]`.
    Torch,
    /// Convolutions `[KH, KW, C, O]`, dense layers `[in, out]`, flattened in the order `[H, W, C]`.
    Keras,
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "torch" => Ok(Layout::Torch),
            "keras" => Ok(Layout::Keras),
            _ => Err(format!("`{text}` is no layout; use torch or keras")),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Torch => "torch",
            Layout::Keras => "keras",
        })
    }
}

/// A file whose tensors are not those of the model.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No pair of tensors has the shapes of a layer.
    #[error(
        "layer `{layer}` needs a weight of shape {torch:?} (torch) or {keras:?} (keras) with a bias of {outputs}; the file has {found}"
    )]
    Missing {
        /// The layer.
        layer: String,
        /// The weight's shape in PyTorch.
        torch: Vec<usize>,
        /// The weight's shape in Keras.
        keras: Vec<usize>,
        /// Length of the bias.
        outputs: usize,
        /// Names and shapes in the file.
        found: String,
    },
    /// Several pairs of tensors fit one layer, and none has its name.
    #[error(
        "layer `{layer}` could be any of {candidates}; name the wanted tensors `{layer}.weight` and `{layer}.bias`"
    )]
    AmbiguousName {
        /// The layer.
        layer: String,
        /// The pairs that fit.
        candidates: String,
    },
    /// Both layouts fit.
    #[error("the shapes fit the layouts of both torch and keras; say which one with --layout")]
    AmbiguousLayout,
    /// The layout asked for, or that of another layer, does not fit.
    #[error("the weight of layer `{layer}` has the shape {found:?}, and the layout {layout} needs {expected:?}")]
    Layout {
        /// The layer.
        layer: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// The layout.
        layout: Layout,
        /// Shape needed.
        expected: Vec<usize>,
    },
    /// Tensors are left over.
    #[error(
        "the file has tensors that no layer of the model takes: {0}; choose the model that it belongs to with --model"
    )]
    Unused(String),
    /// A tensor of a type that holds no weights.
    #[error("tensor `{name}` is of type {found}; weights are F32, F64, F16 or BF16")]
    Type {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor holds numbers that are infinite or none.
    #[error("tensor `{name}` holds {value} at index {index}; weights are finite")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Where.
        index: usize,
        /// What.
        value: f32,
    },
}

/// Parameters read from another tool's file.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// In the order of [`Model::parameters`], in the layouts that are kept here.
    pub parameters: Vec<Vec<f32>>,
    /// The layout of the file.
    pub layout: Layout,
    /// For each layer with parameters: its name, and the stem of its tensors' names in the file.
    pub stems: Vec<(String, String)>,
}

/// A weight with its bias, as found in the file under one stem.
struct Found<'a> {
    weight: (String, TensorView<'a>),
    bias: (String, TensorView<'a>),
}

/// Reads the parameters of `model` from the bytes of a safetensors file. A layer's tensors are those that have its name
/// (`conv2d_1.weight`, or Keras's `kernel`), else the only pair under one stem (`features.0.weight`, `features.0.bias`) that has
/// its shapes. Without a `layout`, the shapes decide.
///
/// # Errors
/// The file is none, or its tensors do not fit the model or not it alone.
pub fn import(bytes: &[u8], model: &Model, layout: Option<Layout>) -> Result<Imported, ImportError> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| ImportError::Format(error.to_string()))?;
    let mut pairs = pairs(&file)?;
    // No values are needed yet, only which layer was flattened into which.
    let layers: Vec<(LayerShape, Option<[usize; 3]>)> = layers(model, &[])?
        .into_iter()
        .filter(|layer| !layer.shape.parameters().is_empty())
        .map(|layer| (layer.shape, layer.flattened))
        .collect();
    let mut chosen = Vec::new();
    for (shape, flattened) in &layers {
        let stem = stem_of(shape, &pairs, &file)?;
        let found = pairs.remove(&stem).expect("`stem_of` returns a stem of `pairs`");
        chosen.push((shape, *flattened, stem, found));
    }
    if !pairs.is_empty() {
        let names = pairs.values().flat_map(|found| [&found.weight.0, &found.bias.0]).cloned();
        return Err(ImportError::Unused(names.collect::<Vec<_>>().join(", ")));
    }
    let layout = match layout {
        Some(layout) => layout,
        None => {
            let fits = |layout| chosen.iter().all(|(shape, _, _, f)| f.weight.1.shape() == weight_shape(shape, layout));
            match (fits(Layout::Torch), fits(Layout::Keras)) {
                (true, true) => return Err(ImportError::AmbiguousLayout),
                (false, true) => Layout::Keras,
                // Where neither fits throughout, the error below names the first layer that does not.
                _ => Layout::Torch,
            }
        }
    };
    let mut parameters = Vec::new();
    let mut stems = Vec::new();
    for (shape, flattened, stem, found) in chosen {
        let expected = weight_shape(shape, layout);
        if found.weight.1.shape() != expected {
            let found = found.weight.1.shape().to_vec();
            return Err(ImportError::Layout { layer: shape.name.clone(), found, layout, expected });
        }
        let weight = values(&found.weight.0, &found.weight.1)?;
        parameters.push(match (layout, &weight_shape(shape, Layout::Keras)[..]) {
            (Layout::Keras, _) => weight,
            (Layout::Torch, &[kh, kw, c, o]) => filters_last(&weight, [kh, kw, c, o]),
            (Layout::Torch, &[inputs, outputs]) => inputs_first(&weight, [inputs, outputs], flattened),
            (Layout::Torch, _) => unreachable!("weights have four dimensions or two"),
        });
        parameters.push(values(&found.bias.0, &found.bias.1)?);
        stems.push((shape.name.clone(), stem));
    }
    Ok(Imported { parameters, layout, stems })
}

/// The tensors as weights with their biases, by stem.
fn pairs<'a>(file: &SafeTensors<'a>) -> Result<BTreeMap<String, Found<'a>>, ImportError> {
    let mut weights = BTreeMap::new();
    let mut biases = BTreeMap::new();
    let mut unused = Vec::new();
    for (name, view) in file.tensors() {
        match name.rsplit_once(['.', '/']) {
            Some((stem, "weight" | "kernel")) => weights.insert(stem.to_string(), (name.clone(), view)),
            Some((stem, "bias")) => biases.insert(stem.to_string(), (name.clone(), view)),
            _ => {
                unused.push(name);
                None
            }
        };
    }
    let mut pairs = BTreeMap::new();
    for (stem, weight) in weights {
        match biases.remove(&stem) {
            Some(bias) => drop(pairs.insert(stem, Found { weight, bias })),
            None => unused.push(weight.0),
        }
    }
    unused.extend(biases.into_values().map(|(name, _)| name));
    if unused.is_empty() { Ok(pairs) } else { Err(ImportError::Unused(unused.join(", "))) }
}

/// The stem of the tensors of a layer.
fn stem_of(
    shape: &LayerShape,
    pairs: &BTreeMap<String, Found<'_>>,
    file: &SafeTensors<'_>,
) -> Result<String, ImportError> {
    let (torch, keras) = (weight_shape(shape, Layout::Torch), weight_shape(shape, Layout::Keras));
    let outputs = keras[keras.len() - 1];
    let fits = |found: &Found<'_>| {
        let weight = found.weight.1.shape();
        (weight == torch || weight == keras) && found.bias.1.shape() == [outputs]
    };
    if pairs.get(&shape.name).is_some_and(fits) {
        return Ok(shape.name.clone());
    }
    let candidates: Vec<&String> = pairs.iter().filter(|(_, found)| fits(found)).map(|(stem, _)| stem).collect();
    match candidates[..] {
        [stem] => Ok(stem.clone()),
        [] => {
            let mut found: Vec<String> =
                file.tensors().iter().map(|(name, view)| format!("`{name}` {:?}", view.shape())).collect();
            found.sort_unstable();
            let found = if found.is_empty() { "no tensors".to_string() } else { found.join(", ") };
            Err(ImportError::Missing { layer: shape.name.clone(), torch, keras, outputs, found })
        }
        _ => {
            let candidates = candidates.iter().map(|stem| format!("`{stem}`")).collect::<Vec<_>>().join(", ");
            Err(ImportError::AmbiguousName { layer: shape.name.clone(), candidates })
        }
    }
}

/// Shape of the weight of a layer that has one.
fn weight_shape(shape: &LayerShape, layout: Layout) -> Vec<usize> {
    let ours = shape.parameters().swap_remove(0).shape;
    match (layout, &ours[..]) {
        (Layout::Torch, &[kh, kw, c, o]) => vec![o, c, kh, kw],
        (Layout::Torch, &[inputs, outputs]) => vec![outputs, inputs],
        _ => ours,
    }
}

/// The numbers of a tensor in single precision.
fn values(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, ImportError> {
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        other => return Err(ImportError::Type { name: name.to_string(), found: format!("{other:?}") }),
    };
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(ImportError::NotFinite { name: name.to_string(), index, value: values[index] }),
        None => Ok(values),
    }
}
