//! PyTorch: safetensors with PyTorch's names and layouts, and the module that loads it.

use super::layout::{Orders, slots};
use super::python::{self, KEYWORDS, Variables};
use super::{ExportError, Facts, checked_shapes, layers};
use crate::model::weights::{self, WeightsError};
use crate::model::{LayerShape, Model, Source};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fmt::Write;

/// The metadata key for the model, as JSON. It is not `model`, which marks a file in this program's own layout.
pub const MODEL_KEY: &str = "fmnist_gpu_model";

const LAYOUT: &str = "PyTorch: activations NCHW; conv2d weight [O, C, KH, KW]; dense weight [out, in], \
                      after a flatten with inputs in the order C, H, W; pixels divided by 255";

/// The attributes of every `torch.nn.Module`, which a layer must not replace. Source: `dir(torch.nn.Module())`; attributes that
/// begin with an underscore cannot be names of layers.
const ATTRIBUTES: &str = "\
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double \
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule \
    half ipu load_state_dict modules mtia named_buffers named_children named_modules named_parameters \
    parameters register_backward_hook register_buffer register_forward_hook register_forward_pre_hook \
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook \
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook \
    register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict to \
    to_empty train training type xpu zero_grad";

/// The names that the body of `forward` uses.
const LOCALS: [&str; 5] = ["self", "torch", "nn", "F", "share"];

/// Returns the bytes of a safetensors file that is a `state_dict`: `conv2d_1.weight` `[O, C, KH, KW]`, `dense_1.weight`
/// `[out, in]`, flattened images in the order C, H, W. The metadata contains model, module, class names and facts.
///
/// # Errors
/// The model cannot be built, the parameters do not belong to it, or a layer's name cannot be that of an attribute.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>], facts: &Facts) -> Result<Vec<u8>, ExportError> {
    let shapes = checked_shapes(model, parameters)?;
    let slots = slots(&shapes);
    let values: Vec<Vec<f32>> = slots.iter().map(|slot| slot.torch_values(parameters)).collect();
    let mut views = Vec::new();
    for (slot, values) in slots.iter().zip(&values) {
        let view = TensorView::new(Dtype::F32, slot.torch_shape.clone(), bytemuck::cast_slice(values));
        views.push((slot.name(), view.map_err(|error| WeightsError::Format(error.to_string()))?));
    }
    let mut metadata = HashMap::from([
        ("format".to_string(), "pt".to_string()),
        ("layout".to_string(), LAYOUT.to_string()),
        ("module".to_string(), module(model, &shapes)?),
    ]);
    metadata.extend(facts.metadata(model, MODEL_KEY)?.into_iter().map(|(key, value)| (key.to_string(), value)));
    Ok(weights::serialize(views, metadata)?)
}

/// Returns the Python code that defines the module and loads the file at `file` into it.
///
/// The module takes grey values from 0 to 255 `[N, 1, 28, 28]` and returns logits `[N, 10]`.
///
/// # Errors
/// The model cannot be built, or a layer's name cannot be that of an attribute.
pub fn python(model: &Model, file: &str) -> Result<String, ExportError> {
    Ok(format!(
        "import torch\n\
         import torch.nn as nn\n\
         import torch.nn.functional as F\n\
         from safetensors.torch import load_file\n\
         \n\
         {}\n\
         net = Net()\n\
         net.load_state_dict(load_file({}))\n\
         net.eval()\n",
        module(model, &model.shapes()?)?,
        python::text(file)
    ))
}

/// Returns the code of the module alone: a class with a layer for each group of parameters, under their names.
fn module(model: &Model, shapes: &[LayerShape]) -> Result<String, ExportError> {
    let variables = Variables::new(shapes, &LOCALS);
    let orders = Orders::of(shapes);
    let mut constructor = String::new();
    let output = |source| variables.of(source).unwrap_or("x").to_string();
    let mut forward = Forward { lines: String::new(), value: "x / 255".to_string(), output: output(Source::Image) };
    forward.finish();
    for (i, shape) in shapes.iter().enumerate() {
        if let Some(made) = layers::torch_constructor(shape) {
            check_attribute(&shape.name)?;
            // Writing to a string cannot fail.
            let _ = writeln!(constructor, "        self.{} = {made}", shape.name);
        }
        let read = |source: &Source| variables.of(*source).map_or_else(|| forward.value.clone(), str::to_string);
        let mut inputs = shape.sources.iter().map(read);
        let (value, others) = (inputs.next().unwrap_or_default(), inputs.collect::<Vec<_>>());
        (forward.value, forward.output) = (value, output(Source::Layer(i)));
        layers::torch(shape, &others, orders.channels_last[i], &mut forward);
        if variables.of(Source::Layer(i)).is_some() {
            forward.finish();
        }
    }
    let ([h, w, c], classes) = (model.input, model.classes());
    Ok(format!(
        "class Net(nn.Module):\n    \
             def __init__(self):\n        \
                 super().__init__()\n\
         {constructor}\n    \
             def forward(self, x):  # [N, {c}, {h}, {w}], grey values 0 to 255\n\
         {}        return {}  # logits [N, {classes}]; .softmax(1) makes them probabilities\n",
        forward.lines, forward.value
    ))
}

/// Refuses the name of a layer that cannot be an attribute of a module: model files may be untrusted, and PyTorch does not complain
/// about a layer that replaces `train` or `to`.
fn check_attribute(name: &str) -> Result<(), ExportError> {
    let reason = match name {
        _ if KEYWORDS.contains(&name) => "a keyword of Python",
        _ if ATTRIBUTES.split(' ').any(|attribute| attribute == name) => "an attribute that every module has",
        _ => return Ok(()),
    };
    Err(ExportError::Attribute { name: name.to_string(), reason })
}

/// The body of `forward` under construction.
pub(super) struct Forward {
    /// The lines so far.
    pub(super) lines: String,
    /// The expression for the value that the next layer reads.
    pub(super) value: String,
    /// The variable for the output of the layer that is being added.
    pub(super) output: String,
}

impl Forward {
    /// Returns the variable with the value; if it is a longer expression, a line makes it `x`.
    pub(super) fn variable(&mut self) -> &str {
        if !self.value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.store("x");
        }
        &self.value
    }

    /// Makes the value a variable, unless it is the plain output of a layer with parameters: more than one function around that
    /// would be hard to read.
    pub(super) fn shorten(&mut self) {
        if !self.value.starts_with("self.") || self.value.ends_with(".flatten(1)") {
            self.variable();
        }
    }

    /// Stores the value, which is the output of the layer, in its variable.
    pub(super) fn finish(&mut self) {
        if self.value != self.output {
            self.store(&self.output.clone());
        }
    }

    /// Adds a line that stores the value in a variable.
    fn store(&mut self, variable: &str) {
        let _ = writeln!(self.lines, "        {variable} = {}", self.value);
        self.value = variable.to_string();
    }
}
