//! What each layer is in every format: a new type of layer needs rules here, and in no other file of the exports.
//!
//! No rule has a case for all other layers, so the compiler names those that a new layer lacks.

use super::keras::{keras_pool, keras_sum_pool, keras_window};
use super::onnx::Graph;
use super::onnx_proto::{Message, float_attribute, int_attribute, sizes_attribute};
use super::python::{pair, unused_layer};
use super::torch::Forward;
use super::window::Window;
use crate::model::Layer::{
    self, Add, AveragePool2d, BatchNorm, Conv2d, Dense, DepthwiseConv2d, Dropout, Flatten, Gelu, GlobalAveragePool2d,
    GlobalMaxPool2d, LeakyRelu, MaxPool2d, Relu, Scale, Silu, SumPool2d,
};
use crate::model::{Activation, DEFAULT_SLOPE, LayerShape, Role};
use std::fmt::Write;

/// What a layer does to the order of the features, if its output is a list of them.
pub(super) enum Features {
    /// Each feature follows from the same one of each input.
    Kept,
    /// Each feature follows from all of them, so their order has no meaning.
    Mixed,
    /// They are the cells of an image.
    Flattened {
        /// The channels of the image; 1 if its values have the same order with channels first and last.
        channels: usize,
    },
}

/// Returns what a layer does to the order of the features.
pub(super) fn features(shape: &LayerShape) -> Features {
    match &shape.layer {
        BatchNorm { .. } | Add {} | Relu {} | Gelu {} | LeakyRelu { .. } | Silu {} | Scale { .. } | Dropout { .. } => {
            Features::Kept
        }
        // A cell for each channel.
        GlobalMaxPool2d {} | GlobalAveragePool2d {} => Features::Flattened { channels: 1 },
        Conv2d { .. } | DepthwiseConv2d { .. } | Dense { .. } => Features::Mixed,
        MaxPool2d(_) | AveragePool2d(_) | SumPool2d(_) => Features::Mixed,
        Flatten {} => match shape.input[..] {
            // A single cell.
            [1, 1, _] => Features::Flattened { channels: 1 },
            [_, _, channels] => Features::Flattened { channels },
            _ => Features::Kept,
        },
    }
}

/// Returns the tensors that a layer has in PyTorch and in ONNX.
pub(super) fn torch_roles(layer: &Layer) -> &'static [Role] {
    match layer {
        Conv2d { use_bias: false, .. } | DepthwiseConv2d { use_bias: false, .. } | Dense { use_bias: false, .. } => {
            &[Role::Weight]
        }
        Conv2d { .. } | DepthwiseConv2d { .. } | Dense { .. } => &[Role::Weight, Role::Bias],
        BatchNorm { .. } => &[Role::Scale, Role::Shift, Role::Mean, Role::Variance],
        MaxPool2d(_) | AveragePool2d(_) | SumPool2d(_) | Add {} | Relu {} | Gelu {} | Flatten {} => &[],
        GlobalMaxPool2d {} | GlobalAveragePool2d {} | LeakyRelu { .. } | Silu {} | Scale { .. } | Dropout { .. } => &[],
    }
}

/// Returns the shape of a layer's tensor as PyTorch would have it with the axes in this program's order: it has depthwise
/// convolutions as those with a group for each channel, so `[KH, KW, C, 1]` becomes `[KH, KW, 1, C]`, in the same order.
pub(super) fn as_in_torch(layer: &Layer, shape: &[usize]) -> Vec<usize> {
    match (layer, shape) {
        (DepthwiseConv2d { .. }, &[kh, kw, c, 1]) => vec![kh, kw, 1, c],
        _ => shape.to_vec(),
    }
}

/// Returns the name of a tensor in Keras.
pub(super) fn keras_variable(role: Role) -> &'static str {
    match role {
        Role::Weight => "kernel",
        Role::Bias => "bias",
        Role::Scale => "gamma",
        Role::Shift => "beta",
        Role::Mean => "moving_mean",
        Role::Variance => "moving_variance",
    }
}

