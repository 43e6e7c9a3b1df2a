//! A fixed factor: kernels in `shaders/scale.wgsl`, mirror in [`crate::cpu::scale`].

use super::{Shader, push_each_with};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, write};

const SHADER: Shader = Shader { op: "scale", source: shader_text!("scale.wgsl") };

/// `y = factor * x`.
pub static FORWARD: KernelSpec = SHADER.kernel("scale_forward", &[read(0, "x"), write(1, "y")]);

/// `dx = factor * dy`.
pub static BACKWARD_X: KernelSpec = SHADER.kernel("scale_backward_x", &[read(2, "dy"), write(3, "dx")]);

/// Records `y = factor * x`, given x and y of `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder, factor: f64, len: usize, tensors: [&Tensor; 2]) -> Result<(), GpuError> {
    push_each_with(plan, &FORWARD, len, &[("FACTOR", factor)], &tensors)
}

/// Records the gradient `dx = factor * dy`, given dy and dx of `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_backward_x(
    plan: &mut PlanBuilder,
    factor: f64,
    len: usize,
    tensors: [&Tensor; 2],
) -> Result<(), GpuError> {
    push_each_with(plan, &BACKWARD_X, len, &[("FACTOR", factor)], &tensors)
}
