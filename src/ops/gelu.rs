//! The Gaussian error linear unit: kernels in `shaders/gelu.wgsl`, mirror in [`crate::cpu::gelu`].

use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

const SOURCE: &str = include_str!("../../shaders/gelu.wgsl");

/// `y = 0.5 x (1 + tanh(u))`.
pub static FORWARD: KernelSpec =
    KernelSpec { op: "gelu", entry: "gelu_forward", source: SOURCE, bindings: &[read(0, "x"), write(1, "y")] };

/// `dx = dy dy/dx`, from the input x.
pub static BACKWARD_X: KernelSpec = KernelSpec {
    op: "gelu",
    entry: "gelu_backward_x",
    source: SOURCE,
    bindings: &[read(0, "x"), read(2, "dy"), write(3, "dx")],
};

/// Records `y = 0.5 x (1 + tanh(u))`; x and y have `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder<'_>, len: usize, x: &Tensor, y: &Tensor) -> Result<(), GpuError> {
    plan.push(&FORWARD, &[("LEN", len as f64)], workgroups_linear(len, 64), &[bind("x", x, len), bind("y", y, len)])
}

/// Records the gradient dx of the input x; all have `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    len: usize,
    x: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &BACKWARD_X,
        &[("LEN", len as f64)],
        workgroups_linear(len, 64),
        &[bind("x", x, len), bind("dy", dy, len), bind("dx", dx, len)],
    )
}
