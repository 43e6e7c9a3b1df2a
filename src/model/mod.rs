//! Models as data: a list of layers with their shapes and parameters, the built-in models, initial weights, and weight
//! files.

mod init;
mod summary;
pub mod weights;

pub use init::{initial_parameters, permutation};
pub use summary::{summary, training_mflop};

use crate::cpu::DimsError;
use crate::cpu::conv2d::{Conv2dDims, Padding};
use crate::cpu::pool2d::Pool2dDims;
use crate::files::{ShownPath, read_bounded};
use crate::text::{shortened, shortened_words};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The activation function that a layer applies to its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// max(y, 0).
    Relu,
    /// Probabilities over the classes; only for the last layer, where it is part of the loss.
    Softmax,
}

impl Activation {
    fn is_none(&self) -> bool {
        *self == Activation::None
    }
}

/// A height and a width; in a model file, a single number stands for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "PairFile", into = "[usize; 2]")]
pub struct Pair(pub usize, pub usize);

#[derive(Deserialize)]
#[serde(untagged, expecting = "one number, or two: [height, width]")]
enum PairFile {
    One(usize),
    Two([usize; 2]),
}

impl From<PairFile> for Pair {
    fn from(file: PairFile) -> Self {
        match file {
            PairFile::One(size) => Pair(size, size),
            PairFile::Two([down, across]) => Pair(down, across),
        }
    }
}

impl From<Pair> for [usize; 2] {
    fn from(pair: Pair) -> Self {
        [pair.0, pair.1]
    }
}

fn one() -> Pair {
    Pair(1, 1)
}

/// A layer of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Layer {
    /// Convolution with bias.
    Conv2d {
        /// Number of output channels.
        filters: usize,
        /// Size of the window.
        kernel_size: Pair,
        /// Step of the window.
        #[serde(default = "one")]
        stride: Pair,
        /// Zero padding.
        #[serde(default)]
        padding: Padding,
        /// The activation after it.
        #[serde(default, skip_serializing_if = "Activation::is_none")]
        activation: Activation,
    },
    /// Max pooling.
    MaxPool2d {
        /// Size of the window.
        pool_size: Pair,
        /// Step of the window; equal to the window if not set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Padding, which never wins a maximum.
        #[serde(default)]
        padding: Padding,
    },
    /// Average pooling; padding is not counted.
    AveragePool2d {
        /// Size of the window.
        pool_size: Pair,
        /// Step of the window; equal to the window if not set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Padding.
        #[serde(default)]
        padding: Padding,
    },
    /// Sum pooling.
    SumPool2d {
        /// Size of the window.
        pool_size: Pair,
        /// Step of the window; equal to the window if not set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Pair>,
        /// Padding.
        #[serde(default)]
        padding: Padding,
    },
    /// max(x, 0) as a separate layer.
    Relu,
    /// From `[H, W, C]` to `[H*W*C]`.
    Flatten,
    /// Fully connected, with bias.
    Dense {
        /// Number of outputs.
        units: usize,
        /// The activation after it.
        #[serde(default, skip_serializing_if = "Activation::is_none")]
        activation: Activation,
    },
}

impl Layer {
    /// Returns the stem of the layer's name and of its parameters' names.
    pub fn kind(&self) -> &'static str {
        match self {
            Layer::Conv2d { .. } => "conv2d",
            Layer::MaxPool2d { .. } => "maxpool2d",
            Layer::AveragePool2d { .. } => "averagepool2d",
            Layer::SumPool2d { .. } => "sumpool2d",
            Layer::Relu => "relu",
            Layer::Flatten => "flatten",
            Layer::Dense { .. } => "dense",
        }
    }
}

/// A model: a name, the shape of a sample, and the layers in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name: `mlp`, `cnn`, or the name in the model file.
    pub name: String,
    /// Shape of a sample, [H, W, C].
    #[serde(default = "fashion_mnist_input")]
    pub input: [usize; 3],
    /// The layers.
    #[serde(rename = "layer", alias = "layers")]
    pub layers: Vec<Layer>,
}

fn fashion_mnist_input() -> [usize; 3] {
    [28, 28, 1]
}

/// Number of classes of the data set, and of outputs of every model.
pub const N_CLASSES: usize = 10;

/// Largest description of a model that is read, in bytes, as a file or in a file's metadata: a layer takes about a
/// hundred.
pub const MAX_DESCRIPTION_BYTES: usize = 64 << 10;
/// Maximum number of bytes of a model's parameters: they are in one buffer, and larger weight files are not read.
const MAX_PARAMETER_BYTES: u64 = 1 << 30;
/// Maximum number of characters in a model's name.
const MAX_NAME: usize = 100;

