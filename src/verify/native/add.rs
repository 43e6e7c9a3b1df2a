//! Proof of the native loops of the sum of two tensors.

use super::{Check, LENGTHS};
use crate::cpu::add as cpu;
use crate::native::add as fast;

pub(in crate::verify) fn proof(check: &mut Check) {
    for len in LENGTHS {
        let (x1, x2) = (check.values(len), check.values(len));
        let (mut y, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
        fast::add_forward(&x1, &x2, &mut y);
        cpu::add_forward(&x1, &x2, &mut expected);
        check.same("native add_forward", len, &y, &expected);
    }
}
