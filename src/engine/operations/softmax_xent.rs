//! Softmax and cross-entropy. The native engine uses the plain loops.

use super::{Answers, OnGpu, Operands, Operation};
use crate::cpu::real::Real;
use crate::cpu::softmax_xent::{SoftmaxXentDims, softmax_xent_backward_x, softmax_xent_forward};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::SoftmaxXent;
use crate::ops::softmax_xent;

impl Operation for SoftmaxXent {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], on: &OnGpu<'_>) -> Result<(), GpuError> {
        let d = SoftmaxXentDims { n: on.program.batch, c: on.program.classes };
        let tensors = [x[0], on.labels, y[0]];
        match self {
            SoftmaxXent::Forward => softmax_xent::record_forward(plan, &d, tensors, &on.totals),
            SoftmaxXent::Loss => softmax_xent::record_backward_x(plan, &d, tensors, &on.totals),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { n, x, y, answers, .. } = on;
        let Answers { labels, n_valid, probabilities, loss, correct } = answers;
        let d = SoftmaxXentDims { n, c: probabilities.len() / n };
        softmax_xent_forward(&d, x[0], labels, probabilities, loss, correct);
        match self {
            SoftmaxXent::Forward => y[0].copy_from_slice(probabilities),
            SoftmaxXent::Loss => softmax_xent_backward_x(&d, x[0], labels, n_valid, y[0]),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for SoftmaxXent {}
