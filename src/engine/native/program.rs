//! A program in the native engine: the memory of a batch, and the steps over it in phases.
//!
//! Most steps compute each row from the same row of other tensors, so a thread takes some rows through all of them (a phase of rows). A
//! step that looks at the whole batch is a phase of its own: the threads meet before it and after it. The gradients of weights are
//! computed at the very end, each thread taking some of the weights over all rows.

use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::pool2d::Pool2dDims;
use crate::engine::EngineError;
use crate::engine::steps::{Answers, Convolving, compute_batch, compute_gradient, compute_rows};
use crate::lower::{Fusion, Id, Mode, Op, Place, Program, Step, Tensor, lower};
use crate::model::Model;
use crate::native::Aligned;
use crate::native::conv2d::{Conv2d, Form, Packed, Scratch};
use bytemuck::Pod;
use std::mem::take;
use std::ops::Range;

/// What the loops compute in one step.
#[derive(Debug)]
struct NativeFusion;

impl Fusion for NativeFusion {
    fn relu(&self) -> bool {
        true
    }

    fn pool(&self, _: &Conv2dDims, pool: &Pool2dDims) -> bool {
        Conv2d::can_pool(pool)
    }

    fn unpool(&self, _: &Conv2dDims, _: &Pool2dDims, _: bool) -> bool {
        true
    }

    fn fold(&self) -> bool {
        true
    }

    fn reuse(&self) -> bool {
        true
    }

    fn weights_last(&self) -> bool {
        true
    }
}

/// For steps that read no rows.
const NO_ROWS: &[&[f32]] = &[];

/// Steps between two meetings of the threads.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    /// These steps, on the rows of each thread.
    Rows(Range<usize>),
    /// This step, on the whole batch.
    Batch(usize),
}

/// A program with its prepared convolutions.
#[derive(Debug)]
pub(super) struct NativeProgram {
    /// For batches of one image; the number of rows is given in every call.
    program: Program,
    phases: Vec<Phase>,
    convs: Vec<Conv2d>,
    /// The filter of each of `convs`.
    filters: Vec<Id>,
    /// For each step the index of its convolution.
    conv_of: Vec<Option<usize>>,
    /// For each tensor that is a constant its content.
    constants: Vec<Aligned<f32>>,
    /// For each parameter the step that computes its gradient, and the position of the gradient among what the step writes.
    gradients: Vec<Option<(usize, usize)>>,
}

