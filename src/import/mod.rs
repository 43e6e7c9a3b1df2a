//! Imports weights of other tools: a safetensors file in PyTorch's or Keras's layout becomes a model with parameters.
//!
//! Tensors come in groups with the same stem: a weight (`conv1.weight`, `dense/kernel`) and mostly a bias, and for a normalization its
//! running mean and variance. A group is assigned to a layer by its names if they are the model's (`conv2d_1`, `dense_1`); otherwise by its
//! shapes, if only one layer has them; and among groups of equal shapes by the number at the end of their names (`fc1`, `fc2`). The
//! order in the file means nothing, since the format sorts by name. Ambiguous files are rejected, never guessed.
//!
//! PyTorch's layout: `[O, C, KH, KW]`, `[out, in]`, flattened images in the order C, H, W. Keras's: `[KH, KW, C, O]`, `[in, out]`,
//! flattened images in the order H, W, C. A depthwise convolution is `[C, 1, KH, KW]` and `[KH, KW, C, 1]`.

mod error;

pub use error::ImportError;

use crate::export::layout::{Slot, slots};
use crate::export::torch::MODEL_KEY;
use crate::model::weights::{FORMAT, described_model};
use crate::model::{Layer, Model, Role};
use crate::text::{shortened, shortened_words};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The parameter, for example `conv2d_1.weight`.
    pub parameter: String,
    /// The tensor in the file, for example `conv1.weight`.
    #[serde(rename = "from")]
    pub tensor: String,
    /// Its type in the file, for example `F32`.
    pub dtype: String,
    /// Its shape in the file.
    pub shape: Vec<usize>,
}

/// Reads the model and its parameters from the bytes of a safetensors file.
///
/// If `model` is `None`, the model is the one described in the file's metadata (as in files of this program), or else the
/// built-in one that fits, with `use_bias = false` in layers whose bias the file lacks. If `layout` is `None`, it is the one that the shapes fit.
///
/// # Errors
/// The bytes are not a safetensors file, its tensors fit no layer or several, or a value cannot be used.
pub fn from_bytes(bytes: &[u8], model: Option<&Model>, layout: Option<Layout>) -> Result<Imported, ImportError> {
    let fail = |error: safetensors::SafeTensorError| ImportError::Format(shortened_words(&error.to_string()));
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(fail)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(fail)?;
    let groups = groups(&tensors)?;
    let own = header.metadata().as_ref().and_then(own_metadata);
    // The layout of this program's files is known, even if the shapes would fit both.
    let layout = layout.or(own.map(|(_, layout)| layout));
    let fit = match (model, own) {
        (Some(model), _) => fit_as_it_is(model, &groups, layout)?,
        (None, Some((text, _))) => {
            fit_as_it_is(&described_model(text).map_err(ImportError::Metadata)?, &groups, layout)?
        }
        (None, None) => fit_built_in(&groups, layout)?,
    };
    let mut parameters = Vec::new();
    let mut origins = Vec::new();
    for (layer, group) in fit.layers.iter().zip(&fit.groups) {
        for slot in layer {
            let Some(tensor) = group.tensor(slot.role) else { continue };
            let values = checked_values(slot, tensor)?;
            if slot.parameter.is_none() {
                continue;
            }
            parameters.push(match fit.layout {
                Layout::Torch => slot.own_values(&values),
                Layout::Keras => values,
            });
            origins.push(Origin {
                parameter: slot.name(),
                tensor: tensor.name.clone(),
                dtype: format!("{:?}", tensor.view.dtype()),
                shape: tensor.view.shape().to_vec(),
            });
        }
    }
    Ok(Imported { model: fit.model, parameters, layout: fit.layout, origins })
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

/// A tensor in the file.
struct Tensor<'a> {
    name: String,
    view: TensorView<'a>,
}

/// The ends of names by role, this program's first, which are also PyTorch's.
const KEYS: [&[&str]; 4] = [
    &["weight", "kernel", "depthwise_kernel", "gamma"],
    &["bias", "beta"],
    &["running_mean", "moving_mean"],
    &["running_var", "moving_variance"],
];
/// PyTorch's count of the batches behind the statistics, which nothing needs.
const IGNORED: &str = "num_batches_tracked";

/// The tensors of a layer, in the order of [`KEYS`].
struct Group<'a> {
    stem: String,
    tensors: [Option<Tensor<'a>>; 4],
}

