//! Leaky rectified linear unit.

use super::{OnGpu, Operands, Operation};
use crate::cpu::leakyrelu::{leakyrelu_backward_x, leakyrelu_forward};
use crate::cpu::real::Real;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::LeakyRelu;
use crate::ops::leakyrelu;

impl Operation for LeakyRelu {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            LeakyRelu::Forward(slope) => leakyrelu::record_forward(plan, slope, y[0].len(), [x[0], y[0]]),
            LeakyRelu::Backward(slope) => leakyrelu::record_backward_x(plan, slope, y[0].len(), [x[0], x[1], y[0]]),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { x, y, .. } = on;
        match self {
            LeakyRelu::Forward(slope) => leakyrelu_forward(slope, x[0], y[0]),
            LeakyRelu::Backward(slope) => leakyrelu_backward_x(slope, x[0], x[1], y[0]),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for LeakyRelu {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::leakyrelu::{leakyrelu_backward_x, leakyrelu_forward};
        let Operands { x, y, .. } = on;
        match self {
            LeakyRelu::Forward(slope) => leakyrelu_forward(slope, x[0], y[0]),
            LeakyRelu::Backward(slope) => leakyrelu_backward_x(slope, x[0], x[1], y[0]),
        }
    }
}
