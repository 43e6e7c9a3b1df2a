//! Gaussian error linear unit.

use super::{OnGpu, Operands, Operation};
use crate::cpu::gelu::{gelu_backward_x, gelu_forward};
use crate::cpu::real::Real;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::Gelu;
use crate::ops::gelu;

impl Operation for Gelu {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            Gelu::Forward => gelu::record_forward(plan, y[0].len(), [x[0], y[0]]),
            Gelu::Backward => gelu::record_backward_x(plan, y[0].len(), [x[0], x[1], y[0]]),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { x, y, .. } = on;
        match self {
            Gelu::Forward => gelu_forward(x[0], y[0]),
            Gelu::Backward => gelu_backward_x(x[0], x[1], y[0]),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for Gelu {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::gelu::{gelu_backward_x, gelu_forward};
        let Operands { x, y, .. } = on;
        match self {
            Gelu::Forward => gelu_forward(x[0], y[0]),
            Gelu::Backward => gelu_backward_x(x[0], x[1], y[0]),
        }
    }
}
