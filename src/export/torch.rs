//! PyTorch: safetensors with PyTorch's names and layouts, and the module that loads it.

use super::layout::filters;
use super::window::Window;
use super::{ExportError, Facts, checked_shapes, python_pair, python_text};
use crate::data::CLASS_NAMES;
use crate::model::weights::{self, WeightsError};
use crate::model::{Activation, Layer, LayerShape, Model};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fmt::Write;

/// The metadata key for the model, as JSON. It is not `model`, which marks a file in this program's own layout.
pub const MODEL_KEY: &str = "fmnist_gpu_model";

const LAYOUT: &str = "PyTorch: activations NCHW; conv2d weight [O, C, KH, KW]; dense weight [out, in], \
                      after a flatten with inputs in the order C, H, W; pixels divided by 255";

/// Returns the bytes of a safetensors file that is a `state_dict`: `conv2d_1.weight` `[O, C, KH, KW]`, `dense_1.weight`
/// `[out, in]`, the inputs of the first dense layer after a flatten in the order C, H, W. The metadata contains model,
/// module, class names and facts.
///
/// # Errors
/// The model cannot be built, or the parameters do not belong to it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>], facts: &Facts) -> Result<Vec<u8>, ExportError> {
    let shapes = checked_shapes(model, parameters)?;
    let filters = filters(&shapes);
    let weights: Vec<Vec<f32>> =
        filters.iter().zip(parameters.chunks(2)).map(|(filter, pair)| filter.torch_values(&pair[0])).collect();
    let mut views = Vec::new();
    for ((filter, weight), pair) in filters.iter().zip(&weights).zip(parameters.chunks(2)) {
        let bias = &pair[1];
        views.push((format!("{}.weight", filter.layer), view(filter.torch_shape(), weight)?));
        views.push((format!("{}.bias", filter.layer), view(vec![bias.len()], bias)?));
    }
    let mut metadata = HashMap::from([
        ("format".to_string(), "pt".to_string()),
        ("layout".to_string(), LAYOUT.to_string()),
        ("class_names".to_string(), serde_json::Value::from(CLASS_NAMES.to_vec()).to_string()),
        ("module".to_string(), module(&shapes)),
        (MODEL_KEY.to_string(), serde_json::to_string(model).map_err(|e| WeightsError::Model(e.to_string()))?),
        ("version".to_string(), format!("fmnist-gpu {}", env!("CARGO_PKG_VERSION"))),
    ]);
    metadata.extend(facts.dataset.map(|dataset| ("dataset".to_string(), dataset.to_string())));
    metadata.extend(facts.test_accuracy.map(|accuracy| ("test_accuracy".to_string(), accuracy.to_string())));
    Ok(weights::serialize(views, metadata)?)
}

fn view(shape: Vec<usize>, values: &[f32]) -> Result<TensorView<'_>, WeightsError> {
    TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values)).map_err(|e| WeightsError::Format(e.to_string()))
}

/// Returns the Python code that defines the module and loads the file at `file` into it.
///
/// The module takes grey values from 0 to 255 `[N, 1, 28, 28]` and returns logits `[N, 10]`.
///
/// # Errors
/// The model cannot be built.
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
        module(&model.shapes()?),
        python_text(file)
    ))
}

/// Returns the code of the module alone: a class with a layer for each pair of parameters, under their names.
fn module(shapes: &[LayerShape]) -> String {
    let mut constructor = String::new();
    let mut forward = Forward { lines: "        x = x / 255\n".to_string(), value: "x".to_string() };
    for shape in shapes {
        if let Some(made) = constructed(shape) {
            // Writing to a string cannot fail.
            let _ = writeln!(constructor, "        self.{} = {made}", shape.name);
        }
        forward.add(shape);
    }
    format!(
        "class Net(nn.Module):\n    \
             def __init__(self):\n        \
                 super().__init__()\n\
         {constructor}\n    \
             def forward(self, x):  # [N, 1, 28, 28], grey values 0 to 255\n\
         {}        return {}  # logits [N, 10]; .softmax(1) makes them probabilities\n",
        forward.lines, forward.value
    )
}

