//! Adam; see [`crate::cpu::adam`], whose bits this gives.

use super::vectorised;
use crate::cpu::adam::AdamConfig;

/// One step on some elements of a parameter; `alpha` is [`AdamConfig::step_size`].
pub fn adam_step(config: &AdamConfig, alpha: f32, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let (first, second) = ((1.0 - config.beta_1) as f32, (1.0 - config.beta_2) as f32);
    let epsilon = config.epsilon as f32;
    vectorised(
        #[inline(always)]
        || {
            for (((&g, w), m), v) in g.iter().zip(w).zip(m).zip(v) {
                *m += (g - *m) * first;
                *v += (g * g - *v) * second;
                *w -= alpha * *m / (v.sqrt() + epsilon);
            }
        },
    );
}
