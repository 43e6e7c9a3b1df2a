//! Proof of the native loops of the dropout.

use super::{Check, LENGTHS};
use crate::cpu::dropout as cpu;
use crate::cpu::dropout::Dropping;
use crate::native::dropout as fast;
use crate::verify::dropout::CASES;

pub(in crate::verify) fn proof(check: &mut Check) {
    for (rate, layer, random) in CASES {
        let d = Dropping { rate, layer };
        for (len, first) in LENGTHS.into_iter().zip([0, 3, 64, 1_000_001, 130]) {
            let x = check.values(len);
            let (mut y, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
            fast::dropout_forward(&d, random, first, &x, &mut y);
            cpu::dropout_forward(&d, random, first, &x, &mut expected);
            check.same("native dropout_forward", len, &y, &expected);
            fast::dropout_backward_x(&d, random, first, &x, &mut y);
            cpu::dropout_backward_x(&d, random, first, &x, &mut expected);
            check.same("native dropout_backward_x", len, &y, &expected);
        }
    }
}
