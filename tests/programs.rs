//! Graphs drawn at random: trained for a few steps on every engine and compared, and compared with finite differences. A hundred by default;
//! `FMNIST_TEST_GRAPHS=5000` tries more, and `FMNIST_TEST_GRAPH=17` the one with this seed alone.

use crate::support::{cases, gpu, is_thorough};
use fmnist_gpu::cpu::batch_gather::{Augment, Flip};
use fmnist_gpu::cpu::conv2d::{Conv2dDims, Padding};
use fmnist_gpu::cpu::pool2d::Pool2dDims;
use fmnist_gpu::data::Split;
use fmnist_gpu::engine::{
    Batch, ClassWeights, Engine, Epoch, Factors, GpuEngine, LossConfig, Mixing, NativeEngine, Optimizer, Pass,
    ReferenceEngine, Schedule, Shape, State, StepConfig,
};
use fmnist_gpu::lower::{
    Conv2d, Dense, Fusion, Gelu, GroupedConv2d, MaxPool2d, MeanPool2d, Mode, Op, Place, Program, Relu, lower,
};
use fmnist_gpu::model::{
    Activation, Init, Layer, Model, Node, Pair, Parameter, Pooling, Predict, Role, Source, Trainable,
    initial_parameters,
};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::average::AverageConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::train::TrainOptions;
use pollster::FutureExt as _;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::{ControlFlow, RangeInclusive};

/// A generator of small numbers (xorshift), with the seed of the graph.
struct Draw(u64);

impl Draw {
    fn new(seed: u64) -> Self {
        let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            draw.bits();
        }
        draw
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn among(&mut self, range: RangeInclusive<usize>) -> usize {
        range.start() + (self.bits() >> 11) as usize % (range.end() - range.start() + 1)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.among(1..=100) <= percent
    }

    fn pair(&mut self, range: RangeInclusive<usize>) -> Pair {
        Pair(self.among(range.clone()), self.among(range))
    }

    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// A graph under construction, with the shapes that are already known.
struct Sketch {
    seed: u64,
    draw: Draw,
    model: Model,
    /// Name and shape of each value that a layer may read.
    values: Vec<(String, Vec<usize>)>,
}

impl Sketch {
    /// Draws what a layer says about its parameters, from a generator of its own: the graphs are as without it.
    fn draw_attributes(&self, layer: &mut Layer) {
        let mut draw = Draw::new(self.seed ^ (0x1000 * (1 + self.model.layers.len() as u64)));
        match layer {
            Layer::Conv2d { use_bias, trainable, init, .. } | Layer::Dense { use_bias, trainable, init, .. } => {
                *use_bias = draw.chance(60);
                *trainable = match draw.among(0..=9) {
                    0 | 1 => Trainable::No,
                    2 if *use_bias => Trainable::Bias,
                    _ => Trainable::Yes,
                };
                *init = [Init::GlorotUniform, Init::HeNormal][draw.among(0..=1)];
            }
            Layer::BatchNorm { trainable, .. } => *trainable = draw.chance(75),
            _ => {}
        }
    }

    /// Adds a layer that reads the named values; returns whether it fits.
    fn add(&mut self, mut layer: Layer, inputs: &[String]) -> bool {
        self.draw_attributes(&mut layer);
        let name = format!("n{}", self.model.layers.len());
        let mut node = Node { name: Some(name.clone()), ..Node::from(layer) };
        match inputs {
            [input] => node.input = Some(input.clone()),
            inputs => node.inputs = Some(inputs.to_vec()),
        }
        self.model.layers.push(node);
        let shape = shape_of_last(self.model.clone(), &self.unread());
        match shape {
            Some(shape) if shape.iter().product::<usize>() <= 600 => {
                self.values.push((name, shape));
                true
            }
            _ => {
                self.model.layers.pop();
                false
            }
        }
    }

    /// The names of the layers whose output no layer reads.
    fn unread(&self) -> Vec<String> {
        let read: BTreeSet<&String> =
            self.model.layers.iter().flat_map(|node| node.input.iter().chain(node.inputs.iter().flatten())).collect();
        let names = self.model.layers.iter().flat_map(|node| &node.name);
        names.filter(|name| !read.contains(name)).cloned().collect()
    }

    fn activation(&mut self) -> Activation {
        let others = [Activation::Gelu, Activation::LeakyRelu, Activation::Silu];
        match self.draw.among(0..=6) {
            0 | 1 => Activation::None,
            2 | 3 => Activation::Relu,
            other => others[other - 4],
        }
    }

