//! Weights of other tools: a safetensors file in PyTorch's or Keras's layout becomes a model with parameters.
//!
//! Tensors come in pairs: a weight (`conv1.weight`, `dense/kernel`) and a bias of the same stem. Whose layer a pair is, its names
//! say if they are ours (`conv2d_1`, `dense_1`); else its shapes, where only one layer has them; and among pairs of equal shapes
//! the number at the end of their names (`fc1`, `fc2`). The order in the file says nothing: the format sorts by name. What
//! stays open is refused, never guessed.
//!
//! PyTorch's layout: `[O, C, KH, KW]`, `[out, in]`, the inputs of the first dense layer after a flatten in the order C, H, W.
//! Keras's: `[KH, KW, C, O]`, `[in, out]`, inputs in the order H, W, C.

use crate::export::layout::{Filter, filters};
use crate::export::torch::MODEL_KEY;
use crate::model::weights::FORMAT;
use crate::model::{MAX_DESCRIPTION_BYTES, Model, ModelError};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use thiserror::Error;

/// Largest file that is read, bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 30;
/// Most tensors that an error lists.
const MAX_LISTED: usize = 24;

/// In which order a file has the axes of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Convolutions `[O, C, KH, KW]`, dense layers `[out, in]`, flattened pictures C, H, W.
    Torch,
    /// Convolutions `[KH, KW, C, O]`, dense layers `[in, out]`, flattened pictures H, W, C: this program's own order, too.
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

/// What a file held.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The model.
    pub model: Model,
    /// Its parameters in the order of [`Model::parameters`].
    pub parameters: Vec<Vec<f32>>,
    /// The layout of the file.
    pub layout: Layout,
    /// Where each parameter came from, in the same order.
    pub origins: Vec<Origin>,
}

/// Where a parameter came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The parameter, such as `conv2d_1.weight`.
    pub parameter: String,
    /// The tensor in the file, such as `conv1.weight`.
    pub tensor: String,
    /// Its type in the file, such as `F32`.
    pub dtype: String,
    /// Its shape in the file.
    pub shape: Vec<usize>,
}

/// A file that cannot be imported.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The file names its model, and what it says cannot be read.
    #[error("the model in the file's metadata cannot be read: {reason}; name the model by --model")]
    Metadata {
        /// The cause.
        reason: String,
    },
    /// A tensor is neither a weight nor a bias.
    #[error(
        "tensor `{name}` is neither a weight nor a bias: its name should end in weight, kernel or bias. \
         Layers of other kinds (batch normalisation, say) cannot be imported"
    )]
    Name {
        /// The tensor.
        name: String,
    },
    /// Two tensors mean the same.
    #[error("tensors `{first}` and `{second}` are both the {role} of `{stem}`")]
    Twice {
        /// What the names begin with.
        stem: String,
        /// `weight` or `bias`.
        role: &'static str,
        /// One tensor.
        first: String,
        /// The other.
        second: String,
    },
    /// A weight has no bias, or the other way round.
    #[error("`{stem}` has a {has} and no {lacks}; every convolution and dense layer of a model has both")]
    Unpaired {
        /// What the names begin with.
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
        /// Shapes of the file, a line each.
        found: String,
        /// Shapes of the model in each layout that was tried, a line each.
        expected: String,
    },
    /// The shapes fit no model that is built in.
    #[error(
        "the file does not say which model it holds, and its tensors fit neither `cnn` nor `mlp`; \
         name the model by --model FILE.toml (docs/model-files.md).\nThe file has:\n{found}"
    )]
    NoModel {
        /// Shapes of the file, a line each.
        found: String,
    },
    /// Several layers have the same shapes, and the names do not tell which is which.
    #[error(
        "{stems} have the same shapes, and their names do not say which is {layers}; rename the tensors of the file \
         to the names of the model's layers"
    )]
    AmbiguousLayers {
        /// Stems in the file.
        stems: String,
        /// Layers of the model.
        layers: String,
    },
    /// The shapes fit both layouts.
    #[error("the shapes fit both layouts; say which it is by --layout torch or --layout keras")]
    AmbiguousLayout,
    /// A type that holds no weights.
    #[error("tensor `{name}` holds {dtype}; F32, F16, BF16 and F64 can be imported")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// A value is infinite or not a number.
    #[error("tensor `{name}` holds {value} at position {position}; weights must be finite in single precision")]
    NotFinite {
        /// The tensor.
        name: String,
        /// The first such value.
        value: f64,
        /// Its position in the flat tensor.
        position: usize,
    },
}

