//! Proof of the native loops of a fixed factor.

use super::{Check, LENGTHS};
use crate::cpu::scale as cpu;
use crate::native::scale as fast;
use crate::verify::scale::FACTORS;

pub(in crate::verify) fn proof(check: &mut Check) {
    for (len, factor) in LENGTHS.into_iter().zip(FACTORS.into_iter().cycle()) {
        let x = check.values(len);
        let (mut y, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
        cpu::scale_forward(factor, &x, &mut expected);
        fast::scale_forward(factor, &x, &mut y);
        check.same("native scale_forward", len, &y, &expected);
        y.fill(f32::NAN);
        fast::scale_backward_x(factor, &x, &mut y);
        check.same("native scale_backward_x", len, &y, &expected);
    }
}