/// A model that cannot be built.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The name is neither a built-in model nor a file.
    #[error(
        "there is no model `{name}`; use `mlp`, `cnn`, or the path of a .toml file that lists layers (see docs/model-files.md)"
    )]
    Unknown {
        /// The requested name.
        name: String,
    },
    /// The file cannot be read.
    #[error("model file {}: {source}", path.shown())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is not a model.
    #[error("model file {}: {reason}", path.shown())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line and cause, as reported by the parser.
        reason: String,
    },
    /// A layer does not fit its input.
    #[error("model `{model}`, layer {number} ({layer}): {reason}")]
    Layer {
        /// The model.
        model: String,
        /// Position of the layer, from 1.
        number: usize,
        /// The kind of layer.
        layer: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The layers as a whole are not a classifier.
    #[error("model `{model}`: {reason}")]
    Shape {
        /// The model.
        model: String,
        /// What is wrong.
        reason: String,
    },
}

/// A layer with its name and its shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerShape {
    /// For example `conv2d_1`.
    pub name: String,
    /// The layer.
    pub layer: Layer,
    /// Shape of its input, without the batch: `[H, W, C]` or `[I]`.
    pub input: Vec<usize>,
    /// Shape of its output, without the batch.
    pub output: Vec<usize>,
    /// Multiply-adds of the forward pass for one sample.
    pub multiply_adds: usize,
}

/// A parameter tensor: its name in `model.safetensors` and its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// For example `conv2d_1.weight`.
    pub name: String,
    /// Convolutions `[KH, KW, C, O]`, dense layers `[in, out]`, biases `[out]`.
    pub shape: Vec<usize>,
}

impl Model {
    /// Returns the article's first model, "without CNN": 101,770 parameters.
    pub fn mlp() -> Self {
        Model {
            name: "mlp".to_string(),
            input: fashion_mnist_input(),
            layers: vec![
                Layer::Flatten,
                Layer::Dense { units: 128, activation: Activation::Relu },
                Layer::Dense { units: N_CLASSES, activation: Activation::Softmax },
            ],
        }
    }

    /// Returns the article's second model, "with CNN": 421,642 parameters.
    pub fn cnn() -> Self {
        let conv = |filters| Layer::Conv2d {
            filters,
            kernel_size: Pair(3, 3),
            stride: one(),
            padding: Padding::Same,
            activation: Activation::Relu,
        };
        let pool = || Layer::MaxPool2d { pool_size: Pair(2, 2), stride: Some(Pair(2, 2)), padding: Padding::Valid };
        Model {
            name: "cnn".to_string(),
            input: fashion_mnist_input(),
            layers: vec![
                conv(32),
                pool(),
                conv(64),
                pool(),
                Layer::Flatten,
                Layer::Dense { units: 128, activation: Activation::Relu },
                Layer::Dense { units: N_CLASSES, activation: Activation::Softmax },
            ],
        }
    }

    /// Returns the built-in model of this name, or the model in the file at this path.
    ///
    /// # Errors
    /// There is neither, or the file is not a model that can be built.
    pub fn load(name: &str) -> Result<Self, ModelError> {
        match name {
            "mlp" => Ok(Model::mlp()),
            "cnn" => Ok(Model::cnn()),
            _ if Path::new(name).exists() || name.ends_with(".toml") => Model::from_file(Path::new(name)),
            _ => Err(ModelError::Unknown { name: name.to_string() }),
        }
    }

