//! The results of Keras in float64 for the two built-in models, those of PyTorch for one with grouped convolutions, and the inputs that
//! they were computed from.
//!
//! `tests/fixtures/make_fixtures.py` computed the files `mlp.json` and `cnn.json`, `make_grouped.py` the file `grouped.json`: 32 images, one forward and backward
//! pass, and ten Adam steps on the same 32 images. Weights, images and labels are not in the files: both sides generate
//! them from integer hashes by the same formulas, and the checksums in the files prove that they generated the same
//! bits. The seeds are chosen so that rounding cannot change the outcome of any ReLU or pooling maximum.
//!
//! Layouts: images NHWC, convolution filters `[KH, KW, C, O]`, dense weights `[in, out]`.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// The number of images, and the batch size of every step.
pub const N_SAMPLES: usize = 32;
/// Height and width of an image in pixels.
const SIDE: usize = 28;
const N_CLASSES: u64 = 10;
/// For tensors with more elements than this, only this many of their elements are stored.
const N_SAMPLED: usize = 256;
const BIAS_LIMIT: f32 = 0.1;

/// The stored results of one model.
#[derive(Deserialize)]
pub struct Fixture {
    /// `mlp`, `cnn` or `grouped`.
    pub model: String,
    /// The seed of the initial weights.
    pub seed: u64,
    /// Adam's step size; its other constants are Keras's defaults: 0.9, 0.999 and 1e-7.
    pub learning_rate: f64,
    /// Mean cross-entropy of the 32 images at the initial weights.
    pub mean_loss: f64,
    /// The mean loss before each of the ten Adam steps.
    pub step_losses: Vec<f64>,
    /// Cross-entropy of each image at the initial weights, `[32]`.
    pub sample_losses: Vec<f64>,
    /// Scores before the softmax at the initial weights, `[32, 10]`.
    pub logits: Vec<f64>,
    /// The gradient of the mean loss at the initial weights, one tensor per parameter, in the model's order.
    pub gradients: Vec<ExpectedTensor>,
    /// Scores before the softmax after ten Adam steps, `[32, 10]`.
    pub trained_logits: Vec<f64>,
    /// The parameters after ten Adam steps, in the model's order.
    pub trained_weights: Vec<ExpectedTensor>,
    checksums: BTreeMap<String, String>,
}

impl Fixture {
    /// Reads the stored results of `mlp`, `cnn` or `grouped`.
    ///
    /// # Panics
    /// On any other name, and on a file that the scripts did not write.
    pub fn load(model: &str) -> Self {
        let text = match model {
            "mlp" => include_str!("../fixtures/mlp.json"),
            "cnn" => include_str!("../fixtures/cnn.json"),
            "grouped" => include_str!("../fixtures/grouped.json"),
            _ => panic!("no fixture for the model `{model}`: there are `mlp`, `cnn` and `grouped`"),
        };
        serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("tests/fixtures/{model}.json: {error}; make it again with its script"))
    }

    /// Returns the name, shape and values of each parameter before training, in the model's order.
    ///
    /// Weights are uniform in the Glorot range, biases in [-0.1, 0.1) so that a missing bias is detected.
    pub fn initial_weights(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let parameter = |tensor: &ExpectedTensor| {
            let limit = limit(&tensor.shape);
            let stream = format!("{}/{}/{}", self.seed, self.model, tensor.name);
            let values = signed_units(&stream).take(tensor.len()).map(|unit| limit * unit);
            (tensor.name.clone(), tensor.shape.clone(), values.collect())
        };
        self.gradients.iter().map(parameter).collect()
    }

    /// Returns the expected gradient of the parameter `name`, for example `conv2d_1.weight`.
    ///
    /// # Panics
    /// If the model has no such parameter.
    pub fn gradient(&self, name: &str) -> &ExpectedTensor {
        find(&self.gradients, name)
    }

    /// Returns the expected value of the parameter `name` after ten Adam steps.
    ///
    /// # Panics
    /// If the model has no such parameter.
    pub fn trained_weight(&self, name: &str) -> &ExpectedTensor {
        find(&self.trained_weights, name)
    }
}

fn find<'a>(tensors: &'a [ExpectedTensor], name: &str) -> &'a ExpectedTensor {
    let names = || tensors.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>();
    tensors
        .iter()
        .find(|tensor| tensor.name == name)
        .unwrap_or_else(|| panic!("no parameter `{name}`; the model has {:?}", names()))
}

