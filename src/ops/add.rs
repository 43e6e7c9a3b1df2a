//! The sum of two tensors: kernel in `shaders/add.wgsl`, mirror in [`crate::cpu::add`].

use super::{Shader, push_each};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, write};

const SHADER: Shader = Shader { op: "add", source: shader_text!("add.wgsl") };

/// `y = x1 + x2`.
pub static FORWARD: KernelSpec = SHADER.kernel("add_forward", &[read(0, "x1"), read(1, "x2"), write(2, "y")]);

/// Records `y = x1 + x2`, given x1, x2 and y of `len` elements. x1 and x2 may be the same tensor, but y may be neither.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder, len: usize, tensors: [&Tensor; 3]) -> Result<(), GpuError> {
    push_each(plan, &FORWARD, len, &tensors)
}