    fn from_file(path: &Path) -> Result<Self, ModelError> {
        let read = |source| ModelError::Read { path: path.to_path_buf(), source };
        let bytes = read_bounded(path, MAX_DESCRIPTION_BYTES as u64).map_err(read)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| read(std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error())))?;
        Model::parse(path, &text)
    }

    /// Parses the text of a model file; errors name the file `path`.
    ///
    /// # Errors
    /// The text is not a model that can be built.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ModelError> {
        let fail = |reason| ModelError::Parse { path: path.to_path_buf(), reason };
        if text.len() > MAX_DESCRIPTION_BYTES {
            return Err(fail(format!("it has {} bytes, but at most {MAX_DESCRIPTION_BYTES} are allowed", text.len())));
        }
        let model: Model = toml::from_str(text).map_err(|error| fail(parse_error(&error, text)))?;
        model.shapes()?;
        Ok(model)
    }

    /// Returns what is wrong with the name. It comes from an untrusted file, and is used in file names and printed to
    /// terminals.
    fn name_fault(&self) -> Option<&'static str> {
        match &self.name {
            name if name.chars().count() > MAX_NAME => Some("its name has more than 100 characters"),
            name if name.contains(['/', '\\']) || name == "." || name == ".." => {
                Some("its name is a path; use a name without `/` and `\\`")
            }
            name if name.chars().any(char::is_control) => Some("its name contains control characters"),
            _ => None,
        }
    }

    /// Returns the layers with names and shapes.
    ///
    /// # Errors
    /// A layer does not fit its input, or the model does not end in [`N_CLASSES`] outputs.
    pub fn shapes(&self) -> Result<Vec<LayerShape>, ModelError> {
        let fail = |reason: String| {
            let model = shortened(&self.name, MAX_NAME).escape_debug().to_string();
            ModelError::Shape { model, reason }
        };
        if let Some(reason) = self.name_fault() {
            return Err(fail(reason.to_string()));
        }
        // Checked before anything is computed from it: no product of these sizes overflows.
        if self.input != fashion_mnist_input() {
            return Err(fail(format!("`input` is {:?}, but the images of Fashion-MNIST are [28, 28, 1]", self.input)));
        }
        let mut shapes: Vec<LayerShape> = Vec::with_capacity(self.layers.len());
        let mut input: Vec<usize> = self.input.to_vec();
        for (i, layer) in self.layers.iter().enumerate() {
            let fail = |reason: String| ModelError::Layer {
                model: self.name.clone(),
                number: i + 1,
                layer: layer.kind(),
                reason,
            };
            let is_last = i + 1 == self.layers.len();
            if let Layer::Conv2d { activation: Activation::Softmax, .. } = layer {
                return Err(fail(
                    "`activation` is softmax, which only the last layer, a dense one, can have".to_string(),
                ));
            }
            if !is_last && matches!(layer, Layer::Dense { activation: Activation::Softmax, .. }) {
                return Err(fail("`activation` is softmax, which only the last layer can have".to_string()));
            }
            let (output, multiply_adds) = layer_output(layer, &input).map_err(fail)?;
            let number = 1 + shapes.iter().filter(|s| s.layer.kind() == layer.kind()).count();
            shapes.push(LayerShape {
                name: format!("{}_{number}", layer.kind()),
                layer: layer.clone(),
                input: std::mem::replace(&mut input, output.clone()),
                output,
                multiply_adds,
            });
        }
        let elements = |parameter: Parameter| parameter.shape.iter().map(|&size| size as u64).product::<u64>();
        let bytes = 4 * shapes.iter().flat_map(LayerShape::parameters).map(elements).sum::<u64>();
        if bytes > MAX_PARAMETER_BYTES {
            return Err(fail(format!(
                "its parameters take {bytes} bytes, but at most {MAX_PARAMETER_BYTES} are supported; make its layers smaller"
            )));
        }
        match shapes.last().map(|s| &s.layer) {
            Some(Layer::Dense { units: N_CLASSES, activation: Activation::None | Activation::Softmax }) => Ok(shapes),
            _ => Err(fail(format!(
                "the last layer must be dense with {N_CLASSES} units, one per class, and activation softmax"
            ))),
        }
    }

    /// Returns the parameters in the order of the layers, weight before bias.
    ///
    /// # Errors
    /// As [`Model::shapes`].
    pub fn parameters(&self) -> Result<Vec<Parameter>, ModelError> {
        Ok(self.shapes()?.iter().flat_map(LayerShape::parameters).collect())
    }
}

impl LayerShape {
    /// Returns the weight and bias of a convolution or a dense layer; nothing for other layers.
    pub fn parameters(&self) -> Vec<Parameter> {
        let weight = match &self.layer {
            Layer::Conv2d { filters, kernel_size, .. } => {
                vec![kernel_size.0, kernel_size.1, self.input[2], *filters]
            }
            Layer::Dense { units, .. } => vec![self.input[0], *units],
            _ => return Vec::new(),
        };
        let bias = weight[weight.len() - 1..].to_vec();
        vec![
            Parameter { name: format!("{}.weight", self.name), shape: weight },
            Parameter { name: format!("{}.bias", self.name), shape: bias },
        ]
    }
}

/// Returns the output shape and the multiply-adds of a layer for one sample, or why it does not fit.
fn layer_output(layer: &Layer, input: &[usize]) -> Result<(Vec<usize>, usize), String> {
    let len: usize = input.iter().product();
    match layer {
        Layer::Conv2d { .. } => {
            let d = conv2d_dims(layer, 1, input)?;
            Ok((vec![d.ho, d.wo, d.o], d.ho * d.wo * d.o * d.kh * d.kw * d.c))
        }
        Layer::MaxPool2d { .. } | Layer::AveragePool2d { .. } | Layer::SumPool2d { .. } => {
            let d = pool2d_dims(layer, 1, input)?;
            Ok((vec![d.ho, d.wo, d.c], 0))
        }
        Layer::Relu => Ok((input.to_vec(), 0)),
        Layer::Flatten => Ok((vec![len], 0)),
        Layer::Dense { units, .. } => match input {
            [_] if *units == 0 => Err("`units` is 0; use at least 1".to_string()),
            // Kernels use 32-bit indices.
            [inputs] => match inputs.checked_mul(*units) {
                Some(len) if u32::try_from(len).is_ok() => Ok((vec![*units], len)),
                _ => Err(format!(
                    "`units` is too large: the weight [{inputs}, {units}] would have more than {} elements",
                    u32::MAX
                )),
            },
            _ => Err(format!("its input has the shape {input:?}; add a flatten layer before it")),
        },
    }
}

