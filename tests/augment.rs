//! Augmentation, mixing and dropout in training: the statistics of the draws, PyTorch's results, and the same draws everywhere and after an
//! interruption.

use crate::registry::root;
use crate::support::gpu;
use crate::support::program::Place;
use fmnist_gpu::cpu::batch_gather::{Augment, Augmented, Flip, Mix, batch_gather_augmented};
use fmnist_gpu::cpu::philox::Random;
use fmnist_gpu::data::{Dataset, DatasetKind, FASHION_MNIST, Split, synthetic};
use fmnist_gpu::engine::{Engine, Epoch, Mixing, Optimizer, Rates, ReferenceEngine, State, StepConfig};
use fmnist_gpu::model::{Layer, Model, ModelFile, initial_parameters};
use fmnist_gpu::native::batch_gather as native;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::session::{Device, Plan, Session, Training};
use fmnist_gpu::train::{Event, TrainOptions, Trainer};
use pollster::FutureExt as _;
use serde::Deserialize;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// `tests/fixtures/make_augmentation.py` computed it with PyTorch.
#[derive(Deserialize)]
struct Fixture {
    shape: [usize; 3],
    images: Vec<u8>,
    cases: Vec<Case>,
    training: Steps,
}

#[derive(Deserialize)]
struct Case {
    seed: u64,
    epoch: u32,
    shift: u32,
    flip: String,
    cutout: u32,
    rectangle: Option<[u32; 4]>,
    kept: f32,
    order: Vec<u32>,
    x: Vec<f64>,
}

#[derive(Deserialize)]
struct Steps {
    seed: u64,
    epoch: u64,
    rate: f64,
    learning_rate: f64,
    images: Vec<u8>,
    labels: Vec<u8>,
    start: Vec<Vec<f32>>,
    kept: Vec<f32>,
    losses: Vec<f64>,
    end: Vec<Vec<f64>>,
}

fn fixture() -> Fixture {
    serde_json::from_str(&fs::read_to_string(root().join("tests/fixtures/augmentation.json")).unwrap()).unwrap()
}

#[test]
fn augmented_batches_agree_with_pytorch() {
    let Fixture { shape, images, cases, .. } = fixture();
    let labels: Vec<u8> = (0..images.len() / 84).map(|i| i as u8).collect();
    for Case { seed, epoch, shift, flip, cutout, rectangle, kept, order, x } in cases {
        let flip = match flip.as_str() {
            "random" => Flip::Random,
            "alternating" => Flip::Alternating,
            _ => Flip::None,
        };
        let mix = rectangle.map(|rectangle| Mix { rectangle, kept });
        let random = Random { seed, epoch, step: 0 };
        let how = Augmented { shape, augment: Augment { shift, flip, cutout }, mix, random };
        let (mut found, mut found_labels) = (vec![f64::NAN; x.len()], vec![0; order.len()]);
        batch_gather_augmented(&how, &images, &labels, &order, 0, &mut found, &mut found_labels);
        assert_eq!(found_labels, order);
        let worst = found.iter().zip(&x).map(|(found, x)| (found - x).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-15, "{how:?}: off by {worst:e}");
    }
}

#[test]
fn steps_with_dropout_and_mixing_agree_with_pytorch() {
    let Steps { seed, epoch, rate, learning_rate, images, labels, start, kept, losses, end } = fixture().training;
    let dropout = Layer::Dropout { rate };
    let dense = |units: usize, activation: &str| -> Layer {
        toml::from_str(&format!("type = \"dense\"\nunits = {units}\nactivation = \"{activation}\"")).unwrap()
    };
    let layers = [Layer::Flatten {}, dense(6, "relu"), dropout, dense(3, "softmax")];
    let model = Model { input: [2, 4, 1], ..Model::sequential("dropping", layers) };
    let split = Split { images, labels };
    let optimizer = Optimizer::Sgd(SgdConfig { learning_rate, momentum: 0.0, nesterov: false });
    let mixing = Mixing { mixup: 1.0, cutmix: 0.0 };
    let config = StepConfig { seed, mixing, ..StepConfig::from(optimizer) };
    let mut engine = ReferenceEngine::<f64>::new(&model, &start, &split, 4, &config).unwrap();
    let order = (0..12).map(|i| i % 4).collect();
    let shares = kept.iter().map(|&share| Rates { share, ..config.rates(1, 3) });
    let mixes = kept.iter().map(|&kept| Mix { rectangle: [0, 0, 2, 4], kept }).collect();
    let epoch = Epoch { number: epoch, order, rates: shares.collect(), mixes, ..Epoch::default() };
    let mut sums = vec![0.0];
    engine.begin_epoch(&epoch).block_on().unwrap();
    for _ in 0..3 {
        sums.push(engine.advance().block_on().unwrap().loss);
    }
    for (step, loss) in losses.iter().enumerate() {
        let found = (sums[step + 1] - sums[step]) / 4.0;
        assert!((found - loss).abs() < 1e-14, "step {step}: {found}, PyTorch {loss}");
    }
    let found = engine.parameters().block_on().unwrap();
    for (found, end) in found.iter().flatten().zip(end.iter().flatten()) {
        // Read back in single precision.
        assert_eq!(*found, *end as f32);
    }
}

