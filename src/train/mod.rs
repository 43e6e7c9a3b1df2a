//! The loop over epochs: permutations, step sizes, history, when to stop, and with which weights.

pub mod settings;
pub mod validation;

use crate::clock::Instant;
use crate::data::Split;
use crate::engine::{Engine, EngineError, Epoch, NonFinite, Rates, State, StepConfig, Totals};
use crate::model::permutation;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to train and how.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Passes over the training set.
    pub epochs: u64,
    /// Samples in the training set.
    pub samples: usize,
    /// Samples per step.
    pub batch_size: usize,
    /// Seed of the permutations.
    pub seed: u64,
    /// What a step does.
    pub step: StepConfig,
    /// Epochs without a lower validation loss after which training ends. With it, the result is what the epoch with the lowest loss left,
    /// also where training goes to its end.
    pub patience: Option<u64>,
    /// How long an epoch runs before it is paused for [`Event::Paused`]; `None` runs it to its end.
    pub pause_after: Option<Duration>,
}

impl TrainOptions {
    /// Training with the seed 0, to its end and without pauses.
    pub fn new(epochs: u64, samples: usize, batch_size: usize, step: impl Into<StepConfig>) -> Self {
        let (seed, step, patience, pause_after) = (0, step.into(), None, None);
        TrainOptions { epochs, samples, batch_size, seed, step, patience, pause_after }
    }

    /// Steps per epoch.
    pub fn batches(&self) -> usize {
        self.samples.div_ceil(self.batch_size)
    }

    /// An epoch, counted from 1, of which nothing is done, on images of the shape `[H, W, C]`.
    pub fn epoch(&self, number: u64, image: [usize; 3]) -> Epoch {
        let batches = self.batches() as u64;
        let (first_step, steps) = ((number - 1) * batches + 1, self.epochs * batches);
        let mut rates: Vec<Rates> = (0..batches).map(|i| self.step.rates(first_step + i, steps)).collect();
        Epoch {
            number,
            order: permutation(self.samples, self.seed, number),
            mixes: self.step.mixes(first_step, &mut rates, image),
            rates,
            done: Totals::default(),
        }
    }
}

/// How far training has come: together with an engine's [`State`], all that is needed to resume it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The completed epochs.
    pub history: Vec<EpochRecord>,
    /// The part of the current epoch that is done.
    pub done: Totals,
    /// Seconds spent in the current epoch so far.
    pub seconds: f64,
    /// The parameters that the [best epoch](Position::best_epoch) left, if training has a [patience](TrainOptions::patience); a checkpoint has
    /// them among its tensors.
    #[serde(skip)]
    pub best: Vec<Vec<f32>>,
}

impl Position {
    /// The current epoch, counted from 1.
    pub fn epoch(&self) -> u64 {
        self.history.len() as u64 + 1
    }

    /// The epoch with the lowest validation loss so far, the first of equal ones, counted from 1; `None` if none was measured.
    pub fn best_epoch(&self) -> Option<u64> {
        let losses = self.history.iter().filter_map(|record| Some((record.epoch, record.val_loss?)));
        let lower = |best: (Option<u64>, f64), (epoch, loss)| if loss < best.1 { (Some(epoch), loss) } else { best };
        losses.fold((None, f64::INFINITY), lower).0
    }

    /// Whether so many epochs have passed since the best one.
    pub fn is_exhausted(&self, patience: u64) -> bool {
        self.history.len() as u64 >= self.best_epoch().unwrap_or(0) + patience
    }

    /// Steps done since the start of training, with `batches` steps per epoch.
    pub fn steps(&self, batches: usize) -> u64 {
        self.history.len() as u64 * batches as u64 + self.done.batches as u64
    }

    /// Seconds spent in epochs since the start of training, without start-up and evaluation.
    pub fn total_seconds(&self) -> f64 {
        self.history.iter().map(|record| record.seconds).sum::<f64>() + self.seconds
    }

    /// Images trained on since the start of training, with `samples` in the training set.
    pub fn images(&self, samples: usize) -> u64 {
        self.history.len() as u64 * samples as u64 + self.done.samples
    }
}

/// One line of `history.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: u64,
    /// Mean training loss over the epoch, measured before each step.
    pub loss: f64,
    /// Training accuracy over the epoch, 0 to 1.
    pub accuracy: f64,
    /// Mean loss on the validation images after the epoch; `None` if none were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Accuracy on the validation images after the epoch, 0 to 1; `None` if none were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    /// Duration of the epoch in seconds.
    pub seconds: f64,
    /// Training speed, without validation.
    pub images_per_second: f64,
}