    /// Adds a layer of a type drawn at random.
    fn grow(&mut self) {
        // Mostly the last value, sometimes an older one: a branch.
        let at = if self.draw.chance(70) { self.values.len() - 1 } else { self.draw.among(0..=self.values.len() - 1) };
        let (name, shape) = self.values[at].clone();
        let padding = if self.draw.chance(60) { Padding::Same } else { Padding::Valid };
        let stride = self.draw.chance(30).then(|| self.draw.pair(1..=3));
        let layer = match (self.draw.among(0..=18), shape.len()) {
            (0..=2, 3) => {
                let filters = self.draw.among(1..=6);
                let groups = [1, 1, 2, 3, shape[2]][self.draw.among(0..=4)];
                let fits = shape[2].is_multiple_of(groups) && filters.is_multiple_of(groups);
                Layer::Conv2d {
                    filters,
                    kernel_size: self.draw.pair(1..=3),
                    stride: if self.draw.chance(20) { self.draw.pair(1..=2) } else { Pair(1, 1) },
                    padding,
                    groups: if fits { groups } else { 1 },
                    activation: self.activation(),
                    use_bias: true,
                    trainable: Trainable::Yes,
                    init: Init::GlorotUniform,
                }
            }
            (0..=4, 1) => Layer::dense(self.draw.among(1..=9), self.activation()),
            (3 | 4, _) if self.draw.chance(50) => {
                let pool_size = Pair(2, 2);
                Layer::MaxPool2d(Pooling { pool_size, stride: Some(pool_size), padding: Padding::Valid })
            }
            (3 | 4, _) => Layer::MaxPool2d(Pooling { pool_size: self.draw.pair(1..=3), stride, padding }),
            (5, 3) => Layer::AveragePool2d(Pooling { pool_size: self.draw.pair(1..=3), stride, padding }),
            (6, 3) => Layer::SumPool2d(Pooling { pool_size: self.draw.pair(1..=2), stride, padding }),
            (7 | 8, _) => Layer::BatchNorm {
                momentum: 0.8,
                epsilon: 0.01,
                scale: self.draw.chance(80),
                center: self.draw.chance(80),
                trainable: true,
            },
            (16 | 17, 3) => Layer::DepthwiseConv2d {
                kernel_size: self.draw.pair(1..=3),
                stride: if self.draw.chance(20) { self.draw.pair(1..=2) } else { Pair(1, 1) },
                padding,
                use_bias: self.draw.chance(70),
                activation: self.activation(),
            },
            (9, _) => Layer::Relu {},
            (10, _) => Layer::Gelu {},
            (18, _) => Layer::Dropout { rate: [0.0, 0.2, 0.5][self.draw.among(0..=2)] },
            (11, 3) if self.draw.chance(30) => Layer::Flatten {},
            (12, 3) if self.draw.chance(50) => Layer::GlobalMaxPool2d {},
            (12, 3) => Layer::GlobalAveragePool2d {},
            (13, _) => Layer::LeakyRelu { slope: [0.01, 0.3, 0.0][self.draw.among(0..=2)] },
            (14, _) => Layer::Silu {},
            (15, _) => Layer::Scale { factor: [0.5, -1.5][self.draw.among(0..=1)] },
            _ => {
                let same: Vec<String> =
                    self.values.iter().filter(|(_, other)| *other == shape).map(|(name, _)| name.clone()).collect();
                let other = same[self.draw.among(0..=same.len() - 1)].clone();
                self.add(Layer::Add {}, &[name, other]);
                return;
            }
        };
        self.add(layer, &[name]);
    }
}

/// Returns the shape of the last layer's output if the layers so far fit, by ending every open branch in a classifier.
fn shape_of_last(mut model: Model, unread: &[String]) -> Option<Vec<usize>> {
    let last = model.layers.last()?.name.clone()?;
    let mut ends = Vec::new();
    for (i, name) in unread.iter().enumerate() {
        let flat = Node { name: Some(format!("flat{i}")), input: Some(name.clone()), ..Node::from(Layer::Flatten {}) };
        let end = Layer::dense(2, Activation::None);
        let end = Node { name: Some(format!("end{i}")), input: flat.name.clone(), ..Node::from(end) };
        ends.extend(end.name.clone());
        model.layers.extend([flat, end]);
    }
    if ends.len() > 1 {
        model.layers.push(Node { inputs: Some(ends), ..Node::from(Layer::Add {}) });
    }
    model.layers.push(Node::from(Layer::dense(2, Activation::Softmax)));
    model.graph().ok()?.into_iter().find(|shape| shape.name == last).map(|shape| shape.output)
}

/// Draws a model: any layers in any order, with branches, for small images of an odd shape.
pub fn draw_model(seed: u64) -> Model {
    let mut draw = Draw::new(seed);
    let mut input = [draw.among(2..=8), draw.among(2..=8), draw.among(1..=3)];
    // The GPU reads the bytes of an image four at a time.
    if !(input.iter().product::<usize>()).is_multiple_of(4) {
        input[1] = 4;
    }
    let classes = draw.among(2..=5);
    let layers = draw.among(1..=8);
    let model = Model { name: format!("graph {seed}"), input, layers: Vec::new(), predict: Predict::default() };
    let mut sketch = Sketch { seed, draw, model, values: vec![("input".to_string(), input.to_vec())] };
    for _ in 0..layers {
        sketch.grow();
    }
    // Every open branch ends in as many features, and these are added.
    let features = sketch.draw.among(1..=6);
    let mut open = sketch.unread();
    if open.is_empty() {
        open.push("input".to_string());
    }
    let mut ends = Vec::new();
    for name in open {
        let shape = sketch.values.iter().find(|(of, _)| *of == name).unwrap().1.clone();
        let mut last = name;
        if shape.len() == 3 {
            assert!(sketch.add(Layer::Flatten {}, &[last]), "seed {seed}");
            last = sketch.values.last().unwrap().0.clone();
        }
        let activation = sketch.activation();
        assert!(sketch.add(Layer::dense(features, activation), &[last]), "seed {seed}");
        ends.push(sketch.values.last().unwrap().0.clone());
    }
    let mut last = Layer::dense(classes, Activation::Softmax);
    sketch.draw_attributes(&mut last);
    if let Layer::Dense { trainable, .. } = &mut last {
        // At least one layer must be.
        *trainable = Trainable::Yes;
    }
    let mut model = sketch.model;
    if ends.len() > 1 {
        model.layers.push(Node { inputs: Some(ends), ..Node::from(Layer::Add {}) });
    }
    model.layers.push(Node::from(last));
    model.graph().unwrap_or_else(|error| panic!("seed {seed}: {error}\n{model:?}"));
    model
}

/// Parameters at random, also those whose initial values are the same everywhere.
fn draw_parameters(model: &Model, seed: u64) -> Vec<Vec<f32>> {
    let described = model.parameters().unwrap();
    let mut draw = Draw::new(seed ^ 0xabcd);
    let mut parameters = initial_parameters(&described, seed);
    for (parameter, values) in described.iter().zip(&mut parameters) {
        for value in values.iter_mut() {
            match parameter.role {
                Role::Weight => {}
                Role::Scale => *value = 0.5 + draw.unit(),
                Role::Variance => *value = 0.3 + draw.unit(),
                Role::Bias | Role::Shift | Role::Mean => *value = draw.unit() - 0.4,
            }
        }
    }
    parameters
}

fn draw_split(model: &Model, samples: usize, seed: u64) -> Split {
    let pixels: usize = model.input.iter().product();
    let mut draw = Draw::new(seed ^ 0x77);
    let images = (0..samples * pixels).map(|_| (draw.bits() >> 20) as u8).collect();
    let labels = (0..samples).map(|_| draw.among(0..=model.classes() - 1) as u8).collect();
    Split { images, labels }
}

/// Draws what training makes of its images: in every other graph something, and each part in some.
fn draw_images(seed: u64, config: StepConfig) -> StepConfig {
    let mut draw = Draw::new(seed ^ 0x1234);
    if draw.chance(50) {
        return config;
    }
    let flip = [Flip::None, Flip::Random, Flip::Alternating][draw.among(0..=2)];
    let augment = Augment { shift: draw.among(0..=2) as u32, flip, cutout: draw.among(0..=2) as u32 };
    let mut alpha = || [0.0, 0.5][draw.among(0..=1)];
    StepConfig { augment, mixing: Mixing { mixup: alpha(), cutmix: alpha() }, ..config }
}

/// The seeds to try: all up to the number of graphs, or the one that the environment names.
fn seeds() -> Vec<u64> {
    match std::env::var("FMNIST_TEST_GRAPH") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=cases("FMNIST_TEST_GRAPHS", 100, 2000)).collect(),
    }
}

