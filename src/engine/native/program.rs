//! A program in the native engine: the memory of a batch, and the instructions over it in phases.
//!
//! Most instructions compute each row from the same row of other tensors, so a thread takes some rows through all of them (a phase of rows). An
//! instruction that looks at the whole batch is a phase of its own: the threads meet before it and after it. The gradients of weights are
//! computed at the very end, each thread taking some of the weights over all rows. In small batches, a first layer that is dense is divided
//! like its weights, too.

use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::philox::Random;
use crate::cpu::pool2d::Pool2dDims;
use crate::engine::EngineError;
use crate::engine::operations::{Answers, Operands, Part, compute_gradient, compute_native};
use crate::lower::{self, Fusion, Id, Instruction, Mode, Op, Place, Program, lower};
use crate::model::Model;
use crate::native::Aligned;
use crate::native::conv2d::{Algorithm, Conv2d, Packed};
use bytemuck::Pod;
use std::mem::take;
use std::ops::{Deref, Range};

/// What the loops compute in one instruction.
#[derive(Debug)]
struct NativeFusion;

impl Fusion for NativeFusion {
    fn pool(&self, _: &Conv2dDims, pool: &Pool2dDims) -> bool {
        Conv2d::can_pool(pool)
    }

    fn unpool(&self, _: &Conv2dDims, _: &Pool2dDims, _: bool) -> bool {
        true
    }

    fn sums_by_image(&self) -> bool {
        true
    }

    fn weights_last(&self) -> bool {
        true
    }
}

/// For instructions that read no rows.
const NO_ROWS: &[&[f32]] = &[];

/// Instructions between two meetings of the threads.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// These instructions, on the rows of each thread.
    Rows(Range<usize>),
    /// This instruction, on the whole batch.
    Batch(usize),
    /// The products of the first layer, on some of its inputs in each thread: see [`super::inputs`].
    Inputs,
}

/// A program and its convolutions.
#[derive(Debug)]
pub(super) struct NativeProgram {
    /// For batches of one image; the number of rows is given in every call.
    pub(super) program: Program,
    pub(super) phases: Vec<Phase>,
    pub(super) convs: Vec<Conv2d>,
    /// The filter of each of `convs`.
    filters: Vec<Id>,
    /// For each instruction the index of its convolution.
    pub(super) conv_of: Vec<Option<usize>>,
    /// For each tensor that is a constant its content.
    constants: Vec<Aligned<f32>>,
    /// For each parameter the instruction that computes its gradient, and the position of the gradient among what the instruction writes.
    gradients: Vec<Option<(usize, usize)>>,
}

/// A program with what it needs besides the tensors of a batch.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) program: NativeProgram,
    /// The buffers without rows.
    pub(super) whole: Vec<Aligned<f32>>,
    /// The filter of each convolution, in the forms that the loops use.
    pub(super) packed: Vec<Packed>,
}

/// What all threads read during a phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<'a> {
    pub(super) program: &'a NativeProgram,
    pub(super) parameters: &'a [Aligned<f32>],
    pub(super) gradients: &'a [Aligned<f32>],
    pub(super) whole: &'a [Aligned<f32>],
    pub(super) packed: &'a [Packed],
}

/// The tensors of a batch, or of the rows that one thread processes.
#[derive(Debug)]
pub(super) struct Tensors<F, U> {
    /// One per buffer, empty for those without rows; the last is for the images.
    pub(super) floats: Vec<F>,
    /// The same for positions.
    pub(super) indices: Vec<U>,
    /// The partial sums of the gradients of each convolution, one part per group of rows.
    pub(super) sums: Vec<F>,
}

/// The whole tensors.
pub(super) type Owned = Tensors<Aligned<f32>, Aligned<u32>>;
/// Some rows of the tensors.
pub(super) type Rows<'a> = Tensors<&'a mut [f32], &'a mut [u32]>;

