//! Initial weights and the epochs' permutations: everything that is generated from the seed.

use super::whitening::whitening;
use super::{Layer, Model, ModelError, Parameter};
use crate::data::Split;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

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

/// How the initial values of a weight are chosen. Biases start at zero, except with [`Init::Whitening`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Uniform, up to `sqrt(6 / (fan_in + fan_out))`, as in Keras. The fans of a convolution include its window.
    #[default]
    GlorotUniform,
    /// Normal with the variance `2 / fan_in`, without values beyond two standard deviations, as in Keras.
    HeNormal,
    /// The first filters each pass one channel of the input on, as many as there are of both, as in PyTorch; the others are as in
    /// [`Init::GlorotUniform`]. For convolutions.
    Dirac,
    /// Filters that whiten the training images, with a bias. For convolutions that read the images.
    Whitening,
}

impl Init {
    pub(super) fn is_default(&self) -> bool {
        *self == Init::default()
    }
}

impl Model {
    /// Returns the parameters from which training on `train` starts.
    ///
    /// # Errors
    /// As [`Model::graph`].
    pub fn initial_parameters(&self, train: &Split, seed: u64) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut parameters = initial_parameters(&self.parameters()?, seed);
        let mut first = 0;
        for shape in self.graph()? {
            if let Layer::Conv2d { init: Init::Whitening, kernel_size, filters, .. } = shape.layer {
                let [weight, bias] = whitening(&train.images, self.input, kernel_size, filters);
                (parameters[first], parameters[first + 1]) = (weight, bias);
            }
            first += shape.parameters().len();
        }
        Ok(parameters)
    }
}

/// Generates initial parameters from the seed alone: weights as their [`Init`] says, and for the other roles
/// [`Role::initial`](super::Role::initial). Without images, weights that whiten them are as in [`Init::GlorotUniform`]: training starts from
/// [`Model::initial_parameters`].
pub fn initial_parameters(parameters: &[Parameter], seed: u64) -> Vec<Vec<f32>> {
    let values = |(i, parameter): (usize, &Parameter)| match parameter.role.initial() {
        Some(value) => vec![value; parameter.len()],
        None => initial_weight(parameter, &mut generator(seed, Stream::Weights, i as u64)),
    };
    parameters.iter().enumerate().map(values).collect()
}

fn initial_weight(parameter: &Parameter, rng: &mut impl Rng) -> Vec<f32> {
    let [window @ .., inputs, outputs] = &parameter.shape[..] else { return vec![0.0; parameter.len()] };
    let cells: usize = window.iter().product();
    match parameter.init {
        Init::GlorotUniform | Init::Whitening => glorot_uniform(parameter.len(), cells * (inputs + outputs), rng),
        Init::HeNormal => {
            // Without its tails, a normal distribution has a smaller standard deviation than with them.
            let deviation = (2.0 / (cells * inputs) as f64).sqrt() / 0.879_625_661_034_239_8;
            (0..parameter.len()).map(|_| (deviation * truncated_normal(rng)) as f32).collect()
        }
        Init::Dirac => {
            let mut values = glorot_uniform(parameter.len(), cells * (inputs + outputs), rng);
            let centre = window.iter().fold(0, |at, size| at * size + size / 2);
            for o in 0..*inputs.min(outputs) {
                values.iter_mut().skip(o).step_by(*outputs).for_each(|value| *value = 0.0);
                values[(centre * inputs + o) * outputs + o] = 1.0;
            }
            values
        }
    }
}

fn glorot_uniform(len: usize, fans: usize, rng: &mut impl Rng) -> Vec<f32> {
    let limit = (6.0 / fans as f64).sqrt();
    (0..len).map(|_| (limit * (uniform(rng) * 2.0 - 1.0)) as f32).collect()
}

/// Returns a number of the standard normal distribution, never beyond two standard deviations: Marsaglia's polar method, and another number
/// instead of one beyond.
fn truncated_normal(rng: &mut impl Rng) -> f64 {
    loop {
        let [u, v] = [(), ()].map(|()| uniform(rng) * 2.0 - 1.0);
        let s = u * u + v * v;
        let normal = u * (-2.0 * s.ln() / s).sqrt();
        if s < 1.0 && normal.abs() <= 2.0 {
            return normal;
        }
    }
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
