//! Gradient descent with momentum: kernel in `shaders/sgd.wgsl`, mirror in [`crate::cpu::sgd`].

use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

pub use crate::cpu::sgd::SgdConfig;

const SOURCE: &str = include_str!("../../shaders/sgd.wgsl");

/// Updates all parameters by one step.
pub static STEP: KernelSpec = KernelSpec {
    op: "sgd",
    entry: "sgd_step",
    source: SOURCE,
    bindings: &[read(0, "g"), write(1, "w"), write(2, "velocity"), read(3, "step_sizes"), read(4, "progress")],
};

/// Records one step. Gradients g, parameters w and velocity have the same length; `step_sizes` has one learning rate
/// per batch of the epoch; progress is `[batches of the epoch whose loss is known, including this one; samples of the
/// epoch]`.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record(
    plan: &mut PlanBuilder<'_>,
    config: &SgdConfig,
    g: &Tensor,
    w: &Tensor,
    velocity: &Tensor,
    step_sizes: &Tensor,
    progress: &Tensor,
) -> Result<(), GpuError> {
    let len = w.len();
    plan.push(
        &STEP,
        &[("LEN", len as f64), ("MOMENTUM", config.momentum)],
        workgroups_linear(len, 64),
        &[
            bind("g", g, len),
            bind("w", w, len),
            bind("velocity", velocity, len),
            bind("step_sizes", step_sizes, step_sizes.len()),
            bind("progress", progress, 2),
        ],
    )
}