fn image(input: &[usize]) -> Result<[usize; 3], String> {
    input.try_into().map_err(|_| format!("its input has the shape {input:?}, but it needs an image [H, W, C]"))
}

/// Fails if a size is zero, naming the key in the model file.
fn check_sizes(sizes: &[(&str, Pair)]) -> Result<(), String> {
    match sizes.iter().find(|(_, Pair(height, width))| *height == 0 || *width == 0) {
        Some((key, _)) => Err(format!("`{key}` is 0; use at least 1")),
        None => Ok(()),
    }
}

/// Describes why a layer does not fit, naming the keys in the model file: `window` is the key of the window, and `sizes` are
/// the keys that determine the size of a tensor for one image.
fn describe(error: &DimsError, window: &str, sizes: &str, n: usize) -> String {
    match error {
        DimsError::Window { axis, window: size, input } => format!(
            "`{window}` has {size} {axis}, but the input has only {input}; use a smaller `{window}`, or `padding = \"same\"`"
        ),
        DimsError::TooLarge { .. } if n == 1 => format!("{sizes} too large: {error}"),
        _ => error.to_string(),
    }
}

/// Returns the dimensions of a convolution layer for a batch of `n`.
///
/// # Errors
/// The layer does not fit `input`, `[H, W, C]`; the error says why.
///
/// # Panics
/// If the layer is not a convolution.
pub(crate) fn conv2d_dims(layer: &Layer, n: usize, input: &[usize]) -> Result<Conv2dDims, String> {
    let Layer::Conv2d { filters, kernel_size, stride, padding, .. } = layer else {
        panic!("conv2d_dims is for convolutions")
    };
    let input = image(input)?;
    check_sizes(&[("filters", Pair(*filters, *filters)), ("kernel_size", *kernel_size), ("stride", *stride)])?;
    Conv2dDims::new(n, input, (*kernel_size).into(), *filters, (*stride).into(), *padding)
        .map_err(|error| describe(&error, "kernel_size", "`filters` or `kernel_size` is", n))
}

/// Returns the dimensions of a pooling layer for a batch of `n`.
///
/// # Errors
/// The layer does not fit `input`, `[H, W, C]`; the error says why.
///
/// # Panics
/// If the layer is not a pooling.
pub(crate) fn pool2d_dims(layer: &Layer, n: usize, input: &[usize]) -> Result<Pool2dDims, String> {
    let (Layer::MaxPool2d { pool_size, stride, padding }
    | Layer::AveragePool2d { pool_size, stride, padding }
    | Layer::SumPool2d { pool_size, stride, padding }) = layer
    else {
        panic!("pool2d_dims is for pooling")
    };
    let stride = stride.unwrap_or(*pool_size);
    let input = image(input)?;
    check_sizes(&[("pool_size", *pool_size), ("stride", stride)])?;
    Pool2dDims::new(n, input, (*pool_size).into(), stride.into(), *padding)
        .map_err(|error| describe(&error, "pool_size", "`pool_size` is", n))
}

/// The most characters in a line of the parser's excerpt of a model file.
const MAX_EXCERPT: usize = 120;

/// Describes why a model file cannot be parsed, with line and column. The parser repeats the whole line, which is replaced by
/// a short excerpt if it, or a word in it, is long.
fn parse_error(error: &toml::de::Error, text: &str) -> String {
    let shown = error.to_string();
    if shortened_words(&shown) == shown && shown.lines().all(|line| line.chars().count() <= MAX_EXCERPT) {
        return shown;
    }
    let message = shortened(&shortened_words(error.message()), MAX_EXCERPT);
    let place = shown.lines().next().unwrap_or("TOML parse error");
    let excerpt = error.span().and_then(|span| text.get(span)).filter(|excerpt| !excerpt.trim().is_empty());
    let excerpt = excerpt.map(|excerpt| format!(": `{}`", shortened(excerpt.trim(), 40).replace('\n', " ")));
    format!("{}: {message}{}", shortened_words(place), excerpt.unwrap_or_default())
}