/// What happened while training.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An epoch starts, or is resumed.
    EpochStarted {
        /// Counted from 1.
        epoch: u64,
        /// Steps per epoch.
        batches: usize,
    },
    /// More steps are done; several times per second.
    Progress {
        /// Counted from 1.
        epoch: u64,
        /// Sums of the epoch so far.
        totals: Totals,
        /// Seconds spent in the epoch so far.
        seconds: f64,
    },
    /// The epoch is paused, because [`TrainOptions::pause_after`] has passed or the user interrupted: the time to save a checkpoint.
    Paused,
    /// An epoch and its validation are done, and every parameter is finite. Its record is also the last one of the history.
    EpochFinished(EpochRecord),
    /// Training is over.
    Ended(Outcome),
}

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All epochs are done, or as many as the [patience](TrainOptions::patience) allowed.
    Complete,
    /// The user interrupted; the progress so far is kept.
    Interrupted,
    /// A value was no longer finite. The engine holds the state from before the epoch, or from its last pause.
    NonFinite {
        /// The epoch, counted from 1.
        epoch: u64,
        /// The first step of the epoch with a loss that was not finite, counted from 1; if only a parameter was not finite, the last
        /// step done.
        step: usize,
        /// The first value that was not finite, if repeating the steps found it.
        cause: Option<NonFinite>,
    },
}

/// The result of training.
#[derive(Clone, Debug)]
pub struct Trained {
    /// How far training came.
    pub position: Position,
    /// Parameters, optimizer and averages as of the last epoch or pause, from which training can be resumed; every value is finite.
    pub state: State,
    /// How it ended.
    pub outcome: Outcome,
}

impl Trained {
    /// The parameters that came out: those of the best epoch if training had a [patience](TrainOptions::patience) and is complete, otherwise
    /// those of the state.
    pub fn parameters(&self) -> &[Vec<f32>] {
        if self.best_epoch().is_some() { &self.position.best } else { self.state.result() }
    }

    /// The epoch that the parameters are from, if it need not be the last one.
    pub fn best_epoch(&self) -> Option<u64> {
        let is_kept = self.outcome == Outcome::Complete && !self.position.best.is_empty();
        self.position.best_epoch().filter(|_| is_kept)
    }
}

/// Trains `engine` from `position`, by a [`Trainer`], and passes each event to `on_event` with it.
///
/// # Errors
/// The engine failed.
pub async fn train(
    engine: &mut dyn Engine,
    options: &TrainOptions,
    position: Position,
    validation: &Split,
    interrupt: &AtomicBool,
    on_event: &mut dyn FnMut(&Event, &mut Trainer<'_>),
) -> Result<Trained, EngineError> {
    let mut trainer = Trainer::new(engine, options, position, validation, interrupt).await?;
    loop {
        let event = trainer.advance().await?;
        on_event(&event, &mut trainer);
        if let Event::Ended(outcome) = event {
            return Ok(trainer.into_trained(outcome));
        }
    }
}

/// Trains an engine, a fraction of a second at a time.
///
/// Each epoch uses a new permutation, drawn from the seed and the number of the epoch, and is followed by an evaluation on the validation
/// images. After an epoch and at a pause, everything that training changes is read once, and is here for all who want it.
#[derive(Debug)]
pub struct Trainer<'a> {
    engine: &'a mut (dyn Engine + 'a),
    options: &'a TrainOptions,
    validation: &'a Split,
    interrupt: &'a AtomicBool,
    position: Position,
    /// As of the last epoch or pause; every value is finite.
    state: State,
    running: Option<Running>,
    /// Whether an epoch or a part of it was just done: only then an interruption ends the training.
    may_end: bool,
    outcome: Option<Outcome>,
}

/// The epoch that is trained.
#[derive(Debug)]
struct Running {
    /// What is left of it since it was started or paused.
    work: Epoch,
    totals: Totals,
    /// `None` until the engine starts.
    begin: Option<Instant>,
}

