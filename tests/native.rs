use crate::support::fixture::{Fixture, worst_error};
use crate::support::genuine_data;
use crate::support::program::Place;
use crate::training::{keras_start, model_of, walks_with_keras};
use fmnist_gpu::cpu::conv2d::{Conv2dDims, Padding};
use fmnist_gpu::data::{Split, fashion_mnist, synthetic};
use fmnist_gpu::engine::{Engine, EngineError, Epoch, NativeEngine, Optimizer, ReferenceEngine, StepConfig, Totals};
use fmnist_gpu::model::{Model, initial_parameters, permutation};
use fmnist_gpu::native::conv2d::{Algorithm, Conv2d};
use fmnist_gpu::native::lanes;
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::train::{Position, TrainOptions, train};
use fmnist_gpu::verify::{Breadth, Verdict, native};
use pollster::FutureExt as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

const ADAM: Optimizer = Optimizer::Adam(AdamConfig { learning_rate: 1e-3, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7 });
const MOMENTUM: Optimizer = Optimizer::Sgd(SgdConfig { learning_rate: 0.01, momentum: 0.9, nesterov: false });

fn go(_: &Totals) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn epoch(samples: usize, batch_size: usize, optimizer: &Optimizer, number: u64) -> Epoch {
    let batches = samples.div_ceil(batch_size) as u64;
    Epoch {
        number,
        order: permutation(samples, 7, number),
        rates: (1..=batches)
            .map(|i| StepConfig::from(optimizer).rates((number - 1) * batches + i, number * batches))
            .collect(),
        ..Epoch::default()
    }
}

fn initial(model: &Model, seed: u64) -> Vec<Vec<f32>> {
    initial_parameters(&model.parameters().unwrap(), seed)
}

/// Convolutions that cover every code path: with and without pooling after them, overlapping pooling, other windows and
/// strides, a single channel.
const EVERY_LAYER: &str = "
    name = 'every-layer'
    [[layer]]
    type = 'conv2d'
    filters = 16
    kernel_size = 3
    padding = 'same'
    activation = 'relu'
    [[layer]]
    type = 'maxpool2d'
    pool_size = 3
    stride = 2
    [[layer]]
    type = 'conv2d'
    filters = 32
    kernel_size = 3
    padding = 'same'
    [[layer]]
    type = 'relu'
    [[layer]]
    type = 'averagepool2d'
    pool_size = 2
    [[layer]]
    type = 'conv2d'
    filters = 5
    kernel_size = [3, 2]
    stride = [2, 1]
    activation = 'relu'
    [[layer]]
    type = 'maxpool2d'
    pool_size = 2
    [[layer]]
    type = 'flatten'
    [[layer]]
    type = 'dense'
    units = 32
    activation = 'relu'
    [[layer]]
    type = 'dense'
    units = 10
    activation = 'softmax'
";

/// Convolutions without a ReLU, with and without pooling, normalizations and a sum, as in modern networks.
const MODERN: &str = "
    name = 'modern'
    [[layer]]
    type = 'conv2d'
    filters = 16
    kernel_size = 3
    activation = 'gelu'
    [[layer]]
    type = 'conv2d'
    filters = 32
    kernel_size = 3
    [[layer]]
    type = 'maxpool2d'
    pool_size = 2
    [[layer]]
    type = 'batchnorm'
    [[layer]]
    type = 'gelu'
    name = 'stem'
    [[layer]]
    type = 'conv2d'
    filters = 32
    kernel_size = 3
    padding = 'same'
    [[layer]]
    type = 'batchnorm'
    name = 'norm'
    [[layer]]
    type = 'add'
    inputs = ['stem', 'norm']
    [[layer]]
    type = 'gelu'
    [[layer]]
    type = 'maxpool2d'
    pool_size = 12
    [[layer]]
    type = 'flatten'
    [[layer]]
    type = 'dense'
    units = 10
    activation = 'softmax'
