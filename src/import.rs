//! Imports weights of other tools: a safetensors file in PyTorch's or Keras's layout becomes a model with parameters.
//!
//! Tensors come in pairs: a weight (`conv1.weight`, `dense/kernel`) and a bias with the same stem. A pair is assigned to a layer
//! by its names if they are this program's (`conv2d_1`, `dense_1`); otherwise by its shapes, if only one layer has them; and
//! among pairs of equal shapes by the number at the end of their names (`fc1`, `fc2`). The order in the file means nothing,
//! since the format sorts by name. Ambiguous files are rejected, never guessed.
//!
//! PyTorch's layout: `[O, C, KH, KW]`, `[out, in]`, the inputs of the first dense layer after a flatten in the order C, H, W.
//! Keras's: `[KH, KW, C, O]`, `[in, out]`, inputs in the order H, W, C.

use crate::export::layout::{Filter, filters};
use crate::export::torch::MODEL_KEY;
use crate::model::weights::FORMAT;
use crate::model::{MAX_DESCRIPTION_BYTES, Model, ModelError};
use crate::text::{shortened, shortened_words};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use thiserror::Error;

/// Largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// Maximum number of tensors that an error lists.
const MAX_LISTED: usize = 24;

/// The order of the axes of the weights in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Convolutions `[O, C, KH, KW]`, dense layers `[out, in]`, flattened images C, H, W.
    Torch,
    /// Convolutions `[KH, KW, C, O]`, dense layers `[in, out]`, flattened images H, W, C: also this program's own order.
    Keras,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Layout::Torch => "torch",
            Layout::Keras => "keras",
        })
    }
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The model.
    pub model: Model,
    /// Its parameters in the order of [`Model::parameters`].
    pub parameters: Vec<Vec<f32>>,
    /// The layout of the file.
    pub layout: Layout,
    /// The origin of each parameter, in the same order.
    pub origins: Vec<Origin>,
}

/// The origin of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The parameter, for example `conv2d_1.weight`.
    pub parameter: String,
    /// The tensor in the file, for example `conv1.weight`.
    pub tensor: String,
    /// Its type in the file, for example `F32`.
    pub dtype: String,
    /// Its shape in the file.
    pub shape: Vec<usize>,
}

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
    #[error("the model in the file's metadata cannot be read: {reason}; specify the model")]
    Metadata {
        /// The cause.
        reason: String,
    },
    /// A tensor is neither a weight nor a bias.
    #[error(
        "tensor `{name}` is neither a weight nor a bias: its name should end in weight, kernel or bias; \
         layers of other types (for example batch normalization) cannot be imported"
    )]
    Name {
        /// The tensor.
        name: String,
    },
    /// Two tensors have the same meaning.
    #[error("tensors `{first}` and `{second}` are both the {role} of `{stem}`")]
    Twice {
        /// What the names start with.
        stem: String,
        /// `weight` or `bias`.
        role: &'static str,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
    /// A weight has no bias, or a bias has no weight.
    #[error("`{stem}` has a {has} but no {lacks}; every convolution and dense layer of a model has both")]
    Unpaired {
        /// What the names start with.
        stem: String,
        /// `weight` or `bias`.
        has: &'static str,
        /// The other.
        lacks: &'static str,
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
    /// The shapes fit no built-in model.
    #[error(
        "the file does not describe its model, and its tensors fit neither `cnn` nor `mlp`; \
         specify the model with a model file (docs/model-files.md).\nThe file has:\n{found}"
    )]
    NoModel {
        /// Shapes in the file, one per line.
        found: String,
    },
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

