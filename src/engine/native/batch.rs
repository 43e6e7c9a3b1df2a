//! The work that the threads of the native engine divide among them: first the rows of a batch, then the parameters.

use super::inputs::{self, ByInputs};
use super::program::{NativeProgram, Owned, Rows, Shared, zeros};
use crate::cpu::batch_gather::Augmented;
use crate::cpu::philox::Random;
use crate::data::Split;
use crate::engine::loss::{SoftLoss, partner};
use crate::engine::operations::{Answers, Convolving, Operands, compute_native};
use crate::engine::{EngineError, Rates, StepConfig};
use crate::lower::{Id, Tensor};
use crate::model::{Parameter, Role};
use crate::native::conv2d::{Packed, Scratch};
use crate::native::{Aligned, average, batch_gather};
use std::mem::take;

/// The tensors of a batch.
#[derive(Debug)]
pub(super) struct BatchBuffers {
    pub(super) tensors: Owned,
    pub(super) labels: Aligned<u32>,
    /// The label of the row that each row is mixed with, where rows are mixed.
    partners: Vec<u32>,
    pub(super) probabilities: Aligned<f32>,
    pub(super) loss: Aligned<f32>,
    pub(super) correct: Aligned<u32>,
    /// Rows per group: each group has its own sums of the convolutions' gradients.
    pub(super) group: usize,
    /// The first layer, if it is divided by its inputs.
    pub(super) by_inputs: Option<ByInputs>,
}

/// The samples of a batch, and what is drawn for it.
#[derive(Clone, Copy)]
pub(super) struct Samples<'a> {
    pub(super) order: &'a [u32],
    /// How the batch is made, if it is more than these images.
    pub(super) augmented: Option<Augmented>,
    pub(super) random: Random,
}

/// Without draws, as in inference.
impl<'a> From<&'a [u32]> for Samples<'a> {
    fn from(order: &'a [u32]) -> Self {
        Samples { order, augmented: None, random: Random::default() }
    }
}

/// Rows of a batch that one thread processes.
pub(super) struct Share<'a> {
    pub(super) order: &'a [u32],
    /// The whole batch.
    batch: Samples<'a>,
    /// The position of the first row in it.
    first: usize,
    pub(super) rows: Rows<'a>,
    pub(super) labels: &'a mut [u32],
    /// Empty where rows are not mixed.
    partners: &'a [u32],
    pub(super) probabilities: &'a mut [f32],
    pub(super) loss: &'a mut [f32],
    pub(super) correct: &'a mut [u32],
    group: usize,
    by_inputs: Option<&'a ByInputs>,
}

/// What the loss of a row takes from the whole batch.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a> {
    /// The number of rows, over which the loss is the mean.
    pub(super) n: usize,
    /// What the training loss compares with besides the labels, and the share of the own label.
    pub(super) loss: Option<(&'a SoftLoss, f32)>,
}

