//! The types of layers: their attributes in a model file, and what follows from them.

use super::{Init, Parameter, Role, Trainable};
use crate::cpu::DimsError;
use crate::cpu::conv2d::Padding;
use crate::cpu::groupedconv2d::GroupedConv2dDims;
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
    /// max(y, 0), but 0.01 times y below zero.
    LeakyRelu,
    /// y times the logistic function of y.
    Silu,
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

fn one_group() -> usize {
    1
}

fn is_one_group(groups: &usize) -> bool {
    *groups == one_group()
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

/// The slope of a leaky ReLU that has none of its own.
pub(crate) const DEFAULT_SLOPE: f64 = 0.01;

fn default_slope() -> f64 {
    DEFAULT_SLOPE
}

fn is_default_slope(slope: &f64) -> bool {
    *slope == DEFAULT_SLOPE
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
    /// Convolution.
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
        /// Number of groups into which the channels are divided: an output sees the input channels of its own group.
        #[serde(default = "one_group", skip_serializing_if = "is_one_group")]
        groups: usize,
        /// The activation after it.
        #[serde(default, skip_serializing_if = "Activation::is_none")]
        activation: Activation,
        /// Whether there is a bias.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        use_bias: bool,
        /// Which parameters are trained.
        #[serde(default, skip_serializing_if = "Trainable::is_yes")]
        trainable: Trainable,
        /// How the initial values of the weight are chosen.
        #[serde(default, skip_serializing_if = "Init::is_default")]
        init: Init,
    },
    /// Depthwise convolution: one filter for each channel.
    DepthwiseConv2d {
        /// Size of the window.
        kernel_size: Pair,
        /// Step of the window.
        #[serde(default = "one")]
        stride: Pair,
        /// Zero padding.
        #[serde(default)]
        padding: Padding,
        /// Whether there is a bias for each channel.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        use_bias: bool,
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
    // Braces although there are no attributes: in a file, serde would ignore the attributes of a layer without them.
    /// The maximum of each channel: from `[H, W, C]` to `[C]`.
    GlobalMaxPool2d {},
    /// The mean of each channel: from `[H, W, C]` to `[C]`.
    GlobalAveragePool2d {},
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
        /// Whether factor and summand are trained. As in Keras, a normalization that is not trained uses its running statistics in training
        /// too, and leaves them as they are.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        trainable: bool,
    },
    /// The sum of several inputs of the same shape.
    Add {},
    /// max(x, 0) as a separate layer.
    Relu {},
    /// x times the normal distribution function of x, in the form with tanh, as a separate layer.
    Gelu {},
    /// x where it is positive, else `slope` times x.
    LeakyRelu {
        /// The factor of negative inputs; not negative itself.
        #[serde(default = "default_slope", skip_serializing_if = "is_default_slope")]
        slope: f64,
    },
    /// x times the logistic function of x, as a separate layer.
    Silu {},
    /// `factor` times x: a fixed number, which is not trained.
    Scale {
        /// The factor.
        factor: f64,
    },
    /// Zeros in place of some elements, and larger others, in training; nothing afterwards.
    Dropout {
        /// The probability of an element to become zero, at least 0 and less than 1.
        rate: f64,
    },
    /// From `[H, W, C]` to `[H*W*C]`.
    Flatten {},
    /// Fully connected.
    Dense {
        /// Number of outputs.
        units: usize,
        /// The activation after it.
        #[serde(default, skip_serializing_if = "Activation::is_none")]
        activation: Activation,
        /// Whether there is a bias.
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        use_bias: bool,
        /// Which parameters are trained.
        #[serde(default, skip_serializing_if = "Trainable::is_yes")]
        trainable: Trainable,
        /// How the initial values of the weight are chosen.
        #[serde(default, skip_serializing_if = "Init::is_default")]
        init: Init,
    },
}

impl Layer {
    /// Returns a fully connected layer with bias.
    pub fn dense(units: usize, activation: Activation) -> Self {
        Layer::Dense { units, activation, use_bias: true, trainable: Trainable::Yes, init: Init::GlorotUniform }
    }

