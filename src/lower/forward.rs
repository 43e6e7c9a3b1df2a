//! Emits the forward steps layer by layer, and fuses those that an engine computes in one.

use super::{Id, LowerError, Lowering, Mode, Op, Step};
use crate::cpu::dense::DenseDims;
use crate::cpu::pool2d::Pool2dDims;
use crate::model::{Activation, Layer, LayerShape, Role, Source, conv2d_dims, pool2d_dims};

/// A layer that is being lowered.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) layers: &'a [LayerShape],
    pub(super) index: usize,
    /// The index of the first parameter of each layer.
    first_parameters: &'a [usize],
}

impl<'a> Place<'a> {
    fn at(self, index: usize) -> Self {
        Place { index, ..self }
    }

    /// Returns the role and the index of each parameter of the layer.
    pub(super) fn parameters(self) -> Vec<(Role, usize)> {
        let first = self.first_parameters[self.index];
        self.shape().parameters().iter().enumerate().map(|(i, parameter)| (parameter.role, first + i)).collect()
    }

    pub(super) fn shape(self) -> &'a LayerShape {
        &self.layers[self.index]
    }

    /// Returns the number of channels of the output, or of features if it is a list of them.
    pub(super) fn channels(self) -> usize {
        *self.shape().output.last().unwrap_or(&1)
    }

    /// Returns the index of the layer that reads this one's output, if there is only one.
    fn only_reader(self) -> Option<usize> {
        let source = Source::Layer(self.index);
        let mut readers = (0..self.layers.len()).filter(|&i| self.layers[i].sources.contains(&source));
        readers.next().filter(|_| readers.next().is_none())
    }
}