/// What training gives: loss of each epoch, the gradients of the last step, the state, and the probabilities of an evaluation.
struct Trained {
    losses: Vec<f64>,
    gradients: Vec<Vec<f32>>,
    state: State,
    probabilities: Vec<f32>,
}

/// Two epochs of two whole batches and a short one.
const SAMPLES: usize = 11;
const BATCH: usize = 4;

fn train(engine: &mut dyn Engine, split: &Split, config: &StepConfig) -> Trained {
    let mut losses = Vec::new();
    for round in 0..2u32 {
        let order: Vec<u32> = (0..SAMPLES as u32).map(|i| (5 * i + round) % SAMPLES as u32).collect();
        let options = TrainOptions::new(2, SAMPLES, BATCH, config);
        let epoch = Epoch { order, ..options.epoch(u64::from(round) + 1, engine.model().input) };
        losses.push(engine.train_epoch(&epoch, &mut |_| ControlFlow::Continue(())).block_on().unwrap().mean_loss());
    }
    let probabilities = engine.predict(&split.images, &mut |_| ControlFlow::Continue(())).block_on().unwrap();
    Trained {
        losses,
        gradients: engine.last_gradients().block_on().unwrap(),
        state: engine.state().block_on().unwrap(),
        probabilities,
    }
}

