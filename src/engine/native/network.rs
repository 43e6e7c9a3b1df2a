//! A model for the native engine: its layers as a list of calls, each over the rows of a batch that one thread processes.

use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::dense::DenseDims;
use crate::cpu::pool2d::{self, Pool2dDims};
use crate::cpu::relu::relu_forward;
use crate::engine::EngineError;
use crate::engine::gpu::network::inputs_from_relu;
use crate::model::{Activation, Layer, LayerShape, Model, conv2d_dims, pool2d_dims};
use crate::native::conv2d::{Conv2d, Form, Packed, Scratch};
use crate::native::{Aligned, dense, mask};
use bytemuck::Pod;

/// One call of the list. The batch dimension of its sizes is ignored.
#[derive(Debug)]
enum Call {
    /// Includes the max pooling after it, if there is one.
    Conv2d(Conv2d),
    Dense {
        d: DenseDims,
        relu: bool,
    },
    MaxPool2d(Pool2dDims),
    AveragePool2d(Pool2dDims),
    SumPool2d(Pool2dDims),
    Relu,
}

/// A call and its place in the network.
#[derive(Debug)]
struct Step {
    call: Call,
    /// The name of the output for messages: that of the last layer that the call computes.
    name: String,
    kind: &'static str,
    /// Index of its weight among the parameters; its bias follows.
    weight: Option<usize>,
    /// Whether its input is the output of a ReLU; see `Network::input_is_relu`.
    masked: bool,
    /// Whether the gradient of its input is needed.
    needs_dx: bool,
    x_len: usize,
    y_len: usize,
}

/// The list of calls.
#[derive(Debug)]
pub(super) struct NativeNetwork {
    steps: Vec<Step>,
}

/// The parameters in the forms that the calls use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<'a> {
    pub(super) parameters: &'a [Aligned<f32>],
    /// One per call; empty for all but convolutions.
    pub(super) packed: &'a [Packed],
}

/// The tensors of a batch, or of the rows that one thread processes.
#[derive(Debug)]
pub(super) struct Tensors<F, U> {
    /// The input, then the output of each call.
    pub(super) outputs: Vec<F>,
    /// The argmax of each call with max pooling; empty for the others.
    pub(super) argmax: Vec<U>,
    /// The gradient of each of `outputs`; empty for the input, and without training.
    pub(super) gradients: Vec<F>,
    /// The partial sums of the convolutions' gradients, one part per group of rows; empty for the other calls.
    pub(super) sums: Vec<F>,
}

/// The whole tensors.
pub(super) type Owned = Tensors<Aligned<f32>, Aligned<u32>>;
/// Some rows of the tensors.
pub(super) type Rows<'a> = Tensors<&'a mut [f32], &'a mut [u32]>;

impl NativeNetwork {
    /// Creates the list of calls of a model, with its convolutions in the given form.
    pub(super) fn new(model: &Model, form: Form) -> Result<Self, EngineError> {
        let layers = model.shapes()?;
        let masked = inputs_from_relu(&layers);
        let mut steps: Vec<Step> = Vec::new();
        let mut next_weight = 0;
        let mut rest = layers.iter().zip(masked).peekable();
        while let Some((shape, masked)) = rest.next() {
            // Nothing before the first layer with weights is trained or needs a gradient.
            let needs_dx = next_weight > 0;
            let pooling = |shape: &LayerShape| pool2d_dims(&shape.layer, 1, &shape.input).map_err(unfit(shape));
            let mut last = shape;
            let call = match &shape.layer {
                Layer::Flatten => continue,
                Layer::Relu => Call::Relu,
                Layer::MaxPool2d { .. } => Call::MaxPool2d(pooling(shape)?),
                Layer::AveragePool2d { .. } => Call::AveragePool2d(pooling(shape)?),
                Layer::SumPool2d { .. } => Call::SumPool2d(pooling(shape)?),
                Layer::Dense { activation, .. } => Call::Dense {
                    d: DenseDims { n: 1, i: shape.input[0], o: shape.output[0] },
                    relu: *activation == Activation::Relu,
                },
                Layer::Conv2d { activation, .. } => {
                    let d = conv2d_dims(&shape.layer, 1, &shape.input).map_err(unfit(shape))?;
                    let next = rest.peek().map(|(next, _)| *next);
                    let pool = match next.filter(|next| matches!(next.layer, Layer::MaxPool2d { .. })) {
                        Some(next) => Some(pooling(next)?).filter(Conv2d::can_pool),
                        None => None,
                    };
                    if let (Some(_), Some((pool, _))) = (&pool, rest.next_if(|_| pool.is_some())) {
                        last = pool;
                    }
                    Call::Conv2d(Conv2d::new(&d, *activation == Activation::Relu, pool, needs_dx, form))
                }
            };
            let weight = matches!(call, Call::Conv2d(_) | Call::Dense { .. }).then_some(next_weight);
            next_weight += if weight.is_some() { 2 } else { 0 };
            steps.push(Step {
                call,
                name: last.name.clone(),
                kind: shape.layer.kind(),
                weight,
                masked,
                needs_dx,
                x_len: shape.input.iter().product(),
                y_len: last.output.iter().product(),
            });
        }
        Ok(NativeNetwork { steps })
    }

