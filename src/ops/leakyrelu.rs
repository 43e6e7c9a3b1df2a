//! The leaky rectified linear unit: kernels in `shaders/leakyrelu.wgsl`, mirror in [`crate::cpu::leakyrelu`].

use super::{Shader, push_each_with};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, write};

const SHADER: Shader = Shader { op: "leakyrelu", source: shader_text!("leakyrelu.wgsl") };

/// `y = x` where x is above zero, else `slope * x`.
pub static FORWARD: KernelSpec = SHADER.kernel("leakyrelu_forward", &[read(0, "x"), write(1, "y")]);

/// `dx = dy` where y is above zero, else `slope * dy`.
pub static BACKWARD_X: KernelSpec =
    SHADER.kernel("leakyrelu_backward_x", &[read(2, "y_in"), read(3, "dy"), write(4, "dx")]);

/// Records `y = x` where x is above zero, else `slope * x`, given x and y of `len` elements; `slope` is not negative.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder, slope: f64, len: usize, tensors: [&Tensor; 2]) -> Result<(), GpuError> {
    push_each_with(plan, &FORWARD, len, &[("SLOPE", slope)], &tensors)
}

/// Records `dx = dy` where the output y is above zero, else `slope * dy`, given y, dy and dx of `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_backward_x(
    plan: &mut PlanBuilder,
    slope: f64,
    len: usize,
    tensors: [&Tensor; 3],
) -> Result<(), GpuError> {
    push_each_with(plan, &BACKWARD_X, len, &[("SLOPE", slope)], &tensors)
}