impl NativeProgram {
    /// Lowers a model, with its convolutions in the given algorithm.
    pub(super) fn new(model: &Model, mode: Mode, algorithm: Algorithm) -> Result<Self, EngineError> {
        let program = lower(model, mode, 1, Some(&NativeFusion))?;
        // The images are gathered at the start of the first, which must therefore be over rows.
        let mut phases = vec![Phase::Rows(0..0)];
        for (i, instruction) in program.instructions.iter().enumerate() {
            match phases.last_mut() {
                _ if instruction.op.meets() => phases.push(Phase::Batch(i)),
                Some(Phase::Rows(instructions)) => instructions.end = i + 1,
                _ => phases.push(Phase::Rows(i..i + 1)),
            }
        }
        let (mut convs, mut filters, mut conv_of) = (Vec::new(), Vec::new(), Vec::new());
        for instruction in &program.instructions {
            if let Op::Conv2d(lower::Conv2d::Forward { d, relu, pool }) = instruction.op {
                let w = instruction.reads[1];
                let is_backward = |op: Op| matches!(op, Op::Conv2d(lower::Conv2d::Backward { .. }));
                let of_filter = |other: &&Instruction| is_backward(other.op) && other.reads[1] == w;
                let writes_rows = |backward: &Instruction| backward.writes.iter().any(|id| program.tensor(*id).by_row);
                let needs_dx = program.instructions.iter().find(of_filter).is_some_and(writes_rows);
                convs.push(Conv2d::new(&d, relu, pool, needs_dx, algorithm));
                filters.push(w);
            }
            let is_conv = matches!(instruction.op, Op::Conv2d(_));
            conv_of.push(filters.iter().position(|w| is_conv && *w == instruction.reads[1]));
        }
        let constants = program.tensors.iter().map(|tensor| match tensor.place {
            Place::Constant(value) => Aligned::from(&vec![value; tensor.len()][..]),
            _ => Aligned::default(),
        });
        let constants = constants.collect();
        let gradient_of = |index: usize| {
            let place = Place::Gradient(index);
            program.instructions.iter().enumerate().find_map(|(i, instruction)| {
                let at = instruction.writes.iter().position(|id| program.tensor(*id).place == place)?;
                Some((i, at))
            })
        };
        let gradients = (0..model.parameters()?.len()).map(gradient_of).collect();
        Ok(NativeProgram { program, phases, convs, filters, conv_of, constants, gradients })
    }

    /// Returns the convolution whose filter is the parameter `index`.
    pub(super) fn conv_of_parameter(&self, index: usize) -> Option<usize> {
        self.filters.iter().position(|w| self.program.tensor(*w).place == Place::Parameter(index))
    }

    /// Creates the tensors for `n` rows, in training with one part of the convolutions' sums per `group` rows.
    pub(super) fn tensors(&self, n: usize, group: usize) -> Result<Owned, EngineError> {
        let groups = if self.gradients.iter().any(Option::is_some) { n.div_ceil(group) } else { 0 };
        let lens = |is_index: bool| {
            let of = move |len: usize, is: bool| if is == is_index { n * len } else { 0 };
            let rows = self.program.buffers.iter().map(move |b| of(if b.by_row { b.len } else { 0 }, b.is_index));
            rows.chain([of(self.images_len(), false)])
        };
        Ok(Tensors {
            floats: lens(false).map(zeros).collect::<Result<_, _>>()?,
            indices: lens(true).map(zeros).collect::<Result<_, _>>()?,
            sums: self.convs.iter().map(|conv| zeros(groups * conv.sums_len())).collect::<Result<_, _>>()?,
        })
    }

    fn images_len(&self) -> usize {
        self.program.tensor(self.program.images).len()
    }