/// Returns the PyTorch constructor of a layer with parameters.
fn constructed(shape: &LayerShape) -> Option<String> {
    match (&shape.layer, &shape.input[..]) {
        (Layer::Conv2d { filters, .. }, [.., channels]) => {
            let window = Window::of(shape)?;
            let mut text = format!("nn.Conv2d({channels}, {filters}, {}", python_pair(window.size));
            if window.stride != [1, 1] {
                let _ = write!(text, ", stride={}", python_pair(window.stride));
            }
            Some(text + &even_padding(&window) + ")")
        }
        (Layer::Dense { units, .. }, [inputs]) => Some(format!("nn.Linear({inputs}, {units})")),
        _ => None,
    }
}

/// The body of `forward` under construction.
struct Forward {
    /// The lines so far.
    lines: String,
    /// The expression for the input of the next layer.
    value: String,
}

impl Forward {
    /// Ends a line, so that the value is `x` again.
    fn break_line(&mut self) {
        if self.value != "x" {
            let _ = writeln!(self.lines, "        x = {}", self.value);
            self.value = "x".to_string();
        }
    }

    fn add(&mut self, shape: &LayerShape) {
        match &shape.layer {
            Layer::Conv2d { activation, .. } => {
                self.break_line();
                let window = Window::of(shape).expect("a convolution has a window");
                self.value = format!("self.{}({})", shape.name, unevenly_padded("x", &window, None));
                self.activate(*activation);
            }
            Layer::Dense { activation, .. } => {
                self.break_line();
                self.value = format!("self.{}(x)", shape.name);
                self.activate(*activation);
            }
            Layer::BatchNorm { .. } | Layer::Add | Layer::Gelu => {}
            Layer::Relu => self.activate(Activation::Relu),
            Layer::Flatten => self.value.push_str(".flatten(1)"),
            Layer::MaxPool2d { .. } | Layer::AveragePool2d { .. } | Layer::SumPool2d { .. } => self.pool(shape),
        }
    }

    fn activate(&mut self, activation: Activation) {
        // The softmax is left to the loss, as is usual in PyTorch.
        if activation == Activation::Relu {
            self.value = format!("F.relu({})", self.value);
        }
    }

    fn pool(&mut self, shape: &LayerShape) {
        let window = Window::of(shape).expect("a pooling has a window");
        if !window.is_even() {
            // The padding would make the line too long.
            self.break_line();
        }
        let mut arguments = format!(", {}", python_pair(window.size));
        if window.stride != window.size {
            let _ = write!(arguments, ", {}", python_pair(window.stride));
        }
        arguments.push_str(&even_padding(&window));
        let value = &self.value;
        self.value = match &shape.layer {
            // Padding never wins a maximum.
            Layer::MaxPool2d { .. } => {
                format!("F.max_pool2d({}{arguments})", unevenly_padded(value, &window, Some("-torch.inf")))
            }
            Layer::SumPool2d { .. } => {
                format!("F.avg_pool2d({}{arguments}, divisor_override=1)", unevenly_padded(value, &window, None))
            }
            _ if !window.is_padded() => format!("F.avg_pool2d({value}{arguments})"),
            _ if window.is_even() => format!("F.avg_pool2d({value}{arguments}, count_include_pad=False)"),
            _ => {
                // PyTorch excludes the padding from an average only if it is symmetric.
                let sum = |x: &str| format!("F.avg_pool2d({}{arguments})", unevenly_padded(x, &window, None));
                let _ = writeln!(
                    self.lines,
                    "        share = {}  # fraction of cells that are not padding",
                    sum("torch.ones_like(x)")
                );
                let _ = writeln!(self.lines, "        x = {} / share", sum("x"));
                "x".to_string()
            }
        };
    }
}

/// Returns the `padding` argument of a layer with symmetric padding.
fn even_padding(window: &Window) -> String {
    if window.is_padded() && window.is_even() {
        format!(", padding={}", python_pair(window.begin))
    } else {
        String::new()
    }
}

/// Returns the value with padding that PyTorch's layers do not support: more after than before.
fn unevenly_padded(value: &str, window: &Window, fill: Option<&str>) -> String {
    if window.is_even() {
        return value.to_string();
    }
    let ([top, left], [bottom, right]) = (window.begin, window.end);
    let fill = fill.map(|fill| format!(", value={fill}")).unwrap_or_default();
    format!("F.pad({value}, ({left}, {right}, {top}, {bottom}){fill})")
}
