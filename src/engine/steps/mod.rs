//! How each engine computes each step: an arm for every operation and engine, side by side.
//!
//! [`record`] is for the GPU, `compute_rows` and `compute_batch` for the native engine, [`compute`] for the plain loops, which are the
//! meaning of a step.

#[cfg(feature = "native")]
mod native;

#[cfg(feature = "native")]
pub(super) use native::{Convolving, compute_batch, compute_gradient, compute_rows};

use super::NonFinite;
use crate::cpu::real::Real;
use crate::cpu::softmax_xent::{SoftmaxXentDims, softmax_xent_backward_x, softmax_xent_forward};
use crate::cpu::{self, bias::BiasDims, pool2d::Reduction};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::lower::{Id, Op, Place, Program, Step};
use crate::ops::softmax_xent::BatchTotals;
use crate::ops::{self, Form, SharedTiles};

/// What the steps of a program use on a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnGpu<'a> {
    /// The program.
    pub(super) program: &'a Program,
    /// The sizes of the tiles in workgroup memory, on devices that use them.
    pub(super) tiles: SharedTiles,
    /// The tensors of the program.
    pub(super) tensors: &'a [Tensor],
    /// The classes of the batch, `[N]`.
    pub(super) labels: &'a Tensor,
    /// Where the loss of the batch goes.
    pub(super) totals: BatchTotals<'a>,
}

/// The form of the convolution kernels that write `d.o` channels, or with `dx` also `d.c`.
pub(super) fn conv2d_form(gpu: &Gpu, tiles: SharedTiles, d: &cpu::conv2d::Conv2dDims, dx: bool) -> Form {
    if dx { Form::choose(gpu, tiles, &[d.c, d.o]) } else { Form::choose(gpu, tiles, &[d.o]) }
}

/// Records a step into a plan.
pub(super) fn record(plan: &mut PlanBuilder<'_>, step: &Step, on: &OnGpu<'_>) -> Result<(), GpuError> {
    let (gpu, tiles) = (plan.gpu(), on.tiles);
    let x: Vec<&Tensor> = step.reads.iter().map(|id| &on.tensors[id.0]).collect();
    let y: Vec<&Tensor> = step.writes.iter().map(|id| &on.tensors[id.0]).collect();
    let classes = SoftmaxXentDims { n: on.program.batch, c: on.program.classes };
    match step.op {
        Op::Conv2d { d, relu, pool } => {
            let form = conv2d_form(gpu, tiles, &d, false);
            let argmax = pool.map(|_| y[1]);
            ops::conv2d::record_forward(plan, form, &d, relu, [x[0], x[1], x[2], y[0]], argmax)
        }
        Op::Conv2dBackward { d, pool, masked } => {
            let forms = [false, true].map(|dx| conv2d_form(gpu, tiles, &d, dx));
            let argmax = pool.map(|_| x[3]);
            match y.get(2) {
                Some(dx) => {
                    let tensors = [x[0], x[1], x[2], dx, y[0], y[1]];
                    ops::conv2d::record_backward(plan, forms, &d, masked, tensors, argmax)
                }
                None => ops::conv2d::record_backward_w(plan, forms[0], &d, [x[0], x[2], y[0], y[1]], argmax),
            }
        }
        Op::Dense { d, relu } => {
            let form = Form::choose(gpu, tiles, &[d.i, d.o]);
            ops::dense::record_forward(plan, form, &d, relu, [x[0], x[1], x[2], y[0]])
        }
        Op::DenseBackward { d, masked } => {
            let form = Form::choose(gpu, tiles, &[d.i, d.o]);
            match y.get(2) {
                Some(dx) => ops::dense::record_backward(plan, form, &d, masked, [x[0], x[1], x[2], dx, y[0], y[1]]),
                None => ops::dense::record_backward_w(plan, form, &d, [x[0], x[2], y[0], y[1]]),
            }
        }
        Op::MaxPool2d(d) => ops::pool2d::record_max_forward(plan, &d, [x[0], y[0], y[1]]),
        Op::MaxPool2dBackward(d) => ops::pool2d::record_max_backward_x(plan, &d, [x[0], x[1], y[0]]),
        Op::MeanPool2d(reduction, d) => ops::pool2d::record_mean_forward(plan, reduction, &d, [x[0], y[0]]),
        Op::MeanPool2dBackward(reduction, d) => ops::pool2d::record_mean_backward_x(plan, reduction, &d, [x[0], y[0]]),
        Op::Relu => ops::relu::record_forward(plan, y[0].len(), [x[0], y[0]]),
        Op::ReluBackward => ops::relu::record_backward_x(plan, y[0].len(), [x[0], x[1], y[0]]),
        Op::Gelu => ops::gelu::record_forward(plan, y[0].len(), [x[0], y[0]]),
        Op::GeluBackward => ops::gelu::record_backward_x(plan, y[0].len(), [x[0], x[1], y[0]]),
        Op::Add => ops::add::record_forward(plan, y[0].len(), [x[0], x[1], y[0]]),
        Op::BatchNormStatistics(d, momentum) => {
            let tensors = [x[0], on.totals.progress, y[0], y[1], y[2]];
            ops::batchnorm::record_statistics(plan, &d, momentum, tensors)
        }
        Op::BatchNormMoments => ops::batchnorm::record_moments(plan, x[0].len(), [x[0], x[1], y[0]]),
        Op::BatchNorm(d, epsilon) => ops::batchnorm::record_forward(plan, &d, epsilon, [x[0], x[1], x[2], x[3], y[0]]),
        Op::BatchNormBackwardW(d, epsilon) => {
            ops::batchnorm::record_backward_w(plan, &d, epsilon, [x[0], x[1], x[2], y[0], y[1]])
        }
        Op::BatchNormBackwardX(d, epsilon) => {
            let tensors = [x[0], x[1], x[2], x[3], x[4], x[5], y[0]];
            ops::batchnorm::record_backward_x(plan, &d, epsilon, tensors)
        }
        Op::BatchNormFold(epsilon) => {
            let o = x[1].len();
            let tensors = [x[0], x[1], x[2], x[3], x[4], x[5], y[0], y[1]];
            ops::batchnorm::record_fold(plan, [x[0].len() / o, o], epsilon, tensors)
        }
        Op::Loss => ops::softmax_xent::record_backward_x(plan, &classes, [x[0], on.labels, y[0]], &on.totals),
        Op::Softmax => ops::softmax_xent::record_forward(plan, &classes, [x[0], on.labels, y[0]], &on.totals),
    }
}