/// A uniform share of so many draws, within four standard deviations.
#[track_caller]
fn is_uniform(counts: &[usize]) {
    let total: usize = counts.iter().sum();
    let share = 1.0 / counts.len() as f64;
    let deviation = (total as f64 * share * (1.0 - share)).sqrt();
    for count in counts {
        assert!((*count as f64 - total as f64 * share).abs() < 4.0 * deviation, "{counts:?}");
    }
}

#[test]
fn draws_are_uniform() {
    const IMAGES: u32 = 20_000;
    let shape = [28, 26, 1];
    let augment = Augment { shift: 2, flip: Flip::Random, cutout: 8 };
    let (mut down, mut right, mut flips) = ([0; 5], [0; 5], [0; 2]);
    let (mut tops, mut lefts, mut both) = ([0; 21], [0; 19], [0; 25]);
    for index in 0..IMAGES {
        let drawn = augment.draw(shape, Random { seed: 9, epoch: 1, step: 0 }, index);
        down[drawn.shift[0]] += 1;
        right[drawn.shift[1]] += 1;
        both[5 * drawn.shift[0] + drawn.shift[1]] += 1;
        flips[usize::from(drawn.flipped)] += 1;
        let [top, left, bottom, after] = drawn.hole;
        assert!((bottom - top, after - left) == (8, 8) && bottom <= 28 && after <= 26);
        tops[top] += 1;
        lefts[left] += 1;
    }
    [&down[..], &right, &both, &flips, &tops, &lefts].into_iter().for_each(is_uniform);
    // The same image has others in the next epoch and with another seed.
    let of = |seed, epoch| {
        let draw = |index| augment.draw(shape, Random { seed, epoch, step: 0 }, index);
        (0..100).map(draw).collect::<Vec<_>>()
    };
    assert_eq!(of(1, 1), of(1, 1));
    assert!(of(1, 1) != of(1, 2) && of(1, 1) != of(2, 1));
}

/// In two epochs, each image is seen on both sides; half of them begin on each.
#[test]
fn alternating_flips_show_both_sides() {
    let augment = Augment { flip: Flip::Alternating, ..Augment::default() };
    let mut begins = [0; 2];
    for index in 0..10_000 {
        let is_flipped = |epoch| augment.draw([4, 4, 1], Random { seed: 3, epoch, step: 0 }, index).flipped;
        begins[usize::from(is_flipped(1))] += 1;
        assert!((1..6).all(|epoch| is_flipped(epoch) != is_flipped(epoch + 1)));
    }
    is_uniform(&begins);
}

/// The mean of Beta(a, a) is one half and its variance 1 / (4 (2 a + 1)).
#[test]
fn shares_have_their_distribution() {
    const STEPS: u64 = 20_000;
    for alpha in [0.01, 0.2, 1.0, 4.0] {
        let mixing = Mixing { mixup: alpha, cutmix: 0.0 };
        let draw = |step| f64::from(mixing.draw(5, step, [28, 28, 1]).unwrap().share([28, 28, 1]));
        let shares: Vec<f64> = (1..=STEPS).map(draw).collect();
        let mean = shares.iter().sum::<f64>() / STEPS as f64;
        let squares = shares.iter().map(|share| (share - 0.5).powi(2));
        let (variance, expected) = (squares.sum::<f64>() / STEPS as f64, 0.25 / (2.0 * alpha + 1.0));
        assert!((mean - 0.5).abs() < 4.0 * (expected / STEPS as f64).sqrt(), "alpha {alpha}: mean {mean}");
        // The fourth moment is at most a quarter of the variance.
        assert!(
            (variance - expected).abs() < 4.0 * (expected / 4.0 / STEPS as f64).sqrt(),
            "alpha {alpha}: {variance}"
        );
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
    }
}

