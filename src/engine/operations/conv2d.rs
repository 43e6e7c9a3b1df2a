//! Convolution.

use super::relu::{after_relu, before_relu};
use super::{OnGpu, Operands, Operation};
use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::conv2d::{Conv2dDims, conv2d_backward_w, conv2d_backward_x, conv2d_forward};
use crate::cpu::pool2d::{pool2d_max_backward_x, pool2d_max_forward};
use crate::cpu::real::Real;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::lower::Conv2d;
use crate::ops::{Form, SharedTiles, conv2d};

/// The form of the kernels that write `d.o` channels, or with `dx` also `d.c`.
pub(in crate::engine) fn conv2d_form(gpu: &Gpu, tiles: SharedTiles, d: &Conv2dDims, dx: bool) -> Form {
    if dx { Form::choose(gpu, tiles, &[d.c, d.o]) } else { Form::choose(gpu, tiles, &[d.o]) }
}

impl Operation for Conv2d {
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], on: &OnGpu<'_>) -> Result<(), GpuError> {
        let gpu = plan.gpu();
        match self {
            Conv2d::Forward { d, relu, pool } => {
                let form = conv2d_form(gpu, on.tiles, &d, false);
                conv2d::record_forward(plan, form, &d, relu, [x[0], x[1], x[2], y[0]], pool.map(|_| y[1]))
            }
            Conv2d::Backward { d, pool, masked, .. } => {
                let forms = [false, true].map(|dx| conv2d_form(gpu, on.tiles, &d, dx));
                let argmax = pool.map(|_| x[3]);
                match (y, on.parts_of(y[0])) {
                    (&[_, _, dx], Some(parts)) => {
                        let tensors = [x[0], x[1], x[2], dx, parts];
                        conv2d::record_backward_parts(plan, on.tiles, &d, masked, tensors, argmax)
                    }
                    (&[_, _], Some(parts)) => {
                        conv2d::record_backward_w_parts(plan, forms[0], &d, [x[0], x[2], parts], argmax)
                    }
                    (&[dw, db, dx], None) => {
                        let tensors = [x[0], x[1], x[2], dx, dw, db];
                        conv2d::record_backward(plan, forms, &d, masked, tensors, argmax)
                    }
                    (&[dw, db], None) => conv2d::record_backward_w(plan, forms[0], &d, [x[0], x[2], dw, db], argmax),
                    (&[dx], _) => conv2d::record_backward_x(plan, forms[1], &d, masked, [x[0], x[1], x[2], dx], argmax),
                    _ => unreachable!("{self:?} does not write {} tensors", y.len()),
                }
            }
        }
    }

    fn compute<T: Real>(self, on: Operands<'_, '_, T>) {
        let Operands { n, x, y, argmax, .. } = on;
        match self {
            Conv2d::Forward { d, relu, pool } => {
                let d = Conv2dDims { n, ..d };
                let mut sums = vec![T::ZERO; d.y_len()];
                conv2d_forward(&d, x[0], x[1], x[2], &mut sums);
                relu.then(|| after_relu(&mut sums));
                match pool {
                    Some(pool) => pool2d_max_forward(&pool.for_images(n), &sums, y[0], argmax),
                    None => y[0].copy_from_slice(&sums),
                }
            }
            Conv2d::Backward { d, pool, masked, weights } => {
                let d = Conv2dDims { n, ..d };
                let mut dy = vec![T::ZERO; d.y_len()];
                match pool {
                    Some(pool) => pool2d_max_backward_x(&pool.for_images(n), argmax, x[2], &mut dy),
                    None => dy.copy_from_slice(x[2]),
                }
                let (weight_and_bias, dx) = y.split_at_mut(if weights { 2 } else { 0 });
                if let [dw, db] = weight_and_bias {
                    conv2d_backward_w(&d, x[0], &dy, dw);
                    bias_backward_b(&BiasDims { n: n * d.ho * d.wo, o: d.o }, &dy, db);
                }
                if let [dx] = dx {
                    conv2d_backward_x(&d, x[1], &dy, dx);
                    masked.then(|| before_relu(x[0], dx));
                }
            }
        }
    }
}

#[cfg(feature = "native")]
const PREPARED: &str = "a convolution is prepared for each instruction of a convolution";

#[cfg(feature = "native")]
impl super::native::Native for Conv2d {
    fn compute_native(self, on: Operands<'_, '_, f32>, convolving: Option<super::Convolving<'_>>) {
        let Operands { n, x, y, argmax, .. } = on;
        let super::Convolving { conv, packed, scratch, sums, group } = convolving.expect(PREPARED);
        match self {
            Conv2d::Forward { .. } => conv.forward([x[0], x[1], x[2]], packed, y[0], argmax, scratch),
            Conv2d::Backward { masked, weights: false, .. } => {
                let dx = y.last_mut().expect("without weights, it is the only gradient");
                conv.backward_x(masked, [x[0], x[1], x[2]], packed, argmax, dx, scratch);
            }
            Conv2d::Backward { d, masked, .. } => {
                let mut dx = y.last_mut();
                for (part, sums) in sums.chunks_exact_mut(conv.sums_len()).enumerate() {
                    let some = part * group..n.min((part + 1) * group);
                    let of = |len: usize| some.start * len..some.end * len;
                    let (x_len, y_len) = (d.x_len() / d.n, conv.y_len());
                    let dx = dx.as_mut().map(|dx| &mut dx[of(x_len)]);
                    let argmax = if argmax.is_empty() { &argmax[..] } else { &argmax[of(y_len)] };
                    sums.fill(0.0);
                    let tensors = [&x[0][of(x_len)], x[1], &x[2][of(y_len)]];
                    conv.backward(masked, tensors, packed, argmax, sums, dx, scratch);
                }
            }
        }
    }

    fn gradient(self, part: super::Part<'_>) {
        let (conv, sums) = part.conv.expect(PREPARED);
        match part.which {
            0 => conv.gather_dw(sums, part.g),
            _ => conv.gather_db(sums, part.g),
        }
    }
}