/// Some rows of a batch, for the loss.
#[derive(Debug)]
pub(super) struct Answers<'a, T> {
    /// The classes.
    pub(super) labels: &'a [u32],
    /// The number of rows of the whole batch that count: the loss is their mean.
    pub(super) n_valid: usize,
    /// The probabilities of the classes.
    pub(super) probabilities: &'a mut [T],
    /// The loss of each row.
    pub(super) loss: &'a mut [T],
    /// Whether each row is classified correctly.
    pub(super) correct: &'a mut [u32],
}

impl<T: Real> Answers<'_, T> {
    fn dims(&self, n: usize) -> SoftmaxXentDims {
        SoftmaxXentDims { n, c: self.probabilities.len() / n }
    }

    /// Computes probabilities, losses and correct predictions of `n` rows from their logits.
    fn compare(&mut self, n: usize, logits: &[T]) {
        let d = self.dims(n);
        softmax_xent_forward(&d, logits, self.labels, self.probabilities, self.loss, self.correct);
    }
}

/// Computes a step by the plain loops, for all rows of the program's batch; arguments as for `compute_rows`.
pub(super) fn compute<T: Real>(
    op: &Op,
    n: usize,
    x: &[&[T]],
    y: &mut [&mut [T]],
    argmax: &mut [u32],
    answers: &mut Answers<'_, T>,
) {
    match *op {
        Op::Conv2d { d, relu, pool } => {
            let mut sums = vec![T::ZERO; d.y_len()];
            cpu::conv2d::conv2d_forward(&d, x[0], x[1], x[2], &mut sums);
            relu.then(|| after_relu(&mut sums));
            match pool {
                Some(pool) => cpu::pool2d::pool2d_max_forward(&pool, &sums, y[0], argmax),
                None => y[0].copy_from_slice(&sums),
            }
        }
        Op::Conv2dBackward { d, pool, masked } => {
            let mut dy = vec![T::ZERO; d.y_len()];
            match pool {
                Some(pool) => cpu::pool2d::pool2d_max_backward_x(&pool, argmax, x[2], &mut dy),
                None => dy.copy_from_slice(x[2]),
            }
            cpu::conv2d::conv2d_backward_w(&d, x[0], &dy, y[0]);
            cpu::bias::bias_backward_b(&BiasDims { n: d.n * d.ho * d.wo, o: d.o }, &dy, y[1]);
            if let Some(dx) = y.get_mut(2) {
                cpu::conv2d::conv2d_backward_x(&d, x[1], &dy, dx);
                masked.then(|| before_relu(x[0], dx));
            }
        }
        Op::Dense { d, relu } => {
            cpu::dense::dense_forward(&d, x[0], x[1], x[2], y[0]);
            relu.then(|| after_relu(y[0]));
        }
        Op::DenseBackward { d, masked } => {
            cpu::dense::dense_backward_w(&d, x[0], x[2], y[0]);
            cpu::bias::bias_backward_b(&BiasDims { n: d.n, o: d.o }, x[2], y[1]);
            if let Some(dx) = y.get_mut(2) {
                cpu::dense::dense_backward_x(&d, x[1], x[2], dx);
                masked.then(|| before_relu(x[0], dx));
            }
        }
        Op::MaxPool2d(d) => cpu::pool2d::pool2d_max_forward(&d, x[0], y[0], argmax),
        Op::MaxPool2dBackward(d) => cpu::pool2d::pool2d_max_backward_x(&d, argmax, x[0], y[0]),
        Op::MeanPool2d(reduction, d) => mean_forward(reduction, &d, x[0], y[0]),
        Op::MeanPool2dBackward(reduction, d) => mean_backward_x(reduction, &d, x[0], y[0]),
        Op::Relu => cpu::relu::relu_forward(x[0], y[0]),
        Op::ReluBackward => cpu::relu::relu_backward_x(x[0], x[1], y[0]),
        Op::Gelu => cpu::gelu::gelu_forward(x[0], y[0]),
        Op::GeluBackward => cpu::gelu::gelu_backward_x(x[0], x[1], y[0]),
        Op::Add => cpu::add::add_forward(x[0], x[1], y[0]),
        Op::BatchNorm(d, epsilon) => cpu::batchnorm::batchnorm_forward(&d, epsilon, x[0], x[1], x[2], x[3], y[0]),
        Op::BatchNormStatistics(d, momentum) => {
            let [moments, mean, variance] = y else { unreachable!("{op:?} writes three tensors") };
            cpu::batchnorm::batchnorm_statistics(&d, momentum, answers.n_valid, x[0], moments, mean, variance);
        }
        Op::BatchNormMoments => cpu::batchnorm::batchnorm_moments(x[0], x[1], y[0]),
        Op::BatchNormBackwardW(d, epsilon) => {
            let [dscale, dshift] = y else { unreachable!("{op:?} writes two tensors") };
            cpu::batchnorm::batchnorm_backward_w(&d, epsilon, x[0], x[1], x[2], dscale, dshift);
        }
        Op::BatchNormBackwardX(d, epsilon) => {
            cpu::batchnorm::batchnorm_backward_x(&d, epsilon, [x[0], x[1], x[2], x[3], x[4], x[5]], y[0]);
        }
        Op::BatchNormFold(epsilon) => {
            let [w, b] = y else { unreachable!("{op:?} writes two tensors") };
            cpu::batchnorm::batchnorm_fold(b.len(), epsilon, [x[0], x[1], x[2], x[3], x[4], x[5]], [w, b]);
        }
        Op::Loss => {
            answers.compare(n, x[0]);
            softmax_xent_backward_x(&answers.dims(n), x[0], answers.labels, answers.n_valid, y[0]);
        }
        Op::Softmax => {
            answers.compare(n, x[0]);
            y[0].copy_from_slice(answers.probabilities);
        }
    }
}

