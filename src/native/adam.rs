//! Adam; the results have the same bits as [`crate::cpu::adam`], except that moments below 1e-30 become 0.

use super::{negligible_to_zero, vectorized};
use crate::cpu::adam::AdamConfig;
use crate::cpu::step::Step;

/// Takes one step on some elements of a parameter; see [`crate::cpu::adam::adam_step`].
pub fn adam_step(config: &AdamConfig, step: Step<f32>, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    match step.is_plain() {
        true => steps::<true>(config, step, g, w, m, v),
        false => steps::<false>(config, step, g, w, m, v),
    }
}

/// The same; a step that `IS_PLAIN` has neither decay nor clipping.
fn steps<const IS_PLAIN: bool>(
    config: &AdamConfig,
    step: Step<f32>,
    g: &[f32],
    w: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let (first, second) = ((1.0 - config.beta_1) as f32, (1.0 - config.beta_2) as f32);
    let epsilon = config.epsilon as f32;
    vectorized(
        #[inline(always)]
        || {
            for (((&g, w), m), v) in g.iter().zip(w).zip(m).zip(v) {
                let (g, kept) = if IS_PLAIN { (g, *w) } else { (step.clip * g, step.decayed(*w)) };
                *m = negligible_to_zero(*m + (g - *m) * first);
                *v = negligible_to_zero(*v + (g * g - *v) * second);
                *w = kept - step.size * *m / (v.sqrt() + epsilon);
            }
        },
    );
}
