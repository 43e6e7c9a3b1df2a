use super::{absolute, sum_bound, widen};
use crate::text::count;
use std::fmt;

/// What a floating-point tensor must contain.
#[derive(Clone, Debug)]
pub struct Bounded {
    /// The values, in double precision.
    pub values: Vec<f64>,
    /// The error that each may have.
    pub bound: Vec<f64>,
}

impl Bounded {
    /// Values that may have no error.
    pub fn exact(values: Vec<f64>) -> Bounded {
        Bounded { bound: vec![0.0; values.len()], values }
    }

    /// Values of which each may have the error that `bound` returns for its index.
    pub fn by_index(values: Vec<f64>, bound: impl Fn(usize) -> f64) -> Bounded {
        Bounded { bound: (0..values.len()).map(bound).collect(), values }
    }

    /// Sums of `terms` products, under the project's bound; `scale` are the sums of their absolute values.
    pub fn sums(values: Vec<f64>, scale: &[f64], terms: usize) -> Bounded {
        Bounded { bound: scale.iter().map(|&scale| sum_bound(terms, scale)).collect(), values }
    }

    /// The `len` sums of `terms` products that `mirror` writes, given these inputs; for the scale, it is also given their
    /// absolute values.
    pub fn mirrored<const N: usize>(
        inputs: [&[f32]; N],
        len: usize,
        terms: usize,
        mirror: impl Fn([&[f64]; N], &mut [f64]),
    ) -> Bounded {
        let [mut values, mut scale] = [vec![0.0; len], vec![0.0; len]];
        let inputs = inputs.map(widen);
        mirror(inputs.each_ref().map(Vec::as_slice), &mut values);
        let inputs = inputs.map(|input| absolute(&input));
        mirror(inputs.each_ref().map(Vec::as_slice), &mut scale);
        Bounded::sums(values, &scale, terms)
    }

    /// The same, followed by a ReLU if `relu`.
    pub(super) fn then_relu(&self, relu: bool) -> Bounded {
        let values = self.values.iter().map(|&y| if relu { y.max(0.0) } else { y }).collect();
        Bounded { values, bound: self.bound.clone() }
    }

    /// The same, as the gradient of the input x of an operation; 0 where x is, if it is the output of a ReLU.
    pub(super) fn masked(&self, x_is_relu: bool, x: &[f32]) -> Bounded {
        let values = self.values.iter().zip(x).map(|(&dx, &x)| if x_is_relu && x <= 0.0 { 0.0 } else { dx }).collect();
        Bounded { values, bound: self.bound.clone() }
    }

    /// The values in single precision, as the input of the next kernel.
    pub(super) fn narrow(&self) -> Vec<f32> {
        self.values.iter().map(|&value| value as f32).collect()
    }
}

/// The result of comparing two tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// The largest error as a fraction of its bound; infinite if something is NaN or the lengths differ.
    pub worst_ratio: f64,
    /// Number of elements outside their bound.
    pub n_failed: usize,
    /// The sum of the bounds.
    pub bounds: f64,
    /// The sum of the magnitudes of what was expected.
    pub magnitudes: f64,
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
    let mut result = Comparison::default();
    for (i, ((&actual, &expected), &bound)) in actual.iter().zip(expected).zip(bound).enumerate() {
        result.bounds += bound;
        result.magnitudes += expected.abs();
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
        None => Comparison::default(),
        Some(&i) => Comparison {
            worst_ratio: f64::INFINITY,
            n_failed: wrong.len(),
            worst: format!("element {i} is {}, expected {}", actual[i], expected[i]),
            ..Comparison::default()
        },
    }
}

fn wrong_length(actual: usize, expected: usize) -> Comparison {
    Comparison {
        worst_ratio: f64::INFINITY,
        n_failed: actual.abs_diff(expected).max(1),
        worst: format!("{}, expected {expected}", count(actual, "element")),
        ..Comparison::default()
    }
}
