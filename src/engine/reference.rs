//! Training and evaluation by the plain loops of [`crate::cpu`]: `--device reference`, for correctness, not for speed.
//!
//! Generic over the precision: the GPU is compared with it in single precision, and in double precision it is the ground truth.

use super::{Engine, EngineError, Epoch, NonFinite, OnProgress, Optimizer, State, Totals, check_order, check_split};
use crate::cpu::real::Real;
use crate::cpu::{adam, batch_gather, bias, conv2d, dense, non_finite, pool2d, relu, sgd, softmax_xent};
use crate::data::{PIXELS, Split};
use crate::model::{Activation, Layer, LayerShape, Model, N_CLASSES, conv2d_dims, pool2d_dims};
use crate::ops::sgd::SgdConfig;
use std::ops::ControlFlow;

/// Multiply-adds of the images that are predicted between two reports of progress: a small fraction of a second.
const PREDICTED_WORK: usize = 100_000_000;

/// A model computed by the plain loops.
#[derive(Debug)]
pub struct ReferenceEngine<T> {
    layers: Vec<LayerShape>,
    parameters: Vec<Vec<T>>,
    train: Split,
    batch_size: usize,
    optimizer: Optimizer,
    /// What the optimizer keeps, in the order of [`Optimizer::slots`].
    slots: Vec<Vec<Vec<T>>>,
    /// The gradients of the last training step; empty before the first.
    gradients: Vec<Vec<T>>,
}

/// A batch: images, labels, and the number of rows that count.
#[derive(Debug)]
pub struct Batch<T> {
    /// `[N, 784]`.
    pub x: Vec<T>,
    /// `[N]`.
    pub labels: Vec<u32>,
    /// Number of rows that count; the others are beyond the end of the epoch.
    pub n_valid: usize,
}

/// The result of a forward pass over a batch.
#[derive(Debug)]
pub struct Pass<T> {
    /// `[N, 10]`.
    pub logits: Vec<T>,
    /// `[N, 10]`.
    pub probabilities: Vec<T>,
    /// `[N]`.
    pub loss: Vec<T>,
    /// `[N]`.
    pub correct: Vec<u32>,
    outputs: Vec<Vec<T>>,
    argmax: Vec<Vec<u32>>,
}

impl<T: Real> ReferenceEngine<T> {
    /// Creates an engine from a model and its training set; an empty training set means evaluation only.
    ///
    /// # Errors
    /// The model cannot be built, or the samples cannot be used.
    pub fn new(
        model: &Model,
        parameters: &[Vec<f32>],
        train: &Split,
        batch_size: usize,
        optimizer: &Optimizer,
    ) -> Result<Self, EngineError> {
        check_split(train)?;
        let parameters: Vec<Vec<T>> = from_single(parameters);
        let zeros: Vec<Vec<T>> = parameters.iter().map(|values| vec![T::ZERO; values.len()]).collect();
        Ok(ReferenceEngine {
            layers: model.shapes()?,
            slots: vec![zeros; optimizer.slots().len()],
            gradients: Vec::new(),
            parameters,
            train: train.clone(),
            batch_size,
            optimizer: *optimizer,
        })
    }

    /// Returns rows `first..first + n` of a split in the given order.
    pub fn batch(split: &Split, order: &[u32], first: usize, n: usize) -> Batch<T> {
        let (mut x, mut labels) = (vec![T::ZERO; n * PIXELS], vec![0; n]);
        batch_gather::batch_gather(PIXELS, &split.images, &split.labels, order, first, &mut x, &mut labels);
        Batch { x, labels, n_valid: n.min(order.len() - first) }
    }

