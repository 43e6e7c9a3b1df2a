//! Proof of the native loops of Adam.

use super::{Check, LENGTHS};
use crate::cpu::adam as cpu;
use crate::cpu::step::Step;
use crate::native::adam as fast;
use crate::ops::adam::AdamConfig;

/// The results must have the same bits as those of the plain loop.
pub(in crate::verify) fn proof(check: &mut Check) {
    let config = AdamConfig::default();
    let plain = Step::of_size(0.01);
    for step in [plain, Step { decay: 0.1, ..plain }, Step { clip: 0.3, ..plain }] {
        for len in LENGTHS {
            let g = check.values(len);
            let v = check.values(len).into_iter().map(f32::abs).collect();
            let mut actual = [check.values(len), check.values(len), v];
            let mut expected = actual.clone();
            let [w, m, v] = &mut actual;
            fast::adam_step(&config, step, &g, w, m, v);
            let [w, m, v] = &mut expected;
            cpu::adam_step(&config, step, &g, w, m, v);
            check.same("native adam_step", len, &actual.concat(), &expected.concat());
        }
    }
}
