//! Grouped convolution.

use super::relu::{after_relu, before_relu};
use super::{OnGpu, Operands, Operation};
use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::groupedconv2d::{groupedconv2d_backward_w, groupedconv2d_backward_x, groupedconv2d_forward};
use crate::cpu::real::Real;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::GroupedConv2d;
use crate::ops::groupedconv2d;

impl Operation for GroupedConv2d {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], _: &OnGpu<'_>) -> Result<(), GpuError> {
        match self {
            GroupedConv2d::Forward { d, relu } => {
                groupedconv2d::record_forward(plan, &d, relu, [x[0], x[1], x[2], y[0]])
            }
            GroupedConv2d::Backward { d, masked, weights } => {
                let (weight_and_bias, dx) = y.split_at(if weights { 2 } else { 0 });
                if let [dw, db] = *weight_and_bias {
                    groupedconv2d::record_backward_w(plan, &d, [x[0], x[2], dw, db])?;
                }
                match *dx {
                    [dx] => groupedconv2d::record_backward_x(plan, &d, masked, [x[0], x[1], x[2], dx]),
                    _ => Ok(()),
                }
            }
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { n, x, y, .. } = on;
        match self {
            GroupedConv2d::Forward { d, relu } => {
                groupedconv2d_forward(&d.for_images(n), x[0], x[1], x[2], y[0]);
                relu.then(|| after_relu(y[0]));
            }
            GroupedConv2d::Backward { d, masked, weights } => {
                let d = d.for_images(n);
                let (weight_and_bias, dx) = y.split_at_mut(if weights { 2 } else { 0 });
                if let [dw, db] = weight_and_bias {
                    groupedconv2d_backward_w(&d, x[0], x[2], dw);
                    bias_backward_b(&BiasDims { n: n * d.conv.ho * d.conv.wo, o: d.conv.o }, x[2], db);
                }
                if let [dx] = dx {
                    groupedconv2d_backward_x(&d, x[1], x[2], dx);
                    masked.then(|| before_relu(x[0], dx));
                }
            }
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for GroupedConv2d {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::groupedconv2d::{groupedconv2d_backward_x, groupedconv2d_forward};
        let Operands { n, x, y, .. } = on;
        match self {
            GroupedConv2d::Forward { d, relu } => {
                groupedconv2d_forward(&d.for_images(n), relu, [x[0], x[1], x[2]], y[0]);
            }
            GroupedConv2d::Backward { d, masked, .. } => {
                if let Some(dx) = y.last_mut() {
                    groupedconv2d_backward_x(&d.for_images(n), masked, [x[0], x[1], x[2]], dx);
                }
            }
        }
    }

    fn gradient(self, part: super::Part<'_>) {
        use crate::native::groupedconv2d::{groupedconv2d_backward_b, groupedconv2d_backward_w};
        let (GroupedConv2d::Forward { d, .. } | GroupedConv2d::Backward { d, .. }) = self;
        let d = d.for_images(part.n);
        match part.which {
            0 => groupedconv2d_backward_w(&d, part.x, part.dy, part.g),
            _ => groupedconv2d_backward_b(&d, part.dy, part.g),
        }
    }
}
