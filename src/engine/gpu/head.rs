//! The end of a model whose last hidden layer is dense, in few dispatches in place of its instructions: see [`crate::ops::head`]. If it is asked for, the
//! optimizer then finishes the gradients: see [`Pending`].

use super::batches::Feed;
use super::program::Arena;
use crate::cpu::dense::DenseDims;
use crate::engine::operations::OnGpu;
use crate::engine::{EngineError, StepConfig};
use crate::gpu::{Element, Gpu, GpuError, PlanBuilder, Tensor, Tiling};
use crate::lower::{Conv2d, Dense, Id, Instruction, Op, Program, SoftmaxXent};
use crate::ops::head::{HeadDims, HeadRows, record_backward_w, record_rows, suits};
use crate::ops::{FilterParts, Pending, SharedTiles, conv2d, dense};
use std::ops::Range;

/// The end of a program: a hidden dense layer with its ReLU, the dense layer of the classes, the loss, and the gradients of the latter layer; if the
/// optimizer finishes them, also those of a hidden layer that needs no gradient of its input.
#[derive(Debug)]
pub(super) struct Head {
    /// The positions of its instructions.
    pub(super) instructions: Range<usize>,
    hidden: DenseDims,
    classes: usize,
    rows: HeadRows,
    /// What the optimizer finishes.
    pub(super) unfinished: Option<Unfinished>,
    /// Whether the hidden layer gathers the batch.
    pub(super) gathers: bool,
}

/// Gradients that the optimizer finishes.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) of: Pending,
    pub(super) whole: Tensor,
    /// The inputs of the hidden layer, or the images if its gradient is finished.
    pub(super) inputs: Tensor,
    /// The gradient of each filter with the tensor of its parts.
    pub(super) parts: Vec<[Tensor; 2]>,
}

impl Head {
    /// Returns the head of a program that compares with labels alone, if it has one that the kernels compute and the tiles ask for it; what it
    /// writes gets tensors of its own.
    pub(super) fn find(
        gpu: &Gpu,
        tiles: SharedTiles,
        program: &Program,
        tensors: &mut [Tensor],
        config: &StepConfig,
        gradients: &Arena,
    ) -> Result<Option<Head>, EngineError> {
        if !tiles.head || gpu.tiling() != Tiling::Shared {
            return Ok(None);
        }
        let Some((first, hidden, classes)) = head_of(program) else { return Ok(None) };
        let d = HeadDims { n: hidden.n, parts: 1, i: hidden.o, c: classes };
        if !suits(&d) {
            return Ok(None);
        }
        let (mut end, unfinished) = (first + 4, pending(tiles, program, first, &d, tensors, config, gradients));
        let at = &program.instructions[first..];
        let (rows, unfinished) = match unfinished {
            Some((of, filters)) => {
                let whole = gpu.tensor("pending", &[of.room()], Element::F32)?;
                let table = of.table();
                gpu.write(&whole.slice("table", 0, &[table.len()]), &table);
                let part = |(i, dw): (usize, &Id)| [tensors[dw.0].clone(), of.parts(&whole, i)];
                let parts = filters.iter().enumerate().map(part).collect();
                let inputs = if of.hidden.is_some() { at[0].reads[0] } else { program.images };
                end += usize::from(of.hidden.is_some());
                let (rows, inputs) = (of.rows(&whole), tensors[inputs.0].clone());
                (rows, Some(Unfinished { of, whole, inputs, parts }))
            }
            None => (HeadRows::within(gpu.tensor("head", &[HeadRows::len(&d)], Element::F32)?, &d), None),
        };
        let written = [at[0].writes[0], at[1].writes[0], at[2].writes[0], at[3].writes[2]];
        for (Id(id), part) in written.into_iter().zip([&rows.hidden, &rows.logits, &rows.dlogits, &rows.dhidden]) {
            tensors[id] = part.slice(tensors[id].name().to_string(), 0, part.shape());
        }
        let reads_images = first == 0 && at[0].reads[0] == program.images && !config.changes_images();
        let gathers = reads_images && dense::gathers(&hidden);
        Ok(Some(Head { instructions: first..end, hidden, classes, rows, unfinished, gathers }))
    }

