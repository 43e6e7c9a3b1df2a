//! How the native engine computes each step.

use super::{Answers, compute, mean_backward_x, mean_forward};
use crate::cpu::{self, bias::BiasDims};
use crate::lower::Op;
use crate::native::conv2d::{Conv2d, Packed, Scratch};
use crate::native::{self, mask};

/// What a convolution of the native engine keeps between calls.
#[derive(Debug)]
pub(in crate::engine) struct Convolving<'a> {
    /// The convolution.
    pub(in crate::engine) conv: &'a Conv2d,
    /// Its filter in the forms that the loops use.
    pub(in crate::engine) packed: &'a Packed,
    /// Memory of the thread.
    pub(in crate::engine) scratch: &'a mut Scratch,
    /// The sums of the gradients, one part for each `group` rows.
    pub(in crate::engine) sums: &'a mut [f32],
    /// Rows per part.
    pub(in crate::engine) group: usize,
}

/// Computes a step on `n` rows in the native engine. `x` and `y` are what it reads and writes, except for positions: the argmax that it
/// reads or writes is `argmax`. The gradients of weights are not written: they follow at the end, from what is kept.
pub(in crate::engine) fn compute_rows(
    op: &Op,
    n: usize,
    x: &[&[f32]],
    y: &mut [&mut [f32]],
    argmax: &mut [u32],
    convolving: Option<Convolving<'_>>,
    answers: &mut Answers<'_, f32>,
) {
    const CONV: &str = "a convolution is prepared for each step of a convolution";
    match *op {
        Op::Conv2d { .. } => {
            let Convolving { conv, packed, scratch, .. } = convolving.expect(CONV);
            conv.forward([x[0], x[1], x[2]], packed, y[0], argmax, scratch);
        }
        Op::Conv2dBackward { d, masked, .. } => {
            let Convolving { conv, packed, scratch, sums, group } = convolving.expect(CONV);
            let mut dx = y.last_mut();
            for (part, sums) in sums.chunks_exact_mut(conv.sums_len()).enumerate() {
                let some = part * group..n.min((part + 1) * group);
                let of = |len: usize| some.start * len..some.end * len;
                let (x_len, y_len) = (d.x_len() / d.n, conv.y_len());
                let dx = dx.as_mut().map(|dx| &mut dx[of(x_len)]);
                let argmax = if argmax.is_empty() { &argmax[..] } else { &argmax[of(y_len)] };
                sums.fill(0.0);
                let tensors = [&x[0][of(x_len)], x[1], &x[2][of(y_len)]];
                conv.backward(masked, tensors, packed, argmax, sums, dx, scratch);
            }
        }
        Op::Dense { d, relu } => {
            native::dense::dense_forward(&cpu::dense::DenseDims { n, ..d }, relu, x[0], x[1], x[2], y[0]);
        }
        Op::DenseBackward { d, masked } => {
            if let Some(dx) = y.last_mut() {
                native::dense::dense_backward_x(&cpu::dense::DenseDims { n, ..d }, masked, x[0], x[1], x[2], dx);
            }
        }
        Op::MaxPool2d(d) => cpu::pool2d::pool2d_max_forward(&d.for_images(n), x[0], y[0], argmax),
        Op::MaxPool2dBackward(d) => cpu::pool2d::pool2d_max_backward_x(&d.for_images(n), argmax, x[0], y[0]),
        Op::MeanPool2d(reduction, d) => mean_forward(reduction, &d.for_images(n), x[0], y[0]),
        Op::MeanPool2dBackward(reduction, d) => mean_backward_x(reduction, &d.for_images(n), x[0], y[0]),
        Op::Relu | Op::Loss | Op::Softmax => compute(op, n, x, y, argmax, answers),
        Op::ReluBackward => {
            y[0].copy_from_slice(x[1]);
            mask(x[0], y[0]);
        }
        Op::Gelu => native::gelu::gelu_forward(x[0], y[0]),
        Op::GeluBackward => native::gelu::gelu_backward_x(x[0], x[1], y[0]),
        Op::Add => native::add::add_forward(x[0], x[1], y[0]),
        Op::BatchNorm(d, epsilon) => {
            let d = cpu::batchnorm::BatchNormDims { n, ..d };
            native::batchnorm::batchnorm_forward(&d, epsilon, [x[0], x[1], x[2], x[3]], y[0]);
        }
        Op::BatchNormBackwardX(d, epsilon) => {
            let d = cpu::batchnorm::BatchNormDims { n, ..d };
            native::batchnorm::batchnorm_backward_x(&d, epsilon, [x[0], x[1], x[2], x[3], x[4], x[5]], y[0]);
        }
        Op::BatchNormStatistics(..) | Op::BatchNormBackwardW(..) | Op::BatchNormMoments | Op::BatchNormFold(_) => {
            unreachable!("{op:?} is for the whole batch")
        }
    }
}

/// Computes a part of the gradient of a weight (`which` is 0) or a bias (1) in the native engine: the elements from `first` on, over `n`
/// rows of the input and of the gradient of the output.
pub(in crate::engine) fn compute_gradient(
    op: &Op,
    which: usize,
    n: usize,
    first: usize,
    [x, dy]: [&[f32]; 2],
    conv: Option<(&Conv2d, &[f32])>,
    g: &mut [f32],
) {
    match (*op, which, conv) {
        (Op::DenseBackward { d, .. }, 0, _) => {
            native::dense::dense_backward_w(&cpu::dense::DenseDims { n, ..d }, x, dy, first / d.o, g);
        }
        (Op::DenseBackward { d, .. }, ..) => cpu::bias::bias_backward_b(&BiasDims { n, o: d.o }, dy, g),
        (Op::Conv2dBackward { .. }, 0, Some((conv, sums))) => conv.gather_dw(sums, g),
        (Op::Conv2dBackward { .. }, _, Some((conv, sums))) => conv.gather_db(sums, g),
        _ => unreachable!("{op:?} computes its gradients itself"),
    }
}

/// Computes a step that is for a whole batch of `n` rows, or for none, in the native engine.
pub(in crate::engine) fn compute_batch(op: &Op, n: usize, x: &[&[f32]], y: &mut [&mut [f32]]) {
    match (*op, y) {
        (Op::BatchNormStatistics(d, momentum), [moments, mean, variance]) => {
            let d = cpu::batchnorm::BatchNormDims { n, ..d };
            native::batchnorm::batchnorm_statistics(&d, momentum, x[0], [moments, mean, variance]);
        }
        (Op::BatchNormBackwardW(d, epsilon), [dscale, dshift]) => {
            let d = cpu::batchnorm::BatchNormDims { n, ..d };
            native::batchnorm::batchnorm_backward_w(&d, epsilon, [x[0], x[1], x[2]], [dscale, dshift]);
        }
        (Op::BatchNormMoments, [moments]) => cpu::batchnorm::batchnorm_moments(x[0], x[1], moments),
        (Op::BatchNormFold(epsilon), [w, b]) => {
            let o = b.len();
            cpu::batchnorm::batchnorm_fold(o, epsilon, [x[0], x[1], x[2], x[3], x[4], x[5]], [w, b]);
        }
        _ => unreachable!("{op:?} is for rows"),
    }
}
