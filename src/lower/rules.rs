//! The instructions of each operation ([`Op`]), and the rules: which instructions a layer becomes, how a normalization becomes part of the
//! weights before it, and the gradient of an instruction. A new layer is added here.
//!
//! Above 500 lines: the instructions and the rules of an operation are in one file, so that a new one changes one.

use super::forward::At;
use super::{Id, Instruction, LowerError, Lowering, Mode, Place};
use crate::cpu::batchnorm::BatchNormDims;
use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::dense::DenseDims;
use crate::cpu::dropout::Dropping;
use crate::cpu::groupedconv2d::GroupedConv2dDims;
use crate::cpu::pool2d::{Pool2dDims, Reduction};
use crate::model::{Activation, DEFAULT_SLOPE, Layer, Role};

/// An instruction of an operation. Each operation has a type of its own, whose variants are its instructions.
///
/// An instruction is documented with the tensors that it reads and writes, in this order, in brackets those that are there only if an attribute
/// says so. Its dimensions are those of [`Program::batch`](super::Program::batch) images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Convolution.
    Conv2d(Conv2d),
    /// Convolution in groups of channels.
    GroupedConv2d(GroupedConv2d),
    /// Dense layer.
    Dense(Dense),
    /// Max pooling.
    MaxPool2d(MaxPool2d),
    /// Average or sum pooling.
    MeanPool2d(MeanPool2d),
    /// Rectified linear unit.
    Relu(Relu),
    /// Gaussian error linear unit.
    Gelu(Gelu),
    /// Leaky rectified linear unit.
    LeakyRelu(LeakyRelu),
    /// Sigmoid linear unit.
    Silu(Silu),
    /// A fixed factor.
    Scale(Scale),
    /// Dropout.
    Dropout(Dropout),
    /// Sum of two tensors.
    Add(Add),
    /// Batch normalization.
    BatchNorm(BatchNorm),
    /// Softmax and cross-entropy.
    SoftmaxXent(SoftmaxXent),
}

/// Instructions of a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Conv2d {
    /// x, w, b -> y \[, argmax\]: convolution, then max(y, 0) if `relu`, then max pooling.
    Forward {
        /// Its dimensions.
        d: Conv2dDims,
        /// Whether a ReLU follows.
        relu: bool,
        /// The max pooling that follows; y and argmax have its shape.
        pool: Option<Pool2dDims>,
    },
    /// x, w, dy \[, argmax\] -> \[dw, db\] \[, dx\].
    Backward {
        /// Its dimensions.
        d: Conv2dDims,
        /// The max pooling that followed: dy is the gradient of its outputs.
        pool: Option<Pool2dDims>,
        /// Whether dx is 0 wherever x is not positive.
        masked: bool,
        /// Whether w or b is trained.
        weights: bool,
    },
}

/// Instructions of a convolution in groups of channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GroupedConv2d {
    /// x, w, b -> y: convolution, then max(y, 0) if `relu`.
    Forward {
        /// Its dimensions.
        d: GroupedConv2dDims,
        /// Whether a ReLU follows.
        relu: bool,
    },
    /// x, w, dy -> \[dw, db\] \[, dx\].
    Backward {
        /// Its dimensions.
        d: GroupedConv2dDims,
        /// Whether dx is 0 wherever x is not positive.
        masked: bool,
        /// Whether w or b is trained.
        weights: bool,
    },
}

/// Instructions of a dense layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dense {
    /// x, w, b -> y: dense layer, then max(y, 0) if `relu`.
    Forward {
        /// Its dimensions.
        d: DenseDims,
        /// Whether a ReLU follows.
        relu: bool,
    },
    /// x, w, dy -> \[dw, db\] \[, dx\].
    Backward {
        /// Its dimensions.
        d: DenseDims,
        /// Whether dx is 0 wherever x is not positive.
        masked: bool,
        /// Whether w or b is trained.
        weights: bool,
    },
}

/// Instructions of a max pooling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxPool2d {
    /// x -> y, argmax.
    Forward(Pool2dDims),
    /// argmax, dy -> dx.
    Backward(Pool2dDims),
}