/// Seeds and steps count with all of their bits.
#[test]
fn mixtures_differ_by_the_high_bits_of_seed_and_step() {
    let share = |seed, step| Mixing { mixup: 1.0, cutmix: 0.0 }.draw(seed, step, [28, 28, 1]).unwrap().kept;
    let high = 1 << 32;
    let shares = [share(5, 1), share(5 + high, 1), share(5, 1 + high), share(5 + high, 1 + high)];
    for (i, share) in shares.iter().enumerate() {
        assert!(!shares[i + 1..].contains(share), "{shares:?}");
    }
}

/// The gradients of a batch outside of training are those of images that are not mixed, also of a model that mixes when it trains.
#[test]
fn gradients_of_a_batch_do_not_mix() {
    let model = Model::mlp();
    let parameters = initial_parameters(&model.parameters().unwrap(), 2);
    let images = (0..4 * 784).map(|i| (i * 7 % 256) as u8).collect();
    let split = Split { images, labels: vec![3, 1, 4, 8] };
    let gradients = |mixing: Mixing| {
        let config = StepConfig { mixing, ..StepConfig::default() };
        let engine = ReferenceEngine::<f64>::new(&model, &parameters, &split, 4, config).unwrap();
        engine.gradients(&ReferenceEngine::batch(&split, &[0, 1, 2, 3], 0, 4)).unwrap().gradients
    };
    let (plain, mixing) = (gradients(Mixing::default()), gradients(Mixing { mixup: 1.0, cutmix: 0.0 }));
    for (plain, mixing) in plain.iter().flatten().zip(mixing.iter().flatten()) {
        assert!((plain - mixing).abs() <= 1e-12 * (1.0 + plain.abs()), "{plain}, {mixing}");
    }
}

/// A rectangle lies inside of the image, and the share is that of its area; with both mixtures, each has half of the batches.
#[test]
fn rectangles_have_their_share() {
    let shape = [28, 20, 1];
    let mixing = Mixing { mixup: 0.0, cutmix: 1.0 };
    let mut areas = Vec::new();
    for step in 1..2000 {
        let mix = mixing.draw(5, step, shape).unwrap();
        let [top, left, bottom, right] = mix.rectangle.map(|at| at as usize);
        assert!(top <= bottom && bottom <= 28 && left <= right && right <= 20 && mix.kept == 0.0);
        let inside = (0..28 * 20).filter(|at| mix.contains(at / 20, at % 20)).count();
        assert_eq!(inside, (bottom - top) * (right - left));
        assert_eq!(mix.share(shape), (1.0 - inside as f64 / 560.0) as f32);
        areas.push(inside);
    }
    assert!(areas.iter().any(|&area| area > 400) && areas.iter().any(|&area| area < 20));
    let both = Mixing { mixup: 0.4, cutmix: 1.0 };
    let is_cutmix = |step| both.draw(5, step, shape).unwrap().kept == 0.0;
    let count = (1..=10_000).filter(|&step| is_cutmix(step)).count();
    is_uniform(&[count, 10_000 - count]);
    assert_eq!(Mixing::default().draw(5, 1, shape), None);
}

const MODEL: &str = r#"
name = "augmented"
[[layer]]
type = "conv2d"
filters = 4
kernel_size = 3
stride = 2
[[layer]]
type = "batchnorm"
[[layer]]
type = "relu"
[[layer]]
type = "dropout"
rate = 0.2
[[layer]]
type = "flatten"
[[layer]]
type = "dense"
units = 16
activation = "relu"
[[layer]]
type = "dropout"
rate = 0.5
[[layer]]
type = "dense"
units = 10
[train]
epochs = 2
batch_size = 4
label_smoothing = 0.1
average = "ema"
schedule = "onecycle"
[train.augment]
shift = 2
flip = "alternating"
cutout = 6
mixup = 0.4
cutmix = 1.0
"#;