impl<'a> Group<'a> {
    /// Returns the tensor with this role.
    fn tensor(&self, role: Role) -> Option<&Tensor<'a>> {
        let at = KEYS.iter().position(|names| names[0] == role.key())?;
        self.tensors[at].as_ref()
    }

    fn tensors(&self) -> impl Iterator<Item = &Tensor<'a>> {
        self.tensors.iter().flatten()
    }

    /// Refuses a group that no layer can have.
    fn check(&self) -> Result<(), ImportError> {
        let stem = || shown(&self.stem);
        match &self.tensors {
            [_, _, Some(_), Some(_)] | [Some(_), _, None, None] => Ok(()),
            [_, _, Some(mean), None] => {
                Err(ImportError::Statistic { stem: stem(), name: shown(&mean.name), lacks: KEYS[3][0] })
            }
            [_, _, None, Some(variance)] => {
                Err(ImportError::Statistic { stem: stem(), name: shown(&variance.name), lacks: KEYS[2][0] })
            }
            [None, _, None, None] => Err(ImportError::Unpaired { stem: stem() }),
        }
    }
}

fn groups<'a>(tensors: &SafeTensors<'a>) -> Result<Vec<Group<'a>>, ImportError> {
    let mut by_stem: BTreeMap<String, [Option<Tensor<'a>>; 4]> = BTreeMap::new();
    let mut all = tensors.tensors();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, view) in all {
        // `features.0.weight` is the weight of `features.0`, `dense_1/kernel:0` that of `dense_1`; in a file of one layer, the names may
        // be just `weight` and `bias`.
        let bare = name.strip_suffix(":0").unwrap_or(&name);
        let (stem, leaf) = bare.rsplit_once(['.', '/']).unwrap_or(("", bare));
        if leaf == IGNORED {
            continue;
        }
        let Some(at) = KEYS.iter().position(|names| names.contains(&leaf)) else {
            return Err(ImportError::Name(shown(&name)));
        };
        let place = &mut by_stem.entry(stem.to_string()).or_default()[at];
        if let Some(first) = place {
            let [stem, first, second] = [stem, &first.name, &name].map(shown);
            return Err(ImportError::Twice { stem, role: KEYS[at][0], first, second });
        }
        *place = Some(Tensor { name, view });
    }
    let groups: Vec<Group<'a>> = by_stem.into_iter().map(|(stem, tensors)| Group { stem, tensors }).collect();
    groups.iter().try_for_each(Group::check)?;
    Ok(groups)
}

/// The groups in a file in the order of a model's layers.
struct Fit<'g, 'a> {
    model: Model,
    layout: Layout,
    layers: Vec<Vec<Slot>>,
    groups: Vec<&'g Group<'a>>,
}

fn fit_built_in<'g, 'a>(groups: &'g [Group<'a>], layout: Option<Layout>) -> Result<Fit<'g, 'a>, ImportError> {
    for model in [Model::cnn(), Model::mlp()] {
        match fit(&model, groups, layout, true) {
            Err(ImportError::Mismatch { .. }) => {}
            result => return result,
        }
    }
    Err(ImportError::NoModel(list_found(groups)))
}

/// Refuses a file that lacks a bias of the model.
fn fit_as_it_is<'g, 'a>(
    model: &Model,
    groups: &'g [Group<'a>],
    layout: Option<Layout>,
) -> Result<Fit<'g, 'a>, ImportError> {
    let strict = fit(model, groups, layout, false);
    let (Err(ImportError::Mismatch { .. }), Ok(other)) = (&strict, fit(model, groups, layout, true)) else {
        return strict;
    };
    for (layer, group) in layers_of(model)?.iter().zip(other.groups) {
        if layer.iter().any(|slot| slot.role == Role::Bias) && group.tensor(Role::Bias).is_none() {
            return Err(ImportError::NoBias { stem: shown(&group.stem), layer: layer[0].layer.clone() });
        }
    }
    strict
}

