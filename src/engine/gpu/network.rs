//! A model on the GPU: its parameters, and the recording of its forward and backward pass.

use crate::engine::EngineError;
use crate::gpu::{Element, Gpu, PlanBuilder, Tensor};
use crate::model::{Activation, Layer, LayerShape, Model, conv2d_dims, pool2d_dims};
use crate::ops::conv2d::Upstream;
use crate::ops::dense::DenseDims;
use crate::ops::pool2d::Mean;
use crate::ops::{Form, SharedTiles, conv2d, dense, pool2d, relu};

/// One tensor per parameter, all in one buffer, so that one dispatch updates all of them.
#[derive(Debug)]
pub(super) struct Arena {
    pub(super) whole: Tensor,
    pub(super) parts: Vec<Tensor>,
}

impl Arena {
    pub(super) fn new(gpu: &Gpu, name: &str, model: &Model) -> Result<Self, EngineError> {
        let parts: Vec<(String, Vec<usize>)> = model.parameters()?.into_iter().map(|p| (p.name, p.shape)).collect();
        let (whole, parts) = gpu.arena(name, Element::F32, &parts)?;
        Ok(Arena { whole, parts })
    }

    /// Returns the name of the part that contains the element `index` of the whole, and the index within it.
    pub(super) fn part_at(&self, index: usize) -> (String, usize) {
        // The parts are in order: the last one that starts at or before the index contains it.
        let mut parts = self.parts.iter().map(|part| (part, part.first_element() - self.whole.first_element()));
        let part = parts.rfind(|(_, first)| *first <= index);
        part.map_or((self.whole.name().to_string(), index), |(part, first)| (part.name().to_string(), index - first))
    }

    /// Reads all parts back.
    pub(super) fn read(&self, gpu: &Gpu) -> Result<Vec<Vec<f32>>, EngineError> {
        self.parts.iter().map(|tensor| Ok(gpu.read(tensor)?)).collect()
    }

    /// Writes `values` into the parts.
    pub(super) fn write(&self, gpu: &Gpu, values: &[Vec<f32>]) {
        for (tensor, values) in self.parts.iter().zip(values) {
            gpu.write(tensor, values);
        }
    }
}

/// Layers with shapes, and the positions of their parameters in an [`Arena`].
#[derive(Debug)]
pub(super) struct Network {
    layers: Vec<LayerShape>,
    /// Index of the layer's weight among the parameters; its bias follows. `None` for layers without parameters.
    weights: Vec<Option<usize>>,
    /// Whether the layer's input is the output of a ReLU: then its gradient is zero wherever that input is zero.
    ///
    /// The gradient with respect to such a tensor is always stored masked, so that a convolution with a fused ReLU receives the
    /// gradient of its own sum without another pass. Max pooling preserves the property: the maximum of positive values is
    /// positive.
    input_is_relu: Vec<bool>,
    /// The sizes of the tiles in workgroup memory, on devices that use them.
    tiles: SharedTiles,
}

/// Returns for each layer whether its input is the output of a ReLU.
pub(in crate::engine) fn inputs_from_relu(layers: &[LayerShape]) -> Vec<bool> {
    let mut is_relu = false;
    let mut inputs = Vec::new();
    for shape in layers {
        inputs.push(is_relu);
        is_relu = match &shape.layer {
            Layer::Conv2d { activation, .. } | Layer::Dense { activation, .. } => *activation == Activation::Relu,
            Layer::Relu => true,
            Layer::MaxPool2d { .. } | Layer::Flatten => is_relu,
            Layer::AveragePool2d { .. } | Layer::SumPool2d { .. } => false,
        };
    }
    inputs
}

/// The outputs of every layer for one batch.
#[derive(Debug)]
pub(super) struct Activations {
    /// The batch, `[N, 28, 28, 1]`.
    pub(super) x: Tensor,
    /// Output of each layer; `None` for a convolution that is pooled in the same dispatch.
    outputs: Vec<Option<Tensor>>,
    /// Argmax of each max pooling.
    argmax: Vec<Option<Tensor>>,
    /// The last layer's output, `[N, 10]`.
    pub(super) logits: Tensor,
}