/// Reads the model and its parameters from the bytes of a safetensors file.
///
/// If `model` is `None`, the model is the one described in the file's metadata (as in files of this program), or else the
/// built-in one that fits. If `layout` is `None`, it is the one that the shapes fit.
///
/// # Errors
/// The bytes are not a safetensors file, its tensors fit no layer or several, or a value is not finite.
pub fn from_bytes(bytes: &[u8], model: Option<&Model>, layout: Option<Layout>) -> Result<Imported, ImportError> {
    let fail = |error: safetensors::SafeTensorError| ImportError::Format(shortened_words(&error.to_string()));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(fail)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(fail)?;
    let pairs = pairs(&tensors)?;
    let own = header.metadata().as_ref().and_then(own_metadata);
    // The layout of this program's files is known, even if the shapes would fit both.
    let layout = layout.or(own.map(|(_, layout)| layout));
    let (model, fit) = match (model, own) {
        (Some(model), _) => (model.clone(), fit(model, &pairs, layout)?),
        (None, Some((text, _))) => {
            let model = described_model(text)?;
            let fit = fit(&model, &pairs, layout)?;
            (model, fit)
        }
        (None, None) => fit_built_in(&pairs, layout)?,
    };
    let mut parameters = Vec::new();
    let mut origins = Vec::new();
    for (filter, pair) in fit.filters.iter().zip(&fit.pairs) {
        let weight = values(&pair.weight)?;
        parameters.push(match fit.layout {
            Layout::Torch => filter.own_values(&weight),
            Layout::Keras => weight,
        });
        parameters.push(values(&pair.bias)?);
        for (role, tensor) in [("weight", &pair.weight), ("bias", &pair.bias)] {
            origins.push(Origin {
                parameter: format!("{}.{role}", filter.layer),
                tensor: tensor.name.clone(),
                dtype: format!("{:?}", tensor.view.dtype()),
                shape: tensor.view.shape().to_vec(),
            });
        }
    }
    Ok(Imported { model, parameters, layout: fit.layout, origins })
}

/// Returns the description of the model and the layout, for a file that this program wrote.
fn own_metadata(metadata: &HashMap<String, String>) -> Option<(&str, Layout)> {
    let is_run = metadata.get("format").is_some_and(|format| format == FORMAT);
    match (metadata.get(MODEL_KEY), metadata.get("model")) {
        (Some(text), _) => Some((text, Layout::Torch)),
        (None, Some(text)) if is_run => Some((text, Layout::Keras)),
        _ => None,
    }
}

fn described_model(text: &str) -> Result<Model, ImportError> {
    if text.len() > MAX_DESCRIPTION_BYTES {
        let reason = format!("it has {} bytes, but at most {MAX_DESCRIPTION_BYTES} are allowed", text.len());
        return Err(ImportError::Metadata { reason });
    }
    serde_json::from_str(text).map_err(|error| ImportError::Metadata { reason: shortened_words(&error.to_string()) })
}

/// A tensor in the file.
struct Tensor<'a> {
    name: String,
    view: TensorView<'a>,
}

/// The weight and the bias of a layer.
struct Pair<'a> {
    stem: String,
    weight: Tensor<'a>,
    bias: Tensor<'a>,
}

/// Splits a name: `features.0.weight` is the weight of `features.0`, `dense_1/kernel:0` that of `dense_1`.
fn stem_and_role(name: &str) -> Option<(&str, &'static str)> {
    let name = name.strip_suffix(":0").unwrap_or(name);
    // In a file of one layer, the names may be just `weight` and `bias`.
    let (stem, leaf) = name.rsplit_once(['.', '/']).unwrap_or(("", name));
    match leaf {
        "weight" | "kernel" => Some((stem, "weight")),
        "bias" => Some((stem, "bias")),
        _ => None,
    }
}

fn pairs<'a>(tensors: &SafeTensors<'a>) -> Result<Vec<Pair<'a>>, ImportError> {
    let mut by_stem: BTreeMap<String, [Option<Tensor<'a>>; 2]> = BTreeMap::new();
    let mut all = tensors.tensors();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, view) in all {
        let Some((stem, role)) = stem_and_role(&name) else { return Err(ImportError::Name { name: shown(&name) }) };
        let (stem, at) = (stem.to_string(), usize::from(role == "bias"));
        let place = &mut by_stem.entry(stem.clone()).or_default()[at];
        if let Some(first) = place {
            return Err(ImportError::Twice {
                stem: shown(&stem),
                role,
                first: shown(&first.name),
                second: shown(&name),
            });
        }
        *place = Some(Tensor { name, view });
    }
    let paired = by_stem.into_iter().map(|(stem, pair)| match pair {
        [Some(weight), Some(bias)] => Ok(Pair { stem, weight, bias }),
        [Some(_), None] => Err(ImportError::Unpaired { stem: shown(&stem), has: "weight", lacks: "bias" }),
        _ => Err(ImportError::Unpaired { stem: shown(&stem), has: "bias", lacks: "weight" }),
    });
    paired.collect()
}

