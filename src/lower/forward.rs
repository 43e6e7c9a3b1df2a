//! Emits the forward instructions layer by layer, and fuses those that an engine computes in one.

use super::{Conv2d, Dense, GroupedConv2d, Id, LowerError, Lowering, Mode, Op, Place, Relu, SoftmaxXent};
use crate::cpu::dense::DenseDims;
use crate::cpu::groupedconv2d::GroupedConv2dDims;
use crate::cpu::pool2d::Pool2dDims;
use crate::model::{Activation, Layer, LayerShape, Role, Source, conv2d_dims, pool2d_dims};

/// A layer that is being lowered.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) layers: &'a [LayerShape],
    pub(super) index: usize,
}

impl<'a> At<'a> {
    fn at(self, index: usize) -> Self {
        At { index, ..self }
    }

    pub(super) fn shape(self) -> &'a LayerShape {
        &self.layers[self.index]
    }

    /// Returns the number of channels of the output, or of features if it is a list of them.
    pub(super) fn channels(self) -> usize {
        *self.shape().output.last().unwrap_or(&1)
    }

    /// Returns the index of the layer that reads this one's output, if there is only one.
    pub(super) fn only_reader(self) -> Option<usize> {
        let source = Source::Layer(self.index);
        let mut readers = (0..self.layers.len()).filter(|&i| self.layers[i].sources.contains(&source));
        readers.next().filter(|_| readers.next().is_none())
    }
}