/// Adds the nodes of a layer, whose names begin with `name`, and returns the name of its output. `inputs` are the values that it
/// reads; `channels_last` says whether it flattens an image with the channels last. Source: the operators' documentation of ONNX,
/// docs/Operators.md.
pub(super) fn onnx(shape: &LayerShape, name: &str, inputs: &[&str], channels_last: bool, graph: &mut Graph) -> String {
    let x = inputs[0];
    let tensors: Vec<String> =
        torch_roles(&shape.layer).iter().map(|role| format!("{}.{}", shape.name, role.key())).collect();
    let reads: Vec<&str> = std::iter::once(x).chain(tensors.iter().map(String::as_str)).collect();
    match &shape.layer {
        Conv2d { activation, .. } | DepthwiseConv2d { activation, .. } => {
            let mut attributes = window_attributes(shape);
            let groups = groups(shape);
            if groups > 1 {
                attributes.push(int_attribute("group", groups as i64));
            }
            graph.apply("Conv", name, &reads, attributes);
            return onnx_activation(*activation, name, graph);
        }
        Dense { activation, .. } => {
            // The weight is [out, in].
            graph.apply("Gemm", name, &reads, vec![int_attribute("transB", 1)]);
            return onnx_activation(*activation, name, graph);
        }
        MaxPool2d(_) => graph.apply("MaxPool", name, &[x], window_attributes(shape)),
        AveragePool2d(_) => graph.apply("AveragePool", name, &[x], window_attributes(shape)),
        SumPool2d(_) => onnx_sum_pool(shape, name, x, graph),
        GlobalMaxPool2d {} => onnx_global_pool("GlobalMaxPool", name, x, graph),
        GlobalAveragePool2d {} => onnx_global_pool("GlobalAveragePool", name, x, graph),
        BatchNorm { momentum, epsilon, .. } => {
            let attributes = vec![float_attribute("epsilon", *epsilon), float_attribute("momentum", *momentum)];
            graph.apply("BatchNormalization", name, &reads, attributes);
        }
        Add {} => {
            let mut sum = x.to_string();
            for (i, other) in inputs.iter().enumerate().skip(1) {
                let next = if i + 1 == inputs.len() { name.to_string() } else { format!("{name}.sum_{i}") };
                graph.apply("Add", &next, &[&sum, other], vec![]);
                sum = next;
            }
        }
        Relu {} => graph.apply("Relu", name, &[x], vec![]),
        Gelu {} => onnx_gelu(name, x, graph),
        LeakyRelu { slope } => onnx_leaky_relu(*slope, name, x, graph),
        Silu {} => onnx_silu(name, x, graph),
        Scale { factor } => {
            let constant = format!("{name}.factor");
            graph.constant(&constant, &[], &[*factor as f32]);
            graph.apply("Mul", name, &[x, &constant], vec![]);
        }
        // Nothing in inference.
        Dropout { .. } => return x.to_string(),
        Flatten {} => {
            let last = format!("{name}.channels_last");
            if channels_last {
                graph.apply("Transpose", &last, &[x], vec![sizes_attribute("perm", &[0, 2, 3, 1])]);
            }
            let x = if channels_last { &last } else { x };
            graph.apply("Flatten", name, &[x], vec![int_attribute("axis", 1)]);
        }
    }
    name.to_string()
}

/// Adds the activation of the layer `name` and returns the name of its output.
fn onnx_activation(activation: Activation, name: &str, graph: &mut Graph) -> String {
    match activation {
        // The softmax is a separate output.
        Activation::None | Activation::Softmax => name.to_string(),
        Activation::Relu => {
            let activated = format!("{name}.relu");
            graph.apply("Relu", &activated, &[name], vec![]);
            activated
        }
        Activation::Gelu => {
            let activated = format!("{name}.gelu");
            onnx_gelu(&activated, name, graph);
            activated
        }
        Activation::LeakyRelu => {
            let activated = format!("{name}.leakyrelu");
            onnx_leaky_relu(DEFAULT_SLOPE, &activated, name, graph);
            activated
        }
        Activation::Silu => {
            let activated = format!("{name}.silu");
            onnx_silu(&activated, name, graph);
            activated
        }
    }
}