impl<'a> Trainer<'a> {
    /// A trainer at `position`; the engine must be in the corresponding state. `validation` may be empty.
    ///
    /// # Errors
    /// The engine failed.
    pub async fn new(
        engine: &'a mut (dyn Engine + 'a),
        options: &'a TrainOptions,
        position: Position,
        validation: &'a Split,
        interrupt: &'a AtomicBool,
    ) -> Result<Self, EngineError> {
        let state = engine.state().await?;
        Ok(Trainer {
            engine,
            options,
            validation,
            interrupt,
            position,
            state,
            running: None,
            may_end: false,
            outcome: None,
        })
    }

    /// How far training has come.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Parameters, optimizer and averages as of the last epoch or pause.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether no epoch is left: all are done, or as many as the patience allows.
    pub fn is_over(&self) -> bool {
        let is_exhausted = self.options.patience.is_some_and(|patience| self.position.is_exhausted(patience));
        self.position.epoch() > self.options.epochs || is_exhausted
    }

    /// The result, once training has ended with this outcome.
    pub fn into_trained(self, outcome: Outcome) -> Trained {
        let Trainer { position, state, .. } = self;
        Trained { position, state, outcome }
    }

    /// The engine, to inspect it.
    pub fn engine(&mut self) -> &mut (dyn Engine + 'a) {
        self.engine
    }

    /// Trains until the next event. Once training is over, returns [`Event::Ended`] again and again.
    ///
    /// # Errors
    /// The engine failed.
    pub async fn advance(&mut self) -> Result<Event, EngineError> {
        if let Some(outcome) = &self.outcome {
            return Ok(Event::Ended(outcome.clone()));
        }
        let epoch = self.position.epoch();
        let interrupted = self.interrupt.load(Ordering::Relaxed);
        if std::mem::take(&mut self.may_end) && interrupted && !self.is_over() {
            return Ok(self.end(Outcome::Interrupted));
        }
        let Some(running) = &mut self.running else { return self.start_epoch() };
        let begin = match running.begin {
            Some(begin) => begin,
            None => {
                self.engine.begin_epoch(&running.work).await?;
                *running.begin.insert(Instant::now())
            }
        };
        let elapsed = begin.elapsed();
        let is_over = running.totals.samples as usize >= running.work.order.len();
        // A pause comes after some progress.
        let stops = running.totals.batches > running.work.done.batches
            && (self.options.pause_after.is_some_and(|limit| elapsed >= limit)
                || interrupted
                || !running.totals.loss.is_finite());
        if is_over || stops {
            return self.conclude().await;
        }
        running.totals = self.engine.advance().await?;
        let seconds = self.position.seconds + begin.elapsed().as_secs_f64();
        Ok(Event::Progress { epoch, totals: running.totals, seconds })
    }

    fn start_epoch(&mut self) -> Result<Event, EngineError> {
        let (epoch, batches) = (self.position.epoch(), self.options.batches());
        if self.is_over() {
            return self.complete();
        }
        let work = Epoch { done: self.position.done, ..self.options.epoch(epoch, self.engine.model().input) };
        self.running = Some(Running { totals: work.done, work, begin: None });
        Ok(Event::EpochStarted { epoch, batches })
    }

    /// Ends training, with the parameters of the best epoch in the engine if they are the result. The state stays that of the last epoch, so
    /// that a training that is resumed for more epochs gives what one without the end would have given.
    fn complete(&mut self) -> Result<Event, EngineError> {
        let best = &self.position.best;
        if !best.is_empty() {
            let averages = if self.state.averages.is_empty() { Vec::new() } else { best.clone() };
            let slots = self.state.slots.clone();
            self.engine.restore(&State { parameters: best.clone(), slots, averages })?;
        }
        Ok(self.end(Outcome::Complete))
    }

    /// Ends the epoch, or what was done of it before a pause.
    async fn conclude(&mut self) -> Result<Event, EngineError> {
        let Some(Running { mut work, begin, .. }) = self.running.take() else { return self.start_epoch() };
        let totals = self.engine.settle().await?;
        let state = self.engine.state().await?;
        if !totals.loss.is_finite() || !state.is_finite() {
            self.engine.restore(&self.state)?;
            let cause = self.engine.find_non_finite(&work, totals.batches).await?;
            self.engine.restore(&self.state)?;
            let step = cause.as_ref().map_or(totals.batches, |cause| cause.step);
            return Ok(self.end(Outcome::NonFinite { epoch: self.position.epoch(), step, cause }));
        }
        self.state = state;
        self.position.seconds += begin.map_or(0.0, |begin| begin.elapsed().as_secs_f64());
        self.position.done = totals;
        self.may_end = true;
        let is_complete = totals.batches == self.options.batches();
        let validated = if is_complete { self.validate().await? } else { None };
        if !is_complete || (validated.is_none() && !self.validation.is_empty()) {
            work.done = totals;
            self.running = Some(Running { work, totals, begin: None });
            return Ok(Event::Paused);
        }
        let record = EpochRecord {
            epoch: self.position.epoch(),
            loss: totals.mean_loss(),
            accuracy: totals.accuracy(),
            val_loss: validated.map(|totals| totals.mean_loss()),
            val_accuracy: validated.map(|totals| totals.accuracy()),
            seconds: self.position.seconds,
            images_per_second: totals.samples as f64 / self.position.seconds,
        };
        self.position.history.push(record.clone());
        self.position.done = Totals::default();
        self.position.seconds = 0.0;
        if self.options.patience.is_some() && self.position.best_epoch() == Some(record.epoch) {
            self.position.best = self.state.result().to_vec();
        }
        Ok(Event::EpochFinished(record))
    }

    /// Computes loss and accuracy on the validation images; `None` if there are none, or if the user interrupted.
    async fn validate(&mut self) -> Result<Option<Totals>, EngineError> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        self.measure(self.validation).await
    }

    /// Computes loss and accuracy on a split, after an epoch or at a pause; `None` if the user interrupted.
    ///
    /// # Errors
    /// The split is invalid, or the device failed.
    pub async fn measure(&mut self, split: &Split) -> Result<Option<Totals>, EngineError> {
        let totals = self.engine.evaluate(split, &mut |_| unless(self.interrupt)).await?;
        Ok((totals.samples as usize == split.len()).then_some(totals))
    }

    fn end(&mut self, outcome: Outcome) -> Event {
        self.outcome = Some(outcome.clone());
        Event::Ended(outcome)
    }
}

/// Whether an engine goes on: not once the user has interrupted.
pub fn unless(interrupt: &AtomicBool) -> ControlFlow<()> {
    if interrupt.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
