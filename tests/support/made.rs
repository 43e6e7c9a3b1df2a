//! The results of PyTorch in float64 for losses with soft targets and for averages of weights, in `tests/fixtures/loss_and_average.json`, which
//! `make_loss_and_average.py` beside it computed.

use super::fixture::worst_error;
use fmnist_gpu::data::Split;
use serde::Deserialize;

/// The whole file.
#[derive(Deserialize)]
pub struct Made {
    pub losses: Losses,
    pub trainings: Vec<Training>,
}

/// Losses of a batch of rows with three classes.
#[derive(Deserialize)]
pub struct Losses {
    pub logits: Vec<f64>,
    pub labels: Vec<u32>,
    /// The label of the next row.
    pub partners: Vec<u32>,
    pub cases: Vec<Case>,
}

/// A loss, with the loss of each row and the gradient of their mean.
#[derive(Deserialize)]
pub struct Case {
    pub smoothing: f64,
    pub class_weights: Vec<f32>,
    pub share: f64,
    pub loss: Vec<f64>,
    pub gradient: Vec<f64>,
}

/// Ten steps of a training on twelve images of four pixels in batches of six.
#[derive(Deserialize)]
pub struct Training {
    pub average: String,
    pub decay: f64,
    pub smoothing: f64,
    pub balanced: bool,
    images: Vec<u8>,
    labels: Vec<u8>,
    pub initial: Vec<Vec<f64>>,
    /// Of each step.
    pub losses: Vec<f64>,
    pub parameters: Vec<Vec<f64>>,
    pub averages: Vec<Vec<f64>>,
}

impl Training {
    pub fn split(&self) -> Split {
        Split { images: self.images.clone(), labels: self.labels.clone() }
    }
}

pub fn load() -> Made {
    serde_json::from_str(include_str!("../fixtures/loss_and_average.json")).unwrap()
}

/// Compares, relative to the largest of the expected values.
pub fn close<T: Copy + Into<f64>>(what: &str, found: &[T], expected: &[f64], tolerance: f64) {
    let error = worst_error(found, expected);
    assert!(error <= tolerance, "{what}: off by {error:.1e}");
}
