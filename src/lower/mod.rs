//! From models to programs: shapes, fusion, gradients, and the place of every tensor.
//!
//! [`lower`] is the only code that knows how layers become instructions, and the only one that differentiates. It walks the graph of the model
//! once and emits the forward instructions (`forward.rs`), then goes through these from the last to the first and emits the instructions for their
//! gradients (`backward.rs`), and finally assigns buffers to tensors (`buffers.rs`). The rules of each layer and operation are in
//! `rules.rs`. Engines run the [`Program`] that results, and know no layers.

mod backward;
mod buffers;
mod forward;
mod program;
mod rules;

pub use program::{Buffer, Id, Instruction, Place, Program, Tensor};
pub use rules::*;

use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::pool2d::Pool2dDims;
use crate::model::{Model, ModelError, Parameter};
use std::collections::HashMap;
use std::fmt;
use thiserror::Error;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward, loss, gradients of all trained parameters; normalization by the batch's own statistics, unless it is not trained.
    Train,
    /// The same, but everything that an instruction computed is still there after the last one, to be searched.
    Search,
    /// Forward, probabilities and loss; normalization by the running statistics.
    Infer,
}

/// What an engine can compute in one instruction. Every engine with such fusion also computes a convolution or dense layer with the ReLU after it
/// (and its gradient with the mask of the ReLU before it), includes a normalization in the weights of the layer before it in inference, and
/// lets tensors whose values are no longer needed make room for others.
pub trait Fusion: fmt::Debug {
    /// Whether a convolution can include the max pooling after it.
    fn pool(&self, conv: &Conv2dDims, pool: &Pool2dDims) -> bool;

    /// Whether the backward pass of a convolution can start from the gradient of the max pooling after it. `needs_dx` says whether it
    /// computes the gradient of its input too.
    fn unpool(&self, conv: &Conv2dDims, pool: &Pool2dDims, needs_dx: bool) -> bool;

    /// Whether a normalization by the statistics of a batch adds up each image while its rows are processed, so that only the sums of the images
    /// are left for the whole batch, and whether it includes a GELU after it.
    fn sums_by_image(&self) -> bool {
        false
    }

    /// Whether the gradients of weights are computed after all other instructions, so that what they read must stay until then.
    fn weights_last(&self) -> bool {
        false
    }
}

/// A model that cannot be lowered.
#[derive(Debug, Error)]
pub enum LowerError {
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A layer cannot be computed at the batch size.
    #[error("layer `{layer}` at batch size {batch}: {reason}")]
    Batch {
        /// The layer.
        layer: String,
        /// The batch size.
        batch: usize,
        /// The reason.
        reason: String,
    },
}

/// Lowers a model for batches of `batch` images. Without `fusion`, every layer is an instruction by itself, and everything that an instruction computed is
/// still there after the last one.
///
/// # Errors
/// The model cannot be built, or a layer cannot be computed at the batch size.
pub fn lower(model: &Model, mode: Mode, batch: usize, fusion: Option<&dyn Fusion>) -> Result<Program, LowerError> {
    let layers = model.graph()?;
    let mut indices = 0..;
    let parameters =
        layers.iter().map(|layer| layer.parameters().into_iter().zip(indices.by_ref()).collect()).collect();
    let program = Program { batch, classes: model.classes(), ..Program::default() };
    let (is_relu, is_trained, gradients) = (Vec::new(), Vec::new(), HashMap::new());
    let mut lowering = Lowering { fusion, mode, parameters, program, is_relu, is_trained, gradients };
    lowering.program.images = lowering.add("x".to_string(), &model.input, true, Place::Images);
    lowering.forward(&layers)?;
    if mode != Mode::Infer {
        lowering.backward();
    }
    let reuse = fusion.is_some() && mode != Mode::Search;
    let weights_last = fusion.is_some_and(|fusion| fusion.weights_last());
    buffers::assign(&mut lowering.program, reuse, weights_last);
    Ok(lowering.program)
}

/// A program under construction.
struct Lowering<'f> {
    fusion: Option<&'f dyn Fusion>,
    mode: Mode,
    /// The parameters of each layer, with their indices in the model.
    parameters: Vec<Vec<(Parameter, usize)>>,
    program: Program,
    /// For each tensor: whether it is the output of a ReLU, or a maximum or a reshaping of one: nowhere negative, and its gradient is zero
    /// wherever it is zero.
    ///
    /// The gradient of such a tensor is always stored masked in this way, so that the operation with the ReLU in it receives the gradient
    /// of its own sums without another pass. Max pooling preserves the property: the maximum of positive values is positive.
    is_relu: Vec<bool>,
    /// For each tensor: whether it depends on a trained parameter, so that training needs its gradient.
    is_trained: Vec<bool>,
    /// The gradients that reach each tensor, from each of its readers.
    gradients: HashMap<Id, Vec<Id>>,
}

impl Lowering<'_> {
    /// Adds a tensor of numbers.
    fn add(&mut self, name: String, shape: &[usize], by_row: bool, place: Place) -> Id {
        self.program.tensors.push(Tensor { name, shape: shape.to_vec(), by_row, is_index: false, place });
        self.is_relu.push(false);
        self.is_trained.push(false);
        Id(self.program.tensors.len() - 1)
    }

    /// Adds a tensor that an instruction writes, with a row for each image.
    fn rows(&mut self, name: String, shape: &[usize]) -> Id {
        self.add(name, shape, true, Place::UNASSIGNED)
    }

    /// Does the same with rows as long as those of `x`.
    fn rows_like(&mut self, name: String, x: Id) -> Id {
        let shape = self.program.tensor(x).shape.clone();
        self.rows(name, &shape)
    }

    /// Returns the tensor of the gradient of `w`: of the trained parameter, or one that nobody reads.
    fn gradient_of(&mut self, w: Id) -> Id {
        let Tensor { name, shape, place, .. } = self.program.tensor(w).clone();
        let place = match place {
            Place::Parameter(index) if self.is_trained[w.0] => Place::Gradient(index),
            _ => Place::UNASSIGNED,
        };
        self.add(format!("gradients.{name}"), &shape, false, place)
    }

    fn emit(&mut self, op: Op, reads: Vec<Id>, writes: Vec<Id>) {
        let is_trained = reads.iter().any(|id| self.is_trained[id.0]);
        for id in &writes {
            self.is_trained[id.0] |= is_trained;
        }
        self.program.instructions.push(Instruction { op, reads, writes });
    }
}