/// Instructions of an average or sum pooling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MeanPool2d {
    /// x -> y.
    Forward(Reduction, Pool2dDims),
    /// dy -> dx.
    Backward(Reduction, Pool2dDims),
}

/// Instructions of a ReLU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Relu {
    /// x -> y: max(x, 0).
    Forward,
    /// y, dy -> dx: dy where y is positive, else 0.
    Backward,
}

/// Instructions of a GELU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gelu {
    /// x -> y: x times the normal distribution function of x.
    Forward,
    /// x, dy -> dx.
    Backward,
}

/// Instructions of a leaky ReLU. The number is the slope for inputs below zero, which is not negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LeakyRelu {
    /// x -> y: x where it is positive, else the slope times x.
    Forward(f64),
    /// y, dy -> dx: dy where y is positive, else the slope times dy.
    Backward(f64),
}

/// Instructions of a SiLU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Silu {
    /// x -> y: x times the logistic function of x.
    Forward,
    /// x, dy -> dx.
    Backward,
}

/// Instructions of a fixed factor, the number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// x -> y: the factor times x.
    Forward(f64),
    /// dy -> dx: the factor times dy.
    Backward(f64),
}

/// Instructions of a dropout, which exist in training only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dropout {
    /// x -> y: some elements of x, larger, and zeros.
    Forward(Dropping),
    /// dy -> dx.
    Backward(Dropping),
}

/// The instruction of a sum. The gradient of each input is that of the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Add {
    /// x1, x2 -> y.
    Forward,
}

/// Instructions of a normalization. The number is added to the variance, unless noted otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BatchNorm {
    /// x -> moments, and the parameters running_mean and running_var are moved towards them: the batch's statistics. The number is the
    /// part of the running statistics that stays.
    Statistics(BatchNormDims, f64),
    /// x -> images: of each image, what its statistics are computed from, if the engine adds up image by image.
    Images(BatchNormDims),
    /// images -> moments, and the parameters running_mean and running_var, as [`BatchNorm::Statistics`].
    StatisticsOfImages(BatchNormDims, f64),
    /// running_mean, running_var -> moments.
    Moments,
    /// x, moments, scale, shift -> y. Also dy, moments without mean, scale, 0 -> dx, if the statistics are not those of x.
    Forward(BatchNormDims, f64),
    /// x, moments, scale, shift -> y: the GELU of the normalization.
    GeluForward(BatchNormDims, f64),
    /// x, moments, dy -> dscale, dshift.
    BackwardW(BatchNormDims, f64),
    /// x, moments, dy -> images: of each image, what dscale and dshift are computed from.
    BackwardImages(BatchNormDims),
    /// x, moments, scale, shift, dy -> dz, images: the same behind a GELU; dz is the gradient of the normalization before it.
    GeluBackwardImages(BatchNormDims, f64),
    /// images, moments -> dscale, dshift.
    BackwardWOfImages(BatchNormDims, f64),
    /// x, moments, scale, dscale, dshift, dy -> dx.
    BackwardX(BatchNormDims, f64),
    /// w, b, scale, shift, running_mean, running_var -> w, b: a convolution or dense layer that includes the normalization after it.
    Fold(f64),
}

/// Instructions at the end of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SoftmaxXent {
    /// logits -> probabilities; and the loss, where there are labels.
    Forward,
    /// logits -> dlogits: the loss, and its gradient.
    Loss,
}

/// Evaluates `$result` with `$instruction` as the instruction `$op`, in the type of its operation. This is the only list of operations from which
/// engines call them: one that lacks what they call does not compile.
macro_rules! dispatch {
    ($op:expr, $instruction:ident => $result:expr) => {
        match $op {
            $crate::lower::Op::Conv2d($instruction) => $result,
            $crate::lower::Op::GroupedConv2d($instruction) => $result,
            $crate::lower::Op::Dense($instruction) => $result,
            $crate::lower::Op::MaxPool2d($instruction) => $result,
            $crate::lower::Op::MeanPool2d($instruction) => $result,
            $crate::lower::Op::Relu($instruction) => $result,
            $crate::lower::Op::Gelu($instruction) => $result,
            $crate::lower::Op::LeakyRelu($instruction) => $result,
            $crate::lower::Op::Silu($instruction) => $result,
            $crate::lower::Op::Scale($instruction) => $result,
            $crate::lower::Op::Dropout($instruction) => $result,
            $crate::lower::Op::Add($instruction) => $result,
            $crate::lower::Op::BatchNorm($instruction) => $result,
            $crate::lower::Op::SoftmaxXent($instruction) => $result,
        }
    };
}
pub(crate) use dispatch;

