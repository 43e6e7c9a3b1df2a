use crate::support::program::{Place, json_file};
use fmnist_gpu::data::{Dataset, DatasetKind, FASHION_MNIST, Split, synthetic};
use fmnist_gpu::engine::{
    Engine, EngineError, Epoch, Inference, NativeEngine, NonFinite, OnProgress, Pending, State, StepConfig, Totals,
};
use fmnist_gpu::model::{Model, ModelFile, initial_parameters, weights};
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::session::{
    Device, Finished, Plan, Resumable, ResumeError, RunOptions, Session, SessionEvent, Training,
};
use fmnist_gpu::train::settings::{SETTINGS, Setting, Value};
use fmnist_gpu::train::{Event, Outcome, Position, TrainOptions, Trained, Trainer, train};
use pollster::FutureExt as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// An engine whose validation losses are given.
#[derive(Debug)]
struct Scripted<'d> {
    engine: NativeEngine<'d>,
    losses: Vec<f64>,
    validated: usize,
}

impl Engine for Scripted<'_> {
    fn begin_epoch<'a>(&'a mut self, epoch: &'a Epoch) -> Pending<'a, ()> {
        self.engine.begin_epoch(epoch)
    }

    fn advance(&mut self) -> Pending<'_, Totals> {
        self.engine.advance()
    }

    fn settle(&mut self) -> Pending<'_, Totals> {
        self.engine.settle()
    }

    fn infer<'a>(&'a mut self, split: &'a Split, _: OnProgress<'a>) -> Pending<'a, Inference> {
        self.validated += 1;
        let samples = split.len() as u64;
        let loss = self.losses[self.validated - 1] * samples as f64;
        let totals = Totals { loss, samples, ..Totals::default() };
        Box::pin(async move { Ok(Inference { totals, probabilities: Vec::new() }) })
    }

    fn model(&self) -> &Model {
        self.engine.model()
    }

    fn parameters(&mut self) -> Pending<'_, Vec<Vec<f32>>> {
        self.engine.parameters()
    }

    fn state(&mut self) -> Pending<'_, State> {
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

const EPOCHS: u64 = 6;

/// Trains with these validation losses; returns what came out, the state after each epoch, and what the engine holds in the end.
fn trained(losses: &[f64], patience: Option<u64>, step: &StepConfig) -> (Trained, Vec<State>, Vec<Vec<f32>>) {
    let (split, validation) = synthetic::generate(32, 8, 3);
    let model = Model::mlp();
    let parameters = initial_parameters(&model.parameters().unwrap(), 1);
    let engine = NativeEngine::new(&model, &parameters, 1).unwrap().and_training(&split, 16, step).unwrap();
    let mut engine = Scripted { engine, losses: losses.to_vec(), validated: 0 };
    let options = TrainOptions { patience, ..TrainOptions::new(EPOCHS, split.len(), 16, step) };
    let mut states = Vec::new();
    let never = AtomicBool::new(false);
    let on_event = &mut |event: &Event, trainer: &mut Trainer<'_>| {
        if let Event::EpochFinished(record) = event {
            states.push(trainer.state().clone());
            let is_last = record.epoch == EPOCHS || trainer.position().is_exhausted(patience.unwrap_or(99));
            assert_eq!(trainer.is_over(), is_last);
        }
    };
    let trained = train(&mut engine, &options, Position::default(), &validation, &never, on_event).block_on().unwrap();
    let held = engine.parameters().block_on().unwrap();
    (trained, states, held)
}

