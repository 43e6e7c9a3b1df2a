//! Dense layer.

use super::relu::{after_relu, before_relu};
use super::{OnGpu, Operands, Operation};
use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::dense::{DenseDims, dense_backward_w, dense_backward_x, dense_forward};
use crate::cpu::real::Real;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::Dense;
use crate::ops::{Form, dense};

impl Operation for Dense {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], on: &OnGpu<'_>) -> Result<(), GpuError> {
        let (Dense::Forward { d, .. } | Dense::Backward { d, .. }) = self;
        let form = Form::choose(plan.gpu(), on.tiles, &[d.i, d.o]);
        match (self, y) {
            (Dense::Forward { relu, .. }, _) => dense::record_forward(plan, form, &d, relu, [x[0], x[1], x[2], y[0]]),
            (Dense::Backward { masked, .. }, &[dw, db, dx]) => {
                dense::record_backward(plan, form, &d, masked, [x[0], x[1], x[2], dx, dw, db])
            }
            (Dense::Backward { .. }, &[dw, db]) => dense::record_backward_w(plan, form, &d, [x[0], x[2], dw, db]),
            (Dense::Backward { masked, .. }, &[dx]) => {
                dense::record_backward_x(plan, form, &d, masked, [x[0], x[1], x[2], dx])
            }
            (_, y) => unreachable!("{self:?} does not write {} tensors", y.len()),
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { n, x, y, .. } = on;
        match self {
            Dense::Forward { d, relu } => {
                dense_forward(&DenseDims { n, ..d }, x[0], x[1], x[2], y[0]);
                relu.then(|| after_relu(y[0]));
            }
            Dense::Backward { d, masked, weights } => {
                let d = DenseDims { n, ..d };
                let (weight_and_bias, dx) = y.split_at_mut(if weights { 2 } else { 0 });
                if let [dw, db] = weight_and_bias {
                    dense_backward_w(&d, x[0], x[2], dw);
                    bias_backward_b(&BiasDims { n, o: d.o }, x[2], db);
                }
                if let [dx] = dx {
                    dense_backward_x(&d, x[1], x[2], dx);
                    masked.then(|| before_relu(x[0], dx));
                }
            }
        }
    }
}

#[cfg(feature = "native")]
impl super::native::Native for Dense {
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<super::Convolving<'_>>) {
        use crate::native::dense::{dense_backward_x, dense_forward};
        let Operands { n, x, y, .. } = on;
        match self {
            Dense::Forward { d, relu } => dense_forward(&DenseDims { n, ..d }, relu, x[0], x[1], x[2], y[0]),
            Dense::Backward { d, masked, .. } => {
                if let Some(dx) = y.last_mut() {
                    dense_backward_x(&DenseDims { n, ..d }, masked, x[0], x[1], x[2], dx);
                }
            }
        }
    }

    fn gradient(self, part: super::Part<'_>) {
        let (Dense::Forward { d, .. } | Dense::Backward { d, .. }) = self;
        let super::Part { which, n, x, dy, first, g, .. } = part;
        match which {
            0 => crate::native::dense::dense_backward_w(&DenseDims { n, ..d }, x, dy, first / d.o, g),
            _ => bias_backward_b(&BiasDims { n, o: d.o }, dy, g),
        }
    }
}
