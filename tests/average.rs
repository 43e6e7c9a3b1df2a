use crate::support::made::{self, Training, close};
use crate::support::{assert_all_right, gpu};
use fmnist_gpu::data::Split;
use fmnist_gpu::engine::{
    ClassWeights, Engine, Epoch, GpuEngine, LossConfig, NativeEngine, Optimizer, Rates, ReferenceEngine, State,
    StepConfig, Totals,
};
use fmnist_gpu::gpu::{GpuError, PlanBuilder};
use fmnist_gpu::model::{Activation, Layer, Model};
use fmnist_gpu::ops::average::{AverageConfig, record};
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::average::verify;
use pollster::FutureExt as _;
use std::ops::ControlFlow;

const EMA: AverageConfig = AverageConfig::Ema { decay: 0.99 };
const LOOKAHEAD: AverageConfig = AverageConfig::Lookahead { decay: 0.95 };

#[test]
fn average_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 12);
    for (len, config, rate) in
        [(4, EMA, 0.01), (60, LOOKAHEAD, 1.0), (256, EMA, 0.0), (260, LOOKAHEAD, 0.0), (4036, EMA, 0.5)]
    {
        verify(&mut verifier, len, &config, rate).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn average_refuses_a_number_of_parameters_that_is_no_multiple_of_four() {
    let gpu = gpu();
    let tensor = gpu.tensor_from("t", &[6], &[0.0; 6]).unwrap();
    let progress = gpu.tensor_from_u32("p", &[2], &[0, 1]).unwrap();
    let result = record(&mut PlanBuilder::new(gpu), &EMA, [&tensor, &tensor, &tensor, &progress]);
    assert!(matches!(result, Err(GpuError::Record { entry: "average_step", .. })), "{result:?}");
}

/// By hand: the decay grows from 2/11; a lookahead moves at every fifth step, by less and less.
#[test]
fn rates_of_averages() {
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-15, "{a} {b}");
    near(EMA.rate(1, 1000), 1.0 - 2.0 / 11.0);
    near(EMA.rate(90, 1000), 1.0 - 91.0 / 100.0);
    near(EMA.rate(1000, 1000), 0.01);
    for step in [1, 4, 6, 99] {
        assert_eq!(LOOKAHEAD.rate(step, 100), 0.0);
    }
    near(LOOKAHEAD.rate(50, 100), 1.0 - 0.95f64.powi(5) / 8.0);
    near(LOOKAHEAD.rate(100, 100), 1.0 - 0.95f64.powi(5));
}

/// The network of the fixture.
fn model() -> Model {
    let layers = [
        Layer::Flatten {},
        Layer::dense(4, Activation::None),
        Layer::BatchNorm { momentum: 0.8, epsilon: 0.01, scale: true, center: true, trainable: true },
        Layer::Relu {},
        Layer::dense(3, Activation::Softmax),
    ];
    Model { input: [2, 2, 1], ..Model::sequential("normalized", layers) }
}

fn step(made: &Training) -> StepConfig {
    let average = match made.average.as_str() {
        "ema" => AverageConfig::Ema { decay: made.decay },
        _ => AverageConfig::Lookahead { decay: made.decay },
    };
    let class_weights = if made.balanced { ClassWeights::Balanced } else { ClassWeights::Equal };
    StepConfig {
        loss: LossConfig { label_smoothing: made.smoothing, class_weights },
        average: Some(average),
        ..StepConfig::from(Optimizer::Sgd(SgdConfig { learning_rate: 0.125, momentum: 0.5, nesterov: false }))
    }
}

/// Five epochs of two steps; returns the loss of each step.
fn ten_steps(engine: &mut dyn Engine, config: &StepConfig) -> Vec<f64> {
    let mut losses = Vec::new();
    for epoch in 0..5 {
        let rates: Vec<Rates> = (1..=2).map(|i| config.rates(2 * epoch + i, 10)).collect();
        // One step at a time, as if it were resumed: the sums are those of a step.
        for done in 0..2 {
            let order = (0..6 * (done + 1) as u32).collect();
            let done = Totals { batches: done, samples: 6 * done as u64, ..Totals::default() };
            let of_step = Epoch { order, rates: rates.clone(), done, ..Epoch::default() };
            let totals = engine.train_epoch(&of_step, &mut |_| ControlFlow::Continue(())).block_on().unwrap();
            losses.push(totals.loss / 6.0);
        }
    }
    losses
}

fn engines<'s>(
    model: &Model,
    parameters: &[Vec<f32>],
    split: &'s Split,
    batch: usize,
    config: &StepConfig,
) -> Vec<(&'static str, Box<dyn Engine + 's>)> {
    let native = |threads| NativeEngine::new(model, parameters, threads).unwrap().and_training(split, batch, config);
    let on_gpu = GpuEngine::new(gpu(), model, parameters).unwrap().and_training(split, batch, config).block_on();
    vec![
        ("double", Box::new(ReferenceEngine::<f64>::new(model, parameters, split, batch, config).unwrap())),
        ("reference", Box::new(ReferenceEngine::<f32>::new(model, parameters, split, batch, config).unwrap())),
        ("native", Box::new(native(1).unwrap())),
        ("native, 3 threads", Box::new(native(3).unwrap())),
        ("gpu", Box::new(on_gpu.unwrap())),
    ]
}

