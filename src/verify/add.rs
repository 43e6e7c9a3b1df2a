//! Proof of the kernel of `shaders/add.wgsl`.

use super::{Verifier, absolute, widen};
use crate::cpu::add as cpu;
use crate::gpu::GpuError;
use crate::ops::add::{FORWARD, record_forward};

/// Compares the kernel with the mirror, on two tensors and on the same one twice.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, len: usize) -> Result<(), GpuError> {
    let (x1, x2) = (v.random(len), v.random(len));
    for same in [false, true] {
        let case = format!("{len}{}", if same { ", the same tensor twice" } else { "" });
        let second = if same { &x1 } else { &x2 };
        let mut y64 = vec![0.0; len];
        cpu::add_forward(&widen(&x1), &widen(second), &mut y64);
        let mut run = v.run();
        let (tx1, tx2, ty) = (run.input(&x1)?, run.input(second)?, run.output(len)?);
        record_forward(&mut run.plan, len, &tx1, if same { &tx1 } else { &tx2 }, &ty)?;
        // WGSL rounds a sum correctly: once.
        run.check_sums(FORWARD.entry, &case, &[(&ty, &y64, &absolute(&y64), 1)])?;
    }
    Ok(())
}

/// Checks the sizes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for len in [1, 63, 64, 65, 10_007] {
        verify(v, len)?;
    }
    Ok(())
}