/// Model and parameters from the bytes of a safetensors file.
///
/// Without a `model` it is the one that the file's metadata names (files of this program do), else the built-in one that fits;
/// without a `layout`, the one that the shapes fit.
///
/// # Errors
/// The bytes are no safetensors file, or their tensors fit no layer, or several; or a value is not finite.
pub fn from_bytes(bytes: &[u8], model: Option<&Model>, layout: Option<Layout>) -> Result<Imported, ImportError> {
    let fail = |error: safetensors::SafeTensorError| ImportError::Format(error.to_string());
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(fail)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(fail)?;
    let pairs = pairs(&tensors)?;
    let own = header.metadata().as_ref().and_then(own_metadata);
    // The layout of our own files is known, also where the shapes would fit both.
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

/// The description of the model and the layout, of a file that this program wrote.
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
        let reason = format!("it has {} bytes, and at most {MAX_DESCRIPTION_BYTES} are read", text.len());
        return Err(ImportError::Metadata { reason });
    }
    serde_json::from_str(text).map_err(|error| ImportError::Metadata { reason: error.to_string() })
}

/// A tensor of the file.
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

/// What a name says: `features.0.weight` is the weight of `features.0`, `dense_1/kernel:0` that of `dense_1`.
fn stem_and_role(name: &str) -> Option<(&str, &'static str)> {
    let name = name.strip_suffix(":0").unwrap_or(name);
    // A file of one layer may have `weight` and `bias` alone.
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
        let Some((stem, role)) = stem_and_role(&name) else { return Err(ImportError::Name { name }) };
        let (stem, at) = (stem.to_string(), usize::from(role == "bias"));
        let place = &mut by_stem.entry(stem.clone()).or_default()[at];
        if let Some(first) = place {
            return Err(ImportError::Twice { stem, role, first: first.name.clone(), second: name });
        }
        *place = Some(Tensor { name, view });
    }
    let paired = by_stem.into_iter().map(|(stem, pair)| match pair {
        [Some(weight), Some(bias)] => Ok(Pair { stem, weight, bias }),
        [Some(_), None] => Err(ImportError::Unpaired { stem, has: "weight", lacks: "bias" }),
        _ => Err(ImportError::Unpaired { stem, has: "bias", lacks: "weight" }),
    });
    paired.collect()
}

/// The pairs of a file in the order of a model's layers.
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

/// The pairs in the order of the layers, if they fit the layout.
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
    // As many pairs as layers: if each kind of shape has as many of one as of the other, every pair has its layer.
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
    // Only now, when all shapes fit: in the wrong layout nothing is ambiguous.
    if let Some((layers, candidates)) = open.first() {
        let quoted = |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return Err(ImportError::AmbiguousLayers {
            stems: quoted(candidates.iter().map(|pair| pair.stem.as_str()).collect()),
            layers: quoted(layers.iter().map(|&j| filters[j].layer.as_str()).collect()),
        });
    }
    Ok(ordered.into_iter().collect())
}

/// Sorts pairs whose stems differ in nothing but the number at the end; `false` if they differ otherwise.
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

fn list_found(pairs: &[Pair<'_>]) -> String {
    let tensors = pairs.iter().flat_map(|pair| [&pair.weight, &pair.bias]);
    let lines = tensors.map(|t| format!("  {} {:?} {:?}", t.name, t.view.dtype(), t.view.shape()));
    shortened(lines, 2 * pairs.len())
}

fn list_expected(filters: &[Filter], layout: Layout) -> String {
    let lines = filters.iter().flat_map(|filter| {
        let (layer, weight, o) = (&filter.layer, expected_shape(filter, layout), filter.shape[3]);
        [format!("  {layer}.weight {weight:?} ({layout})"), format!("  {layer}.bias [{o}]")]
    });
    shortened(lines, 2 * filters.len())
}

/// The first of `n` lines, and how many more there are.
fn shortened(lines: impl Iterator<Item = String>, n: usize) -> String {
    let mut shown: Vec<String> = lines.take(MAX_LISTED).collect();
    if n > MAX_LISTED {
        shown.push(format!("  and {} more", n - MAX_LISTED));
    }
    shown.join("\n")
}

/// The values of a tensor in single precision.
fn values(tensor: &Tensor<'_>) -> Result<Vec<f32>, ImportError> {
    let data = tensor.view.data();
    let values: Vec<f32> = match tensor.view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        // Rounded to the nearest.
        Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|bytes| f32_of_f16(u16::from_le_bytes(*bytes))).collect(),
        // The upper half of a single.
        Dtype::BF16 => {
            data.as_chunks().0.iter().map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16)).collect()
        }
        dtype => return Err(ImportError::Dtype { name: tensor.name.clone(), dtype: format!("{dtype:?}") }),
    };
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(position) => {
            let value = f64::from(values[position]);
            Err(ImportError::NotFinite { name: tensor.name.clone(), value, position })
        }
    }
}

/// Half precision as single, exactly. Source: IEEE 754, binary16.
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
