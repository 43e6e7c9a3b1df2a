//! Philox4x32-10: four random words for a counter and a key, without any state. Whatever training draws follows from seed, epoch, step and
//! index by integers alone, so every engine draws the same, in any order, and training that is resumed draws what it would have drawn.
//!
//! Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011. In shaders it is `shaders/parts/philox.wgsl`.

/// What numbers are drawn for: the last word of the counter, so that no two draw the same.
pub mod stream {
    /// Shift and flip of an image.
    pub const AUGMENT: u32 = 0;
    /// The hole in an image.
    pub const CUTOUT: u32 = 1;
    /// The side on which an image begins that is flipped in every other epoch.
    pub const SIDE: u32 = 2;
    /// How the images of a batch are mixed.
    pub const MIX: u32 = 3;
    /// Dropout of the first layer of a model; the other layers follow.
    pub const DROPOUT: u32 = 16;
}

/// What random numbers follow from, besides a stream and an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Random {
    /// The seed of the training.
    pub seed: u64,
    /// The epoch, counted from 1.
    pub epoch: u32,
    /// The batches of the epoch that are done.
    pub step: u32,
}

impl Random {
    /// Returns the key.
    pub fn key(self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// Returns four words for an index that has others in each epoch.
    pub fn of_epoch(self, stream: u32, index: u32) -> [u32; 4] {
        philox([index, 0, self.epoch, stream], self.key())
    }

    /// Returns four words for an index that has others in each step.
    pub fn of_step(self, stream: u32, index: u32) -> [u32; 4] {
        philox([index, self.step, self.epoch, stream], self.key())
    }

    /// Returns four words for an index that has the same throughout.
    pub fn of_training(self, stream: u32, index: u32) -> [u32; 4] {
        philox([index, 0, 0, stream], self.key())
    }
}

/// The multipliers of a round.
pub const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What is added to the key after each round.
pub const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
/// The number of rounds.
pub const ROUNDS: usize = 10;

/// Returns four random words.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..ROUNDS {
        let left = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        [c0, c1, c2, c3] = [(right >> 32) as u32 ^ c1 ^ k0, right as u32, (left >> 32) as u32 ^ c3 ^ k1, left as u32];
        [k0, k1] = [k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1])];
    }
    [c0, c1, c2, c3]
}

/// Returns a whole number below `n` from a random word: each with the same probability, but for n / 2^32.
pub fn below(word: u32, n: u32) -> u32 {
    ((u64::from(word) * u64::from(n)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The test vectors of the authors: `kat_vectors` in Random123.
    #[test]
    fn philox_has_the_words_of_its_authors() {
        let ones = u32::MAX;
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        for (counter, key, words) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox(counter, key), words);
        }
    }
}
