//! Dropout: kernels in `shaders/dropout.wgsl`, mirror in [`crate::cpu::dropout`].

use super::batch_gather::RANDOM_WORDS;
use super::{Shader, push};
use crate::cpu::dropout::Dropping;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

const SHADER: Shader =
    Shader { op: "dropout", source: concat!(shader_text!("dropout.wgsl"), shader_text!("parts/philox.wgsl")) };

/// y is 0, or `x / (1 - rate)`.
pub static FORWARD: KernelSpec =
    SHADER.kernel("dropout_forward", &[read(0, "x"), write(1, "y"), read(4, "progress"), read(5, "random")]);

/// dx is 0 where y was, and `dy / (1 - rate)` elsewhere.
pub static BACKWARD_X: KernelSpec =
    SHADER.kernel("dropout_backward_x", &[read(2, "dy"), write(3, "dx"), read(4, "progress"), read(5, "random")]);

fn record(
    plan: &mut PlanBuilder,
    spec: &'static KernelSpec,
    d: &Dropping,
    len: usize,
    [x, y, progress, random]: [&Tensor; 4],
) -> Result<(), GpuError> {
    let constants = [
        ("LEN", len as f64),
        ("THRESHOLD", f64::from(d.threshold())),
        ("SCALE", f64::from(d.scale() as f32)),
        ("STREAM", f64::from(d.stream())),
    ];
    let tensors = [(x, len), (y, len), (progress, 2), (random, RANDOM_WORDS)];
    push(plan, spec, &constants, workgroups_linear(len.div_ceil(4), 64), &tensors)
}

/// Records the forward pass, given x and y of `len` elements, progress `[batches done, samples of the epoch]`, and random as of
/// [`random_words`](super::batch_gather::random_words).
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder, d: &Dropping, len: usize, tensors: [&Tensor; 4]) -> Result<(), GpuError> {
    record(plan, &FORWARD, d, len, tensors)
}

/// Records the gradient dx of the input, given dy and dx of `len` elements, and progress and random as they are after the loss.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_backward_x(
    plan: &mut PlanBuilder,
    d: &Dropping,
    len: usize,
    tensors: [&Tensor; 4],
) -> Result<(), GpuError> {
    record(plan, &BACKWARD_X, d, len, tensors)
}
