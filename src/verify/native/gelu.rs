//! Proof of the native loops of the GELU.

use super::{Check, LENGTHS};
use crate::native::gelu as fast;
use crate::verify::gelu::{backward_x, forward, inputs};

pub(in crate::verify) fn proof(check: &mut Check) {
    for len in LENGTHS {
        let case = format!("{len} elements");
        let (x, dy) = (inputs(|len| check.values(len), len), check.values(len));
        let (mut y, mut dx) = (vec![f32::NAN; len], vec![f32::NAN; len]);
        fast::gelu_forward(&x, &mut y);
        check.bounded("native gelu_forward", &case, &y, &forward(&x));
        fast::gelu_backward_x(&x, &dy, &mut dx);
        check.bounded("native gelu_backward_x", &case, &dx, &backward_x(&x, &dy));
    }
}
