//! Dropout; the results have the same bits as [`crate::cpu::dropout`].
//!
//! The draws are integer arithmetic on many counters at once, which vectorizes.

use super::vectorized_loop;
use crate::cpu::dropout::Dropping;
use crate::cpu::philox::{MULTIPLIERS, ROUNDS, Random, WEYL};

/// Draws that are made together: one vector register of words with AVX-512.
const DRAWS: usize = 16;
/// Elements that these are for.
const ELEMENTS: usize = 4 * DRAWS;

/// Returns the words of [`DRAWS`] draws from the index `first` on, those of each draw together.
#[inline(always)]
fn draw(random: Random, stream: u32, first: u32) -> [u32; ELEMENTS] {
    let mut c0: [u32; DRAWS] = std::array::from_fn(|i| first.wrapping_add(i as u32));
    let (mut c1, mut c2, mut c3) = ([random.step; DRAWS], [random.epoch; DRAWS], [stream; DRAWS]);
    let [mut k0, mut k1] = random.key();
    for _ in 0..ROUNDS {
        for i in 0..DRAWS {
            let left = u64::from(MULTIPLIERS[0]) * u64::from(c0[i]);
            let right = u64::from(MULTIPLIERS[1]) * u64::from(c2[i]);
            c0[i] = (right >> 32) as u32 ^ c1[i] ^ k0;
            c1[i] = right as u32;
            c2[i] = (left >> 32) as u32 ^ c3[i] ^ k1;
            c3[i] = left as u32;
        }
        [k0, k1] = [k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1])];
    }
    let mut words = [0; ELEMENTS];
    for (i, words) in words.chunks_exact_mut(4).enumerate() {
        words.copy_from_slice(&[c0[i], c1[i], c2[i], c3[i]]);
    }
    words
}

/// Computes y: 0, or x / (1 - rate). The first element is the element `first` of the batch.
pub fn dropout_forward(d: &Dropping, random: Random, first: usize, x: &[f32], y: &mut [f32]) {
    let (threshold, scale) = (d.threshold(), d.scale() as f32);
    vectorized_loop(
        #[inline(always)]
        || {
            // The first draw may be for elements of the row before.
            let mut at = first / 4 * 4;
            while at < first + y.len() {
                let words = draw(random, d.stream(), (at / 4) as u32);
                let words = &words[first.saturating_sub(at)..];
                let start = at.saturating_sub(first);
                let end = y.len().min(start + words.len());
                for ((y, &x), &word) in y[start..end].iter_mut().zip(&x[start..end]).zip(words) {
                    *y = if word >= threshold { x * scale } else { 0.0 };
                }
                at += ELEMENTS;
            }
        },
    );
}

/// Computes dx from dy as [`dropout_forward`] computes y from x.
pub fn dropout_backward_x(d: &Dropping, random: Random, first: usize, dy: &[f32], dx: &mut [f32]) {
    dropout_forward(d, random, first, dy, dx);
}
