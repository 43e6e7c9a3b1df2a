//! What the proofs of the optimizers share: a step on parameters in groups.

use crate::cpu::step::Step;
use crate::ops::Groups;
use std::ops::Range;

/// Groups that differ in everything, within `len` parameters: a multiple of four for each.
pub fn groups(len: usize) -> Groups {
    let starts = [len / 2, len * 5 / 8, len * 3 / 4].map(|start| start / 4 * 4);
    // Exact in single precision.
    Groups { starts, factors: [2.0, 0.375, 64.0], decay: true, clip: true }
}

/// Returns the elements of each group, and the numbers of its step, given those of weights if these decay and gradients are clipped.
pub(super) fn steps(groups: &Groups, len: usize, step: Step<f64>) -> [(Range<usize>, Step<f64>); 4] {
    let [bias, scale, shift] = groups.starts;
    let clip = if groups.clip { step.clip } else { 1.0 };
    let others = |range: Range<usize>, factor: f64| (range, Step { size: step.size * factor, decay: 0.0, clip });
    [
        (0..bias, Step { decay: if groups.decay { step.decay } else { 0.0 }, clip, ..step }),
        others(bias..scale, groups.factors[0]),
        others(scale..shift, groups.factors[1]),
        others(shift..len, groups.factors[2]),
    ]
}

/// Returns the step of each element.
pub(super) fn by_element(steps: &[(Range<usize>, Step<f64>)]) -> Vec<Step<f64>> {
    steps.iter().flat_map(|(range, step)| range.clone().map(|_| *step)).collect()
}

/// Returns the roundings of the size and of the gradient that a group adds to those of a plain step of `size`.
pub(super) fn more_roundings(step: &Step<f64>, size: f64) -> f64 {
    f64::from(u8::from(step.size != size)) + f64::from(u8::from(step.clip != 1.0))
}

/// Returns the error that decay adds, in roundoffs: those of the product and of the difference.
pub(super) fn decay_error(step: &Step<f64>, w: f32) -> f64 {
    if step.decay == 0.0 { 0.0 } else { (1.0 + step.decay) * f64::from(w.abs()) }
}
