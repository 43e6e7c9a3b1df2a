//! The types of layers: their attributes in a model file, and what follows from them.

use super::{Parameter, Role};
use crate::cpu::DimsError;
use crate::cpu::conv2d::{Conv2dDims, Padding};
use crate::cpu::pool2d::Pool2dDims;
use serde::{Deserialize, Serialize};

/// The activation function that a layer applies to its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// max(y, 0).
    Relu,
    /// y times the normal distribution function of y, in the form with tanh.
    Gelu,
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

fn default_momentum() -> f64 {
    0.9
}

fn is_default_momentum(momentum: &f64) -> bool {
    *momentum == default_momentum()
}

fn default_epsilon() -> f64 {
    1e-3
}

fn is_default_epsilon(epsilon: &f64) -> bool {
    *epsilon == default_epsilon()
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// The window of a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pooling {
    /// Size of the window.
    pub pool_size: Pair,
    /// Step of the window; equal to the window if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Pair>,
    /// Padding.
    #[serde(default)]
    pub padding: Padding,
}

/// A layer of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Max pooling; padding never wins a maximum.
    MaxPool2d(Pooling),
    /// Average pooling; padding is not counted.
    AveragePool2d(Pooling),
    /// Sum pooling.
    SumPool2d(Pooling),
    /// Normalization of each channel over the batch in training, and with running statistics afterwards.
    BatchNorm {
        /// The part of the running statistics that a batch leaves as it was, 0 to 1.
        #[serde(default = "default_momentum", skip_serializing_if = "is_default_momentum")]
        momentum: f64,
        /// Added to the variance.
        #[serde(default = "default_epsilon", skip_serializing_if = "is_default_epsilon")]
        epsilon: f64,
        /// Whether there is a factor for each channel.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        scale: bool,
        /// Whether there is a summand for each channel.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        center: bool,
    },
    /// The sum of several inputs of the same shape.
    Add,
    /// max(x, 0) as a separate layer.
    Relu,
    /// x times the normal distribution function of x, in the form with tanh, as a separate layer.
    Gelu,
    /// Zeros in place of some elements, and larger others, in training; nothing afterwards.
    Dropout {
        /// The probability of an element to become zero, at least 0 and less than 1.
        rate: f64,
    },
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
            Layer::MaxPool2d(_) => "maxpool2d",
            Layer::AveragePool2d(_) => "averagepool2d",
            Layer::SumPool2d(_) => "sumpool2d",
            Layer::BatchNorm { .. } => "batchnorm",
            Layer::Add => "add",
            Layer::Relu => "relu",
            Layer::Gelu => "gelu",
            Layer::Dropout { .. } => "dropout",
            Layer::Flatten => "flatten",
            Layer::Dense { .. } => "dense",
        }
    }

    /// Returns the activation that is part of the layer.
    pub fn activation(&self) -> Activation {
        match self {
            Layer::Conv2d { activation, .. } | Layer::Dense { activation, .. } => *activation,
            Layer::MaxPool2d(_) | Layer::AveragePool2d(_) | Layer::SumPool2d(_) => Activation::None,
            Layer::BatchNorm { .. } | Layer::Add | Layer::Relu | Layer::Gelu => Activation::None,
            Layer::Dropout { .. } | Layer::Flatten => Activation::None,
        }
    }

    /// Returns the parameters of a layer called `name` with inputs of the shape `input`, which [`Layer::output`] has accepted.
    pub(super) fn parameters(&self, name: &str, input: &[usize]) -> Vec<Parameter> {
        let parameter =
            |role: Role, shape: Vec<usize>| Parameter { name: format!("{name}.{}", role.key()), shape, role };
        let weight_and_bias = |weight: Vec<usize>| {
            let outputs = weight[weight.len() - 1];
            vec![parameter(Role::Weight, weight), parameter(Role::Bias, vec![outputs])]
        };
        match self {
            Layer::Conv2d { filters, kernel_size, .. } => {
                weight_and_bias(vec![kernel_size.0, kernel_size.1, input[2], *filters])
            }
            Layer::Dense { units, .. } => weight_and_bias(vec![input[0], *units]),
            Layer::BatchNorm { scale, center, .. } => {
                let roles = [(*scale, Role::Scale), (*center, Role::Shift), (true, Role::Mean), (true, Role::Variance)];
                let roles = roles.into_iter().filter(|(exists, _)| *exists);
                roles.map(|(_, role)| parameter(role, vec![input[input.len() - 1]])).collect()
            }
            Layer::MaxPool2d(_) | Layer::AveragePool2d(_) | Layer::SumPool2d(_) => Vec::new(),
            Layer::Add | Layer::Relu | Layer::Gelu | Layer::Dropout { .. } | Layer::Flatten => Vec::new(),
        }
    }

    /// Returns the output shape and the multiply-adds for one sample with inputs of the shape `input`, or why the layer does not fit them.
    pub(super) fn output(&self, input: &[usize]) -> Result<(Vec<usize>, usize), String> {
        let len: usize = input.iter().product();
        match self {
            Layer::Conv2d { .. } => {
                let d = conv2d_dims(self, 1, input)?;
                Ok((vec![d.ho, d.wo, d.o], d.ho * d.wo * d.o * d.kh * d.kw * d.c))
            }
            Layer::MaxPool2d(_) | Layer::AveragePool2d(_) | Layer::SumPool2d(_) => {
                let d = pool2d_dims(self, 1, input)?;
                Ok((vec![d.ho, d.wo, d.c], 0))
            }
            Layer::BatchNorm { momentum, epsilon, .. } => {
                if !(0.0..=1.0).contains(momentum) {
                    return Err(format!("`momentum` is {momentum}; use 0 to 1"));
                }
                if !(1e-12..=1e6).contains(epsilon) {
                    return Err(format!("`epsilon` is {epsilon}; use a small positive number, such as 0.001"));
                }
                Ok((input.to_vec(), 0))
            }
            Layer::Add | Layer::Relu | Layer::Gelu => Ok((input.to_vec(), 0)),
            Layer::Dropout { rate } if !(0.0..1.0).contains(rate) => {
                Err(format!("`rate` is {rate}; it must be at least 0 and less than 1, for example 0.5"))
            }
            Layer::Dropout { .. } => Ok((input.to_vec(), 0)),
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

/// Returns the dimensions of a convolution layer for a batch of `n`, or why it does not fit `input`, `[H, W, C]`.
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

/// Returns the dimensions of a pooling layer for a batch of `n`, or why it does not fit `input`, `[H, W, C]`.
///
/// # Panics
/// If the layer is not a pooling.
pub(crate) fn pool2d_dims(layer: &Layer, n: usize, input: &[usize]) -> Result<Pool2dDims, String> {
    let (Layer::MaxPool2d(pooling) | Layer::AveragePool2d(pooling) | Layer::SumPool2d(pooling)) = layer else {
        panic!("pool2d_dims is for pooling")
    };
    let Pooling { pool_size, stride, padding } = pooling;
    let stride = stride.unwrap_or(*pool_size);
    let input = image(input)?;
    check_sizes(&[("pool_size", *pool_size), ("stride", stride)])?;
    Pool2dDims::new(n, input, (*pool_size).into(), stride.into(), *padding)
        .map_err(|error| describe(&error, "pool_size", "`pool_size` is", n))
}
