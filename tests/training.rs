use crate::support::fixture::{self, Fixture, worst_error};
use crate::support::{genuine_data, gpu};
use fmnist_gpu::data::{Split, fashion_mnist, synthetic};
use fmnist_gpu::engine::{
    Batch, Engine, EngineError, Epoch, Factors, GpuEngine, NativeEngine, Optimizer, ReferenceEngine, StepConfig, Totals,
};
use fmnist_gpu::gpu::{Gpu, GpuOptions, Tiling};
use fmnist_gpu::model::{Model, initial_parameters, permutation};
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::average::AverageConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::train::{EpochRecord, Event, Outcome, Position, TrainOptions, train};
use pollster::FutureExt as _;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

const ADAM: Optimizer = Optimizer::Adam(AdamConfig { learning_rate: 1e-3, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7 });

fn go(_: &Totals) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// One epoch over the samples in order, with the step sizes from step `first` on.
fn epoch(samples: usize, batch_size: usize, optimizer: &Optimizer, first: u64) -> Epoch {
    let batches = samples.div_ceil(batch_size) as u64;
    Epoch {
        order: (0..samples as u32).collect(),
        rates: (0..batches).map(|i| StepConfig::from(optimizer).rates(first + i, first + batches)).collect(),
        ..Epoch::default()
    }
}

fn fixture_split() -> Split {
    Split { images: fixture::images(), labels: fixture::labels() }
}

fn made_data(n: usize) -> Split {
    synthetic::generate(n, 1, 3).0
}

fn initial(model: &Model, seed: u64) -> Vec<Vec<f32>> {
    initial_parameters(&model.parameters().unwrap(), seed)
}

/// The largest difference, relative to the largest value.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let b: Vec<f64> = b.iter().map(|&b| f64::from(b)).collect();
    worst_error(a, &b)
}

/// The initial parameters of Keras, and its 32 images.
pub fn keras_start(truth: &Fixture) -> (Vec<Vec<f32>>, Split) {
    let parameters = truth.initial_weights().into_iter().map(|(_, _, values)| values).collect();
    (parameters, fixture_split())
}

/// The model of `tests/fixtures/make_grouped.py`: depthwise and larger groups, `same` padding that is not symmetric.
const GROUPED: &str = r#"
    name = "grouped"
    layer = [
        { type = "conv2d", filters = 8, kernel_size = 4, stride = 4, activation = "gelu" },
        { type = "depthwiseconv2d", kernel_size = 3, padding = "same", activation = "gelu" },
        { type = "conv2d", filters = 12, kernel_size = 3, padding = "same", groups = 4, activation = "gelu" },
        { type = "depthwiseconv2d", kernel_size = [2, 3], stride = 2, padding = "same", use_bias = false },
        { type = "flatten" },
        { type = "dense", units = 10 },
    ]
"#;

/// The model of a fixture.
pub fn model_of(name: &str) -> Model {
    if name == "grouped" { toml::from_str(GROUPED).unwrap() } else { Model::load(name).unwrap() }
}

/// Compares whole training steps with an external reference: Keras in double precision. The error of single precision was measured
/// with Keras itself in single precision (see tests/fixtures/make_fixtures.py --float32); about five times that is allowed.
///
/// `engine` starts from [`keras_start`]; `logits` returns the logits of its last training step.
pub fn walks_with_keras<E: Engine>(truth: &Fixture, engine: &mut E, logits: impl Fn(&E) -> Vec<f32>) {
    let name = &truth.model;
    let model = engine.model().clone();
    for step in 1..=10u64 {
        let totals = engine.train_epoch(&epoch(32, 32, &ADAM, step), &mut go).block_on().unwrap();
        let expected = truth.step_losses[step as usize - 1];
        let error = (totals.mean_loss() - expected).abs() / expected;
        assert!(error <= 2e-5, "{name}: loss of step {step}: {}, Keras {expected}", totals.mean_loss());
        if step == 1 {
            let error = worst_error(&logits(engine), &truth.logits);
            assert!(error <= 5e-6, "{name}: logits off by {error:e}");
            let gradients = engine.last_gradients().block_on().unwrap();
            for (parameter, gradient) in model.parameters().unwrap().iter().zip(&gradients) {
                let difference = truth.gradient(&parameter.name).compare(gradient);
                assert!(difference.worst() <= 1e-5, "{name}: gradient of {}: {difference}", parameter.name);
            }
        }
    }
    let trained = engine.parameters().block_on().unwrap();
    for (parameter, values) in model.parameters().unwrap().iter().zip(&trained) {
        let difference = truth.trained_weight(&parameter.name).compare(values);
        assert!(difference.worst() <= 5e-5, "{name}: {} after ten steps: {difference}", parameter.name);
    }
    // Predictions of the trained model, which use the plan for evaluation.
    let probabilities = engine.predict(&fixture_split().images, &mut |_| ControlFlow::Continue(())).block_on().unwrap();
    for (row, logits) in probabilities.chunks(10).zip(truth.trained_logits.chunks(10)) {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        let expected: Vec<f64> = logits.iter().map(|x| x.exp() / sum).collect();
        assert!(worst_error(row, &expected) <= 1e-4, "{name}: {row:?}, Keras {expected:?}");
    }
}

