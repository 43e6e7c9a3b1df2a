//! Clipping of the gradients; see [`crate::cpu::clip`].

use super::vectorized_loop;
use crate::cpu::clip::limit;

/// Sums that are added up at the same time, one per lane of two of the widest registers: every instruction set adds in the same order.
const SUMS: usize = 16;

/// Returns the sum of the squares of some gradients, in double precision.
pub fn squared_norm(g: &[f32]) -> f64 {
    let mut sums = [0.0; SUMS];
    vectorized_loop(
        #[inline(always)]
        || {
            let (chunks, rest) = g.as_chunks::<SUMS>();
            for chunk in chunks {
                for i in 0..SUMS {
                    sums[i] += f64::from(chunk[i]) * f64::from(chunk[i]);
                }
            }
            for (sum, &g) in sums.iter_mut().zip(rest) {
                *sum += f64::from(g) * f64::from(g);
            }
        },
    );
    sums.iter().sum()
}

/// Returns the factor that limits the norm of all gradients together to `clip_norm`, from the sums of their squares.
pub fn clip_factor(clip_norm: f64, squares: &[f64]) -> f32 {
    limit(clip_norm, squares.iter().sum::<f64>().sqrt()) as f32
}