/// Compares with the truth in double precision, relative to the largest value of each tensor.
fn differs(truth: &Trained, found: &Trained, tolerance: f64) -> Option<String> {
    let largest = |values: &[f32]| values.iter().fold(1e-3f64, |max, value| max.max(f64::from(value.abs())));
    // The gradient of a bias before a normalization is zero but for rounding, which is relative to the other gradients.
    let among_gradients = truth.gradients.iter().map(|values| largest(values)).fold(0.0, f64::max);
    let near = |name: String, a: &[f32], b: &[f32]| {
        let floor = if name.starts_with("gradient") { 0.01 * among_gradients } else { 0.0 };
        let scale = largest(a).max(floor);
        let worst = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs() / scale);
        let worst = worst.fold(0.0, |max: f64, x| if x.is_nan() { f64::INFINITY } else { max.max(x) });
        let same_len = a.len() == b.len();
        (!same_len || worst > tolerance).then(|| format!("{name}: off by {worst:.2e} of {scale:.2e}"))
    };
    let losses = |trained: &Trained| trained.losses.iter().map(|&loss| loss as f32).collect::<Vec<_>>();
    near("losses".into(), &losses(truth), &losses(found))
        .or_else(|| {
            let mut gradients = truth.gradients.iter().zip(&found.gradients).enumerate();
            gradients.find_map(|(i, (a, b))| near(format!("gradient {i}"), a, b))
        })
        .or_else(|| {
            let mut parameters = truth.state.parameters.iter().zip(&found.state.parameters).enumerate();
            parameters.find_map(|(i, (a, b))| near(format!("parameter {i}"), a, b))
        })
        .or_else(|| {
            assert_eq!(truth.state.averages.len(), found.state.averages.len());
            let mut averages = truth.state.averages.iter().zip(&found.state.averages).enumerate();
            averages.find_map(|(i, (a, b))| near(format!("average {i}"), a, b))
        })
        .or_else(|| near("probabilities".into(), &truth.probabilities, &found.probabilities))
}

/// Draws what a training step does: any optimizer with any of the other parts.
fn draw_config(classes: usize, seed: u64) -> StepConfig {
    let mut draw = Draw::new(seed ^ 0x0057_e9c0);
    let sgd = |nesterov| Optimizer::Sgd(SgdConfig { learning_rate: 0.05, momentum: 0.5, nesterov });
    // A large epsilon: otherwise the sign of a gradient near zero decides.
    let adam = AdamConfig { learning_rate: 0.01, epsilon: 0.05, ..AdamConfig::default() };
    let optimizer = [sgd(false), sgd(true), Optimizer::Adam(adam), Optimizer::AdamW(adam)][draw.among(0..=3)];
    let shapes = [Shape::Constant, Shape::Cosine, Shape::OneCycle, Shape::Linear, Shape::Step];
    let warmup = [0.0, 0.5][draw.among(0..=1)];
    let clip_norm = [0.05, 0.5, 5.0][draw.among(0..=2)];
    let factors = Factors { bias: 2.0, scale: 0.5, shift: 4.0 };
    let label_smoothing = if draw.chance(40) { 0.1 + 0.3 * f64::from(draw.unit()) } else { 0.0 };
    let class_weights = match draw.among(1..=4) {
        1 => ClassWeights::Balanced,
        2 => ClassWeights::Given((0..classes).map(|_| 0.5 + f64::from(draw.unit())).collect()),
        _ => ClassWeights::Equal,
    };
    let averages = [Some(AverageConfig::Ema { decay: 0.6 }), Some(AverageConfig::Lookahead { decay: 0.9 }), None, None];
    StepConfig {
        schedule: Schedule { shape: shapes[draw.among(0..=4)], warmup, initial: 0.25, last: 0.125 },
        weight_decay: if draw.chance(50) { 0.5 } else { 0.0 },
        factors: if draw.chance(50) { factors } else { Factors::default() },
        clip_norm: draw.chance(50).then_some(clip_norm),
        loss: LossConfig { label_smoothing, class_weights },
        average: averages[draw.among(0..=3)],
        seed,
        ..draw_images(seed, optimizer.into())
    }
}