fn agrees_with_keras(name: &str, gpu: &Gpu) {
    let truth = Fixture::load(name);
    let (parameters, split) = keras_start(&truth);
    let model = model_of(name);
    let mut engine =
        GpuEngine::new(gpu, &model, &parameters).unwrap().and_training(&split, 32, &ADAM).block_on().unwrap();
    walks_with_keras(&truth, &mut engine, |engine| engine.last_logits().block_on().unwrap());
}

#[test]
pub fn mlp_agrees_with_keras() {
    agrees_with_keras("mlp", gpu());
}

#[test]
fn cnn_agrees_with_keras() {
    agrees_with_keras("cnn", gpu());
}

/// The steps of PyTorch with the update of Keras.
#[test]
fn grouped_convolutions_agree_with_pytorch() {
    agrees_with_keras("grouped", gpu());
}

/// Preparation before the data is loaded compiles all that training needs, and changes no bit of the result.
#[test]
fn a_prepared_device_compiles_nothing_more_and_trains_to_the_same_bits() {
    gpu();
    let momentum = Optimizer::Sgd(SgdConfig { learning_rate: 0.01, momentum: 0.9, nesterov: false });
    let split = made_data(70);
    for (name, optimizer) in [("mlp", ADAM), ("cnn", ADAM), ("mlp", momentum)] {
        let model = Model::load(name).unwrap();
        let trained = |prepare: bool, wanted: bool| {
            let gpu = Gpu::open(&GpuOptions::default()).block_on().unwrap();
            if prepare {
                GpuEngine::prepare_training(&gpu, &model, 32, &optimizer.into(), SharedTiles::default(), &|| wanted)
                    .block_on()
                    .unwrap();
            }
            let before = gpu.compiled_kernels();
            let mut engine = GpuEngine::new(&gpu, &model, &initial(&model, 1))
                .unwrap()
                .and_training(&split, 32, &optimizer)
                .block_on()
                .unwrap();
            let more = gpu.compiled_kernels() - before;
            assert_eq!(more == 0, prepare, "{name}: {more} kernels compiled, {before} before");
            engine.train_epoch(&epoch(70, 32, &optimizer, 1), &mut go).block_on().unwrap();
            engine.parameters().block_on().unwrap()
        };
        let plain = trained(false, false);
        assert!(trained(true, true) == plain && trained(true, false) == plain, "{name}");
    }
}

/// The kernels for hardware GPUs, on whatever adapter is available.
#[test]
fn cnn_agrees_with_keras_in_shared_memory_tiles() {
    gpu();
    let options = GpuOptions { checked: true, tiling: Some(Tiling::Shared), ..GpuOptions::default() };
    agrees_with_keras("cnn", &Gpu::open(&options).block_on().unwrap());
}

/// The kernels for adapters without subgroup operations, on whatever adapter is available.
#[test]
fn cnn_agrees_with_keras_in_plain_kernels() {
    gpu();
    let options = GpuOptions { checked: true, tiling: Some(Tiling::Plain), ..GpuOptions::default() };
    agrees_with_keras("cnn", &Gpu::open(&options).block_on().unwrap());
}

#[test]
fn cnn_agrees_with_keras_without_run_time_checks() {
    gpu();
    agrees_with_keras("cnn", &Gpu::open(&GpuOptions::default()).block_on().unwrap());
}

/// The mirrors in double precision against the same reference, almost to the last digit.
#[test]
fn reference_agrees_with_keras() {
    for name in ["mlp", "cnn", "grouped"] {
        let truth = Fixture::load(name);
        let model = model_of(name);
        let parameters: Vec<Vec<f32>> = truth.initial_weights().into_iter().map(|(_, _, values)| values).collect();
        let split = fixture_split();
        let engine = ReferenceEngine::<f64>::new(&model, &parameters, &split, 32, ADAM).unwrap();
        let order: Vec<u32> = (0..32).collect();
        let mut batch: Batch<f64> = ReferenceEngine::batch(&split, &order, 0, 32);
        // The pixels for Keras were divided in single precision.
        batch.x = fixture::pixels().into_iter().map(f64::from).collect();
        let pass = engine.forward(&batch).unwrap();
        assert!(worst_error(&pass.logits, &truth.logits) <= 1e-12, "{name}: logits");
        assert!(worst_error(&pass.loss, &truth.sample_losses) <= 1e-12, "{name}: losses");
        let gradients = engine.gradients(&batch).unwrap().gradients;
        for (parameter, gradient) in model.parameters().unwrap().iter().zip(&gradients) {
            let difference = truth.gradient(&parameter.name).compare(gradient);
            assert!(difference.worst() <= 1e-12, "{name}: gradient of {}: {difference}", parameter.name);
        }
    }
}

