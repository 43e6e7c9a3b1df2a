//! Rectified linear unit as a separate operation: kernels in `shaders/relu.wgsl`, mirror in [`crate::cpu::relu`].

use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

const SOURCE: &str = include_str!("../../shaders/relu.wgsl");

/// `y = max(x, 0)`.
pub static FORWARD: KernelSpec =
    KernelSpec { op: "relu", entry: "relu_forward", source: SOURCE, bindings: &[read(0, "x"), write(1, "y")] };

/// `dx = dy` where y is above zero.
pub static BACKWARD_X: KernelSpec = KernelSpec {
    op: "relu",
    entry: "relu_backward_x",
    source: SOURCE,
    bindings: &[read(2, "y_in"), read(3, "dy"), write(4, "dx")],
};

/// Records `y = max(x, 0)`; x and y have `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder<'_>, len: usize, x: &Tensor, y: &Tensor) -> Result<(), GpuError> {
    plan.push(&FORWARD, &[("LEN", len as f64)], workgroups_linear(len, 64), &[bind("x", x, len), bind("y", y, len)])
}

/// Records `dx = dy` where the output y is above zero, else 0; all have `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    len: usize,
    y: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &BACKWARD_X,
        &[("LEN", len as f64)],
        workgroups_linear(len, 64),
        &[bind("y_in", y, len), bind("dy", dy, len), bind("dx", dx, len)],
    )
}
