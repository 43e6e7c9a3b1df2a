//! How the native engine computes each instruction.

use super::{Operands, Operation};
use crate::lower::{Op, dispatch};
use crate::native::conv2d::{Conv2d, Packed, Scratch};

/// What the native engine needs of an operation.
pub(super) trait Native: Operation {
    /// Computes the instruction, on some rows or, if it needs them, on the whole batch: by the plain loops, unless there are faster ones. The
    /// gradients of weights that follow at the end ([`Native::gradient`]) are not among what it writes.
    fn compute_native(self, on: Operands<'_, '_, f32>, _: Option<Convolving<'_>>) {
        self.compute(on);
    }

    /// Computes a part of the gradient of a weight or bias, if that follows at the end.
    fn gradient(self, _: Part<'_>) {
        unreachable!("{self:?} computes its gradients itself")
    }
}

/// What a convolution of the native engine keeps between calls.
#[derive(Debug)]
pub(in crate::engine) struct Convolving<'a> {
    /// The convolution.
    pub(in crate::engine) conv: &'a Conv2d,
    /// Its filter in the forms that the loops use.
    pub(in crate::engine) packed: &'a Packed,
    /// Memory of the thread.
    pub(in crate::engine) scratch: &'a mut Scratch,
    /// The sums of the gradients, one part for each `group` rows.
    pub(in crate::engine) sums: &'a mut [f32],
    /// Rows per part.
    pub(in crate::engine) group: usize,
}

/// A part of the gradient of a weight or bias.
#[derive(Debug)]
pub(in crate::engine) struct Part<'a> {
    /// The position of the gradient among what the instruction writes: 0 for the weight, 1 for the bias.
    pub(in crate::engine) which: usize,
    /// The number of rows of the batch.
    pub(in crate::engine) n: usize,
    /// The input of the forward instruction.
    pub(in crate::engine) x: &'a [f32],
    /// The gradient of its output.
    pub(in crate::engine) dy: &'a [f32],
    /// The convolution, and what its rows added to [`Convolving::sums`].
    pub(in crate::engine) conv: Option<(&'a Conv2d, &'a [f32])>,
    /// The index of the first element of the part.
    pub(in crate::engine) first: usize,
    /// The part.
    pub(in crate::engine) g: &'a mut [f32],
}

/// Computes an instruction in the native engine.
pub(in crate::engine) fn compute_native(op: Op, on: Operands<'_, '_, f32>, convolving: Option<Convolving<'_>>) {
    dispatch!(op, instruction => instruction.compute_native(on, convolving));
}

/// Computes a part of the gradient of a weight or bias in the native engine.
pub(in crate::engine) fn compute_gradient(op: Op, part: Part<'_>) {
    dispatch!(op, instruction => instruction.gradient(part));
}
