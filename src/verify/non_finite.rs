//! Proof of the search for elements that are not finite: the kernel finds what [`crate::cpu::non_finite`] finds.

use super::Verifier;
use crate::cpu::non_finite as cpu;
use crate::gpu::GpuError;
use crate::ops::non_finite::{NON_FINITE, NOTHING_FOUND, record};

/// Compares the kernel with the mirror if none, one, some and all elements are not finite.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, len: usize) -> Result<(), GpuError> {
    let clean: Vec<f32> = [f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -0.0].into_iter().cycle().take(len).collect();
    // Quiet and signaling NaNs of either sign, with few and many bits set.
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0xff80_0001), f32::from_bits(0x7fff_ffff)];
    let with = |is_bad: &dyn Fn(usize) -> bool| -> Vec<f32> {
        let value = |(i, &value)| if is_bad(i) { bad[i % bad.len()] } else { value };
        clean.iter().enumerate().map(value).collect()
    };
    let cases = [
        ("none", clean.clone()),
        ("the last", with(&|i| i == len - 1)),
        ("some", with(&|i| i % 7 == 3)),
        ("all", with(&|_| true)),
    ];
    for (case, x) in cases {
        let mut run = v.run();
        let bits: Vec<u32> = x.iter().map(|value| value.to_bits()).collect();
        let (tx, tfound) = (run.input_u32(&bits)?, run.in_place_u32(&NOTHING_FOUND)?);
        record(&mut run.plan, &tx, &tfound)?;
        run.check(NON_FINITE.entry, &format!("{len}, {case}"), &[], &[(&tfound, &cpu::non_finite(&x))]);
    }
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    [1, 63, 64, 65, 10_007].into_iter().try_for_each(|len| verify(v, len))
}
