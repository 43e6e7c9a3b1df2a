//! Counts elements that are not finite: kernel in `shaders/non_finite.wgsl`, mirror in [`crate::cpu::non_finite`].

use crate::cpu::non_finite as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

/// Adds the number of infinite and NaN elements of a tensor to a count, and finds the first.
pub static NON_FINITE: KernelSpec = KernelSpec {
    op: "non_finite",
    entry: "non_finite",
    source: include_str!("../../shaders/non_finite.wgsl"),
    bindings: &[read(0, "x"), write(1, "found")],
};

/// What `found` must contain before the search.
pub const NOTHING_FOUND: [u32; 2] = [0, cpu::NONE];

/// Records the search of `x`, of any shape; `found` is `[2]`: the count, and the index of the first element that is not
/// finite.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record(plan: &mut PlanBuilder<'_>, x: &Tensor, found: &Tensor) -> Result<(), GpuError> {
    plan.push(&NON_FINITE, &[], workgroups_linear(x.len(), 64), &[bind("x", x, x.len()), bind("found", found, 2)])
}