/// Returns a frozen parameter that training has changed, and checks that there are gradients and optimizer state of the trained ones alone.
fn moved(model: &Model, parameters: &[Vec<f32>], trained: &Trained) -> Option<String> {
    let described = model.parameters().unwrap();
    let lens: Vec<usize> = described.iter().filter(|p| p.is_trained()).map(|p| p.len()).collect();
    for kept in trained.state.slots.iter().chain([&trained.gradients]) {
        assert_eq!(kept.iter().map(Vec::len).collect::<Vec<_>>(), lens);
    }
    let mut all = described.iter().zip(parameters.iter().zip(&trained.state.parameters));
    let is_frozen = |parameter: &Parameter| match parameter.role.is_statistic() {
        true => parameter.trainable == Trainable::No,
        false => !parameter.is_trained(),
    };
    all.find(|(parameter, (before, after))| is_frozen(parameter) && before != after).map(|(p, _)| p.name.clone())
}

/// Trains a graph drawn at random on every engine, or every one but the GPU, and compares; returns the types of its layers, and whether it branches.
pub fn engines_agree(seed: u64, on_gpu: bool) -> (BTreeSet<String>, bool) {
    let model = draw_model(seed);
    engines_agree_on(&model, seed, on_gpu);
    let shapes = model.graph().unwrap();
    let branches = shapes.iter().any(|shape| shape.sources.len() > 1);
    (layers_and_activations_of(&model), branches)
}

/// Trains a graph on every engine, or every one but the GPU, and compares.
fn engines_agree_on(model: &Model, seed: u64, on_gpu: bool) {
    let (parameters, split) = (draw_parameters(model, seed), draw_split(model, SAMPLES, seed));
    let config = draw_config(model.classes(), seed);
    let mut engine = ReferenceEngine::<f64>::new(model, &parameters, &split, BATCH, &config).unwrap();
    let truth = train(&mut engine, &split, &config);
    assert_eq!(moved(model, &parameters, &truth), None, "seed {seed}, in double precision");
    let compare = |name: &str, engine: &mut dyn Engine| {
        let found = train(engine, &split, &config);
        assert_eq!(differs(&truth, &found, 2e-3), None, "seed {seed}, {name}, {config:?}");
        assert_eq!(moved(model, &parameters, &found), None, "seed {seed}, {name}");
        found
    };
    let mut engine = ReferenceEngine::<f32>::new(model, &parameters, &split, BATCH, &config).unwrap();
    compare("reference", &mut engine);
    let threads = [1, 3].map(|threads| {
        let engine = NativeEngine::new(model, &parameters, threads)
            .and_then(|engine| engine.and_training(&split, BATCH, &config));
        compare("native", &mut engine.unwrap())
    });
    assert_eq!(threads[0].state, threads[1].state, "seed {seed}: one thread and three");
    if on_gpu {
        let engine = GpuEngine::new(gpu(), model, &parameters)
            .and_then(|engine| engine.and_training(&split, BATCH, &config).block_on());
        compare("gpu", &mut engine.unwrap());
    }
}

#[test]
fn all_engines_agree_on_graphs_at_random() {
    let seeds = seeds();
    // A software adapter compiles the kernels of every graph, which takes many times as long as all the rest.
    let on_gpu = |seed: u64| seed.is_multiple_of(3) || is_thorough() || seeds.len() == 1 || !gpu().is_software();
    let (drawn, branches): (Vec<_>, Vec<_>) = seeds.iter().map(|&seed| engines_agree(seed, on_gpu(seed))).unzip();
    let branches = branches.into_iter().filter(|&branches| branches).count();
    if seeds.len() >= 100 {
        assert_eq!(
            drawn.into_iter().flatten().collect::<BTreeSet<_>>(),
            layers_and_activations(),
            "drawn, and all types of layers and activations"
        );
        assert!(branches > seeds.len() / 4, "{branches} with branches");
    }
}

/// Global poolings behind convolutions with a ReLU, without one, and with another activation, and of the images themselves.
const POOLED: &str = r#"
    name = "pooled"
    layer = [
        { type = "conv2d", name = "rectified", filters = 8, kernel_size = 3, padding = "same", activation = "relu" },
        { type = "globalmaxpool2d", name = "strongest" },
        { type = "conv2d", name = "leaky", input = "rectified", filters = 8, kernel_size = [2, 3], activation = "leakyrelu" },
        { type = "globalaveragepool2d", name = "mean" },
        { type = "conv2d", name = "plain", input = "input", filters = 8, kernel_size = 4, stride = 2 },
        { type = "globalmaxpool2d", name = "largest" },
        { type = "globalaveragepool2d", name = "brightness", input = "input" },
        { type = "dense", name = "lit", units = 8 },
        { type = "add", inputs = ["strongest", "mean", "largest", "lit"] },
        { type = "dense", units = 3 },
    ]
"#;

