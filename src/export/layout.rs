//! The order of a weight's axes in this program and in PyTorch.
//!
//! Every weight is treated as a filter `[KH, KW, C, O]`. A convolution's weight already is one; a dense layer after a
//! flatten is a convolution whose window is the whole image `[H, W, C]`, and any other dense layer sees one cell.
//! PyTorch's order is then always `[O, C, KH, KW]`: for the dense layer after the flatten, this means that its rows are
//! permuted from H, W, C to C, H, W.

use crate::model::{Layer, LayerShape};

/// Axes of a filter `[KH, KW, C, O]` in PyTorch's order.
const TO_TORCH: [usize; 4] = [3, 2, 0, 1];
/// Axes of a filter `[O, C, KH, KW]` in this program's order.
const FROM_TORCH: [usize; 4] = [2, 3, 1, 0];

/// A layer with the shape of its weight as a filter.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// For example `dense_1`.
    pub(crate) layer: String,
    /// `[KH, KW, C, O]`.
    pub(crate) shape: [usize; 4],
    is_conv: bool,
}

impl Filter {
    /// Returns the shape of the weight in this program and in Keras: `[KH, KW, C, O]` or `[in, out]`.
    pub(crate) fn keras_shape(&self) -> Vec<usize> {
        let [kh, kw, c, o] = self.shape;
        if self.is_conv { vec![kh, kw, c, o] } else { vec![kh * kw * c, o] }
    }

    /// Returns the shape of the weight in PyTorch: `[O, C, KH, KW]` or `[out, in]`.
    pub(crate) fn torch_shape(&self) -> Vec<usize> {
        let [kh, kw, c, o] = self.shape;
        if self.is_conv { vec![o, c, kh, kw] } else { vec![o, c * kh * kw] }
    }

    /// Converts a weight of this program to PyTorch's order.
    ///
    /// # Panics
    /// If the number of values does not match the shape.
    pub(crate) fn torch_values(&self, values: &[f32]) -> Vec<f32> {
        permute(values, self.shape, TO_TORCH)
    }

    /// Converts a weight from PyTorch to this program's order.
    ///
    /// # Panics
    /// If the number of values does not match the shape.
    pub(crate) fn own_values(&self, values: &[f32]) -> Vec<f32> {
        permute(values, TO_TORCH.map(|axis| self.shape[axis]), FROM_TORCH)
    }
}

/// Returns the weights of a model as filters, in the order of the layers.
pub(crate) fn filters(shapes: &[LayerShape]) -> Vec<Filter> {
    let mut filters = Vec::new();
    // The image [H, W, C] that was flattened and that no dense layer has mixed yet.
    let mut flattened = None;
    for shape in shapes {
        match (&shape.layer, &shape.input[..], &shape.output[..]) {
            (Layer::Flatten, &[h, w, c], _) => flattened = Some([h, w, c]),
            (Layer::Conv2d { kernel_size, .. }, &[.., c], &[.., o]) => {
                let shape_of_weight = [kernel_size.0, kernel_size.1, c, o];
                filters.push(Filter { layer: shape.name.clone(), shape: shape_of_weight, is_conv: true });
            }
            (Layer::Dense { .. }, &[inputs], &[o]) => {
                let [h, w, c] = flattened.take().unwrap_or([1, 1, inputs]);
                filters.push(Filter { layer: shape.name.clone(), shape: [h, w, c, o], is_conv: false });
            }
            _ => {}
        }
    }
    filters
}

/// Permutes the axes of a row-major tensor: axis `i` of the result is axis `axes[i]` of the input.
fn permute(values: &[f32], shape: [usize; 4], axes: [usize; 4]) -> Vec<f32> {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "number of values of a filter {shape:?}");
    let [_, s1, s2, s3] = shape;
    let strides = [s1 * s2 * s3, s2 * s3, s3, 1];
    let [[n0, t0], [n1, t1], [n2, t2], [n3, t3]] = axes.map(|axis| [shape[axis], strides[axis]]);
    let mut permuted = Vec::with_capacity(values.len());
    for i0 in 0..n0 {
        for i1 in 0..n1 {
            for i2 in 0..n2 {
                let first = i0 * t0 + i1 * t1 + i2 * t2;
                permuted.extend((0..n3).map(|i3| values[first + i3 * t3]));
            }
        }
    }
    permuted
}
