//! Training and evaluation as library calls, and what they cost.

use crate::support::gpu;
use fmnist_gpu::data::{Dataset, DatasetKind, FASHION_MNIST, Split, synthetic};
use fmnist_gpu::engine::{
    Engine, EngineError, Epoch, GpuEngine, Inference, NativeEngine, NonFinite, OnProgress, Optimizer, Pending,
    ReferenceEngine, State, Totals,
};
use fmnist_gpu::model::{Model, ModelFile, Views, initial_parameters, permutation};
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::session::views::infer;
use fmnist_gpu::session::{Device, Plan, Resumable, ResumeError, RunOptions, Session, SessionEvent, Training};
use fmnist_gpu::train::validation::{HoldOut, hold_out};
use fmnist_gpu::train::{Event, Outcome, Position, TrainOptions, train};
use pollster::FutureExt as _;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

fn optimizer() -> Optimizer {
    Optimizer::Adam(AdamConfig::default())
}

/// An engine that notes what is asked of it.
#[derive(Debug)]
struct Watched<'a> {
    engine: NativeEngine<'a>,
    orders: Vec<Vec<u32>>,
    states: usize,
    parameters: usize,
    images: usize,
}

impl Engine for Watched<'_> {
    fn begin_epoch<'a>(&'a mut self, epoch: &'a Epoch) -> Pending<'a, ()> {
        self.orders.push(epoch.order.clone());
        self.engine.begin_epoch(epoch)
    }

    fn advance(&mut self) -> Pending<'_, Totals> {
        self.engine.advance()
    }

    fn settle(&mut self) -> Pending<'_, Totals> {
        self.engine.settle()
    }

    fn infer<'a>(&'a mut self, split: &'a Split, on_progress: OnProgress<'a>) -> Pending<'a, Inference> {
        self.images += split.len();
        self.engine.infer(split, on_progress)
    }

    fn model(&self) -> &Model {
        self.engine.model()
    }

    fn parameters(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        self.parameters += 1;
        self.engine.parameters()
    }

    fn state(&mut self) -> Pending<'_, State> {
        self.states += 1;
        self.engine.state()
    }

    fn restore(&mut self, state: &State) -> Result<(), EngineError> {
        self.engine.restore(state)
    }

    fn find_non_finite<'a>(&'a mut self, epoch: &'a Epoch, last: usize) -> Pending<'a, Option<NonFinite>> {
        self.engine.find_non_finite(epoch, last)
    }

    fn last_gradients(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        self.engine.last_gradients()
    }
}

fn watched(split: &Split) -> Watched<'_> {
    let model = Model::mlp();
    let parameters = initial_parameters(&model.parameters().unwrap(), 1);
    let engine = NativeEngine::new(&model, &parameters, 1).unwrap().and_training(split, 16, optimizer()).unwrap();
    Watched { engine, orders: Vec::new(), states: 0, parameters: 0, images: 0 }
}

/// The weights are read once at the start and once per epoch, for all who want them; validation images are evaluated once.
#[test]
fn weights_are_read_once_per_epoch() {
    let (mut split, _) = synthetic::generate(96, 1, 3);
    let validation = hold_out(&mut split, 32, HoldOut::Stratified(1));
    let mut engine = watched(&split);
    let options = TrainOptions::new(3, split.len(), 16, optimizer());
    let never = AtomicBool::new(false);
    let mut seen = Vec::new();
    let trained = train(&mut engine, &options, Position::default(), &validation, &never, &mut |event, trainer| {
        if let Event::EpochFinished(record) = event {
            assert_eq!(trainer.position().history.last(), Some(record));
            seen.push(trainer.state().clone());
        }
    })
    .block_on()
    .unwrap();
    assert_eq!((trained.outcome, engine.states, engine.parameters, engine.images), (Outcome::Complete, 4, 0, 3 * 32));
    assert_eq!(seen.len(), 3);
    assert!(seen[0] != seen[1] && seen[1] != seen[2] && seen[2] == trained.state);
    assert!(trained.state == engine.engine.state().block_on().unwrap());
}

