//! Keras: npz with Keras's names and shapes, and the Python code that builds the model and sets its weights.

use super::npz::archive;
use super::window::Window;
use super::{ExportError, checked_shapes, python_pair, python_text};
use crate::cpu::conv2d::Padding;
use crate::model::{Activation, Layer, LayerShape, Model};
use std::fmt::Write;

/// Returns the bytes of an npz with the arrays in the order of `keras.Model.set_weights`: `conv2d_1/kernel` `[KH, KW,
/// C, O]`, `conv2d_1/bias`, `dense_1/kernel` `[in, out]`...
///
/// # Errors
/// The model cannot be built, or the parameters do not belong to it.
pub fn to_bytes(model: &Model, parameters: &[Vec<f32>]) -> Result<Vec<u8>, ExportError> {
    checked_shapes(model, parameters)?;
    let named: Vec<(String, Vec<usize>)> =
        model.parameters()?.into_iter().map(|parameter| (keras_name(&parameter.name), parameter.shape)).collect();
    archive(named.iter().zip(parameters).map(|((name, shape), values)| (name.as_str(), &shape[..], &values[..])))
}

/// Converts a name: `dense_1.weight` is `dense_1/kernel` in Keras.
fn keras_name(name: &str) -> String {
    name.replace(".weight", "/kernel").replace(".bias", "/bias")
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
    let mut text = String::from(
        "import keras\n\
         import numpy as np\n\
         \n\
         model = keras.Sequential([\n",
    );
    let [h, w, c] = model.input;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "    keras.Input(({h}, {w}, {c})),  # grey values 0 to 255");
    let _ = writeln!(text, "    keras.layers.Rescaling(1 / 255),");
    for (i, shape) in shapes.iter().enumerate() {
        for line in layer_lines(shape, i + 1 == shapes.len()) {
            let _ = writeln!(text, "    keras.layers.{line},");
        }
    }
    let _ = write!(
        text,
        "])\n\
         weights = np.load({})\n\
         model.set_weights([weights[name] for name in weights.files])\n",
        python_text(file)
    );
    Ok(text)
}

/// Returns the Keras layers that are equivalent to one of this program's, usually one. `is_last` adds the softmax,
/// without which there would be no probabilities.
fn layer_lines(shape: &LayerShape, is_last: bool) -> Vec<String> {
    let name = &shape.name;
    match &shape.layer {
        Layer::Conv2d { filters, kernel_size, stride, padding, activation } => {
            let mut line = format!("Conv2D({filters}, {}", python_pair((*kernel_size).into()));
            if <[usize; 2]>::from(*stride) != [1, 1] {
                let _ = write!(line, ", strides={}", python_pair((*stride).into()));
            }
            let activation = activation_argument(*activation);
            vec![format!("{line}{}{activation}, name=\"{name}\")", padding_argument(*padding))]
        }
        Layer::MaxPool2d { padding, .. } => vec![pooling("MaxPooling2D", shape, *padding, name)],
        Layer::AveragePool2d { padding, .. } => vec![pooling("AveragePooling2D", shape, *padding, name)],
        Layer::SumPool2d { .. } => sum_pooling(shape),
        Layer::BatchNorm { .. } | Layer::Add | Layer::Gelu => Vec::new(),
        Layer::Relu => vec![format!("ReLU(name=\"{name}\")")],
        Layer::Flatten => vec![format!("Flatten(name=\"{name}\")")],
        Layer::Dense { units, activation } => {
            let activation = if is_last { Activation::Softmax } else { *activation };
            vec![format!("Dense({units}{}, name=\"{name}\")", activation_argument(activation))]
        }
    }
}

/// Keras's default is `valid`, as here.
fn padding_argument(padding: Padding) -> &'static str {
    match padding {
        Padding::Valid => "",
        Padding::Same => ", padding=\"same\"",
    }
}

fn activation_argument(activation: Activation) -> &'static str {
    match activation {
        Activation::None | Activation::Gelu => "",
        Activation::Relu => ", activation=\"relu\"",
        Activation::Softmax => ", activation=\"softmax\"",
    }
}

fn pooling(class: &str, shape: &LayerShape, padding: Padding, name: &str) -> String {
    let window = Window::of(shape).expect("a pooling has a window");
    let mut line = format!("{class}({}", python_pair(window.size));
    if window.stride != window.size {
        let _ = write!(line, ", strides={}", python_pair(window.stride));
    }
    format!("{line}{}, name=\"{name}\")", padding_argument(padding))
}

/// Keras has no sum pooling: it is an average, counting the padding's zeros, times the number of cells in the window.
fn sum_pooling(shape: &LayerShape) -> Vec<String> {
    let name = &shape.name;
    let window = Window::of(shape).expect("a pooling has a window");
    let mut lines = Vec::new();
    if window.is_padded() {
        let ([top, left], [bottom, right]) = (window.begin, window.end);
        lines.push(format!("ZeroPadding2D((({top}, {bottom}), ({left}, {right})), name=\"{name}_padding\")"));
    }
    lines.push(pooling("AveragePooling2D", shape, Padding::Valid, &format!("{name}_average")));
    lines.push(format!("Rescaling({}, name=\"{name}\")", window.cells()));
    lines
}