    /// Computes the forward pass and the loss.
    ///
    /// # Errors
    /// A layer does not fit the batch size.
    pub fn forward(&self, batch: &Batch<T>) -> Result<Pass<T>, EngineError> {
        let n = batch.labels.len();
        let mut outputs: Vec<Vec<T>> = Vec::new();
        let mut argmax = Vec::new();
        let mut weights = self.parameters.chunks(2);
        for shape in &self.layers {
            let x = outputs.last().unwrap_or(&batch.x);
            let mut y = vec![T::ZERO; n * shape.output.iter().product::<usize>()];
            let mut positions = Vec::new();
            match &shape.layer {
                Layer::Conv2d { .. } => {
                    let [w, b] = pair(&mut weights);
                    conv2d::conv2d_forward(&conv(shape, n)?, x, w, b, &mut y);
                }
                Layer::Dense { .. } => {
                    let [w, b] = pair(&mut weights);
                    dense::dense_forward(&dense_dims(shape, n), x, w, b, &mut y);
                }
                Layer::MaxPool2d { .. } => {
                    positions = vec![0; y.len()];
                    pool2d::pool2d_max_forward(&pool(shape, n)?, x, &mut y, &mut positions);
                }
                Layer::AveragePool2d { .. } => pool2d::pool2d_average_forward(&pool(shape, n)?, x, &mut y),
                Layer::SumPool2d { .. } => pool2d::pool2d_sum_forward(&pool(shape, n)?, x, &mut y),
                Layer::Relu => relu::relu_forward(x, &mut y),
                Layer::Flatten => y.copy_from_slice(x),
            }
            if has_relu(&shape.layer) {
                let before = y.clone();
                relu::relu_forward(&before, &mut y);
            }
            outputs.push(y);
            argmax.push(positions);
        }
        let logits = outputs.last().cloned().unwrap_or_default();
        let dims = softmax_xent::SoftmaxXentDims { n, c: N_CLASSES };
        let (mut probabilities, mut loss, mut correct) = (vec![T::ZERO; logits.len()], vec![T::ZERO; n], vec![0; n]);
        softmax_xent::softmax_xent_forward(&dims, &logits, &batch.labels, &mut probabilities, &mut loss, &mut correct);
        Ok(Pass { logits, probabilities, loss, correct, outputs, argmax })
    }

    /// Returns the output of every layer for one image `[28, 28]`, and the probabilities `[10]`.
    ///
    /// # Errors
    /// The model cannot be built, or the image has another size.
    pub fn layer_outputs(
        model: &Model,
        parameters: &[Vec<f32>],
        image: &[u8],
    ) -> Result<(Vec<Vec<T>>, Vec<T>), EngineError> {
        if image.len() != PIXELS {
            return Err(EngineError::Samples { reason: format!("an image has {PIXELS} pixels, not {}", image.len()) });
        }
        let split = Split { images: image.to_vec(), labels: vec![0] };
        let optimizer = Optimizer::Sgd(SgdConfig { learning_rate: 0.0, momentum: 0.0 });
        let engine = Self::new(model, parameters, &Split::default(), 1, &optimizer)?;
        let pass = engine.forward(&Self::batch(&split, &[0], 0, 1))?;
        Ok((pass.outputs, pass.probabilities))
    }

    /// Computes the gradients of the mean loss with respect to every parameter.
    ///
    /// # Errors
    /// A layer does not fit the batch size.
    pub fn backward(&self, batch: &Batch<T>, pass: &Pass<T>) -> Result<Vec<Vec<T>>, EngineError> {
        let n = batch.labels.len();
        let dims = softmax_xent::SoftmaxXentDims { n, c: N_CLASSES };
        let mut dy = vec![T::ZERO; n * N_CLASSES];
        softmax_xent::softmax_xent_backward_x(&dims, &pass.logits, &batch.labels, batch.n_valid, &mut dy);
        let mut gradients: Vec<Vec<T>> = self.parameters.iter().map(|values| vec![T::ZERO; values.len()]).collect();
        let mut next = gradients.len();
        for (i, shape) in self.layers.iter().enumerate().rev() {
            let x = if i == 0 { &batch.x } else { &pass.outputs[i - 1] };
            if has_relu(&shape.layer) {
                let unmasked = dy.clone();
                relu::relu_backward_x(&pass.outputs[i], &unmasked, &mut dy);
            }
            let mut dx = vec![T::ZERO; x.len()];
            match &shape.layer {
                Layer::Conv2d { .. } => {
                    let d = conv(shape, n)?;
                    next -= 2;
                    conv2d::conv2d_backward_w(&d, x, &dy, &mut gradients[next]);
                    let rows = bias::BiasDims { n: n * d.ho * d.wo, o: d.o };
                    bias::bias_backward_b(&rows, &dy, &mut gradients[next + 1]);
                    if i > 0 {
                        conv2d::conv2d_backward_x(&d, &self.parameters[next], &dy, &mut dx);
                    }
                }
                Layer::Dense { .. } => {
                    let d = dense_dims(shape, n);
                    next -= 2;
                    dense::dense_backward_w(&d, x, &dy, &mut gradients[next]);
                    bias::bias_backward_b(&bias::BiasDims { n, o: d.o }, &dy, &mut gradients[next + 1]);
                    if i > 0 {
                        dense::dense_backward_x(&d, &self.parameters[next], &dy, &mut dx);
                    }
                }
                Layer::MaxPool2d { .. } => {
                    pool2d::pool2d_max_backward_x(&pool(shape, n)?, &pass.argmax[i], &dy, &mut dx);
                }
                Layer::AveragePool2d { .. } => {
                    pool2d::pool2d_average_backward_x(&pool(shape, n)?, &dy, &mut dx);
                }
                Layer::SumPool2d { .. } => pool2d::pool2d_sum_backward_x(&pool(shape, n)?, &dy, &mut dx),
                Layer::Relu => relu::relu_backward_x(&pass.outputs[i], &dy, &mut dx),
                Layer::Flatten => dx.copy_from_slice(&dy),
            }
            dy = dx;
        }
        Ok(gradients)
    }

