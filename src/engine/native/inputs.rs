//! The first layer of a network, if it is dense, divided by its inputs while it is trained in small batches.
//!
//! Divided by the rows of the batch, as other layers are, each thread would read all weights, half of which another core has just written. Here
//! some inputs with their weights are a part, and the thread that multiplies them ([`InputPart::multiply`]) is mostly the one that updates them
//! later. Each row then adds up the products of all parts ([`ByInputs::add_up`]). The parts are the same for any number of threads, and so is the
//! order of the sums.

use super::program::{NativeProgram, Phase, zeros};
use crate::cpu::dense::DenseDims;
use crate::engine::EngineError;
use crate::lower::{Dense, Id, Op, Place};
use crate::native::{Aligned, dense};
use std::ops::Range;

/// Whether a layer is ever divided so. A browser has one thread, and the page's module has to be small.
pub(super) const IS_USED: bool = !cfg!(target_family = "wasm");

/// The layer with its parts.
#[derive(Debug)]
pub(super) struct ByInputs {
    relu: bool,
    /// The bias and the output.
    pub(super) tensors: [Id; 2],
    /// The index of the weights among the parameters.
    pub(super) weights: usize,
    pub(super) parts: Vec<InputPart>,
}

/// Some inputs of all rows of a batch.
#[derive(Debug)]
pub(super) struct InputPart {
    /// Of the whole layer.
    d: DenseDims,
    inputs: Range<usize>,
    /// `[N, O]`.
    products: Aligned<f32>,
}

impl ByInputs {
    /// Divides the first layer of a program for batches of `n` rows, with phases of its own; returns `None` if it is of another kind, or not
    /// faster so.
    pub(super) fn new(native: &mut NativeProgram, n: usize) -> Result<Option<Self>, EngineError> {
        const PARTS: usize = 4;
        let program = &native.program;
        let Some(first) = program.instructions.first() else { return Ok(None) };
        let (Op::Dense(Dense::Forward { d, relu }), &[x, w, bias]) = (first.op, &first.reads[..]) else {
            return Ok(None);
        };
        let Place::Parameter(weights) = program.tensor(w).place else { return Ok(None) };
        // The products must not be more than the weights.
        if !IS_USED || x != program.images || PARTS * n > d.i {
            return Ok(None);
        }
        let part = |i: usize| {
            let [first, end] = [i, i + 1].map(|i| i * d.i / PARTS);
            Ok(InputPart { d, inputs: first..end, products: zeros(n * d.o)? })
        };
        let parts = (0..PARTS).map(part).collect::<Result<_, EngineError>>()?;
        let tensors = [bias, first.writes[0]];
        // The images are gathered in the first phase.
        native.phases.splice(0..0, [Phase::Rows(0..0), Phase::Inputs]);
        Ok(Some(ByInputs { relu, tensors, weights, parts }))
    }

    /// Computes the outputs `y` of the rows from `first` on, as many as there is room for.
    pub(super) fn add_up(&self, first: usize, bias: &[f32], y: &mut [f32]) {
        let (start, len) = (first * bias.len(), y.len());
        y.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
        for part in &self.parts {
            dense::add_products(&part.products[start..][..len], y);
        }
        if self.relu {
            dense::relu(y);
        }
    }
}

impl InputPart {
    /// Multiplies these inputs of `n` rows by their weights. Shapes: x `[N, I]`, w `[I, O]`, of all inputs.
    pub(super) fn multiply(&mut self, n: usize, x: &[f32], w: &[f32]) {
        let InputPart { d, inputs, products } = self;
        dense::dense_products(&DenseDims { n, ..*d }, inputs.clone(), x, w, &mut products[..n * d.o]);
    }
}
