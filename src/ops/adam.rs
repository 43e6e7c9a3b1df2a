//! Adam in Keras's form: kernel of `shaders/adam.wgsl`, mirror in [`crate::cpu::adam`].

use super::{Shader, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::adam::AdamConfig;

const SHADER: Shader = Shader { op: "adam", source: include_str!("../../shaders/adam.wgsl") };

/// Updates all parameters by one step.
pub static STEP: KernelSpec = SHADER.kernel(
    "adam_step",
    &[read(0, "g"), write(1, "w"), write(2, "m"), write(3, "v"), read(4, "rates"), read(5, "progress")],
);

/// Records one step. Gradients g, parameters w and both moments m and v have the same length, a multiple of four, which
/// an arena's ([`crate::gpu::Gpu::arena`]) is; `rates` has [`AdamConfig::step_size`] of each batch of the epoch;
/// progress is `[batches of the epoch whose loss is known, including this one; samples of the epoch]`.
///
/// # Errors
/// A tensor's size does not fit, or is not a multiple of four.
pub fn record(
    plan: &mut PlanBuilder,
    config: &AdamConfig,
    [g, w, m, v, rates, progress]: [&Tensor; 6],
) -> Result<(), GpuError> {
    let len = w.len();
    if !len.is_multiple_of(4) {
        let message = format!("the number of parameters is {len}, which is not a multiple of four");
        return Err(GpuError::Record { entry: STEP.entry, message });
    }
    let constants = [
        ("LEN", len as f64),
        ("ONE_MINUS_BETA_1", 1.0 - config.beta_1),
        ("ONE_MINUS_BETA_2", 1.0 - config.beta_2),
        ("EPSILON", config.epsilon),
    ];
    let tensors = [(g, len), (w, len), (m, len), (v, len), (rates, rates.len()), (progress, 2)];
    push(plan, &STEP, &constants, workgroups_linear(len / 4, 64), &tensors)
}