/// Parameters, running statistics, averages and losses after ten steps, with label smoothing and weights of classes.
#[test]
fn ten_steps_with_averages_agree_with_pytorch() {
    for made in made::load().trainings {
        let (model, config, split) = (model(), step(&made), made.split());
        let initial: Vec<Vec<f32>> =
            made.initial.iter().map(|values| values.iter().map(|&value| value as f32).collect()).collect();
        for (name, mut engine) in engines(&model, &initial, &split, 6, &config) {
            let tolerance = if name == "double" { 2e-7 } else { 2e-5 };
            let case = format!("{name}, {} {}", made.average, made.decay);
            let losses = ten_steps(&mut *engine, &config);
            close(&format!("{case}, losses"), &losses, &made.losses, if name == "double" { 1e-12 } else { 1e-5 });
            let state = engine.state().block_on().unwrap();
            for (i, of) in model.parameters().unwrap().iter().enumerate() {
                close(&format!("{case}, {}", of.name), &state.parameters[i], &made.parameters[i], tolerance);
                close(&format!("{case}, average of {}", of.name), &state.averages[i], &made.averages[i], tolerance);
            }
        }
    }
}

/// What a user gets, and what evaluates, is the average; training goes on from the parameters themselves.
#[test]
fn averages_are_what_evaluates() {
    let made = &made::load().trainings[1];
    let (model, config, split) = (model(), step(made), made.split());
    let initial: Vec<Vec<f32>> =
        made.initial.iter().map(|values| values.iter().map(|&value| value as f32).collect()).collect();
    for (name, mut engine) in engines(&model, &initial, &split, 6, &config) {
        ten_steps(&mut *engine, &config);
        let state = engine.state().block_on().unwrap();
        assert!(state.parameters != state.averages && state.result() == state.averages, "{name}");
        assert!(engine.parameters().block_on().unwrap() == state.averages, "{name}");
        let probabilities = |engine: &mut dyn Engine| {
            engine.predict(&split.images, &mut |_| ControlFlow::Continue(())).block_on().unwrap()
        };
        let found = probabilities(&mut *engine);
        let mut of_averages =
            ReferenceEngine::<f64>::new(&model, &state.averages, &Split::default(), 6, &config).unwrap();
        let expected: Vec<f64> = probabilities(&mut of_averages).into_iter().map(f64::from).collect();
        close(&format!("{name}, probabilities"), &found, &expected, 1e-5);
        let totals = engine.evaluate(&split, &mut |_| ControlFlow::Continue(())).block_on().unwrap();
        let of = |(row, &label): (&[f32], &u8)| -f64::from(row[usize::from(label)]).ln();
        let plain: f64 = found.chunks(3).zip(&split.labels).map(of).sum();
        assert!((totals.loss - plain).abs() < 1e-4, "{name}: the loss of an evaluation is not the plain one");
        // A state without averages is of another training.
        let short = State { averages: Vec::new(), ..state.clone() };
        assert!(engine.restore(&short).is_err(), "{name}");
        engine.restore(&state).unwrap();
        assert!(engine.state().block_on().unwrap() == state, "{name}");
    }
}

/// Stopped after three steps and continued in another engine: the same bits.
#[test]
fn averages_are_resumed_with_the_same_bits() {
    for made in made::load().trainings {
        let (model, config, split) = (model(), step(&made), made.split());
        let initial: Vec<Vec<f32>> =
            made.initial.iter().map(|values| values.iter().map(|&value| value as f32).collect()).collect();
        let rates = (1..=6).map(|step| config.rates(step, 6)).collect();
        let whole = Epoch { order: (0..12).collect(), rates, ..Epoch::default() };
        let half = Epoch { order: (0..6).collect(), ..whole.clone() };
        let rest = Epoch { done: Totals { batches: 3, samples: 6, ..Totals::default() }, ..whole.clone() };
        let two = [0, 1].map(|_| engines(&model, &initial, &split, 2, &config).into_iter().skip(1));
        let [first, second] = two;
        for ((name, mut engine), (_, mut other)) in first.zip(second) {
            let train = |engine: &mut dyn Engine, epoch: &Epoch| {
                engine.train_epoch(epoch, &mut |_| ControlFlow::Continue(())).block_on().unwrap();
                engine.state().block_on().unwrap()
            };
            let state = train(&mut *other, &half);
            let expected = train(&mut *engine, &whole);
            train(&mut *other, &whole);
            other.restore(&state).unwrap();
            assert!(train(&mut *other, &rest) == expected, "{name}, {}", made.average);
        }
    }
}
