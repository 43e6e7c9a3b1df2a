//! Moving averages of the parameters. Sources: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992; Zhang and
//! others, Lookahead optimizer, 2019, with the schedule of airbench (Jordan, 94 % on CIFAR-10 in 3.29 seconds, 2024).

use super::real::Real;

/// Steps from one move of a lookahead to the next.
const LOOKAHEAD_STEPS: u64 = 5;

/// A moving average of all parameters, running statistics included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AverageConfig {
    /// Exponential: after every step it moves by `1 - decay` of the way, further in the first steps.
    Ema {
        /// The part of the average that stays, 0 to 1.
        decay: f64,
    },
    /// After every fifth step it moves, and the parameters jump to it: the way is whole at first, and shrinks with the cube of the steps.
    Lookahead {
        /// The fifth power is the part of the average that stays at the last step, 0 to 1.
        decay: f64,
    },
}

impl AverageConfig {
    /// Returns the part of the way that the average moves after a step, counted from 1, of a training of so many steps; 0 if it stays.
    ///
    /// An exponential average starts at the initial weights, which are no good: its decay is at most `(1 + step) / (10 + step)`, as in
    /// TensorFlow, so that it has forgotten them soon.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let t = step as f64;
        match *self {
            AverageConfig::Ema { decay } => 1.0 - decay.min((1.0 + t) / (10.0 + t)),
            AverageConfig::Lookahead { .. } if !step.is_multiple_of(LOOKAHEAD_STEPS) => 0.0,
            AverageConfig::Lookahead { decay } => {
                1.0 - decay.powi(LOOKAHEAD_STEPS as i32) * (t / steps as f64).min(1.0).powi(3)
            }
        }
    }

    /// Whether the parameters jump to the average whenever it moves.
    pub fn pulls(&self) -> bool {
        matches!(self, AverageConfig::Lookahead { .. })
    }
}

/// Moves the average: `average += rate * (w - average)`, and `w = average` if it `pulls`; nothing if the rate is 0.
///
/// w and average have the same length; `rate` is [`AverageConfig::rate`].
pub fn average_step<T: Real>(rate: T, pulls: bool, w: &mut [T], average: &mut [T]) {
    if rate == T::ZERO {
        return;
    }
    for i in 0..w.len() {
        average[i] += rate * (w[i] - average[i]);
        if pulls {
            w[i] = average[i];
        }
    }
}
