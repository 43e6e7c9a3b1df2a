//! The peak rates of this CPU, for arithmetic and for memory, measured by tiny loops. The counterpart of
//! [`crate::gpu::peak`].

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::vectorized;
use crate::clock::Instant;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Duration;

/// Numbers copied: more than the caches hold.
const COPIED: usize = 16 << 20;
/// How long each limit is measured.
const WINDOW: Duration = Duration::from_millis(300);

/// Measures the two limits that every loop has on the threads of the calling pool, in about a second, the best of several
/// rounds: multiply-adds without memory access, in 10^9 floating-point operations per second, and copying, bytes read plus
/// bytes written, in 10^9 per second.
pub fn measure() -> [f64; 2] {
    let threads = rayon::current_num_threads();
    let flop = (threads * Chains::FLOP_PER_LANE * super::lanes()) as f64;
    let seconds = fastest(|| (0..threads).into_par_iter().with_max_len(1).for_each(|_| vectorized(Chains)));
    let from = vec![1.0f32; COPIED];
    let mut to = vec![0.0f32; COPIED];
    let part = COPIED.div_ceil(threads);
    let bytes = (2 * COPIED * size_of::<f32>()) as f64;
    let copying = fastest(|| {
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
    });
    black_box(&to);
    [flop / seconds / 1e9, bytes / copying / 1e9]
}

/// Returns the time of the fastest call, in seconds, among those that fit into the window.
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

/// Twelve chains of multiply-adds: more than a CPU has in flight.
struct Chains;

impl Chains {
    const CHAINS: usize = 12;
    const ROUNDS: usize = 100_000;
    const FLOP_PER_LANE: usize = 2 * Self::CHAINS * Self::ROUNDS;
}

impl WithSimd for Chains {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Close to 1 and 0, so that the chains stay finite. `black_box` keeps the compiler from computing anything in
        // advance.
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