/// The GPU and the mirrors in double precision have the same loss curves and weights.
fn curves_agree(model: &Model, samples: usize, batch_size: usize, epochs: u64, optimizer: &Optimizer, tolerance: f64) {
    let split = made_data(samples);
    let parameters = initial(model, 5);
    let mut on_gpu = GpuEngine::new(gpu(), model, &parameters)
        .unwrap()
        .and_training(&split, batch_size, optimizer)
        .block_on()
        .unwrap();
    let mut on_cpu = ReferenceEngine::<f64>::new(model, &parameters, &split, batch_size, optimizer).unwrap();
    let batches = samples.div_ceil(batch_size) as u64;
    for number in 0..epochs {
        let work = epoch(samples, batch_size, optimizer, number * batches + 1);
        let a = on_gpu.train_epoch(&work, &mut go).block_on().unwrap();
        let b = on_cpu.train_epoch(&work, &mut go).block_on().unwrap();
        let error = (a.loss - b.loss).abs() / b.loss;
        assert!(error <= tolerance, "{}, epoch {number}: {} and {}", model.name, a.mean_loss(), b.mean_loss());
        assert_eq!((a.samples, a.batches), (b.samples, b.batches));
    }
    for (i, (a, b)) in
        on_gpu.parameters().block_on().unwrap().iter().zip(&on_cpu.parameters().block_on().unwrap()).enumerate()
    {
        assert!(distance(a, b) <= 20.0 * tolerance, "{}: parameter {i} off by {:e}", model.name, distance(a, b));
    }
}

#[test]
fn loss_curves_of_gpu_and_mirror_agree_over_20_steps() {
    // One batch per epoch, so that every step is compared.
    curves_agree(&Model::cnn(), 8, 8, 20, &ADAM, 1e-4);
    curves_agree(&Model::mlp(), 32, 32, 20, &ADAM, 1e-4);
}

/// 37 samples in batches of 16: the last batch has five, which are trained exactly, neither dropped nor padded.
#[test]
fn the_short_last_batch_is_trained_exactly() {
    curves_agree(&Model::mlp(), 37, 16, 4, &ADAM, 1e-5);
    curves_agree(&Model::cnn(), 11, 8, 2, &ADAM, 1e-5);
    // A batch larger than the training set.
    curves_agree(&Model::mlp(), 5, 16, 3, &ADAM, 1e-5);
}

#[test]
fn sgd_with_momentum_walks_like_its_mirror() {
    let sgd = Optimizer::Sgd(SgdConfig { learning_rate: 0.05, momentum: 0.9, nesterov: false });
    curves_agree(&Model::mlp(), 64, 16, 3, &sgd, 1e-5);
}

fn from_toml(text: &str) -> Model {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Model::load(file.path().to_str().unwrap()).unwrap()
}

/// Everything that the two built-in models do not use: other windows and strides, average and sum pooling, separate ReLU, odd channels.
#[test]
fn models_of_every_layer_walk_like_their_mirrors() {
    let average = from_toml(
        r#"
        name = "average"
        layer = [
            { type = "conv2d", filters = 6, kernel_size = [5, 3], stride = 2, padding = "same", activation = "relu" },
            { type = "averagepool2d", pool_size = 3, stride = 2, padding = "same" },
            { type = "conv2d", filters = 8, kernel_size = 2, padding = "valid" },
            { type = "relu" },
            { type = "maxpool2d", pool_size = 3, stride = 1, padding = "same" },
            { type = "flatten" },
            { type = "dense", units = 10, activation = "softmax" },
        ]
        "#,
    );
    curves_agree(&average, 24, 8, 3, &ADAM, 1e-4);
    let sum = from_toml(
        r#"
        name = "sum"
        layer = [
            { type = "sumpool2d", pool_size = [2, 3] },
            { type = "conv2d", filters = 5, kernel_size = 3, stride = [1, 2], activation = "relu" },
            { type = "sumpool2d", pool_size = 2, stride = 3 },
            { type = "flatten" },
            { type = "dense", units = 7 },
            { type = "relu" },
            { type = "dense", units = 10 },
        ]
        "#,
    );
    curves_agree(&sum, 24, 8, 3, &ADAM, 1e-4);
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let split = made_data(200);
    let model = Model::cnn();
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let mut engine = GpuEngine::new(gpu(), &model, &initial(&model, seed))
            .unwrap()
            .and_training(&split, 32, &ADAM)
            .block_on()
            .unwrap();
        let options = TrainOptions {
            epochs: 2,
            samples: 200,
            batch_size: 32,
            seed,
            step: ADAM.into(),
            patience: None,
            pause_after: None,
        };
        train(&mut engine, &options, Position::default(), &Split::default(), &AtomicBool::new(false), &mut |_, _| {})
            .block_on()
            .unwrap();
        let bits = |values: &Vec<f32>| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        runs.push(engine.parameters().block_on().unwrap().iter().map(bits).collect::<Vec<_>>());
    }
    assert!(runs[0] == runs[1], "the same seed gave different weights");
    assert!(runs[0] != runs[2], "another seed gave the same weights");
}