impl Activations {
    /// Returns the input of layer `i`; `None` for a pooling that is part of the dispatch before it.
    fn input(&self, i: usize) -> Option<&Tensor> {
        if i == 0 { Some(&self.x) } else { self.outputs[i - 1].as_ref() }
    }

    fn output(&self, i: usize) -> &Tensor {
        self.outputs[i].as_ref().expect("only a convolution before a pooling has no output")
    }
}

impl Network {
    pub(super) fn new(model: &Model, tiles: SharedTiles) -> Result<Self, EngineError> {
        let layers = model.shapes()?;
        let mut weights = Vec::new();
        let mut next = 0;
        for shape in &layers {
            weights.push(matches!(shape.layer, Layer::Conv2d { .. } | Layer::Dense { .. }).then_some(next));
            if weights.last().is_some_and(Option::is_some) {
                next += 2;
            }
        }
        let input_is_relu = inputs_from_relu(&layers);
        Ok(Network { layers, weights, input_is_relu, tiles })
    }

    /// The largest number of output values of a layer for one image.
    pub(super) fn widest_output(&self) -> usize {
        self.layers.iter().map(|shape| shape.output.iter().product()).max().unwrap_or(1)
    }

    /// Multiply-adds of the forward pass of one image.
    pub(super) fn multiply_adds(&self) -> usize {
        self.layers.iter().map(|shape| shape.multiply_adds).sum()
    }

    /// The largest number of values for one image in a tensor of a training step: outputs and their gradients, except those that exist
    /// only in registers.
    pub(super) fn widest_tensor(&self, gpu: &Gpu) -> usize {
        let is_kept = |i: &usize| !(self.pools(gpu, *i, 1) && self.unpools(gpu, i + 1, 1));
        let sizes = (0..self.layers.len()).filter(is_kept).map(|i| self.layers[i].output.iter().product());
        sizes.max().unwrap_or(1)
    }

    /// Creates the tensors for the outputs of a batch of `n` images.
    pub(super) fn activations(&self, gpu: &Gpu, n: usize) -> Result<Activations, EngineError> {
        let batch = |shape: &[usize]| [&[n], shape].concat();
        let x = gpu.tensor("x", &batch(&self.layers[0].input), Element::F32)?;
        let mut outputs: Vec<Option<Tensor>> = Vec::new();
        let mut argmax = Vec::new();
        for (i, shape) in self.layers.iter().enumerate() {
            let name = format!("{}.y", shape.name);
            let output = match (&shape.layer, outputs.last()) {
                (Layer::Flatten, None) => Some(x.slice(name, 0, &batch(&shape.output))),
                (Layer::Flatten, Some(input)) => {
                    input.as_ref().map(|input| input.slice(name, 0, &batch(&shape.output)))
                }
                _ if self.pools(gpu, i, n) => None,
                _ => Some(gpu.tensor(&name, &batch(&shape.output), Element::F32)?),
            };
            argmax.push(match shape.layer {
                Layer::MaxPool2d { .. } => {
                    let name = format!("{}.argmax", shape.name);
                    Some(gpu.tensor(&name, &batch(&shape.output), Element::U32)?)
                }
                _ => None,
            });
            outputs.push(output);
        }
        let logits = outputs.last().cloned().flatten().unwrap_or_else(|| x.clone());
        Ok(Activations { x, outputs, argmax, logits })
    }