fn mean_forward<T: Real>(reduction: Reduction, d: &cpu::pool2d::Pool2dDims, x: &[T], y: &mut [T]) {
    match reduction {
        Reduction::Average => cpu::pool2d::pool2d_average_forward(d, x, y),
        Reduction::Sum => cpu::pool2d::pool2d_sum_forward(d, x, y),
    }
}

fn mean_backward_x<T: Real>(reduction: Reduction, d: &cpu::pool2d::Pool2dDims, dy: &[T], dx: &mut [T]) {
    match reduction {
        Reduction::Average => cpu::pool2d::pool2d_average_backward_x(d, dy, dx),
        Reduction::Sum => cpu::pool2d::pool2d_sum_backward_x(d, dy, dx),
    }
}

fn after_relu<T: Real>(y: &mut [T]) {
    let x = y.to_vec();
    cpu::relu::relu_forward(&x, y);
}

/// Masks the gradient of the output `x` of a ReLU.
fn before_relu<T: Real>(x: &[T], dx: &mut [T]) {
    let unmasked = dx.to_vec();
    cpu::relu::relu_backward_x(x, &unmasked, dx);
}

/// Returns the first value that is not finite in a tensor that an operation wrote in a step of training.
pub(super) fn found<T: Real>(step: usize, tensor: String, operation: &str, values: &[T]) -> Option<NonFinite> {
    let [count, index] = cpu::non_finite::non_finite(values);
    let (count, index, operation) = (count as usize, index as usize, operation.to_string());
    (count > 0).then_some(NonFinite { step, tensor, operation, index, count })
}

/// Returns the first value that is not finite in what the steps of a program wrote, in the order of the steps; `loss` are the losses, and
/// `content` returns the content of a tensor, or nothing for those that are not to be searched.
pub(super) fn found_in<'a, T: Real>(
    program: &Program,
    step: usize,
    loss: &[T],
    content: impl Fn(Id) -> Option<&'a [T]>,
) -> Option<NonFinite> {
    let at_loss = program.loss();
    program.steps.iter().enumerate().find_map(|(i, of)| {
        let of_loss = || found(step, "loss".to_string(), of.op.name(), loss);
        let operation = if i > at_loss { "backward pass" } else { of.op.name() };
        let written = || {
            of.writes.iter().find_map(|&id| {
                let name = &program.tensor(id).name;
                let prefix = if matches!(program.tensor(id).place, Place::Parameter(_)) { "parameters." } else { "" };
                found(step, format!("{prefix}{name}"), operation, content(id)?)
            })
        };
        (i == at_loss).then(of_loss).flatten().or_else(written)
    })
}
