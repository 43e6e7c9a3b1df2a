//! Keras: npz with Keras's names and shapes, and the Python code that builds the model and sets its weights.

use super::npz::archive;
use super::python::{self, Variables, pair, unused_layer};
use super::window::Window;
use super::{ExportError, checked_shapes, layers};
use crate::cpu::conv2d::Padding;
use crate::model::{LayerShape, Model, Source};
use std::collections::BTreeSet;
use std::fmt::Write;

/// The names that the code uses, besides those of functions.
const NAMES: [&str; 7] = ["keras", "np", "model", "weights", "layer", "inputs", "outputs"];

/// Returns the bytes of an npz with the arrays in the order of the layers, and within a layer in that of
/// `keras.layers.Layer.set_weights`: `conv2d_1/kernel` `[KH, KW, C, O]`, `conv2d_1/bias`, `batchnorm_1/gamma`, `dense_1/kernel`
/// `[in, out]`...
///
/// # Errors
/// The model cannot be built, or the parameters do not belong to it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>]) -> Result<Vec<u8>, ExportError> {
    let shapes = checked_shapes(model, parameters)?;
    let variable = |shape: &LayerShape| {
        let layer = shape.name.clone();
        let name = move |role| format!("{layer}/{}", layers::keras_variable(role));
        shape.parameters().into_iter().map(move |parameter| (name(parameter.role), parameter.shape))
    };
    let named: Vec<(String, Vec<usize>)> = shapes.iter().flat_map(variable).collect();
    archive(named.iter().zip(parameters).map(|((name, shape), values)| (name.as_str(), &shape[..], &values[..])))
}

/// Returns the Python code that builds the model, layer by layer with this program's names, and sets the weights from
/// the npz at `file`.
///
/// The model takes grey values from 0 to 255 `[N, 28, 28, 1]` and returns probabilities `[N, 10]`.
///
/// # Errors
/// The model cannot be built.
pub fn python(model: &Model, file: &str) -> Result<String, ExportError> {
    let shapes = model.shapes()?;
    let variables = Variables::new(&shapes, &[&NAMES[..], &layers::KERAS_FUNCTIONS].concat());
    let mut text = String::from("import keras\nimport numpy as np\n\n");
    let functions: BTreeSet<&str> = shapes.iter().filter_map(|shape| layers::keras_function(&shape.layer)).collect();
    for function in functions {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{function}");
    }
    if variables.is_chain() {
        sequential(&mut text, model, &shapes);
    } else {
        functional(&mut text, model, &shapes, &variables);
    }
    let _ = writeln!(text, "weights = np.load({})", python::text(file));
    text.push_str(if variables.is_chain() {
        "model.set_weights([weights[name] for name in weights.files])\n"
    } else {
        // Keras sorts the layers of such a model by their distance from the output.
        "for layer in model.layers:\n    \
             layer.set_weights([weights[f\"{layer.name}/{variable.name}\"] for variable in layer.weights])\n"
    });
    Ok(text)
}

/// Adds a list of layers.
fn sequential(text: &mut String, model: &Model, shapes: &[LayerShape]) {
    let _ = writeln!(text, "model = keras.Sequential([\n    {},  # grey values 0 to 255", input(model, shapes));
    let _ = writeln!(text, "    keras.layers.{},", rescaling(shapes));
    for made in (0..shapes.len()).flat_map(|i| layers::keras(shapes, i)) {
        let _ = writeln!(text, "    keras.layers.{made},");
    }
    text.push_str("])\n");
}

/// Adds a line for each layer that applies it to the variables of its inputs.
fn functional(text: &mut String, model: &Model, shapes: &[LayerShape], variables: &Variables) {
    let variable = |source| variables.of(source).unwrap_or("x");
    let _ = writeln!(text, "inputs = {}  # grey values 0 to 255", input(model, shapes));
    let _ = writeln!(text, "{} = keras.layers.{}(inputs)", variable(Source::Image), rescaling(shapes));
    for (i, shape) in shapes.iter().enumerate() {
        let sources: Vec<&str> = shape.sources.iter().map(|source| variable(*source)).collect();
        let mut read = if sources.len() == 1 { sources[0].to_string() } else { format!("[{}]", sources.join(", ")) };
        let output = if i + 1 == shapes.len() { "outputs" } else { variable(Source::Layer(i)) };
        let made = layers::keras(shapes, i);
        for (j, made_layer) in made.iter().enumerate() {
            let write = if j + 1 == made.len() { output } else { "x" };
            let _ = writeln!(text, "{write} = keras.layers.{made_layer}({read})");
            read = write.to_string();
        }
    }
    text.push_str("model = keras.Model(inputs, outputs)\n");
}

fn input(model: &Model, shapes: &[LayerShape]) -> String {
    let [h, w, c] = model.input;
    format!("keras.Input(({h}, {w}, {c}){})", name_argument("input_layer", shapes))
}

fn rescaling(shapes: &[LayerShape]) -> String {
    format!("Rescaling(1 / 255{})", name_argument("rescaling", shapes))
}

/// Keras's own name for a layer, `rescaling` or `rescaling_1` and so on, must not be that of one of the model's layers: only then the
/// layer gets a name.
fn name_argument(stem: &str, shapes: &[LayerShape]) -> String {
    if !shapes.iter().any(|shape| shape.name.starts_with(stem)) {
        return String::new();
    }
    format!(", name=\"{}\"", unused_layer(stem, shapes))
}

/// Returns the arguments of a convolution for its window.
pub(super) fn keras_window(shape: &LayerShape, padding: Padding) -> String {
    let window = Window::of(shape);
    let mut text = pair(window.size);
    if window.stride != [1, 1] {
        let _ = write!(text, ", strides={}", pair(window.stride));
    }
    text + padding_argument(padding)
}

/// Keras's default is `valid`, as here.
fn padding_argument(padding: Padding) -> &'static str {
    match padding {
        Padding::Valid => "",
        Padding::Same => ", padding=\"same\"",
    }
}

/// Returns the constructor of a pooling.
pub(super) fn keras_pool(class: &str, shape: &LayerShape, padding: Padding, name: &str) -> String {
    let window = Window::of(shape);
    let mut line = format!("{class}({}", pair(window.size));
    if window.stride != window.size {
        let _ = write!(line, ", strides={}", pair(window.stride));
    }
    format!("{line}{}, name=\"{name}\")", padding_argument(padding))
}

/// Keras has no sum pooling: it is an average, counting the padding's zeros, times the number of cells in the window.
pub(super) fn keras_sum_pool(shape: &LayerShape, shapes: &[LayerShape]) -> Vec<String> {
    let name = &shape.name;
    let window = Window::of(shape);
    let mut lines = Vec::new();
    if window.is_padded() {
        let ([top, left], [bottom, right]) = (window.begin, window.end);
        let padding = unused_layer(&format!("{name}_padding"), shapes);
        lines.push(format!("ZeroPadding2D((({top}, {bottom}), ({left}, {right})), name=\"{padding}\")"));
    }
    let average = unused_layer(&format!("{name}_average"), shapes);
    lines.push(keras_pool("AveragePooling2D", shape, Padding::Valid, &average));
    lines.push(format!("Rescaling({}, name=\"{name}\")", window.cells()));
    lines
}
