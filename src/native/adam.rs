//! Adam; the results have the same bits as [`crate::cpu::adam`], except that moments below 1e-30 become 0.

use super::{negligible_to_zero, vectorized};
use crate::cpu::adam::AdamConfig;

/// Takes one step on some elements of a parameter; `alpha` is [`AdamConfig::step_size`].
pub fn adam_step(config: &AdamConfig, alpha: f32, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let (first, second) = ((1.0 - config.beta_1) as f32, (1.0 - config.beta_2) as f32);
    let epsilon = config.epsilon as f32;
    vectorized(
        #[inline(always)]
        || {
            for (((&g, w), m), v) in g.iter().zip(w).zip(m).zip(v) {
                *m = negligible_to_zero(*m + (g - *m) * first);
                *v = negligible_to_zero(*v + (g * g - *v) * second);
                *w -= alpha * *m / (v.sqrt() + epsilon);
            }
        },
    );
}
