//! A training, from the settings of the page to a run.

use crate::computer::Computer;
use crate::data::Data;
use crate::network::Network;
use crate::{failed, json};
use fmnist_gpu::data::Dataset;
use fmnist_gpu::engine::{State, Totals};
use fmnist_gpu::model::{ModelFile, summary};
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::report::plots::{Curve, draw_curves};
use fmnist_gpu::run::checkpoint::Checkpoint;
use fmnist_gpu::run::{RunFiles, Summary};
use fmnist_gpu::session::{Plan, Session, Training};
use fmnist_gpu::train::settings::{SETTINGS, Setting, Value};
use fmnist_gpu::train::{EpochRecord, Event, Outcome, Position, Trained, Trainer};
use js_sys::{Function, Promise};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};
use wasm_bindgen_futures::{JsFuture, future_to_promise};

/// Whether the visitor asked to stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// Asks the training to stop at its next pause.
#[wasm_bindgen]
pub fn stop() {
    STOP.store(true, Ordering::Relaxed);
}

/// The text of the model file of a built-in model, and what is in it; other names give an empty text.
#[wasm_bindgen]
pub fn model_text(name: &str) -> String {
    ModelFile::built_in_text(name).unwrap_or_default().to_string()
}

/// Describes the layers of a model file; fails, with the line, where the text is not a model.
#[wasm_bindgen]
pub fn check_model(text: &str) -> Result<String, JsError> {
    let file = ModelFile::parse(Path::new("model"), text).map_err(failed)?;
    let plan = Plan::new(file, &[]).map_err(failed)?;
    summary(&plan.model).map_err(failed)
}

/// What to train.
#[derive(Deserialize)]
struct Request {
    /// The name of a built-in model, or the text of a model file.
    model: String,
    /// The settings that are not those of the model file, by the names that they have there.
    settings: BTreeMap<String, toml::Value>,
    /// The number of test images, if not all.
    test_limit: Option<usize>,
}

impl Request {
    fn plan(&self) -> Result<Plan, JsError> {
        let built_in = ModelFile::built_in(&self.model).map(Ok);
        let file = built_in.unwrap_or_else(|| ModelFile::parse(Path::new("model"), &self.model)).map_err(failed)?;
        let given: Result<Vec<_>, JsError> = self.settings.iter().map(|(name, value)| given(name, value)).collect();
        let mut plan = Plan::new(file, &given?).map_err(failed)?;
        // There is no such file.
        plan.model_file = None;
        Ok(plan)
    }
}

/// A setting by its name, with its value.
fn given(name: &str, value: &toml::Value) -> Result<(&'static Setting, Value), JsError> {
    let setting = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = setting.ok_or_else(|| JsError::new(&format!("there is no setting `{name}`")))?;
    Ok((setting, setting.parse(value).map_err(|reason| JsError::new(&reason))?))
}

/// Trains a model and evaluates it.
///
/// Each event is passed to `on_event`: its kind, what is known as JSON, and for `epoch` the network as it is. Training waits for the promise
/// that it may return.
#[wasm_bindgen]
pub fn train(computer: &Computer, data: &Data, request: &str, on_event: Function) -> Promise {
    let plan = parsed(request).and_then(|request| Ok((request.test_limit, request.plan()?)));
    promised(computer, data, plan, on_event)
}

#[wasm_bindgen]
impl Network {
    /// Resumes its run, as [`train`]; of the settings, only the number of epochs may be given.
    pub fn resume(&self, computer: &Computer, data: &Data, request: &str, on_event: Function) -> Promise {
        let plan = parsed(request).and_then(|request| Ok((request.test_limit, self.resumed(&request)?)));
        promised(computer, data, plan, on_event)
    }
}

impl Network {
    /// The plan that resumes its run.
    fn resumed(&self, request: &Request) -> Result<Plan, JsError> {
        let RunFiles { config, checkpoint, .. } = &self.run;
        let Some(config) = config.clone() else {
            return Err(JsError::new("weights alone cannot be trained further; a run has a config.json and a checkpoint"));
        };
        let epochs = request.settings.get_key_value("epochs").map(|(name, value)| given(name, value));
        let given: Vec<_> = epochs.transpose()?.into_iter().collect();
        Plan::resume(config, checkpoint.clone(), None, &given).map_err(failed)
    }
}

