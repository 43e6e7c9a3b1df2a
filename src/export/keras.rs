//! Keras: a NumPy archive in the shapes of `set_weights`, and the model that it belongs to.
//!
//! Keras keeps the layouts that are kept here: `[KH, KW, C, O]`, `[in, out]`, inputs flattened in the order `[H, W, C]`.

use super::layout::Window;
use super::npz::{Array, archive};
use super::{ExportError, Exported, Format};
use crate::cpu::conv2d::Padding;
use crate::model::{Activation, Layer, LayerShape, Model, Pair};

/// `model.keras.npz`, with arrays such as `conv2d_1.kernel` and `conv2d_1.bias`, and the Keras model that takes them.
///
/// # Errors
/// The model cannot be built.
pub fn export(model: &Model, parameters: &[Vec<f32>]) -> Result<Exported, ExportError> {
    let arrays = model.parameters()?.into_iter().zip(parameters);
    let keras_name = |name: String| name.replace(".weight", ".kernel");
    let arrays: Vec<Array<'_>> =
        arrays.map(|(p, values)| Array { name: keras_name(p.name), shape: p.shape, values }).collect();
    let layers: String = model.shapes()?.iter().map(|shape| format!("    {},\n", layer(shape))).collect();
    let python = format!(
        "import keras, numpy as np\nfrom keras import layers\n\n\
         model = keras.Sequential([\n    keras.Input((28, 28, 1)),  # pixels 0 to 255\n    layers.Rescaling(1 / 255),\n{layers}])\n\
         weights = np.load(\"{{file}}\")\n\
         for layer in model.layers:\n    if layer.weights:\n        \
         layer.set_weights([weights[f\"{{layer.name}}.kernel\"], weights[f\"{{layer.name}}.bias\"]])"
    );
    Ok(Exported { bytes: archive(Format::Keras, &arrays)?, python })
}

/// A layer as Keras's code has it.
fn layer(shape: &LayerShape) -> String {
    let name = format!("name=\"{}\"", shape.name);
    match &shape.layer {
        Layer::Conv2d { filters, kernel_size, stride, padding, activation } => format!(
            "layers.Conv2D({filters}, {}, strides={}, padding=\"{padding}\"{}, {name})",
            tuple(*kernel_size),
            tuple(*stride),
            with(*activation)
        ),
        Layer::MaxPool2d { pool_size, stride, padding } => pool("MaxPooling2D", *pool_size, *stride, *padding, &name),
        Layer::AveragePool2d { pool_size, stride, padding } => {
            pool("AveragePooling2D", *pool_size, *stride, *padding, &name)
        }
        Layer::SumPool2d { pool_size, stride, .. } => {
            // Keras has none: zeros around, an average that counts them, times the size of the window.
            let average = pool("AveragePooling2D", *pool_size, *stride, Padding::Valid, &name);
            let times = format!("layers.Rescaling({}.0)", pool_size.0 * pool_size.1);
            match Window::of(shape) {
                Some(window) if window.is_padded() => {
                    let [top, left, bottom, right] = window.pads;
                    format!(
                        "layers.ZeroPadding2D((({top}, {bottom}), ({left}, {right}))),\n    {average},\n    {times}"
                    )
                }
                _ => format!("{average},\n    {times}"),
            }
        }
        Layer::Relu => format!("layers.ReLU({name})"),
        Layer::Flatten => format!("layers.Flatten({name})"),
        Layer::Dense { units, activation } => format!("layers.Dense({units}{}, {name})", with(*activation)),
    }
}

fn pool(class: &str, size: Pair, stride: Option<Pair>, padding: Padding, name: &str) -> String {
    let (size, stride) = (tuple(size), tuple(stride.unwrap_or(size)));
    format!("layers.{class}({size}, strides={stride}, padding=\"{padding}\", {name})")
}

fn tuple(Pair(down, across): Pair) -> String {
    format!("({down}, {across})")
}

fn with(activation: Activation) -> &'static str {
    match activation {
        Activation::None => "",
        Activation::Relu => ", activation=\"relu\"",
        Activation::Softmax => ", activation=\"softmax\"",
    }
}