/// Training ends after so many epochs that did not lower the validation loss, and what comes out is what the best epoch left.
#[test]
fn training_ends_when_patience_does() {
    let average = Some(fmnist_gpu::ops::average::AverageConfig::Ema { decay: 0.9 });
    for step in [StepConfig::default(), StepConfig { average, ..StepConfig::default() }] {
        for (losses, patience, epochs, best) in [
            (&[3.0, 2.0, 2.5, 2.0, 1.0, 1.0][..], 2, 4, 2),
            (&[3.0, 2.0, 2.5, 2.0, 1.0, 1.0], 3, 6, 5),
            (&[1.0, 2.0], 1, 2, 1),
            (&[1.0, f64::NAN, 0.5, f64::INFINITY, 0.75], 2, 5, 3),
            (&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 1, 6, 6),
        ] {
            let case = format!("{losses:?}, {patience}");
            let (trained, states, held) = trained(losses, Some(patience), &step);
            assert_eq!((&trained.outcome, states.len()), (&Outcome::Complete, epochs), "{case}");
            assert_eq!(trained.best_epoch(), Some(best as u64), "{case}");
            assert!(trained.parameters() == states[best - 1].result(), "{case}: other weights");
            assert!(held == trained.parameters(), "{case}: the engine evaluates others");
            // What is resumed goes on from the last epoch.
            assert!(trained.state == states[epochs - 1], "{case}");
        }
    }
    let (trained, states, held) = trained(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], None, &StepConfig::default());
    assert!(states.len() == 6 && trained.best_epoch().is_none() && trained.position.best.is_empty());
    assert!(trained.parameters() == states[5].result() && held == states[5].parameters);
}

/// No epoch with a loss that is a number: nothing is the best, and the last weights stay.
#[test]
fn without_a_best_epoch_the_last_weights_stay() {
    let (trained, states, held) = trained(&[f64::NAN; 6], Some(2), &StepConfig::default());
    assert_eq!((states.len(), trained.best_epoch()), (2, None));
    assert!(trained.parameters() == states[1].parameters && held == states[1].parameters);
}

fn setting(name: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.name == name).unwrap()
}

fn dataset() -> Dataset {
    let (train, test) = synthetic::generate(120, 50, 0);
    let (description, kind) = (FASHION_MNIST, DatasetKind::Synthetic);
    Dataset { train, test, description, kind, source: "generated".to_string() }
}

/// A step so large that the validation loss soon rises.
fn plan(average: &'static str) -> Plan {
    let text = "name = \"tiny\"\nlayers = [{ type = \"flatten\" }, { type = \"dense\", units = 10 }]\n";
    let given = [
        (setting("epochs"), Value::Count(40)),
        (setting("learning_rate"), Value::Real(0.05)),
        (setting("validation_split"), Value::Real(0.3)),
        (setting("average"), Value::Name(average)),
        (setting("patience"), Value::Count(3)),
    ];
    Plan::new(ModelFile::parse("tiny.toml".as_ref(), text).unwrap(), &given).unwrap()
}

/// Trains into a folder until the end, or for so many epochs.
fn session(plan: &Plan, folder: &RunFolder, epochs: u64) -> Finished {
    let (device, tiles) = (Device::Native(2), SharedTiles::default());
    let options = RunOptions { report: false, ..RunOptions::default() };
    let interrupt = AtomicBool::new(false);
    let session = Session::new(plan, &device, tiles, dataset(), &interrupt).unwrap();
    let mut done = 0;
    let on_event = &mut |event: SessionEvent<'_>| {
        if let SessionEvent::Saved(_) = event {
            done += 1;
            interrupt.store(done >= epochs, Ordering::Relaxed);
        }
    };
    session.train(folder, &options, on_event, &mut |error| panic!("{error}")).block_on().unwrap()
}

fn resumed(folder: &RunFolder) -> Plan {
    let Resumable { config, checkpoint } = Resumable::find(folder, &[], &mut |_, _| panic!()).unwrap();
    Plan::resume(config, checkpoint.map(|(_, checkpoint)| checkpoint), None, &[]).unwrap()
}

fn weights_of(run: &Path, name: &str) -> Vec<Vec<f32>> {
    weights::from_bytes(&fs::read(run.join(name)).unwrap()).unwrap().1
}

