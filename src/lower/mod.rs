//! From models to programs: shapes, fusion, gradients, and the place of every tensor.
//!
//! [`lower`] is the only code that knows how layers become steps, and the only one that differentiates. It walks the graph of the model
//! once and emits the forward steps (`forward.rs`), then goes through these from the last to the first and emits the steps for their
//! gradients (`backward.rs`), and finally assigns buffers to tensors (`buffers.rs`). The rules of each layer and operation are in
//! `rules.rs`. Engines run the [`Program`] that results, and know no layers.

mod backward;
mod buffers;
mod forward;
mod program;
mod rules;

pub use program::{Buffer, Id, Place, Program, Step, Tensor};
pub use rules::Op;

use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::pool2d::Pool2dDims;
use crate::model::{Model, ModelError, Parameter};
use std::fmt;
use thiserror::Error;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward, loss, gradients of all trained parameters; normalization by the batch's own statistics.
    Train,
    /// The same, but everything that a step computed is still there after the last one, to be searched.
    Search,
    /// Forward, probabilities and loss; normalization by the running statistics.
    Infer,
}

/// What an engine can compute in one step, and how it runs a program. The default is an engine that takes every step by itself.
pub trait Fusion: fmt::Debug {
    /// Whether convolutions and dense layers can include the ReLU after them, and their gradients the mask of the ReLU before them.
    fn relu(&self) -> bool {
        false
    }

    /// Whether a convolution can include the max pooling after it.
    fn pool(&self, _conv: &Conv2dDims, _pool: &Pool2dDims) -> bool {
        false
    }

    /// Whether the backward pass of a convolution can start from the gradient of the max pooling after it. `needs_dx` says whether it
    /// computes the gradient of its input too.
    fn unpool(&self, _conv: &Conv2dDims, _pool: &Pool2dDims, _needs_dx: bool) -> bool {
        false
    }

    /// Whether inference includes a normalization in the weights of the layer before it.
    fn fold(&self) -> bool {
        false
    }

    /// Whether tensors whose values are no longer needed make room for others. Without, everything that a step computed is there after it.
    fn reuse(&self) -> bool {
        false
    }

    /// Whether the gradients of weights are computed after all other steps, so that what they read must stay until then.
    fn weights_last(&self) -> bool {
        false
    }
}

/// Takes every step by itself, and keeps everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unfused;

impl Fusion for Unfused {}

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

/// Lowers a model for batches of `batch` images.
///
/// # Errors
/// The model cannot be built, or a layer cannot be computed at the batch size.
pub fn lower(model: &Model, mode: Mode, batch: usize, fusion: &dyn Fusion) -> Result<Program, LowerError> {
    let layers = model.graph()?;
    let parameters = layers.iter().flat_map(|layer| layer.parameters()).collect();
    let mut lowering = Lowering::new(model, mode, batch, fusion, parameters);
    lowering.forward(&layers)?;
    if mode != Mode::Infer {
        lowering.backward();
    }
    Ok(lowering.finish())
}

/// A program under construction.
struct Lowering<'f> {
    fusion: &'f dyn Fusion,
    mode: Mode,
    parameters: Vec<Parameter>,
    program: Program,
    /// For each tensor: whether it is the output of a ReLU, or a maximum or a reshaping of one: nowhere negative, and its gradient is zero
    /// wherever it is zero.
    ///
    /// The gradient of such a tensor is always stored masked in this way, so that the operation with the ReLU in it receives the gradient
    /// of its own sums without another pass. Max pooling preserves the property: the maximum of positive values is positive.
    is_relu: Vec<bool>,
    /// For each tensor: whether it depends on a trained parameter, so that training needs its gradient.
    is_trained: Vec<bool>,
}

impl<'f> Lowering<'f> {
    fn new(model: &Model, mode: Mode, batch: usize, fusion: &'f dyn Fusion, parameters: Vec<Parameter>) -> Self {
        let program = Program {
            batch,
            classes: model.classes(),
            tensors: Vec::new(),
            buffers: Vec::new(),
            once: Vec::new(),
            steps: Vec::new(),
            images: Id(0),
            outputs: Vec::new(),
        };
        let (is_relu, is_trained) = (Vec::new(), Vec::new());
        let mut lowering = Lowering { fusion, mode, parameters, program, is_relu, is_trained };
        let images = Tensor {
            name: "x".to_string(),
            shape: model.input.to_vec(),
            by_row: true,
            is_index: false,
            place: Place::Images,
        };
        lowering.program.images = lowering.add(images);
        lowering
    }

    fn add(&mut self, tensor: Tensor) -> Id {
        self.program.tensors.push(tensor);
        self.is_relu.push(false);
        self.is_trained.push(false);
        Id(self.program.tensors.len() - 1)
    }

    /// Adds a tensor that a step writes; `buffers.rs` decides where it is kept.
    fn buffer(&mut self, name: String, shape: &[usize], by_row: bool, is_index: bool) -> Id {
        self.add(Tensor { name, shape: shape.to_vec(), by_row, is_index, place: Place::Buffer(usize::MAX) })
    }

    /// Adds a tensor of numbers with a row for each image.
    fn rows(&mut self, name: String, shape: &[usize]) -> Id {
        self.buffer(name, shape, true, false)
    }

    /// Adds a tensor of numbers with rows as long as those of `x`.
    fn rows_like(&mut self, name: String, x: Id) -> Id {
        let shape = self.program.tensor(x).shape.clone();
        self.rows(name, &shape)
    }

    fn constant(&mut self, value: f32, len: usize) -> Id {
        let name = format!("{value}");
        self.add(Tensor { name, shape: vec![len], by_row: false, is_index: false, place: Place::Constant(value) })
    }

    /// Returns the tensor of a parameter.
    fn parameter(&mut self, index: usize) -> Id {
        let Parameter { name, shape, role } = self.parameters[index].clone();
        let id = self.add(Tensor { name, shape, by_row: false, is_index: false, place: Place::Parameter(index) });
        self.is_trained[id.0] = role.is_trained();
        id
    }

    /// Returns the tensor of the gradient of `w`: of the parameter, or one that nobody reads.
    fn gradient_of(&mut self, w: Id) -> Id {
        let Tensor { name, shape, place, .. } = self.program.tensor(w).clone();
        let place = match place {
            Place::Parameter(index) => Place::Gradient(index),
            _ => Place::Buffer(usize::MAX),
        };
        self.add(Tensor { name: format!("gradients.{name}"), shape, by_row: false, is_index: false, place })
    }

    fn step(&mut self, op: Op, reads: Vec<Id>, writes: Vec<Id>) {
        let is_trained = reads.iter().any(|id| self.is_trained[id.0]);
        for id in &writes {
            self.is_trained[id.0] |= is_trained;
        }
        self.program.steps.push(Step { op, reads, writes });
    }

    fn shape(&self, id: Id) -> &[usize] {
        &self.program.tensor(id).shape
    }

    fn finish(mut self) -> Program {
        let reuse = self.fusion.reuse() && self.mode != Mode::Search;
        buffers::assign(&mut self.program, reuse, self.fusion.weights_last());
        self.program
    }
}