fn onnx_leaky_relu(slope: f64, name: &str, x: &str, graph: &mut Graph) {
    graph.apply("LeakyRelu", name, &[x], vec![float_attribute("alpha", slope)]);
}

/// The opset has no operator for it: x sigmoid(x).
fn onnx_silu(name: &str, x: &str, graph: &mut Graph) {
    let sigmoid = format!("{name}.sigmoid");
    graph.apply("Sigmoid", &sigmoid, &[x], vec![]);
    graph.apply("Mul", name, &[x, &sigmoid], vec![]);
}

/// ONNX keeps the image, which then has one cell: `[N, C, 1, 1]`.
fn onnx_global_pool(op: &str, name: &str, x: &str, graph: &mut Graph) {
    let cell = format!("{name}.cell");
    graph.apply(op, &cell, &[x], vec![]);
    graph.apply("Flatten", name, &[&cell], vec![int_attribute("axis", 1)]);
}

/// The operator Gelu is not in the opset: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
fn onnx_gelu(name: &str, x: &str, graph: &mut Graph) {
    let part = |part: &str| format!("{name}.{part}");
    for (constant, value) in
        [("cubic", 0.044_715), ("slope", (2.0 / std::f64::consts::PI).sqrt()), ("one", 1.0), ("half", 0.5)]
    {
        graph.constant(&part(constant), &[], &[value as f32]);
    }
    for (op, output, left, right) in [
        ("Mul", "square", x, x),
        ("Mul", "cube", &part("square"), x),
        ("Mul", "cubed", &part("cube"), &part("cubic")),
        ("Add", "sum", x, &part("cubed")),
        ("Mul", "angle", &part("sum"), &part("slope")),
    ] {
        graph.apply(op, &part(output), &[left, right], vec![]);
    }
    graph.apply("Tanh", &part("tanh"), &[&part("angle")], vec![]);
    graph.apply("Add", &part("share"), &[&part("tanh"), &part("one")], vec![]);
    graph.apply("Mul", &part("halved"), &[x, &part("half")], vec![]);
    graph.apply("Mul", name, &[&part("halved"), &part("share")], vec![]);
}

/// ONNX has no sum pooling: it is an average, counting the padding's zeros, times the number of cells in the window.
fn onnx_sum_pool(shape: &LayerShape, name: &str, x: &str, graph: &mut Graph) {
    let mut attributes = window_attributes(shape);
    attributes.push(int_attribute("count_include_pad", 1));
    let (average, cells) = (format!("{name}.average"), format!("{name}.cells"));
    graph.apply("AveragePool", &average, &[x], attributes);
    graph.constant(&cells, &[], &[Window::of(shape).cells() as f32]);
    graph.apply("Mul", name, &[&average, &cells], vec![]);
}

/// Returns the number of groups of a convolution.
fn groups(shape: &LayerShape) -> usize {
    match shape.layer {
        Conv2d { groups, .. } => groups,
        _ => shape.input.last().copied().unwrap_or(1),
    }
}

/// Returns size, stride and padding. `auto_pad` is deprecated, and tools interpret it differently, so the padding is
/// explicit.
fn window_attributes(shape: &LayerShape) -> Vec<Message> {
    let Window { size, stride, begin, end } = Window::of(shape);
    vec![
        sizes_attribute("kernel_shape", &size),
        sizes_attribute("strides", &stride),
        sizes_attribute("pads", &[begin, end].concat()),
    ]
}