impl Op {
    /// Returns an activation as an instruction of its own; `None` if it needs none.
    pub(super) fn of(activation: Activation) -> Option<Op> {
        match activation {
            // The softmax is part of the loss.
            Activation::None | Activation::Softmax => None,
            Activation::Relu => Some(Op::Relu(Relu::Forward)),
            Activation::Gelu => Some(Op::Gelu(Gelu::Forward)),
            Activation::LeakyRelu => Some(Op::LeakyRelu(LeakyRelu::Forward(DEFAULT_SLOPE))),
            Activation::Silu => Some(Op::Silu(Silu::Forward)),
        }
    }

    /// Whether it needs the whole batch at once: all rows of what it reads must be there before it starts.
    pub fn meets(&self) -> bool {
        match self {
            Op::BatchNorm(instruction) => matches!(
                instruction,
                BatchNorm::Statistics(..)
                    | BatchNorm::StatisticsOfImages(..)
                    | BatchNorm::BackwardW(..)
                    | BatchNorm::BackwardWOfImages(..)
            ),
            Op::Conv2d(_) | Op::GroupedConv2d(_) | Op::Dense(_) | Op::MaxPool2d(_) | Op::MeanPool2d(_) => false,
            Op::Relu(_) | Op::Gelu(_) | Op::Add(_) | Op::SoftmaxXent(_) => false,
            Op::LeakyRelu(_) | Op::Silu(_) | Op::Scale(_) | Op::Dropout(_) => false,
        }
    }

    /// Whether it computes gradients of weights, which an engine may put off to the end.
    pub(super) fn has_weights(&self) -> bool {
        match self {
            Op::Conv2d(instruction) => matches!(instruction, Conv2d::Backward { weights: true, .. }),
            Op::Dense(instruction) => matches!(instruction, Dense::Backward { weights: true, .. }),
            Op::GroupedConv2d(instruction) => matches!(instruction, GroupedConv2d::Backward { weights: true, .. }),
            Op::MaxPool2d(_) | Op::MeanPool2d(_) | Op::Relu(_) | Op::Gelu(_) => false,
            Op::LeakyRelu(_) | Op::Silu(_) | Op::Scale(_) | Op::Dropout(_) => false,
            Op::Add(_) | Op::BatchNorm(_) | Op::SoftmaxXent(_) => false,
        }
    }

    /// Whether the gradient of what this forward instruction reads is masked at no cost where that is zero, if it is the output of a ReLU.
    /// `fused` says whether the engine has such a mask in its products.
    pub(super) fn masks(&self, fused: bool) -> bool {
        match self {
            Op::Conv2d(_) | Op::GroupedConv2d(_) | Op::Dense(_) => fused,
            // Zero where the output is zero, so also where the input is.
            Op::MaxPool2d(_) | Op::Relu(_) | Op::Dropout(_) => true,
            Op::MeanPool2d(_) | Op::Gelu(_) | Op::Add(_) | Op::BatchNorm(_) | Op::SoftmaxXent(_) => false,
            Op::LeakyRelu(_) | Op::Silu(_) | Op::Scale(_) => false,
        }
    }

