//! Proof of gradient descent: one step of the kernel is one step of [`crate::cpu::sgd`].

use super::{Bounded, UNIT_ROUNDOFF, Verifier, widen};
use crate::cpu::sgd as cpu;
use crate::gpu::GpuError;
use crate::ops::sgd::{STEP, SgdConfig, record};

/// Compares one step with the mirror on `len` parameters.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, len: usize, momentum: f64) -> Result<(), GpuError> {
    let case = format!("{len}, momentum {momentum}");
    let config = SgdConfig { momentum, ..SgdConfig::default() };
    let (g, w, velocity) = (v.random(len), v.random(len), v.random(len));
    let alpha = config.learning_rate as f32;
    let (g64, mut w64, mut velocity64) = (widen(&g), widen(&w), widen(&velocity));
    // The kernel's momentum is a single-precision constant.
    let momentum = f64::from(momentum as f32);
    cpu::sgd_step(momentum, f64::from(alpha), &g64, &mut w64, &mut velocity64);
    let velocity_after = Bounded::by_index(velocity64, |i| {
        3.0 * UNIT_ROUNDOFF * (momentum * f64::from(velocity[i]).abs() + f64::from(alpha) * g64[i].abs())
    });
    let w_after = Bounded::by_index(w64, |i| {
        velocity_after.bound[i] + 2.0 * UNIT_ROUNDOFF * (f64::from(w[i]).abs() + velocity_after.values[i].abs())
    });
    let mut run = v.run();
    let tg = run.input(&g)?;
    let (tw, tvelocity) = (run.in_place(&w)?, run.in_place(&velocity)?);
    let rates = run.input(&[[9.0; 4], [alpha, 9.0, 9.0, 9.0], [9.0; 4]].concat())?;
    let progress = run.input_u32(&[2, 3])?;
    record(&mut run.plan, &config, [&tg, &tw, &tvelocity, &rates, &progress])?;
    run.check(STEP.entry, &case, &[(&tw, &w_after), (&tvelocity, &velocity_after)], &[]);
    Ok(())
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    verify(v, 1, 0.0)?;
    verify(v, 64, 0.9)?;
    verify(v, 10_007, 0.5)
}
