//! How the images of a batch are mixed: drawn on the host, in double precision, from the seed and the number of the step.

use crate::cpu::batch_gather::Mix;
use crate::cpu::philox::{below, philox, stream};

/// Which mixtures are drawn; the default mixes nothing. With both, each batch has one of them, with probability one half.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mixing {
    /// Of the distribution Beta(alpha, alpha) of the share that an image keeps; 0 for none. Source: Zhang et al., mixup, 2018.
    pub mixup: f64,
    /// Of the distribution Beta(alpha, alpha) of the part of an image that stays, while a rectangle of another one replaces the rest; 0 for
    /// none. Source: Yun et al., CutMix, 2019.
    pub cutmix: f64,
}

impl Mixing {
    /// Whether nothing is mixed.
    pub fn is_none(&self) -> bool {
        self.mixup == 0.0 && self.cutmix == 0.0
    }

    /// Draws for a step, counted from 1 since the start of training, of images of the shape `[H, W, C]`; `None` if nothing is mixed.
    pub fn draw(&self, seed: u64, step: u64, [h, w, _]: [usize; 3]) -> Option<Mix> {
        if self.is_none() {
            return None;
        }
        let mut draws = Draws { seed, step, next: 0 };
        let is_cutmix = self.mixup == 0.0 || (self.cutmix > 0.0 && draws.uniform() < 0.5);
        let alpha = if is_cutmix { self.cutmix } else { self.mixup };
        let share = draws.beta(alpha);
        if !is_cutmix {
            return Some(Mix { rectangle: [0, 0, h as u32, w as u32], kept: share as f32 });
        }
        // A rectangle of that part of the area, around any pixel; what is outside of the image does not count.
        let side = (1.0 - share).sqrt();
        let words = draws.words();
        let [(top, bottom), (left, right)] = [(h, words[0]), (w, words[1])].map(|(size, word)| {
            let half = (size as f64 * side) as u32 / 2;
            let centre = below(word, size as u32);
            (centre.saturating_sub(half), (centre + half).min(size as u32))
        });
        Some(Mix { rectangle: [top, left, bottom, right], kept: 0.0 })
    }
}

/// The draws of a step, one after the other.
struct Draws {
    seed: u64,
    step: u64,
    next: u32,
}

impl Draws {
    fn words(&mut self) -> [u32; 4] {
        let counter = [self.next, self.step as u32, (self.step >> 32) as u32, stream::MIX];
        self.next += 1;
        philox(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// Above 0 and at most 1, with 53 random bits.
    fn uniform(&mut self) -> f64 {
        let [low, high, ..] = self.words();
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
        (bits + 1) as f64 / (1u64 << 53) as f64
    }

    /// Normally distributed, by the method of Box and Muller.
    fn normal(&mut self) -> f64 {
        let (radius, angle) = (self.uniform(), self.uniform());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }

    /// The logarithm of a number of the gamma distribution with this shape: for a small one, the number itself would be 0. Source:
    /// Marsaglia and Tsang, A Simple Method for Generating Gamma Variables, 2000.
    fn ln_gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.ln_gamma(shape + 1.0) + self.uniform().ln() / shape;
        }
        let d = shape - 1.0 / 3.0;
        loop {
            let x = self.normal();
            let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
            if v > 0.0 && self.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return (d * v).ln();
            }
        }
    }

    /// Of the distribution Beta(alpha, alpha).
    fn beta(&mut self, alpha: f64) -> f64 {
        let [a, b] = [self.ln_gamma(alpha), self.ln_gamma(alpha)];
        1.0 / (1.0 + (b - a).exp())
    }
}
