//! Gradient descent with momentum: kernel in `shaders/sgd.wgsl`, mirror in [`crate::cpu::sgd`].

use super::{Groups, Shader, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::sgd::SgdConfig;

const SHADER: Shader = Shader { op: "sgd", source: shader_text!("sgd.wgsl") };

/// Updates all parameters by one step.
pub static STEP: KernelSpec = SHADER.kernel(
    "sgd_step",
    &[read(0, "g"), write(1, "w"), write(2, "velocity"), read(3, "rates"), read(4, "progress"), read(5, "clip")],
);

/// Records one step. Gradients g, parameters w and velocity have the same length. `rates` has four numbers for each batch of the epoch: first the learning
/// rate, then the decay. Progress is `[batches of the epoch whose loss is known, including this one; samples of the epoch]`, clip `[1]` the factor
/// of the gradients, which is read only if `groups` says that they are clipped.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record(
    plan: &mut PlanBuilder,
    config: &SgdConfig,
    groups: &Groups,
    [g, w, velocity, rates, progress, clip]: [&Tensor; 6],
) -> Result<(), GpuError> {
    let len = w.len();
    let tensors = [(g, len), (w, len), (velocity, len), (rates, rates.len()), (progress, 2), (clip, 1)];
    let nesterov = f64::from(u8::from(config.nesterov));
    let of_sgd = [("LEN", len as f64), ("MOMENTUM", config.momentum), ("NESTEROV", nesterov)];
    let constants = [&of_sgd[..], &groups.constants(len)].concat();
    push(plan, &STEP, &constants, workgroups_linear(len, 64), &tensors)
}