/// Returns the PyTorch constructor of a layer that is a module of its own: with parameters, or another one in training.
pub(super) fn torch_constructor(shape: &LayerShape) -> Option<String> {
    let channels = shape.input.last().copied().unwrap_or_default();
    match &shape.layer {
        Conv2d { use_bias, .. } | DepthwiseConv2d { use_bias, .. } => {
            let (window, groups) = (Window::of(shape), groups(shape));
            let filters = shape.output.last().copied().unwrap_or_default();
            let mut text = format!("nn.Conv2d({channels}, {filters}, {}", pair(window.size));
            if window.stride != [1, 1] {
                // Writing to a string cannot fail.
                let _ = write!(text, ", stride={}", pair(window.stride));
            }
            text.push_str(&even_padding(&window));
            if groups > 1 {
                let _ = write!(text, ", groups={groups}");
            }
            Some(text + &no_bias(*use_bias, "bias") + ")")
        }
        Dense { units, use_bias, .. } => Some(format!("nn.Linear({channels}, {units}{})", no_bias(*use_bias, "bias"))),
        BatchNorm { momentum, epsilon, .. } => {
            let class = if shape.input.len() == 1 { "BatchNorm1d" } else { "BatchNorm2d" };
            // The part that a batch changes, without the digits of the subtraction's rounding.
            let changed = ((1.0 - momentum) * 1e12).round() / 1e12;
            Some(format!("nn.{class}({channels}, eps={epsilon}, momentum={changed})"))
        }
        Dropout { rate } => Some(format!("nn.Dropout({rate})")),
        MaxPool2d(_) | AveragePool2d(_) | SumPool2d(_) | Add {} | Relu {} | Gelu {} | Flatten {} => None,
        GlobalMaxPool2d {} | GlobalAveragePool2d {} | LeakyRelu { .. } | Silu {} | Scale { .. } => None,
    }
}

/// Adds a layer to the body of PyTorch's `forward`, where the value is the layer's input; `others` are further inputs.
/// `channels_last` says whether it flattens an image with the channels last.
pub(super) fn torch(shape: &LayerShape, others: &[String], channels_last: bool, forward: &mut Forward) {
    match &shape.layer {
        Conv2d { activation, .. } | DepthwiseConv2d { activation, .. } => {
            let x = unevenly_padded(forward.variable(), &Window::of(shape), None);
            forward.value = torch_activation(*activation, format!("self.{}({x})", shape.name));
        }
        Dense { activation, .. } => {
            let x = forward.variable();
            forward.value = torch_activation(*activation, format!("self.{}({x})", shape.name));
        }
        MaxPool2d(_) => torch_pool(shape, forward, |x, window, arguments| {
            // Padding never wins a maximum.
            format!("F.max_pool2d({}{arguments})", unevenly_padded(x, window, Some("-torch.inf")))
        }),
        AveragePool2d(_) => {
            let window = Window::of(shape);
            let sum =
                |x: &str, arguments: &str| format!("F.avg_pool2d({}{arguments})", unevenly_padded(x, &window, None));
            if window.is_even() {
                let counted = if window.is_padded() { ", count_include_pad=False" } else { "" };
                torch_pool(shape, forward, |x, _, arguments| sum(x, &format!("{arguments}{counted}")));
            } else {
                // PyTorch excludes the padding from an average only if it is symmetric.
                let x = forward.variable().to_string();
                torch_pool(shape, forward, |_, _, arguments| sum(&format!("torch.ones_like({x})"), arguments));
                let _ = writeln!(
                    forward.lines,
                    "        share = {}  # fraction of cells that are not padding",
                    forward.value
                );
                forward.value = x;
                torch_pool(shape, forward, |x, _, arguments| format!("{} / share", sum(x, arguments)));
                forward.finish();
            }
        }
        SumPool2d(_) => torch_pool(shape, forward, |x, window, arguments| {
            format!("F.avg_pool2d({}{arguments}, divisor_override=1)", unevenly_padded(x, window, None))
        }),
        GlobalMaxPool2d {} => forward.value = format!("F.adaptive_max_pool2d({}, 1).flatten(1)", forward.value),
        GlobalAveragePool2d {} => forward.value = format!("F.adaptive_avg_pool2d({}, 1).flatten(1)", forward.value),
        BatchNorm { .. } | Dropout { .. } => {
            forward.shorten();
            forward.value = format!("self.{}({})", shape.name, forward.value);
        }
        Add {} => {
            for other in others {
                let _ = write!(forward.value, " + {other}");
            }
            // Within another expression, the sum might need parentheses.
            forward.finish();
        }
        Relu {} => forward.value = torch_activation(Activation::Relu, std::mem::take(&mut forward.value)),
        Gelu {} => {
            forward.shorten();
            forward.value = torch_activation(Activation::Gelu, std::mem::take(&mut forward.value));
        }
        LeakyRelu { slope } => {
            forward.shorten();
            forward.value = torch_leaky_relu(*slope, &forward.value);
        }
        Silu {} => {
            forward.shorten();
            forward.value = torch_activation(Activation::Silu, std::mem::take(&mut forward.value));
        }
        Scale { factor } => {
            let _ = write!(forward.value, " * {factor}");
            // As for a sum.
            forward.finish();
        }
        Flatten {} if channels_last => forward.value.push_str(".permute(0, 2, 3, 1).flatten(1)"),
        Flatten {} => forward.value.push_str(".flatten(1)"),
    }
}

