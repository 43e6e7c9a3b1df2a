//! Proof of the moving average: one step of the kernel is one step of [`crate::cpu::average`].

use super::{Bounded, UNIT_ROUNDOFF, Verifier, widen};
use crate::cpu::average as cpu;
use crate::gpu::GpuError;
use crate::ops::average::{AverageConfig, STEP, record};

/// Compares one step with the mirror on `len` parameters.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, len: usize, config: &AverageConfig, rate: f32) -> Result<(), GpuError> {
    let case = format!("{len}, {config:?}, rate {rate}");
    let (w, average) = (v.random(len), v.random(len));
    let (mut w64, mut average64) = (widen(&w), widen(&average));
    cpu::average_step(f64::from(rate), config.pulls(), &mut w64, &mut average64);
    // The difference, the product and the sum round once each; what does not move keeps its bits.
    let bound = |i: usize| {
        let (w, average) = (f64::from(w[i]).abs(), f64::from(average[i]).abs());
        let way = f64::from(rate) * (w + average);
        if rate == 0.0 { 0.0 } else { UNIT_ROUNDOFF * (3.0 * way + average) + f64::from(f32::MIN_POSITIVE) }
    };
    let average_after = Bounded::by_index(average64, bound);
    let w_after = Bounded::by_index(w64, |i| if config.pulls() { bound(i) } else { 0.0 });
    let mut run = v.run();
    let (tw, taverage) = (run.in_place(&w)?, run.in_place(&average)?);
    // The rate of this step is in the batch's slot; using any other number would change the result.
    let rates = run.input(&[[9.0; 4], [9.0, 9.0, rate, 9.0], [9.0; 4]].concat())?;
    let progress = run.input_u32(&[2, 3])?;
    record(&mut run.plan, config, [&tw, &taverage, &rates, &progress])?;
    run.check(STEP.entry, &case, &[(&tw, &w_after), (&taverage, &average_after)], &[]);
    Ok(())
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    verify(v, 4, &AverageConfig::Ema { decay: 0.9 }, 0.1)?;
    verify(v, 64, &AverageConfig::Lookahead { decay: 0.95 }, 0.75)?;
    verify(v, 64, &AverageConfig::Lookahead { decay: 0.95 }, 0.0)?;
    verify(v, 10_004, &AverageConfig::Ema { decay: 0.999 }, 0.001)
}