    /// Returns the stem of the layer's name and of its parameters' names.
    pub fn kind(&self) -> &'static str {
        match self {
            Layer::Conv2d { .. } => "conv2d",
            Layer::DepthwiseConv2d { .. } => "depthwiseconv2d",
            Layer::MaxPool2d(_) => "maxpool2d",
            Layer::AveragePool2d(_) => "averagepool2d",
            Layer::SumPool2d(_) => "sumpool2d",
            Layer::GlobalMaxPool2d {} => "globalmaxpool2d",
            Layer::GlobalAveragePool2d {} => "globalaveragepool2d",
            Layer::BatchNorm { .. } => "batchnorm",
            Layer::Add {} => "add",
            Layer::Relu {} => "relu",
            Layer::Gelu {} => "gelu",
            Layer::LeakyRelu { .. } => "leakyrelu",
            Layer::Silu {} => "silu",
            Layer::Scale { .. } => "scale",
            Layer::Dropout { .. } => "dropout",
            Layer::Flatten {} => "flatten",
            Layer::Dense { .. } => "dense",
        }
    }

    /// Returns the activation that is part of the layer.
    pub fn activation(&self) -> Activation {
        match self {
            Layer::Conv2d { activation, .. }
            | Layer::DepthwiseConv2d { activation, .. }
            | Layer::Dense { activation, .. } => *activation,
            Layer::MaxPool2d(_) | Layer::AveragePool2d(_) | Layer::SumPool2d(_) => Activation::None,
            Layer::GlobalMaxPool2d {} | Layer::GlobalAveragePool2d {} => Activation::None,
            Layer::BatchNorm { .. } | Layer::Add {} | Layer::Relu {} | Layer::Gelu {} | Layer::Flatten {} => {
                Activation::None
            }
            Layer::LeakyRelu { .. } | Layer::Silu {} | Layer::Scale { .. } | Layer::Dropout { .. } => Activation::None,
        }
    }

    /// Returns the parameters of a layer called `name` with inputs of the shape `input`, which [`Layer::output`] has accepted.
    pub(super) fn parameters(&self, name: &str, input: &[usize]) -> Vec<Parameter> {
        let make = |role: Role, shape: Vec<usize>, trainable, init| {
            let name = format!("{name}.{}", role.key());
            Parameter { name, shape, role, trainable, init }
        };
        let weight_and_bias = |weight: Vec<usize>, use_bias: bool, trainable, init| {
            let bias = vec![weight[weight.len() - 1]];
            let bias = use_bias.then(|| make(Role::Bias, bias, trainable, Init::default()));
            [Some(make(Role::Weight, weight, trainable, init)), bias].into_iter().flatten().collect()
        };
        match *self {
            Layer::Conv2d { filters, kernel_size, groups, use_bias, trainable, init, .. } => {
                let weight = vec![kernel_size.0, kernel_size.1, input[2] / groups, filters];
                weight_and_bias(weight, use_bias, trainable, init)
            }
            Layer::DepthwiseConv2d { kernel_size, use_bias, .. } => {
                let (trainable, init) = (Trainable::default(), Init::default());
                let weight = make(Role::Weight, vec![kernel_size.0, kernel_size.1, input[2], 1], trainable, init);
                let bias = use_bias.then(|| make(Role::Bias, vec![input[2]], trainable, init));
                [weight].into_iter().chain(bias).collect()
            }
            Layer::Dense { units, use_bias, trainable, init, .. } => {
                weight_and_bias(vec![input[0], units], use_bias, trainable, init)
            }
            Layer::BatchNorm { scale, center, trainable, .. } => {
                let trainable = if trainable { Trainable::Yes } else { Trainable::No };
                let roles = [(scale, Role::Scale), (center, Role::Shift), (true, Role::Mean), (true, Role::Variance)];
                let roles = roles.into_iter().filter(|(exists, _)| *exists);
                let channels = vec![input[input.len() - 1]];
                roles.map(|(_, role)| make(role, channels.clone(), trainable, Init::default())).collect()
            }
            Layer::MaxPool2d(_) | Layer::AveragePool2d(_) | Layer::SumPool2d(_) => Vec::new(),
            Layer::GlobalMaxPool2d {} | Layer::GlobalAveragePool2d {} => Vec::new(),
            Layer::Add {} | Layer::Relu {} | Layer::Gelu {} | Layer::Flatten {} => Vec::new(),
            Layer::LeakyRelu { .. } | Layer::Silu {} | Layer::Scale { .. } | Layer::Dropout { .. } => Vec::new(),
        }
    }

    /// Returns the output shape and the multiply-adds for one sample with inputs of the shape `input`, or why the layer does not fit them.
    pub(super) fn output(&self, input: &[usize]) -> Result<(Vec<usize>, usize), String> {
        let len: usize = input.iter().product();
        self.check_parameters()?;
        match self {
            Layer::Conv2d { .. } | Layer::DepthwiseConv2d { .. } => {
                let d = conv2d_dims(self, 1, input)?;
                Ok((vec![d.conv.ho, d.conv.wo, d.conv.o], d.conv.y_len() * d.terms()))
            }
            Layer::MaxPool2d(_) | Layer::AveragePool2d(_) | Layer::SumPool2d(_) => {
                let d = pool2d_dims(self, 1, input)?;
                Ok((vec![d.ho, d.wo, d.c], 0))
            }
            Layer::GlobalMaxPool2d {} | Layer::GlobalAveragePool2d {} => Ok((vec![pool2d_dims(self, 1, input)?.c], 0)),
            Layer::BatchNorm { momentum, epsilon, .. } => {
                if !(0.0..=1.0).contains(momentum) {
                    return Err(format!("`momentum` is {momentum}; use 0 to 1"));
                }
                if !(1e-12..=1e6).contains(epsilon) {
                    return Err(format!("`epsilon` is {epsilon}; use a small positive number, such as 0.001"));
                }
                Ok((input.to_vec(), 0))
            }
            Layer::LeakyRelu { slope } if !(0.0..=1e6).contains(slope) => {
                Err(format!("`slope` is {slope}; use a small number that is not negative, such as 0.01"))
            }
            Layer::Scale { factor } if !(*factor as f32).is_finite() => {
                Err(format!("`factor` is {factor}; use a finite number in the range of single precision"))
            }
            Layer::Add {} | Layer::Relu {} | Layer::Gelu {} => Ok((input.to_vec(), 0)),
            Layer::LeakyRelu { .. } | Layer::Silu {} | Layer::Scale { .. } => Ok((input.to_vec(), 0)),
            Layer::Dropout { rate } if !(0.0..1.0).contains(rate) => {
                Err(format!("`rate` is {rate}; it must be at least 0 and less than 1, for example 0.5"))
            }
            Layer::Dropout { .. } => Ok((input.to_vec(), 0)),
            Layer::Flatten {} => Ok((vec![len], 0)),
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

    /// Fails if what the layer says about its parameters is a contradiction.
    fn check_parameters(&self) -> Result<(), String> {
        match self {
            Layer::Conv2d { use_bias: false, trainable: Trainable::Bias, .. }
            | Layer::Dense { use_bias: false, trainable: Trainable::Bias, .. } => {
                Err("`trainable` is \"bias\", but `use_bias` is false; use `trainable = false`".to_string())
            }
            Layer::Conv2d { init: Init::Dirac, kernel_size: Pair(height, width), .. }
                if height.is_multiple_of(2) || width.is_multiple_of(2) =>
            {
                Err(format!(
                    "`init` is dirac, but `kernel_size` is [{height}, {width}]; use odd sizes, which have a centre"
                ))
            }
            Layer::Conv2d { init: Init::Dirac | Init::Whitening, groups, .. } if *groups != 1 => {
                Err(format!("`init` is dirac or whitening, but `groups` is {groups}; use 1"))
            }
            Layer::Dense { init: Init::Dirac | Init::Whitening, .. } => {
                Err("`init` is dirac or whitening, which only a convolution can have".to_string())
            }
            _ => Ok(()),
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
        DimsError::Groups { name, channels, groups } => format!(
            "`groups` is {groups}, but {channels} {name} cannot be divided into {groups} groups of equal size; use a divisor of {channels}"
        ),
        DimsError::TooLarge { .. } if n == 1 => format!("{sizes} too large: {error}"),
        _ => error.to_string(),
    }
}

/// Returns the dimensions of a convolution layer for a batch of `n`, or why it does not fit `input`, `[H, W, C]`. A depthwise
/// convolution has a group for each channel.
///
/// # Panics
/// If the layer is not a convolution.
pub(crate) fn conv2d_dims(layer: &Layer, n: usize, input: &[usize]) -> Result<GroupedConv2dDims, String> {
    let (kernel_size, stride, padding, size_keys) = match layer {
        Layer::Conv2d { kernel_size, stride, padding, .. } => {
            (*kernel_size, *stride, *padding, "`filters` or `kernel_size` is")
        }
        Layer::DepthwiseConv2d { kernel_size, stride, padding, .. } => {
            (*kernel_size, *stride, *padding, "`kernel_size` is")
        }
        _ => panic!("conv2d_dims is for convolutions"),
    };
    let input = image(input)?;
    let [filters, groups] = match layer {
        Layer::Conv2d { filters, groups, .. } => [*filters, *groups],
        _ => [input[2]; 2],
    };
    let number = |n| Pair(n, n);
    let sizes =
        [("filters", number(filters)), ("kernel_size", kernel_size), ("stride", stride), ("groups", number(groups))];
    check_sizes(&sizes)?;
    GroupedConv2dDims::new(n, input, kernel_size.into(), filters, stride.into(), padding, groups)
        .map_err(|error| describe(&error, "kernel_size", size_keys, n))
}

/// Returns the dimensions of a pooling layer for a batch of `n`, or why it does not fit `input`, `[H, W, C]`.
///
/// # Panics
/// If the layer is not a pooling.
pub(crate) fn pool2d_dims(layer: &Layer, n: usize, input: &[usize]) -> Result<Pool2dDims, String> {
    let input = image(input)?;
    let Pooling { pool_size, stride, padding } = match layer {
        Layer::MaxPool2d(pooling) | Layer::AveragePool2d(pooling) | Layer::SumPool2d(pooling) => *pooling,
        // One window over the whole image.
        Layer::GlobalMaxPool2d {} | Layer::GlobalAveragePool2d {} => {
            Pooling { pool_size: Pair(input[0], input[1]), stride: None, padding: Padding::Valid }
        }
        _ => panic!("pool2d_dims is for pooling"),
    };
    let stride = stride.unwrap_or(pool_size);
    check_sizes(&[("pool_size", pool_size), ("stride", stride)])?;
    Pool2dDims::new(n, input, pool_size.into(), stride.into(), padding)
        .map_err(|error| describe(&error, "pool_size", "`pool_size` is", n))
}
