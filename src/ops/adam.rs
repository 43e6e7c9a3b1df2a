//! Adam in Keras's form: kernel of `shaders/adam.wgsl`, mirror in [`crate::cpu::adam`].

use super::{Groups, Pending, Shader, push};
use crate::gpu::{Constant, GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::adam::AdamConfig;

const SHADER: Shader =
    Shader { op: "adam", source: concat!(shader_text!("adam.wgsl"), shader_text!("parts/totals.wgsl")) };

/// Updates all parameters by one step.
pub static STEP: KernelSpec = SHADER.kernel(
    "adam_step",
    &[
        read(0, "g"),
        write(1, "w"),
        write(2, "m"),
        write(3, "v"),
        read(4, "rates"),
        read(5, "progress"),
        read(6, "clip"),
    ],
);

/// The same for gradients of which something is pending, and the batch's loss and number of correct predictions.
pub static STEP_PENDING: KernelSpec = SHADER.kernel(
    "adam_step_pending",
    &[
        write(7, "g_out"),
        write(1, "w"),
        write(2, "m"),
        write(3, "v"),
        read(4, "rates"),
        read(8, "pending"),
        read(9, "inputs"),
        write(10, "totals"),
    ],
);

/// Records one step. Gradients g, parameters w and both moments m and v have the same length, which is a multiple of four as
/// those of its groups are: in an arena ([`crate::gpu::Gpu::arena`]). `rates` has four numbers for each batch of the epoch: first
/// [`AdamConfig::step_size`] times the factor of the schedule, then the decay. Progress is `[batches of the epoch whose loss is known, including
/// this one; samples of the epoch]`, clip `[1]` the factor of the gradients, which is read only if `groups` says that they are clipped.
///
/// # Errors
/// A tensor's size does not fit, or a length is not a multiple of four.
pub fn record(
    plan: &mut PlanBuilder,
    config: &AdamConfig,
    groups: &Groups,
    [g, w, m, v, rates, progress, clip]: [&Tensor; 7],
) -> Result<(), GpuError> {
    let len = w.len();
    let constants = constants(config, groups, len)?;
    let tensors = [(g, len), (w, len), (m, len), (v, len), (rates, rates.len()), (progress, 2), (clip, 1)];
    push(plan, &STEP, &constants, workgroups_linear(len / 4, 64), &tensors)
}

/// Records one step that first finishes the gradients g and ends the batch: see [`Pending`], of which `pending` is the tensor. `inputs` are those of
/// the hidden layer, or any others if its gradient is not pending. `totals` has the progress, whose first number is advanced, and at `slots`
/// what each batch of the epoch has: the sum of its losses, and its number of correct predictions. Gradients are not clipped.
///
/// # Errors
/// A tensor's size does not fit, or a length is not a multiple of four.
pub fn record_pending(
    plan: &mut PlanBuilder,
    config: &AdamConfig,
    groups: &Groups,
    of: &Pending,
    [g, w, m, v, rates, pending, inputs, totals]: [&Tensor; 8],
    slots: [usize; 2],
) -> Result<(), GpuError> {
    let len = w.len();
    let mut constants = constants(config, groups, len)?;
    constants.extend(of.constants(len));
    constants.extend([("BATCH_LOSS_AT", slots[0] as f64), ("BATCH_CORRECT_AT", slots[1] as f64)]);
    let inputs_len = of.hidden.map_or(inputs.len(), |(_, inputs)| of.head.n * inputs);
    let parameters = [(g, len), (w, len), (m, len), (v, len)];
    let others = [(rates, rates.len()), (pending, of.room()), (inputs, inputs_len), (totals, totals.len())];
    let workgroups = workgroups_linear(len.div_ceil(4 * 64) + 1, 1);
    push(plan, &STEP_PENDING, &constants, workgroups, &[parameters, others].concat())
}

/// Returns the constants of a step of `len` parameters.
fn constants(config: &AdamConfig, groups: &Groups, len: usize) -> Result<Vec<Constant>, GpuError> {
    if let Some(end) = groups.starts.iter().chain([&len]).find(|end| !end.is_multiple_of(4)) {
        let message = format!("a group of parameters ends at {end}, which is not a multiple of four");
        return Err(GpuError::Record { entry: STEP.entry, message });
    }
    let of_adam = [
        ("LEN", len as f64),
        ("ONE_MINUS_BETA_1", 1.0 - config.beta_1),
        ("ONE_MINUS_BETA_2", 1.0 - config.beta_2),
        ("EPSILON", config.epsilon),
    ];
    Ok([&of_adam[..], &groups.constants(len)].concat())
}
