//! Proof of the clipping of gradients: the kernels give the factor of [`crate::cpu::clip`].

use super::{Bounded, UNIT_ROUNDOFF, Verifier, widen};
use crate::cpu::clip as cpu;
use crate::gpu::GpuError;
use crate::ops::clip::{FACTOR, FACTOR_PARTS, record, roundings};

/// Compares the factor for `len` gradients with the mirror, with norms below and above the limit.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, len: usize) -> Result<(), GpuError> {
    let g = v.random(len);
    let norm = widen(&g).iter().map(|g| g * g).sum::<f64>().sqrt();
    for share in [0.01, 0.5, 2.0] {
        // The kernel's limit is a single-precision constant.
        let clip_norm = f64::from((norm * share) as f32);
        let factor: f64 = cpu::clip_factor(clip_norm, &[widen(&g)]);
        // The root halves the error of the sum; it and the division have the accuracy of the WGSL specification.
        let roundings = roundings(len) as f64 / 2.0 + 14.0;
        let bound = if share > 1.0 { 0.0 } else { roundings * UNIT_ROUNDOFF * factor };
        let expected = Bounded { values: vec![factor], bound: vec![bound] };
        let case = format!("{len}, {share} of the norm");
        v.check(FACTOR.entry, &case, [&g], [&expected], |plan, [g], [factor]| record(plan, clip_norm, g, factor))?;
    }
    v.covered(FACTOR_PARTS.entry, FACTOR.entry);
    Ok(())
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    [1, 255, 257, 4096, 4097, 1_100_000].into_iter().try_for_each(|len| verify(v, len))
}
