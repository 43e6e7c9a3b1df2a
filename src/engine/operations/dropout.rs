//! Dropout.

use super::{OnGpu, Operands, Operation};
use crate::cpu::dropout::{dropout_backward_x, dropout_forward};
use crate::cpu::real::Real;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::Dropout;
use crate::ops::dropout;

impl Operation for Dropout {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], on: &OnGpu<'_>) -> Result<(), GpuError> {
        let (len, tensors) = (y[0].len(), [x[0], y[0], on.totals.progress, on.random]);
        match self {
            Dropout::Forward(d) => dropout::record_forward(plan, &d, len, tensors),
            Dropout::Backward(d) => dropout::record_backward_x(plan, &d, len, tensors),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let first = on.first_element();
        let Operands { x, y, random, .. } = on;
        match self {
            Dropout::Forward(d) => dropout_forward(&d, random, first, x[0], y[0]),
            Dropout::Backward(d) => dropout_backward_x(&d, random, first, x[0], y[0]),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for Dropout {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::dropout::{dropout_backward_x, dropout_forward};
        let first = on.first_element();
        let Operands { x, y, random, .. } = on;
        match self {
            Dropout::Forward(d) => dropout_forward(&d, random, first, x[0], y[0]),
            Dropout::Backward(d) => dropout_backward_x(&d, random, first, x[0], y[0]),
        }
    }
}