/// Validation results are those of an evaluation with the weights at the end of the epoch, and do not affect the training.
#[test]
fn validation_follows_each_epoch_and_changes_nothing() {
    let mut split = made_data(96);
    let all = split.clone();
    let validation = split.split_off(64);
    assert_eq!((split.len(), validation.len()), (64, 32));
    assert_eq!((split.image(63), validation.image(0)), (all.image(63), all.image(64)));
    let model = Model::mlp();
    let options = TrainOptions {
        epochs: 2,
        samples: 64,
        batch_size: 32,
        seed: 1,
        step: ADAM.into(),
        patience: None,
        pause_after: None,
    };
    let mut weights = Vec::new();
    for validation in [Split::default(), validation] {
        let mut engine = GpuEngine::new(gpu(), &model, &initial(&model, 1))
            .unwrap()
            .and_training(&split, 32, &ADAM)
            .block_on()
            .unwrap();
        assert!(engine.last_gradients().block_on().unwrap().is_empty(), "no step was made yet");
        let trained = train(
            &mut engine,
            &options,
            Position::default(),
            &validation,
            &AtomicBool::new(false),
            &mut |event, trainer| {
                if let Event::EpochFinished(record) = event {
                    let engine = trainer.engine();
                    let totals = engine.evaluate(&validation, &mut go).block_on().unwrap();
                    let expected = (!validation.is_empty()).then(|| (totals.mean_loss(), totals.accuracy()));
                    assert_eq!(record.val_loss.zip(record.val_accuracy), expected);
                    let gradients = engine.last_gradients().block_on().unwrap();
                    assert!(gradients[0].iter().any(|&g| g != 0.0), "the last step has no gradient");
                }
            },
        )
        .block_on()
        .unwrap();
        assert_eq!(trained.position.history.len(), 2);
        weights.push(engine.parameters().block_on().unwrap());
    }
    assert!(weights[0] == weights[1], "validation changed the training");
}

#[test]
fn one_batch_is_overfitted() {
    let split = made_data(32);
    let model = Model::cnn();
    let mut engine =
        GpuEngine::new(gpu(), &model, &initial(&model, 1)).unwrap().and_training(&split, 32, &ADAM).block_on().unwrap();
    let options = TrainOptions {
        epochs: 60,
        samples: 32,
        batch_size: 32,
        seed: 1,
        step: ADAM.into(),
        patience: None,
        pause_after: None,
    };
    let trained =
        train(&mut engine, &options, Position::default(), &Split::default(), &AtomicBool::new(false), &mut |_, _| {})
            .block_on()
            .unwrap();
    let last = trained.position.history.last().unwrap();
    assert_eq!(last.accuracy, 1.0, "{last:?}");
    assert!(last.loss < 0.05, "{last:?}");
    let evaluated = engine.evaluate(&split, &mut go).block_on().unwrap();
    assert_eq!((evaluated.correct, evaluated.samples), (32, 32));
}

/// Four values per load are added in the same order as one. A hardware adapter's compiler may fuse other multiplications with additions.
#[test]
fn loads_of_four_values_change_no_bit() {
    let (model, data) = (Model::cnn(), made_data(16));
    let shared = Gpu::open(&GpuOptions { tiling: Some(Tiling::Shared), ..GpuOptions::default() }).block_on().unwrap();
    let trained = |loads_by_4: bool| {
        let tiles = SharedTiles { loads_by_4, ..SharedTiles::default() };
        let engine = GpuEngine::new(&shared, &model, &initial(&model, 1)).unwrap().with_tiles(tiles);
        let mut engine = engine.and_training(&data, 8, &ADAM).block_on().unwrap();
        let entries = engine.steps().unwrap().dispatches();
        let by_4 = entries.iter().filter(|dispatch| dispatch.entry.contains("_shared_by_4")).count();
        engine.train_epoch(&epoch(16, 8, &ADAM, 1), &mut go).block_on().unwrap();
        (by_4, engine.parameters().block_on().unwrap())
    };
    let ((none, one_by_one), (four, by_4)) = (trained(false), trained(true));
    // The second convolution and the first dense layer, forward and backward.
    assert_eq!((none, four), (0, 4));
    assert!(!shared.is_software() || one_by_one == by_4);
    let difference = one_by_one.concat().iter().zip(by_4.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-4, "{difference}");
}

