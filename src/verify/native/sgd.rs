//! Proof of the native loops of gradient descent.

use super::{Check, LENGTHS};
use crate::cpu::sgd as cpu;
use crate::native::sgd as fast;

/// The results must have the same bits as those of the plain loop.
pub(in crate::verify) fn proof(check: &mut Check) {
    for len in LENGTHS {
        let g = check.values(len);
        let mut actual = [check.values(len), check.values(len)];
        let mut expected = actual.clone();
        let [w, m] = &mut actual;
        fast::sgd_step(0.9, 0.01, &g, w, m);
        let [w, m] = &mut expected;
        cpu::sgd_step(0.9, 0.01, &g, w, m);
        check.same("native sgd_step", len, &actual.concat(), &expected.concat());
    }
}
