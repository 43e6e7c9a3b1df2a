//! Proof of the native loops of the leaky rectified linear unit.

use super::{Check, LENGTHS};
use crate::cpu::leakyrelu as cpu;
use crate::native::leakyrelu as fast;
use crate::verify::leakyrelu::SLOPES;

pub(in crate::verify) fn proof(check: &mut Check) {
    for (len, slope) in LENGTHS.into_iter().zip(SLOPES.into_iter().cycle()) {
        let (x, dy) = (check.values(len), check.values(len));
        let (mut y, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
        fast::leakyrelu_forward(slope, &x, &mut y);
        cpu::leakyrelu_forward(slope, &x, &mut expected);
        check.same("native leakyrelu_forward", len, &y, &expected);
        let (mut dx, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
        fast::leakyrelu_backward_x(slope, &y, &dy, &mut dx);
        cpu::leakyrelu_backward_x(slope, &y, &dy, &mut expected);
        check.same("native leakyrelu_backward_x", len, &dx, &expected);
    }
}