/// Trains for an epoch of three batches, the last of them short. Returns the entry points of a step, the totals, and the last logits, the last
/// gradients and the parameters.
fn trained_with(
    gpu: &Gpu,
    model: &Model,
    tiles: SharedTiles,
    config: &StepConfig,
) -> (Vec<&'static str>, Totals, [Vec<f32>; 3]) {
    let engine = GpuEngine::new(gpu, model, &initial(model, 1)).unwrap().with_tiles(tiles);
    let mut engine = engine.and_training(&made_data(20), 8, config.clone()).block_on().unwrap();
    let entries = engine.steps().unwrap().dispatches().iter().map(|dispatch| dispatch.entry).collect();
    let rates = (1..=3).map(|step| config.rates(step, 3)).collect();
    let epoch = Epoch { order: (0..20).collect(), rates, ..Epoch::default() };
    let totals = engine.train_epoch(&epoch, &mut go).block_on().unwrap();
    let logits = engine.last_logits().block_on().unwrap();
    let gradients = engine.last_gradients().block_on().unwrap().concat();
    (entries, totals, [logits, gradients, engine.parameters().block_on().unwrap().concat()])
}

/// The end of the model in two dispatches instead of four, and the optimizer that finishes the gradients: the same training within rounding, losses
/// and correct predictions included. Each model comes with the entry points that a step must have, and with those that it must not.
#[test]
fn few_dispatches_train_the_same() {
    let shared = Gpu::open(&GpuOptions { tiling: Some(Tiling::Shared), ..GpuOptions::default() }).block_on().unwrap();
    let head = SharedTiles { head: true, ..SharedTiles::default() };
    let fused = SharedTiles { fused_update: true, ..head };
    let small = SharedTiles { small_filters: true, loads_by_4: true, workgroups: 64, ..fused };
    let model = |layers: &str| -> Model {
        let hidden = "{ type = \"dense\", units = 12, activation = \"relu\" }, { type = \"dense\", units = 10 }";
        toml::from_str(&format!("name = \"made\"\nlayer = [{layers} {hidden}]")).unwrap()
    };
    let conv = |more: &str| {
        format!("{{ type = \"conv2d\", kernel_size = 3, {more} }}, {{ type = \"maxpool2d\", pool_size = 4 }},")
    };
    let flatten = "{ type = \"flatten\" },";
    let odd: Model = toml::from_str(
        "name = \"odd\"\nlayer = [{ type = \"flatten\" }, { type = \"dense\", units = 7, activation = \"relu\" }, { type = \"dense\", units = 10 }]",
    )
    .unwrap();
    let (pending, of_classes, gather) = ("adam_step_pending", "head_backward_w", "batch_gather");
    let (sum, of_hidden) = ("conv2d_backward_w_sum", "dense_backward_w_shared");
    let plain = StepConfig::from(&ADAM);
    let recipe = StepConfig {
        weight_decay: 0.1,
        factors: Factors { bias: 2.0, scale: 1.0, shift: 1.0 },
        average: Some(AverageConfig::Ema { decay: 0.5 }),
        ..plain.clone()
    };
    let clipped = StepConfig { clip_norm: Some(0.01), ..plain.clone() };
    let momentum = StepConfig::from(&Optimizer::Sgd(SgdConfig { learning_rate: 0.01, ..SgdConfig::default() }));
    type Case<'a> = (Model, SharedTiles, &'a StepConfig, usize, &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 14] = [
        (Model::mlp(), head, &plain, 5, &[of_classes, of_hidden], &[gather]),
        (Model::mlp(), fused, &plain, 3, &[pending], &[gather, of_hidden]),
        (Model::mlp(), small, &recipe, 4, &[pending], &[gather, of_hidden]),
        (Model::mlp(), fused, &clipped, 7, &[of_classes, "adam_step"], &[gather, pending]),
        (Model::mlp(), fused, &momentum, 5, &[of_classes, "sgd_step"], &[gather, pending]),
        (Model::cnn(), head, &plain, 12, &[of_classes, sum, gather], &[]),
        (Model::cnn(), fused, &plain, 9, &[pending, gather], &[sum, of_classes]),
        (Model::cnn(), small, &recipe, 10, &[pending, gather], &[sum, of_classes]),
        // Neither gathers nor finishes a layer whose units are not multiples of four.
        (odd, fused, &plain, 5, &[pending, gather, of_hidden], &[of_classes]),
        // Filters that are not multiples of four, or not trained: the latter leaves a hidden layer that reads a buffer.
        (model(&(conv("filters = 5") + flatten)), fused, &plain, 10, &[pending, sum], &[of_classes]),
        (model(&(conv("filters = 4, trainable = false") + flatten)), fused, &plain, 6, &[pending], &[sum, of_hidden]),
        (model(&(conv("filters = 4, trainable = \"bias\"") + flatten)), fused, &plain, 10, &[pending], &[of_classes]),
        // What is dropped in the backward pass follows from the number of batches done.
        (
            model(&(conv("filters = 4") + flatten + "{ type = \"dropout\", rate = 0.5 },")),
            fused,
            &plain,
            14,
            &[of_classes, "adam_step"],
            &[pending],
        ),
        (
            model(&(flatten.to_string() + "{ type = \"dropout\", rate = 0.5 },")),
            fused,
            &plain,
            6,
            &[pending, gather],
            &[],
        ),
    ];
    for (model, tiles, config, most, present, absent) in cases {
        let (entries, plain_totals, plain) = trained_with(&shared, &model, SharedTiles::default(), config);
        assert!(!entries.contains(&"head_rows"), "{}: {entries:?}", model.name);
        let (entries, totals, values) = trained_with(&shared, &model, tiles, config);
        let case = format!("{}, {tiles:?}: {entries:?}", model.name);
        assert!(entries.contains(&"head_rows") && entries.len() <= most, "{} {case}", entries.len());
        assert!(present.iter().all(|entry| entries.contains(entry)), "{case}");
        assert!(absent.iter().all(|entry| !entries.contains(entry)), "{case}");
        assert_eq!((totals.samples, totals.batches, totals.correct), (20, 3, plain_totals.correct), "{case}");
        assert!((totals.loss - plain_totals.loss).abs() < 1e-4 * plain_totals.loss, "{totals:?}, {plain_totals:?}");
        for (values, plain) in values.iter().zip(&plain) {
            let difference = values.iter().zip(plain).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(values.len() == plain.len() && difference < 1e-4, "{difference}, {case}");
        }
    }
}

