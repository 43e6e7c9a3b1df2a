//! The sigmoid linear unit: kernels in `shaders/silu.wgsl`, mirror in [`crate::cpu::silu`].

use super::{Shader, push_each};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, write};

const SHADER: Shader = Shader { op: "silu", source: shader_text!("silu.wgsl") };

/// `y = x / (1 + exp(-x))`.
pub static FORWARD: KernelSpec = SHADER.kernel("silu_forward", &[read(0, "x"), write(1, "y")]);

/// `dx = dy dy/dx`, from the input x.
pub static BACKWARD_X: KernelSpec = SHADER.kernel("silu_backward_x", &[read(0, "x"), read(2, "dy"), write(3, "dx")]);

/// Records `y = x / (1 + exp(-x))`, given x and y of `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder, len: usize, tensors: [&Tensor; 2]) -> Result<(), GpuError> {
    push_each(plan, &FORWARD, len, &tensors)
}

/// Records the gradient dx of the input, given x, dy and dx of `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_backward_x(plan: &mut PlanBuilder, len: usize, tensors: [&Tensor; 3]) -> Result<(), GpuError> {
    push_each(plan, &BACKWARD_X, len, &tensors)
}
