//! The work that the threads of the native engine divide among them: first the rows of a batch, then the parameters.

use super::network::{NativeNetwork, Owned, Rows, Weights, zeros};
use crate::cpu::softmax_xent::{SoftmaxXentDims, softmax_xent_backward_x, softmax_xent_forward};
use crate::data::{PIXELS, Split};
use crate::engine::{EngineError, Optimizer};
use crate::model::N_CLASSES;
use crate::native::conv2d::{Packed, Scratch};
use crate::native::{Aligned, adam, batch_gather, sgd};

/// The tensors of a batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) tensors: Owned,
    pub(super) labels: Aligned<u32>,
    pub(super) probabilities: Aligned<f32>,
    pub(super) loss: Aligned<f32>,
    pub(super) correct: Aligned<u32>,
}

/// Rows of a batch that one thread processes.
pub(super) struct Share<'a> {
    pub(super) order: &'a [u32],
    pub(super) rows: Rows<'a>,
    pub(super) labels: &'a mut [u32],
    pub(super) probabilities: &'a mut [f32],
    pub(super) loss: &'a mut [f32],
    pub(super) correct: &'a mut [u32],
}

/// Elements of a parameter that one thread updates.
pub(super) struct Slice<'a> {
    /// Index of the parameter.
    pub(super) index: usize,
    /// The first element of the slice.
    pub(super) first: usize,
    pub(super) w: &'a mut [f32],
    pub(super) g: &'a mut [f32],
    pub(super) slots: [&'a mut [f32]; 2],
    pub(super) packed: Option<&'a mut Packed>,
}

impl Batch {
    pub(super) fn new(network: &NativeNetwork, n: usize, groups: Option<usize>) -> Result<Self, EngineError> {
        Ok(Batch {
            tensors: network.tensors(n, groups)?,
            labels: zeros(n)?,
            probabilities: zeros(n * N_CLASSES)?,
            loss: zeros(n)?,
            correct: zeros(n)?,
        })
    }

    /// Divides the samples `order` into shares of `rows`, in groups of `group`.
    pub(super) fn split<'a>(
        &'a mut self,
        network: &NativeNetwork,
        order: &'a [u32],
        rows: usize,
        group: usize,
    ) -> impl Iterator<Item = Share<'a>> {
        let n = order.len();
        let tensors = network.split(&mut self.tensors, n, rows, group);
        let labels = self.labels[..n].chunks_mut(rows).zip(self.probabilities.chunks_mut(rows * N_CLASSES));
        let results = self.loss[..n].chunks_mut(rows).zip(self.correct[..n].chunks_mut(rows));
        let shares = order.chunks(rows).zip(tensors).zip(labels).zip(results);
        shares.map(|(((order, rows), (labels, probabilities)), (loss, correct))| {
            let probabilities = &mut probabilities[..order.len() * N_CLASSES];
            Share { order, rows, labels, probabilities, loss, correct }
        })
    }

    pub(super) fn totals(&self, n: usize) -> (f64, u64) {
        let loss = self.loss[..n].iter().map(|&loss| f64::from(loss)).sum();
        (loss, self.correct[..n].iter().map(|&correct| u64::from(correct)).sum())
    }
}

impl Slice<'_> {
    /// Computes the gradient over `n` rows in groups of `group`, and makes one step of the optimizer.
    pub(super) fn update(
        self,
        network: &NativeNetwork,
        tensors: &Owned,
        n: usize,
        group: usize,
        optimizer: &Optimizer,
        step_size: f32,
    ) {
        let Slice { index, first, w, g, slots: [m, v], packed } = self;
        network.gradient(index, first, n, group, tensors, g);
        match optimizer {
            Optimizer::Adam(config) => adam::adam_step(config, step_size, g, w, m, v),
            Optimizer::Sgd(config) => sgd::sgd_step(config.momentum, step_size, g, w, m),
        }
        if let Some(packed) = packed {
            network.pack_one(index, w, packed);
        }
    }
}

impl Share<'_> {
    /// Computes probabilities, losses and correct predictions from the samples.
    pub(super) fn forward(
        &mut self,
        split: &Split,
        network: &NativeNetwork,
        weights: Weights<'_>,
        scratch: &mut Scratch,
    ) {
        self.gather(split);
        network.forward(weights, self.order.len(), &mut self.rows, scratch);
        self.loss();
    }

    pub(super) fn gather(&mut self, split: &Split) {
        let x = &mut *self.rows.outputs[0];
        batch_gather::batch_gather(PIXELS, &split.images, &split.labels, self.order, x, self.labels);
    }

    pub(super) fn loss(&mut self) {
        let n = self.order.len();
        let d = SoftmaxXentDims { n, c: N_CLASSES };
        let logits = self.rows.outputs.last().expect("there is at least the input");
        softmax_xent_forward(&d, logits, self.labels, self.probabilities, self.loss, self.correct);
    }

    /// Computes the gradients of the loss, which is the mean over the `n_valid` rows of all shares.
    pub(super) fn backward(
        &mut self,
        network: &NativeNetwork,
        weights: Weights<'_>,
        n_valid: usize,
        group: usize,
        scratch: &mut Scratch,
    ) {
        self.loss_backward(n_valid);
        network.backward(weights, self.order.len(), group, &mut self.rows, scratch);
    }

    pub(super) fn loss_backward(&mut self, n_valid: usize) {
        let d = SoftmaxXentDims { n: self.order.len(), c: N_CLASSES };
        let logits = self.rows.outputs.last().expect("there is at least the input");
        let dlogits = self.rows.gradients.last_mut().expect("there are as many gradients as outputs");
        softmax_xent_backward_x(&d, logits, self.labels, n_valid, dlogits);
    }
}

/// Divides all parameters into slices for the threads; filters first, because they take longest.
pub(super) fn slices<'a>(
    network: &NativeNetwork,
    parameters: &'a mut [Aligned<f32>],
    gradients: &'a mut [Aligned<f32>],
    slots: &'a mut [Vec<Aligned<f32>>],
    packed: &'a mut [Packed],
) -> Vec<Slice<'a>> {
    let [mut m, mut v] = {
        let mut slots = slots.iter_mut().map(|slot| slot.iter_mut());
        [slots.next(), slots.next()]
    };
    let mut packed: Vec<Option<&mut Packed>> = packed.iter_mut().map(Some).collect();
    let mut slices = Vec::with_capacity(128);
    for ((index, len), (w, g)) in network.slice_lens().into_iter().enumerate().zip(parameters.iter_mut().zip(gradients))
    {
        let next = |slot: &mut Option<std::slice::IterMut<'a, Aligned<f32>>>| {
            slot.as_mut().and_then(Iterator::next).map_or(&mut [][..], |values| &mut **values)
        };
        let (m, v) = (next(&mut m), next(&mut v));
        let mut of_m = m.chunks_mut(len);
        let mut of_v = v.chunks_mut(len);
        for (i, (w, g)) in w.chunks_mut(len).zip(g.chunks_mut(len)).enumerate() {
            slices.push(Slice {
                index,
                first: i * len,
                w,
                g,
                slots: [of_m.next().unwrap_or_default(), of_v.next().unwrap_or_default()],
                packed: packed[network.step_of_parameter(index)].take(),
            });
        }
    }
    slices
}