fn torch_activation(activation: Activation, value: String) -> String {
    match activation {
        // The softmax is left to the loss, as is usual in PyTorch.
        Activation::None | Activation::Softmax => value,
        Activation::Relu => format!("F.relu({value})"),
        Activation::Gelu => format!("F.gelu({value}, approximate=\"tanh\")"),
        Activation::LeakyRelu => torch_leaky_relu(DEFAULT_SLOPE, &value),
        Activation::Silu => format!("F.silu({value})"),
    }
}

fn torch_leaky_relu(slope: f64, value: &str) -> String {
    format!("F.leaky_relu({value}, {slope})")
}

/// Adds a pooling; `make` returns the expression for a value, a window, and the arguments after the value.
fn torch_pool(shape: &LayerShape, forward: &mut Forward, make: impl Fn(&str, &Window, &str) -> String) {
    let window = Window::of(shape);
    if !window.is_even() {
        // The padding would make the line too long.
        forward.variable();
    }
    let mut arguments = format!(", {}", pair(window.size));
    if window.stride != window.size {
        let _ = write!(arguments, ", {}", pair(window.stride));
    }
    arguments.push_str(&even_padding(&window));
    forward.value = make(&forward.value, &window, &arguments);
}

/// Returns the `padding` argument of a layer with symmetric padding.
fn even_padding(window: &Window) -> String {
    if window.is_padded() && window.is_even() { format!(", padding={}", pair(window.begin)) } else { String::new() }
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

/// The name of the function that Keras's layers use for GELU: `gelu` would mean the exact form, without tanh.
const KERAS_GELU: &str = "gelu_tanh";

/// The names of all functions that Keras's layers use and Keras does not have.
pub(super) const KERAS_FUNCTIONS: [&str; 1] = [KERAS_GELU];

/// The code of the function for GELU, which is registered, so that Keras can save and load the model.
const KERAS_GELU_CODE: &str = "@keras.saving.register_keras_serializable()\n\
                                          def gelu_tanh(x):\n    \
                                              return keras.activations.gelu(x, approximate=True)\n";

/// Returns the code of the function that a layer uses, if Keras does not have it.
pub(super) fn keras_function(layer: &Layer) -> Option<&'static str> {
    match layer {
        Conv2d { activation: Activation::Gelu, .. }
        | DepthwiseConv2d { activation: Activation::Gelu, .. }
        | Dense { activation: Activation::Gelu, .. }
        | Gelu {} => Some(KERAS_GELU_CODE),
        Conv2d { .. } | DepthwiseConv2d { .. } | Dense { .. } => None,
        MaxPool2d(_) | AveragePool2d(_) | SumPool2d(_) | BatchNorm { .. } | Add {} | Relu {} | Flatten {} => None,
        GlobalMaxPool2d {} | GlobalAveragePool2d {} | LeakyRelu { .. } | Silu {} | Scale { .. } | Dropout { .. } => {
            None
        }
    }
}

