//! Bias as a separate operation: kernels in `shaders/bias.wgsl`, mirror in [`crate::cpu::bias`].

use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

pub use crate::cpu::bias::BiasDims;

const SOURCE: &str = include_str!("../../shaders/bias.wgsl");

/// `y = x + b`.
pub static FORWARD: KernelSpec = KernelSpec {
    op: "bias",
    entry: "bias_forward",
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "b"), write(2, "y")],
};

/// `db`: the column sums of dy.
pub static BACKWARD_B: KernelSpec =
    KernelSpec { op: "bias", entry: "bias_backward_b", source: SOURCE, bindings: &[read(3, "dy"), write(4, "db")] };

/// Records `y = x + b` for each row. Shapes: x and y `[N, O]`, b `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_forward(
    plan: &mut PlanBuilder<'_>,
    d: &BiasDims,
    x: &Tensor,
    b: &Tensor,
    y: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &FORWARD,
        &[("N", d.n as f64), ("O", d.o as f64)],
        workgroups_linear(d.n * d.o, 64),
        &[bind("x", x, d.n * d.o), bind("b", b, d.o), bind("y", y, d.n * d.o)],
    )
}

/// Records the gradient of the bias. Shapes: dy `[N, O]`, db `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_b(plan: &mut PlanBuilder<'_>, d: &BiasDims, dy: &Tensor, db: &Tensor) -> Result<(), GpuError> {
    plan.push(
        &BACKWARD_B,
        &[("N", d.n as f64), ("O", d.o as f64)],
        workgroups_linear(d.o, 64),
        &[bind("dy", dy, d.n * d.o), bind("db", db, d.o)],
    )
}