/// Fits the groups to a model. With `less`, the model may have biases that the file lacks, and loses them.
fn fit<'g, 'a>(
    model: &Model,
    groups: &'g [Group<'a>],
    layout: Option<Layout>,
    less: bool,
) -> Result<Fit<'g, 'a>, ImportError> {
    let mut layers = layers_of(model)?;
    for slot in layers.iter_mut().flatten().filter(|slot| less && slot.role == Role::Bias) {
        slot.parameter = None;
    }
    let layouts = layout.map_or_else(|| vec![Layout::Torch, Layout::Keras], |layout| vec![layout]);
    let mut fits = Vec::new();
    for &layout in &layouts {
        if let Some(ordered) = order(&layers, groups, layout)? {
            fits.push((layout, ordered));
        }
    }
    match (fits.pop(), fits.pop()) {
        (Some((layout, groups)), None) => {
            let model = with_biases_of(model, &layers, &groups)?;
            let layers = layers_of(&model)?;
            Ok(Fit { model, layout, layers, groups })
        }
        (Some(_), Some(_)) => Err(ImportError::AmbiguousLayout),
        (None, _) => Err(ImportError::Mismatch {
            model: model.name.clone(),
            found: list_found(groups),
            expected: layouts.iter().map(|&layout| list_expected(&layers, layout)).collect::<Vec<_>>().join("\nor:\n"),
        }),
    }
}

/// Returns the tensors of each layer that has some.
fn layers_of(model: &Model) -> Result<Vec<Vec<Slot>>, ImportError> {
    let slots = slots(&model.shapes()?);
    Ok(slots.chunk_by(|a, b| a.layer == b.layer).map(<[Slot]>::to_vec).collect())
}

/// Returns the model with the biases that its groups have.
fn with_biases_of(model: &Model, layers: &[Vec<Slot>], groups: &[&Group<'_>]) -> Result<Model, ImportError> {
    let mut with_biases = model.clone();
    for (node, shape) in with_biases.layers.iter_mut().zip(model.shapes()?) {
        let at = layers.iter().position(|layer| layer[0].layer == shape.name);
        if let (Some(at), Layer::Conv2d { use_bias, .. } | Layer::Dense { use_bias, .. }) = (at, &mut node.layer) {
            *use_bias = groups[at].tensor(Role::Bias).is_some();
        }
    }
    Ok(with_biases)
}

fn expected_shape(slot: &Slot, layout: Layout) -> &[usize] {
    match layout {
        Layout::Torch => &slot.torch_shape,
        Layout::Keras => &slot.shape,
    }
}

/// Whether two layers have tensors of the same shapes, so that only names can tell them apart. That one of two normalizations has no
/// factor does not count: in PyTorch it may have one.
fn are_alike(a: &[Slot], b: &[Slot], layout: Layout) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.role == b.role && expected_shape(a, layout) == expected_shape(b, layout))
}

/// Whether every tensor of a group belongs to a layer and has its shape. `needs_all` also requires the layer's parameters to be
/// there; without it, a normalization's factor and summand may be missing. What is no parameter may always be.
fn fits(layer: &[Slot], group: &Group<'_>, layout: Layout, needs_all: bool) -> bool {
    let is_right = |slot: &Slot| match group.tensor(slot.role) {
        Some(tensor) => tensor.view.shape() == expected_shape(slot, layout),
        None => slot.parameter.is_none() || (!needs_all && matches!(slot.role, Role::Scale | Role::Shift)),
    };
    let known = layer.iter().filter(|slot| group.tensor(slot.role).is_some()).count();
    layer.iter().all(is_right) && known == group.tensors().count()
}

/// Returns the groups in the order of the layers, if they fit the layout.
fn order<'g, 'a>(
    layers: &[Vec<Slot>],
    groups: &'g [Group<'a>],
    layout: Layout,
) -> Result<Option<Vec<&'g Group<'a>>>, ImportError> {
    if layers.len() != groups.len() {
        return Ok(None);
    }
    let all_fit =
        |ordered: &[&Group<'_>]| layers.iter().zip(ordered).all(|(layer, group)| fits(layer, group, layout, true));
    let by_name: Option<Vec<&Group<'_>>> =
        layers.iter().map(|layer| groups.iter().find(|group| group.stem == layer[0].layer)).collect();
    if let Some(named) = by_name {
        return Ok(all_fit(&named).then_some(named));
    }
    // There are as many groups as layers: if that is also true for each shape, every group has a layer.
    let mut ordered: Vec<Option<&Group<'_>>> = vec![None; layers.len()];
    let mut open = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        if ordered[i].is_some() {
            continue;
        }
        let alike: Vec<usize> = (i..layers.len()).filter(|&j| are_alike(&layers[j], layer, layout)).collect();
        let mut candidates: Vec<&Group<'_>> = groups.iter().filter(|group| fits(layer, group, layout, false)).collect();
        if candidates.len() != alike.len() {
            return Ok(None);
        }
        if candidates.len() > 1 && !sort_by_number(&mut candidates) {
            open.push((alike.clone(), candidates.clone()));
        }
        for (&j, group) in alike.iter().zip(candidates) {
            ordered[j] = Some(group);
        }
    }
    // Checked only after all shapes fit: in the wrong layout nothing is ambiguous.
    if let Some((alike, candidates)) = open.first() {
        let quoted =
            |names: Vec<&str>| names.iter().map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ");
        return Err(ImportError::AmbiguousLayers {
            stems: quoted(candidates.iter().map(|group| group.stem.as_str()).collect()),
            layers: quoted(alike.iter().map(|&j| layers[j][0].layer.as_str()).collect()),
        });
    }
    let ordered: Option<Vec<&Group<'_>>> = ordered.into_iter().collect();
    Ok(ordered.filter(|ordered| all_fit(ordered)))
}

