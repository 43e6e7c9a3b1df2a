//! Fixed factor.

use super::{OnGpu, Operands, Operation};
use crate::cpu::real::Real;
use crate::cpu::scale::{scale_backward_x, scale_forward};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::Scale;
use crate::ops::scale;

impl Operation for Scale {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            Scale::Forward(factor) => scale::record_forward(plan, factor, y[0].len(), [x[0], y[0]]),
            Scale::Backward(factor) => scale::record_backward_x(plan, factor, y[0].len(), [x[0], y[0]]),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { x, y, .. } = on;
        match self {
            Scale::Forward(factor) => scale_forward(factor, x[0], y[0]),
            Scale::Backward(factor) => scale_backward_x(factor, x[0], y[0]),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for Scale {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::scale::{scale_backward_x, scale_forward};
        let Operands { x, y, .. } = on;
        match self {
            Scale::Forward(factor) => scale_forward(factor, x[0], y[0]),
            Scale::Backward(factor) => scale_backward_x(factor, x[0], y[0]),
        }
    }
}
