//! Max, average and sum pooling.

use super::{OnGpu, Operands, Operation};
use crate::cpu::pool2d::{
    Reduction, pool2d_average_backward_x, pool2d_average_forward, pool2d_max_backward_x, pool2d_max_forward,
    pool2d_sum_backward_x, pool2d_sum_forward,
};
use crate::cpu::real::Real;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::{MaxPool2d, MeanPool2d};
use crate::ops::pool2d;

impl Operation for MaxPool2d {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            MaxPool2d::Forward(d) => pool2d::record_max_forward(plan, &d, [x[0], y[0], y[1]]),
            MaxPool2d::Backward(d) => pool2d::record_max_backward_x(plan, &d, [x[0], x[1], y[0]]),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { n, x, y, argmax, .. } = on;
        match self {
            MaxPool2d::Forward(d) => pool2d_max_forward(&d.for_images(n), x[0], y[0], argmax),
            MaxPool2d::Backward(d) => pool2d_max_backward_x(&d.for_images(n), argmax, x[0], y[0]),
        }
    }
}

impl Operation for MeanPool2d {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            MeanPool2d::Forward(reduction, d) => pool2d::record_mean_forward(plan, reduction, &d, [x[0], y[0]]),
            MeanPool2d::Backward(reduction, d) => pool2d::record_mean_backward_x(plan, reduction, &d, [x[0], y[0]]),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let (MeanPool2d::Forward(_, d) | MeanPool2d::Backward(_, d)) = self;
        let (d, x, y) = (d.for_images(on.n), on.x[0], &mut *on.y[0]);
        match self {
            MeanPool2d::Forward(Reduction::Average, _) => pool2d_average_forward(&d, x, y),
            MeanPool2d::Forward(Reduction::Sum, _) => pool2d_sum_forward(&d, x, y),
            MeanPool2d::Backward(Reduction::Average, _) => pool2d_average_backward_x(&d, x, y),
            MeanPool2d::Backward(Reduction::Sum, _) => pool2d_sum_backward_x(&d, x, y),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for MaxPool2d {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::pool2d::{pool2d_max_backward_x, pool2d_max_forward};
        let Operands { n, x, y, argmax, .. } = on;
        match self {
            MaxPool2d::Forward(d) => pool2d_max_forward(&d.for_images(n), x[0], y[0], argmax),
            MaxPool2d::Backward(d) => pool2d_max_backward_x(&d.for_images(n), argmax, x[0], y[0]),
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for MeanPool2d {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::pool2d::{
            pool2d_average_backward_x, pool2d_average_forward, pool2d_sum_backward_x, pool2d_sum_forward,
        };
        let (MeanPool2d::Forward(_, d) | MeanPool2d::Backward(_, d)) = self;
        let (d, x, y) = (d.for_images(on.n), on.x[0], &mut *on.y[0]);
        match self {
            MeanPool2d::Forward(Reduction::Average, _) => pool2d_average_forward(&d, x, y),
            MeanPool2d::Forward(Reduction::Sum, _) => pool2d_sum_forward(&d, x, y),
            MeanPool2d::Backward(Reduction::Average, _) => pool2d_average_backward_x(&d, x, y),
            MeanPool2d::Backward(Reduction::Sum, _) => pool2d_sum_backward_x(&d, x, y),
        }
    }
}
