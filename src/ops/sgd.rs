//! Gradient descent with momentum: kernel in `shaders/sgd.wgsl`, mirror in [`crate::cpu::sgd`].

use super::{Shader, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::sgd::SgdConfig;

const SHADER: Shader = Shader { op: "sgd", source: include_str!("../../shaders/sgd.wgsl") };

/// Updates all parameters by one step.
pub static STEP: KernelSpec = SHADER
    .kernel("sgd_step", &[read(0, "g"), write(1, "w"), write(2, "velocity"), read(3, "rates"), read(4, "progress")]);

/// Records one step. Gradients g, parameters w and velocity have the same length; `rates` has one learning rate
/// per batch of the epoch; progress is `[batches of the epoch whose loss is known, including this one; samples of the
/// epoch]`.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record(
    plan: &mut PlanBuilder,
    config: &SgdConfig,
    [g, w, velocity, rates, progress]: [&Tensor; 5],
) -> Result<(), GpuError> {
    let len = w.len();
    let tensors = [(g, len), (w, len), (velocity, len), (rates, rates.len()), (progress, 2)];
    let constants = [("LEN", len as f64), ("MOMENTUM", config.momentum)];
    push(plan, &STEP, &constants, workgroups_linear(len, 64), &tensors)
}