";

fn loaded(text: &str) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.toml");
    std::fs::write(&file, text).unwrap();
    Model::load(file.to_str().unwrap()).unwrap()
}

fn every_layer() -> Model {
    loaded(EVERY_LAYER)
}

/// What the proofs of all forms of the native loops found: they take long, and two tests look at them.
pub static ALL_FORMS: LazyLock<Vec<Verdict>> = LazyLock::new(|| native::check_all(0, Breadth::Everything));

/// Compares every loop of the native engine with the plain one in double precision, under the shaders' bounds.
#[test]
fn every_loop_equals_its_mirror() {
    for verdict in &*ALL_FORMS {
        assert!(verdict.passed(), "{}: {:#?}", verdict.kernel, &verdict.failures[..verdict.failures.len().min(5)]);
    }
}

/// The article's convolutions use the fast paths if the CPU has vector instructions.
#[test]
fn the_articles_convolutions_are_fast() {
    if lanes() < 4 {
        return;
    }
    let engine = NativeEngine::new(&Model::cnn(), &initial(&Model::cnn(), 0), 1).unwrap();
    let ways = engine.describe();
    assert_eq!(ways, ["direct, pooled positions, outputs on the lanes", "Winograd, pooled positions"]);
    let d = Conv2dDims::new(1, [9, 9, 5], [2, 2], 3, [1, 1], Padding::Same).unwrap();
    assert_eq!(Conv2d::new(&d, false, None, true, Algorithm::Fastest).describe(), ["patches", "patches"]);
}

/// So do convolutions of modern networks, whose pooling follows no ReLU or which have none.
#[test]
fn modern_convolutions_are_fast() {
    if lanes() < 4 {
        return;
    }
    let (model, split) = (loaded(MODERN), synthetic::generate(8, 1, 3).0);
    let engine = NativeEngine::new(&model, &initial(&model, 0), 1).unwrap().and_training(&split, 8, ADAM).unwrap();
    assert_eq!(engine.describe(), ["tiles, tiles", "Winograd, pooled positions, dx in tiles", "Winograd, Winograd"]);
}

/// Compares the whole with an external reference, as for the shaders: Keras in double precision.
fn agrees_with_keras(name: &str, algorithm: Algorithm) {
    let truth = Fixture::load(name);
    let (parameters, split) = keras_start(&truth);
    let engine = NativeEngine::with_algorithm(&model_of(name), &parameters, 2, algorithm).unwrap();
    let mut engine = engine.and_training(&split, 32, ADAM).unwrap();
    walks_with_keras(&truth, &mut engine, |engine| engine.last_logits().unwrap().to_vec());
}

#[test]
fn mlp_agrees_with_keras() {
    agrees_with_keras("mlp", Algorithm::Fastest);
}

#[test]
fn grouped_convolutions_agree_with_pytorch() {
    agrees_with_keras("grouped", Algorithm::Fastest);
}

#[test]
fn cnn_agrees_with_keras() {
    agrees_with_keras("cnn", Algorithm::Fastest);
}

#[test]
fn cnn_agrees_with_keras_by_patches() {
    agrees_with_keras("cnn", Algorithm::Patches);
}

/// Returns the parameters after some epochs.
fn trained(model: &Model, split: &Split, batch_size: usize, optimizer: &Optimizer, threads: usize) -> Vec<Vec<f32>> {
    let mut engine = NativeEngine::new(model, &initial(model, 3), threads)
        .unwrap()
        .and_training(split, batch_size, optimizer)
        .unwrap();
    for number in 1..=2 {
        let totals =
            engine.train_epoch(&epoch(split.len(), batch_size, optimizer, number), &mut go).block_on().unwrap();
        assert_eq!(totals.samples as usize, split.len());
    }
    engine.parameters().block_on().unwrap()
}