    /// Makes one optimizer step with the given factor (see [`Optimizer::step_size`]).
    pub fn update(&mut self, gradients: &[Vec<T>], step_size: f32) {
        let alpha = T::from_f64(f64::from(step_size));
        for (i, g) in gradients.iter().enumerate() {
            let w = &mut self.parameters[i];
            match (&self.optimizer, &mut self.slots[..]) {
                (Optimizer::Adam(config), [m, v]) => {
                    adam::adam_step(config.beta_1, config.beta_2, config.epsilon, alpha, g, w, &mut m[i], &mut v[i]);
                }
                (Optimizer::Sgd(config), [velocity]) => {
                    sgd::sgd_step(config.momentum, alpha, g, w, &mut velocity[i]);
                }
                (optimizer, slots) => unreachable!("{} slots for {optimizer:?}", slots.len()),
            }
        }
    }

    /// The parameters in the precision of the engine.
    pub fn exact_parameters(&self) -> &[Vec<T>] {
        &self.parameters
    }

    fn through(
        &mut self,
        split: &Split,
        order: &[u32],
        step_sizes: Option<&[f32]>,
        done: Totals,
        on_progress: OnProgress<'_>,
    ) -> Result<Totals, EngineError> {
        let mut totals = done;
        for (index, first) in (0..order.len()).step_by(self.batch_size).enumerate().skip(done.batches) {
            let batch = Self::batch(split, order, first, self.batch_size);
            let pass = self.forward(&batch)?;
            let (loss, correct) = softmax_xent::softmax_xent_totals(batch.n_valid, &pass.loss, &pass.correct);
            totals.add(loss.to_f64(), u64::from(correct), batch.n_valid);
            if let Some(step_sizes) = step_sizes {
                let gradients = self.backward(&batch, &pass)?;
                self.update(&gradients, step_sizes[index]);
                self.gradients = gradients;
            }
            if on_progress(&totals) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(totals)
    }
}

impl<T: Real> ReferenceEngine<T> {
    /// Checks that there is a training set, and that `epoch` names only samples of it.
    fn check_training(&self, epoch: &Epoch) -> Result<(), EngineError> {
        if self.train.is_empty() {
            return Err(EngineError::NoTraining);
        }
        check_order(&epoch.order, self.train.len())
    }

    /// Makes one step of an epoch and searches its results for the first value that is not finite.
    fn searched_step(&mut self, train: &Split, epoch: &Epoch, step: usize) -> Result<Option<NonFinite>, EngineError> {
        let search = |tensor: String, operation: &str, values: &[T]| {
            let [count, index] = non_finite::non_finite(values);
            let (count, index, operation) = (count as usize, index as usize, operation.to_string());
            (count > 0).then_some(NonFinite { step, tensor, operation, index, count })
        };
        let batch = Self::batch(train, &epoch.order, (step - 1) * self.batch_size, self.batch_size);
        let pass = self.forward(&batch)?;
        let outputs = self.layers.iter().zip(&pass.outputs);
        let mut forward = outputs.map(|(shape, y)| search(format!("{}.y", shape.name), shape.layer.kind(), y));
        if let Some(found) = forward.find_map(|found| found).or(search("loss".into(), "softmax_xent", &pass.loss)) {
            return Ok(Some(found));
        }
        let gradients = self.backward(&batch, &pass)?;
        let names: Vec<String> = self.layers.iter().flat_map(LayerShape::parameters).map(|p| p.name).collect();
        let mut backward = names.iter().zip(&gradients);
        let gradient = |(name, g): (&String, &Vec<T>)| search(format!("gradients.{name}"), "backward pass", g);
        // The last layer's gradients are computed first.
        if let Some(found) = backward.by_ref().rev().find_map(gradient) {
            return Ok(Some(found));
        }
        self.update(&gradients, epoch.step_sizes[step - 1]);
        let kinds = self.optimizer.slots().iter().copied().zip(&self.slots);
        let kinds = kinds.chain([("parameters", &self.parameters)]);
        let mut updated = kinds.flat_map(|(kind, tensors)| names.iter().zip(tensors).map(move |(n, t)| (kind, n, t)));
        Ok(updated.find_map(|(kind, name, values)| search(format!("{kind}.{name}"), "optimizer step", values)))
    }
}

impl<T: Real> Engine for ReferenceEngine<T> {
    fn train_epoch(&mut self, epoch: &Epoch, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        self.check_training(epoch)?;
        let train = std::mem::take(&mut self.train);
        let totals = self.through(&train, &epoch.order, Some(&epoch.step_sizes), epoch.done, on_progress);
        self.train = train;
        totals
    }