/// Elements of a parameter that one thread updates.
pub(super) struct Slice<'a> {
    /// Index of the parameter.
    pub(super) index: usize,
    /// What the parameter is for.
    pub(super) role: Role,
    /// The first element of the slice.
    pub(super) first: usize,
    pub(super) w: &'a mut [f32],
    pub(super) g: &'a mut [f32],
    pub(super) slots: [&'a mut [f32]; 2],
    /// Empty if training keeps no averages.
    pub(super) average: &'a mut [f32],
    /// The convolution whose filter it is, with the filter in the forms that the loops use.
    pub(super) packed: Option<(usize, &'a mut Packed)>,
}

impl BatchBuffers {
    pub(super) fn new(program: &NativeProgram, n: usize, group: usize) -> Result<Self, EngineError> {
        Ok(BatchBuffers {
            tensors: program.tensors(n, group)?,
            labels: zeros(n)?,
            partners: Vec::new(),
            probabilities: zeros(n * program.program.classes)?,
            loss: zeros(n)?,
            correct: zeros(n)?,
            group,
            by_inputs: None,
        })
    }

    /// Takes the labels of the rows that the samples `order` of a batch are mixed with: those of other threads among them.
    pub(super) fn mix(&mut self, split: &Split, order: &[u32], loss: Option<&SoftLoss>) {
        self.partners.clear();
        if loss.is_some_and(|loss| loss.mixes) {
            let label = |row: usize| u32::from(split.labels[order[row] as usize]);
            self.partners.extend((0..order.len()).map(|row| label(partner(row, order.len()))));
        }
    }

    /// The images, and the first layer, which is divided by its inputs.
    pub(super) fn first_layer(&mut self) -> (&[f32], &mut ByInputs) {
        let images = self.tensors.floats.last().expect("the last is for the images");
        (images, self.by_inputs.as_mut().expect("there is a phase for it"))
    }

    /// Divides the samples of a batch into shares of `rows`.
    pub(super) fn split<'a>(
        &'a mut self,
        program: &NativeProgram,
        batch: impl Into<Samples<'a>>,
        rows: usize,
    ) -> Vec<Share<'a>> {
        let batch = batch.into();
        let order = batch.order;
        let (n, group, classes) = (order.len(), self.group, program.program.classes);
        let tensors = program.split(&mut self.tensors, n, rows, group);
        let labels = self.labels[..n].chunks_mut(rows).zip(self.probabilities.chunks_mut(rows * classes));
        let results = self.loss[..n].chunks_mut(rows).zip(self.correct[..n].chunks_mut(rows));
        let by_inputs = self.by_inputs.as_ref();
        let partners = self.partners.chunks(rows).chain(std::iter::repeat(&[][..]));
        let shares = order.chunks(rows).zip(tensors).zip(labels.zip(partners)).zip(results).enumerate();
        let shares = shares.map(|(i, (((order, tensors), ((labels, probabilities), partners)), (loss, correct)))| {
            let probabilities = &mut probabilities[..order.len() * classes];
            let first = i * rows;
            Share {
                order,
                batch,
                first,
                rows: tensors,
                labels,
                partners,
                probabilities,
                loss,
                correct,
                group,
                by_inputs,
            }
        });
        shares.collect()
    }
}

/// Returns the sum of some losses, and the number of correct predictions.
pub(super) fn totals(loss: &[f32], correct: &[u32]) -> (f64, u64) {
    let loss = loss.iter().map(|&loss| f64::from(loss)).sum();
    (loss, correct.iter().map(|&correct| u64::from(correct)).sum())
}

impl Slice<'_> {
    /// Computes the gradient over the first `n` rows of a batch.
    pub(super) fn gradient(&mut self, program: &NativeProgram, batch: &BatchBuffers, n: usize) {
        program.gradient(self.index, self.first, n, batch.group, &batch.tensors, self.g);
    }

    /// Makes one step of the optimizer, and moves the average; `clip` is the factor of the gradients.
    pub(super) fn step(self, program: &NativeProgram, config: &StepConfig, rates: Rates, clip: f32) {
        let Slice { role, w, g, slots, average, packed, .. } = self;
        config.optimizer.step_native(config.on(role, rates, clip), g, w, slots);
        // Before the filter is packed: it may jump to the average.
        if let Some(config) = &config.average {
            average::average_step(rates.average, config.pulls(), w, average);
        }
        if let Some((conv, packed)) = packed {
            program.convs[conv].pack(w, packed);
        }
    }
}