fn parsed(request: &str) -> Result<Request, JsError> {
    serde_json::from_str(request).map_err(failed)
}

/// Promises what a plan, with its number of test images, gives. Nothing of JavaScript's is borrowed meanwhile.
fn promised(
    computer: &Computer,
    data: &Data,
    plan: Result<(Option<usize>, Plan), JsError>,
    on_event: Function,
) -> Promise {
    let (computer, dataset) = (computer.clone(), Rc::clone(&data.dataset));
    future_to_promise(async move {
        let (test_limit, plan) = plan?;
        let trained = trained(&computer, &dataset, &plan, test_limit.unwrap_or(usize::MAX), on_event).await;
        Ok(trained?.into())
    })
}

async fn trained(
    computer: &Computer,
    dataset: &Dataset,
    plan: &Plan,
    test_limit: usize,
    on_event: Function,
) -> Result<Network, JsError> {
    STOP.store(false, Ordering::Relaxed);
    let mut dataset = dataset.clone();
    dataset.train.truncate(plan.recipe.train_limit.map_or(usize::MAX, |limit| limit as usize));
    dataset.test.truncate(test_limit);
    let mut session =
        Session::new(plan, &computer.device, SharedTiles::default(), dataset, &STOP).map_err(failed)?;
    session.config.device = computer.name.clone();
    let mut page = Page { session: &session, on_event, live: Live::default() };
    let mut training = Training::new(&session).await.map_err(failed)?;
    let trained = page.follow(&mut training).await?;
    let mut test = None;
    if trained.outcome == Outcome::Complete {
        page.tell("testing", &(), None).await;
        test = training.evaluate().await.map_err(failed)?;
    }
    let mut run = page.run(&trained.position, &trained.state);
    run.parameters = trained.parameters().to_vec();
    run.summary = Some(Summary::new(&session.config, &trained, test.as_ref()));
    let mut network = Network::from(run);
    network.remark = remark(&trained.outcome);
    if let Some(test) = test {
        network.draw_report(&session.dataset, test.probabilities)?;
    }
    Ok(network)
}

/// What the visitor should know about how training ended.
fn remark(outcome: &Outcome) -> Option<String> {
    let Outcome::NonFinite { epoch, step, .. } = outcome else { return None };
    Some(format!(
        "A value was no longer finite in epoch {epoch}, step {step}. The network is as it was before; try a smaller learning rate."
    ))
}

/// The page, which is told what happens.
struct Page<'a> {
    session: &'a Session<'a>,
    on_event: Function,
    live: Live,
}

/// How far a training has come.
#[derive(Serialize)]
struct Progress {
    epoch: u64,
    epochs: u64,
    /// Images of this epoch that are done, and all of them.
    images: [u64; 2],
    loss: f64,
    accuracy: f64,
    images_per_second: f64,
    seconds_left: f64,
    /// Loss and accuracy as SVG, where there is something new to draw.
    curves: Option<[String; 2]>,
}

/// An epoch that is done.
#[derive(Serialize)]
struct EpochDone<'a> {
    #[serde(flatten)]
    record: &'a EpochRecord,
    epochs: u64,
    curves: [String; 2],
}