fn plan() -> Plan {
    Plan::new(ModelFile::parse(Path::new("augmented.toml"), MODEL).unwrap(), &[]).unwrap()
}

fn dataset(train: usize) -> Dataset {
    let (train, test) = synthetic::generate(train, 10, 0);
    let (description, kind) = (FASHION_MNIST, DatasetKind::Synthetic);
    Dataset { train, test, description, kind, source: "generated".to_string() }
}

/// Trains an epoch and a half, stops, goes on in another engine, and returns both that state and the one of a training that ran through.
fn with_and_without_a_stop(device: &Device, images: usize) -> [State; 2] {
    let (plan, never) = (plan(), AtomicBool::new(false));
    let session = Session::new(&plan, device, SharedTiles::default(), dataset(images), &never).unwrap();
    let mut whole = Training::new(&session).block_on().unwrap();
    let whole = whole.run(&mut |_, _| {}).block_on().unwrap().state;
    let mut first = Training::new(&session).block_on().unwrap();
    let mut trainer = first.trainer(Some(Duration::ZERO)).block_on().unwrap();
    let (position, state) = loop {
        let event = trainer.advance().block_on().unwrap();
        let done = trainer.position().done.batches;
        if event == Event::Paused && trainer.position().epoch() == 2 && done > 0 {
            assert!(done < images.div_ceil(4), "the epoch was over before it could be paused");
            break (trainer.position().clone(), trainer.state().clone());
        }
        assert!(!matches!(event, Event::Ended(_)), "no pause in the second epoch");
    };
    let mut engine = device
        .trainer(&plan.model, &state.parameters, &session.dataset.train, 4, &plan.step, SharedTiles::default())
        .block_on()
        .unwrap();
    engine.restore(&state).unwrap();
    let options = TrainOptions::new(2, images, 4, &plan.step);
    let validation = Split::default();
    let rest = Trainer::new(&mut *engine, &options, position, &validation, &never);
    let mut rest = rest.block_on().unwrap();
    while !matches!(rest.advance().block_on().unwrap(), Event::Ended(_)) {}
    [whole, rest.state().clone()]
}

#[test]
fn a_training_with_everything_on_resumes_with_the_same_bits_on_the_cpu() {
    for (device, images) in [(Device::Native(2), 6000), (Device::Reference, 18)] {
        let [whole, resumed] = with_and_without_a_stop(&device, images);
        assert!(whole == resumed, "{device:?}");
    }
}

#[test]
fn a_training_with_everything_on_resumes_with_the_same_bits_on_the_gpu() {
    let [whole, resumed] = with_and_without_a_stop(&Device::Gpu(gpu().clone()), 3000);
    assert!(whole == resumed);
}

/// Every engine trains on the same images, mixed in the same way, and drops the same elements: the losses differ by rounding alone, whereas
/// those of another seed differ in the second digit.
#[test]
fn all_engines_see_the_same_training() {
    let losses = |device: &Device, seed: u64| -> Vec<f64> {
        let mut plan = plan();
        plan.recipe.seed = seed;
        let never = AtomicBool::new(false);
        let mut dataset = dataset(60);
        dataset.train.truncate(58);
        let session = Session::new(&plan, device, SharedTiles::default(), dataset, &never).unwrap();
        let trained = Training::new(&session).block_on().unwrap().run(&mut |_, _| {}).block_on().unwrap();
        trained.position.history.iter().map(|record| record.loss).collect()
    };
    let truth = losses(&Device::Reference, 1);
    let differs = |other: &[f64]| truth.iter().zip(other).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
    for device in [Device::Native(1), Device::Native(3), Device::Gpu(gpu().clone())] {
        let found = losses(&device, 1);
        assert!(differs(&found) < 1e-3, "{device:?}: {truth:?} and {found:?}");
    }
    assert!(differs(&losses(&Device::Native(1), 2)) > 1e-2);
}

