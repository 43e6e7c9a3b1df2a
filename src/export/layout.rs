//! The order of a model's numbers in tools that keep channels first.

use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::pool2d::Pool2dDims;
use crate::model::{Layer, LayerShape, Model, ModelError, conv2d_dims, pool2d_dims};

/// A layer with its parameters.
#[derive(Clone, Debug)]
pub(super) struct Weighted<'a> {
    pub(super) shape: LayerShape,
    /// Weight and bias; empty for layers without.
    pub(super) parameters: &'a [Vec<f32>],
    /// For the first dense layer after a flatten: the `[H, W, C]` that was flattened.
    pub(super) flattened: Option<[usize; 3]>,
}

/// The layers in order, each with its parameters.
pub(super) fn layers<'a>(model: &Model, parameters: &'a [Vec<f32>]) -> Result<Vec<Weighted<'a>>, ModelError> {
    let mut rest = parameters;
    let mut flattened = None;
    let layers = model.shapes()?.into_iter().map(|shape| {
        let (own, others) = rest.split_at(shape.parameters().len().min(rest.len()));
        rest = others;
        if let (Layer::Flatten, &[h, w, c]) = (&shape.layer, &shape.input[..]) {
            flattened = Some([h, w, c]);
        }
        let flattened = if matches!(shape.layer, Layer::Dense { .. }) { flattened.take() } else { None };
        Weighted { shape, parameters: own, flattened }
    });
    Ok(layers.collect())
}

/// Rows above, columns to the left, rows below, columns to the right: `[top, left, bottom, right]`.
pub(super) type Pads = [usize; 4];

/// What a layer with a window does: its window, strides and padding, down and across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) pads: Pads,
}

impl Window {
    /// The window of a convolution or a pooling; none of other layers.
    pub(super) fn of(shape: &LayerShape) -> Option<Window> {
        match shape.layer {
            Layer::Conv2d { .. } => {
                let Conv2dDims { h, w, kh, kw, stride_h, stride_w, pad_top, pad_left, ho, wo, .. } =
                    conv2d_dims(&shape.layer, 1, &shape.input).ok()?;
                Some(Window::new([h, w], [kh, kw], [stride_h, stride_w], [pad_top, pad_left], [ho, wo]))
            }
            Layer::MaxPool2d { .. } | Layer::AveragePool2d { .. } | Layer::SumPool2d { .. } => {
                let Pool2dDims { h, w, kh, kw, stride_h, stride_w, pad_top, pad_left, ho, wo, .. } =
                    pool2d_dims(&shape.layer, 1, &shape.input).ok()?;
                Some(Window::new([h, w], [kh, kw], [stride_h, stride_w], [pad_top, pad_left], [ho, wo]))
            }
            Layer::Relu | Layer::Flatten | Layer::Dense { .. } => None,
        }
    }

    fn new(
        input: [usize; 2],
        kernel: [usize; 2],
        strides: [usize; 2],
        before: [usize; 2],
        output: [usize; 2],
    ) -> Window {
        // What the last window needs beyond the input; a window that ends before it leaves the rest out.
        let after = |i: usize| ((output[i] - 1) * strides[i] + kernel[i]).saturating_sub(input[i] + before[i]);
        Window { kernel, strides, pads: [before[0], before[1], after(0), after(1)] }
    }

    pub(super) fn is_padded(&self) -> bool {
        self.pads != [0; 4]
    }
}

/// From `[KH, KW, C, O]` to `[O, C, KH, KW]`.
pub(super) fn filters_first(w: &[f32], [kh, kw, c, o]: [usize; 4]) -> Vec<f32> {
    let mut result = Vec::with_capacity(w.len());
    for io in 0..o {
        for ic in 0..c {
            for tap in 0..kh * kw {
                result.push(w[(tap * c + ic) * o + io]);
            }
        }
    }
    result
}

/// From `[O, C, KH, KW]` to `[KH, KW, C, O]`; `[kh, kw, c, o]` are the sizes.
pub(super) fn filters_last(w: &[f32], [kh, kw, c, o]: [usize; 4]) -> Vec<f32> {
    let mut result = vec![0.0; w.len()];
    for io in 0..o {
        for ic in 0..c {
            for tap in 0..kh * kw {
                result[(tap * c + ic) * o + io] = w[(io * c + ic) * kh * kw + tap];
            }
        }
    }
    result
}

/// Where the input `i` of a dense layer stands when channels come first: `[H, W, C]` was flattened here, `[C, H, W]` there.
fn channels_first_index(i: usize, flattened: Option<[usize; 3]>) -> usize {
    flattened.map_or(i, |[h, w, c]| {
        let (pixel, channel) = (i / c, i % c);
        channel * h * w + pixel
    })
}

/// From `[in, out]` to `[out, in]`, with the inputs in the order that flattening `[C, H, W]` gives.
pub(super) fn outputs_first(w: &[f32], [inputs, outputs]: [usize; 2], flattened: Option<[usize; 3]>) -> Vec<f32> {
    let mut result = vec![0.0; w.len()];
    for i in 0..inputs {
        let there = channels_first_index(i, flattened);
        for o in 0..outputs {
            result[o * inputs + there] = w[i * outputs + o];
        }
    }
    result
}

/// From `[out, in]` with inputs in the order of `[C, H, W]` to `[in, out]` with inputs in that of `[H, W, C]`.
pub(super) fn inputs_first(w: &[f32], [inputs, outputs]: [usize; 2], flattened: Option<[usize; 3]>) -> Vec<f32> {
    let mut result = vec![0.0; w.len()];
    for i in 0..inputs {
        let there = channels_first_index(i, flattened);
        for o in 0..outputs {
            result[i * outputs + o] = w[o * inputs + there];
        }
    }
    result
}
