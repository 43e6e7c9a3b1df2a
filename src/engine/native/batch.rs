//! The work that the threads of the native engine divide among them: first the rows of a batch, then the parameters.

use super::program::{NativeProgram, Owned, Rows, Shared, zeros};
use crate::data::Split;
use crate::engine::steps::Answers;
use crate::engine::{EngineError, Optimizer};
use crate::model::Parameter;
use crate::native::conv2d::{Packed, Scratch};
use crate::native::{Aligned, adam, batch_gather, sgd};
use std::ops::Range;

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
    /// The convolution whose filter it is, with the filter in the forms that the loops use.
    pub(super) packed: Option<(usize, &'a mut Packed)>,
}

impl Batch {
    pub(super) fn new(program: &NativeProgram, n: usize, groups: usize) -> Result<Self, EngineError> {
        Ok(Batch {
            tensors: program.tensors(n, groups)?,
            labels: zeros(n)?,
            probabilities: zeros(n * program.program().classes)?,
            loss: zeros(n)?,
            correct: zeros(n)?,
        })
    }

    /// Divides the samples `order` into shares of `rows`, in groups of `group`.
    pub(super) fn split<'a>(
        &'a mut self,
        program: &NativeProgram,
        order: &'a [u32],
        rows: usize,
        group: usize,
    ) -> impl Iterator<Item = Share<'a>> {
        let (n, classes) = (order.len(), program.program().classes);
        let tensors = program.split(&mut self.tensors, n, rows, group);
        let labels = self.labels[..n].chunks_mut(rows).zip(self.probabilities.chunks_mut(rows * classes));
        let results = self.loss[..n].chunks_mut(rows).zip(self.correct[..n].chunks_mut(rows));
        let shares = order.chunks(rows).zip(tensors).zip(labels).zip(results);
        shares.map(move |(((order, rows), (labels, probabilities)), (loss, correct))| {
            let probabilities = &mut probabilities[..order.len() * classes];
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
        program: &NativeProgram,
        tensors: &Owned,
        n: usize,
        group: usize,
        optimizer: &Optimizer,
        step_size: f32,
    ) {
        let Slice { index, first, w, g, slots: [m, v], packed } = self;
        program.gradient(index, first, n, group, tensors, g);
        match optimizer {
            Optimizer::Adam(config) => adam::adam_step(config, step_size, g, w, m, v),
            Optimizer::Sgd(config) => sgd::sgd_step(config.momentum, step_size, g, w, m),
        }
        if let Some((conv, packed)) = packed {
            program.pack(conv, w, packed);
        }
    }
}

impl Share<'_> {
    /// Takes the images and labels of its samples.
    pub(super) fn gather(&mut self, split: &Split, program: &NativeProgram) {
        let x = program.images(&mut self.rows);
        let pixels = x.len() / self.order.len();
        batch_gather::batch_gather(pixels, &split.images, &split.labels, self.order, x, self.labels);
    }

    /// Runs some steps of the program, in groups of `group` rows. The loss is the mean over the `n_valid` rows of all shares.
    pub(super) fn run(
        &mut self,
        program: &NativeProgram,
        steps: Range<usize>,
        shared: Shared<'_>,
        n_valid: usize,
        group: usize,
        scratch: &mut Scratch,
    ) {
        let Share { order, rows, labels, probabilities, loss, correct } = self;
        let mut answers = Answers { labels, n_valid, probabilities, loss, correct };
        for i in steps {
            program.run_rows(i, order.len(), group, shared, rows, scratch, &mut answers);
        }
    }
}

/// Divides all trained parameters into slices for the threads; filters first, because they take longest.
pub(super) fn slices<'a>(
    program: &NativeProgram,
    described: &[Parameter],
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
    let both = parameters.iter_mut().zip(gradients);
    for ((index, parameter), (w, g)) in described.iter().enumerate().zip(both) {
        let next = |slot: &mut Option<std::slice::IterMut<'a, Aligned<f32>>>| {
            slot.as_mut().and_then(Iterator::next).map_or(&mut [][..], |values| &mut **values)
        };
        let (m, v) = (next(&mut m), next(&mut v));
        if !parameter.role.is_trained() {
            continue;
        }
        let len = slice_len(&parameter.shape);
        let mut of_m = m.chunks_mut(len);
        let mut of_v = v.chunks_mut(len);
        let conv = program.conv_of_parameter(index);
        for (i, (w, g)) in w.chunks_mut(len).zip(g.chunks_mut(len)).enumerate() {
            slices.push(Slice {
                index,
                first: i * len,
                w,
                g,
                slots: [of_m.next().unwrap_or_default(), of_v.next().unwrap_or_default()],
                packed: conv.and_then(|conv| Some((conv, packed[conv].take()?))),
            });
        }
    }
    slices
}

/// Returns the length of the slices into which the threads divide a parameter: some rows of the weights of a dense layer, everything of
/// the others.
fn slice_len(shape: &[usize]) -> usize {
    const ROWS: usize = 56;
    match shape {
        [inputs, outputs] => ROWS.min(*inputs) * outputs,
        _ => shape.iter().product(),
    }
}