impl Lowering<'_> {
    /// Emits the steps of all layers and of the loss.
    pub(super) fn forward(&mut self, layers: &[LayerShape]) -> Result<(), LowerError> {
        let mut outputs: Vec<Option<Id>> = vec![None; layers.len()];
        let mut first_parameters = vec![0];
        for layer in layers {
            first_parameters.push(first_parameters[first_parameters.len() - 1] + layer.parameters().len());
        }
        for (index, shape) in layers.iter().enumerate() {
            // A layer that an earlier step includes has its output already.
            if outputs[index].is_some() {
                continue;
            }
            let inputs: Vec<Id> = shape.sources.iter().map(|source| self.source(*source, &outputs)).collect();
            let at = Place { layers, index, first_parameters: &first_parameters };
            let (y, included) = self.layer(at, &inputs)?;
            for layer in included.into_iter().chain([index]) {
                outputs[layer] = Some(y);
            }
        }
        self.program.outputs = outputs.into_iter().map(|id| id.expect("each layer was lowered")).collect();
        let logits = self.program.logits();
        let classes = [self.program.classes];
        match self.mode {
            Mode::Train | Mode::Search => {
                let dlogits = self.rows("dlogits".to_string(), &classes);
                self.step(Op::Loss, vec![logits], vec![dlogits]);
            }
            Mode::Infer => {
                let probabilities = self.rows("probabilities".to_string(), &classes);
                self.step(Op::Softmax, vec![logits], vec![probabilities]);
            }
        }
        Ok(())
    }

    fn source(&self, source: Source, outputs: &[Option<Id>]) -> Id {
        match source {
            Source::Image => self.program.images,
            Source::Layer(i) => outputs[i].expect("layers only read layers before them"),
        }
    }

    /// Emits a convolution or a dense layer with what follows it, as far as the engine computes it in one step.
    pub(super) fn weighted(&mut self, at: Place<'_>, x: Id) -> Result<(Id, Vec<usize>), LowerError> {
        let parameters = at.parameters();
        let (shape, n) = (at.shape(), self.program.batch);
        let unfit = |shape: &LayerShape| {
            let layer = shape.name.clone();
            move |reason: String| LowerError::Batch { layer, batch: n, reason }
        };
        let [mut w, mut b] = [0, 1].map(|i| self.parameter(parameters[i].1));
        let mut activation = shape.layer.activation();
        let mut included = Vec::new();
        // In inference, a normalization can be part of the weights, if nobody else reads the values that it normalizes.
        let normalized = self.folds(at, activation);
        if let Some(norm) = normalized {
            [w, b] = self.folded(at.at(norm), [w, b]);
            included.push(norm);
        }
        // The same for a ReLU that is a layer of its own, and for a max pooling.
        let next = |included: &[usize], of: fn(&Layer) -> bool| {
            let last = at.at(included.last().copied().unwrap_or(at.index));
            last.only_reader().filter(|&i| of(&at.layers[i].layer))
        };
        if normalized.is_some()
            && activation == Activation::None
            && let Some(relu) = next(&included, |layer| *layer == Layer::Relu).filter(|_| self.fusion.relu())
        {
            activation = Activation::Relu;
            included.push(relu);
        }
        let fused_relu = activation == Activation::Relu && self.fusion.relu();
        let last = &at.layers[included.last().copied().unwrap_or(at.index)].name;
        let name = match activation {
            Activation::Relu if !fused_relu => format!("{last}.sums"),
            Activation::Gelu => format!("{last}.sums"),
            _ => format!("{last}.y"),
        };
        let y = match &shape.layer {
            Layer::Conv2d { .. } => {
                let d = conv2d_dims(&shape.layer, n, &shape.input).map_err(unfit(shape))?;
                let is_alone = activation == Activation::None || fused_relu;
                let pooling = next(&included, |layer| matches!(layer, Layer::MaxPool2d { .. })).filter(|_| is_alone);
                let pool = match pooling.map(|i| &at.layers[i]) {
                    Some(pooling) => Some(pool2d_dims(&pooling.layer, n, &pooling.input).map_err(unfit(pooling))?),
                    None => None,
                };
                let pool: Option<Pool2dDims> = pool.filter(|pool| self.fusion.pool(&d, pool));
                let op = Op::Conv2d { d, relu: fused_relu, pool };
                match (pooling, pool) {
                    (Some(pooling), Some(_)) => {
                        let (y, argmax) = self.maxima(&at.layers[pooling]);
                        self.step(op, vec![x, w, b], vec![y, argmax]);
                        included.push(pooling);
                        y
                    }
                    _ => {
                        let y = self.rows(name, &shape.output);
                        self.step(op, vec![x, w, b], vec![y]);
                        y
                    }
                }
            }
            _ => {
                let d = DenseDims { n, i: shape.input[0], o: shape.output[0] };
                let y = self.rows(name, &shape.output);
                self.step(Op::Dense { d, relu: fused_relu }, vec![x, w, b], vec![y]);
                y
            }
        };
        self.is_relu[y.0] = fused_relu;
        if fused_relu {
            return Ok((y, included));
        }
        Ok((self.activated(activation, y, format!("{}.y", shape.name)), included))
    }

    /// Emits an activation as a step of its own.
    pub(super) fn activated(&mut self, activation: Activation, x: Id, name: String) -> Id {
        let op = match activation {
            // The softmax is part of the loss.
            Activation::None | Activation::Softmax => return x,
            Activation::Relu => Op::Relu,
            Activation::Gelu => Op::Gelu,
        };
        let y = self.rows_like(name, x);
        self.step(op, vec![x], vec![y]);
        self.is_relu[y.0] = activation == Activation::Relu;
        y
    }

    /// Adds the outputs of a max pooling.
    pub(super) fn maxima(&mut self, shape: &LayerShape) -> (Id, Id) {
        let y = self.rows(format!("{}.y", shape.name), &shape.output);
        (y, self.buffer(format!("{}.argmax", shape.name), &shape.output, true, true))
    }

    /// Returns the tensors of a normalization: scale, shift, running mean, running variance.
    pub(super) fn normalization(&mut self, at: Place<'_>) -> [Id; 4] {
        let (parameters, c) = (at.parameters(), at.channels());
        [Role::Scale, Role::Shift, Role::Mean, Role::Variance].map(|role| {
            let index = parameters.iter().find(|(of, _)| *of == role).map(|(_, index)| *index);
            match index {
                Some(index) => self.parameter(index),
                // No factor, or no summand.
                None => self.constant(role.initial().unwrap_or_default(), c),
            }
        })
    }

    /// Returns the index of the normalization that can be part of the weights of a layer.
    fn folds(&self, at: Place<'_>, activation: Activation) -> Option<usize> {
        let wanted = self.mode == Mode::Infer && self.fusion.fold() && activation == Activation::None;
        let reader = at.only_reader().filter(|_| wanted)?;
        matches!(at.layers[reader].layer, Layer::BatchNorm { .. }).then_some(reader)
    }

    /// Emits the weights of a layer that includes the normalization `norm` after it, computed once.
    fn folded(&mut self, norm: Place<'_>, [w, b]: [Id; 2]) -> [Id; 2] {
        let shape = norm.shape();
        let Layer::BatchNorm { epsilon, .. } = shape.layer else { unreachable!("`folds` returns normalizations") };
        let statistics = self.normalization(norm);
        let [w_out, b_out] = [(w, "weight"), (b, "bias")].map(|(id, what)| {
            let of = self.shape(id).to_vec();
            self.buffer(format!("{}.folded_{what}", shape.name), &of, false, false)
        });
        let reads = [&[w, b][..], &statistics].concat();
        self.program.once.push(Step { op: Op::BatchNormFold { epsilon }, reads, writes: vec![w_out, b_out] });
        [w_out, b_out]
    }
}
