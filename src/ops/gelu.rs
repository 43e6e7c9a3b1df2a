//! The Gaussian error linear unit: kernels in `shaders/gelu.wgsl`, mirror in [`crate::cpu::gelu`].

use super::{Shader, push_each};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, write};

const SHADER: Shader = Shader { op: "gelu", source: shader_text!("gelu.wgsl") };

/// `y = 0.5 x (1 + tanh(u))`.
pub static FORWARD: KernelSpec = SHADER.kernel("gelu_forward", &[read(0, "x"), write(1, "y")]);

/// `dx = dy dy/dx`, from the input x.
pub static BACKWARD_X: KernelSpec = SHADER.kernel("gelu_backward_x", &[read(0, "x"), read(2, "dy"), write(3, "dx")]);

/// Records `y = 0.5 x (1 + tanh(u))`, given x and y of `len` elements.
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
