//! The sum of two tensors: kernel in `shaders/add.wgsl`, mirror in [`crate::cpu::add`].

use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

/// `y = x1 + x2`.
pub static FORWARD: KernelSpec = KernelSpec {
    op: "add",
    entry: "add_forward",
    source: include_str!("../../shaders/add.wgsl"),
    bindings: &[read(0, "x1"), read(1, "x2"), write(2, "y")],
};

/// Records `y = x1 + x2`; all have `len` elements. x1 and x2 may be the same tensor, but y may be neither.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(
    plan: &mut PlanBuilder<'_>,
    len: usize,
    x1: &Tensor,
    x2: &Tensor,
    y: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &FORWARD,
        &[("LEN", len as f64)],
        workgroups_linear(len, 64),
        &[bind("x1", x1, len), bind("x2", x2, len), bind("y", y, len)],
    )
}