/// Returns the constructors of the Keras layers that are equivalent to the layer `i`, usually one; each reads the output of the one
/// before. The last layer gets the softmax, without which there would be no probabilities.
pub(super) fn keras(shapes: &[LayerShape], i: usize) -> Vec<String> {
    let shape = &shapes[i];
    let name = &shape.name;
    match &shape.layer {
        Conv2d { filters, padding, groups, activation, use_bias, .. } => {
            let mut line = format!("Conv2D({filters}, {}", keras_window(shape, *padding));
            if *groups > 1 {
                let _ = write!(line, ", groups={groups}");
            }
            let rest = keras_activation(*activation) + &no_bias(*use_bias, "use_bias");
            with_activation(format!("{line}{rest}, name=\"{name}\")"), *activation, shape, shapes)
        }
        DepthwiseConv2d { padding, use_bias, activation, .. } => {
            let window = keras_window(shape, *padding);
            let rest = keras_activation(*activation) + &no_bias(*use_bias, "use_bias");
            with_activation(format!("DepthwiseConv2D({window}{rest}, name=\"{name}\")"), *activation, shape, shapes)
        }
        MaxPool2d(of) => vec![keras_pool("MaxPooling2D", shape, of.padding, name)],
        AveragePool2d(of) => vec![keras_pool("AveragePooling2D", shape, of.padding, name)],
        SumPool2d(_) => keras_sum_pool(shape, shapes),
        GlobalMaxPool2d {} => vec![format!("GlobalMaxPooling2D(name=\"{name}\")")],
        GlobalAveragePool2d {} => vec![format!("GlobalAveragePooling2D(name=\"{name}\")")],
        BatchNorm { momentum, epsilon, scale, center, .. } => {
            let mut line = format!("BatchNormalization(momentum={momentum}, epsilon={epsilon}");
            for (key, value) in [("scale", scale), ("center", center)] {
                if !value {
                    let _ = write!(line, ", {key}=False");
                }
            }
            vec![format!("{line}, name=\"{name}\")")]
        }
        Add {} => vec![format!("Add(name=\"{name}\")")],
        Relu {} => vec![format!("ReLU(name=\"{name}\")")],
        Gelu {} => vec![format!("Activation({KERAS_GELU}, name=\"{name}\")")],
        LeakyRelu { slope } => vec![keras_leaky_relu(*slope, name)],
        Silu {} => vec![format!("Activation(\"silu\", name=\"{name}\")")],
        Scale { factor } => vec![format!("Rescaling({factor}, name=\"{name}\")")],
        Dropout { rate } => vec![format!("Dropout({rate}, name=\"{name}\")")],
        Flatten {} => vec![format!("Flatten(name=\"{name}\")")],
        Dense { units, activation, use_bias, .. } => {
            let activation = if i + 1 == shapes.len() { Activation::Softmax } else { *activation };
            let rest = keras_activation(activation) + &no_bias(*use_bias, "use_bias");
            with_activation(format!("Dense({units}{rest}, name=\"{name}\")"), activation, shape, shapes)
        }
    }
}

/// Returns the argument for a layer without bias, which is called `key`.
fn no_bias(use_bias: bool, key: &str) -> String {
    if use_bias { String::new() } else { format!(", {key}=False") }
}

fn keras_activation(activation: Activation) -> String {
    match activation {
        Activation::None | Activation::LeakyRelu => String::new(),
        Activation::Relu => ", activation=\"relu\"".to_string(),
        Activation::Gelu => format!(", activation={KERAS_GELU}"),
        Activation::Silu => ", activation=\"silu\"".to_string(),
        Activation::Softmax => ", activation=\"softmax\"".to_string(),
    }
}

fn keras_leaky_relu(slope: f64, name: &str) -> String {
    format!("LeakyReLU(negative_slope={slope}, name=\"{name}\")")
}

/// Adds the activation to the constructor of a layer if it is a layer of its own in Keras, whose `"leaky_relu"` has another slope.
fn with_activation(line: String, activation: Activation, shape: &LayerShape, shapes: &[LayerShape]) -> Vec<String> {
    let name = unused_layer(&format!("{}_activation", shape.name), shapes);
    let after = match activation {
        Activation::LeakyRelu => Some(keras_leaky_relu(DEFAULT_SLOPE, &name)),
        Activation::None | Activation::Relu | Activation::Gelu | Activation::Silu | Activation::Softmax => None,
    };
    [line].into_iter().chain(after).collect()
}
