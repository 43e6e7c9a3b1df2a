//! Compares the mirrors' gradients with central differences in double precision, an independent reference that uses
//! none of the project's formulas.

use super::{OPS, Verdict};
use crate::text::count;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Half the step of a central difference. Most operations are linear between kinks, where the difference is exact for
/// any step; values are kept farther than this from every kink.
const H: f64 = 1e-4;

/// Allowed error, absolute and relative: the third derivatives of the smooth operations and the rounding of the
/// differences are far smaller.
const TOLERANCE: f64 = 1e-6;

/// Compares `gradient` with the central difference of `loss` for every element of `x`.
pub fn check(
    kernel: &'static str,
    case: &str,
    x: &[f64],
    gradient: &[f64],
    loss: &mut dyn FnMut(&[f64]) -> f64,
) -> Verdict {
    let (worst_ratio, bounds, magnitudes) = (0.0, 0.0, 0.0);
    let (elements, failures) = (x.len(), Vec::new());
    let mut verdict = Verdict { kernel, comparisons: 1, elements, worst_ratio, bounds, magnitudes, failures };
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        moved[i] = x[i] + H;
        let above = loss(&moved);
        moved[i] = x[i] - H;
        let below = loss(&moved);
        moved[i] = x[i];
        let difference = (above - below) / (2.0 * H);
        let bound = TOLERANCE * (1.0 + difference.abs());
        verdict.bounds += bound;
        verdict.magnitudes += difference.abs();
        let ratio = (gradient[i] - difference).abs() / bound;
        // NaN is a failure, and its ratio is infinite.
        let ratio = if ratio.is_nan() { f64::INFINITY } else { ratio };
        if ratio > 1.0 {
            verdict.failures.push(format!(
                "{case}: element {i} is {:e}, but the central difference is {difference:e}",
                gradient[i]
            ));
        }
        verdict.worst_ratio = verdict.worst_ratio.max(ratio);
    }
    if gradient.len() != x.len() {
        verdict.failures.push(format!(
            "{case}: there are {} for {}",
            count(gradient.len(), "gradient"),
            count(x.len(), "element")
        ));
    }
    verdict
}

/// Checks every gradient of every mirror on small shapes: one verdict per entry point.
pub fn check_all(seed: u64) -> Vec<Verdict> {
    let mut g = Gradients { random: ChaCha8Rng::seed_from_u64(seed), verdicts: Vec::new() };
    OPS.iter().filter_map(|op| op.gradients).for_each(|gradients| gradients(&mut g));
    g.verdicts
}

/// Generates inputs and collects the verdicts.
#[derive(Debug)]
pub struct Gradients {
    random: ChaCha8Rng,
    verdicts: Vec<Verdict>,
}

impl Gradients {
    /// Returns values in -1..1.
    pub(super) fn values(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| f64::from(self.random.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0).collect()
    }

    /// Returns distinct values in random order, each at least 20 H from the next and from zero: away from every kink
    /// and tie.
    pub(super) fn distinct(&mut self, len: usize) -> Vec<f64> {
        let mut values: Vec<f64> = (0..len).map(|i| (i as f64 + 0.5 - len as f64 / 2.0) * 0.013).collect();
        for value in &mut values {
            *value += if *value < 0.0 { -20.0 * H } else { 20.0 * H };
        }
        for i in (1..len).rev() {
            values.swap(i, self.random.next_u32() as usize % (i + 1));
        }
        values
    }

    /// Notes whether dx is the gradient of the input x of an operation, given dy, that of the output of its forward pass.
    pub(super) fn check(
        &mut self,
        kernel: &'static str,
        case: &str,
        [x, dx]: [&[f64]; 2],
        dy: &[f64],
        forward: impl Fn(&[f64], &mut [f64]),
    ) {
        self.note(check(kernel, case, x, dx, &mut |x| {
            let mut y = vec![0.0; dy.len()];
            forward(x, &mut y);
            y.iter().zip(dy).map(|(y, dy)| y * dy).sum()
        }));
    }

    pub(super) fn note(&mut self, verdict: Verdict) {
        verdict.add_to(&mut self.verdicts);
    }
}
