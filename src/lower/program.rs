//! Programs: what an engine does for one batch, as tensors and a list of instructions.

use super::Op;
use std::fmt;

/// A tensor of a program: its position in [`Program::tensors`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub usize);

/// Where a tensor is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// The images of the batch, which the engine provides.
    Images,
    /// The parameter with this index.
    Parameter(usize),
    /// The gradient of the parameter with this index.
    Gradient(usize),
    /// A tensor whose elements all have this value.
    Constant(f32),
    /// The buffer with this index, which other tensors may use before and after.
    Buffer(usize),
}

impl Place {
    /// A buffer that `buffers.rs` has yet to assign.
    pub(super) const UNASSIGNED: Place = Place::Buffer(usize::MAX);
}

/// The description of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// For example `conv2d_1.y`.
    pub name: String,
    /// Its shape; without the dimension of the batch if it has a row for each image.
    pub shape: Vec<usize>,
    /// Whether it has a row for each image of the batch.
    pub by_row: bool,
    /// Whether its elements are positions (unsigned integers) instead of numbers.
    pub is_index: bool,
    /// Where it is kept.
    pub place: Place,
}

impl Tensor {
    /// Returns the number of elements, of a row if it has rows.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns its buffer, if it is kept in one.
    pub fn buffer(&self) -> Option<usize> {
        match self.place {
            Place::Buffer(index) => Some(index),
            _ => None,
        }
    }

    /// Returns the number of elements for a batch of `n` images.
    pub fn len_for(&self, n: usize) -> usize {
        if self.by_row { n * self.len() } else { self.len() }
    }

    /// Returns the whole shape for a batch of `n` images.
    pub fn shape_for(&self, n: usize) -> Vec<usize> {
        if self.by_row { [&[n], &self.shape[..]].concat() } else { self.shape.clone() }
    }
}

/// One operation on tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The operation.
    pub op: Op,
    /// What it reads, in the order of [`Op`].
    pub reads: Vec<Id>,
    /// What it writes, in the order of [`Op`].
    pub writes: Vec<Id>,
}

/// A buffer that one or several tensors use, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    /// Number of elements, of a row if it has rows.
    pub len: usize,
    /// Whether it has a row for each image of the batch.
    pub by_row: bool,
    /// Whether its elements are positions.
    pub is_index: bool,
}

/// What an engine does for one batch: forward, and in training also backward.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// The number of images of a batch.
    pub batch: usize,
    /// The number of classes.
    pub classes: usize,
    /// The tensors.
    pub tensors: Vec<Tensor>,
    /// The buffers.
    pub buffers: Vec<Buffer>,
    /// The instructions to do once after the parameters have changed, before the first batch.
    pub once: Vec<Instruction>,
    /// The instructions to do for every batch.
    pub instructions: Vec<Instruction>,
    /// The images.
    pub images: Id,
    /// The output of each layer, in the order of the layers; the last are the logits. If instructions are fused, the first of two layers has the
    /// output of the second.
    pub outputs: Vec<Id>,
}

impl Program {
    /// Returns the scores of the classes.
    pub fn logits(&self) -> Id {
        self.outputs.last().copied().unwrap_or(self.images)
    }

    /// Returns the description of a tensor.
    pub fn tensor(&self, id: Id) -> &Tensor {
        &self.tensors[id.0]
    }

    /// Returns the position of the instruction that computes the loss; the instructions after it compute gradients.
    pub fn loss(&self) -> usize {
        let loss = self.instructions.iter().position(|instruction| matches!(instruction.op, Op::SoftmaxXent(_)));
        loss.expect("every program computes a loss")
    }

    /// Returns the largest number of values for one image in a tensor.
    pub fn widest(&self) -> usize {
        let rows = self.tensors.iter().filter(|tensor| tensor.by_row);
        rows.map(Tensor::len).max().unwrap_or(1)
    }
}

/// An instruction per line: `ReluBackward: relu_1.y relu_1.sum1 -> relu_1.masked`.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |ids: &[Id]| ids.iter().map(|id| self.tensor(*id).name.as_str()).collect::<Vec<_>>().join(" ");
        for instruction in self.once.iter().chain(&self.instructions) {
            // The names of the operation and of its instruction: `Relu(Backward)`.
            let op = format!("{:?}", instruction.op);
            let words = op.split(|c: char| !c.is_alphanumeric()).take(2).filter(|word| *word != "Forward");
            writeln!(
                f,
                "{}: {} -> {}",
                words.collect::<String>(),
                names(&instruction.reads),
                names(&instruction.writes)
            )?;
        }
        Ok(())
    }
}
