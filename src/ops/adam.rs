//! Adam in Keras's form: kernel of `shaders/adam.wgsl`, mirror in [`crate::cpu::adam`].

use super::{Groups, Shader, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::adam::AdamConfig;

const SHADER: Shader = Shader { op: "adam", source: shader_text!("adam.wgsl") };

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
    let constants = [&of_adam[..], &groups.constants(len)].concat();
    let tensors = [(g, len), (w, len), (m, len), (v, len), (rates, rates.len()), (progress, 2), (clip, 1)];
    push(plan, &STEP, &constants, workgroups_linear(len / 4, 64), &tensors)
}