    /// Creates the scratch memory of the convolutions for one thread.
    pub(super) fn scratch(&self) -> Scratch {
        Scratch::new(self.convolutions())
    }

    fn convolutions(&self) -> impl Iterator<Item = &Conv2d> {
        self.steps.iter().filter_map(|step| match &step.call {
            Call::Conv2d(conv) => Some(conv),
            _ => None,
        })
    }

    /// Describes how each convolution is computed.
    pub(super) fn describe(&self) -> Vec<String> {
        self.convolutions().map(|conv| conv.describe().join(", ")).collect()
    }

    /// Packs all filters again.
    pub(super) fn pack(&self, parameters: &[Aligned<f32>], packed: &mut Vec<Packed>) {
        packed.resize_with(self.steps.len(), Packed::default);
        for (step, packed) in self.steps.iter().zip(packed) {
            if let (Call::Conv2d(conv), Some(weight)) = (&step.call, step.weight) {
                conv.pack(&parameters[weight], packed);
            }
        }
    }

    /// Creates the tensors for `n` rows; for training, with gradients and with `groups` parts of the convolutions' sums.
    pub(super) fn tensors(&self, n: usize, groups: Option<usize>) -> Result<Owned, EngineError> {
        let x_len = self.steps.first().map_or(0, |step| step.x_len);
        let lens = || std::iter::once(x_len).chain(self.steps.iter().map(|step| step.y_len));
        let values = |lens: Vec<usize>| lens.into_iter().map(|len| zeros(n * len)).collect::<Result<_, _>>();
        let argmax = self.steps.iter().map(|step| zeros(n * step.argmax_len())).collect::<Result<_, _>>()?;
        let groups = groups.unwrap_or(0);
        let gradients = lens().enumerate().map(|(i, len)| if groups > 0 && i > 0 { len } else { 0 }).collect();
        Ok(Tensors {
            outputs: values(lens().collect())?,
            argmax,
            gradients: values(gradients)?,
            sums: self.steps.iter().map(|step| zeros(groups * step.sums_len())).collect::<Result<_, _>>()?,
        })
    }

