//! Parameters: their names, shapes and roles, and what follows from a role.

/// What a parameter is for. Its initial value follows from this, whether it is trained, and how it is exported.
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
    /// Whether the optimizer changes it; statistics follow the batches instead.
    pub fn is_trained(self) -> bool {
        !matches!(self, Role::Mean | Role::Variance)
    }

    /// The initial value of each element; `None` for weights, which are drawn at random.
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

/// A parameter tensor: its name in `model.safetensors`, its shape, and its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// For example `conv2d_1.weight`.
    pub name: String,
    /// Convolutions `[KH, KW, C, O]` with the input channels of one group, depthwise ones `[KH, KW, C, 1]`, dense layers `[in, out]`, biases and everything per channel `[out]`.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl Parameter {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
