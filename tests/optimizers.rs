//! Optimizers and schedules: the mirrors and whole trainings against PyTorch in double precision (`fixtures/make_optimizers.py`), and training that
//! is resumed in the middle of a schedule.

use crate::registry::root;
use crate::support::fixture::worst_error;
use crate::support::gpu;
use crate::support::program::{Place, json_file};
use fmnist_gpu::cpu::adam::{AdamConfig, adam_step};
use fmnist_gpu::cpu::clip::clip_factor;
use fmnist_gpu::cpu::sgd::{SgdConfig, sgd_step};
use fmnist_gpu::cpu::step::Step;
use fmnist_gpu::data::Split;
use fmnist_gpu::engine::{
    Engine, Epoch, Factors, GpuEngine, NativeEngine, Optimizer, ReferenceEngine, Schedule, Shape, State, StepConfig,
    Totals,
};
use fmnist_gpu::model::Model;
use fmnist_gpu::train::{Event, Outcome, Position, TrainOptions, train};
use pollster::FutureExt as _;
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn truth() -> Value {
    json_file(&root().join("tests/fixtures/optimizers.json"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn narrow(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|number| number as f32).collect()
}

fn schedule(value: &Value) -> Schedule {
    let number = |key: &str| value[key].as_f64().unwrap();
    let shape = match value["shape"].as_str().unwrap() {
        "constant" => Shape::Constant,
        "cosine" => Shape::Cosine,
        "onecycle" => Shape::OneCycle,
        "linear" => Shape::Linear,
        "step" => Shape::Step,
        other => panic!("{other}"),
    };
    Schedule { shape, warmup: number("warmup"), initial: number("initial"), last: number("last") }
}

/// What a training step does in a method of the fixture.
fn config(method: &Value) -> StepConfig {
    let number = |key: &str, default: f64| method[key].as_f64().unwrap_or(default);
    let learning_rate = number("learning_rate", 0.0);
    let adam = AdamConfig { learning_rate, epsilon: number("epsilon", 1e-7), ..AdamConfig::default() };
    let optimizer = match method["name"].as_str().unwrap() {
        "adam" => Optimizer::Adam(adam),
        "adamw" => Optimizer::AdamW(adam),
        "sgd" => {
            let nesterov = method["nesterov"].as_bool().unwrap_or(false);
            Optimizer::Sgd(SgdConfig { learning_rate, momentum: number("momentum", 0.0), nesterov })
        }
        other => panic!("{other}"),
    };
    let factors = method.get("factors").map_or(vec![1.0; 3], numbers);
    StepConfig {
        schedule: method.get("schedule").map_or(Schedule::default(), schedule),
        weight_decay: number("weight_decay", 0.0),
        factors: Factors { bias: factors[0], scale: factors[1], shift: factors[2] },
        clip_norm: method["clip_norm"].as_f64(),
        ..StepConfig::from(optimizer)
    }
}

fn methods(truth: &Value) -> impl Iterator<Item = (usize, StepConfig)> {
    truth["methods"].as_array().unwrap().iter().map(config).enumerate()
}

#[test]
fn schedules_are_those_of_pytorch() {
    for found in truth()["schedules"].as_array().unwrap() {
        let (schedule, expected) = (schedule(found), numbers(&found["shares"]));
        let steps = expected.len() as u64;
        assert_eq!(found["steps"].as_u64(), Some(steps));
        for (step, expected) in (1..).zip(expected) {
            let share = schedule.share(step, steps);
            assert!((share - expected).abs() <= 1e-12, "{schedule:?}, step {step} of {steps}: {share}, not {expected}");
        }
    }
}

/// Trainings of a single step, warm-ups of less than one, and warm-ups without an end.
#[test]
fn short_schedules_begin_with_the_largest_rate() {
    for shape in [Shape::Constant, Shape::Cosine, Shape::OneCycle, Shape::Linear, Shape::Step] {
        let whole = Schedule { shape, warmup: 0.0, initial: 0.0, last: 0.5 };
        assert_eq!(whole.share(1, 1), 1.0, "{shape:?}");
        assert_eq!(Schedule { warmup: 0.1, ..whole }.share(1, 10), 1.0, "{shape:?}");
        let rising = Schedule { warmup: 1.0, initial: 0.25, ..whole };
        assert_eq!((rising.share(1, 9), rising.share(9, 9)), (0.25, if shape == Shape::Step { 0.01 } else { 1.0 }));
        let last = match shape {
            Shape::Constant => 1.0,
            Shape::Step => 0.01,
            Shape::Cosine | Shape::OneCycle | Shape::Linear => 0.5,
        };
        assert_eq!(whole.share(7, 7), last, "{shape:?}");
        for schedule in [whole, rising] {
            let shares = (1..=50).map(|step| schedule.share(step, 50));
            assert!(shares.into_iter().all(|share| (0.0..=1.0).contains(&share)), "{schedule:?}");
        }
        assert_eq!(whole.needs_end(), shape != Shape::Constant);
        assert!(rising.needs_end());
    }
}

/// The numbers of a step follow the schedule, and the default leaves those of the optimizer as they are.
#[test]
fn rates_follow_optimizer_and_schedule() {
    let adam = AdamConfig::default();
    let plain = StepConfig::from(Optimizer::Adam(adam));
    for step in 1..100 {
        let rates = plain.rates(step, 99);
        assert_eq!((rates.size, rates.decay), (adam.step_size(step) as f32, 0.0));
    }
    let linear = Schedule { shape: Shape::Linear, ..Schedule::default() };
    let decayed = StepConfig { weight_decay: 0.1, schedule: linear, ..StepConfig::from(Optimizer::AdamW(adam)) };
    let rates = decayed.rates(6, 11);
    // The decay is that of the learning rate, without the correction of Adam's moments.
    assert_eq!((rates.size, rates.decay), ((adam.step_size(6) * 0.5) as f32, (1e-3 * 0.5 * 0.1) as f32));
}

/// The mirrors in double precision, to the last digits.
#[test]
fn updates_are_those_of_pytorch() {
    let truth = truth();
    let updates = &truth["updates"];
    for (i, config) in methods(&truth) {
        let mut w = numbers(&updates["start"]);
        let mut slots = [vec![0.0; w.len()], vec![0.0; w.len()]];
        for (step, g) in (1..).zip(updates["gradients"].as_array().unwrap()) {
            let (g, share) = (numbers(g), config.schedule.share(step, 10));
            let step = Step {
                size: config.optimizer.step_size(step) * share,
                decay: config.optimizer.learning_rate() * share * config.weight_decay,
                clip: config.clip_norm.map_or(1.0, |norm| clip_factor(norm, std::slice::from_ref(&g))),
            };
            let [first, second] = &mut slots;
            match &config.optimizer {
                Optimizer::Adam(adam) | Optimizer::AdamW(adam) => adam_step(adam, step, &g, &mut w, first, second),
                Optimizer::Sgd(sgd) => sgd_step(sgd, step, &g, &mut w, first),
            }
        }
        let error = worst_error(&w, &numbers(&updates["ends"][i]));
        assert!(error <= 1e-12, "method {i}: off by {error:e}\n{config:?}");
    }
}

/// The network of the fixture with its data.
struct Small {
    truth: Value,
    model: Model,
    names: Vec<String>,
    start: Vec<Vec<f32>>,
    split: Split,
}

const BATCH: usize = 8;
const STEPS: usize = 10;

impl Small {
    fn new() -> Small {
        let truth = truth();
        let trainings = &truth["trainings"];
        let model: Model = serde_json::from_value(trainings["model"].clone()).unwrap();
        let bytes = |value: &Value| numbers(value).into_iter().map(|byte| byte as u8).collect();
        let split = Split { images: bytes(&trainings["images"]), labels: bytes(&trainings["labels"]) };
        let described = model.parameters().unwrap();
        let names: Vec<String> = described.iter().map(|parameter| parameter.name.clone()).collect();
        let initial = described.iter().map(|parameter| match trainings["start"].get(&parameter.name) {
            Some(values) => narrow(values),
            None => vec![parameter.role.initial().unwrap(); parameter.len()],
        });
        let start = initial.collect();
        Small { model, names, start, split, truth }
    }

    fn epoch(&self, config: &StepConfig) -> Epoch {
        let rates = (1..=STEPS as u64).map(|step| config.rates(step, STEPS as u64)).collect();
        Epoch { order: (0..self.split.len() as u32).collect(), rates, ..Epoch::default() }
    }

    /// The engines with their names and the error that each may have.
    fn engines(&self, config: &StepConfig) -> Vec<(&str, f64, Box<dyn Engine + '_>)> {
        let native = |threads| {
            let engine = NativeEngine::new(&self.model, &self.start, threads).unwrap();
            Box::new(engine.and_training(&self.split, BATCH, config).unwrap()) as Box<dyn Engine>
        };
        let on_gpu = GpuEngine::new(gpu(), &self.model, &self.start).unwrap();
        let on_gpu = on_gpu.and_training(&self.split, BATCH, config).block_on().unwrap();
        let single = ReferenceEngine::<f32>::new(&self.model, &self.start, &self.split, BATCH, config).unwrap();
        let double = ReferenceEngine::<f64>::new(&self.model, &self.start, &self.split, BATCH, config).unwrap();
        vec![
            // The numbers of a step and the results are in single precision.
            ("double", 3e-7, Box::new(double)),
            ("single", 3e-5, Box::new(single)),
            ("native, one thread", 3e-5, native(1)),
            ("native, three threads", 3e-5, native(3)),
            ("gpu", 3e-5, Box::new(on_gpu)),
        ]
    }
}

/// Trains until so many batches are done: an engine may do more at once.
fn train_to(engine: &mut dyn Engine, epoch: &Epoch, batches: usize) -> Totals {
    let part = Epoch { order: epoch.order[..batches * BATCH].to_vec(), ..epoch.clone() };
    engine.train_epoch(&part, &mut |_| ControlFlow::Continue(())).block_on().unwrap()
}

#[test]
fn trainings_are_those_of_pytorch() {
    let small = Small::new();
    for (i, config) in methods(&small.truth) {
        let ends = &small.truth["trainings"]["ends"][i];
        for (name, tolerance, mut engine) in small.engines(&config) {
            train_to(&mut *engine, &small.epoch(&config), STEPS);
            let parameters = engine.parameters().block_on().unwrap();
            for (parameter, values) in small.names.iter().zip(&parameters) {
                // PyTorch was not asked for running statistics.
                let Some(expected) = ends.get(parameter) else { continue };
                let error = worst_error(values, &numbers(expected));
                assert!(error <= tolerance, "{name}, method {i}, {parameter}: off by {error:e}\n{config:?}");
            }
        }
    }
}

/// Everything at once.
fn everything(optimizer: Optimizer) -> StepConfig {
    StepConfig {
        schedule: Schedule { shape: Shape::OneCycle, warmup: 0.4, initial: 0.1, last: 0.01 },
        weight_decay: 0.1,
        factors: Factors { bias: 2.0, scale: 0.5, shift: 16.0 },
        clip_norm: Some(0.5),
        ..StepConfig::from(optimizer)
    }
}

fn optimizers() -> [Optimizer; 2] {
    let sgd = SgdConfig { learning_rate: 0.1, momentum: 0.9, nesterov: true };
    [Optimizer::AdamW(AdamConfig { learning_rate: 0.01, ..AdamConfig::default() }), Optimizer::Sgd(sgd)]
}

/// A training that is taken apart in the middle of its schedule goes on with the same bits, and any number of threads has the same.
#[test]
fn a_schedule_is_resumed_with_the_same_bits() {
    let small = Small::new();
    for config in optimizers().map(everything) {
        let epoch = small.epoch(&config);
        let mut ends: Vec<State> = Vec::new();
        for (name, _, mut engine) in small.engines(&config) {
            train_to(&mut *engine, &epoch, STEPS);
            let whole = engine.state().block_on().unwrap();
            // In double precision, a state is rounded.
            for stop in [1, 3, 7].into_iter().filter(|_| name != "double") {
                let engines = || small.engines(&config).into_iter().find(|(other, ..)| *other == name).unwrap().2;
                let mut first = engines();
                let done = train_to(&mut *first, &epoch, stop);
                assert_eq!(done.batches, stop);
                let mut second = engines();
                second.restore(&first.state().block_on().unwrap()).unwrap();
                train_to(&mut *second, &Epoch { done, ..epoch.clone() }, STEPS);
                assert!(second.state().block_on().unwrap() == whole, "{name}, resumed after step {stop}");
            }
            ends.push(whole);
        }
        assert!(ends[2] == ends[3], "one thread and three");
        assert!(ends[0] != ends[1]);
    }
}

/// The loop over epochs counts the steps of the whole training, wherever it starts.
#[test]
fn the_loop_resumes_a_schedule_with_the_same_bits() {
    let small = Small::new();
    let config = everything(optimizers()[1]);
    let options = TrainOptions {
        epochs: 3,
        samples: small.split.len(),
        batch_size: BATCH,
        seed: 4,
        step: config.clone(),
        patience: None,
        pause_after: Some(Duration::ZERO),
    };
    let new = || ReferenceEngine::<f32>::new(&small.model, &small.start, &small.split, BATCH, config.clone()).unwrap();
    // Pauses after every step, and stops at the pause of this number.
    let run = |engine: &mut dyn Engine, position: Position, stop: usize| {
        let (interrupt, mut pauses) = (AtomicBool::new(false), 0);
        train(engine, &options, position, &Split::default(), &interrupt, &mut |event, _| {
            pauses += usize::from(*event == Event::Paused);
            interrupt.store(pauses == stop, Ordering::Relaxed);
        })
        .block_on()
        .unwrap()
    };
    let whole = run(&mut new(), Position::default(), usize::MAX);
    assert_eq!(whole.outcome, Outcome::Complete);
    let first = run(&mut new(), Position::default(), 13);
    assert_eq!((&first.outcome, first.position.steps(STEPS)), (&Outcome::Interrupted, 14));
    let mut second = new();
    second.restore(&first.state).unwrap();
    let second = run(&mut second, first.position, usize::MAX);
    assert!(second.state == whole.state && second.outcome == Outcome::Complete);
    assert!(first.state != whole.state);
}

/// The gradients that are shown are those of the loss, clipped or not.
#[test]
fn gradients_are_clipped_in_the_optimizer_alone() {
    let small = Small::new();
    let of = |clip_norm| {
        let config = StepConfig { clip_norm, ..StepConfig::from(optimizers()[1]) };
        let gradients = small.engines(&config).into_iter().map(|(_, _, mut engine)| {
            train_to(&mut *engine, &small.epoch(&config), 1);
            (engine.last_gradients().block_on().unwrap(), engine.state().block_on().unwrap())
        });
        gradients.collect::<Vec<_>>()
    };
    for ((plain, longer), (clipped, shorter)) in of(None).into_iter().zip(of(Some(1e-3))) {
        assert!(plain == clipped && longer != shorter);
    }
}

/// Another number of epochs would have made other steps, so it is refused once there are some.
#[test]
fn a_run_with_a_schedule_keeps_its_number_of_epochs() {
    let place = crate::output::place();
    let train = "train --model tiny.toml --dataset synthetic --train-limit 200 --device cpu --no-report --quiet";
    let weights = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
    for (i, (flags, by)) in [("--schedule cosine", "schedule"), ("--warmup 0.5", "warmup")].into_iter().enumerate() {
        let run = format!("run-{i}");
        place.run(&format!("{train} {flags} --epochs 2 --out {run}")).exits(0);
        let before = fs::read(place.path(&run).join("config.json")).unwrap();
        let (by, resume) = (format!("`{by}` depends on the number of all steps"), format!("train --resume {run}"));
        place
            .run(&format!("{resume} --epochs 3"))
            .exits(2)
            .says(&["--epochs is 3, but the run was started with 2", &by]);
        assert!(fs::read(place.path(&run).join("config.json")).unwrap() == before);
        place.run(&format!("{resume} --epochs 2 --no-report --quiet")).exits(0);
        // Before the first step, it is the training that was asked for from the start.
        place.run(&format!("{train} {flags} --epochs 0 --out none-{i}")).exits(0);
        place.run(&format!("train --resume none-{i} --epochs 2 --no-report --quiet")).exits(0);
        assert!(weights(&format!("none-{i}")) == weights(&run));
    }
}

/// Configurations of runs before there were these settings, and those of runs with them.
#[test]
fn configurations_say_no_more_than_before() {
    let old = r#"{"name":"sgd","learning_rate":0.1,"momentum":0.9}"#;
    let read: Optimizer = serde_json::from_str(old).unwrap();
    assert_eq!(read, Optimizer::Sgd(SgdConfig { learning_rate: 0.1, momentum: 0.9, nesterov: false }));
    assert_eq!(serde_json::to_string(&read).unwrap(), old);
    let place: Place = crate::output::place();
    let train =
        "train --model tiny.toml --dataset synthetic --train-limit 20 --epochs 0 --device cpu --no-report --quiet";
    place.run(&format!("{train} --out plain")).exits(0);
    let config = json_file(&place.path("plain/config.json"));
    assert_eq!((config.get("recipe"), &config["optimizer"]["name"]), (None, &"adam".into()));
    place.run(&format!("{train} --optimizer adamw --schedule onecycle --out modern")).exits(0);
    let config = json_file(&place.path("modern/config.json"));
    assert_eq!(config["optimizer"]["name"], "adamw");
    // What follows from other settings is there with its number.
    let recipe = serde_json::json!({
        "weight_decay": 0.004, "schedule": "onecycle", "warmup": 0.3, "initial": 0.04, "final": 0.0
    });
    assert_eq!(config["recipe"], recipe);
}