    fn evaluate(&mut self, split: &Split, on_progress: OnProgress<'_>) -> Result<Totals, EngineError> {
        check_split(split)?;
        let order: Vec<u32> = (0..split.len() as u32).collect();
        self.through(split, &order, None, Totals::default(), on_progress)
    }

    fn predict(
        &mut self,
        images: &[u8],
        on_progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Vec<f32>, EngineError> {
        let n = images.len() / PIXELS;
        let split = Split { images: images.to_vec(), labels: vec![0; n] };
        let order: Vec<u32> = (0..n as u32).collect();
        // Each row is computed independently, so smaller batches give the same bits.
        let work: usize = self.layers.iter().map(|shape| shape.multiply_adds).sum();
        let batch_size = (PREDICTED_WORK / work.max(1)).clamp(1, self.batch_size.max(1));
        let mut probabilities = Vec::with_capacity(n * N_CLASSES);
        for first in (0..n).step_by(batch_size) {
            let rows = batch_size.min(n - first);
            let pass = self.forward(&Self::batch(&split, &order, first, rows))?;
            probabilities.extend(pass.probabilities.iter().map(|p| p.to_f64() as f32));
            if on_progress(first + rows).is_break() {
                break;
            }
        }
        Ok(probabilities)
    }

    fn parameters(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(to_single(&self.parameters))
    }

    fn state(&mut self) -> Result<State, EngineError> {
        let slots = if self.train.is_empty() { Vec::new() } else { self.slots.iter().map(|s| to_single(s)).collect() };
        Ok(State { parameters: to_single(&self.parameters), slots })
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        let lengths: Vec<usize> = self.parameters.iter().map(Vec::len).collect();
        let slots = if self.train.is_empty() { &[] } else { self.optimizer.slots() };
        state.check(&lengths, slots)?;
        self.parameters = from_single(&state.parameters);
        for (slot, values) in self.slots.iter_mut().zip(&state.slots) {
            *slot = from_single(values);
        }
        Ok(())
    }

    fn find_non_finite(&mut self, epoch: &Epoch, last: usize) -> Result<Option<NonFinite>, EngineError> {
        self.check_training(epoch)?;
        let train = std::mem::take(&mut self.train);
        let mut found = Ok(None);
        for step in epoch.done.batches + 1..=last {
            found = self.searched_step(&train, epoch, step);
            if !matches!(found, Ok(None)) {
                break;
            }
        }
        self.train = train;
        found
    }

    fn last_gradients(&mut self) -> Result<Vec<Vec<f32>>, EngineError> {
        Ok(to_single(&self.gradients))
    }
}

fn from_single<T: Real>(tensors: &[Vec<f32>]) -> Vec<Vec<T>> {
    tensors.iter().map(|values| values.iter().map(|&v| T::from_f64(f64::from(v))).collect()).collect()
}

fn to_single<T: Real>(tensors: &[Vec<T>]) -> Vec<Vec<f32>> {
    tensors.iter().map(|values| values.iter().map(|v| v.to_f64() as f32).collect()).collect()
}

fn has_relu(layer: &Layer) -> bool {
    matches!(
        layer,
        Layer::Conv2d { activation: Activation::Relu, .. } | Layer::Dense { activation: Activation::Relu, .. }
    )
}

fn pair<'a, T>(weights: &mut std::slice::Chunks<'a, Vec<T>>) -> [&'a [T]; 2] {
    match weights.next() {
        Some([w, b]) => [w, b],
        _ => panic!("a model has a weight and a bias for every convolution and dense layer"),
    }
}

fn dense_dims(shape: &LayerShape, n: usize) -> dense::DenseDims {
    dense::DenseDims { n, i: shape.input[0], o: shape.output[0] }
}

fn conv(shape: &LayerShape, n: usize) -> Result<conv2d::Conv2dDims, EngineError> {
    conv2d_dims(&shape.layer, n, &shape.input).map_err(|reason| batch_error(shape, n, reason))
}

fn pool(shape: &LayerShape, n: usize) -> Result<pool2d::Pool2dDims, EngineError> {
    pool2d_dims(&shape.layer, n, &shape.input).map_err(|reason| batch_error(shape, n, reason))
}

fn batch_error(shape: &LayerShape, batch_size: usize, reason: String) -> EngineError {
    EngineError::Batch { layer: shape.name.clone(), batch_size, reason }
}
