//! What this processor can do at most, measured by tiny loops: arithmetic and bytes. The twin of [`crate::gpu::peak`].

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "an array that anything but a constant indexes is kept in memory, and not in registers"
)]

use super::vectorised;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The two limits that every loop has on a processor.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Multiply-adds without memory by all threads, 10^9 floating-point operations a second.
    pub gflops: f64,
    /// Copying by all threads, bytes read and written, 10^9 a second.
    pub gb_per_second: f64,
}

/// Numbers that are copied: more than the caches hold.
const COPIED: usize = 16 << 20;
/// How long each is measured.
const WINDOW: Duration = Duration::from_millis(300);

impl Peak {
    /// Measures both limits with the threads of the pool that calls it: the best of several rounds, in about a second.
    pub fn measure() -> Peak {
        let threads = rayon::current_num_threads();
        let flop = (threads * Chains::FLOP_A_LANE * super::lanes()) as f64;
        let seconds = fastest(|| (0..threads).into_par_iter().with_max_len(1).for_each(|_| vectorised(Chains)));
        let from = vec![1.0f32; COPIED];
        let mut to = vec![0.0f32; COPIED];
        let part = COPIED.div_ceil(threads);
        let bytes = (2 * COPIED * size_of::<f32>()) as f64;
        let copying = fastest(|| {
            to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
        });
        black_box(&to);
        Peak { gflops: flop / seconds / 1e9, gb_per_second: bytes / copying / 1e9 }
    }
}

/// Seconds of the fastest of as many calls as the window holds.
fn fastest(mut work: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < WINDOW {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Twelve chains of multiply-adds: more than a processor has in flight.
struct Chains;

impl Chains {
    const CHAINS: usize = 12;
    const ROUNDS: usize = 100_000;
    const FLOP_A_LANE: usize = 2 * Self::CHAINS * Self::ROUNDS;
}

impl WithSimd for Chains {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Close to 1 and 0: the chains stay finite. Hidden, so that nothing is computed beforehand.
        let (factor, summand) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(0.001)));
        let mut chains = [simd.splat_f32s(black_box(1.0)); Self::CHAINS];
        for _ in 0..Self::ROUNDS {
            for chain in 0..Self::CHAINS {
                chains[chain] = simd.mul_add_e_f32s(chains[chain], factor, summand);
            }
        }
        let mut sum = simd.splat_f32s(0.0);
        for chain in 0..Self::CHAINS {
            sum = simd.add_f32s(sum, chains[chain]);
        }
        black_box(simd.reduce_sum_f32s(sum));
    }
}