/// What all threads read during a phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<'a> {
    pub(super) parameters: &'a [Aligned<f32>],
    pub(super) gradients: &'a [Aligned<f32>],
    /// The buffers without rows.
    pub(super) whole: &'a [Aligned<f32>],
    /// One per convolution.
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
    /// Lowers a model, with its convolutions in the given form.
    pub(super) fn new(model: &Model, mode: Mode, form: Form) -> Result<Self, EngineError> {
        let program = lower(model, mode, 1, &NativeFusion)?;
        // The images are gathered at the start of the first, which must therefore be over rows.
        let mut phases = vec![Phase::Rows(0..0)];
        for (i, step) in program.steps.iter().enumerate() {
            match phases.last_mut() {
                _ if step.op.meets() => phases.push(Phase::Batch(i)),
                Some(Phase::Rows(steps)) => steps.end = i + 1,
                _ => phases.push(Phase::Rows(i..i + 1)),
            }
        }
        let (mut convs, mut filters, mut conv_of) = (Vec::new(), Vec::new(), Vec::new());
        for step in &program.steps {
            if let Op::Conv2d { d, relu, pool } = step.op {
                let w = step.reads[1];
                let backward = program
                    .steps
                    .iter()
                    .find(|other| matches!(other.op, Op::Conv2dBackward { .. }) && other.reads[1] == w);
                let needs_dx = backward.is_some_and(|backward| backward.writes.len() > 2);
                convs.push(Conv2d::new(&d, relu, pool, needs_dx, form));
                filters.push(w);
            }
        }
        for step in &program.steps {
            let is_conv = matches!(step.op, Op::Conv2d { .. } | Op::Conv2dBackward { .. });
            conv_of.push(filters.iter().position(|w| is_conv && *w == step.reads[1]));
        }
        let constants = program.tensors.iter().map(|tensor| match tensor.place {
            Place::Constant(value) => Aligned::from(&vec![value; tensor.len()][..]),
            _ => Aligned::default(),
        });
        let constants = constants.collect();
        let gradient_of = |index: usize| {
            let place = Place::Gradient(index);
            program.steps.iter().enumerate().find_map(|(i, step)| {
                let at = step.writes.iter().position(|id| program.tensor(*id).place == place)?;
                Some((i, at))
            })
        };
        let gradients = (0..model.parameters()?.len()).map(gradient_of).collect();
        Ok(NativeProgram { program, phases, convs, filters, conv_of, constants, gradients })
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    pub(super) fn phases(&self) -> &[Phase] {
        &self.phases
    }

    pub(super) fn convolutions(&self) -> &[Conv2d] {
        &self.convs
    }

    /// Describes how each convolution is computed.
    pub(super) fn describe(&self) -> Vec<String> {
        self.convs.iter().map(|conv| conv.describe().join(", ")).collect()
    }

    /// Returns the convolution whose filter is the parameter `index`.
    pub(super) fn conv_of_parameter(&self, index: usize) -> Option<usize> {
        self.filters.iter().position(|w| self.program.tensor(*w).place == Place::Parameter(index))
    }

    /// Packs a filter again.
    pub(super) fn pack(&self, conv: usize, w: &[f32], packed: &mut Packed) {
        self.convs[conv].pack(w, packed);
    }

    /// Does what is to do once after the parameters have changed: computes what follows from them, and packs all filters.
    pub(super) fn prepare(
        &self,
        parameters: &mut [Aligned<f32>],
        whole: &mut [Aligned<f32>],
        packed: &mut Vec<Packed>,
    ) {
        for step in &self.program.once {
            self.run_whole(step, 0, NO_ROWS, parameters, &mut [], whole);
        }
        packed.resize_with(self.convs.len(), Packed::default);
        let shared = Shared { parameters, gradients: &[], whole, packed: &[] };
        for ((conv, w), packed) in self.convs.iter().zip(&self.filters).zip(packed) {
            conv.pack(self.read(*w, shared, NO_ROWS), packed);
        }
    }

    /// Creates the buffers without rows.
    pub(super) fn whole(&self) -> Result<Vec<Aligned<f32>>, EngineError> {
        self.program.buffers.iter().map(|buffer| zeros(if buffer.by_row { 0 } else { buffer.len })).collect()
    }

    /// Creates the tensors for `n` rows, with `groups` parts of the convolutions' sums.
    pub(super) fn tensors(&self, n: usize, groups: usize) -> Result<Owned, EngineError> {
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

    /// Returns the images among the rows.
    pub(super) fn images<'r>(&self, rows: &'r mut Rows<'_>) -> &'r mut [f32] {
        rows.floats.last_mut().expect("the last is for the images")
    }

    /// Returns the content of a tensor of numbers; `floats` are rows.
    fn read<'r, F: std::ops::Deref<Target = [f32]>>(
        &'r self,
        id: Id,
        shared: Shared<'r>,
        floats: &'r [F],
    ) -> &'r [f32] {
        let tensor = self.program.tensor(id);
        match tensor.place {
            Place::Images => floats.last().map_or(&[][..], |images| images),
            Place::Parameter(i) => &shared.parameters[i],
            Place::Gradient(i) => &shared.gradients[i],
            Place::Constant(_) => &self.constants[id.0],
            Place::Buffer(i) if tensor.by_row => &floats[i],
            Place::Buffer(i) => &shared.whole[i],
        }
    }

    /// Runs step `i` on `n` rows, in groups of `group`.
    #[allow(clippy::too_many_arguments, reason = "one for each kind of memory")]
    pub(super) fn run_rows(
        &self,
        i: usize,
        n: usize,
        group: usize,
        shared: Shared<'_>,
        rows: &mut Rows<'_>,
        scratch: &mut Scratch,
        answers: &mut Answers<'_, f32>,
    ) {
        let step = &self.program.steps[i];
        let buffer_of = |wanted: fn(&Tensor) -> bool, ids: &[Id]| {
            ids.iter().map(|id| self.program.tensor(*id)).find(|tensor| wanted(tensor)).and_then(Tensor::buffer)
        };
        // What the step writes is taken out while it reads the rest, and put back.
        let written = buffer_of(|tensor| tensor.by_row && !tensor.is_index, &step.writes);
        let index = buffer_of(|tensor| tensor.is_index, &step.writes)
            .or_else(|| buffer_of(|tensor| tensor.is_index, &step.reads));
        let conv = self.conv_of[i];
        let mut y = written.map(|i| take(&mut rows.floats[i]));
        let argmax = index.map(|i| take(&mut rows.indices[i])).unwrap_or_default();
        let sums = conv.map(|i| take(&mut rows.sums[i])).unwrap_or_default();
        {
            let mut x: [&[f32]; 6] = [&[]; 6];
            let reads = step.reads.iter().filter(|id| !self.program.tensor(**id).is_index);
            let mut count = 0;
            for (x, id) in x.iter_mut().zip(reads) {
                *x = self.read(*id, shared, &rows.floats);
                count += 1;
            }
            let convolving =
                conv.map(|i| Convolving { conv: &self.convs[i], packed: &shared.packed[i], scratch, sums, group });
            compute_rows(&step.op, n, &x[..count], y.as_mut_slice(), argmax, convolving, answers);
        }
        if let (Some(i), Some(y)) = (written, y) {
            rows.floats[i] = y;
        }
        if let Some(i) = index {
            rows.indices[i] = argmax;
        }
        if let Some(i) = conv {
            rows.sums[i] = sums;
        }
    }

    /// Runs step `i`, which is for the whole batch of `n` rows.
    pub(super) fn run_batch(
        &self,
        i: usize,
        n: usize,
        tensors: &Owned,
        parameters: &mut [Aligned<f32>],
        gradients: &mut [Aligned<f32>],
        whole: &mut [Aligned<f32>],
    ) {
        self.run_whole(&self.program.steps[i], n, &tensors.floats, parameters, gradients, whole);
    }

    /// Runs a step on whole tensors, `floats` with `n` rows. What it writes is taken out while it reads the rest, and put back.
    fn run_whole<F: std::ops::Deref<Target = [f32]>>(
        &self,
        step: &Step,
        n: usize,
        floats: &[F],
        parameters: &mut [Aligned<f32>],
        gradients: &mut [Aligned<f32>],
        whole: &mut [Aligned<f32>],
    ) {
        let place = |id: &Id| self.program.tensor(*id).place;
        let mut y: Vec<(Place, Aligned<f32>)> = step
            .writes
            .iter()
            .map(|id| match place(id) {
                Place::Parameter(i) => (place(id), take(&mut parameters[i])),
                Place::Gradient(i) => (place(id), take(&mut gradients[i])),
                Place::Buffer(i) => (place(id), take(&mut whole[i])),
                Place::Images | Place::Constant(_) => unreachable!("no step writes it"),
            })
            .collect();
        let shared = Shared { parameters, gradients, whole, packed: &[] };
        let of_rows = |id: &Id| {
            let tensor = self.program.tensor(*id);
            let values = self.read(*id, shared, floats);
            if tensor.by_row { &values[..n * tensor.len()] } else { values }
        };
        let x: Vec<&[f32]> = step.reads.iter().map(of_rows).collect();
        let mut writes: Vec<&mut [f32]> = y.iter_mut().map(|(_, values)| &mut values[..]).collect();
        compute_batch(&step.op, n, &x, &mut writes);
        for (place, values) in y {
            match place {
                Place::Parameter(i) => parameters[i] = values,
                Place::Gradient(i) => gradients[i] = values,
                Place::Buffer(i) => whole[i] = values,
                Place::Images | Place::Constant(_) => unreachable!("no step writes it"),
            }
        }
    }

    /// Computes the gradient of the elements of the parameter `index` from `first` on, `g.len()` of them, over `n` rows in groups of
    /// `group`, unless a step on the whole batch has computed it.
    pub(super) fn gradient(&self, index: usize, first: usize, n: usize, group: usize, tensors: &Owned, g: &mut [f32]) {
        let Some((i, at)) = self.gradients[index] else { return };
        let step = &self.program.steps[i];
        if step.op.meets() {
            return;
        }
        let rows = |id: Id| {
            let tensor = self.program.tensor(id);
            let values = match tensor.place {
                Place::Images => tensors.floats.last(),
                Place::Buffer(i) => Some(&tensors.floats[i]),
                _ => None,
            };
            values.map_or(&[][..], |values| &values[..n * tensor.len()])
        };
        let [x, dy] = [rows(step.reads[0]), rows(step.reads[2])];
        let conv =
            self.conv_of[i].map(|i| (&self.convs[i], &tensors.sums[i][..n.div_ceil(group) * self.convs[i].sums_len()]));
        compute_gradient(&step.op, at, n, first, [x, dy], conv, g);
    }

    /// Returns the name of the operation that computes the gradient of a parameter.
    pub(super) fn operation_of(&self, index: usize) -> &'static str {
        self.gradients[index].map_or("statistics", |(i, _)| self.program.steps[i].op.name())
    }

    /// Returns the content of a tensor of the first `n` rows, or of a tensor without rows that a step computed.
    pub(super) fn content<'a>(&'a self, id: Id, n: usize, tensors: &'a Owned, shared: Shared<'a>) -> Option<&'a [f32]> {
        let tensor = self.program.tensor(id);
        let values = (!tensor.is_index).then(|| self.read(id, shared, &tensors.floats))?;
        Some(if tensor.by_row { &values[..n * tensor.len()] } else { values })
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
    Aligned::zeros(len).map_err(|_| EngineError::Memory { bytes: len * size_of::<T>() })
}