    /// Records it into a plan; `feed` is for a hidden layer that gathers the batch.
    pub(super) fn record(&self, plan: &mut PlanBuilder, on: &OnGpu<'_>, feed: &Feed) -> Result<(), GpuError> {
        let at = &on.program.instructions[self.instructions.clone()];
        let tensor = |Id(id): Id| &on.tensors[id];
        let [x, w, b] = [0, 1, 2].map(|i| tensor(at[0].reads[i]));
        let parts = if self.gathers {
            let (samples, tensors) = feed.gathered(x);
            dense::record_gathered_parts(plan, on.tiles, &self.hidden, samples, tensors, w)?
        } else {
            dense::record_parts(plan, on.tiles, &self.hidden, [x, w])?
        };
        let d = HeadDims { n: self.hidden.n, parts: parts.shape()[0], i: self.hidden.o, c: self.classes };
        let [w_classes, b_classes] = [1, 2].map(|i| tensor(at[1].reads[i]));
        record_rows(plan, &d, [&parts, b, w_classes, b_classes, on.labels, on.totals.progress], &self.rows)?;
        if self.unfinished.is_some() {
            return Ok(());
        }
        let gradients = [0, 1].map(|i| tensor(at[3].writes[i]));
        record_backward_w(plan, &d, &self.rows, gradients, &on.totals)
    }
}

/// Returns the position of the first instruction, the dimensions of the hidden layer, and the number of classes.
fn head_of(program: &Program) -> Option<(usize, DenseDims, usize)> {
    let first = program.loss().checked_sub(2)?;
    let [hidden, classes, loss, gradients] = program.instructions.get(first..first + 4)? else { return None };
    let (
        Op::Dense(Dense::Forward { d, relu: true }),
        Op::Dense(Dense::Forward { d: of_classes, relu: false }),
        Op::SoftmaxXent(SoftmaxXent::Loss),
        Op::Dense(Dense::Backward { masked: true, weights: true, .. }),
    ) = (hidden.op, classes.op, loss.op, gradients.op)
    else {
        return None;
    };
    let reads = |of: &Instruction, which: usize, from: &Instruction| of.reads[which] == from.writes[0];
    let is_chain = reads(classes, 0, hidden) && reads(loss, 0, classes) && reads(gradients, 2, loss);
    (is_chain && gradients.writes.len() == 3).then_some((first, d, of_classes.o))
}

/// Returns what the optimizer can finish of the gradients of a program whose head starts at `first`, with the gradients of the filters among it.
fn pending(
    tiles: SharedTiles,
    program: &Program,
    first: usize,
    d: &HeadDims,
    tensors: &[Tensor],
    config: &StepConfig,
    gradients: &Arena,
) -> Option<(Pending, Vec<Id>)> {
    let after = &program.instructions[first + 4..];
    // The batch is done only when the optimizer has run, and what is drawn for a dropout follows from the number of batches.
    let draws = after.iter().any(|instruction| matches!(instruction.op, Op::Dropout(_)));
    if !tiles.fused_update || config.optimizer.adam().is_none() || config.clip_norm.is_some() || draws {
        return None;
    }
    // Where the gradients of weight and bias are among those of all parameters; none if one of them is not trained.
    let first_of = |instruction: &Instruction| {
        let both = [0, 1].map(|i| &tensors[instruction.writes[i].0]);
        let starts = both.map(|tensor| tensor.first_element().wrapping_sub(gradients.whole.first_element()));
        both.iter().all(|tensor| tensor.shares_buffer(&gradients.whole)).then_some(starts)
    };
    let classes = first_of(&program.instructions[first + 3])?;
    let of_hidden = after.first().filter(|next| {
        let is_weights = matches!(next.op, Op::Dense(Dense::Backward { weights: true, .. })) && next.writes.len() == 2;
        is_weights && next.reads[2] == program.instructions[first + 3].writes[2] && d.i.is_multiple_of(4)
    });
    let hidden = of_hidden.and_then(|next| Some((first_of(next)?, tensors[next.reads[0].0].len() / d.n)));
    let (mut filters, mut ids) = (Vec::new(), Vec::new());
    for instruction in after {
        let Op::Conv2d(Conv2d::Backward { d, pool, weights: true, .. }) = instruction.op else { continue };
        if let Some(first) = first_of(instruction).filter(|_| d.o.is_multiple_of(4)) {
            let parts = conv2d::parts(tiles, &d, instruction.writes.len() == 3, pool.is_some());
            filters.push(FilterParts { parts, lens: [d.w_len(), d.o], first });
            ids.push(instruction.writes[0]);
        }
    }
    Some((Pending { head: *d, classes, hidden, filters }, ids))
}