/// Images larger than those that are drawn: a window over all of them is one, and no engine takes it for windows that it can include.
#[test]
fn all_engines_agree_on_global_poolings_of_large_images() {
    for (seed, input) in [(1, [28, 28, 1]), (2, [45, 64, 1])] {
        let model = Model { input, ..toml::from_str(POOLED).unwrap() };
        engines_agree_on(&model, seed, true);
        let [plain, fused] = [None, Some(&Fused as &dyn Fusion)].map(|f| lower(&model, Mode::Train, BATCH, f).unwrap());
        assert_eq!(different(&model, [&plain, &fused], seed), None, "{plain}\n{fused}");
        let whole = |d: &Pool2dDims| [d.kh, d.kw] == [d.h, d.w] && [d.ho, d.wo] == [1, 1];
        let poolings = fused.instructions.iter().filter(|step| match step.op {
            Op::MaxPool2d(MaxPool2d::Forward(d)) | Op::MeanPool2d(MeanPool2d::Forward(_, d)) => whole(&d),
            _ => false,
        });
        assert_eq!(poolings.count(), 4, "{fused}");
    }
}

/// The graphs have frozen layers of each type, first and later ones, with and without bias, and normalizations after such.
#[test]
fn graphs_at_random_have_frozen_layers_and_layers_without_bias() {
    let mut drawn: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 1..=400 {
        let shapes = draw_model(seed).graph().unwrap();
        for shape in &shapes {
            let frozen = match shape.layer {
                Layer::Conv2d { use_bias, trainable, .. } | Layer::Dense { use_bias, trainable, .. } => {
                    let normalized = shapes.iter().any(|reader| {
                        let reads =
                            |source: &Source| matches!(source, Source::Layer(i) if shapes[*i].name == shape.name);
                        reader.layer.kind() == "batchnorm" && reader.sources.iter().any(reads)
                    });
                    if normalized && !use_bias {
                        *drawn.entry("no bias before a normalization".to_string()).or_default() += 1;
                    }
                    format!("{trainable:?}, bias {use_bias}")
                }
                Layer::BatchNorm { trainable, .. } => format!("{trainable}"),
                _ => continue,
            };
            *drawn.entry(format!("{}: {frozen}", shape.layer.kind())).or_default() += 1;
        }
    }
    // Two types with five combinations, a normalization with two.
    assert!(drawn.len() == 13 && drawn.values().all(|&count| count >= 3), "{drawn:#?}");
}

