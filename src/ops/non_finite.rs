//! Counts elements that are not finite: kernel in `shaders/non_finite.wgsl`, mirror in [`crate::cpu::non_finite`].

use crate::cpu::non_finite as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::verify::Verifier;

/// Adds the number of infinite and NaN elements of a tensor to a count, and finds the first.
pub static NON_FINITE: KernelSpec = KernelSpec {
    op: "non_finite",
    entry: "non_finite",
    source: include_str!("../../shaders/non_finite.wgsl"),
    bindings: &[read(0, "x"), write(1, "found")],
};

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[&NON_FINITE];

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

/// Compares the kernel with the mirror if none, one, some and all elements are not finite.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, len: usize) -> Result<(), GpuError> {
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
        run.check(NON_FINITE.entry, &format!("{len}, {case}"), &[], &[(&tfound, &cpu::non_finite(&x))])?;
    }
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for len in [1, 63, 64, 65, 10_007] {
        verify(v, len)?;
    }
    Ok(())
}
