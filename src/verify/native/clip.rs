//! Proof of the native loops that clip gradients.

use super::{Bounded, Check, LENGTHS};
use crate::cpu::clip as cpu;
use crate::native::clip as fast;
use crate::verify::{UNIT_ROUNDOFF, widen};

/// The factor of gradients in two parts must be that of the plain loop, rounded to single precision: the sums are in double precision.
pub(in crate::verify) fn proof(check: &mut Check) {
    for len in LENGTHS {
        let gradients = [check.values(len), check.values(1031 - len)];
        let squares = gradients.each_ref().map(|g| fast::squared_norm(g));
        for clip_norm in [1e-3, 0.5, 1e3] {
            let expected: f64 = cpu::clip_factor(clip_norm, &gradients.each_ref().map(|g| widen(g)));
            let expected = Bounded::by_index(vec![expected], |_| 1.01 * UNIT_ROUNDOFF * expected);
            let actual = fast::clip_factor(clip_norm, &squares);
            check.bounded("native clip_factor", &format!("{len} elements, {clip_norm}"), &[actual], &expected);
        }
    }
}