/// The pairs in a file in the order of a model's layers.
struct Fit<'p, 'a> {
    layout: Layout,
    filters: Vec<Filter>,
    pairs: Vec<&'p Pair<'a>>,
}

fn fit_built_in<'p, 'a>(pairs: &'p [Pair<'a>], layout: Option<Layout>) -> Result<(Model, Fit<'p, 'a>), ImportError> {
    for model in [Model::cnn(), Model::mlp()] {
        match fit(&model, pairs, layout) {
            Err(ImportError::Mismatch { .. }) => {}
            result => return result.map(|fit| (model, fit)),
        }
    }
    Err(ImportError::NoModel { found: list_found(pairs) })
}

fn fit<'p, 'a>(model: &Model, pairs: &'p [Pair<'a>], layout: Option<Layout>) -> Result<Fit<'p, 'a>, ImportError> {
    let filters = filters(&model.shapes()?);
    let layouts = layout.map_or_else(|| vec![Layout::Torch, Layout::Keras], |layout| vec![layout]);
    let mut fits = Vec::new();
    for &layout in &layouts {
        if let Some(ordered) = order(&filters, pairs, layout)? {
            fits.push((layout, ordered));
        }
    }
    match (fits.pop(), fits.pop()) {
        (Some((layout, pairs)), None) => Ok(Fit { layout, filters, pairs }),
        (Some(_), Some(_)) => Err(ImportError::AmbiguousLayout),
        (None, _) => Err(ImportError::Mismatch {
            model: model.name.clone(),
            found: list_found(pairs),
            expected: layouts.iter().map(|&layout| list_expected(&filters, layout)).collect::<Vec<_>>().join("\nor:\n"),
        }),
    }
}

fn expected_shape(filter: &Filter, layout: Layout) -> Vec<usize> {
    match layout {
        Layout::Torch => filter.torch_shape(),
        Layout::Keras => filter.keras_shape(),
    }
}

/// Returns the pairs in the order of the layers, if they fit the layout.
fn order<'p, 'a>(
    filters: &[Filter],
    pairs: &'p [Pair<'a>],
    layout: Layout,
) -> Result<Option<Vec<&'p Pair<'a>>>, ImportError> {
    if filters.len() != pairs.len() {
        return Ok(None);
    }
    let fits = |filter: &Filter, pair: &Pair<'_>| {
        pair.weight.view.shape() == expected_shape(filter, layout) && pair.bias.view.shape() == [filter.shape[3]]
    };
    let by_name: Option<Vec<&Pair<'_>>> =
        filters.iter().map(|filter| pairs.iter().find(|pair| pair.stem == filter.layer)).collect();
    if let Some(named) = by_name {
        let all_fit = filters.iter().zip(&named).all(|(filter, pair)| fits(filter, pair));
        return Ok(all_fit.then_some(named));
    }
    // There are as many pairs as layers: if that is also true for each shape, every pair has a layer.
    let mut ordered: Vec<Option<&Pair<'_>>> = vec![None; filters.len()];
    let mut open = Vec::new();
    for (i, filter) in filters.iter().enumerate() {
        if ordered[i].is_some() {
            continue;
        }
        let alike: Vec<usize> = (i..filters.len())
            .filter(|&j| expected_shape(&filters[j], layout) == expected_shape(filter, layout))
            .collect();
        let mut candidates: Vec<&Pair<'_>> = pairs.iter().filter(|pair| fits(filter, pair)).collect();
        if candidates.len() != alike.len() {
            return Ok(None);
        }
        if candidates.len() > 1 && !sort_by_number(&mut candidates) {
            open.push((alike.clone(), candidates.clone()));
        }
        for (&j, pair) in alike.iter().zip(candidates) {
            ordered[j] = Some(pair);
        }
    }
    // Checked only after all shapes fit: in the wrong layout nothing is ambiguous.
    if let Some((layers, candidates)) = open.first() {
        let quoted =
            |names: Vec<&str>| names.iter().map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ");
        return Err(ImportError::AmbiguousLayers {
            stems: quoted(candidates.iter().map(|pair| pair.stem.as_str()).collect()),
            layers: quoted(layers.iter().map(|&j| filters[j].layer.as_str()).collect()),
        });
    }
    Ok(ordered.into_iter().collect())
}

