//! The order of a parameter's values in this program and in PyTorch, which ONNX shares.
//!
//! Images have their channels last here and first in PyTorch, and so do filters: `[KH, KW, C, O]` becomes `[O, C, KH, KW]`, and
//! `[KH, KW, C, 1]` of a depthwise convolution `[C, 1, KH, KW]`. A
//! flattened image is therefore `[cells, channels]` here and `[channels, cells]` there. Its features keep this order through
//! layers that treat each of them alone, until a dense layer mixes them. All parameters on the way are permuted: the inputs of
//! that dense layer, the vectors of a normalization before it, and the outputs of a dense layer that is added to the image.
//!
//! If flattened images with different numbers of channels are added to each other, no permutation suits both: each feature here
//! would need two places there. Only in this case the exported model flattens with the channels last, as this program does, and
//! nothing is permuted. To refuse such a model would be no shorter, and whoever trained it could not export it.

use super::layers::{self, Features};
use crate::model::{LayerShape, Role, Source};

/// The order of the features of each layer's output.
#[derive(Debug)]
pub(crate) struct Orders {
    /// The number of channels of the flattened images that have these features; 1 if the order is the same in both programs.
    channels: Vec<usize>,
    /// Whether a layer flattens with the channels last in PyTorch too.
    pub(super) channels_last: Vec<bool>,
}

impl Orders {
    /// Follows the features through the graph.
    pub(crate) fn of(shapes: &[LayerShape]) -> Self {
        // Outputs whose features correspond one to one have the same order: they share the number of one of them.
        let mut group: Vec<usize> = (0..shapes.len()).collect();
        let mut flattened = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            match layers::features(shape) {
                Features::Mixed => {}
                Features::Flattened { channels } => flattened.push((i, channels)),
                Features::Kept => {
                    for source in &shape.sources {
                        let Source::Layer(j) = source else { continue };
                        let joined = group[*j];
                        group[..=i].iter_mut().filter(|g| **g == joined).for_each(|g| *g = i);
                    }
                }
            }
        }
        let (mut channels, mut channels_last) = (vec![1; shapes.len()], vec![false; shapes.len()]);
        for &(i, c) in &flattened {
            let is_mixed = flattened.iter().any(|&(j, other)| group[j] == group[i] && other != c);
            channels_last[i] = is_mixed;
            for j in (0..shapes.len()).filter(|&j| !is_mixed && group[j] == group[i]) {
                channels[j] = c;
            }
        }
        Orders { channels, channels_last }
    }
}

/// A tensor of a layer in PyTorch and ONNX, with its place here.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// The layer's name, for example `dense_1`.
    pub(crate) layer: String,
    /// What the tensor is for.
    pub(crate) role: Role,
    /// The index of the parameter. There is none for a normalization without factor or summand: these layers have both in
    /// PyTorch and ONNX, where the tensor has the role's initial value.
    pub(crate) parameter: Option<usize>,
    /// Shape in this program and in Keras: `[KH, KW, C, O]` with the input channels of one group, `[KH, KW, C, 1]`, `[in, out]` or
    /// `[out]`.
    pub(crate) shape: Vec<usize>,
    /// Shape in PyTorch: `[O, C, KH, KW]`, `[out, in]` or `[out]`.
    pub(crate) torch_shape: Vec<usize>,
    /// The values here as a tensor with four axes.
    axes: [usize; 4],
    /// The order of these axes in PyTorch.
    torch_axes: [usize; 4],
}

impl Slot {
    /// Returns the tensor's name, for example `dense_1.weight`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.layer, self.role.key())
    }

    /// Returns the tensor's values in PyTorch's order, from all parameters of the model.
    ///
    /// # Panics
    /// If the parameters are not those of the model.
    pub(crate) fn torch_values(&self, parameters: &[Vec<f32>]) -> Vec<f32> {
        match self.parameter {
            Some(index) => permute(&parameters[index], self.axes, self.torch_axes),
            None => vec![self.role.initial().unwrap_or_default(); self.shape.iter().product()],
        }
    }

    /// Converts values from PyTorch's order to this program's.
    ///
    /// # Panics
    /// If the number of values does not match the shape.
    pub(crate) fn own_values(&self, values: &[f32]) -> Vec<f32> {
        let mut back = [0; 4];
        for (to, &from) in self.torch_axes.iter().enumerate() {
            back[from] = to;
        }
        permute(values, self.torch_axes.map(|axis| self.axes[axis]), back)
    }
}

/// Returns the tensors that the layers have in PyTorch and ONNX, in the order of the layers.
pub(crate) fn slots(shapes: &[LayerShape]) -> Vec<Slot> {
    let orders = Orders::of(shapes);
    let mut slots = Vec::new();
    let mut first = 0;
    for (i, shape) in shapes.iter().enumerate() {
        let parameters = shape.parameters();
        let inputs = match shape.sources[0] {
            Source::Image => 1,
            Source::Layer(i) => orders.channels[i],
        };
        for &role in layers::torch_roles(&shape.layer) {
            let index = parameters.iter().position(|parameter| parameter.role == role);
            let of_channels = || shape.output.last().copied().into_iter().collect();
            let own = index.map_or_else(of_channels, |index| parameters[index].shape.clone());
            let (axes, torch_axes, torch_shape) =
                places(&layers::as_in_torch(&shape.layer, &own), inputs, orders.channels[i]);
            slots.push(Slot {
                layer: shape.name.clone(),
                role,
                parameter: index.map(|index| first + index),
                shape: own,
                torch_shape,
                axes,
                torch_axes,
            });
        }
        first += parameters.len();
    }
    slots
}

/// Returns the axes of a tensor, their order in PyTorch, and the tensor's shape there. A layer's inputs and outputs are images
/// with so many channels that were flattened.
fn places(shape: &[usize], inputs: usize, outputs: usize) -> ([usize; 4], [usize; 4], Vec<usize>) {
    match *shape {
        [kh, kw, c, o] => ([kh, kw, c, o], [3, 2, 0, 1], vec![o, c, kh, kw]),
        [i, o] => ([i / inputs, inputs, o / outputs, outputs], [3, 2, 1, 0], vec![o, i]),
        _ => {
            let n: usize = shape.iter().product();
            ([1, 1, n / outputs, outputs], [0, 1, 3, 2], shape.to_vec())
        }
    }
}

/// Permutes the axes of a row-major tensor: axis `i` of the result is axis `axes[i]` of the input.
fn permute(values: &[f32], shape: [usize; 4], axes: [usize; 4]) -> Vec<f32> {
    assert_eq!(values.len(), shape.iter().product::<usize>(), "number of values of a tensor {shape:?}");
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
