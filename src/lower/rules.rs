//! The rules of each layer and operation: the steps of a layer, and the gradient of a step. A new layer is added here.

use super::forward::At;
use super::{Id, LowerError, Lowering, Mode, Place, Step};
use crate::cpu::batchnorm::BatchNormDims;
use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::dense::DenseDims;
use crate::cpu::pool2d::{Pool2dDims, Reduction};
use crate::model::{Activation, Layer};

/// An operation with its dimensions. Each is documented with the tensors that it reads and writes, in this order, in brackets those
/// that are there only if an attribute says so. The dimensions are those of [`Program::batch`](super::Program::batch) images.
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
    /// x -> moments, and the parameters running_mean and running_var are moved towards them: the batch's statistics. The number is the
    /// part of the running statistics that stays.
    BatchNormStatistics(BatchNormDims, f64),
    /// running_mean, running_var -> moments.
    BatchNormMoments,
    /// x, moments, scale, shift -> y. The number is added to the variance.
    BatchNorm(BatchNormDims, f64),
    /// x, moments, dy -> dscale, dshift. The number is added to the variance.
    BatchNormBackwardW(BatchNormDims, f64),
    /// x, moments, scale, dscale, dshift, dy -> dx. The number is added to the variance.
    BatchNormBackwardX(BatchNormDims, f64),
    /// w, b, scale, shift, running_mean, running_var -> w, b: a convolution or dense layer that includes the normalization after it. The
    /// number is added to the variance.
    BatchNormFold(f64),
    /// logits -> dlogits: the loss, and its gradient.
    Loss,
    /// logits -> probabilities; and the loss, where there are labels.
    Softmax,
}

impl Op {
    /// Whether it needs the whole batch at once: all rows of what it reads must be there before it starts.
    pub fn meets(&self) -> bool {
        matches!(self, Op::BatchNormStatistics(..) | Op::BatchNormBackwardW(..))
    }

    /// Whether it computes gradients of weights, which an engine may put off to the end.
    pub(super) fn has_weights(&self) -> bool {
        matches!(self, Op::Conv2dBackward { .. } | Op::DenseBackward { .. })
    }

    /// Whether its gradient is masked at no cost where its input is zero, if that is the output of a ReLU. `fused` says whether the
    /// engine has such a mask in its products.
    pub(super) fn masks(&self, fused: bool) -> bool {
        match self {
            Op::Conv2d { .. } | Op::Dense { .. } => fused,
            Op::MaxPool2d(_) | Op::Relu => true,
            _ => false,
        }
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
            Op::BatchNormStatistics(..)
            | Op::BatchNormMoments
            | Op::BatchNorm(..)
            | Op::BatchNormBackwardW(..)
            | Op::BatchNormBackwardX(..)
            | Op::BatchNormFold(_) => "batchnorm",
            Op::Loss | Op::Softmax => "softmax_xent",
        }
    }
}

