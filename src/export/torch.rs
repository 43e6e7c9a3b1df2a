//! PyTorch: a safetensors file for `load_state_dict`, and the module that it belongs to.
//!
//! Convolutions `[O, C, KH, KW]`, dense layers `[out, in]`; the first dense layer's inputs are in the order `[C, H, W]`, as
//! `flatten` of a channels-first tensor gives them. Source: torch.nn.Conv2d, torch.nn.Linear.

use super::layout::{Weighted, Window, filters_first, layers, outputs_first};
use super::{About, ExportError, Exported, Format};
use crate::data::CLASS_NAMES;
use crate::model::weights::sort_header;
use crate::model::{Activation, Layer, Model};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;

/// `model.torch.safetensors`, and a module that loads it.
///
/// # Errors
/// The model cannot be built.
pub fn export(model: &Model, parameters: &[Vec<f32>], about: &About) -> Result<Exported, ExportError> {
    let fail = |reason: String| ExportError::Encode { format: Format::Torch, reason };
    let layers = layers(model, parameters)?;
    let mut tensors = Vec::new();
    for layer in &layers {
        let [w, b] = layer.parameters else { continue };
        let shapes: Vec<Vec<usize>> = layer.shape.parameters().into_iter().map(|p| p.shape).collect();
        let (shape, values) = match shapes[0][..] {
            [kh, kw, c, o] => (vec![o, c, kh, kw], filters_first(w, [kh, kw, c, o])),
            [inputs, outputs] => (vec![outputs, inputs], outputs_first(w, [inputs, outputs], layer.flattened)),
            _ => unreachable!("weights have four dimensions or two"),
        };
        tensors.push((format!("{}.weight", layer.shape.name), shape, values));
        tensors.push((format!("{}.bias", layer.shape.name), shapes[1].clone(), b.clone()));
    }
    let module = module(&layers);
    let names = serde_json::to_string(&CLASS_NAMES).map_err(|error| fail(error.to_string()))?;
    let mut metadata = HashMap::from([
        ("format".to_string(), "pt".to_string()),
        ("class_names".to_string(), names),
        ("module".to_string(), module.clone()),
    ]);
    metadata.extend(about.dataset.clone().map(|dataset| ("dataset".to_string(), dataset)));
    metadata.extend(about.test_accuracy.map(|accuracy| ("test_accuracy".to_string(), accuracy.to_string())));
    let views = tensors.iter().map(|(name, shape, values)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values));
        view.map(|view| (name.clone(), view)).map_err(|error| fail(error.to_string()))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|error| fail(error.to_string()))?;
    let bytes = sort_header(bytes).map_err(|error| fail(error.to_string()))?;
    let python = format!(
        "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\
         from safetensors.torch import load_file\n\n{module}\n\n\
         net = Net().eval()\nnet.load_state_dict(load_file(\"{{file}}\"))"
    );
    Ok(Exported { bytes, python })
}

/// The module whose `state_dict` the file is.
fn module(layers: &[Weighted<'_>]) -> String {
    let mut made = Vec::new();
    let mut steps = vec!["x = x / 255".to_string()];
    for layer in layers {
        let name = &layer.shape.name;
        match (&layer.shape.layer, Window::of(&layer.shape)) {
            (Layer::Conv2d { filters, activation, .. }, Some(window)) => {
                let [kh, kw] = window.kernel;
                let mut arguments = format!("{}, {filters}, {}", layer.shape.input[2], pair([kh, kw]));
                // PyTorch's own padding is the same on both sides.
                let [top, left, bottom, right] = window.pads;
                let x = if (top, left) == (bottom, right) {
                    if window.is_padded() {
                        arguments += &format!(", padding={}", pair([top, left]));
                    }
                    "x".to_string()
                } else {
                    padded("x", &window, "0.0")
                };
                if window.strides != [1, 1] {
                    arguments += &format!(", stride={}", pair(window.strides));
                }
                made.push(format!("self.{name} = nn.Conv2d({arguments})"));
                steps.push(activated(format!("self.{name}({x})"), *activation));
            }
            (Layer::Dense { units, activation }, _) => {
                made.push(format!("self.{name} = nn.Linear({}, {units})", layer.shape.input[0]));
                steps.push(activated(format!("self.{name}(x)"), *activation));
            }
            (Layer::MaxPool2d { .. }, Some(window)) => {
                let x = if window.is_padded() { padded("x", &window, "float(\"-inf\")") } else { "x".into() };
                steps.push(format!("x = F.max_pool2d({x}, {})", sizes(&window)));
            }
            (Layer::SumPool2d { .. }, Some(window)) => steps.push(format!("x = {}", sum("x", &window))),
            (Layer::AveragePool2d { .. }, Some(window)) if window.is_padded() => {
                // Padding is not counted.
                steps.push(format!("x = {} / {}", sum("x", &window), sum("torch.ones_like(x)", &window)));
            }
            (Layer::AveragePool2d { .. }, Some(window)) => {
                steps.push(format!("x = F.avg_pool2d(x, {})", sizes(&window)));
            }
            (Layer::Relu, _) => steps.push("x = F.relu(x)".to_string()),
            (Layer::Flatten, _) => steps.push("x = x.flatten(1)".to_string()),
            (layer, None) => unreachable!("a {} has a window", layer.kind()),
        }
    }
    let indented = |lines: &[String]| lines.iter().map(|line| format!("        {line}\n")).collect::<String>();
    format!(
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{}\n    \
         def forward(self, x):  # [batch, 1, 28, 28], pixels 0 to 255, to logits [batch, 10]\n{}        return x",
        indented(&made).trim_end_matches('\n').to_string() + "\n",
        indented(&steps)
    )
}

fn activated(call: String, activation: Activation) -> String {
    // Softmax belongs to the loss, as everywhere in PyTorch.
    if activation == Activation::Relu { format!("x = F.relu({call})") } else { format!("x = {call}") }
}

/// One number where both are equal, else a tuple.
fn pair([down, across]: [usize; 2]) -> String {
    if down == across { down.to_string() } else { format!("({down}, {across})") }
}

fn sizes(window: &Window) -> String {
    let kernel = pair(window.kernel);
    if window.strides == window.kernel { kernel } else { format!("{kernel}, stride={}", pair(window.strides)) }
}

fn padded(x: &str, window: &Window, value: &str) -> String {
    let [top, left, bottom, right] = window.pads;
    format!("F.pad({x}, ({left}, {right}, {top}, {bottom}), value={value})")
}

fn sum(x: &str, window: &Window) -> String {
    let x = if window.is_padded() { padded(x, window, "0.0") } else { x.to_string() };
    format!("F.avg_pool2d({x}, {}, divisor_override=1)", sizes(window))
}