impl Page<'_> {
    async fn tell(&self, kind: &str, what: &impl Serialize, network: Option<Network>) {
        let network = network.map_or(JsValue::NULL, JsValue::from);
        let answer = self.on_event.call3(&JsValue::NULL, &kind.into(), &json(what).into(), &network);
        let answer = answer.and_then(|answer| answer.dyn_into::<Promise>());
        // What the page does with an event is no reason to stop.
        if let Ok(promise) = answer {
            let _ = JsFuture::from(promise).await;
        }
    }

    async fn follow(&mut self, training: &mut Training<'_>) -> Result<Trained, JsError> {
        let mut trainer = training.trainer(None).await.map_err(failed)?;
        loop {
            let event = trainer.advance().await.map_err(failed)?;
            match event {
                Event::Progress { epoch, totals, seconds } => {
                    let progress = self.progress(&trainer, epoch, totals, seconds)?;
                    self.tell("progress", &progress, None).await;
                }
                Event::EpochFinished(record) => {
                    let epochs = self.session.plan.recipe.epochs;
                    let curves = self.live.draw(&trainer.position().history)?;
                    let network = Network::from(self.run(trainer.position(), trainer.state()));
                    self.tell("epoch", &EpochDone { record: &record, epochs, curves }, Some(network)).await;
                }
                Event::Ended(outcome) => return Ok(trainer.into_trained(outcome)),
                Event::EpochStarted { .. } | Event::Paused => {}
            }
        }
    }

    fn progress(&mut self, trainer: &Trainer<'_>, epoch: u64, totals: Totals, seconds: f64) -> Result<Progress, JsError> {
        let (all, epochs) = (self.session.config.train_images as u64, self.session.plan.recipe.epochs);
        // The clock of a browser may stand still.
        let images_per_second = if seconds > 0.0 { totals.samples as f64 / seconds } else { 0.0 };
        let left = (all * (epochs + 1 - epoch)).saturating_sub(totals.samples) as f64;
        let is_new = self.live.add(epoch, totals, all);
        let curves = is_new.then(|| self.live.draw(&trainer.position().history)).transpose()?;
        Ok(Progress {
            epoch,
            epochs,
            images: [totals.samples, all],
            loss: totals.mean_loss(),
            accuracy: totals.accuracy(),
            images_per_second,
            seconds_left: if images_per_second > 0.0 { left / images_per_second } else { 0.0 },
            curves,
        })
    }

    /// The run as it is after an epoch.
    fn run(&self, position: &Position, state: &State) -> RunFiles {
        let config = self.session.config.clone();
        let checkpoint = Checkpoint { config: config.clone(), position: position.clone(), state: state.clone() };
        RunFiles {
            model: config.model.clone(),
            parameters: state.result().to_vec(),
            config: Some(config),
            history: position.history.clone(),
            summary: None,
            checkpoint: Some(checkpoint),
        }
    }
}

/// Loss and accuracy within the epochs, in steps of a part of an epoch.
#[derive(Default)]
struct Live {
    /// Epochs done, loss, accuracy: means over the step.
    points: Vec<[f64; 3]>,
    /// The epoch and its sums at the end of the last step.
    last: (u64, Totals),
}

impl Live {
    /// Steps per epoch, at most.
    const STEPS: u64 = 20;

    /// Takes note of the sums of an epoch so far; returns whether that ended a step.
    fn add(&mut self, epoch: u64, now: Totals, images: u64) -> bool {
        if self.last.0 != epoch {
            self.last = (epoch, Totals::default());
        }
        let then = self.last.1;
        let n = now.samples - then.samples;
        if n == 0 || n * Self::STEPS < images {
            return false;
        }
        let mean = |sum: f64| sum / n as f64;
        let at = (epoch - 1) as f64 + now.samples as f64 / images as f64;
        self.points.push([at, mean(now.loss - then.loss), mean((now.correct - then.correct) as f64)]);
        self.last.1 = now;
        true
    }

    /// Draws both with those of the validation images, as the report does with whole epochs.
    fn draw(&self, history: &[EpochRecord]) -> Result<[String; 2], JsError> {
        let curve = |name: &str, colour, dashed, points| Curve { name: name.to_string(), colour, dashed, points };
        let curves = |i: usize, of: fn(&EpochRecord) -> Option<f64>| {
            let training = self.points.iter().map(|point| (point[0], point[i])).collect();
            let validation = history.iter().filter_map(|record| Some((record.epoch as f64, of(record)?))).collect();
            [curve("training", 0, false, training), curve("validation", 1, true, validation)]
        };
        let loss = draw_curves("Loss", "mean cross-entropy", &curves(1, |record| record.val_loss));
        let accuracy = draw_curves("Accuracy", "accuracy", &curves(2, |record| record.val_accuracy));
        Ok([loss.map_err(failed)?, accuracy.map_err(failed)?])
    }
}