/// The names of all types of layers, and of all activations as [`activation_of`] writes them: the parser lists them when it meets another one.
pub fn layers_and_activations() -> BTreeSet<String> {
    fn listed<T: DeserializeOwned + Debug>(wrong: &str) -> Vec<String> {
        let error = serde_json::from_str::<T>(wrong).unwrap_err().to_string();
        let listed = error.split("expected one of ").nth(1).unwrap_or_else(|| panic!("{error}"));
        listed.split('`').skip(1).step_by(2).map(str::to_string).collect()
    }
    let layers = listed::<Layer>(r#"{ "type": "none of them" }"#);
    let activations = listed::<Activation>(r#""none of them""#).into_iter().map(|name| format!("activation {name}"));
    layers.into_iter().chain(activations).collect()
}

/// Those of [`layers_and_activations`] that a model has.
pub fn layers_and_activations_of(model: &Model) -> BTreeSet<String> {
    let layers = model.layers.iter().map(|node| &node.layer);
    layers.flat_map(|layer| [layer.kind().to_string(), activation_of(layer)]).collect()
}

/// `activation relu`: not the layer `relu`.
fn activation_of(layer: &Layer) -> String {
    format!("activation {}", serde_json::to_value(layer.activation()).unwrap().as_str().unwrap())
}

/// A batch whose last row is beyond the end of the epoch, and parameters, in double precision.
fn draw_step(model: &Model, seed: u64) -> (Batch<f64>, Vec<Vec<f64>>) {
    let order: Vec<u32> = (0..BATCH as u32 - 1).collect();
    let batch = ReferenceEngine::batch(&draw_split(model, BATCH, seed), &order, 0, BATCH);
    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
    (batch, draw_parameters(model, seed).into_iter().map(wide).collect())
}

/// The loss of a training step in double precision.
fn loss(program: &Program, parameters: &[Vec<f64>], batch: &Batch<f64>) -> f64 {
    let pass = Pass::run(program.clone(), parameters, batch);
    pass.loss[..batch.n_valid].iter().sum::<f64>() / batch.n_valid as f64
}

/// Compares the gradients of a program with central differences of its loss; returns the first that differs.
fn wrong_gradient(model: &Model, program: &Program, seed: u64) -> Option<String> {
    let (batch, parameters) = draw_step(model, seed);
    let gradients = Pass::run(program.clone(), &parameters, &batch).gradients;
    let mut draw = Draw::new(seed);
    for (i, parameter) in model.parameters().unwrap().iter().enumerate().filter(|(_, p)| p.is_trained()) {
        for _ in 0..parameter.len().min(6) {
            let at = draw.among(0..=parameter.len() - 1);
            let gradient = gradients[i][at];
            let difference = |h: f64| {
                let mut moved = parameters.clone();
                moved[i][at] += h;
                let above = loss(program, &moved, &batch);
                moved[i][at] -= 2.0 * h;
                (above - loss(program, &moved, &batch)) / (2.0 * h)
            };
            // A kink between the two points spoils a difference, but not one of a shorter step.
            let fits = |h: f64| (difference(h) - gradient).abs() <= 1e-6 * (1.0 + gradient.abs());
            if ![1e-5, 1e-6, 1e-7].into_iter().any(fits) {
                let name = &parameter.name;
                return Some(format!("{name}[{at}] is {gradient:e}, the difference {:e}", difference(1e-6)));
            }
        }
    }
    None
}

#[test]
fn gradients_of_graphs_at_random_agree_with_finite_differences() {
    for seed in seeds() {
        let model = draw_model(seed);
        let program = lower(&model, Mode::Train, BATCH, None).unwrap();
        let wrong = wrong_gradient(&model, &program, seed);
        assert_eq!(wrong, None, "seed {seed}:\n{model:?}\n{program}");
    }
}

/// Everything that an engine can offer.
#[derive(Debug)]
struct Fused;

impl Fusion for Fused {
    fn pool(&self, _: &Conv2dDims, _: &Pool2dDims) -> bool {
        true
    }

    fn unpool(&self, conv: &Conv2dDims, _: &Pool2dDims, _: bool) -> bool {
        conv.o.is_multiple_of(2)
    }
}

/// Returns the first difference between two programs for the same model, in double precision.
fn different(model: &Model, programs: [&Program; 2], seed: u64) -> Option<String> {
    let (batch, parameters) = draw_step(model, seed);
    let [a, b] = programs.map(|program| Pass::run(program.clone(), &parameters, &batch));
    let near = |a: &[f64], b: &[f64]| {
        let fits = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-9 * (1.0 + a.abs());
        a.len() == b.len() && a.iter().zip(b).all(fits)
    };
    if !near(&a.logits, &b.logits) || !near(&a.probabilities, &b.probabilities) {
        return Some("logits".to_string());
    }
    let mut gradients = a.gradients.iter().zip(&b.gradients).enumerate();
    gradients.find(|(_, (a, b))| !near(a, b)).map(|(i, _)| format!("gradient {i}"))
}

#[test]
fn fusion_and_reuse_change_nothing() {
    let (mut fused, mut shared) = (0, 0);
    let seeds = seeds();
    for &seed in &seeds {
        let model = draw_model(seed);
        for mode in [Mode::Train, Mode::Infer] {
            let plain = lower(&model, mode, BATCH, None).unwrap();
            let all = lower(&model, mode, BATCH, Some(&Fused)).unwrap();
            assert_eq!(different(&model, [&plain, &all], seed), None, "seed {seed}:\n{plain}\n{all}");
            fused += usize::from(all.instructions.len() < plain.instructions.len());
            let of_buffers = |program: &Program| {
                program.tensors.iter().filter(|tensor| matches!(tensor.place, Place::Buffer(_))).count()
            };
            shared += usize::from(all.buffers.len() < of_buffers(&all));
        }
    }
    if seeds.len() >= 100 {
        assert!(fused > seeds.len() / 2 && shared > seeds.len() / 2, "{fused} fused, {shared} with shared buffers");
    }
}

/// Breaks programs in one place; returns how many of the broken ones are found, and how many there were.
fn found(of: impl Fn(&mut Program) -> bool) -> (usize, usize) {
    let (mut broken, mut caught) = (0, 0);
    for seed in 1..=60 {
        let model = draw_model(seed);
        let right = lower(&model, Mode::Train, BATCH, Some(&Fused)).unwrap();
        let mut wrong = right.clone();
        if of(&mut wrong) {
            broken += 1;
            // Not every mistake shows with every image: a mask matters only where a ReLU is off.
            let shows = |seed| {
                let by_another = different(&model, [&right, &wrong], seed).is_some();
                by_another && wrong_gradient(&model, &wrong, seed).is_some()
            };
            caught += usize::from((seed..seed + 10).any(shows));
        }
    }
    (caught, broken)
}

#[test]
fn a_wrong_gradient_rule_is_found() {
    let (caught, broken) = found(|program| {
        let step = program.instructions.iter_mut().find(|step| step.op == Op::Gelu(Gelu::Backward));
        step.map(|step| step.op = Op::Relu(Relu::Backward)).is_some()
    });
    assert!(broken >= 5 && caught == broken, "{caught} of {broken}");
}

#[test]
fn a_forgotten_addition_of_gradients_is_found() {
    let (caught, broken) = found(|program| {
        let loss = program.loss();
        let Some(i) = program.instructions.iter().skip(loss).position(|step| matches!(step.op, Op::Add(_))) else {
            return false;
        };
        let sum = program.instructions.remove(loss + i);
        for step in &mut program.instructions {
            for id in step.reads.iter_mut().filter(|id| **id == sum.writes[0]) {
                *id = sum.reads[1];
            }
        }
        // Its buffer was not kept for the later readers.
        program.tensors.iter_mut().enumerate().for_each(|(i, tensor)| {
            if matches!(tensor.place, Place::Buffer(_)) {
                tensor.place = Place::Buffer(i);
            }
        });
        program.buffers = program
            .tensors
            .iter()
            .map(|t| fmnist_gpu::lower::Buffer { len: t.len(), by_row: t.by_row, is_index: t.is_index })
            .collect();
        true
    });
    assert!(broken >= 5 && caught * 10 >= broken * 9, "{caught} of {broken}");
}

#[test]
fn a_wrong_mask_is_found() {
    let (caught, broken) = found(|program| {
        // A sum of outputs of ReLUs is zero only where all of them are, and a leaky ReLU has a small gradient of its own: a mask changes too little.
        let sums: BTreeSet<_> = program
            .instructions
            .iter()
            .filter(|step| matches!(step.op, Op::Add(_) | Op::LeakyRelu(_)))
            .map(|step| step.writes[0])
            .collect();
        let masked = program.instructions.iter_mut().find_map(|step| match &mut step.op {
            Op::Conv2d(Conv2d::Backward { masked, .. })
            | Op::GroupedConv2d(GroupedConv2d::Backward { masked, .. })
            | Op::Dense(Dense::Backward { masked, .. })
                if step.writes.len() > 2 && !sums.contains(&step.reads[0]) =>
            {
                Some(masked)
            }
            _ => None,
        });
        masked.map(|masked| *masked = !*masked).is_some()
    });
    assert!(broken >= 5 && caught * 10 >= broken * 9, "{caught} of {broken}");
}

#[test]
fn a_buffer_that_is_reused_too_early_is_found() {
    let (caught, broken) = found(|program| {
        let loss = program.loss();
        // The output of the last layer with a row for each image that a backward step still reads.
        let forward: Vec<_> = program.instructions[..loss].iter().flat_map(|step| step.writes.clone()).collect();
        let later = |id| {
            program.instructions[loss + 2..].iter().position(|step| step.reads.contains(&id)).map(|at| at + loss + 2)
        };
        let Some((victim, reader)) = forward.iter().find_map(|&id| later(id).map(|at| (id, at))) else { return false };
        let of = |id: fmnist_gpu::lower::Id| {
            let tensor = program.tensor(id);
            (tensor.len(), tensor.by_row, tensor.is_index)
        };
        let thief =
            program.instructions[loss..reader].iter().flat_map(|step| &step.writes).copied().find(|&id| {
                id != victim && of(id) == of(victim) && matches!(program.tensor(id).place, Place::Buffer(_))
            });
        let Some(thief) = thief else { return false };
        program.tensors[thief.0].place = program.tensor(victim).place;
        true
    });
    assert!(broken >= 2 && caught * 10 >= broken * 8, "{caught} of {broken}");
}

/// A step that reads a tensor must find it written: by an earlier step, or from outside.
#[test]
fn steps_read_only_what_was_written() {
    for seed in seeds() {
        let model = draw_model(seed);
        for mode in [Mode::Train, Mode::Infer] {
            let program = lower(&model, mode, BATCH, Some(&Fused)).unwrap();
            let mut written = BTreeSet::new();
            for step in program.once.iter().chain(&program.instructions) {
                for id in &step.reads {
                    let outside = !matches!(program.tensor(*id).place, Place::Buffer(_) | Place::Gradient(_));
                    assert!(outside || written.contains(id), "seed {seed}: {step:?}\n{program}");
                }
                written.extend(step.writes.iter().copied());
            }
            let gradients: BTreeSet<usize> = written
                .iter()
                .filter_map(|id| match program.tensor(*id).place {
                    Place::Gradient(i) => Some(i),
                    _ => None,
                })
                .collect();
            let trained = model.parameters().unwrap().iter().filter(|p| p.is_trained()).count();
            assert_eq!(gradients.len(), if mode == Mode::Train { trained } else { 0 }, "seed {seed}");
        }
    }
}
