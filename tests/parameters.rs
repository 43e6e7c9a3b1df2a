//! What a model file says about the parameters of a layer: whether there is a bias, which are trained, and their initial values.

use crate::support::program::Place;
use crate::support::{genuine_data, gpu};
use fmnist_gpu::data::{Dataset, DatasetKind, FASHION_MNIST, LoadOptions, Split, load, synthetic};
use fmnist_gpu::engine::{Engine, NativeEngine, Optimizer, ReferenceEngine};
use fmnist_gpu::lower::{Mode, lower};
use fmnist_gpu::model::{
    Init, Model, ModelError, ModelFile, Trainable, eigenvectors, initial_parameters, summary, training_mflop, weights,
};
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::run::checkpoint::{Checkpoint, FOLDER};
use fmnist_gpu::session::{Device, Plan, Session, Training};
use fmnist_gpu::tensorboard::read_events;
use pollster::FutureExt as _;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn parse(layers: &str) -> Result<Model, ModelError> {
    let text = format!("name = \"m\"\nlayer = [\n{layers}\n]");
    ModelFile::parse(Path::new("m.toml"), &text).map(|file| file.model)
}

/// A model that ends in a classifier.
fn model(layers: &str) -> Model {
    parse(&format!("{layers}, {END}")).unwrap()
}

const END: &str = "{ type = \"flatten\" }, { type = \"dense\", units = 10 }";

#[test]
fn what_is_not_said_is_as_before_and_not_written() {
    let text = serde_json::to_string(&Model::cnn()).unwrap() + &toml::to_string(&Model::cnn()).unwrap();
    assert!(!["use_bias", "trainable", "init"].iter().any(|key| text.contains(key)), "{text}");
    assert!(Model::cnn().parameters().unwrap().iter().all(|p| p.is_trained() && p.init == Init::GlorotUniform));
}

#[test]
fn what_is_said_comes_back_as_it_was_written() {
    let conv = "type = \"conv2d\", filters = 8, kernel_size = 3";
    for (said, written) in [
        ("use_bias = false", "\"use_bias\":false"),
        ("trainable = false", "\"trainable\":false"),
        ("trainable = \"bias\"", "\"trainable\":\"bias\""),
        ("init = \"he_normal\"", "\"init\":\"he_normal\""),
        ("init = \"dirac\"", "\"init\":\"dirac\""),
        ("init = \"whitening\"", "\"init\":\"whitening\""),
        ("init = \"glorot_uniform\"", ""),
        ("trainable = true, use_bias = true", ""),
    ] {
        let model = model(&format!("{{ {conv}, {said} }}"));
        let text = serde_json::to_string(&model).unwrap();
        assert!(text.contains(written), "{text}");
        assert!(written.is_empty() == (model == self::model(&format!("{{ {conv} }}"))), "{said}");
        assert_eq!(serde_json::from_str::<Model>(&text).unwrap(), model);
        assert_eq!(toml::from_str::<Model>(&toml::to_string(&model).unwrap()).unwrap(), model);
    }
    let norm = model("{ type = \"batchnorm\", trainable = false }");
    assert!(serde_json::to_string(&norm).unwrap().contains("{\"type\":\"batchnorm\",\"trainable\":false}"));
}