/// Whoever watches sees that training has begun after one step, however short the steps are.
#[test]
fn the_first_step_is_reported_by_itself() {
    let (mut split, _) = synthetic::generate(96, 1, 3);
    let all = split.clone();
    assert!(hold_out(&mut split, 0, HoldOut::Stratified(1)).is_empty());
    assert!(split == all, "no image is held out");
    let mut engine = watched(&split);
    let options = TrainOptions::new(1, split.len(), 16, optimizer());
    let mut seen = Vec::new();
    train(&mut engine, &options, Position::default(), &Split::default(), &AtomicBool::new(false), &mut |event, _| {
        if let Event::Progress { totals, .. } = event {
            seen.push(totals.batches);
        }
    })
    .block_on()
    .unwrap();
    assert_eq!((seen.first(), seen.last()), (Some(&1), Some(&6)), "{seen:?}");
}

/// Each view of an image crosses the network once, and one view is the image itself, once.
#[test]
fn each_view_crosses_the_network_once() {
    let (split, test) = synthetic::generate(16, 20, 3);
    for (views, count) in [(Views::One, 1), (Views::Flip, 2), (Views::FlipShift, 6)] {
        let mut engine = watched(&split);
        infer(&mut engine, &test, views, &mut |_| ControlFlow::Continue(())).block_on().unwrap();
        assert_eq!(engine.images, count * 20);
    }
}

/// Each epoch has another order: a trainer that repeats the first one loses a point of accuracy, as Keras does.
#[test]
pub fn every_epoch_has_its_own_order() {
    let (split, _) = synthetic::generate(64, 1, 3);
    let mut engine = watched(&split);
    let options = TrainOptions { seed: 7, ..TrainOptions::new(4, split.len(), 16, optimizer()) };
    let never = AtomicBool::new(false);
    train(&mut engine, &options, Position::default(), &Split::default(), &never, &mut |_, _| {}).block_on().unwrap();
    let orders = engine.orders;
    assert_eq!(orders.len(), 4);
    for (i, order) in orders.iter().enumerate() {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert!(sorted == (0..64).collect::<Vec<u32>>(), "epoch {} is not a permutation", i + 1);
        assert!(orders[..i].iter().all(|earlier| earlier != order), "epoch {} repeats an earlier order", i + 1);
        assert!(*order == permutation(64, 7, i as u64 + 1));
    }
}

/// One pass gives loss, accuracy and probabilities, on every engine: those of separate passes.
#[test]
fn one_pass_gives_loss_accuracy_and_probabilities() {
    let (_, test) = synthetic::generate(1, 300, 3);
    for model in [Model::mlp(), Model::cnn()] {
        let parameters = initial_parameters(&model.parameters().unwrap(), 5);
        let mut engines: Vec<Box<dyn Engine + '_>> = vec![
            Box::new(GpuEngine::new(gpu(), &model, &parameters).unwrap()),
            Box::new(NativeEngine::new(&model, &parameters, 2).unwrap()),
            Box::new(ReferenceEngine::<f32>::new(&model, &parameters, &Split::default(), 100, optimizer()).unwrap()),
        ];
        for engine in &mut engines {
            let mut done = Vec::new();
            let inference = engine
                .infer(&test, &mut |totals| {
                    done.push(totals.samples);
                    ControlFlow::Continue(())
                })
                .block_on()
                .unwrap();
            assert_eq!(done.last(), Some(&300));
            let Inference { totals, probabilities } = inference;
            assert_eq!((totals.samples, probabilities.len()), (300, 3000));
            let mut loss = 0.0;
            let mut correct = 0;
            for (row, &label) in probabilities.chunks(10).zip(&test.labels) {
                let sum: f32 = row.iter().sum();
                assert!((sum - 1.0).abs() < 1e-5, "probabilities add up to {sum}");
                loss -= f64::from(row[usize::from(label)]).ln();
                correct += u64::from(row.iter().all(|&p| p <= row[usize::from(label)]));
            }
            assert_eq!(totals.correct, correct, "{engine:?}");
            assert!((totals.loss - loss).abs() < 1e-5 * loss, "{} and {loss}", totals.loss);
            let alone = engine.predict(&test.images[..7 * 784], &mut |_| ControlFlow::Continue(())).block_on().unwrap();
            assert!(alone == probabilities[..70], "an image alone has other probabilities");
            // What was done before a break counts.
            let some = engine.infer(&test, &mut |_| ControlFlow::Break(())).block_on().unwrap();
            let n = some.totals.samples as usize;
            assert!(n > 0 && some.probabilities == probabilities[..10 * n]);
        }
    }
}

