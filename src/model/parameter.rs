//! Parameters: their names, shapes and roles, and what follows from a role.

use super::Init;
use serde::{Deserialize, Serialize};

/// What a parameter is for. Its initial value follows from this, whether it can be trained, and how it is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Multiplies the inputs of a convolution or a dense layer.
    Weight,
    /// Added to their outputs.
    Bias,
    /// Multiplies a normalized channel.
    Scale,
    /// Added to a normalized channel.
    Shift,
    /// Running mean of a channel: a statistic, which is not trained.
    Mean,
    /// Running variance of a channel: a statistic, which is not trained.
    Variance,
}

impl Role {
    /// Whether it is a statistic, which no optimizer changes: it follows the batches instead.
    pub fn is_statistic(self) -> bool {
        matches!(self, Role::Mean | Role::Variance)
    }

    /// The initial value of each element; `None` for weights, whose [`Init`] says it.
    pub fn initial(self) -> Option<f32> {
        match self {
            Role::Weight => None,
            Role::Scale | Role::Variance => Some(1.0),
            Role::Bias | Role::Shift | Role::Mean => Some(0.0),
        }
    }

    /// The end of the parameter's name in `model.safetensors`, as in PyTorch.
    pub fn key(self) -> &'static str {
        match self {
            Role::Weight | Role::Scale => "weight",
            Role::Bias | Role::Shift => "bias",
            Role::Mean => "running_mean",
            Role::Variance => "running_var",
        }
    }
}

/// Which parameters of a layer are trained; the others are frozen: they keep their initial values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "TrainableFile", into = "TrainableFile")]
pub enum Trainable {
    /// All: `true`.
    #[default]
    Yes,
    /// None: `false`.
    No,
    /// The bias alone: `"bias"`.
    Bias,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "true, false or \"bias\"")]
enum TrainableFile {
    All(bool),
    Only(OnlyFile),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnlyFile {
    Bias,
}

impl From<TrainableFile> for Trainable {
    fn from(file: TrainableFile) -> Self {
        match file {
            TrainableFile::All(true) => Trainable::Yes,
            TrainableFile::All(false) => Trainable::No,
            TrainableFile::Only(OnlyFile::Bias) => Trainable::Bias,
        }
    }
}

impl From<Trainable> for TrainableFile {
    fn from(trainable: Trainable) -> Self {
        match trainable {
            Trainable::Yes => TrainableFile::All(true),
            Trainable::No => TrainableFile::All(false),
            Trainable::Bias => TrainableFile::Only(OnlyFile::Bias),
        }
    }
}

impl Trainable {
    pub(super) fn is_yes(&self) -> bool {
        *self == Trainable::Yes
    }
}

/// A parameter tensor: its name in `model.safetensors`, its shape, its role, and what its layer says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// For example `conv2d_1.weight`.
    pub name: String,
    /// Convolutions `[KH, KW, C, O]` with the input channels of one group, depthwise ones `[KH, KW, C, 1]`, dense layers `[in, out]`, biases and everything per channel `[out]`.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// Which parameters of its layer are trained.
    pub trainable: Trainable,
    /// How its initial values are chosen, if it is a weight.
    pub init: Init,
}

impl Parameter {
    /// Whether the optimizer changes it: it has a gradient, and the optimizer keeps what it needs for it. The others are statistics, or
    /// frozen.
    pub fn is_trained(&self) -> bool {
        match self.trainable {
            Trainable::Yes => !self.role.is_statistic(),
            Trainable::No => false,
            Trainable::Bias => self.role == Role::Bias,
        }
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