    /// The name of the operation in reports and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv2d(_) => "conv2d",
            Op::GroupedConv2d(_) => "groupedconv2d",
            Op::Dense(_) => "dense",
            Op::MaxPool2d(_) => "maxpool2d",
            Op::MeanPool2d(MeanPool2d::Forward(reduction, _) | MeanPool2d::Backward(reduction, _)) => match reduction {
                Reduction::Average => "averagepool2d",
                Reduction::Sum => "sumpool2d",
            },
            Op::Relu(_) => "relu",
            Op::Gelu(_) => "gelu",
            Op::LeakyRelu(_) => "leakyrelu",
            Op::Silu(_) => "silu",
            Op::Scale(_) => "scale",
            Op::Dropout(_) => "dropout",
            Op::Add(_) => "add",
            Op::BatchNorm(_) => "batchnorm",
            Op::SoftmaxXent(_) => "softmax_xent",
        }
    }
}

impl Lowering<'_> {
    /// Emits the instructions of a layer. Returns its output, and the indices of later layers that the instructions include.
    pub(super) fn layer(&mut self, at: At<'_>, inputs: &[Id]) -> Result<(Id, Vec<usize>), LowerError> {
        let (shape, x) = (at.shape(), inputs[0]);
        let name = format!("{}.y", shape.name);
        let y = match &shape.layer {
            Layer::Conv2d { .. } | Layer::DepthwiseConv2d { .. } | Layer::Dense { .. } => return self.weighted(at, x),
            Layer::MaxPool2d(_) | Layer::GlobalMaxPool2d {} => {
                let d = self.pooling(shape)?;
                let writes = self.maxima(shape);
                let y = writes[0];
                self.emit(Op::MaxPool2d(MaxPool2d::Forward(d)), vec![x], writes);
                self.is_relu[y.0] = self.is_relu[x.0];
                y
            }
            Layer::AveragePool2d(_) | Layer::SumPool2d(_) | Layer::GlobalAveragePool2d {} => {
                let d = self.pooling(shape)?;
                let is_sum = matches!(shape.layer, Layer::SumPool2d(_));
                let reduction = if is_sum { Reduction::Sum } else { Reduction::Average };
                let y = self.rows(name, &shape.output);
                self.emit(Op::MeanPool2d(MeanPool2d::Forward(reduction, d)), vec![x], vec![y]);
                y
            }
            Layer::BatchNorm { momentum, epsilon, trainable, .. } => {
                let momentum = trainable.then_some(*momentum);
                return Ok(self.batchnorm(at, x, momentum, *epsilon));
            }
            Layer::Add {} => {
                let mut sum = x;
                for (i, &other) in inputs.iter().enumerate().skip(1) {
                    let name = if i + 1 == inputs.len() { name.clone() } else { format!("{}.y{i}", shape.name) };
                    let y = self.rows(name, &shape.output);
                    self.emit(Op::Add(Add::Forward), vec![sum, other], vec![y]);
                    sum = y;
                }
                sum
            }
            Layer::Relu {} => self.activated(Op::Relu(Relu::Forward), x, name),
            Layer::Gelu {} => self.activated(Op::Gelu(Gelu::Forward), x, name),
            Layer::LeakyRelu { slope } => self.activated(Op::LeakyRelu(LeakyRelu::Forward(*slope)), x, name),
            Layer::Silu {} => self.activated(Op::Silu(Silu::Forward), x, name),
            Layer::Scale { factor } => self.activated(Op::Scale(Scale::Forward(*factor)), x, name),
            Layer::Dropout { rate } if self.mode != Mode::Infer && *rate > 0.0 => {
                let y = self.rows_like(name, x);
                let dropping = Dropping { rate: *rate, layer: at.index as u32 };
                self.emit(Op::Dropout(Dropout::Forward(dropping)), vec![x], vec![y]);
                // No new sign, and no gradient where it adds zeros.
                self.is_relu[y.0] = self.is_relu[x.0];
                y
            }
            // The same values in the same order.
            Layer::Dropout { .. } | Layer::Flatten {} => x,
        };
        Ok((y, Vec::new()))
    }

    /// Emits a normalization: by the batch's statistics in training, by the running ones in inference, and without `momentum`, because it is
    /// not trained. Returns its output, and the index of the GELU that it includes.
    fn batchnorm(&mut self, at: At<'_>, x: Id, momentum: Option<f64>, epsilon: f64) -> (Id, Vec<usize>) {
        let [scale, shift, mean, variance] = self.normalization(at);
        let (shape, c) = (at.shape(), at.channels());
        let positions = shape.output.iter().product::<usize>() / c.max(1);
        let d = BatchNormDims { n: self.program.batch, positions, c };
        let Some(momentum) = momentum.filter(|_| self.mode != Mode::Infer) else {
            let moments = self.running(format!("{}.moments", shape.name), mean, variance);
            let y = self.rows(format!("{}.y", shape.name), &shape.output);
            self.emit(Op::BatchNorm(BatchNorm::Forward(d, epsilon)), vec![x, moments, scale, shift], vec![y]);
            return (y, Vec::new());
        };
        let moments = self.add(format!("{}.moments", shape.name), &[3, c], false, Place::UNASSIGNED);
        let by_image = self.sums_by_image();
        let (op, of) = if by_image {
            let images = self.rows(format!("{}.images", shape.name), &[3, c]);
            self.emit(Op::BatchNorm(BatchNorm::Images(d)), vec![x], vec![images]);
            (BatchNorm::StatisticsOfImages(d, momentum), images)
        } else {
            (BatchNorm::Statistics(d, momentum), x)
        };
        self.emit(Op::BatchNorm(op), vec![of], vec![moments, mean, variance]);
        let gelu = at.only_reader().filter(|&i| by_image && at.layers[i].layer == Layer::Gelu {});
        let op = if gelu.is_some() { BatchNorm::GeluForward(d, epsilon) } else { BatchNorm::Forward(d, epsilon) };
        let last = gelu.map_or(shape, |i| &at.layers[i]);
        let y = self.rows(format!("{}.y", last.name), &shape.output);
        self.emit(Op::BatchNorm(op), vec![x, moments, scale, shift], vec![y]);
        (y, gelu.into_iter().collect())
    }

    /// Whether a normalization by the batch's statistics adds up image by image.
    fn sums_by_image(&self) -> bool {
        self.fusion.is_some_and(|fusion| fusion.sums_by_image())
    }

    /// Emits moments of running statistics, which are computed once.
    fn running(&mut self, name: String, mean: Id, variance: Id) -> Id {
        let c = self.program.tensor(variance).len();
        let moments = self.add(name, &[3, c], false, Place::UNASSIGNED);
        let op = Op::BatchNorm(BatchNorm::Moments);
        self.program.once.push(Instruction { op, reads: vec![mean, variance], writes: vec![moments] });
        moments
    }

    /// Emits the gradient of the input of a normalization by moments of running statistics, which do not depend on the input: normalized with
    /// neither mean nor shift.
    fn scaled(&mut self, forward: &Instruction, d: BatchNormDims, epsilon: f64, dy: Id) {
        let [x, moments, scale] = [0, 1, 2].map(|i| forward.reads[i]);
        let once = self.program.once.iter().find(|once| once.writes.contains(&moments));
        let Some(&[_, variance]) = once.map(|once| &once.reads[..]) else { unreachable!("it was computed once") };
        let zero = self.add("0".to_string(), &[d.c], false, Place::Constant(0.0));
        let name = self.program.tensor(moments).name.clone();
        let moments = self.running(format!("{name}_without_mean"), zero, variance);
        self.input(Op::BatchNorm(BatchNorm::Forward(d, epsilon)), vec![dy, moments, scale, zero], x);
    }

    /// Returns the tensors of a normalization: scale, shift, running mean, running variance.
    fn normalization(&mut self, at: At<'_>) -> [Id; 4] {
        [Role::Scale, Role::Shift, Role::Mean, Role::Variance].map(|role| self.parameter(at, role))
    }

    /// Returns the index of the normalization that can be part of the weights of a layer.
    pub(super) fn folds(&self, at: At<'_>, activation: Activation) -> Option<usize> {
        let wanted = self.mode == Mode::Infer && self.fusion.is_some() && activation == Activation::None;
        let reader = at.only_reader().filter(|_| wanted)?;
        matches!(at.layers[reader].layer, Layer::BatchNorm { .. }).then_some(reader)
    }

    /// Emits the weights of a layer that includes the normalization `norm` after it, computed once.
    pub(super) fn folded(&mut self, norm: At<'_>, [w, b]: [Id; 2]) -> [Id; 2] {
        let shape = norm.shape();
        let Layer::BatchNorm { epsilon, .. } = shape.layer else { unreachable!("`folds` returns normalizations") };
        let statistics = self.normalization(norm);
        let [w_out, b_out] = [(w, "weight"), (b, "bias")].map(|(id, what)| {
            let of = self.program.tensor(id).shape.clone();
            self.add(format!("{}.folded_{what}", shape.name), &of, false, Place::UNASSIGNED)
        });
        let reads = [&[w, b][..], &statistics].concat();
        let op = Op::BatchNorm(BatchNorm::Fold(epsilon));
        self.program.once.push(Instruction { op, reads, writes: vec![w_out, b_out] });
        [w_out, b_out]
    }

    /// The rule of a convolution with the pooling after it, which the backward pass undoes itself if the engine can.
    fn conv2d_rule(&mut self, instruction: &Instruction, d: Conv2dDims, pool: Option<Pool2dDims>, dy: Id) {
        let x = instruction.reads[0];
        let (masked, weights) = (self.masks_all(x), self.trains_weights(instruction));
        let mut reads = vec![x, instruction.reads[1], dy];
        let needs_dx = self.is_trained[x.0];
        let unpool = |pool: &Pool2dDims| self.fusion.is_some_and(|fusion| fusion.unpool(&d, pool, needs_dx));
        let unpool = pool.filter(unpool);
        match (pool, unpool) {
            (Some(_), Some(_)) => reads.push(instruction.writes[1]),
            (Some(pool), None) => {
                // The gradient before the pooling, which no forward instruction stored.
                let name = self.name_of_gradient(instruction.writes[0], "dx");
                reads[2] = self.rows(name, &[d.ho, d.wo, d.o]);
                let op = Op::MaxPool2d(MaxPool2d::Backward(pool));
                self.emit(op, vec![instruction.writes[1], dy], vec![reads[2]]);
            }
            (None, _) => {}
        }
        let op = Op::Conv2d(Conv2d::Backward { d, pool: unpool, masked, weights });
        self.weights(op, reads, instruction);
    }

    /// The rule of a normalization, with the GELU after it if the instruction includes it.
    fn batchnorm_rule(&mut self, instruction: &Instruction, d: BatchNormDims, epsilon: f64, dy: Id) {
        let [x, moments, scale, shift] = [0, 1, 2, 3].map(|i| instruction.reads[i]);
        if self.program.once.iter().any(|once| once.writes.contains(&moments)) {
            return self.scaled(instruction, d, epsilon, dy);
        }
        let mut dz = dy;
        let (op, reads) = if self.sums_by_image() {
            let name = self.program.tensor(moments).name.replace(".moments", "");
            let images = self.rows(format!("{name}.dimages"), &[2, d.c]);
            if matches!(instruction.op, Op::BatchNorm(BatchNorm::GeluForward(..))) {
                dz = self.rows_like(format!("{name}.dy"), x);
                let op = BatchNorm::GeluBackwardImages(d, epsilon);
                self.emit(Op::BatchNorm(op), vec![x, moments, scale, shift, dy], vec![dz, images]);
            } else {
                self.emit(Op::BatchNorm(BatchNorm::BackwardImages(d)), vec![x, moments, dy], vec![images]);
            }
            (BatchNorm::BackwardWOfImages(d, epsilon), vec![images, moments])
        } else {
            (BatchNorm::BackwardW(d, epsilon), vec![x, moments, dy])
        };
        let [dscale, dshift] = [scale, shift].map(|w| self.gradient_of(w));
        self.emit(Op::BatchNorm(op), reads, vec![dscale, dshift]);
        let reads = vec![x, moments, scale, dscale, dshift, dz];
        self.input(Op::BatchNorm(BatchNorm::BackwardX(d, epsilon)), reads, x);
    }

    /// The rule of each operation: given the gradient `dy` of what an instruction wrote, emits the instructions for the gradients of what it read.
    pub(super) fn rule(&mut self, instruction: &Instruction, dy: Id) {
        let x = instruction.reads[0];
        match instruction.op {
            Op::Conv2d(Conv2d::Forward { d, pool, .. }) => self.conv2d_rule(instruction, d, pool, dy),
            Op::GroupedConv2d(GroupedConv2d::Forward { d, .. }) => {
                let (masked, weights) = (self.masks_all(x), self.trains_weights(instruction));
                let op = Op::GroupedConv2d(GroupedConv2d::Backward { d, masked, weights });
                self.weights(op, vec![x, instruction.reads[1], dy], instruction);
            }
            Op::Dense(Dense::Forward { d, .. }) => {
                let (masked, weights) = (self.masks_all(x), self.trains_weights(instruction));
                let op = Op::Dense(Dense::Backward { d, masked, weights });
                self.weights(op, vec![x, instruction.reads[1], dy], instruction);
            }
            // The gradient of a maximum is masked already, and goes to an element of the same sign.
            Op::MaxPool2d(MaxPool2d::Forward(d)) => {
                self.input(Op::MaxPool2d(MaxPool2d::Backward(d)), vec![instruction.writes[1], dy], x);
            }
            Op::MeanPool2d(MeanPool2d::Forward(reduction, d)) => {
                self.input(Op::MeanPool2d(MeanPool2d::Backward(reduction, d)), vec![dy], x);
            }
            // The gradient is masked already by the output, which is all that a ReLU does to it.
            Op::Relu(Relu::Forward) => self.reaches(x, dy),
            Op::Gelu(Gelu::Forward) => self.input(Op::Gelu(Gelu::Backward), vec![x, dy], x),
            // The output has the sign of the input, and the next layer needs it anyway.
            Op::LeakyRelu(LeakyRelu::Forward(slope)) => {
                self.input(Op::LeakyRelu(LeakyRelu::Backward(slope)), vec![instruction.writes[0], dy], x);
            }
            Op::Silu(Silu::Forward) => self.input(Op::Silu(Silu::Backward), vec![x, dy], x),
            Op::Scale(Scale::Forward(factor)) => self.input(Op::Scale(Scale::Backward(factor)), vec![dy], x),
            Op::Dropout(Dropout::Forward(dropping)) => {
                self.input(Op::Dropout(Dropout::Backward(dropping)), vec![dy], x);
            }
            Op::Add(Add::Forward) => {
                for &x in &instruction.reads {
                    self.reaches(x, dy);
                }
            }
            Op::BatchNorm(BatchNorm::Forward(d, epsilon) | BatchNorm::GeluForward(d, epsilon)) => {
                self.batchnorm_rule(instruction, d, epsilon, dy);
            }
            // Its gradient is part of that of the normalization.
            Op::BatchNorm(BatchNorm::Statistics(..) | BatchNorm::Images(_) | BatchNorm::StatisticsOfImages(..)) => {}
            Op::Conv2d(Conv2d::Backward { .. })
            | Op::GroupedConv2d(GroupedConv2d::Backward { .. })
            | Op::Dense(Dense::Backward { .. })
            | Op::MaxPool2d(MaxPool2d::Backward(_))
            | Op::MeanPool2d(MeanPool2d::Backward(..))
            | Op::Relu(Relu::Backward)
            | Op::Gelu(Gelu::Backward)
            | Op::LeakyRelu(LeakyRelu::Backward(_))
            | Op::Silu(Silu::Backward)
            | Op::Scale(Scale::Backward(_))
            | Op::Dropout(Dropout::Backward(_))
            | Op::BatchNorm(
                BatchNorm::Moments
                | BatchNorm::BackwardW(..)
                | BatchNorm::BackwardImages(_)
                | BatchNorm::GeluBackwardImages(..)
                | BatchNorm::BackwardWOfImages(..)
                | BatchNorm::BackwardX(..)
                | BatchNorm::Fold(_),
            )
            | Op::SoftmaxXent(_) => unreachable!("{:?} is not a forward instruction of training", instruction.op),
        }
    }
}
