//! How many elements of a tensor are infinite or not a number, and which is the first. Source: IEEE 754-2019, 3.4.

use super::real::Real;

/// What stands for "no such element" in place of an index.
pub const NONE: u32 = u32::MAX;

/// `[count, first index]` of the elements that are not finite; [`NONE`] where all are.
pub fn non_finite<T: Real>(x: &[T]) -> [u32; 2] {
    let mut found = [0, NONE];
    for (index, value) in x.iter().enumerate() {
        if !value.to_f64().is_finite() {
            found[0] += 1;
            found[1] = found[1].min(index as u32);
        }
    }
    found
}
