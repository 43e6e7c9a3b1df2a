//! Bias as a separate operation: kernels in `shaders/bias.wgsl`, mirror in [`crate::cpu::bias`].

use super::{Shader, constants, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::bias::BiasDims;

const SHADER: Shader = Shader { op: "bias", source: shader_text!("bias.wgsl") };

/// `y = x + b`.
pub static FORWARD: KernelSpec = SHADER.kernel("bias_forward", &[read(0, "x"), read(1, "b"), write(2, "y")]);

/// `db`: the column sums of dy.
pub static BACKWARD_B: KernelSpec = SHADER.kernel("bias_backward_b", &[read(3, "dy"), write(4, "db")]);

/// Records `y = x + b` for each row. Shapes: x and y `[N, O]`, b `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_forward(plan: &mut PlanBuilder, d: &BiasDims, [x, b, y]: [&Tensor; 3]) -> Result<(), GpuError> {
    let len = d.n * d.o;
    let constants = constants(&[("N", d.n), ("O", d.o)], &[]);
    push(plan, &FORWARD, &constants, workgroups_linear(len, 64), &[(x, len), (b, d.o), (y, len)])
}

/// Records the gradient of the bias. Shapes: dy `[N, O]`, db `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_b(plan: &mut PlanBuilder, d: &BiasDims, [dy, db]: [&Tensor; 2]) -> Result<(), GpuError> {
    let constants = constants(&[("N", d.n), ("O", d.o)], &[]);
    push(plan, &BACKWARD_B, &constants, workgroups_linear(d.o, 64), &[(dy, d.n * d.o), (db, d.o)])
}