/// One thread, two, three, more than there are rows for: the same bits, including with short last batches.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let split = synthetic::generate(101, 1, 3).0;
    for model in [Model::mlp(), Model::cnn(), every_layer(), loaded(MODERN)] {
        for batch_size in [1, 7, 32, 100] {
            let one = trained(&model, &split, batch_size, &ADAM, 1);
            for threads in [2, 3, 13] {
                let more = trained(&model, &split, batch_size, &ADAM, threads);
                assert!(one == more, "{}, batch size {batch_size}, {threads} threads", model.name);
            }
        }
    }
}

/// Compares with the plain loops in double precision, with a short last batch and both optimizers.
#[test]
fn trains_as_the_plain_loops_do() {
    let split = synthetic::generate(43, 1, 5).0;
    for (model, batch_size) in [(Model::mlp(), 16), (Model::cnn(), 8), (every_layer(), 8)] {
        for optimizer in [ADAM, MOMENTUM] {
            let initial = initial(&model, 5);
            let mut engine =
                NativeEngine::new(&model, &initial, 2).unwrap().and_training(&split, batch_size, optimizer).unwrap();
            let mut truth = ReferenceEngine::<f64>::new(&model, &initial, &split, batch_size, optimizer).unwrap();
            for number in 1..=2 {
                let work = epoch(split.len(), batch_size, &optimizer, number);
                let a = engine.train_epoch(&work, &mut go).block_on().unwrap();
                let b = truth.train_epoch(&work, &mut go).block_on().unwrap();
                let error = (a.loss - b.loss).abs() / b.loss;
                assert!(error <= 1e-5, "{}, {optimizer:?}: {} and {}", model.name, a.mean_loss(), b.mean_loss());
                assert_eq!((a.samples, a.batches), (b.samples, b.batches));
            }
            for (a, b) in engine.parameters().block_on().unwrap().iter().zip(&truth.parameters().block_on().unwrap()) {
                let b: Vec<f64> = b.iter().map(|&b| f64::from(b)).collect();
                assert!(worst_error(a, &b) <= 2e-4, "{}, {optimizer:?}: {:e}", model.name, worst_error(a, &b));
            }
            let test = synthetic::generate(77, 1, 6).0;
            let (a, b) = (
                engine.evaluate(&test, &mut go).block_on().unwrap(),
                truth.evaluate(&test, &mut go).block_on().unwrap(),
            );
            assert!((a.loss - b.loss).abs() / b.loss <= 1e-4 && a.samples == b.samples);
        }
    }
}

/// A state that is taken from one engine and loaded into another gives the same bits.
#[test]
fn a_restored_state_goes_on_exactly() {
    let split = synthetic::generate(60, 1, 3).0;
    for (model, optimizer) in [(Model::cnn(), ADAM), (Model::mlp(), MOMENTUM)] {
        let engine =
            || NativeEngine::new(&model, &initial(&model, 3), 2).unwrap().and_training(&split, 16, optimizer).unwrap();
        let (mut through, mut first, mut second) = (engine(), engine(), engine());
        for number in 1..=2 {
            through.train_epoch(&epoch(60, 16, &optimizer, number), &mut go).block_on().unwrap();
        }
        first.train_epoch(&epoch(60, 16, &optimizer, 1), &mut go).block_on().unwrap();
        second.restore(&first.state().block_on().unwrap()).unwrap();
        second.train_epoch(&epoch(60, 16, &optimizer, 2), &mut go).block_on().unwrap();
        assert!(second.state().block_on().unwrap() == through.state().block_on().unwrap(), "{}", model.name);
        let wrong = NativeEngine::new(&Model::mlp(), &initial(&Model::mlp(), 0), 1)
            .unwrap()
            .restore(&first.state().block_on().unwrap());
        assert!(matches!(wrong, Err(EngineError::State { .. })));
    }
}

