//! Moving averages of the parameters: kernel in `shaders/average.wgsl`, mirror in [`crate::cpu::average`].

use super::{Shader, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::average::AverageConfig;

const SHADER: Shader = Shader { op: "average", source: shader_text!("average.wgsl") };

/// Moves the average of all parameters by one step.
pub static STEP: KernelSpec =
    SHADER.kernel("average_step", &[write(0, "w"), write(1, "average"), read(2, "rates"), read(3, "progress")]);

/// Records one step. Parameters w and average have the same length, a multiple of four, which an arena's
/// ([`crate::gpu::Gpu::arena`]) is; `rates` has [`AverageConfig::rate`] of each batch of the epoch as its third number;
/// progress is `[batches of the epoch whose loss is known, including this one; samples of the epoch]`.
///
/// # Errors
/// A tensor's size does not fit, or is not a multiple of four.
pub fn record(
    plan: &mut PlanBuilder,
    config: &AverageConfig,
    [w, average, rates, progress]: [&Tensor; 4],
) -> Result<(), GpuError> {
    let len = w.len();
    if !len.is_multiple_of(4) {
        let message = format!("the number of parameters is {len}, which is not a multiple of four");
        return Err(GpuError::Record { entry: STEP.entry, message });
    }
    let constants = [("LEN", len as f64), ("PULLS", f64::from(u8::from(config.pulls())))];
    let tensors = [(w, len), (average, len), (rates, rates.len()), (progress, 2)];
    push(plan, &STEP, &constants, workgroups_linear(len / 4, 64), &tensors)
}