    /// Divides the first `n` rows of `tensors` into shares of `rows`, with one part of the sums per `group` rows.
    pub(super) fn split<'a>(&self, tensors: &'a mut Owned, n: usize, rows: usize, group: usize) -> Vec<Rows<'a>> {
        let room = self.program.buffers.len() + 1;
        let share = || Tensors {
            floats: Vec::with_capacity(room),
            indices: Vec::with_capacity(room),
            sums: Vec::with_capacity(self.convs.len()),
        };
        let mut split: Vec<Rows<'a>> = (0..n.div_ceil(rows)).map(|_| share()).collect();
        let lens = self.program.buffers.iter().map(|buffer| buffer.len).chain([self.images_len()]);
        for ((floats, indices), len) in tensors.floats.iter_mut().zip(&mut tensors.indices).zip(lens) {
            deal(&mut split, floats, n * len, rows * len, |rows| &mut rows.floats);
            deal(&mut split, indices, n * len, rows * len, |rows| &mut rows.indices);
        }
        let groups = n.div_ceil(group);
        for (conv, sums) in self.convs.iter().zip(&mut tensors.sums) {
            let len = conv.sums_len();
            deal(&mut split, sums, groups * len, rows.div_ceil(group) * len, |rows| &mut rows.sums);
        }
        split
    }

    /// Runs an instruction on whole tensors, `floats` with `n` rows. What it writes is taken out while it reads the rest, and put back.
    pub(super) fn run_whole<F: Deref<Target = [f32]>>(
        &self,
        instruction: &Instruction,
        n: usize,
        floats: &[F],
        [parameters, gradients, whole]: [&mut [Aligned<f32>]; 3],
    ) {
        let places: Vec<Place> = instruction.writes.iter().map(|id| self.program.tensor(*id).place).collect();
        let taken = places.iter().map(|place| take(owner(*place, [parameters, gradients, whole])));
        let mut y: Vec<Aligned<f32>> = taken.collect();
        let shared = Shared { program: self, parameters, gradients, whole, packed: &[] };
        let x: Vec<&[f32]> = instruction.reads.iter().map(|id| shared.rows(*id, n, floats)).collect();
        let mut writes: Vec<&mut [f32]> = y.iter_mut().map(|values| &mut values[..]).collect();
        // The loss is of rows.
        let (probabilities, loss, correct) = (&mut [][..], &mut [][..], &mut [][..]);
        let answers = Answers { labels: &[], targets: None, n_valid: n, probabilities, loss, correct };
        // No instruction on whole tensors draws.
        let (first_row, random) = (0, Random::default());
        let on = Operands { n, first_row, random, x: &x, y: &mut writes, argmax: &mut [], answers };
        compute_native(instruction.op, on, None);
        for (place, values) in places.into_iter().zip(y) {
            *owner(place, [parameters, gradients, whole]) = values;
        }
    }

    /// Computes the gradient of the elements of the parameter `index` from `first` on, `g.len()` of them, over `n` rows in groups of
    /// `group`, unless an instruction on the whole batch has computed it.
    pub(super) fn gradient(&self, index: usize, first: usize, n: usize, group: usize, tensors: &Owned, g: &mut [f32]) {
        let Some((i, at)) = self.gradients[index] else { return };
        let instruction = &self.program.instructions[i];
        if instruction.op.meets() {
            return;
        }
        let shared = Shared { program: self, parameters: &[], gradients: &[], whole: &[], packed: &[] };
        let [x, dy] = [0, 2].map(|i| shared.rows(instruction.reads[i], n, &tensors.floats));
        let conv =
            self.conv_of[i].map(|i| (&self.convs[i], &tensors.sums[i][..n.div_ceil(group) * self.convs[i].sums_len()]));
        compute_gradient(instruction.op, Part { which: at, n, x, dy, conv, first, g });
    }

    /// Returns the name of the operation that computes the gradient of a parameter.
    pub(super) fn operation_of(&self, index: usize) -> &'static str {
        self.gradients[index].map_or("statistics", |(i, _)| self.program.instructions[i].op.name())
    }
}

