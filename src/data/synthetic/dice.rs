//! Random numbers that are the same on all platforms and with all versions of the random number crates.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::Half;

/// The purpose of a random stream.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Labels = 0,
    Image = 1,
}

/// A random stream. Scaling is done here because the distributions of libraries change between versions.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// Returns the stream for one image or one group of labels.
    pub(super) fn new(seed: u64, half: Half, purpose: Purpose, i: usize) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8] = half as u8;
        key[9] = purpose as u8;
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(i as u64);
        Self(rng)
    }

    /// Returns 32 random bits.
    pub(super) fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Returns a uniform number in 0..1 with 24 bits, exact as an `f32`.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 24) as f32
    }

    /// Returns a uniform number from `low` to `high`.
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Returns `true` with this probability.
    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Returns a uniform integer in `0..n`; for the small `n` used here the bias is below one in 10⁷.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.bits()) * n as u64) >> 32) as usize
    }

    /// Returns a bell-shaped number around 0: the sum of four uniform bytes, scaled to the standard deviation.
    pub(super) fn bell(&mut self, deviation: f32) -> f32 {
        /// The variance of a uniform byte is (256² - 1) / 12; that of four, a third of 256² - 1.
        const BYTES_DEVIATION: f32 = 147.800_2;
        let sum: u16 = self.bits().to_le_bytes().map(u16::from).iter().sum();
        (f32::from(sum) - 510.0) / BYTES_DEVIATION * deviation
    }
}