#[test]
fn only_trained_parameters_are_trained() {
    let model = parse(
        "{ type = \"conv2d\", filters = 8, kernel_size = 3, trainable = \"bias\" },
         { type = \"conv2d\", filters = 8, kernel_size = 3, use_bias = false },
         { type = \"batchnorm\", trainable = false },
         { type = \"batchnorm\" },
         { type = \"conv2d\", filters = 8, kernel_size = 3, trainable = false },
         { type = \"flatten\" },
         { type = \"dense\", units = 10, use_bias = false }",
    )
    .unwrap();
    let parameters = model.parameters().unwrap();
    let names = |is: bool| -> Vec<&str> {
        parameters.iter().filter(|p| p.is_trained() == is).map(|p| p.name.as_str()).collect()
    };
    let trained = ["conv2d_1.bias", "conv2d_2.weight", "batchnorm_2.weight", "batchnorm_2.bias", "dense_1.weight"];
    assert_eq!(names(true), trained);
    let statistics = ["batchnorm_1.running_mean", "batchnorm_1.running_var"];
    let others = ["batchnorm_2.running_mean", "batchnorm_2.running_var", "conv2d_3.weight", "conv2d_3.bias"];
    let frozen = ["conv2d_1.weight", "batchnorm_1.weight", "batchnorm_1.bias"];
    assert_eq!(names(false), [&frozen[..], &statistics, &others].concat());

    let text = summary(&model).unwrap();
    // 8 + 576 + 16 + 38720, and 72 + 32 + 16 + 584.
    let counts = "Trainable params: 39,320. Non-trainable params: 704, of which 32 are running statistics.\n";
    assert!(text.contains("\nParameters: 40,024 (0.16 MB). ") && text.ends_with(counts), "{text}");
    // The gradient of the first filter is computed with that of its bias; that of the last filter is not.
    let shapes = model.shapes().unwrap();
    let [first, second, third, dense] = [0, 1, 4, 6].map(|i| shapes[i].multiply_adds);
    let work = 2e-6 * (2 * first + 3 * second + 2 * third + 3 * dense) as f64;
    assert!((training_mflop(&shapes) - work).abs() < 1e-12);
}

#[test]
fn contradictions_are_refused_with_the_key() {
    let conv = |filters: usize, size: &str, rest: &str| {
        format!("{{ type = \"conv2d\", filters = {filters}, kernel_size = {size}, {rest} }}, {END}")
    };
    let whitening = "init = \"whitening\"";
    for (layers, parts) in [
        (
            conv(4, "3", "use_bias = false, trainable = \"bias\""),
            vec!["`trainable` is \"bias\"", "`use_bias` is false"],
        ),
        (conv(4, "3", "trainable = \"weight\""), vec!["true, false or \"bias\""]),
        (conv(4, "3", "trainable = 1"), vec!["true, false or \"bias\""]),
        (conv(4, "3", "init = \"zeros\""), vec!["zeros", "glorot_uniform", "whitening"]),
        (conv(4, "[3, 2]", "init = \"dirac\""), vec!["`init` is dirac", "`kernel_size` is [3, 2]", "odd"]),
        (
            format!(
                "{{ type = \"conv2d\", filters = 4, kernel_size = 1 }}, {}",
                conv(4, "3", "init = \"dirac\", groups = 2")
            ),
            vec!["layer 2 (conv2d)", "`init` is dirac", "`groups` is 2"],
        ),
        (conv(20, "3", whitening), vec!["`init` is whitening", "`filters` is 20", "twice the 9"]),
        (conv(7, "3", whitening), vec!["`init` is whitening", "`filters` is 7", "even"]),
        (conv(4, "3", "init = \"whitening\", use_bias = false"), vec!["`init` is whitening", "`use_bias` is false"]),
        (conv(4, "17", "init = \"whitening\""), vec!["`init` is whitening", "289 values", "at most 256"]),
        (
            conv(4, "[1, 30]", "init = \"whitening\", padding = \"same\""),
            vec!["`init` is whitening", "larger than the images"],
        ),
        (
            format!("{{ type = \"relu\" }}, {}", conv(4, "3", whitening)),
            vec!["layer 2 (conv2d)", "`init` is whitening", "does not read the images"],
        ),
        (
            format!("{{ type = \"flatten\" }}, {{ type = \"dense\", units = 10, {whitening} }}"),
            vec!["layer 2 (dense)", "only a convolution"],
        ),
        (
            "{ type = \"flatten\" }, { type = \"dense\", units = 10, trainable = false }".to_string(),
            vec!["no layer is trained"],
        ),
        (format!("{{ type = \"batchnorm\", trainable = \"bias\" }}, {END}"), vec!["expected a boolean"]),
    ] {
        let said = parse(&layers).unwrap_err().to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}\nshould contain {parts:?}");
    }
    // By name, a later layer reads the images too.
    let by_name = "{ type = \"conv2d\", filters = 4, kernel_size = 3, init = \"whitening\", input = \"input\" }";
    model(&format!("{by_name}, {{ type = \"conv2d\", filters = 4, kernel_size = 3 }}"));
}

/// Returns the initial weight of the second of two convolutions, and those of the other layers.
fn drawn(init: &str, filters: usize, seed: u64) -> (Vec<f64>, Vec<Vec<f32>>) {
    let model = model(&format!(
        "{{ type = \"conv2d\", filters = 16, kernel_size = 3 }},
         {{ type = \"conv2d\", filters = {filters}, kernel_size = [5, 3], init = \"{init}\" }}"
    ));
    let mut parameters = initial_parameters(&model.parameters().unwrap(), seed);
    let weight = parameters.remove(2);
    assert_eq!(weight.len(), 5 * 3 * 16 * filters);
    (weight.into_iter().map(f64::from).collect(), parameters)
}

#[test]
fn another_init_changes_no_other_layer() {
    let (glorot, others) = drawn("glorot_uniform", 24, 5);
    for init in ["he_normal", "dirac"] {
        let (weight, same) = drawn(init, 24, 5);
        assert!(weight != glorot && same == others, "{init}");
        assert!(drawn(init, 24, 5).0 == weight && drawn(init, 24, 6).0 != weight, "{init}");
    }
}

#[test]
fn he_normal_is_a_normal_distribution_without_tails() {
    let (weight, _) = drawn("he_normal", 400, 1);
    let n = weight.len() as f64;
    let deviation = (2.0f64 / (5.0 * 3.0 * 16.0)).sqrt();
    let mean = weight.iter().sum::<f64>() / n;
    let variance = weight.iter().map(|w| (w - mean).powi(2)).sum::<f64>() / n;
    // 96,000 numbers: five standard errors.
    assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "{mean}");
    assert!((variance.sqrt() / deviation - 1.0).abs() < 5.0 * 0.6 / n.sqrt(), "{} for {deviation}", variance.sqrt());
    // That of the distribution before its tails are cut off.
    let whole = deviation / 0.879_625_661_034_239_8;
    let largest = weight.iter().fold(0.0f64, |max, w| max.max(w.abs()));
    assert!(largest <= 2.0 * whole * (1.0 + 1e-6) && largest > 1.99 * whole, "{largest}");
    for (limit, share) in [(0.5, 0.401_2), (1.0, 0.715_2), (1.5, 0.907_6)] {
        let within = weight.iter().filter(|w| w.abs() < limit * whole).count() as f64 / n;
        assert!((within - share).abs() < 0.008, "{within} within {limit}, expected {share}");
    }
}

#[test]
fn dirac_passes_channels_on() {
    for filters in [24, 16, 5] {
        let (weight, _) = drawn("dirac", filters, 3);
        let (glorot, _) = drawn("glorot_uniform", filters, 3);
        for (i, (value, other)) in weight.iter().zip(&glorot).enumerate() {
            let (cell, c, o) = (i / filters / 16, i / filters % 16, i % filters);
            let expected = match (o < 16, cell == 7 && c == o) {
                (true, true) => 1.0,
                (true, false) => 0.0,
                (false, _) => *other,
            };
            assert_eq!(*value, expected, "cell {cell}, channel {c}, filter {o} of {filters}");
        }
    }
    // With the same padding, the first filters return the image, the others do not.
    let model = model("{ type = \"conv2d\", filters = 3, kernel_size = [3, 5], padding = \"same\", init = \"dirac\" }");
    let parameters = initial_parameters(&model.parameters().unwrap(), 1);
    let image = synthetic::generate(1, 1, 1).0.images;
    let (outputs, _) = ReferenceEngine::<f64>::layer_outputs(&model, &parameters, &image).unwrap();
    let channel = |c: usize| outputs[0].iter().skip(c).step_by(3).copied().collect::<Vec<f64>>();
    let pixels: Vec<f64> = image.iter().map(|&pixel| f64::from(pixel) / 255.0).collect();
    assert!(channel(0) == pixels && channel(1) != pixels);
}

/// Checks eigenvalues and eigenvectors; returns the eigenvalues.
fn decomposed(matrix: &[f64], n: usize) -> Vec<f64> {
    let pairs = eigenvectors(matrix.to_vec(), n);
    assert_eq!(pairs.len(), n);
    let size = matrix.iter().map(|x| x * x).sum::<f64>().sqrt().max(1.0);
    for (i, (value, vector)) in pairs.iter().enumerate() {
        for (row, x) in matrix.chunks(n).zip(vector) {
            let product: f64 = row.iter().zip(vector).map(|(a, x)| a * x).sum();
            assert!((product - value * x).abs() < 1e-13 * size * n as f64, "A v = {product}, value v = {}", value * x);
        }
        for (j, (_, other)) in pairs.iter().enumerate() {
            let product: f64 = vector.iter().zip(other).map(|(x, y)| x * y).sum();
            assert!((product - if i == j { 1.0 } else { 0.0 }).abs() < 1e-13 * n as f64, "vectors {i} and {j}");
        }
        let largest = vector.iter().fold(0.0f64, |max, x| if x.abs() > max.abs() { *x } else { max });
        assert!(largest > 0.0, "the sign of {vector:?}");
    }
    assert!(pairs.windows(2).all(|two| two[0].0 >= two[1].0), "the order");
    assert!(pairs == eigenvectors(matrix.to_vec(), n), "another time, other bits");
    pairs.into_iter().map(|(value, _)| value).collect()
}

#[test]
fn eigenvectors_are_those_of_the_matrix() {
    let near = |found: Vec<f64>, expected: Vec<f64>| {
        let fits = found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12);
        assert!(fits && found.len() == expected.len(), "{found:?}, expected {expected:?}");
    };
    near(decomposed(&[-3.0], 1), vec![-3.0]);
    near(decomposed(&[2.0, 1.0, 1.0, 2.0], 2), vec![3.0, 1.0]);
    near(decomposed(&[0.0, 5.0, 5.0, 0.0], 2), vec![5.0, -5.0]);
    near(decomposed(&[0.0; 16], 4), vec![0.0; 4]);
    let vector = |matrix: &[f64], i: usize| eigenvectors(matrix.to_vec(), 3).remove(i).1;
    assert_eq!(vector(&[1.0, 0.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0, 3.0], 0), [0.0, 1.0, 0.0]);
    // Second differences, whose eigenvalues are known.
    let n = 9usize;
    let differences = (0..n * n).map(|at| match (at / n).abs_diff(at % n) {
        0 => 2.0,
        1 => -1.0,
        _ => 0.0,
    });
    let angle = |k: usize| k as f64 * std::f64::consts::PI / (n + 1) as f64;
    let known = (1..=n).rev().map(|k| 2.0 - 2.0 * angle(k).cos()).collect();
    near(decomposed(&differences.collect::<Vec<f64>>(), n), known);
    // Equal eigenvalues: the identity and a rank of one.
    let n = 25;
    let both: Vec<f64> = (0..n * n).map(|at| if at / n == at % n { 3.0 } else { 2.0 }).collect();
    near(decomposed(&both, n), std::iter::once(51.0).chain([1.0; 24]).collect());
    // Any numbers, of very different sizes.
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    for (n, scale) in [(3, 1.0), (16, 1e-6), (40, 1e5)] {
        let mut matrix = vec![0.0; n * n];
        for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))) {
            matrix[i * n + j] = scale * random() * 10f64.powi(i as i32 % 4);
            matrix[j * n + i] = matrix[i * n + j];
        }
        let trace: f64 = (0..n).map(|i| matrix[i * n + i]).sum();
        let sum: f64 = decomposed(&matrix, n).iter().sum();
        assert!((sum - trace).abs() < 1e-9 * scale.max(1.0), "{sum} and {trace}");
    }
}

/// The training images of the genuine data set, or else generated ones.
fn training_images() -> Split {
    match genuine_data() {
        Some(folder) => {
            let options = LoadOptions { data_dir: Some(folder), ..LoadOptions::default() };
            load(&options, &mut |_| ()).unwrap().train
        }
        None => synthetic::generate(6_000, 1, 0).0,
    }
}

/// The mean of the product of any two of the first `some` outputs of a convolution `[3, 3, 1, O]` over all windows of some images.
fn products(images: &[u8], weight: &[f32], bias: &[f32], some: usize) -> Vec<f64> {
    let filters = bias.len();
    let mut sums = vec![0.0; some * some];
    for image in images.chunks(784) {
        for (i, j) in (0..26).flat_map(|i| (0..26).map(move |j| (i, j))) {
            let mut y: Vec<f64> = bias[..some].iter().map(|&b| f64::from(b)).collect();
            for (k, w) in weight.chunks(filters).enumerate() {
                let x = f64::from(image[(i + k / 3) * 28 + j + k % 3]) / 255.0;
                y.iter_mut().zip(w).for_each(|(y, &w)| *y += x * f64::from(w));
            }
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum += y[at / some] * y[at % some];
            }
        }
    }
    let windows = (images.len() / 784 * 26 * 26) as f64;
    sums.into_iter().map(|sum| sum / windows).collect()
}

/// What whitening is for: over all patches, the outputs are uncorrelated, and all vary alike.
#[test]
fn whitened_patches_have_the_identity_as_covariance() {
    let train = training_images();
    let layer = |filters: usize| {
        let layer = format!("{{ type = \"conv2d\", filters = {filters}, kernel_size = 3, init = \"whitening\" }}");
        let parameters = model(&layer).initial_parameters(&train, 3).unwrap();
        (parameters[0].clone(), parameters[1].clone())
    };
    let (weight, bias) = layer(16);
    let images = &train.images[..5_000 * 784];
    let covariance = products(images, &weight, &bias, 8);
    for (at, value) in covariance.iter().enumerate() {
        // The eigenvalues are a little enlarged before the filters are divided by their roots.
        let (low, high) = if at / 8 == at % 8 { (0.95, 1.0) } else { (-1e-5, 1e-5) };
        assert!((low..high).contains(value), "{value} in row {} and column {}", at / 8, at % 8);
    }
    let mirrored = weight.chunks(16).chain([&bias[..]]).all(|w| (0..8).all(|o| w[o] == -w[o + 8]));
    assert!(mirrored, "the second half of the filters are the negatives of the first");

    // The bias subtracts the mean of all pixels.
    let mean = images.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / images.len() as f64 / 255.0;
    for (o, &bias) in bias.iter().enumerate() {
        let sum: f64 = weight.iter().skip(o).step_by(16).map(|&w| f64::from(w)).sum();
        assert!((f64::from(bias) + mean * sum).abs() < 1e-5 * (1.0 + sum.abs()), "{bias} for {sum} times {mean}");
    }
    if genuine_data().is_some() {
        // That of all training images is .2860.
        assert!((mean - 0.286).abs() < 0.002, "{mean}");
        // As `torch.linalg.eigh` gives it in double precision, divided by mean and standard deviation of the same images.
        for (o, expected, expected_bias) in [
            (0, [0.330236, 0.350314, 0.332363, 0.343815, 0.363886, 0.343642, 0.332425, 0.350325, 0.329942], -0.880458),
            (
                3,
                [-1.380762, 2.464377, -1.245741, -1.444798, 2.790217, -1.372571, -1.359325, 2.459612, -1.36384],
                0.129576,
            ),
        ] {
            let found = weight.iter().skip(o).step_by(16).zip(expected);
            assert!(found.clone().count() == 9 && (bias[o] - expected_bias).abs() < 1e-5, "{}", bias[o]);
            found.for_each(|(w, expected)| assert!((w - expected).abs() < 1e-5, "{w} for {expected}"));
        }
    }
    // The leading ones, in their order: with fewer filters the first of them.
    let (all, _) = layer(18);
    let (four, _) = layer(8);
    let lengths: Vec<f64> =
        (0..9).map(|o| all.iter().skip(o).step_by(18).map(|&w| f64::from(w * w)).sum::<f64>()).collect();
    assert!(lengths.is_sorted(), "{lengths:?}");
    for (k, w) in weight.chunks(16).enumerate() {
        assert!(w[..8] == all[k * 18..][..8] && w[..4] == four[k * 8..][..4]);
    }
}

/// The same for images of several channels that are not square, and a window that is not either.
#[test]
fn windows_of_several_channels_are_whitened() {
    const SHAPE: [usize; 3] = [6, 5, 3];
    const WINDOW: [usize; 2] = [2, 3];
    let mut model = model("{ type = \"conv2d\", filters = 8, kernel_size = [2, 3], init = \"whitening\" }");
    model.input = SHAPE;
    let [_, w, channels] = SHAPE;
    // Noise, of which neighbours have a part in common.
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 25) as u8
    };
    let mut images: Vec<u8> = (0..400 * SHAPE.iter().product::<usize>()).map(|_| noise()).collect();
    (1..images.len()).for_each(|i| images[i] = images[i] / 2 + images[i - 1]);
    let split = Split { labels: vec![0; 400], images };
    let parameters = model.initial_parameters(&split, 3).unwrap();
    let (weight, bias, filters) = (&parameters[0], &parameters[1], 8);
    let (mut sums, mut windows) = ([[0.0; 4]; 4], 0.0);
    for image in split.images.chunks(SHAPE.iter().product()) {
        for (i, j) in (0..=SHAPE[0] - WINDOW[0]).flat_map(|i| (0..=w - WINDOW[1]).map(move |j| (i, j))) {
            let y: Vec<f64> = (0..4)
                .map(|o| {
                    let x = |k: usize| {
                        let (p, q) = (k / (WINDOW[1] * channels), k % (WINDOW[1] * channels));
                        f64::from(image[((i + p) * w + j) * channels + q]) / 255.0
                    };
                    let products =
                        weight.iter().skip(o).step_by(filters).enumerate().map(|(k, &w)| x(k) * f64::from(w));
                    f64::from(bias[o]) + products.sum::<f64>()
                })
                .collect();
            (0..16).for_each(|at| sums[at / 4][at % 4] += y[at / 4] * y[at % 4]);
            windows += 1.0;
        }
    }
    // The mean of a position need not be that of all pixels, so that the outputs have one; here it is small.
    for at in 0..16 {
        let (value, expected) = (sums[at / 4][at % 4] / windows, if at / 4 == at % 4 { 1.0 } else { 0.0 });
        assert!((value - expected).abs() < 0.1, "{value} in row {} and column {}", at / 4, at % 4);
    }
}

