//! How the engines compute each operation: a file for each, with all engines side by side.
//!
//! [`record`] is for the GPU, [`Operation::compute`] for the plain loops, which are the meaning of an instruction, and `native` for the native engine.

mod add;
mod batchnorm;
mod conv2d;
mod dense;
mod dropout;
mod gelu;
mod groupedconv2d;
mod leakyrelu;
#[cfg(feature = "native")]
mod native;
mod pool2d;
mod relu;
mod scale;
mod silu;
mod softmax_xent;

pub(super) use conv2d::conv2d_form;
#[cfg(feature = "native")]
pub(super) use native::{Convolving, Part, compute_gradient, compute_native};

use super::NonFinite;
use crate::cpu::non_finite::non_finite;
use crate::cpu::philox::Random;
use crate::cpu::real::Real;
use crate::cpu::softmax_xent::SoftTargets;
use crate::gpu::{GpuError, PlanBuilder, Tensor};
use crate::lower::{Id, Instruction, Op, Place, Program, dispatch};
use crate::ops::SharedTiles;
use crate::ops::softmax_xent::{BatchTotals, SoftTensors};
use std::fmt;

/// What the engines need of an operation; its values are its instructions.
trait Operation: Copy + fmt::Debug {
    /// Records the instruction into a plan. `x` and `y` are the tensors that it reads and writes.
    fn record(self, plan: &mut PlanBuilder, x: &[&Tensor], y: &[&Tensor], on: &OnGpu<'_>) -> Result<(), GpuError>;

    /// Computes the instruction by the plain loops.
    fn compute<T: Real>(self, on: Operands<'_, '_, T>);
}

/// What the instructions of a program use on a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnGpu<'a> {
    /// The program.
    pub(super) program: &'a Program,
    /// The sizes of the tiles in workgroup memory, on devices that use them.
    pub(super) tiles: SharedTiles,
    /// The tensors of the program.
    pub(super) tensors: &'a [Tensor],
    /// The classes of the batch, `[N]`.
    pub(super) labels: &'a Tensor,
    /// What the training loss compares with besides the labels.
    pub(super) targets: Option<SoftTensors<'a>>,
    /// Where the loss of the batch goes.
    pub(super) totals: BatchTotals<'a>,
    /// What draws follow from, besides the progress.
    pub(super) random: &'a Tensor,
    /// The gradients of filters that the optimizer finishes, each with the tensor of its parts.
    pub(super) parts: &'a [[Tensor; 2]],
}

impl OnGpu<'_> {
    /// Returns the tensor of the parts of a gradient that the optimizer finishes.
    fn parts_of(&self, gradient: &Tensor) -> Option<&Tensor> {
        let is_it =
            |of: &&[Tensor; 2]| of[0].shares_buffer(gradient) && of[0].first_element() == gradient.first_element();
        self.parts.iter().find(is_it).map(|[_, parts]| parts)
    }
}

/// Records an instruction into a plan.
pub(super) fn record(plan: &mut PlanBuilder, instruction: &Instruction, on: &OnGpu<'_>) -> Result<(), GpuError> {
    let x: Vec<&Tensor> = instruction.reads.iter().map(|id| &on.tensors[id.0]).collect();
    let y: Vec<&Tensor> = instruction.writes.iter().map(|id| &on.tensors[id.0]).collect();
    dispatch!(instruction.op, instruction => instruction.record(plan, &x, &y, on))
}

/// What an instruction works on outside a GPU. Tensors with rows have `n` of them, whatever the dimensions of the instruction say.
#[derive(Debug)]
pub(super) struct Operands<'a, 'y, T> {
    /// The number of rows.
    pub(super) n: usize,
    /// The position of the first of them in the batch.
    pub(super) first_row: usize,
    /// What draws follow from.
    pub(super) random: Random,
    /// What it reads, except for positions.
    pub(super) x: &'a [&'a [T]],
    /// What it writes, except for positions.
    pub(super) y: &'a mut [&'y mut [T]],
    /// The positions that it reads or writes.
    pub(super) argmax: &'a mut [u32],
    /// For the loss.
    pub(super) answers: Answers<'a, T>,
}

impl<T> Operands<'_, '_, T> {
    /// Returns the index in the whole batch of the first element that is written.
    fn first_element(&self) -> usize {
        self.first_row * self.y[0].len() / self.n.max(1)
    }
}

/// Some rows of a batch, for the loss.
#[derive(Debug)]
pub(super) struct Answers<'a, T> {
    /// The classes.
    pub(super) labels: &'a [u32],
    /// What the training loss compares with besides the labels.
    pub(super) targets: Option<SoftTargets<'a>>,
    /// The number of rows of the whole batch that count: the loss is their mean.
    pub(super) n_valid: usize,
    /// The probabilities of the classes.
    pub(super) probabilities: &'a mut [T],
    /// The loss of each row.
    pub(super) loss: &'a mut [T],
    /// Whether each row is classified correctly.
    pub(super) correct: &'a mut [u32],
}

/// Computes an instruction by the plain loops.
pub(super) fn compute<T: Real>(op: Op, on: Operands<'_, '_, T>) {
    dispatch!(op, instruction => instruction.compute(on));
}

/// Returns the first value that is not finite in a tensor that an operation wrote in a step of training.
pub(super) fn found<T: Real>(step: usize, tensor: String, operation: &str, values: &[T]) -> Option<NonFinite> {
    let [count, index] = non_finite(values);
    let (count, index, operation) = (count as usize, index as usize, operation.to_string());
    (count > 0).then_some(NonFinite { step, tensor, operation, index, count })
}

/// Returns the first value that is not finite in what the instructions of a program wrote, in their order; `loss` are the losses, and
/// `content` returns the content of a tensor, or nothing for those that are not to be searched.
pub(super) fn found_in<'a, T: Real>(
    program: &Program,
    step: usize,
    loss: &[T],
    content: impl Fn(Id) -> Option<&'a [T]>,
) -> Option<NonFinite> {
    let at_loss = program.loss();
    program.instructions.iter().enumerate().find_map(|(i, of)| {
        let of_loss = || found(step, "loss".to_string(), of.op.name(), loss);
        let operation = if i > at_loss { "backward pass" } else { of.op.name() };
        let written = || {
            of.writes.iter().find_map(|&id| {
                let name = &program.tensor(id).name;
                let prefix = if matches!(program.tensor(id).place, Place::Parameter(_)) { "parameters." } else { "" };
                found(step, format!("{prefix}{name}"), operation, content(id)?)
            })
        };
        (i == at_loss).then(of_loss).flatten().or_else(written)
    })
}
