use crate::text::count;
use std::fmt;

/// The result of comparing two tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The largest error as a fraction of its bound; infinite if something is NaN or the lengths differ.
    pub worst_ratio: f64,
    /// Number of elements outside their bound.
    pub n_failed: usize,
    /// Describes the worst of them.
    worst: String,
}

impl Comparison {
    /// Whether every element is within its bound.
    pub fn passed(&self) -> bool {
        self.n_failed == 0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wrong, worst: {}", self.n_failed, self.worst)
    }
}

/// Compares element by element: `|actual - expected| <= bound`. NaN on either side is a failure, and so is a different
/// length.
pub fn compare(actual: &[f32], expected: &[f64], bound: &[f64]) -> Comparison {
    if actual.len() != expected.len() || bound.len() != expected.len() {
        return wrong_length(actual.len(), expected.len());
    }
    let mut result = Comparison { worst_ratio: 0.0, n_failed: 0, worst: String::new() };
    for (i, ((&actual, &expected), &bound)) in actual.iter().zip(expected).zip(bound).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        // Written so that NaN in either value, or in the bound, counts as a failure.
        let within = error <= bound;
        let ratio = if error == 0.0 && within {
            0.0
        } else if error.is_nan() || bound.is_nan() {
            f64::INFINITY
        } else {
            error / bound
        };
        if !within {
            result.n_failed += 1;
        }
        if ratio > result.worst_ratio {
            result.worst_ratio = ratio;
            result.worst =
                format!("element {i}: {actual:e}, expected {expected:e}, off by {error:.3e}, allowed {bound:.3e}");
        }
    }
    result
}

/// Compares integers, which must be equal.
pub fn compare_exact(actual: &[u32], expected: &[u32]) -> Comparison {
    if actual.len() != expected.len() {
        return wrong_length(actual.len(), expected.len());
    }
    let wrong: Vec<usize> = (0..actual.len()).filter(|&i| actual[i] != expected[i]).collect();
    match wrong.first() {
        None => Comparison { worst_ratio: 0.0, n_failed: 0, worst: String::new() },
        Some(&i) => Comparison {
            worst_ratio: f64::INFINITY,
            n_failed: wrong.len(),
            worst: format!("element {i} is {}, expected {}", actual[i], expected[i]),
        },
    }
}

fn wrong_length(actual: usize, expected: usize) -> Comparison {
    Comparison {
        worst_ratio: f64::INFINITY,
        n_failed: actual.abs_diff(expected).max(1),
        worst: format!("{}, expected {expected}", count(actual, "element")),
    }
}
