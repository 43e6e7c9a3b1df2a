//! Proof of the native loops of gradient descent.

use super::{Check, LENGTHS};
use crate::cpu::sgd as cpu;
use crate::cpu::step::Step;
use crate::native::sgd as fast;
use crate::ops::sgd::SgdConfig;

/// The results must have the same bits as those of the plain loop.
pub(in crate::verify) fn proof(check: &mut Check) {
    let plain = Step::of_size(0.01);
    for step in [plain, Step { decay: 0.1, ..plain }, Step { clip: 0.3, ..plain }] {
        for nesterov in [false, true] {
            let config = SgdConfig { momentum: 0.9, nesterov, ..SgdConfig::default() };
            for len in LENGTHS {
                let g = check.values(len);
                let mut actual = [check.values(len), check.values(len)];
                let mut expected = actual.clone();
                let [w, velocity] = &mut actual;
                fast::sgd_step(&config, step, &g, w, velocity);
                let [w, velocity] = &mut expected;
                cpu::sgd_step(&config, step, &g, w, velocity);
                check.same("native sgd_step", len, &actual.concat(), &expected.concat());
            }
        }
    }
}
