//! Programs: what an engine does for one batch, as tensors and a list of steps.

use crate::cpu::batchnorm::BatchNormDims;
use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::dense::DenseDims;
use crate::cpu::pool2d::{Pool2dDims, Reduction};
use std::fmt;

/// A tensor of a program: its position in [`Program::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub usize);

/// Where a tensor is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// The images of the batch, which the engine provides.
    Images,
    /// The parameter with this index.
    Parameter(usize),
    /// The gradient of the parameter with this index.
    Gradient(usize),
    /// A tensor whose elements all have this value.
    Constant(f32),
    /// The buffer with this index, which other tensors may use before and after.
    Buffer(usize),
}

/// The description of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// For example `conv2d_1.y`.
    pub name: String,
    /// Its shape; without the dimension of the batch if it has a row for each image.
    pub shape: Vec<usize>,
    /// Whether it has a row for each image of the batch.
    pub by_row: bool,
    /// Whether its elements are positions (unsigned integers) instead of numbers.
    pub is_index: bool,
    /// Where it is kept.
    pub place: Place,
}

impl Tensor {
    /// Returns the number of elements, of a row if it has rows.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of elements for a batch of `n` images.
    pub fn len_for(&self, n: usize) -> usize {
        if self.by_row { n * self.len() } else { self.len() }
    }

    /// Returns the whole shape for a batch of `n` images.
    pub fn shape_for(&self, n: usize) -> Vec<usize> {
        if self.by_row { [&[n], &self.shape[..]].concat() } else { self.shape.clone() }
    }
}

/// An operation with its dimensions. Each is documented with the tensors that it reads and writes, in this order, in brackets those
/// that are there only if an attribute says so. The dimensions are those of [`Program::batch`] images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// x, w, b -> y \[, argmax\]: convolution, then max(y, 0) if `relu`, then max pooling.
    Conv2d {
        /// Its dimensions.
        d: Conv2dDims,
        /// Whether a ReLU follows.
        relu: bool,
        /// The max pooling that follows; y and argmax have its shape.
        pool: Option<Pool2dDims>,
    },
    /// x, w, dy \[, argmax\] -> dw, db \[, dx\]: the gradients of a convolution.
    Conv2dBackward {
        /// Its dimensions.
        d: Conv2dDims,
        /// The max pooling that followed: dy is the gradient of its outputs.
        pool: Option<Pool2dDims>,
        /// Whether dx is 0 wherever x is not positive.
        masked: bool,
    },
    /// x, w, b -> y: dense layer, then max(y, 0) if `relu`.
    Dense {
        /// Its dimensions.
        d: DenseDims,
        /// Whether a ReLU follows.
        relu: bool,
    },
    /// x, w, dy -> dw, db \[, dx\]: the gradients of a dense layer.
    DenseBackward {
        /// Its dimensions.
        d: DenseDims,
        /// Whether dx is 0 wherever x is not positive.
        masked: bool,
    },
    /// x -> y, argmax: max pooling.
    MaxPool2d(Pool2dDims),
    /// argmax, dy -> dx.
    MaxPool2dBackward(Pool2dDims),
    /// x -> y: average or sum pooling.
    MeanPool2d(Reduction, Pool2dDims),
    /// dy -> dx.
    MeanPool2dBackward(Reduction, Pool2dDims),
    /// x -> y: max(x, 0).
    Relu,
    /// y, dy -> dx: dy where y is positive, else 0.
    ReluBackward,
    /// x -> y: x times the normal distribution function of x.
    Gelu,
    /// x, dy -> dx.
    GeluBackward,
    /// x1, x2 -> y: the sum.
    Add,
    /// x -> moments, and the parameters running_mean and running_var are moved towards them: the batch's statistics.
    BatchNormStatistics {
        /// Its dimensions.
        d: BatchNormDims,
        /// The part of the running statistics that stays.
        momentum: f64,
    },
    /// running_mean, running_var -> moments.
    BatchNormMoments,
    /// x, moments, scale, shift -> y.
    BatchNorm {
        /// Its dimensions.
        d: BatchNormDims,
        /// Added to the variance.
        epsilon: f64,
    },
    /// x, moments, dy -> dscale, dshift.
    BatchNormBackwardW {
        /// Its dimensions.
        d: BatchNormDims,
        /// Added to the variance.
        epsilon: f64,
    },
    /// x, moments, scale, dscale, dshift, dy -> dx.
    BatchNormBackwardX {
        /// Its dimensions.
        d: BatchNormDims,
        /// Added to the variance.
        epsilon: f64,
    },
    /// w, b, scale, shift, running_mean, running_var -> w, b: a convolution or dense layer that includes the normalization after it.
    BatchNormFold {
        /// Added to the variance.
        epsilon: f64,
    },
    /// logits -> dlogits: the loss, and its gradient.
    Loss,
    /// logits -> probabilities; and the loss, where there are labels.
    Softmax,
}