/// Whatever the order of the data, each class has its share; both parts keep the order, and the seed decides.
#[test]
fn images_for_validation_are_drawn_from_every_class() {
    let (mut sorted, _) = synthetic::generate(500, 1, 3);
    let mut order: Vec<usize> = (0..500).collect();
    order.sort_by_key(|&i| sorted.labels[i]);
    let images = order.iter().flat_map(|&i| sorted.image(i).to_vec()).collect();
    sorted = Split { images, labels: order.iter().map(|&i| sorted.labels[i]).collect() };
    let part = |count, which| {
        let mut train = sorted.clone();
        let validation = hold_out(&mut train, count, which);
        assert_eq!((train.len(), validation.len()), (500 - count, count));
        (train, validation)
    };
    let of_class = |split: &Split, class| split.labels.iter().filter(|&&label| label == class).count();
    for count in [0, 1, 50, 77, 499, 500] {
        let (train, validation) = part(count, HoldOut::Stratified(1));
        for class in 0..10 {
            let (all, held_out) = (of_class(&sorted, class), of_class(&validation, class));
            let share = all as f64 * count as f64 / 500.0;
            assert!((held_out as f64 - share).abs() < 1.0, "{held_out} of class {class}, whose share is {share}");
            assert_eq!(of_class(&train, class) + held_out, all);
        }
        // Sorted before, sorted after.
        assert!(train.labels.is_sorted() && validation.labels.is_sorted());
    }
    let (train, validation) = part(77, HoldOut::Stratified(1));
    let mut all: Vec<&[u8]> = (0..423).map(|i| train.image(i)).chain((0..77).map(|i| validation.image(i))).collect();
    let mut expected: Vec<&[u8]> = (0..500).map(|i| sorted.image(i)).collect();
    all.sort_unstable();
    expected.sort_unstable();
    assert!(all == expected, "an image was lost or doubled");
    assert!(part(77, HoldOut::Stratified(1)).1 == validation && part(77, HoldOut::Stratified(2)).1 != validation);
    // As in version 0.1: of sorted data, the last class alone.
    assert!(part(20, HoldOut::Last).1.labels.iter().all(|&label| label == 9));
}

fn dataset() -> Dataset {
    let (train, test) = synthetic::generate(200, 50, 0);
    let (description, kind) = (FASHION_MNIST, DatasetKind::Synthetic);
    Dataset { train, test, description, kind, source: "generated".to_string() }
}

fn plan() -> Plan {
    let text =
        "name = \"tiny\"\nlayers = [{ type = \"flatten\" }, { type = \"dense\", units = 10 }]\n[train]\nepochs = 3\n";
    Plan::new(ModelFile::parse("tiny.toml".as_ref(), text).unwrap(), &[]).unwrap()
}

/// The library trains without files, on any device; an interruption ends it after the epoch.
#[test]
fn a_training_needs_no_files() {
    let (plan, device) = (plan(), Device::Native(2));
    let never = AtomicBool::new(false);
    let session = Session::new(&plan, &device, SharedTiles::default(), dataset(), &never).unwrap();
    let mut training = Training::new(&session).block_on().unwrap();
    let mut epochs = 0;
    let whole =
        training.run(&mut |event, _| epochs += u64::from(matches!(event, Event::EpochFinished(_)))).block_on().unwrap();
    assert_eq!((epochs, &whole.outcome), (3, &Outcome::Complete));
    let result = training.evaluate().block_on().unwrap().unwrap();
    assert_eq!((result.totals.samples, result.probabilities.len()), (50, 500));

    let stop = AtomicBool::new(false);
    let session = Session::new(&plan, &device, SharedTiles::default(), dataset(), &stop).unwrap();
    let mut first = Training::new(&session).block_on().unwrap();
    let half = first
        .run(&mut |event, _| {
            if matches!(event, Event::EpochFinished(_)) {
                stop.store(true, Ordering::Relaxed);
            }
        })
        .block_on()
        .unwrap();
    assert_eq!((half.position.history.len(), half.outcome), (1, Outcome::Interrupted));
    assert!(first.evaluate().block_on().unwrap().is_none(), "an interrupted training is not evaluated");
}

