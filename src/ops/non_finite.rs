//! Counts elements that are not finite: kernel in `shaders/non_finite.wgsl`, mirror in [`crate::cpu::non_finite`].

use super::{Shader, push};
use crate::cpu::non_finite as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

const SHADER: Shader = Shader { op: "non_finite", source: shader_text!("non_finite.wgsl") };

/// Adds the number of infinite and NaN elements of a tensor to a count, and finds the first.
pub static NON_FINITE: KernelSpec = SHADER.kernel("non_finite", &[read(0, "x"), write(1, "found")]);

/// What `found` must contain before the search.
pub const NOTHING_FOUND: [u32; 2] = [0, cpu::NONE];

/// Records the search of `x`, of any shape; `found` is `[2]`: the count, and the index of the first element that is not
/// finite.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record(plan: &mut PlanBuilder, x: &Tensor, found: &Tensor) -> Result<(), GpuError> {
    push(plan, &NON_FINITE, &[], workgroups_linear(x.len(), 64), &[(x, x.len()), (found, 2)])
}