/// Sorts groups whose stems differ only in the number at the end; returns `false` if they differ otherwise.
///
/// A missing number comes first: Keras calls its layers `dense`, `dense_1`, `dense_2`.
fn sort_by_number(groups: &mut [&Group<'_>]) -> bool {
    let split = |stem: &str| {
        let base = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &stem[base.len()..];
        let number = if digits.is_empty() { Some(None) } else { digits.parse::<u64>().ok().map(Some) };
        number.map(|number| (base.trim_end_matches(['_', '.', '/', '-']).to_string(), number))
    };
    let Some(mut keys) = groups.iter().map(|group| split(&group.stem)).collect::<Option<Vec<_>>>() else {
        return false;
    };
    groups.sort_by_cached_key(|group| split(&group.stem));
    keys.sort();
    keys.windows(2).all(|two| two[0].0 == two[1].0 && two[0].1 != two[1].1)
}

/// Returns the name of a tensor for a message: a file may have names of any length.
fn shown(name: &str) -> String {
    shortened(name, 100)
}

fn list_found(groups: &[Group<'_>]) -> String {
    let tensors = || groups.iter().flat_map(Group::tensors);
    let lines = tensors().map(|t| format!("  {} {:?} {:?}", shown(&t.name), t.view.dtype(), t.view.shape()));
    first_lines(lines, tensors().count())
}

fn list_expected(layers: &[Vec<Slot>], layout: Layout) -> String {
    let slots = || layers.iter().flatten().filter(|slot| slot.parameter.is_some());
    let lines = slots().map(|slot| {
        let (name, shape) = (slot.name(), expected_shape(slot, layout));
        // Only weights differ between the layouts.
        let layout = if slot.role == Role::Weight { format!(" ({layout})") } else { String::new() };
        format!("  {name} {shape:?}{layout}")
    });
    first_lines(lines, slots().count())
}

/// Returns the first of `n` lines, and how many more there are.
fn first_lines(lines: impl Iterator<Item = String>, n: usize) -> String {
    let mut shown: Vec<String> = lines.take(MAX_LISTED).collect();
    if n > MAX_LISTED {
        shown.push(format!("  and {} more", n - MAX_LISTED));
    }
    shown.join("\n")
}

/// Returns the values of a tensor, if the layer's tensor can have them.
fn checked_values(slot: &Slot, tensor: &Tensor<'_>) -> Result<Vec<f32>, ImportError> {
    let values = values(tensor)?;
    if slot.role == Role::Variance
        && let Some(position) = values.iter().position(|&value| value < 0.0)
    {
        return Err(ImportError::Negative { name: shown(&tensor.name), value: values[position], position });
    }
    if let (None, Some(expected)) = (slot.parameter, slot.role.initial())
        && let Some(&value) = values.iter().find(|&&value| value != expected)
    {
        let key = if slot.role == Role::Scale { "scale" } else { "center" };
        let (name, layer) = (shown(&tensor.name), slot.layer.clone());
        return Err(ImportError::NotFixed { name, value, layer, key, expected });
    }
    Ok(values)
}

/// Returns the values of a tensor in single precision.
fn values(tensor: &Tensor<'_>) -> Result<Vec<f32>, ImportError> {
    let data = tensor.view.data();
    let values: Vec<f32> = match tensor.view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        // Rounded to nearest.
        Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
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