impl Lowering<'_> {
    /// Emits the instructions of all layers and of the loss.
    pub(super) fn forward(&mut self, layers: &[LayerShape]) -> Result<(), LowerError> {
        let mut outputs: Vec<Option<Id>> = vec![None; layers.len()];
        for (index, shape) in layers.iter().enumerate() {
            // A layer that an earlier instruction includes has its output already.
            if outputs[index].is_some() {
                continue;
            }
            let inputs: Vec<Id> = shape.sources.iter().map(|source| self.source(*source, &outputs)).collect();
            let (y, included) = self.layer(At { layers, index }, &inputs)?;
            for layer in included.into_iter().chain([index]) {
                outputs[layer] = Some(y);
            }
        }
        self.program.outputs = outputs.into_iter().map(|id| id.expect("each layer was lowered")).collect();
        let (op, name) = match self.mode {
            Mode::Train | Mode::Search => (SoftmaxXent::Loss, "dlogits"),
            Mode::Infer => (SoftmaxXent::Forward, "probabilities"),
        };
        let y = self.rows(name.to_string(), &[self.program.classes]);
        self.emit(Op::SoftmaxXent(op), vec![self.program.logits()], vec![y]);
        Ok(())
    }

    fn source(&self, source: Source, outputs: &[Option<Id>]) -> Id {
        match source {
            Source::Image => self.program.images,
            Source::Layer(i) => outputs[i].expect("layers only read layers before them"),
        }
    }

    /// Emits a convolution or a dense layer with what follows it, as far as the engine computes it in one instruction.
    pub(super) fn weighted(&mut self, at: At<'_>, x: Id) -> Result<(Id, Vec<usize>), LowerError> {
        let (shape, n) = (at.shape(), self.program.batch);
        let [mut w, mut b] = [Role::Weight, Role::Bias].map(|role| self.parameter(at, role));
        let mut activation = shape.layer.activation();
        let mut included = Vec::new();
        // In inference, the next layer may be part of the weights, if nobody else reads the values between them.
        let folded = self.folds(at, activation);
        if let Some(next) = folded {
            [w, b] = self.folded(at.at(next), [w, b]);
            included.push(next);
        }
        // The same for a ReLU that is a layer of its own, and for a max pooling.
        let next = |included: &[usize], of: fn(&Layer) -> bool| {
            let last = at.at(included.last().copied().unwrap_or(at.index));
            last.only_reader().filter(|&i| of(&at.layers[i].layer))
        };
        if folded.is_some()
            && activation == Activation::None
            && let Some(relu) = next(&included, |layer| *layer == Layer::Relu {})
        {
            activation = Activation::Relu;
            included.push(relu);
        }
        let fused_relu = activation == Activation::Relu && self.fusion.is_some();
        let next_step = Op::of(activation).filter(|_| !fused_relu);
        let last = &at.layers[included.last().copied().unwrap_or(at.index)].name;
        let name = format!("{last}.{}", if next_step.is_some() { "sums" } else { "y" });
        let y = match &shape.layer {
            Layer::Conv2d { .. } | Layer::DepthwiseConv2d { .. } => {
                let d = conv2d_dims(&shape.layer, n, &shape.input).map_err(|reason| self.unfit(shape, reason))?;
                let GroupedConv2dDims { conv, groups } = d;
                let pooling = next(&included, |layer| matches!(layer, Layer::MaxPool2d(_)));
                let pooling = pooling.filter(|_| next_step.is_none() && groups == 1);
                let pool = pooling.map(|i| self.pooling(&at.layers[i])).transpose()?;
                let pool = pool.filter(|pool| self.fusion.is_some_and(|fusion| fusion.pool(&conv, pool)));
                let writes = match pooling.filter(|_| pool.is_some()) {
                    Some(pooling) => {
                        included.push(pooling);
                        self.maxima(&at.layers[pooling])
                    }
                    None => vec![self.rows(name, &shape.output)],
                };
                let y = writes[0];
                let op = match groups {
                    1 => Op::Conv2d(Conv2d::Forward { d: conv, relu: fused_relu, pool }),
                    _ => Op::GroupedConv2d(GroupedConv2d::Forward { d, relu: fused_relu }),
                };
                self.emit(op, vec![x, w, b], writes);
                y
            }
            _ => {
                let d = DenseDims { n, i: shape.input[0], o: shape.output[0] };
                let y = self.rows(name, &shape.output);
                self.emit(Op::Dense(Dense::Forward { d, relu: fused_relu }), vec![x, w, b], vec![y]);
                y
            }
        };
        self.is_relu[y.0] = fused_relu;
        match next_step {
            Some(op) => Ok((self.activated(op, y, format!("{}.y", shape.name)), included)),
            None => Ok((y, included)),
        }
    }

    /// Emits an activation as an instruction of its own.
    pub(super) fn activated(&mut self, op: Op, x: Id, name: String) -> Id {
        let y = self.rows_like(name, x);
        self.emit(op, vec![x], vec![y]);
        self.is_relu[y.0] = op == Op::Relu(Relu::Forward);
        y
    }

    /// Returns the dimensions of a pooling.
    pub(super) fn pooling(&self, shape: &LayerShape) -> Result<Pool2dDims, LowerError> {
        pool2d_dims(&shape.layer, self.program.batch, &shape.input).map_err(|reason| self.unfit(shape, reason))
    }

    fn unfit(&self, shape: &LayerShape, reason: String) -> LowerError {
        LowerError::Batch { layer: shape.name.clone(), batch: self.program.batch, reason }
    }

    /// Adds the outputs of a max pooling: the maxima and their positions.
    pub(super) fn maxima(&mut self, shape: &LayerShape) -> Vec<Id> {
        let y = self.rows(format!("{}.y", shape.name), &shape.output);
        let argmax = self.rows(format!("{}.argmax", shape.name), &shape.output);
        self.program.tensors[argmax.0].is_index = true;
        vec![y, argmax]
    }

    /// Returns the tensor of a layer's parameter; a constant if the layer has none with this role.
    pub(super) fn parameter(&mut self, at: At<'_>, role: Role) -> Id {
        let Some((parameter, index)) = self.parameters[at.index].iter().find(|(of, _)| of.role == role).cloned() else {
            let value = role.initial().unwrap_or_default();
            return self.add(format!("{value}"), &[at.channels()], false, Place::Constant(value));
        };
        let is_trained = parameter.is_trained();
        let id = self.add(parameter.name, &parameter.shape, false, Place::Parameter(index));
        self.is_trained[id.0] = is_trained;
        id
    }
}
