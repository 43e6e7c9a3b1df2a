//! Gradient descent with momentum; the results have the same bits as [`crate::cpu::sgd`], except that velocities below
//! 1e-30 become 0.

use super::{negligible_to_zero, vectorized};
use crate::cpu::sgd::SgdConfig;
use crate::cpu::step::Step;

/// Takes one step on some elements of a parameter; see [`crate::cpu::sgd::sgd_step`].
pub fn sgd_step(config: &SgdConfig, step: Step<f32>, g: &[f32], w: &mut [f32], velocity: &mut [f32]) {
    match (step.is_plain(), config.nesterov) {
        (true, false) => steps::<true, false>(config, step, g, w, velocity),
        (true, true) => steps::<true, true>(config, step, g, w, velocity),
        (false, false) => steps::<false, false>(config, step, g, w, velocity),
        (false, true) => steps::<false, true>(config, step, g, w, velocity),
    }
}

/// The same; a step that `IS_PLAIN` has neither decay nor clipping.
fn steps<const IS_PLAIN: bool, const NESTEROV: bool>(
    config: &SgdConfig,
    step: Step<f32>,
    g: &[f32],
    w: &mut [f32],
    velocity: &mut [f32],
) {
    let momentum = config.momentum as f32;
    vectorized(
        #[inline(always)]
        || {
            for ((&g, w), velocity) in g.iter().zip(w).zip(velocity) {
                let (g, kept) = if IS_PLAIN { (g, *w) } else { (step.clip * g, step.decayed(*w)) };
                let downhill = step.size * g;
                *velocity = negligible_to_zero(momentum * *velocity - downhill);
                let change = if NESTEROV { momentum * *velocity - downhill } else { *velocity };
                *w = kept + change;
            }
        },
    );
}
