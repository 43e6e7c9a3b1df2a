//! The exponential function.
//!
//! `f32::exp` is a call for each element, which cannot be vectorized; the exponential here is a few multiplications and
//! additions. None of them are fused, so every instruction set computes the same bits.

/// Returns e to the power x, for x in -87.33..87.33, with an error of at most four roundoffs (two units in the last place).
///
/// With n the integer nearest to x / ln 2, it is 2^n times the Taylor polynomial of degree 7 at r = x - n ln 2:
/// - The polynomial leaves out less than |r|^8 / 8! e^|r| < 8e-9 (0.13 roundoffs), or 0.19 relative to e^r >= 0.7.
/// - n times the upper part of ln 2 is exact, and so is its difference from x. The product with the lower part and the
///   second difference round: 0.03 and 0.35 roundoffs, since n 2.2e-4 < 0.03 and |r| < 0.35.
/// - Horner's scheme ends with r q and 1 + r q: one roundoff of the result, and those of q and of the product relative to
///   |r q| < 0.42, at most three (q itself ends with a product below 0.22 q and a sum): 1.3, or 1.8 relative to e^r.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const UPPER: f32 = 355.0 / 512.0; // nine bits
    const LOWER: f32 = -2.121_944_4e-4; // ln 2 - 355 / 512
    const TAYLOR: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0, 1.0, 1.0];
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * UPPER) - n * LOWER;
    let mut sum = TAYLOR[0];
    for term in &TAYLOR[1..] {
        sum = sum * r + term;
    }
    // The exponent bits of 2^n; the bits of ROUND are shifted out.
    sum * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::exp;

    /// Every number of three significant digits in the range, and every 997th float.
    #[test]
    fn exp_has_the_stated_accuracy() {
        let mut worst = 0.0f64;
        let mut check = |x: f32| {
            let expected = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / expected - 1.0).abs() / (f64::from(f32::EPSILON) / 2.0));
        };
        for step in -87_330..=87_330 {
            check(step as f32 / 1000.0);
        }
        for bits in (0..87.33f32.to_bits()).step_by(997) {
            check(f32::from_bits(bits));
            check(-f32::from_bits(bits));
        }
        assert!(worst <= 4.0, "{worst} roundoffs");
        assert_eq!(exp(0.0), 1.0);
    }
}