impl Share<'_> {
    /// Takes the images and labels of its samples.
    pub(super) fn gather(&mut self, split: &Split) {
        let x = self.rows.floats.last_mut().expect("the last is for the images");
        let (images, labels) = (&split.images, &split.labels);
        match &self.batch.augmented {
            Some(how) => {
                let (batch, first) = (self.batch.order, self.first);
                batch_gather::batch_gather_augmented(how, images, labels, batch, first, x, self.labels);
            }
            None => {
                let pixels = x.len() / self.order.len();
                batch_gather::batch_gather(pixels, images, labels, self.order, x, self.labels);
            }
        }
    }

    /// Computes the output of a layer that is divided by its inputs, the first instruction of the program.
    fn add_up(&mut self, by_inputs: &ByInputs, shared: Shared<'_>) {
        let [bias, output] = by_inputs.tensors;
        let buffer = shared.program.program.tensor(output).buffer().expect("it is of this batch");
        let y = take(&mut self.rows.floats[buffer]);
        by_inputs.add_up(self.first, shared.read(bias, &self.rows.floats), y);
        self.rows.floats[buffer] = y;
    }

    /// Runs instruction `i` of the program.
    pub(super) fn run(&mut self, i: usize, shared: Shared<'_>, whole: Whole<'_>, scratch: &mut Scratch) {
        if let Some(by_inputs) = self.by_inputs.filter(|_| inputs::IS_USED && i == 0) {
            return self.add_up(by_inputs, shared);
        }
        let Share { order, batch, first, rows, labels, partners, probabilities, loss, correct, group, .. } = self;
        let (native, n, group) = (shared.program, order.len(), *group);
        let labels: &[u32] = labels;
        let partners = if partners.is_empty() { labels } else { partners };
        let targets = whole.loss.map(|(loss, share)| loss.targets(partners, share));
        let answers = Answers { labels, targets, n_valid: whole.n, probabilities, loss, correct };
        let instruction = &native.program.instructions[i];
        let buffers_of = |wanted: fn(&Tensor) -> bool, ids: &[Id]| {
            let mut wanted = ids.iter().map(|id| native.program.tensor(*id)).filter(|tensor| wanted(tensor));
            [wanted.next(), wanted.next()].map(|tensor| tensor.and_then(Tensor::buffer))
        };
        // What the instruction writes is taken out while it reads the rest, and put back.
        let written = buffers_of(|tensor| tensor.by_row && !tensor.is_index, &instruction.writes);
        let [writes_index, reads_index] =
            [&instruction.writes, &instruction.reads].map(|ids| buffers_of(|tensor| tensor.is_index, ids)[0]);
        let index = writes_index.or(reads_index);
        let conv = native.conv_of[i];
        let mut y = written.map(|i| i.map(|i| take(&mut rows.floats[i])).unwrap_or_default());
        let argmax = index.map(|i| take(&mut rows.indices[i])).unwrap_or_default();
        let sums = conv.map(|i| take(&mut rows.sums[i])).unwrap_or_default();
        {
            let mut x: [&[f32]; 6] = [&[]; 6];
            let reads = instruction.reads.iter().filter(|id| !native.program.tensor(**id).is_index);
            let mut count = 0;
            for (x, id) in x.iter_mut().zip(reads) {
                *x = shared.read(*id, &rows.floats);
                count += 1;
            }
            let convolving =
                conv.map(|i| Convolving { conv: &native.convs[i], packed: &shared.packed[i], scratch, sums, group });
            let (first_row, random) = (*first, batch.random);
            let (x, y, argmax) = (&x[..count], &mut y[..written.iter().flatten().count()], &mut *argmax);
            let on = Operands { n, first_row, random, x, y, argmax, answers };
            compute_native(instruction.op, on, convolving);
        }
        for (i, y) in written.into_iter().zip(y) {
            if let Some(i) = i {
                rows.floats[i] = y;
            }
        }
        if let Some(i) = index {
            rows.indices[i] = argmax;
        }
        if let Some(i) = conv {
            rows.sums[i] = sums;
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
    averages: &'a mut [Aligned<f32>],
    packed: &'a mut [Packed],
) -> Vec<Slice<'a>> {
    let mut slots = slots.iter_mut().map(|slot| slot.iter_mut());
    let [mut m, mut v] = [slots.next(), slots.next()];
    let mut packed: Vec<Option<&mut Packed>> = packed.iter_mut().map(Some).collect();
    let mut slices = Vec::with_capacity(128);
    let both = parameters.iter_mut().zip(gradients);
    let mut averages = Some(averages.iter_mut());
    for ((index, parameter), (w, g)) in described.iter().enumerate().zip(both) {
        let next = |slot: &mut Option<std::slice::IterMut<'a, Aligned<f32>>>| {
            slot.as_mut().and_then(Iterator::next).map_or(&mut [][..], |values| &mut **values)
        };
        let len = slice_len(&parameter.shape);
        let mut of_m = next(&mut m).chunks_mut(len);
        let mut of_v = next(&mut v).chunks_mut(len);
        let mut of_average = next(&mut averages).chunks_mut(len);
        let conv = program.conv_of_parameter(index);
        // What is not trained has no gradients, so there are no slices of it.
        for (i, (w, g)) in w.chunks_mut(len).zip(g.chunks_mut(len)).enumerate() {
            slices.push(Slice {
                index,
                role: parameter.role,
                first: i * len,
                w,
                g,
                slots: [of_m.next().unwrap_or_default(), of_v.next().unwrap_or_default()],
                average: of_average.next().unwrap_or_default(),
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
