//! Proof of the native loops of the SiLU. Their exponential is off by four roundoffs at most, and the bounds are for six or more.

use super::{Check, LENGTHS};
use crate::native::silu as fast;
use crate::verify::silu::{backward_x, forward, inputs};

pub(in crate::verify) fn proof(check: &mut Check) {
    for len in LENGTHS {
        let case = format!("{len} elements");
        let (x, dy) = (inputs(|len| check.values(len), len), check.values(len));
        let (mut y, mut dx) = (vec![f32::NAN; len], vec![f32::NAN; len]);
        fast::silu_forward(&x, &mut y);
        check.bounded("native silu_forward", &case, &y, &forward(&x));
        fast::silu_backward_x(&x, &dy, &mut dx);
        check.bounded("native silu_backward_x", &case, &dx, &backward_x(&x, &dy));
    }
}
