//! Proof of the native loops of the moving average.

use super::{Check, LENGTHS};
use crate::cpu::average as cpu;
use crate::native::average as fast;

/// The results must have the same bits as those of the plain loop.
pub(in crate::verify) fn proof(check: &mut Check) {
    for (len, (rate, pulls)) in
        LENGTHS.into_iter().zip([(0.1, false), (0.25, true), (1.0, true), (0.001, false), (0.0, true)])
    {
        let mut actual = [check.values(len), check.values(len)];
        let mut expected = actual.clone();
        let [w, average] = &mut actual;
        fast::average_step(rate, pulls, w, average);
        let [w, average] = &mut expected;
        cpu::average_step(rate, pulls, w, average);
        check.same("native average_step", len, &actual.concat(), &expected.concat());
    }
}
