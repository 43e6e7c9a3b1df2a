//! Proof of gradient descent: one step of the kernel is one step of [`crate::cpu::sgd`].

use super::step::{by_element, decay_error, groups, more_roundings, steps};
use super::{Bounded, UNIT_ROUNDOFF, Verifier, widen};
use crate::cpu::sgd as cpu;
use crate::cpu::step::Step;
use crate::gpu::GpuError;
use crate::ops::Groups;
use crate::ops::sgd::{STEP, SgdConfig, record};

/// Compares one step with the mirror on `len` parameters.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, len: usize, momentum: f64, nesterov: bool, groups: &Groups) -> Result<(), GpuError> {
    const DECAY: f32 = 0.01;
    const CLIP: f32 = 0.75;
    let case = format!("{len}, momentum {momentum}, Nesterov {nesterov}, factors {:?}", groups.factors);
    let config = SgdConfig { momentum, nesterov, ..SgdConfig::default() };
    let (g, w, velocity) = (v.random(len), v.random(len), v.random(len));
    let alpha = config.learning_rate as f32;
    let (g64, mut w64, mut velocity64) = (widen(&g), widen(&w), widen(&velocity));
    // The kernel's momentum is a single-precision constant.
    let momentum = f64::from(momentum as f32);
    let (size, decay, clip) = (f64::from(alpha), f64::from(DECAY), f64::from(CLIP));
    let steps = steps(groups, len, Step { size, decay, clip });
    for (range, step) in steps.clone() {
        let [w, velocity] = [&mut w64, &mut velocity64].map(|values| &mut values[range.clone()]);
        cpu::sgd_step(&SgdConfig { momentum, ..config }, step, &g64[range], w, velocity);
    }
    let step_of = by_element(&steps);
    let u = UNIT_ROUNDOFF;
    // What the gradient contributes, and the roundings of a sum that contains it.
    let downhill = |i: usize| step_of[i].size * step_of[i].clip * g64[i].abs();
    let roundings = |i: usize| 3.0 + more_roundings(&step_of[i], size);
    let velocity_after = Bounded::by_index(velocity64, |i| {
        u * (3.0 * momentum * f64::from(velocity[i]).abs() + roundings(i) * downhill(i))
    });
    let w_after = Bounded::by_index(w64, |i| {
        let (value, bound) = (velocity_after.values[i].abs(), velocity_after.bound[i]);
        let (change, error) = match nesterov {
            true => {
                let change = momentum * value + downhill(i);
                (change, momentum * bound + u * (3.0 * momentum * value + roundings(i) * downhill(i)))
            }
            false => (value, bound),
        };
        error + u * (2.0 * (f64::from(w[i]).abs() + change) + decay_error(&step_of[i], w[i]))
    });
    let mut run = v.run();
    let tg = run.input(&g)?;
    let (tw, tvelocity) = (run.in_place(&w)?, run.in_place(&velocity)?);
    let rates = run.input(&[[9.0; 4], [alpha, DECAY, 9.0, 9.0], [9.0; 4]].concat())?;
    let (progress, clip) = (run.input_u32(&[2, 3])?, run.input(&[CLIP])?);
    record(&mut run.plan, &config, groups, [&tg, &tw, &tvelocity, &rates, &progress, &clip])?;
    run.check(STEP.entry, &case, &[(&tw, &w_after), (&tvelocity, &velocity_after)], &[]);
    Ok(())
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    verify(v, 1, 0.0, false, &Groups::alike(1))?;
    verify(v, 64, 0.9, false, &Groups::alike(64))?;
    verify(v, 64, 0.9, true, &Groups::alike(64))?;
    verify(v, 10_007, 0.5, false, &groups(10_007))?;
    verify(v, 10_007, 0.5, true, &groups(10_007))
}
