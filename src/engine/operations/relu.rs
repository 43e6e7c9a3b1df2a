//! Rectified linear unit.

use super::{OnGpu, Operands, Operation};
use crate::cpu::real::Real;
use crate::cpu::relu::{relu_backward_x, relu_forward};
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::Relu;
use crate::ops::relu;

impl Operation for Relu {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            Relu::Forward => relu::record_forward(plan, y[0].len(), [x[0], y[0]]),
            Relu::Backward => relu::record_backward_x(plan, y[0].len(), [x[0], x[1], y[0]]),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { x, y, .. } = on;
        match self {
            Relu::Forward => relu_forward(x[0], y[0]),
            Relu::Backward => relu_backward_x(x[0], x[1], y[0]),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for Relu {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        match self {
            Relu::Forward => self.compute(on),
            Relu::Backward => {
                on.y[0].copy_from_slice(on.x[1]);
                crate::native::mask(on.x[0], on.y[0]);
            }
        }
    }
}

/// Applies a ReLU to `y`.
pub(super) fn after_relu<T: Real>(y: &mut [T]) {
    let x = y.to_vec();
    relu_forward(&x, y);
}

/// Masks the gradient of the output `x` of a ReLU.
pub(super) fn before_relu<T: Real>(x: &[T], dx: &mut [T]) {
    let unmasked = dx.to_vec();
    relu_backward_x(x, &unmasked, dx);
}