#[test]
fn whitening_looks_at_the_first_images_and_takes_any() {
    let layers = "{ type = \"conv2d\", filters = 8, kernel_size = [2, 3], init = \"whitening\", trainable = \"bias\" }";
    let model = model(layers);
    let (train, _) = synthetic::generate(5_001, 1, 0);
    let of = |split: &Split, seed: u64| model.initial_parameters(split, seed).unwrap();
    let all = of(&train, 1);
    let mut first = train.clone();
    first.truncate(5_000);
    assert!(of(&first, 1) == all, "the image after the first 5,000 counts");
    first.truncate(4_999);
    assert!(of(&first, 1)[..2] != all[..2]);
    // The images decide, not the seed, which draws the other layers as without whitening.
    let other = of(&train, 2);
    assert!(other[..2] == all[..2] && other[2] != all[2]);
    let drawn = initial_parameters(&model.parameters().unwrap(), 1);
    assert!(drawn[2..] == all[2..] && drawn[0] != all[0]);
    // Nothing varies in blank images, and there may be none.
    for blank in [Split { images: vec![9; 784 * 3], labels: vec![0; 3] }, Split::default()] {
        assert!(of(&blank, 1).iter().flatten().all(|value| value.is_finite()));
    }
}

/// A training starts from the filters that whiten its own training images, without those for validation.
#[test]
fn a_session_whitens_its_training_images() {
    let text =
        "name = \"w\"\nlayer = [{ type = \"conv2d\", filters = 4, kernel_size = 5, stride = 4, init = \"whitening\" },
        { type = \"flatten\" }, { type = \"dense\", units = 10 }]\n[train]\nepochs = 1\n";
    let mut plan = Plan::new(ModelFile::parse("w.toml".as_ref(), text).unwrap(), &[]).unwrap();
    plan.recipe.validation_split = 0.2;
    let (train, test) = synthetic::generate(200, 10, 0);
    let source = "generated".to_string();
    let dataset = Dataset { train, test, description: FASHION_MNIST, kind: DatasetKind::Synthetic, source };
    let (device, never) = (Device::Native(1), AtomicBool::new(false));
    let all = plan.model.initial_parameters(&dataset.train, 0).unwrap();
    let session = Session::new(&plan, &device, SharedTiles::default(), dataset, &never).unwrap();
    let expected = plan.model.initial_parameters(&session.dataset.train, 0).unwrap();
    let mut training = Training::new(&session).block_on().unwrap();
    let trainer = training.trainer(None).block_on().unwrap();
    assert_eq!(session.dataset.train.len(), 160);
    assert!(trainer.state().parameters == expected && expected != all);
}

/// As in Keras: a normalization that is not trained is the same function in training as afterwards, and its statistics stay.
#[test]
fn a_frozen_normalization_uses_its_running_statistics_in_training() {
    for (trainable, is_same) in [("false", true), ("true", false)] {
        let model = model(&format!(
            "{{ type = \"conv2d\", filters = 3, kernel_size = 5, stride = 4 }},
             {{ type = \"batchnorm\", trainable = {trainable} }}, {{ type = \"gelu\" }}"
        ));
        let parameters = crate::export::trained_size(&model);
        let (train, _) = synthetic::generate(8, 1, 0);
        let adam = Optimizer::Adam(AdamConfig::default());
        let engine = ReferenceEngine::<f64>::new(&model, &parameters, &train, 8, adam).unwrap();
        let batch = ReferenceEngine::batch(&train, &[0, 1, 2, 3, 4, 5, 6, 7], 0, 8);
        let (training, inference) = (engine.gradients(&batch).unwrap(), engine.forward(&batch).unwrap());
        assert_eq!(training.logits == inference.logits, is_same, "trainable = {trainable}");
        assert_eq!(training.gradients.iter().filter(|g| !g.is_empty()).count(), if is_same { 4 } else { 6 });
    }
}

/// The lines of a training step's program that begin with these words.
fn lines(model: &Model, begin: &str) -> Vec<String> {
    let text = lower(model, Mode::Train, 4, None).unwrap().to_string();
    text.lines().filter(|line| line.starts_with(begin)).map(str::to_string).collect()
}

/// Nothing is computed for what is frozen, except what earlier layers need.
#[test]
fn frozen_layers_have_no_gradients_but_pass_them_on() {
    let conv = |rest: &str| format!("{{ type = \"conv2d\", filters = 4, kernel_size = 3{rest} }}");
    let frozen = ", trainable = false";
    let first = model(&[conv(frozen), conv("")].join(", "));
    assert_eq!(
        lines(&first, "Conv2dBackward"),
        ["Conv2dBackward: conv2d_1.y conv2d_2.weight conv2d_2.dy -> gradients.conv2d_2.weight gradients.conv2d_2.bias"]
    );
    let second = model(&[conv(""), conv(frozen)].join(", "));
    assert_eq!(
        lines(&second, "Conv2dBackward"),
        [
            "Conv2dBackward: conv2d_1.y conv2d_2.weight conv2d_2.dy -> conv2d_1.dy",
            "Conv2dBackward: x conv2d_1.weight conv2d_1.dy -> gradients.conv2d_1.weight gradients.conv2d_1.bias",
        ]
    );
    let both = model(&[conv(frozen), conv(frozen), "{ type = \"batchnorm\", trainable = false }".into()].join(", "));
    assert_eq!(lines(&both, "Conv2dBackward"), [""; 0]);
    assert_eq!(lines(&both, "BatchNormBackward"), [""; 0]);
    let grouped = model(&[conv(""), conv(", groups = 2, trainable = false")].join(", "));
    assert_eq!(
        lines(&grouped, "GroupedConv2dBackward"),
        ["GroupedConv2dBackward: conv2d_1.y conv2d_2.weight conv2d_2.dy -> conv2d_1.dy"]
    );
    let dense = "{ type = \"dense\", units = 7, trainable = false }";
    let dense = model(&format!("{}, {{ type = \"flatten\" }}, {dense}", conv("")));
    assert_eq!(lines(&dense, "DenseBackward")[1], "DenseBackward: conv2d_1.y dense_1.weight dense_1.dy -> conv2d_1.dy");
    // With trained layers before it, the normalization passes the gradient on, scaled.
    let norm = model(&[conv(""), "{ type = \"batchnorm\", trainable = false }".into()].join(", "));
    assert_eq!(lines(&norm, "BatchNormBackward"), [""; 0]);
    assert_eq!(lines(&norm, "BatchNorm: batchnorm_1.dy").len(), 1);
    // The bias alone: a gradient of the filter is computed, and goes nowhere.
    let bias = model(&conv(", trainable = \"bias\""));
    let program = lower(&bias, Mode::Train, 4, None).unwrap();
    let gradients =
        program.tensors.iter().filter(|tensor| matches!(tensor.place, fmnist_gpu::lower::Place::Gradient(_)));
    let gradients: BTreeSet<&str> = gradients.map(|tensor| tensor.name.as_str()).collect();
    let expected = ["gradients.conv2d_1.bias", "gradients.dense_1.weight", "gradients.dense_1.bias"];
    assert_eq!(gradients, expected.into());
}

/// Frozen layers and layers without bias in a run: on every device resumed with the same bits, in every file, and as they were.
#[test]
fn runs_with_frozen_layers_are_resumed_and_keep_them() {
    gpu();
    let text = "name = \"frozen\"
        layer = [
            { type = \"conv2d\", filters = 8, kernel_size = 3, stride = 2, init = \"whitening\", trainable = \"bias\" },
            { type = \"gelu\" },
            { type = \"conv2d\", filters = 8, kernel_size = 3, padding = \"same\", use_bias = false, trainable = false },
            { type = \"batchnorm\", scale = false },
            { type = \"relu\" },
            { type = \"maxpool2d\", pool_size = 2 },
            { type = \"batchnorm\", trainable = false },
            { type = \"flatten\" },
            { type = \"dense\", units = 10, use_bias = false },
        ]";
    for device in ["cpu", "auto"] {
        let place = Place::new();
        fs::write(place.path("frozen.toml"), text).unwrap();
        let line = |epochs: usize, out: &str| {
            format!(
                "train --model frozen.toml --dataset synthetic --train-limit 96 --batch-size 20 --checkpoint-every 1 \
                 --device {device} --no-report --quiet --epochs {epochs} --out {out}"
            )
        };
        place.run(&line(0, "begin")).exits(0);
        place.run(&(line(2, "whole") + " --tensorboard")).exits(0);
        place.run(&line(1, "half")).exits(0);
        place.run(&format!("train --resume half --epochs 2 --device {device} --no-report --quiet")).exits(0);
        let file = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
        assert!(file("whole") == file("half"), "{device}: resumed, other weights");
        let (model, trained) = weights::from_bytes(&file("whole")).unwrap();
        let (_, initial) = weights::from_bytes(&file("begin")).unwrap();
        let described = model.parameters().unwrap();
        for (parameter, (before, after)) in described.iter().zip(initial.iter().zip(&trained)) {
            let is_kept =
                !parameter.is_trained() && (!parameter.role.is_statistic() || parameter.trainable == Trainable::No);
            assert_eq!(before == after, is_kept, "{device}: {}", parameter.name);
        }
        // The optimizer keeps nothing for them, and there are no histograms of gradients that do not exist.
        let checkpoint = fs::read_dir(place.path("whole").join(FOLDER)).unwrap().next().unwrap().unwrap().path();
        let checkpoint = Checkpoint::from_bytes(&fs::read(checkpoint).unwrap()).unwrap();
        let names: Vec<&str> = described.iter().filter(|p| p.is_trained()).map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["conv2d_1.bias", "batchnorm_1.bias", "dense_1.weight"]);
        assert!(checkpoint.state.slots.iter().all(|slot| slot.len() == names.len()));
        let events = fs::read_dir(place.path("whole/tensorboard/train")).unwrap().next().unwrap().unwrap().path();
        let events = read_events(&fs::read(events).unwrap()).unwrap();
        let tags: BTreeSet<&str> = events.iter().filter_map(|event| event.tag.strip_prefix("gradients/")).collect();
        assert_eq!(tags, ["conv2d_1/bias", "batchnorm_1/bias", "dense_1/weight"].into(), "{device}");
        place.run("evaluate whole --dataset synthetic --quiet").exits(0);
    }
}

/// A model without bias gives, on the native engine and the plain loops, what the same model with a bias of zero gives.
#[test]
fn no_bias_is_a_bias_of_zero() {
    let of = |rest: &str| {
        parse(&format!(
            "{{ type = \"conv2d\", filters = 4, kernel_size = 5, stride = 3{rest} }}, {{ type = \"batchnorm\" }},
             {{ type = \"relu\" }}, {{ type = \"flatten\" }}, {{ type = \"dense\", units = 10{rest} }}"
        ))
        .unwrap()
    };
    let (with, without) = (of(""), of(", use_bias = false"));
    let mut parameters = initial_parameters(&with.parameters().unwrap(), 1);
    let all = parameters.clone();
    parameters.remove(7);
    parameters.remove(1);
    let (_, test) = synthetic::generate(1, 50, 0);
    let predict = |model: &Model, parameters: &[Vec<f32>]| {
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        let native = NativeEngine::new(model, parameters, 1).unwrap().predict(&test.images, go_on).block_on().unwrap();
        let adam = Optimizer::Adam(AdamConfig::default());
        let reference = ReferenceEngine::<f32>::new(model, parameters, &Split::default(), 50, adam);
        [native, reference.unwrap().predict(&test.images, go_on).block_on().unwrap()]
    };
    assert!(predict(&with, &all) == predict(&without, &parameters));
}