    /// Records the forward pass of a batch of `n` images.
    pub(super) fn record_forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        n: usize,
        parameters: &Arena,
        activations: &Activations,
    ) -> Result<(), EngineError> {
        let gpu = plan.gpu();
        for (i, shape) in self.layers.iter().enumerate() {
            // No input: the convolution before has already recorded this pooling in its own dispatch.
            let Some(x) = activations.input(i) else { continue };
            let y = &activations.outputs[i];
            let fail = batch_error(shape, n);
            match &shape.layer {
                Layer::Conv2d { activation, .. } => {
                    let d = conv2d_dims(&shape.layer, n, &shape.input).map_err(fail)?;
                    let (w, b) = self.weight_and_bias(parameters, i);
                    let form = Form::choose(gpu, self.tiles, &[d.o]);
                    let relu = *activation == Activation::Relu;
                    match y {
                        Some(y) => conv2d::record_forward(plan, form, &d, relu, x, w, b, y)?,
                        None => {
                            let (y, argmax) = (activations.output(i + 1), self.argmax(activations, i + 1));
                            conv2d::record_forward_pool(plan, form, &d, relu, x, w, b, y, argmax)?;
                        }
                    }
                }
                Layer::Dense { activation, .. } => {
                    let d = dense_dims(shape, n);
                    let (w, b) = self.weight_and_bias(parameters, i);
                    let form = Form::choose(gpu, self.tiles, &[d.i, d.o]);
                    let relu = *activation == Activation::Relu;
                    dense::record_forward(plan, form, &d, relu, x, w, b, activations.output(i))?;
                }
                Layer::MaxPool2d { .. } => {
                    let d = pool2d_dims(&shape.layer, n, &shape.input).map_err(fail)?;
                    pool2d::record_max_forward(plan, &d, x, activations.output(i), self.argmax(activations, i))?;
                }
                Layer::AveragePool2d { .. } | Layer::SumPool2d { .. } => {
                    let d = pool2d_dims(&shape.layer, n, &shape.input).map_err(fail)?;
                    pool2d::record_mean_forward(plan, mean(&shape.layer), &d, x, activations.output(i))?;
                }
                Layer::Relu => relu::record_forward(plan, x.len(), x, activations.output(i))?,
                Layer::Flatten => {}
            }
        }
        Ok(())
    }

    /// Records the backward pass of a batch of `n` images: from the gradient of the logits to the gradients of all parameters.
    pub(super) fn record_backward(
        &self,
        plan: &mut PlanBuilder<'_>,
        n: usize,
        parameters: &Arena,
        activations: &Activations,
        dlogits: &Tensor,
        gradients: &Arena,
    ) -> Result<(), EngineError> {
        let gpu = plan.gpu();
        let first_with_weights = self.weights.iter().position(Option::is_some).unwrap_or(0);
        let mut dy = dlogits.clone();
        // The argmax of a pooling that the convolution before it undoes in its own backward pass.
        let mut pooled = None;
        for (i, shape) in self.layers.iter().enumerate().skip(first_with_weights).rev() {
            if self.unpools(gpu, i, n) {
                pooled = Some(self.argmax(activations, i));
                continue;
            }
            let pooled = pooled.take();
            // Only max pooling needs no input for its gradient.
            let x = activations.input(i).unwrap_or(&activations.x);
            let x_shape = [&[n], &shape.input[..]].concat();
            let is_relu = self.input_is_relu[i];
            let fail = batch_error(shape, n);
            // The gradient of the images themselves is not needed.
            let needs_dx = i > first_with_weights;
            let dx = match shape.layer {
                Layer::Flatten | Layer::Relu => dy.slice(format!("{}.dx", shape.name), 0, &x_shape),
                _ if needs_dx => gpu.tensor(&format!("{}.dx", shape.name), &x_shape, Element::F32)?,
                _ => dy.clone(),
            };
            match &shape.layer {
                Layer::Conv2d { .. } => {
                    let d = conv2d_dims(&shape.layer, n, &shape.input).map_err(fail)?;
                    let (w, _) = self.weight_and_bias(parameters, i);
                    let (dw, db) = self.weight_and_bias(gradients, i);
                    let form_w = Form::choose(gpu, self.tiles, &[d.o]);
                    let upstream = match pooled {
                        Some(argmax) => Upstream::Pooled(&dy, argmax),
                        None => Upstream::Direct(&dy),
                    };
                    if needs_dx {
                        let forms = [form_w, Form::choose(gpu, self.tiles, &[d.c, d.o])];
                        conv2d::record_backward(plan, forms, &d, is_relu, x, w, upstream, &dx, dw, db)?;
                    } else {
                        conv2d::record_backward_w(plan, form_w, &d, x, upstream, dw, db)?;
                    }
                }
                Layer::Dense { .. } => {
                    let d = dense_dims(shape, n);
                    let (w, _) = self.weight_and_bias(parameters, i);
                    let (dw, db) = self.weight_and_bias(gradients, i);
                    let form = Form::choose(gpu, self.tiles, &[d.i, d.o]);
                    if needs_dx {
                        dense::record_backward(plan, form, &d, is_relu, x, w, &dy, &dx, dw, db)?;
                    } else {
                        dense::record_backward_w(plan, form, &d, x, &dy, dw, db)?;
                    }
                }
                Layer::MaxPool2d { .. } => {
                    let d = pool2d_dims(&shape.layer, n, &shape.input).map_err(fail)?;
                    pool2d::record_max_backward_x(plan, &d, self.argmax(activations, i), &dy, &dx)?;
                }
                Layer::AveragePool2d { .. } | Layer::SumPool2d { .. } => {
                    let d = pool2d_dims(&shape.layer, n, &shape.input).map_err(fail)?;
                    let unmasked = if is_relu {
                        gpu.tensor(&format!("{}.dx_unmasked", shape.name), x.shape(), Element::F32)?
                    } else {
                        dx.clone()
                    };
                    pool2d::record_mean_backward_x(plan, mean(&shape.layer), &d, &dy, &unmasked)?;
                    if is_relu {
                        relu::record_backward_x(plan, x.len(), x, &unmasked, &dx)?;
                    }
                }
                // The gradient is already masked by this layer's output (see `input_is_relu`), which is all that a ReLU does.
                Layer::Relu | Layer::Flatten => {}
            }
            dy = dx;
        }
        Ok(())
    }

    /// Whether layer `i` is a max pooling that the convolution before it undoes in its own backward pass.
    fn unpools(&self, gpu: &Gpu, i: usize, n: usize) -> bool {
        let Some(before) = i.checked_sub(1).map(|i| &self.layers[i]) else { return false };
        // The backward pass ends at the first layer with weights.
        let needs_dx = self.weights[..i - 1].iter().any(Option::is_some);
        let (Layer::Conv2d { .. }, Layer::MaxPool2d { .. }) = (&before.layer, &self.layers[i].layer) else {
            return false;
        };
        let (conv, pool) = (
            conv2d_dims(&before.layer, n, &before.input),
            pool2d_dims(&self.layers[i].layer, n, &self.layers[i].input),
        );
        let (Ok(d), Ok(pool)) = (conv, pool) else { return false };
        let by_4 = if needs_dx { vec![d.c, d.o] } else { vec![d.o] };
        conv2d::unpools(Form::choose(gpu, self.tiles, &by_4), &d, needs_dx, &pool)
    }

    /// Whether layer `i` is a convolution that includes the max pooling after it in its dispatch. Its output before pooling is never
    /// needed, because the gradient of the pooling uses the argmax.
    fn pools(&self, gpu: &Gpu, i: usize, n: usize) -> bool {
        let (shape, Some(next)) = (&self.layers[i], self.layers.get(i + 1)) else { return false };
        let (Layer::Conv2d { .. }, Layer::MaxPool2d { .. }) = (&shape.layer, &next.layer) else { return false };
        let (conv, pool) = (conv2d_dims(&shape.layer, n, &shape.input), pool2d_dims(&next.layer, n, &next.input));
        let (Ok(d), Ok(pool)) = (conv, pool) else { return false };
        conv2d::pools(Form::choose(gpu, self.tiles, &[d.o]), &d, &pool)
    }

    fn argmax<'a>(&self, activations: &'a Activations, i: usize) -> &'a Tensor {
        activations.argmax[i].as_ref().expect("`activations` creates an argmax for every max pooling")
    }

    fn weight_and_bias<'a>(&self, arena: &'a Arena, i: usize) -> (&'a Tensor, &'a Tensor) {
        let weight = self.weights[i].expect("`new` numbers the weights of every convolution and dense layer");
        (&arena.parts[weight], &arena.parts[weight + 1])
    }
}

fn dense_dims(shape: &LayerShape, n: usize) -> DenseDims {
    DenseDims { n, i: shape.input[0], o: shape.output[0] }
}

fn mean(layer: &Layer) -> Mean {
    match layer {
        Layer::SumPool2d { .. } => Mean::Sum,
        _ => Mean::Average,
    }
}

fn batch_error(shape: &LayerShape, batch_size: usize) -> impl FnOnce(String) -> EngineError {
    let layer = shape.name.clone();
    move |reason| EngineError::Batch { layer, batch_size, reason }
}
