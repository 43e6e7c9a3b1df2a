//! Adam in Keras's form: kernel of `shaders/adam.wgsl`, mirror in [`crate::cpu::adam`].

use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

pub use crate::cpu::adam::AdamConfig;

const SOURCE: &str = include_str!("../../shaders/adam.wgsl");

/// Updates all parameters by one step.
pub static STEP: KernelSpec = KernelSpec {
    op: "adam",
    entry: "adam_step",
    source: SOURCE,
    bindings: &[read(0, "g"), write(1, "w"), write(2, "m"), write(3, "v"), read(4, "step_sizes"), read(5, "progress")],
};

/// The tensors of a step: gradients, parameters and both moments, all of the same length; and one step size per batch
/// of the epoch.
#[derive(Clone, Copy, Debug)]
pub struct AdamTensors<'a> {
    /// Gradients.
    pub g: &'a Tensor,
    /// Parameters, updated.
    pub w: &'a Tensor,
    /// First moments, updated.
    pub m: &'a Tensor,
    /// Second moments, updated.
    pub v: &'a Tensor,
    /// [`AdamConfig::step_size`] of each batch of the epoch.
    pub step_sizes: &'a Tensor,
    /// `[batches of the epoch whose loss is known, including this one; samples of the epoch]`.
    pub progress: &'a Tensor,
}

/// Records one step. The number of parameters must be a multiple of four, which an arena's ([`crate::gpu::Gpu::arena`])
/// is.
///
/// # Errors
/// A tensor's size does not fit, or is not a multiple of four.
pub fn record(plan: &mut PlanBuilder<'_>, config: &AdamConfig, tensors: &AdamTensors<'_>) -> Result<(), GpuError> {
    let len = tensors.w.len();
    if !len.is_multiple_of(4) {
        return Err(GpuError::Record {
            entry: STEP.entry,
            message: format!("the number of parameters is {len}, which is not a multiple of four"),
        });
    }
    plan.push(
        &STEP,
        &[
            ("LEN", len as f64),
            ("ONE_MINUS_BETA_1", 1.0 - config.beta_1),
            ("ONE_MINUS_BETA_2", 1.0 - config.beta_2),
            ("EPSILON", config.epsilon),
        ],
        workgroups_linear(len / 4, 64),
        &[
            bind("g", tensors.g, len),
            bind("w", tensors.w, len),
            bind("m", tensors.m, len),
            bind("v", tensors.v, len),
            bind("step_sizes", tensors.step_sizes, tensors.step_sizes.len()),
            bind("progress", tensors.progress, 2),
        ],
    )
}