/// Invalid samples are rejected before a loop could use them as indices.
#[test]
fn samples_are_checked() {
    let model = Model::mlp();
    let weights = initial(&model, 0);
    let mut split = synthetic::generate(8, 1, 3).0;
    {
        let mut engine = NativeEngine::new(&model, &weights, 1).unwrap().and_training(&split, 4, ADAM).unwrap();
        let mut wrong = epoch(8, 4, &ADAM, 1);
        wrong.order[5] = 8;
        assert!(matches!(engine.train_epoch(&wrong, &mut go).block_on(), Err(EngineError::Samples { .. })));
    }
    split.labels[3] = 10;
    let refused = NativeEngine::new(&model, &weights, 1).and_then(|engine| engine.and_training(&split, 4, ADAM));
    assert!(matches!(refused, Err(EngineError::Samples { .. })));
}

/// A number that is not finite is traced to the first tensor that contains one.
#[test]
fn what_went_bad_is_found() {
    let model = Model::cnn();
    let split = synthetic::generate(32, 1, 3).0;
    let huge = Optimizer::Sgd(SgdConfig { learning_rate: 1e30, momentum: 0.0, nesterov: false });
    let mut engine = NativeEngine::new(&model, &initial(&model, 1), 2).unwrap().and_training(&split, 8, huge).unwrap();
    let options = TrainOptions::new(3, 32, 8, huge);
    let never = AtomicBool::new(false);
    let trained = train(&mut engine, &options, Position::default(), &Split::default(), &never, &mut |_, _| {})
        .block_on()
        .unwrap();
    let fmnist_gpu::train::Outcome::NonFinite { epoch: 1, cause: Some(cause), .. } = trained.outcome else {
        panic!("{:?}", trained.outcome)
    };
    assert!(cause.count > 0 && cause.step <= 4, "{cause:?}");
    assert!(engine.parameters().block_on().unwrap().iter().flatten().all(|value| value.is_finite()));
}

/// One epoch on the genuine data reaches the expected accuracy.
#[test]
fn learns_the_genuine_data() {
    let Some(folder) = genuine_data() else { return };
    let (training, test) = fashion_mnist::load_from_dir(&folder, &fashion_mnist::FILES).unwrap();
    let model = Model::cnn();
    let threads = NativeEngine::default_threads();
    let mut engine =
        NativeEngine::new(&model, &initial(&model, 0), threads).unwrap().and_training(&training, 32, ADAM).unwrap();
    engine.train_epoch(&epoch(training.len(), 32, &ADAM, 1), &mut go).block_on().unwrap();
    let totals = engine.evaluate(&test, &mut go).block_on().unwrap();
    assert!(totals.accuracy() >= 0.865, "{}", totals.accuracy());
}

/// The program with `--device cpu`: the run's files, the same bits for any number of threads, resuming, the report,
/// every export.
#[test]
fn the_program_computes_without_an_adapter() {
    let place = Place::new();
    let run = |line: &str| {
        let mut command = place.command(line);
        // There is no adapter at all, and nothing here may need one.
        command.env("WGPU_BACKEND", "metal").env_remove("WGPU_ADAPTER_NAME");
        crate::support::program::Ran::new(command.output().unwrap(), line)
    };
    let settings = "train --dataset synthetic --train-limit 300 --model cnn --json --quiet --no-report";
    let summary = run(&format!("{settings} --epochs 2 --device cpu --threads 1 --out one")).exits(0).summary();
    assert_eq!(summary["epochs_completed"], 2);
    assert_eq!(summary["parameters"], 421_642);
    assert!(summary["driver"].as_str().unwrap().starts_with("fmnist-gpu "));
    // Nothing is printed about the device, since there is no GPU.
    let auto = run(&settings.replace("--quiet", "--epochs 1 --threads 3 --out two")).exits(0);
    let auto = auto.says(&["No hardware GPU was found: computing on the CPU", "sh scripts/setup.sh"]);
    assert_eq!(auto.summary()["device"], summary["device"]);
    run("train --resume two --epochs 2 --device cpu --threads 2 --quiet --dataset synthetic").exits(0);
    let weights = |run: &str| std::fs::read(place.path(run).join("model.safetensors")).unwrap();
    assert!(weights("one") == weights("two"), "threads or a resume changed the result");
    let report = std::fs::read_to_string(place.path("two").join("report.html")).unwrap();
    assert!(report.contains("conv2d_backward") && report.contains("call by call, on one thread"));
    let evaluated = run("evaluate one --device cpu --json --quiet").exits(0).json();
    assert_eq!(evaluated["test_accuracy"], summary["test_accuracy"]);
    run("predict one --test-index 0..3 --device cpu --quiet").exits(0);
    for format in ["onnx", "torch", "keras", "npz"] {
        run(&format!("export one --format {format} --quiet")).exits(0);
    }
    let steps = run("filter --show-steps --kernel blur --device cpu").exits(0).out;
    assert_eq!(
        steps,
        run("filter --show-steps --kernel blur --device reference")
            .exits(0)
            .out
            .replace("the plain loops", "the native engine")
    );
    assert!(Path::new(&place.path("one").join("history.csv")).exists());
}