/// The stored part of a tensor: up to 256 of its elements, and four figures that depend on every element.
#[derive(Deserialize)]
pub struct ExpectedTensor {
    /// The parameter's name, for example `conv2d_1.weight`.
    pub name: String,
    /// The parameter's shape.
    pub shape: Vec<usize>,
    /// The largest absolute element.
    pub max_abs: f64,
    norm: f64,
    sum: f64,
    dot: f64,
    values: Vec<f64>,
}

impl ExpectedTensor {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns the distance of the whole tensor `actual`, in row-major order, from this one.
    ///
    /// # Panics
    /// If `actual` has a different number of elements.
    pub fn compare<T: Copy + Into<f64>>(&self, actual: &[T]) -> Discrepancy {
        assert_eq!(
            actual.len(),
            self.len(),
            "`{}` of shape {:?}: found {} elements, expected {}",
            self.name,
            self.shape,
            actual.len(),
            self.len()
        );
        let (mut squares, mut sum, mut dot) = (0.0, 0.0, 0.0);
        for (&value, unit) in actual.iter().zip(signed_units(&format!("dot/{}", self.name))) {
            let value: f64 = value.into();
            squares += value * value;
            sum += value;
            dot += value * f64::from(unit);
        }
        let (mut element, mut i_element) = (0.0, 0);
        for (&expected, i) in self.values.iter().zip(sampled_indices(&self.name, self.len())) {
            let error = relative(actual[i].into(), expected, self.max_abs);
            if error > element {
                (element, i_element) = (error, i);
            }
        }
        Discrepancy {
            element,
            i_element,
            norm: relative(squares.sqrt(), self.norm, self.norm),
            sum: relative(sum, self.sum, self.norm * (self.len() as f64).sqrt()),
            dot: relative(dot, self.dot, self.norm),
        }
    }
}

/// The distance of a tensor from the expected one: four dimensionless errors, infinite if a NaN is involved.
#[derive(Clone, Copy, Debug)]
pub struct Discrepancy {
    /// The worst error of a stored element, relative to the tensor's largest absolute element.
    pub element: f64,
    /// The row-major index of that element.
    pub i_element: usize,
    /// The error of the Euclidean norm, relative to the norm.
    pub norm: f64,
    /// The error of the sum, relative to the largest sum that a tensor of this norm and size can have.
    pub sum: f64,
    /// The error of the dot product with a fixed vector of values in [-1, 1), relative to the norm.
    ///
    /// The sharpest of the three figures over all elements: it detects single wrong elements and permutations.
    pub dot: f64,
}

impl Discrepancy {
    /// Returns the largest of the four errors.
    pub fn worst(&self) -> f64 {
        self.element.max(self.norm).max(self.sum).max(self.dot)
    }
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { element, i_element, norm, sum, dot } = self;
        write!(f, "element {element:.1e} (at {i_element}), norm {norm:.1e}, sum {sum:.1e}, dot {dot:.1e}")
    }
}

/// Returns the worst error of `actual`, relative to the largest absolute value of `expected`; infinite on a NaN.
///
/// # Panics
/// If the lengths differ.
pub fn worst_error<T: Copy + Into<f64>>(actual: &[T], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "found and expected number of values");
    let scale = expected.iter().fold(0.0, |scale: f64, value| scale.max(value.abs()));
    let errors = actual.iter().zip(expected).map(|(&a, &e)| relative(a.into(), e, scale));
    errors.fold(0.0, f64::max)
}