    /// Divides the first `n` rows of `tensors` into shares of `rows`, with one part of the sums per `group` rows.
    pub(super) fn split<'a>(&self, tensors: &'a mut Owned, n: usize, rows: usize, group: usize) -> Vec<Rows<'a>> {
        let shares = n.div_ceil(rows);
        let with_room = || Vec::with_capacity(self.steps.len() + 1);
        let mut split: Vec<Rows<'a>> = (0..shares)
            .map(|_| Tensors {
                outputs: with_room(),
                argmax: Vec::with_capacity(self.steps.len()),
                gradients: with_room(),
                sums: with_room(),
            })
            .collect();
        let x_len = self.steps.first().map_or(0, |step| step.x_len);
        let lens = std::iter::once(x_len).chain(self.steps.iter().map(|step| step.y_len));
        for ((values, gradients), len) in tensors.outputs.iter_mut().zip(&mut tensors.gradients).zip(lens) {
            deal(&mut split, values, n * len, rows * len, |rows| &mut rows.outputs);
            deal(&mut split, gradients, n * len, rows * len, |rows| &mut rows.gradients);
        }
        let groups = n.div_ceil(group);
        for ((step, argmax), sums) in self.steps.iter().zip(&mut tensors.argmax).zip(&mut tensors.sums) {
            deal(&mut split, argmax, n * step.argmax_len(), rows * step.argmax_len(), |rows| &mut rows.argmax);
            let len = step.sums_len();
            deal(&mut split, sums, groups * len, rows.div_ceil(group) * len, |rows| &mut rows.sums);
        }
        split
    }

    /// Computes the outputs of `n` rows from their input.
    pub(super) fn forward(&self, weights: Weights<'_>, n: usize, rows: &mut Rows<'_>, scratch: &mut Scratch) {
        for i in 0..self.steps.len() {
            self.forward_call(i, weights, n, rows, scratch);
        }
    }

    /// Makes one call of [`NativeNetwork::forward`].
    pub(super) fn forward_call(
        &self,
        i: usize,
        weights: Weights<'_>,
        n: usize,
        rows: &mut Rows<'_>,
        scratch: &mut Scratch,
    ) {
        let step = &self.steps[i];
        let (before, after) = rows.outputs.split_at_mut(i + 1);
        let (x, y) = (&before[i][..n * step.x_len], &mut after[0][..n * step.y_len]);
        let argmax = &mut *rows.argmax[i];
        match &step.call {
            Call::Conv2d(conv) => {
                let [w, b] = step.weight_and_bias(weights.parameters);
                conv.forward(x, w, &weights.packed[i], b, y, argmax, scratch);
            }
            Call::Dense { d, relu } => {
                let [w, b] = step.weight_and_bias(weights.parameters);
                dense::dense_forward(&DenseDims { n, ..*d }, *relu, x, w, b, y);
            }
            Call::MaxPool2d(d) => pool2d::pool2d_max_forward(&Pool2dDims { n, ..*d }, x, y, argmax),
            Call::AveragePool2d(d) => pool2d::pool2d_average_forward(&Pool2dDims { n, ..*d }, x, y),
            Call::SumPool2d(d) => pool2d::pool2d_sum_forward(&Pool2dDims { n, ..*d }, x, y),
            Call::Relu => relu_forward(x, y),
        }
    }

    /// Computes the gradients of `n` rows from that of the logits, the last of `rows.gradients`, down to the first layer with weights,
    /// and the convolutions' sums of each `group` rows.
    pub(super) fn backward(
        &self,
        weights: Weights<'_>,
        n: usize,
        group: usize,
        rows: &mut Rows<'_>,
        scratch: &mut Scratch,
    ) {
        for i in (0..self.steps.len()).rev() {
            self.backward_call(i, weights, n, group, rows, scratch);
        }
    }

    /// Makes one call of [`NativeNetwork::backward`].
    pub(super) fn backward_call(
        &self,
        i: usize,
        weights: Weights<'_>,
        n: usize,
        group: usize,
        rows: &mut Rows<'_>,
        scratch: &mut Scratch,
    ) {
        let step = &self.steps[i];
        let (before, after) = rows.gradients.split_at_mut(i + 1);
        let dy = &after[0][..n * step.y_len];
        let mut dx = step.needs_dx.then(|| &mut before[i][..n * step.x_len]);
        let x = &rows.outputs[i][..n * step.x_len];
        let argmax = &*rows.argmax[i];
        if let (Call::Conv2d(conv), Some(_)) = (&step.call, step.weight) {
            let [w, _] = step.weight_and_bias(weights.parameters);
            for (part, sums) in rows.sums[i].chunks_exact_mut(conv.sums_len()).enumerate() {
                let some = part * group..n.min((part + 1) * group);
                let of = |len: usize| some.start * len..some.end * len;
                let dx = dx.as_mut().map(|dx| &mut dx[of(step.x_len)]);
                let argmax = if argmax.is_empty() { argmax } else { &argmax[of(step.y_len)] };
                let (x, dy) = (&x[of(step.x_len)], &dy[of(step.y_len)]);
                sums.fill(0.0);
                conv.backward(step.masked, x, w, &weights.packed[i], dy, argmax, sums, dx, scratch);
            }
            return;
        }
        let Some(dx) = dx else { return };
        match &step.call {
            Call::Dense { d, .. } => {
                let [w, _] = step.weight_and_bias(weights.parameters);
                dense::dense_backward_x(&DenseDims { n, ..*d }, step.masked, x, w, dy, dx);
            }
            // The gradient of a maximum is already masked, and goes to an element of the same sign.
            Call::MaxPool2d(d) => pool2d::pool2d_max_backward_x(&Pool2dDims { n, ..*d }, argmax, dy, dx),
            Call::AveragePool2d(d) => pool2d::pool2d_average_backward_x(&Pool2dDims { n, ..*d }, dy, dx),
            Call::SumPool2d(d) => pool2d::pool2d_sum_backward_x(&Pool2dDims { n, ..*d }, dy, dx),
            // The gradient is already masked by this layer's output, which is all that a ReLU does.
            Call::Relu | Call::Conv2d(_) => dx.copy_from_slice(dy),
        }
        if step.masked && matches!(step.call, Call::AveragePool2d(_) | Call::SumPool2d(_)) {
            mask(x, dx);
        }
    }

    /// Returns the lengths of the slices into which the threads divide each parameter: some rows for dense weights, everything for the others.
    pub(super) fn slice_lens(&self) -> Vec<usize> {
        const ROWS: usize = 56;
        let lens = self.steps.iter().flat_map(|step| match &step.call {
            Call::Dense { d, .. } => vec![ROWS.min(d.i) * d.o, d.o],
            Call::Conv2d(conv) => vec![conv.dims().w_len(), conv.dims().o],
            _ => Vec::new(),
        });
        lens.collect()
    }

    /// Computes the gradient of the elements of the parameter `index` from `first` on, `g.len()` of them, over `n` rows in groups of `group`.
    pub(super) fn gradient(&self, index: usize, first: usize, n: usize, group: usize, tensors: &Owned, g: &mut [f32]) {
        let (i, step) = self.step_of(index);
        let (x, dy) = (&tensors.outputs[i][..n * step.x_len], &tensors.gradients[i + 1][..n * step.y_len]);
        let is_bias = step.weight != Some(index);
        match &step.call {
            Call::Dense { d, .. } if is_bias => bias_backward_b(&BiasDims { n, o: d.o }, dy, g),
            Call::Dense { d, .. } => dense::dense_backward_w(&DenseDims { n, ..*d }, x, dy, first / d.o, g),
            Call::Conv2d(conv) => {
                let parts = &tensors.sums[i][..n.div_ceil(group) * conv.sums_len()];
                if is_bias { conv.gather_db(parts, g) } else { conv.gather_dw(parts, g) }
            }
            _ => unreachable!("only convolutions and dense layers have parameters"),
        }
    }

    /// Packs the parameter `index` again, if it is a filter.
    pub(super) fn pack_one(&self, index: usize, w: &[f32], packed: &mut Packed) {
        if let (_, Step { call: Call::Conv2d(conv), weight, .. }) = self.step_of(index)
            && *weight == Some(index)
        {
            conv.pack(w, packed);
        }
    }

    /// Returns the index of the call that uses the parameter `index`.
    pub(super) fn step_of_parameter(&self, index: usize) -> usize {
        self.step_of(index).0
    }

    fn step_of(&self, index: usize) -> (usize, &Step) {
        let mut steps = self.steps.iter().enumerate();
        let found = steps.find(|(_, step)| step.weight.is_some_and(|weight| weight / 2 == index / 2));
        found.expect("each parameter belongs to a layer")
    }

    /// Returns the name and the operation of each output.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.steps.iter().map(|step| (&*step.name, step.kind))
    }
}

