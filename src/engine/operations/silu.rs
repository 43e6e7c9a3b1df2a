//! Sigmoid linear unit.

use super::{OnGpu, Operands, Operation};
use crate::cpu::real::Real;
use crate::cpu::silu::{silu_backward_x, silu_forward};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::Silu;
use crate::ops::silu;

impl Operation for Silu {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            Silu::Forward => silu::record_forward(plan, y[0].len(), [x[0], y[0]]),
            Silu::Backward => silu::record_backward_x(plan, y[0].len(), [x[0], x[1], y[0]]),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { x, y, .. } = on;
        match self {
            Silu::Forward => silu_forward(x[0], y[0]),
            Silu::Backward => silu_backward_x(x[0], x[1], y[0]),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for Silu {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::silu::{silu_backward_x, silu_forward};
        let Operands { x, y, .. } = on;
        match self {
            Silu::Forward => silu_forward(x[0], y[0]),
            Silu::Backward => silu_backward_x(x[0], x[1], y[0]),
        }
    }
}