/// The design allows 25 dispatches per step.
/// The kernels of the head are written for tiles in workgroup memory.
#[test]
fn devices_with_other_tiles_compute_the_head_as_instructions() {
    let plain = Gpu::open(&GpuOptions { tiling: Some(Tiling::Plain), ..GpuOptions::default() }).block_on().unwrap();
    let tiles = SharedTiles { head: true, ..SharedTiles::default() };
    let (entries, ..) = trained_with(&plain, &Model::mlp(), tiles, &StepConfig::from(&ADAM));
    assert!(
        !entries.contains(&"head_rows") && entries.iter().any(|entry| entry.starts_with("softmax_xent")),
        "{entries:?}"
    );
}

#[test]
fn a_step_of_the_cnn_is_few_dispatches() {
    let model = Model::cnn();
    let shared = Gpu::open(&GpuOptions { tiling: Some(Tiling::Shared), ..GpuOptions::default() }).block_on().unwrap();
    for (gpu, most) in [(gpu(), 18), (&shared, 14)] {
        let engine = GpuEngine::new(gpu, &model, &initial(&model, 1))
            .unwrap()
            .and_training(&made_data(32), 32, &ADAM)
            .block_on()
            .unwrap();
        let entries: Vec<_> = engine.steps().unwrap().dispatches().iter().map(|dispatch| dispatch.entry).collect();
        assert!(entries.len() <= most, "{}: {entries:?}", entries.len());
        assert_eq!(entries.last(), Some(&"adam_step"));
    }
}

#[test]
fn a_position_counts_steps_and_images() {
    let done = Totals { batches: 3, samples: 96, ..Totals::default() };
    let record: EpochRecord = serde_json::from_str(
        "{\"epoch\": 1, \"loss\": 1.0, \"accuracy\": 0.5, \"seconds\": 2.0, \"images_per_second\": 50.0}",
    )
    .unwrap();
    let position = Position { history: vec![record.clone(), record], done, seconds: 0.5, ..Position::default() };
    assert_eq!((position.epoch(), position.steps(4), position.images(100)), (3, 11, 296));
    assert_eq!(position.total_seconds(), 4.5);
}

