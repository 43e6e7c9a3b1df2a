//! Proof of Adam: one step of the kernel is one step of [`crate::cpu::adam`].

use super::step::{by_element, decay_error, groups, more_roundings, steps};
use super::{Bounded, UNIT_ROUNDOFF, Verifier, widen};
use crate::cpu::adam as cpu;
use crate::cpu::step::Step;
use crate::gpu::GpuError;
use crate::ops::Groups;
use crate::ops::adam::{AdamConfig, STEP, record};

/// Compares three steps on `len` parameters with the mirror.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(verifier: &mut Verifier, len: usize, groups: &Groups) -> Result<(), GpuError> {
    const DECAY: f32 = 0.01;
    const CLIP: f32 = 0.75;
    let config = AdamConfig::default();
    let mut w: Vec<f32> = verifier.random(len);
    let mut m: Vec<f32> = verifier.random(len).iter().map(|x| x * 1e-2).collect();
    let mut v: Vec<f32> = verifier.random(len).iter().map(|x| (x * x) * 1e-4).collect();
    for number in 1..=3u64 {
        let case = format!("{len}, factors {:?}, step {number}", groups.factors);
        let g: Vec<f32> = verifier.random(len).iter().map(|x| x * 0.1).collect();
        let alpha = config.step_size(number) as f32;
        let (mut w64, mut m64, mut v64) = (widen(&w), widen(&m), widen(&v));
        let g64 = widen(&g);
        let (size, decay, clip) = (f64::from(alpha), f64::from(DECAY), f64::from(CLIP));
        let steps = steps(groups, len, Step { size, decay, clip });
        for (range, step) in steps.clone() {
            let [w, m, v] = [&mut w64, &mut m64, &mut v64].map(|values| &mut values[range.clone()]);
            cpu::adam_step(&config, step, &g64[range], w, m, v);
        }
        let step_of = by_element(&steps);
        let g64: Vec<f64> = g64.iter().zip(&step_of).map(|(g, step)| g * step.clip).collect();
        let u = UNIT_ROUNDOFF;
        // These hold with the rounding of a clipped gradient too, of which a small part goes into the moments.
        let m_after = Bounded::by_index(m64, |i| 4.0 * u * (f64::from(m[i]).abs() + g64[i].abs()));
        let v_bound = |i: usize| 5.0 * u * (f64::from(v[i]) + g64[i] * g64[i]) + f64::from(f32::MIN_POSITIVE);
        let v_after = Bounded::by_index(v64, v_bound);
        let w_after = Bounded::by_index(w64, |i| {
            let step = &step_of[i];
            let root = v_after.values[i].sqrt() + config.epsilon;
            let update = step.size * (m_after.values[i].abs() + m_after.bound[i]) / root;
            // The moment's own error, the error of v through the root, and a root and a division with the accuracy of
            // the WGSL specification (about ten roundoffs), then the rounding of the sum.
            step.size * m_after.bound[i] / root
                + update
                    * (v_after.bound[i] / (2.0 * v_after.values[i]).max(f64::MIN_POSITIVE)
                        + (12.0 + more_roundings(step, size)) * u)
                + u * (f64::from(w[i]).abs() + update + decay_error(step, w[i]))
        });
        let mut run = verifier.run();
        let tg = run.input(&g)?;
        let (tw, tm, tv) = (run.in_place(&w)?, run.in_place(&m)?, run.in_place(&v)?);
        // The numbers of this step are in the batch's slot; using any other slot would change the result.
        let rates = run.input(&[[9.0; 4], [alpha, DECAY, 9.0, 9.0], [9.0; 4]].concat())?;
        let (progress, clip) = (run.input_u32(&[2, 3])?, run.input(&[CLIP])?);
        record(&mut run.plan, &config, groups, [&tg, &tw, &tm, &tv, &rates, &progress, &clip])?;
        run.check(STEP.entry, &case, &[(&tw, &w_after), (&tm, &m_after), (&tv, &v_after)], &[]);
        (w, m, v) = (w_after.narrow(), m_after.narrow(), v_after.narrow());
    }
    Ok(())
}

/// Checks the sizes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    [4, 64, 10_004].into_iter().try_for_each(|len| verify(v, len, &Groups::alike(len)))?;
    [64, 10_004].into_iter().try_for_each(|len| verify(v, len, &groups(len)))
}
