//! Rectified linear unit as a separate operation: kernels in `shaders/relu.wgsl`, mirror in [`crate::cpu::relu`].

use super::{Shader, push_each};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, write};

const SHADER: Shader = Shader { op: "relu", source: shader_text!("relu.wgsl") };

/// `y = max(x, 0)`.
pub static FORWARD: KernelSpec = SHADER.kernel("relu_forward", &[read(0, "x"), write(1, "y")]);

/// `dx = dy` where y is above zero.
pub static BACKWARD_X: KernelSpec = SHADER.kernel("relu_backward_x", &[read(2, "y_in"), read(3, "dy"), write(4, "dx")]);

/// Records `y = max(x, 0)`, given x and y of `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder, len: usize, tensors: [&Tensor; 2]) -> Result<(), GpuError> {
    push_each(plan, &FORWARD, len, &tensors)
}

/// Records `dx = dy` where the output y is above zero, else 0, given y, dy and dx of `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_backward_x(plan: &mut PlanBuilder, len: usize, tensors: [&Tensor; 3]) -> Result<(), GpuError> {
    push_each(plan, &BACKWARD_X, len, &tensors)
}