/// Sorts pairs whose stems differ only in the number at the end; returns `false` if they differ otherwise.
///
/// A missing number comes first: Keras calls its layers `dense`, `dense_1`, `dense_2`.
fn sort_by_number(pairs: &mut [&Pair<'_>]) -> bool {
    let split = |stem: &str| {
        let base = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &stem[base.len()..];
        let number = if digits.is_empty() { Some(None) } else { digits.parse::<u64>().ok().map(Some) };
        number.map(|number| (base.trim_end_matches(['_', '.', '/', '-']).to_string(), number))
    };
    let Some(mut keys) = pairs.iter().map(|pair| split(&pair.stem)).collect::<Option<Vec<_>>>() else { return false };
    pairs.sort_by_cached_key(|pair| split(&pair.stem));
    keys.sort();
    keys.windows(2).all(|two| two[0].0 == two[1].0 && two[0].1 != two[1].1)
}

/// Returns the name of a tensor for a message: a file may have names of any length.
fn shown(name: &str) -> String {
    shortened(name, 100)
}

fn list_found(pairs: &[Pair<'_>]) -> String {
    let tensors = pairs.iter().flat_map(|pair| [&pair.weight, &pair.bias]);
    let lines = tensors.map(|t| format!("  {} {:?} {:?}", shown(&t.name), t.view.dtype(), t.view.shape()));
    first_lines(lines, 2 * pairs.len())
}

fn list_expected(filters: &[Filter], layout: Layout) -> String {
    let lines = filters.iter().flat_map(|filter| {
        let (layer, weight, o) = (&filter.layer, expected_shape(filter, layout), filter.shape[3]);
        [format!("  {layer}.weight {weight:?} ({layout})"), format!("  {layer}.bias [{o}]")]
    });
    first_lines(lines, 2 * filters.len())
}

/// Returns the first of `n` lines, and how many more there are.
fn first_lines(lines: impl Iterator<Item = String>, n: usize) -> String {
    let mut shown: Vec<String> = lines.take(MAX_LISTED).collect();
    if n > MAX_LISTED {
        shown.push(format!("  and {} more", n - MAX_LISTED));
    }
    shown.join("\n")
}

/// Returns the values of a tensor in single precision.
fn values(tensor: &Tensor<'_>) -> Result<Vec<f32>, ImportError> {
    let data = tensor.view.data();
    let values: Vec<f32> = match tensor.view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        // Rounded to nearest.
        Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|bytes| f32_of_f16(u16::from_le_bytes(*bytes))).collect(),
        // The upper half of single precision.
        Dtype::BF16 => {
            data.as_chunks().0.iter().map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)).collect()
        }
        dtype => return Err(ImportError::Dtype { name: shown(&tensor.name), dtype: format!("{dtype:?}") }),
    };
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(position) => {
            let value = f64::from(values[position]);
            Err(ImportError::NotFinite { name: shown(&tensor.name), value, position })
        }
    }
}

/// Converts half to single precision, exactly. Source: IEEE 754, binary16.
fn f32_of_f16(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f32::from(bits & 0x3ff);
    match (bits >> 10) & 0x1f {
        // Subnormal: units of 2^-24.
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        exponent => sign * (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(exponent) - 15),
    }
}
