//! Initial weights and the epochs' permutations: everything that is generated from the seed.

use super::Parameter;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The purpose of a stream of random numbers: one seed gives independent streams.
#[derive(Clone, Copy)]
enum Stream {
    Weights = 1,
    Permutation = 2,
}

fn generator(seed: u64, stream: Stream, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // The upper bits identify the purpose, the lower bits the epoch or the tensor.
    rng.set_stream(((stream as u64) << 32) | index);
    rng
}

/// Generates initial parameters as in Keras: Glorot-uniform weights (limit `sqrt(6 / (fan_in + fan_out))`, where the
/// fans of a convolution include its window), and for the other roles [`Role::initial`](super::Role::initial).
pub fn initial_parameters(parameters: &[Parameter], seed: u64) -> Vec<Vec<f32>> {
    parameters
        .iter()
        .enumerate()
        .map(|(i, parameter)| {
            let len = parameter.len();
            let (None, [window @ .., fan_in, fan_out]) = (parameter.role.initial(), &parameter.shape[..]) else {
                return vec![parameter.role.initial().unwrap_or_default(); len];
            };
            let cells: usize = window.iter().product();
            let limit = (6.0 / (cells * (fan_in + fan_out)) as f64).sqrt();
            let mut rng = generator(seed, Stream::Weights, i as u64);
            (0..len).map(|_| (limit * (uniform(&mut rng) * 2.0 - 1.0)) as f32).collect()
        })
        .collect()
}

/// Returns a number uniform in 0..1, with 53 random bits.
fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Returns the order of the samples in an epoch (counted from 1): a new permutation of `0..n` for each seed and epoch.
///
/// A fixed order for all epochs, which Keras uses when its seed is set, costs a point of accuracy.
pub fn permutation(n: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut rng = generator(seed, Stream::Permutation, epoch);
    let mut order: Vec<u32> = (0..n as u32).collect();
    // Fisher-Yates shuffle, from the end.
    for i in (1..n).rev() {
        order.swap(i, below(&mut rng, i as u32 + 1) as usize);
    }
    order
}

/// Returns an unbiased random number below `n` (Lemire's multiplication, with rejection).
fn below(rng: &mut impl Rng, n: u32) -> u32 {
    let threshold = n.wrapping_neg() % n;
    loop {
        let product = u64::from(rng.next_u32()) * u64::from(n);
        if product as u32 >= threshold {
            return (product >> 32) as u32;
        }
    }
}
