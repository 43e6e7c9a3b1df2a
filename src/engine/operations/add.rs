//! The sum of two tensors.

use super::{OnGpu, Operands, Operation};
use crate::cpu::add::add_forward;
use crate::cpu::real::Real;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::Add;
use crate::ops::add;

impl Operation for Add {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        add::record_forward(plan, y[0].len(), [x[0], x[1], y[0]])
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        add_forward(on.x[0], on.x[1], on.y[0]);
    }
}

#[cfg(feature = "native")]
impl super::native::Native for Add {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        crate::native::add::add_forward(on.x[0], on.x[1], on.y[0]);
    }
}