/// Returns `|actual - expected| / scale`, with NaN made infinite: `f64::max` would ignore it.
fn relative(actual: f64, expected: f64, scale: f64) -> f64 {
    let error = (actual - expected).abs() / scale;
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Generates the 32 images, `[32, 28, 28]` bytes: two or three overlapping round blobs with grain, on exact zeros.
pub fn images() -> Vec<u8> {
    let draws: Vec<u64> = hashes("images/blobs").take(N_SAMPLES * 16).collect();
    let mut grain = hashes("images/grain");
    let mut out = Vec::with_capacity(N_SAMPLES * SIDE * SIDE);
    for draw in draws.chunks_exact(16) {
        let n_blobs = 2 + (draw[0] % 2) as usize;
        let blobs: Vec<Blob> = draw[1..].chunks_exact(5).take(n_blobs).map(Blob::new).collect();
        for y in 0..SIDE as u64 {
            for x in 0..SIDE as u64 {
                let light: u64 = blobs.iter().map(|blob| blob.light(x, y)).sum();
                let noise = grain.next().unwrap_or_default() % 48;
                let value = if light > 0 { light + noise } else { 0 };
                out.push(value.min(255) as u8);
            }
        }
    }
    out
}

/// Returns the images as the models take them, `[32, 28, 28, 1]`: byte / 255, rounded once.
pub fn pixels() -> Vec<f32> {
    images().into_iter().map(|byte| f32::from(byte) / 255.0).collect()
}

/// Generates the 32 labels, each below 10.
pub fn labels() -> Vec<u8> {
    let label = |hash| (hash % N_CLASSES) as u8;
    hashes("labels").take(N_SAMPLES).map(label).collect()
}

/// An ellipse, bright in the middle and half as bright at its rim.
struct Blob {
    cx: u64,
    cy: u64,
    rx: u64,
    ry: u64,
    peak: u64,
}

impl Blob {
    fn new(draw: &[u64]) -> Self {
        Self {
            cx: 4 + draw[0] % 20,
            cy: 4 + draw[1] % 20,
            rx: 3 + draw[2] % 6,
            ry: 3 + draw[3] % 6,
            peak: 120 + draw[4] % 120,
        }
    }

    fn light(&self, x: u64, y: u64) -> u64 {
        let across = x.abs_diff(self.cx) * self.ry;
        let down = y.abs_diff(self.cy) * self.rx;
        let distance = across * across + down * down;
        let radius = (self.rx * self.ry).pow(2);
        if distance < radius { self.peak - self.peak * distance / (2 * radius) } else { 0 }
    }
}

/// Returns the bound of a parameter's initial values: Glorot's for a weight, fixed for a bias.
fn limit(shape: &[usize]) -> f32 {
    match shape {
        [window @ .., inputs, outputs] => {
            let fans = window.iter().product::<usize>() * (inputs + outputs);
            (6.0 / fans as f64).sqrt() as f32
        }
        _ => BIAS_LIMIT,
    }
}

/// Returns all indices up to 256 elements; for more, a random one in each of 256 equal slices.
fn sampled_indices(name: &str, n: usize) -> Vec<usize> {
    if n <= N_SAMPLED {
        return (0..n).collect();
    }
    let start = |i: usize| i * n / N_SAMPLED;
    let slices = hashes(&format!("sample/{name}")).take(N_SAMPLED).enumerate();
    slices.map(|(i, hash)| start(i) + (hash % (start(i + 1) - start(i)) as u64) as usize).collect()
}

/// Returns values in [-1, 1), multiples of 2^-23, hence exact in `f32`.
fn signed_units(stream: &str) -> impl Iterator<Item = f32> + use<> {
    hashes(stream).map(|hash| ((hash >> 40) as i32 - (1 << 23)) as f32 / (1 << 23) as f32)
}

/// The outputs of splitmix64 (Steele, Lea and Flood, 2014), with its state initialized to the hash of the stream's
/// name.
fn hashes(stream: &str) -> impl Iterator<Item = u64> + use<> {
    splitmix64(fnv1a(stream.bytes()))
}

fn splitmix64(mut state: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// FNV-1a, 64 bits: names a stream, and is used as the checksum.
fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: [&str; 3] = ["mlp", "cnn", "grouped"];

    /// Returns what `make_fixtures.py` would store for a vector.
    fn expected(name: &str, values: &[f64]) -> ExpectedTensor {
        let units = signed_units(&format!("dot/{name}"));
        ExpectedTensor {
            name: name.to_owned(),
            shape: vec![values.len()],
            max_abs: values.iter().fold(0.0, |max: f64, value| max.max(value.abs())),
            norm: values.iter().map(|value| value * value).sum::<f64>().sqrt(),
            sum: values.iter().sum(),
            dot: values.iter().zip(units).map(|(value, unit)| value * f64::from(unit)).sum(),
            values: sampled_indices(name, values.len()).into_iter().map(|i| values[i]).collect(),
        }
    }

    fn noise(n: usize) -> Vec<f64> {
        signed_units("noise").take(n).map(f64::from).collect()
    }

    #[test]
    fn hashes_are_the_published_ones() {
        assert_eq!(fnv1a(*b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
        let published = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        assert!(splitmix64(1234567).take(3).eq(published));
    }

    #[test]
    fn images_and_labels_have_the_stored_checksums() {
        for model in MODELS {
            let checksums = Fixture::load(model).checksums;
            assert_eq!(format!("{:016x}", fnv1a(images())), checksums["images"], "{model}: images");
            assert_eq!(format!("{:016x}", fnv1a(labels())), checksums["labels"], "{model}: labels");
        }
        assert_eq!(images().len(), N_SAMPLES * SIDE * SIDE);
        assert_eq!(labels().len(), N_SAMPLES);
        let (dark, full) = (pixels().iter().filter(|&&p| p == 0.0).count(), images().len());
        assert!(dark > full / 2 && dark < full, "{dark} of {full} pixels are zero");
        assert!(pixels().contains(&1.0), "no pixel is 1.0");
    }

    #[test]
    fn initial_weights_have_the_stored_checksums() {
        for (model, n_parameters) in [("mlp", 101_770), ("cnn", 421_642), ("grouped", 2_446)] {
            let fixture = Fixture::load(model);
            let weights = fixture.initial_weights();
            for (name, shape, values) in &weights {
                assert_eq!(shape.iter().product::<usize>(), values.len(), "{model}: {name}");
                let bytes = values.iter().flat_map(|value| value.to_le_bytes());
                let found = format!("{:016x}", fnv1a(bytes));
                assert_eq!(found, fixture.checksums[name], "{model}: {name}");
                assert!(!name.ends_with("bias") || !values.contains(&0.0), "{model}: {name}");
            }
            let n: usize = weights.iter().map(|(_, _, values)| values.len()).sum();
            assert_eq!(n, n_parameters, "{model}");
        }
    }

    #[test]
    fn files_agree_with_themselves() {
        for model in MODELS {
            let fixture = Fixture::load(model);
            assert_eq!(fixture.model, model);
            assert_eq!(fixture.learning_rate, 1e-3);
            assert_eq!((fixture.step_losses.len(), fixture.sample_losses.len()), (10, N_SAMPLES));
            assert_eq!((fixture.logits.len(), fixture.trained_logits.len()), (320, 320));
            let losses: Vec<f64> = (fixture.logits.chunks_exact(10).zip(labels()))
                .map(|(z, label)| z.iter().map(|z| z.exp()).sum::<f64>().ln() - z[label as usize])
                .collect();
            assert!(worst_error(&losses, &fixture.sample_losses) < 1e-14);
            let mean = losses.iter().sum::<f64>() / N_SAMPLES as f64;
            assert!(worst_error(&[mean, mean], &[fixture.mean_loss, fixture.step_losses[0]]) < 1e-14);
            for (name, shape, initial) in fixture.initial_weights() {
                assert_eq!(fixture.gradient(&name).shape, shape);
                // Ten steps of at most about the learning rate: near the start, yet measurably away from it.
                let moved = fixture.trained_weight(&name).compare(&initial);
                let scale = fixture.trained_weight(&name).max_abs;
                assert!(moved.element * scale < 0.02, "{model}: {name}: {moved}");
                assert!(moved.worst() > 1e-2, "{model}: {name}: {moved}");
            }
            // The gradient of the last bias is the mean of softmax minus one-hot: its sum is zero.
            let last = &fixture.gradients.last().unwrap();
            assert!(last.name.ends_with(".bias") && last.sum.abs() < 1e-15);
        }
    }

    #[test]
    fn comparison_accepts_the_expected_tensor() {
        for n in [1, 255, 256, 257, 4099] {
            let values = noise(n);
            let found = expected("t", &values).compare(&values);
            assert_eq!(found.worst(), 0.0, "{n} elements: {found}");
        }
    }

    #[test]
    fn comparison_sees_one_wrong_element_a_nan_and_a_swap() {
        let values = noise(4099);
        let tensor = expected("t", &values);
        let sampled = sampled_indices("t", values.len());
        let left_out = (0..values.len()).find(|i| !sampled.contains(i)).expect("256 of 4099");
        for i in [sampled[0], sampled[255], left_out, 4098] {
            let mut changed = values.clone();
            changed[i] += 0.01;
            let found = tensor.compare(&changed);
            assert!(found.worst() > 1e-6, "element {i}: {found}");
            if sampled.contains(&i) {
                assert_eq!(found.i_element, i);
                assert!(found.element > 0.009, "element {i}: {found}");
            }
            changed[i] = f64::NAN;
            assert_eq!(tensor.compare(&changed).worst(), f64::INFINITY, "element {i}");
        }
        let mut swapped = values.clone();
        swapped.swap(left_out, left_out + 1);
        let found = tensor.compare(&swapped);
        assert!(found.dot > 1e-6, "{found}");
        assert_eq!(worst_error(&[f32::NAN, 1.0], &[1.0, 1.0]), f64::INFINITY);
        assert_eq!(worst_error(&[1.0_f32, 2.0], &[1.0, 4.0]), 0.5);
    }

    #[test]
    #[should_panic(expected = "found 3 elements, expected 4")]
    fn comparison_refuses_another_length() {
        expected("t", &noise(4)).compare(&noise(3));
    }
}
