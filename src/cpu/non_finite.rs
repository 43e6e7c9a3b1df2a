//! Counts the elements of a tensor that are infinite or NaN, and finds the first. Source: IEEE 754-2019, 3.4.

use super::real::Real;

/// Used instead of an index if there is no such element.
pub const NONE: u32 = u32::MAX;

/// Returns `[count, first index]` of the elements that are not finite; the index is [`NONE`] if all are finite.
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
