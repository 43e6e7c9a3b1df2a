//! The factor that limits the norm of the gradients: kernels in `shaders/clip.wgsl`, mirror in [`crate::cpu::clip`].

use super::{Shader, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, write};

const SHADER: Shader = Shader { op: "clip", source: shader_text!("clip.wgsl") };

/// Parts of the sum of the squares, one per workgroup.
pub static FACTOR_PARTS: KernelSpec = SHADER.kernel("clip_factor_parts", &[read(0, "g"), write(1, "parts_out")]);

/// The factor, from the parts of the sum.
pub static FACTOR: KernelSpec = SHADER.kernel("clip_factor", &[read(2, "parts"), write(3, "factor")]);

/// Invocations of a workgroup: `LANES` in the shader.
const LANES: usize = 256;

/// Elements of a part, unless that would be more than [`LANES`] parts.
const PART: usize = 16 * LANES;

/// Returns the number of parts into which the sum over `len` elements is divided.
fn parts(len: usize) -> usize {
    len.div_ceil(PART).clamp(1, LANES)
}

/// Returns the largest number of roundings of a square in the sum over `len` elements: those of the square itself and of the additions.
pub fn roundings(len: usize) -> usize {
    let in_a_workgroup = LANES.ilog2() as usize;
    1 + len.div_ceil(parts(len) * LANES) + in_a_workgroup + 1 + in_a_workgroup
}

/// Records the factor `[1]` that limits the norm of the gradients g, of any shape, to `clip_norm`.
///
/// # Errors
/// A tensor's size does not fit, or memory runs out.
pub fn record(plan: &mut PlanBuilder, clip_norm: f64, g: &Tensor, factor: &Tensor) -> Result<(), GpuError> {
    let (len, n_parts) = (g.len(), parts(g.len()));
    let constants = [("LEN", len as f64), ("PARTS", n_parts as f64)];
    let parts = plan.scratch("clip.parts", &[n_parts])?;
    push(plan, &FACTOR_PARTS, &constants, [n_parts as u32, 1, 1], &[(g, len), (&parts, n_parts)])?;
    let constants = [("PARTS", n_parts as f64), ("CLIP_NORM", clip_norm)];
    push(plan, &FACTOR, &constants, [1, 1, 1], &[(&parts, n_parts), (factor, 1)])
}
