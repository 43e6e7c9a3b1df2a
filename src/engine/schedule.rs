//! How the learning rate changes over a training.

/// The course of the learning rate from one step to the next, as a share of the largest rate.
///
/// Steps are counted from 0 to `steps - 1`. The rate rises from `initial` at step 0 to 1 at step `peak = warmup * steps - 1`, as PyTorch's OneCycleLR
/// places it, and from there follows the shape, which reaches `last` at the last step. A warm-up of at most one step is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The course after the warm-up.
    pub shape: Shape,
    /// The share of all steps over which the rate rises.
    pub warmup: f64,
    /// The first rate, if there is a warm-up.
    pub initial: f64,
    /// The last rate, if the shape [falls](Shape::falls) to it.
    pub last: f64,
}

/// The course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Always the largest.
    Constant,
    /// Half a cosine: PyTorch's CosineAnnealingLR.
    Cosine,
    /// The same, after a warm-up that is half a cosine too: PyTorch's OneCycleLR. The other warm-ups are straight lines.
    OneCycle,
    /// A straight line: PyTorch's LinearLR.
    Linear,
    /// A tenth from half of all steps on, a hundredth from three quarters on.
    Step,
}

impl Shape {
    /// Whether it falls to a last rate that can be chosen.
    pub fn falls(self) -> bool {
        matches!(self, Shape::Cosine | Shape::OneCycle | Shape::Linear)
    }
}

/// The largest rate, always.
impl Default for Schedule {
    fn default() -> Self {
        Schedule { shape: Shape::Constant, warmup: 0.0, initial: 0.0, last: 0.0 }
    }
}

impl Schedule {
    /// Whether rates depend on the number of steps of the whole training.
    pub fn needs_end(&self) -> bool {
        self.shape != Shape::Constant || self.warmup > 0.0
    }

    /// Returns the rate of a step, counted from 1, of a training of so many steps.
    pub fn share(&self, step: u64, steps: u64) -> f64 {
        let at = step.saturating_sub(1);
        let peak = (self.warmup * steps as f64 - 1.0).max(0.0);
        let done = at as f64;
        if done < peak {
            return match self.shape {
                Shape::OneCycle => along_cosine(self.initial, 1.0, done / peak),
                _ => along_line(self.initial, 1.0, done / peak),
            };
        }
        let rest = steps.saturating_sub(1) as f64 - peak;
        let fallen = if rest > 0.0 { ((done - peak) / rest).min(1.0) } else { 0.0 };
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Cosine | Shape::OneCycle => along_cosine(1.0, self.last, fallen),
            Shape::Linear => along_line(1.0, self.last, fallen),
            Shape::Step if 4 * at >= 3 * steps => 0.01,
            Shape::Step if 2 * at >= steps => 0.1,
            Shape::Step => 1.0,
        }
    }
}

/// Returns the point at `share` of the straight way between two rates.
fn along_line(from: f64, to: f64, share: f64) -> f64 {
    from + (to - from) * share
}

/// Returns the point at `share` of half a cosine between two rates.
fn along_cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}