impl Lowering<'_> {
    /// Emits the steps of a layer. Returns its output, and the indices of later layers that the steps include.
    pub(super) fn layer(&mut self, at: At<'_>, inputs: &[Id]) -> Result<(Id, Vec<usize>), LowerError> {
        let (shape, x) = (at.shape(), inputs[0]);
        let name = format!("{}.y", shape.name);
        let y = match &shape.layer {
            Layer::Conv2d { .. } | Layer::Dense { .. } => return self.weighted(at, x),
            Layer::MaxPool2d(_) => {
                let d = self.pooling(shape)?;
                let writes = self.maxima(shape);
                let y = writes[0];
                self.step(Op::MaxPool2d(d), vec![x], writes);
                self.is_relu[y.0] = self.is_relu[x.0];
                y
            }
            Layer::AveragePool2d(_) | Layer::SumPool2d(_) => {
                let d = self.pooling(shape)?;
                let is_sum = matches!(shape.layer, Layer::SumPool2d(_));
                let reduction = if is_sum { Reduction::Sum } else { Reduction::Average };
                let y = self.rows(name, &shape.output);
                self.step(Op::MeanPool2d(reduction, d), vec![x], vec![y]);
                y
            }
            Layer::BatchNorm { momentum, epsilon, .. } => self.batchnorm(at, x, *momentum, *epsilon),
            Layer::Add => {
                let mut sum = x;
                for (i, &other) in inputs.iter().enumerate().skip(1) {
                    let name = if i + 1 == inputs.len() { name.clone() } else { format!("{}.y{i}", shape.name) };
                    let y = self.rows(name, &shape.output);
                    self.step(Op::Add, vec![sum, other], vec![y]);
                    sum = y;
                }
                sum
            }
            Layer::Relu => self.activated(Activation::Relu, x, name),
            Layer::Gelu => self.activated(Activation::Gelu, x, name),
            // The same values in the same order.
            Layer::Flatten => x,
        };
        Ok((y, Vec::new()))
    }

    /// Emits a normalization: by the batch's statistics in training, by the running ones in inference.
    fn batchnorm(&mut self, at: At<'_>, x: Id, momentum: f64, epsilon: f64) -> Id {
        let [scale, shift, mean, variance] = self.normalization(at);
        let (shape, c) = (at.shape(), at.channels());
        let positions = shape.output.iter().product::<usize>() / c.max(1);
        let d = BatchNormDims { n: self.program.batch, positions, c };
        let moments = self.add(format!("{}.moments", shape.name), &[3, c], false, Place::UNASSIGNED);
        match self.mode {
            Mode::Train | Mode::Search => {
                self.step(Op::BatchNormStatistics(d, momentum), vec![x], vec![moments, mean, variance]);
            }
            Mode::Infer => {
                let step = Step { op: Op::BatchNormMoments, reads: vec![mean, variance], writes: vec![moments] };
                self.program.once.push(step);
            }
        }
        let y = self.rows(format!("{}.y", shape.name), &shape.output);
        self.step(Op::BatchNorm(d, epsilon), vec![x, moments, scale, shift], vec![y]);
        y
    }

    /// The rule of each operation: given the gradient `dy` of what a step wrote, emits the steps for the gradients of what it read.
    pub(super) fn rule(&mut self, step: &Step, dy: Id) {
        let x = step.reads[0];
        match step.op {
            Op::Conv2d { d, pool, .. } => {
                let masked = self.masks_all(x);
                let mut reads = vec![x, step.reads[1], dy];
                let needs_dx = self.is_trained[x.0];
                let unpool = |pool: &Pool2dDims| self.fusion.is_some_and(|fusion| fusion.unpool(&d, pool, needs_dx));
                let unpool = pool.filter(unpool);
                match (pool, unpool) {
                    (Some(_), Some(_)) => reads.push(step.writes[1]),
                    (Some(pool), None) => {
                        // The gradient before the pooling, which no forward step stored.
                        let name = self.name_of_gradient(step.writes[0], "dx");
                        reads[2] = self.rows(name, &[d.ho, d.wo, d.o]);
                        self.step(Op::MaxPool2dBackward(pool), vec![step.writes[1], dy], vec![reads[2]]);
                    }
                    (None, _) => {}
                }
                self.weights(Op::Conv2dBackward { d, pool: unpool, masked }, reads, step);
            }
            Op::Dense { d, .. } => {
                let masked = self.masks_all(x);
                self.weights(Op::DenseBackward { d, masked }, vec![x, step.reads[1], dy], step);
            }
            // The gradient of a maximum is masked already, and goes to an element of the same sign.
            Op::MaxPool2d(d) => self.input(Op::MaxPool2dBackward(d), vec![step.writes[1], dy], x),
            Op::MeanPool2d(reduction, d) => self.input(Op::MeanPool2dBackward(reduction, d), vec![dy], x),
            // The gradient is masked already by the output, which is all that a ReLU does to it.
            Op::Relu => self.reaches(x, dy),
            Op::Gelu => self.input(Op::GeluBackward, vec![x, dy], x),
            Op::Add => {
                for &x in &step.reads {
                    self.reaches(x, dy);
                }
            }
            Op::BatchNorm(d, epsilon) => {
                let [moments, scale, shift] = [step.reads[1], step.reads[2], step.reads[3]];
                let [dscale, dshift] = [scale, shift].map(|w| self.gradient_of(w));
                self.step(Op::BatchNormBackwardW(d, epsilon), vec![x, moments, dy], vec![dscale, dshift]);
                let reads = vec![x, moments, scale, dscale, dshift, dy];
                self.input(Op::BatchNormBackwardX(d, epsilon), reads, x);
            }
            // Its gradient is part of that of the normalization.
            Op::BatchNormStatistics(..) => {}
            Op::Conv2dBackward { .. }
            | Op::DenseBackward { .. }
            | Op::MaxPool2dBackward(_)
            | Op::MeanPool2dBackward(..)
            | Op::ReluBackward
            | Op::GeluBackward
            | Op::BatchNormMoments
            | Op::BatchNormBackwardW(..)
            | Op::BatchNormBackwardX(..)
            | Op::BatchNormFold(_)
            | Op::Loss
            | Op::Softmax => unreachable!("{:?} is not a forward step of training", step.op),
        }
    }
}
