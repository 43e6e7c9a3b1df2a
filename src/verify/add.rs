//! Proof of the sum of two tensors: its kernel agrees with [`crate::cpu::add`].

use super::{Bounded, Verifier, absolute, widen};
use crate::cpu::add as cpu;
use crate::gpu::GpuError;
use crate::ops::add::{FORWARD, record_forward};

/// Compares the kernel with the mirror, on two tensors and on the same one twice.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, len: usize) -> Result<(), GpuError> {
    let (x1, x2) = (v.random(len), v.random(len));
    for same in [false, true] {
        let case = format!("{len}{}", if same { ", the same tensor twice" } else { "" });
        let second = if same { &x1 } else { &x2 };
        let mut y64 = vec![0.0; len];
        cpu::add_forward(&widen(&x1), &widen(second), &mut y64);
        // WGSL rounds a sum correctly: once.
        let scale = absolute(&y64);
        v.check(FORWARD.entry, &case, [&x1, second], [&Bounded::sums(y64, &scale, 1)], |plan, [x1, x2], [y]| {
            record_forward(plan, len, [x1, if same { x1 } else { x2 }, y])
        })?;
    }
    Ok(())
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    [1, 63, 64, 65, 10_007].into_iter().try_for_each(|len| verify(v, len))
}
