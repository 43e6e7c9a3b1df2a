//! The place of each tensor: tensors that are not needed at the same time share a buffer.

use super::{Buffer, Id, Instruction, Op, Place, Program, SoftmaxXent, Tensor};
use std::collections::{BTreeSet, HashMap};

/// Assigns a buffer to each tensor that an instruction writes: with `reuse` the buffers of others that are no longer needed. With `weights_last`,
/// the instructions for the gradients of weights read their tensors once more at the very end.
pub(super) fn assign(program: &mut Program, reuse: bool, weights_last: bool) {
    let instructions: Vec<Instruction> = program.once.iter().chain(&program.instructions).cloned().collect();
    let last = if reuse { last_uses(program, weights_last) } else { vec![None; program.tensors.len()] };
    let mut free: HashMap<Buffer, Vec<usize>> = HashMap::new();
    for (i, instruction) in instructions.iter().enumerate() {
        for id in &instruction.writes {
            let tensor = &mut program.tensors[id.0];
            if tensor.place == Place::UNASSIGNED {
                let buffer = buffer_for(tensor);
                let place = free.get_mut(&buffer).and_then(Vec::pop).unwrap_or_else(|| {
                    program.buffers.push(buffer);
                    program.buffers.len() - 1
                });
                tensor.place = Place::Buffer(place);
            }
        }
        // Only now, so that no instruction writes what it reads.
        let used: BTreeSet<Id> = instruction.reads.iter().chain(&instruction.writes).copied().collect();
        for id in used.into_iter().filter(|id| last[id.0] == Some(i)) {
            let tensor = &program.tensors[id.0];
            if let Place::Buffer(buffer) = tensor.place {
                free.entry(buffer_for(tensor)).or_default().push(buffer);
            }
        }
    }
}

/// Tensors share a buffer only if they are equally long, so that the rows of an image are at the same place in both.
fn buffer_for(tensor: &Tensor) -> Buffer {
    Buffer { len: tensor.len(), by_row: tensor.by_row, is_index: tensor.is_index }
}

/// Returns the last instruction that uses each tensor, counted from the first of those that are done once; `None` for those that must stay.
fn last_uses(program: &Program, weights_last: bool) -> Vec<Option<usize>> {
    let mut last = vec![None; program.tensors.len()];
    for (i, instruction) in program.once.iter().chain(&program.instructions).enumerate() {
        for id in instruction.reads.iter().chain(&instruction.writes) {
            last[id.0] = Some(i);
        }
    }
    for instruction in program.instructions.iter().filter(|instruction| weights_last && instruction.op.has_weights()) {
        instruction.reads.iter().for_each(|id| last[id.0] = None);
    }
    // What is computed once, and the results.
    let results =
        program.instructions.iter().filter(|instruction| instruction.op == Op::SoftmaxXent(SoftmaxXent::Forward));
    for id in program.once.iter().chain(results).flat_map(|instruction| &instruction.writes).chain([&program.logits()])
    {
        last[id.0] = None;
    }
    last
}