/// One call trains, evaluates and writes the run folder. Interrupted and resumed, it ends with the same weights; what cannot be resumed is an
/// error that says why.
#[test]
fn a_session_writes_a_run_that_is_resumed() {
    let place = tempfile::tempdir().unwrap();
    let (device, tiles) = (Device::Native(2), SharedTiles::default());
    let options = RunOptions { report: false, ..RunOptions::default() };
    let train = |plan: &Plan, folder: &RunFolder, stop_after: u64| {
        let interrupt = AtomicBool::new(false);
        let session = Session::new(plan, &device, tiles, dataset(), &interrupt).unwrap();
        let mut events = Vec::new();
        let on_event = &mut |event: SessionEvent<'_>| match event {
            SessionEvent::Training(Event::EpochFinished(_)) => events.push("epoch"),
            SessionEvent::Training(_) => {}
            SessionEvent::Saved(record) => {
                events.push("saved");
                assert!(folder.newest_checkpoint().is_some());
                interrupt.store(record.epoch >= stop_after, Ordering::Relaxed);
            }
            SessionEvent::Evaluating => events.push("evaluating"),
            SessionEvent::Finished(_) => events.push("finished"),
            SessionEvent::Reported(_) => events.push("reported"),
        };
        let finished = session.train(folder, &options, on_event, &mut |error| panic!("{error}")).block_on();
        (finished.unwrap(), events)
    };
    let folder = RunFolder::create(&place.path().join("whole"), false).unwrap();
    let (whole, events) = train(&plan(), &folder, u64::MAX);
    assert_eq!(events, ["epoch", "saved", "epoch", "saved", "epoch", "saved", "evaluating", "finished"]);
    assert_eq!((whole.summary.status.as_str(), whole.images.len()), ("complete", 2));
    assert_eq!(whole.test.unwrap().totals.accuracy(), whole.summary.test_accuracy.unwrap());

    let path = place.path().join("half");
    let folder = RunFolder::create(&path, false).unwrap();
    let nothing = Resumable::find(&folder, &[], &mut |_, _| panic!());
    assert!(matches!(nothing, Err(ResumeError::Empty(empty)) if empty == path));
    let (half, events) = train(&plan(), &folder, 1);
    assert_eq!((events.as_slice(), half.summary.status.as_str()), (&["epoch", "saved", "finished"][..], "interrupted"));
    assert!(half.test.is_none() && half.images.is_empty());
    drop(folder);
    let folder = RunFolder::reopen(&path).unwrap();
    let Resumable { config, checkpoint } = Resumable::find(&folder, &[], &mut |_, _| panic!()).unwrap();
    let start = checkpoint.map(|(_, checkpoint)| checkpoint);
    let resumed = Plan::resume(config, start, None, &[]).unwrap();
    let (rest, _) = train(&resumed, &folder, u64::MAX);
    assert!(rest.trained.state == whole.trained.state);

    let file = path.join("config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"seed\": 0", "\"seed\": 1")).unwrap();
    let changed = Resumable::find(&folder, &[], &mut |_, _| panic!());
    assert!(matches!(changed, Err(ResumeError::Changed { field: "seed", .. })), "{changed:?}");
    let checkpoints = path.join("checkpoints");
    for entry in std::fs::read_dir(&checkpoints).unwrap() {
        std::fs::write(entry.unwrap().path(), "damaged").unwrap();
    }
    let mut damaged = 0;
    let none = Resumable::find(&folder, &[], &mut |_, _| damaged += 1);
    assert!(matches!(none, Err(ResumeError::Damaged(_))) && damaged == 2, "{none:?}");
}