impl Op {
    /// Whether it needs the whole batch at once: all rows of what it reads must be there before it starts.
    pub fn meets(&self) -> bool {
        matches!(self, Op::BatchNormStatistics { .. } | Op::BatchNormBackwardW { .. })
    }

    /// The name of the operation, as in the names of its files.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv2d { .. } | Op::Conv2dBackward { .. } => "conv2d",
            Op::Dense { .. } | Op::DenseBackward { .. } => "dense",
            Op::MaxPool2d(_) | Op::MaxPool2dBackward(_) => "maxpool2d",
            Op::MeanPool2d(Reduction::Average, _) | Op::MeanPool2dBackward(Reduction::Average, _) => "averagepool2d",
            Op::MeanPool2d(Reduction::Sum, _) | Op::MeanPool2dBackward(Reduction::Sum, _) => "sumpool2d",
            Op::Relu | Op::ReluBackward => "relu",
            Op::Gelu | Op::GeluBackward => "gelu",
            Op::Add => "add",
            Op::BatchNormStatistics { .. }
            | Op::BatchNormMoments
            | Op::BatchNorm { .. }
            | Op::BatchNormBackwardW { .. }
            | Op::BatchNormBackwardX { .. }
            | Op::BatchNormFold { .. } => "batchnorm",
            Op::Loss | Op::Softmax => "softmax_xent",
        }
    }
}

/// One operation on tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The operation.
    pub op: Op,
    /// What it reads, in the order of [`Op`].
    pub reads: Vec<Id>,
    /// What it writes, in the order of [`Op`].
    pub writes: Vec<Id>,
}

/// A buffer that one or several tensors use, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// Number of elements, of a row if it has rows.
    pub len: usize,
    /// Whether it has a row for each image of the batch.
    pub by_row: bool,
    /// Whether its elements are positions.
    pub is_index: bool,
}

/// What an engine does for one batch: forward, and in training also backward.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// The number of images of a batch.
    pub batch: usize,
    /// The number of classes.
    pub classes: usize,
    /// The tensors.
    pub tensors: Vec<Tensor>,
    /// The buffers.
    pub buffers: Vec<Buffer>,
    /// The steps to do once after the parameters have changed, before the first batch.
    pub once: Vec<Step>,
    /// The steps to do for every batch.
    pub steps: Vec<Step>,
    /// The images.
    pub images: Id,
    /// The output of each layer, in the order of the layers; the last are the logits. If steps are fused, the first of two layers has the
    /// output of the second.
    pub outputs: Vec<Id>,
}

impl Program {
    /// Returns the scores of the classes.
    pub fn logits(&self) -> Id {
        self.outputs.last().copied().unwrap_or(self.images)
    }

    /// Returns the description of a tensor.
    pub fn tensor(&self, id: Id) -> &Tensor {
        &self.tensors[id.0]
    }

    /// Returns the position of the step that computes the loss; the steps after it compute gradients.
    pub fn loss(&self) -> usize {
        let loss = self.steps.iter().position(|step| matches!(step.op, Op::Loss | Op::Softmax));
        loss.expect("every program computes a loss")
    }

    /// Returns the largest number of values for one image in a tensor.
    pub fn widest(&self) -> usize {
        let rows = self.tensors.iter().filter(|tensor| tensor.by_row);
        rows.map(Tensor::len).max().unwrap_or(1)
    }
}

/// A step per line: `relu conv2d_1.y -> relu_1.y`.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |ids: &[Id]| ids.iter().map(|id| self.tensor(*id).name.as_str()).collect::<Vec<_>>().join(" ");
        for step in self.once.iter().chain(&self.steps) {
            let op = format!("{:?}", step.op);
            let op = op.split([' ', '(', '{']).next().unwrap_or_default();
            writeln!(f, "{op}: {} -> {}", names(&step.reads), names(&step.writes))?;
        }
        Ok(())
    }
}
