//! The loop over epochs: permutations, step sizes, history, when to stop.

use crate::data::Split;
use crate::engine::{Engine, EngineError, Epoch, NonFinite, Optimizer, Totals};
use crate::model::permutation;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    /// The optimizer.
    pub optimizer: Optimizer,
    /// How long an epoch runs before it is paused for [`Event::Paused`]; `None` runs it to its end.
    pub pause_after: Option<Duration>,
}

impl TrainOptions {
    /// Training with the seed 0 and without pauses.
    pub fn new(epochs: u64, samples: usize, batch_size: usize, optimizer: Optimizer) -> Self {
        TrainOptions { epochs, samples, batch_size, seed: 0, optimizer, pause_after: None }
    }

    /// Steps per epoch.
    pub fn batches(&self) -> usize {
        self.samples.div_ceil(self.batch_size)
    }
}

/// How far training has come: together with an engine's [`State`](crate::engine::State), all that is needed to resume it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The completed epochs.
    pub history: Vec<EpochRecord>,
    /// The part of the current epoch that is done.
    pub done: Totals,
    /// Seconds spent in the current epoch so far.
    pub seconds: f64,
}

impl Position {
    /// The current epoch, counted from 1.
    pub fn epoch(&self) -> u64 {
        self.history.len() as u64 + 1
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

/// What the trainer reports while it runs.
#[derive(Debug)]
pub enum Event<'a> {
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
        totals: &'a Totals,
        /// Seconds spent in the epoch so far.
        seconds: f64,
    },
    /// The epoch is paused, because [`TrainOptions::pause_after`] has passed or the user interrupted: the time to save a checkpoint.
    Paused {
        /// How far training has come.
        position: &'a Position,
        /// The engine in its current state.
        engine: &'a mut dyn Engine,
    },
    /// An epoch and its validation are done, and every parameter is finite.
    EpochFinished {
        /// The record of the epoch; also the last one of the position's history.
        record: &'a EpochRecord,
        /// How far training has come.
        position: &'a Position,
        /// The engine in its current state, to inspect weights and gradients.
        engine: &'a mut dyn Engine,
    },
}

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All epochs are done.
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
    /// How it ended.
    pub outcome: Outcome,
}

/// Trains `engine` from `position`; the engine must be in the corresponding state. Each epoch uses a new permutation, drawn
/// from the seed and the number of the epoch, and is followed by an evaluation on `validation`, which may be empty.
///
/// # Errors
/// The engine failed.
pub fn train(
    engine: &mut dyn Engine,
    options: &TrainOptions,
    mut position: Position,
    validation: &Split,
    interrupt: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Trained, EngineError> {
    let batches = options.batches();
    let interrupted = || interrupt.load(Ordering::Relaxed);
    while position.epoch() <= options.epochs {
        let epoch = position.epoch();
        on_event(Event::EpochStarted { epoch, batches });
        let first_step = (epoch - 1) * batches as u64 + 1;
        let mut work = Epoch {
            order: permutation(options.samples, options.seed, epoch),
            step_sizes: (0..batches as u64).map(|i| options.optimizer.step_size(first_step + i)).collect(),
            done: position.done,
        };
        let mut good = engine.state()?;
        loop {
            let begin = Instant::now();
            let before = position.seconds;
            let totals = engine.train_epoch(&work, &mut |totals| {
                let elapsed = begin.elapsed();
                on_event(Event::Progress { epoch, totals, seconds: before + elapsed.as_secs_f64() });
                let is_over = options.pause_after.is_some_and(|limit| elapsed >= limit);
                let stops = is_over || interrupted() || !totals.loss.is_finite();
                if stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            let state = engine.state()?;
            if !totals.loss.is_finite() || !state.is_finite() {
                engine.restore(&good)?;
                let cause = engine.find_non_finite(&work, totals.batches)?;
                engine.restore(&good)?;
                let step = cause.as_ref().map_or(totals.batches, |cause| cause.step);
                return Ok(Trained { position, outcome: Outcome::NonFinite { epoch, step, cause } });
            }
            good = state;
            position.seconds += begin.elapsed().as_secs_f64();
            position.done = totals;
            work.done = totals;
            if totals.batches == batches {
                break;
            }
            on_event(Event::Paused { position: &position, engine });
            if interrupted() {
                return Ok(Trained { position, outcome: Outcome::Interrupted });
            }
        }
        let val = validate(engine, validation, interrupt)?;
        if val.is_none() && !validation.is_empty() {
            on_event(Event::Paused { position: &position, engine });
            return Ok(Trained { position, outcome: Outcome::Interrupted });
        }
        let record = EpochRecord {
            epoch,
            loss: position.done.mean_loss(),
            accuracy: position.done.accuracy(),
            val_loss: val.map(|val| val.mean_loss()),
            val_accuracy: val.map(|val| val.accuracy()),
            seconds: position.seconds,
            images_per_second: position.done.samples as f64 / position.seconds,
        };
        position.history.push(record.clone());
        position.done = Totals::default();
        position.seconds = 0.0;
        on_event(Event::EpochFinished { record: &record, position: &position, engine });
        if interrupted() && epoch < options.epochs {
            return Ok(Trained { position, outcome: Outcome::Interrupted });
        }
    }
    Ok(Trained { position, outcome: Outcome::Complete })
}

/// Computes loss and accuracy on the validation images; `None` if there are none, or if the user interrupted.
fn validate(
    engine: &mut dyn Engine,
    validation: &Split,
    interrupt: &AtomicBool,
) -> Result<Option<Totals>, EngineError> {
    if validation.is_empty() {
        return Ok(None);
    }
    let totals = engine.evaluate(validation, &mut |_| {
        if interrupt.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok((totals.samples as usize == validation.len()).then_some(totals))
}