/// Interrupted after every epoch, without best.safetensors at hand, the run ends at the same epoch with the same weights.
#[test]
fn an_early_end_is_the_same_when_interrupted() {
    for average in ["none", "ema", "lookahead"] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("whole");
        let folder = RunFolder::create(&path, false).unwrap();
        let whole = session(&plan(average), &folder, u64::MAX);
        let summary = json_file(&path.join("summary.json"));
        let (best, done) = (summary["best_epoch"].as_u64().unwrap(), summary["epochs_completed"].as_u64().unwrap());
        assert!(done == best + 3 && done < 40, "{average}: epoch {best} of {done}");
        assert_eq!((&summary["status"], whole.trained.best_epoch()), (&"complete".into(), Some(best)));
        let result = weights_of(&path, "model.safetensors");
        assert!(result == weights_of(&path, "best.safetensors") && result == whole.trained.parameters());
        // The library without files restores the same.
        let never = AtomicBool::new(false);
        let (plan, device) = (plan(average), Device::Native(1));
        let of_library = Session::new(&plan, &device, SharedTiles::default(), dataset(), &never).unwrap();
        let mut training = Training::new(&of_library).block_on().unwrap();
        let trained = training.run(&mut |_, _| {}).block_on().unwrap();
        assert!(trained.parameters() == result, "{average}");
        let test = training.evaluate().block_on().unwrap().unwrap();
        assert_eq!(Some(test.totals.mean_loss()), summary["test_loss"].as_f64());

        let path = place.path().join("parts");
        let mut plan = plan.clone();
        let mut sittings = 0;
        let finished = loop {
            let folder =
                if sittings == 0 { RunFolder::create(&path, false) } else { RunFolder::reopen(&path) }.unwrap();
            let finished = session(&plan, &folder, 1);
            sittings += 1;
            let _ = fs::remove_file(path.join("best.safetensors"));
            if finished.trained.outcome == Outcome::Complete {
                break finished;
            }
            assert!(finished.trained.best_epoch().is_none() && finished.summary.best_epoch.is_none());
            plan = resumed(&folder);
        };
        assert!(finished.trained.state == whole.trained.state && weights_of(&path, "model.safetensors") == result);
        assert_eq!((finished.summary.best_epoch, finished.summary.epochs_completed), (Some(best), done));
        // Once more: there is nothing left to train, only to evaluate.
        let folder = RunFolder::reopen(&path).unwrap();
        let again = session(&resumed(&folder), &folder, u64::MAX);
        assert_eq!((again.summary.test_loss, again.summary.best_epoch), (whole.summary.test_loss, Some(best)));
        assert!(
            again.trained.position.history.len() as u64 == done && weights_of(&path, "model.safetensors") == result
        );
        fs::remove_dir_all(path.join("checkpoints")).unwrap();
        let none = Resumable::find(&folder, &[], &mut |_, _| panic!());
        assert!(matches!(none, Err(ResumeError::Complete(_))), "{none:?}");
    }
}

/// The program says why training ended, and refuses a patience without images to validate on.
#[test]
fn the_program_says_which_epoch_the_weights_are_from() {
    let place = Place::new();
    let train = "train --model mlp --dataset synthetic --train-limit 100 --epochs 60 --device cpu --patience 2";
    place.run(&format!("{train} --out run")).exits(2).says(&["--patience is 2", "--validation-split"]);
    let ran = place.run(&format!("{train} --validation-split 0.5 --learning-rate 0.05 --out run")).exits(0);
    let summary = json_file(&place.path("run/summary.json"));
    let (best, done) = (summary["best_epoch"].as_u64().unwrap(), summary["epochs_completed"].as_u64().unwrap());
    assert_eq!(done, best + 2);
    ran.says(&[&format!("Stopped after epoch {done}"), &format!("those of epoch {best}")]);
    let page = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(
        page.contains(&format!("of epoch {best}, with the lowest validation loss")) && !page.contains("did not finish")
    );
    assert!(page.contains("--patience 2"));
}
