//! Compares the native engine's loops with the plain ones in double precision, under the same bounds as the shaders.

pub(super) mod adam;
pub(super) mod add;
pub(super) mod average;
pub(super) mod batch_gather;
pub(super) mod batchnorm;
pub(super) mod clip;
pub(super) mod conv2d;
pub(super) mod dense;
pub(super) mod dropout;
pub(super) mod gelu;
pub(super) mod groupedconv2d;
pub(super) mod leakyrelu;
pub(super) mod pool2d;
pub(super) mod scale;
pub(super) mod sgd;
pub(super) mod silu;

use super::{Bounded, Breadth, Comparison, OPS, Verdict, compare, compare_exact};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Lengths for the operations that compute each element by itself.
pub(super) const LENGTHS: [usize; 5] = [1, 7, 16, 100, 1031];

/// Compares every loop of the native engine with the plain one for a table of shapes: the article's layers and, with
/// [`Breadth::Everything`], ones, primes, tile sizes and their neighbours.
pub fn check_all(seed: u64, breadth: Breadth) -> Vec<Verdict> {
    let mut check = Check { breadth, random: ChaCha8Rng::seed_from_u64(seed), verdicts: Vec::new() };
    OPS.iter().filter_map(|op| op.native).for_each(|proof| proof(&mut check));
    check.verdicts
}

/// Generates inputs and collects the verdicts.
#[derive(Debug)]
pub struct Check {
    pub(super) breadth: Breadth,
    pub(super) random: ChaCha8Rng,
    verdicts: Vec<Verdict>,
}

impl Check {
    pub(super) fn values(&mut self, len: usize) -> Vec<f32> {
        super::values(&mut self.random, len)
    }

    /// Returns small integers: sums of their products are exact, and maxima tie.
    pub(super) fn whole_numbers(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.random.next_u32() % 5) as f32 - 2.0).collect()
    }

    pub(super) fn note(&mut self, kernel: &'static str, case: &str, elements: usize, comparison: &Comparison) {
        Verdict::of(kernel, case, elements, comparison).add_to(&mut self.verdicts);
    }

    pub(super) fn bounded(&mut self, kernel: &'static str, case: &str, actual: &[f32], expected: &Bounded) {
        self.note(kernel, case, expected.values.len(), &compare(actual, &expected.values, &expected.bound));
    }

    pub(super) fn same(&mut self, kernel: &'static str, len: usize, actual: &[f32], expected: &[f32]) {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let comparison = compare_exact(&bits(actual), &bits(expected));
        self.note(kernel, &format!("{len} elements"), actual.len(), &comparison);
    }
}