impl Step {
    fn weight_and_bias<'a>(&self, parameters: &'a [Aligned<f32>]) -> [&'a [f32]; 2] {
        let weight = self.weight.expect("convolutions and dense layers have parameters");
        [&parameters[weight], &parameters[weight + 1]]
    }

    fn argmax_len(&self) -> usize {
        match &self.call {
            Call::MaxPool2d(_) => self.y_len,
            Call::Conv2d(conv) if conv.pool().is_some() => self.y_len,
            _ => 0,
        }
    }

    fn sums_len(&self) -> usize {
        match &self.call {
            Call::Conv2d(conv) => conv.sums_len(),
            _ => 0,
        }
    }
}

/// Divides the first `len` of `values` into shares of `share`, one for each of `split`; once they run out, the shares are empty.
fn deal<'a, T>(
    split: &mut [Rows<'a>],
    values: &'a mut [T],
    len: usize,
    share: usize,
    list: impl for<'r> Fn(&'r mut Rows<'a>) -> &'r mut Vec<&'a mut [T]>,
) {
    let len = len.min(values.len());
    let mut shares = values[..len].chunks_mut(share.max(1));
    for rows in split {
        list(rows).push(shares.next().unwrap_or_default());
    }
}

/// Allocates `len` zeros.
///
/// # Errors
/// There is not enough memory.
pub(super) fn zeros<T: Pod>(len: usize) -> Result<Aligned<T>, EngineError> {
    Aligned::zeros(len).map_err(|_| EngineError::Memory { bytes: len * size_of::<T>() })
}

/// The error for a layer that does not fit its input.
fn unfit(shape: &LayerShape) -> impl FnOnce(String) -> EngineError + use<> {
    let layer = shape.name.clone();
    move |reason| EngineError::Batch { layer, batch_size: 1, reason }
}
