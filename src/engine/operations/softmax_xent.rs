//! Softmax and cross-entropy. The native engine uses the plain loops.

use super::{Answers, OnGpu, Operands, Operation};
use crate::cpu::real::Real;
use crate::cpu::softmax_xent::{
    SoftmaxXentDims, softmax_xent_backward_x, softmax_xent_forward, softmax_xent_soft_backward_x,
    softmax_xent_soft_loss,
};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::SoftmaxXent;
use crate::ops::softmax_xent;

impl Operation for SoftmaxXent {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], on: &OnGpu<'_>) -> Result<(), GpuError> {
        let d = SoftmaxXentDims { n: on.program.batch, c: on.program.classes };
        let tensors = [x[0], on.labels, y[0]];
        match (self, on.targets) {
            (SoftmaxXent::Forward, _) => softmax_xent::record_forward(plan, &d, tensors, &on.totals),
            (SoftmaxXent::Loss, None) => softmax_xent::record_backward_x(plan, &d, tensors, &on.totals),
            (SoftmaxXent::Loss, Some(targets)) => {
                softmax_xent::record_soft_backward_x(plan, &d, tensors, targets, &on.totals)
            }
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { n, x, y, answers, .. } = on;
        let Answers { labels, targets, n_valid, probabilities, loss, correct } = answers;
        let d = SoftmaxXentDims { n, c: probabilities.len() / n };
        softmax_xent_forward(&d, x[0], labels, probabilities, loss, correct);
        match (self, targets) {
            (SoftmaxXent::Forward, _) => y[0].copy_from_slice(probabilities),
            (SoftmaxXent::Loss, None) => softmax_xent_backward_x(&d, x[0], labels, n_valid, y[0]),
            (SoftmaxXent::Loss, Some(targets)) => {
                softmax_xent_soft_loss(&d, x[0], labels, &targets, loss);
                softmax_xent_soft_backward_x(&d, x[0], labels, &targets, n_valid, y[0]);
            }
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for SoftmaxXent {}