/// The images that `samples --augment` draws are those that the native engine trains on, whatever batch they are in.
#[test]
fn samples_show_what_training_sees() {
    let (plan, never) = (plan(), AtomicBool::new(false));
    let session = Session::new(&plan, &Device::Reference, SharedTiles::default(), dataset(42), &never).unwrap();
    let (seen, shape) = (session.augmented(7, 2), [28, 28, 1]);
    let epoch = TrainOptions::new(2, 42, 4, &plan.step).epoch(2, shape);
    let train = &session.dataset.train;
    for (index, batch) in epoch.order.chunks(4).enumerate() {
        let random = Random { seed: 0, epoch: 2, step: 77 };
        let how = Augmented { shape, augment: plan.step.augment, mix: Some(epoch.mixes[index]), random };
        let (mut x, mut labels) = (vec![0.0; batch.len() * 784], vec![0; batch.len()]);
        native::batch_gather_augmented(&how, &train.images, &train.labels, batch, 0, &mut x, &mut labels);
        for (row, &sample) in batch.iter().enumerate().filter(|(_, sample)| **sample < 7) {
            let bytes = x[row * 784..][..784].iter().map(|x| (x * 255.0).round() as u8);
            assert!(bytes.eq(seen.image(sample as usize).iter().copied()), "image {sample}");
        }
    }
    assert!(seen.image(0) != train.image(0) && seen.labels == train.labels[..7]);
}

#[test]
fn the_command_draws_augmented_samples() {
    let place = Place::new();
    fs::write(place.path("m.toml"), MODEL).unwrap();
    let draw = |flags: &str, name: &str| {
        place.run(&format!("samples --dataset synthetic --count 9 --quiet --grid {name}.png {flags}")).exits(0);
        fs::read(place.path(&format!("{name}.png"))).unwrap()
    };
    let plain = draw("", "plain");
    assert!(draw("--augment", "nothing") == plain, "nothing is on");
    let flipped = draw("--augment --augment-flip alternating", "a");
    let other_side = draw("--augment --augment-flip alternating --epoch 2", "b");
    assert!(flipped != plain && other_side != plain && flipped != other_side);
    assert!(draw("--augment --augment-flip alternating --epoch 3", "c") == flipped);
    let from_file = draw("--augment --model m.toml --train-limit 60", "d");
    assert!(from_file != plain && from_file == draw("--augment --model m.toml --train-limit 60", "e"));
    assert!(from_file != draw("--augment --model m.toml --train-limit 60 --seed 1", "f"));
    place.run("samples --dataset synthetic --epoch 2").exits(2).says(&["--augment"]);
    place.run("samples --dataset synthetic --augment --augment-cutout 28").exits(2).says(&[
        "augment",
        "28",
        "less than",
    ]);
    // The same command in `train`.
    place
        .run("train --model m.toml --dataset synthetic --train-limit 20 --augment-shift 30 --device cpu")
        .exits(2)
        .says(&["30", "less than the 28 pixels"]);
}

/// Without anything switched on, training is what it was: the same dispatches, and the same bits with any seed of the draws.
#[test]
fn nothing_on_changes_nothing() {
    let (split, _) = synthetic::generate(40, 1, 0);
    let model = Model::mlp();
    let parameters = fmnist_gpu::model::initial_parameters(&model.parameters().unwrap(), 1);
    let entries = |config: &StepConfig| -> Vec<&'static str> {
        let engine = fmnist_gpu::engine::GpuEngine::new(gpu(), &model, &parameters).unwrap();
        let engine = engine.and_training(&split, 8, config).block_on().unwrap();
        engine.steps().unwrap().dispatches().iter().map(|dispatch| dispatch.entry).collect()
    };
    let plain = entries(&StepConfig::default());
    assert_eq!(plain[0], "batch_gather");
    let augment = Augment { shift: 1, ..Augment::default() };
    let changed = entries(&StepConfig { augment, ..StepConfig::default() });
    assert_eq!(changed[0], "batch_gather_augmented");
    assert!(changed[1..] == plain[1..], "no other dispatch");
    let states = [0, 1].map(|seed| {
        let config = StepConfig { seed, ..StepConfig::default() };
        let engine = fmnist_gpu::engine::NativeEngine::new(&model, &parameters, 1).unwrap();
        let mut engine = engine.and_training(&split, 8, &config).unwrap();
        let epoch = TrainOptions::new(1, 40, 8, &config).epoch(1, model.input);
        engine.train_epoch(&epoch, &mut |_| ControlFlow::Continue(())).block_on().unwrap();
        engine.state().block_on().unwrap()
    });
    assert!(states[0] == states[1]);
}