/// CPUs with narrower vectors, or none, use other tiles and other code paths: the results are as accurate, and training
/// reaches the same figures.
#[test]
fn narrower_vectors_are_right_too() {
    let place = Place::new();
    let run = |line: &str, vectors: &str| {
        let mut command = place.command(line);
        command.env("FMNIST_NATIVE_VECTORS", vectors);
        crate::support::program::Ran::new(command.output().unwrap(), line).exits(0)
    };
    let names: &[&str] = if lanes() >= 8 { &["avx2", "none"] } else { &["none"] };
    let train = "train --device cpu --dataset synthetic --train-limit 300 --epochs 1 --json --quiet --no-report --out";
    let widest = run(&format!("{train} widest"), "").summary();
    for vectors in names {
        let test = run("selftest --device cpu --json --quiet", vectors).json();
        assert_eq!(test["passed"], true, "{test}");
        let said = if *vectors == "avx2" { "AVX2" } else { "no vector instructions" };
        assert!(test["driver"].as_str().unwrap().ends_with(said), "{}", test["driver"]);
        let trained = run(&format!("{train} {vectors}"), vectors).summary();
        let [a, b] = [&trained, &widest].map(|summary| summary["test_loss"].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 1e-3, "{vectors}: {a} and {b}");
    }
}

/// Commands that only concern shaders say so; commands for any device also accept the CPU.
#[test]
fn commands_know_the_native_engine() {
    let place = Place::new();
    place.run("profile --device cpu").exits(2).says(&["shaders", "name an adapter"]);
    place.run("bench --device cpu --ab-checks").exits(2).says(&["shaders"]);
    let bench =
        place.run("bench --device cpu --model mlp --batch-size 32 --seconds 0.2 --threads 2 --json --quiet").exits(0);
    let bench = bench.json();
    assert_eq!(bench["threads"], 2);
    assert!(bench["peak_gflops"].as_f64().unwrap() > 0.0 && bench["results"].as_array().unwrap().len() == 2);
    let devices = place.run("devices --json").exits(0).json();
    let words: Vec<&str> = devices.as_array().unwrap().iter().filter_map(|d| d["device"].as_str()).collect();
    assert!(words.ends_with(&["cpu", "reference"]), "{words:?}");
    let test = place.run("selftest --device cpu --json --quiet").exits(0).json();
    assert_eq!(test["passed"], true);
    let kernels = test["kernels"].as_array().unwrap();
    assert!(kernels.len() >= 10 && kernels.iter().all(|k| k["kernel"].as_str().unwrap().starts_with("native ")));
    place.run("train --device cpu --threads 0").exits(2).says(&["--threads"]);
}