impl Prepared {
    /// Lowers a model and creates the memory of its program; [`Prepared::prepare`] fills it.
    pub(super) fn new(model: &Model, mode: Mode, algorithm: Algorithm) -> Result<Self, EngineError> {
        let program = NativeProgram::new(model, mode, algorithm)?;
        let lens = program.program.buffers.iter().map(|buffer| if buffer.by_row { 0 } else { buffer.len });
        let whole = lens.map(zeros).collect::<Result<_, _>>()?;
        Ok(Prepared { program, whole, packed: Vec::new() })
    }

    /// Does what is to do once after the parameters have changed: computes what follows from them, and packs all filters.
    pub(super) fn prepare(&mut self, parameters: &mut [Aligned<f32>]) {
        let Prepared { program, whole, packed } = self;
        for instruction in &program.program.once {
            program.run_whole(instruction, 0, NO_ROWS, [parameters, &mut [], whole]);
        }
        packed.resize_with(program.convs.len(), Packed::default);
        let shared = Shared { program, parameters, gradients: &[], whole, packed: &[] };
        for ((conv, w), packed) in program.convs.iter().zip(&program.filters).zip(packed) {
            conv.pack(shared.read(*w, NO_ROWS), packed);
        }
    }

    /// Returns what the threads read.
    pub(super) fn shared<'a>(&'a self, parameters: &'a [Aligned<f32>], gradients: &'a [Aligned<f32>]) -> Shared<'a> {
        let Prepared { program, whole, packed } = self;
        Shared { program, parameters, gradients, whole, packed }
    }
}

impl<'a> Shared<'a> {
    /// Returns the content of a tensor of numbers; `floats` are the tensors with rows.
    pub(super) fn read<F: Deref<Target = [f32]>>(self, id: Id, floats: &'a [F]) -> &'a [f32] {
        let tensor = self.program.program.tensor(id);
        match tensor.place {
            Place::Images => floats.last().map_or(&[][..], |images| images),
            Place::Parameter(i) => &self.parameters[i],
            Place::Gradient(i) => &self.gradients[i],
            Place::Constant(_) => &self.program.constants[id.0],
            Place::Buffer(i) if tensor.by_row => &floats[i],
            Place::Buffer(i) => &self.whole[i],
        }
    }

    /// Does the same for the first `n` rows only, if it has rows.
    pub(super) fn rows<F: Deref<Target = [f32]>>(self, id: Id, n: usize, floats: &'a [F]) -> &'a [f32] {
        let tensor = self.program.program.tensor(id);
        let values = self.read(id, floats);
        if tensor.by_row { &values[..n * tensor.len()] } else { values }
    }
}

/// Returns the memory of a tensor without rows that an instruction writes.
fn owner(place: Place, [parameters, gradients, whole]: [&mut [Aligned<f32>]; 3]) -> &mut Aligned<f32> {
    match place {
        Place::Parameter(i) => &mut parameters[i],
        Place::Gradient(i) => &mut gradients[i],
        Place::Buffer(i) => &mut whole[i],
        Place::Images | Place::Constant(_) => unreachable!("no instruction writes it"),
    }
}

/// Divides the first `len` of `values` into shares of `share`, one for each of `split`; once they run out, the shares are empty.
fn deal<'a, T>(
    split: &mut [Rows<'a>],
    values: &'a mut [T],
    len: usize,
    share: usize,
    list: impl for<'r> Fn(&'r mut Rows<'a>) -> &'r mut Vec<&'a mut [T]>,
) {
    let len = len.min(values.len());
    let mut shares = values[..len].chunks_mut(share.max(1));
    for rows in split {
        list(rows).push(shares.next().unwrap_or_default());
    }
}

/// Allocates `len` zeros.
///
/// # Errors
/// There is not enough memory.
pub(super) fn zeros<T: Pod>(len: usize) -> Result<Aligned<T>, EngineError> {
    Aligned::zeros(len).map_err(|_| EngineError::Memory(len * size_of::<T>()))
}