#[test]
fn each_epoch_is_a_new_permutation_of_all_samples() {
    let one = permutation(1000, 7, 1);
    assert_eq!(one, permutation(1000, 7, 1));
    assert_ne!(one, permutation(1000, 7, 2));
    assert_ne!(one, permutation(1000, 8, 1));
    let mut sorted = one;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
    assert_eq!(permutation(1, 0, 1), [0]);
    assert!(permutation(0, 0, 1).is_empty());
}

/// The 24 orders of four samples are about equally frequent.
#[test]
fn permutations_are_uniform() {
    let mut counts = std::collections::HashMap::new();
    for epoch in 0..24_000 {
        *counts.entry(permutation(4, 1, epoch)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 24);
    // 1,000 expected, standard deviation 31: a tolerance of five.
    assert!(counts.values().all(|&count| (845..=1155).contains(&count)), "{counts:?}");
}

#[test]
fn glorot_limits_are_those_of_keras() {
    let parameters = Model::cnn().parameters().unwrap();
    let values = initial_parameters(&parameters, 3);
    for (parameter, values) in parameters.iter().zip(&values) {
        let limit = match parameter.name.as_str() {
            "conv2d_1.weight" => (6.0 / (9.0 * 33.0f64)).sqrt(),
            "conv2d_2.weight" => (6.0 / (9.0 * 96.0f64)).sqrt(),
            "dense_1.weight" => (6.0 / (3136.0 + 128.0f64)).sqrt(),
            "dense_2.weight" => (6.0 / 138.0f64).sqrt(),
            _ => 0.0,
        };
        let largest = values.iter().fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
        assert!(largest <= limit + 1e-7, "{}: {largest} above {limit}", parameter.name);
        assert!(limit == 0.0 || largest > 0.95 * limit, "{}: {largest} far below {limit}", parameter.name);
    }
}

#[test]
fn an_interrupt_ends_after_the_work_in_flight() {
    let split = made_data(320);
    let model = Model::mlp();
    let mut engine =
        GpuEngine::new(gpu(), &model, &initial(&model, 1)).unwrap().and_training(&split, 1, &ADAM).block_on().unwrap();
    let interrupt = AtomicBool::new(false);
    let options = TrainOptions {
        epochs: 1000,
        samples: 320,
        batch_size: 1,
        seed: 1,
        step: ADAM.into(),
        patience: None,
        pause_after: None,
    };
    let trained = train(&mut engine, &options, Position::default(), &Split::default(), &interrupt, &mut |event, _| {
        if let Event::Progress { .. } = event {
            interrupt.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    })
    .block_on()
    .unwrap();
    assert_eq!(trained.outcome, Outcome::Interrupted);
    assert!(trained.position.history.len() <= 1);
    assert!(engine.parameters().block_on().unwrap().iter().flatten().all(|w| w.is_finite()));
}

#[test]
fn an_engine_without_a_training_set_refuses_to_train() {
    let model = Model::mlp();
    let parameters = initial(&model, 1);
    let mut on_gpu = GpuEngine::new(gpu(), &model, &parameters).unwrap();
    assert!(matches!(on_gpu.steps(), Err(EngineError::NoTraining)));
    let mut native = NativeEngine::new(&model, &parameters, 1).unwrap();
    assert!(matches!(native.time_step(1), Err(EngineError::NoTraining)));
    let mut reference = ReferenceEngine::<f32>::new(&model, &parameters, &Split::default(), 8, ADAM).unwrap();
    let engines: [&mut dyn Engine; 3] = [&mut on_gpu, &mut native, &mut reference];
    for engine in engines {
        let work = epoch(8, 8, &ADAM, 1);
        assert!(matches!(engine.train_epoch(&work, &mut go).block_on(), Err(EngineError::NoTraining)), "{engine:?}");
        assert!(matches!(engine.find_non_finite(&work, 1).block_on(), Err(EngineError::NoTraining)), "{engine:?}");
        assert!(engine.last_gradients().block_on().unwrap().is_empty());
        assert_eq!(engine.state().block_on().unwrap().slots.len(), 0);
    }
}

/// Timing needs whole batches, and one more to warm up.
#[test]
fn timing_refuses_a_training_set_that_is_too_small() {
    let (model, split) = (Model::mlp(), made_data(20));
    let parameters = initial(&model, 1);
    let on_gpu = GpuEngine::new(gpu(), &model, &parameters).unwrap().and_training(&split, 8, &ADAM).block_on().unwrap();
    assert_eq!(on_gpu.steps().unwrap().time(2, 1).block_on().unwrap().seconds[0].len(), 2);
    assert!(matches!(on_gpu.steps().unwrap().time(3, 1).block_on(), Err(EngineError::Samples { .. })));
    assert!(matches!(on_gpu.steps().unwrap().time(1, 3).block_on(), Err(EngineError::Samples { .. })));
    let mut native = NativeEngine::new(&model, &parameters, 1).unwrap().and_training(&split, 21, ADAM).unwrap();
    assert!(matches!(native.time_step(1), Err(EngineError::Samples { .. })));
}

/// `Break` returns the images done so far, with the same bits as in the full result, whose progress is reported to the end.
#[test]
fn an_interrupted_prediction_returns_the_images_done_so_far() {
    let model = Model::mlp();
    let parameters = initial(&model, 1);
    // More than one batch for every engine, and not a multiple of any.
    let images = made_data(2_801).images;
    let engines: [(&str, Box<dyn Engine>); 3] = [
        ("GPU", Box::new(GpuEngine::new(gpu(), &model, &parameters).unwrap())),
        ("native", Box::new(NativeEngine::new(&model, &parameters, 2).unwrap())),
        (
            "reference",
            Box::new(ReferenceEngine::<f32>::new(&model, &parameters, &Split::default(), 100, ADAM).unwrap()),
        ),
    ];
    for (name, mut engine) in engines {
        let mut reports = Vec::new();
        let whole = engine
            .predict(&images, &mut |done| {
                reports.push(done);
                ControlFlow::Continue(())
            })
            .block_on()
            .unwrap();
        assert_eq!(whole.len(), 2_801 * 10, "{name}");
        assert!(reports.len() > 1 && reports.is_sorted_by(|a, b| a < b), "{name}: {reports:?}");
        assert_eq!(reports.last(), Some(&2_801), "{name}");
        let mut calls = 0;
        let part = engine
            .predict(&images, &mut |done| {
                calls += 1;
                assert_eq!(done, reports[0], "{name}");
                ControlFlow::Break(())
            })
            .block_on()
            .unwrap();
        // Work in flight is finished: an adapter may have begun the next batches.
        let done = part.len() / 10;
        assert!(calls == 1 && reports[0] <= done && done <= 2_801 && part.len() == 10 * done, "{name}: {done}");
        assert!(name == "GPU" || done == reports[0], "{name}: {done} of {reports:?}");
        assert!(part.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: other bits");
        assert!(
            engine.predict(&[], &mut |_| panic!("{name}: nothing to report")).block_on().unwrap().is_empty(),
            "{name}"
        );
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_training() {
    let split = made_data(64);
    let model = Model::mlp();
    let optimizer = Optimizer::Sgd(SgdConfig { learning_rate: 1e20, momentum: 0.0, nesterov: false });
    let mut engine = GpuEngine::new(gpu(), &model, &initial(&model, 1))
        .unwrap()
        .and_training(&split, 8, &optimizer)
        .block_on()
        .unwrap();
    let options = TrainOptions {
        epochs: 5,
        samples: 64,
        batch_size: 8,
        seed: 1,
        step: optimizer.into(),
        patience: None,
        pause_after: None,
    };
    let trained =
        train(&mut engine, &options, Position::default(), &Split::default(), &AtomicBool::new(false), &mut |_, _| {})
            .block_on()
            .unwrap();
    assert!(matches!(trained.outcome, Outcome::NonFinite { .. }), "{:?}", trained.outcome);
}

/// The genuine images: the article's first model for two epochs, its second for a sixth of an epoch.
#[test]
fn genuine_fashion_mnist_is_learnt() {
    let gpu = gpu();
    let Some(folder) = genuine_data() else { return };
    let (train_split, test) = fashion_mnist::load_from_dir(&folder, &fashion_mnist::FILES).unwrap();
    for (model, samples, epochs, wanted) in [(Model::mlp(), 60_000, 2, 0.84), (Model::cnn(), 10_016, 1, 0.78)] {
        let split = Split {
            images: train_split.images[..samples * 784].to_vec(),
            labels: train_split.labels[..samples].to_vec(),
        };
        let mut engine = GpuEngine::new(gpu, &model, &initial(&model, 1))
            .unwrap()
            .and_training(&split, 32, &ADAM)
            .block_on()
            .unwrap();
        let options = TrainOptions {
            epochs,
            samples,
            batch_size: 32,
            seed: 1,
            step: ADAM.into(),
            patience: None,
            pause_after: None,
        };
        train(&mut engine, &options, Position::default(), &Split::default(), &AtomicBool::new(false), &mut |_, _| {})
            .block_on()
            .unwrap();
        let totals = engine.evaluate(&test, &mut go).block_on().unwrap();
        assert_eq!(totals.samples, 10_000);
        assert!(totals.accuracy() >= wanted, "{}: {:.4}, wanted {wanted}", model.name, totals.accuracy());
    }
}
