//! Dropout: each element is zero with a probability, and otherwise larger by as much as keeps its mean. What is dropped is drawn from seed,
//! epoch, step, layer and the element's index in the batch, so the backward pass draws the same instead of reading it.
//!
//! Source: Srivastava et al., Dropout, 2014, in the form that scales in training; keras.layers.Dropout.

use super::philox::{Random, stream};
use super::real::Real;

/// The dropout of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropping {
    /// The probability of an element to be dropped, at least 0 and less than 1.
    pub rate: f64,
    /// The layer's number, so that each layer drops others.
    pub layer: u32,
}

impl Dropping {
    /// Returns the smallest random word with which an element is kept.
    pub fn threshold(&self) -> u32 {
        // The cast saturates.
        (self.rate * 2f64.powi(32)).round() as u32
    }

    /// Returns the factor of the elements that are kept.
    pub fn scale(&self) -> f64 {
        1.0 / (1.0 - self.rate)
    }

    /// Returns the stream of the layer's random numbers.
    pub fn stream(&self) -> u32 {
        stream::DROPOUT + self.layer
    }

    /// Whether the element `index` of the batch is kept: four of them share a draw.
    pub fn keeps(&self, random: Random, index: usize) -> bool {
        random.of_step(self.stream(), (index / 4) as u32)[index % 4] >= self.threshold()
    }
}

/// Computes y: 0, or x / (1 - rate). The first element is the element `first` of the batch.
pub fn dropout_forward<T: Real>(d: &Dropping, random: Random, first: usize, x: &[T], y: &mut [T]) {
    let scale = T::from_f64(d.scale());
    for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
        *y = if d.keeps(random, first + i) { x * scale } else { T::ZERO };
    }
}

/// Computes dx from dy as [`dropout_forward`] computes y from x.
pub fn dropout_backward_x<T: Real>(d: &Dropping, random: Random, first: usize, dy: &[T], dx: &mut [T]) {
    dropout_forward(d, random, first, dy, dx);
}
