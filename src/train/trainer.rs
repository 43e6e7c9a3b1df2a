//! The loop over epochs: permutations, step sizes, history, and when to stop.

use super::engine::{Engine, EngineError, Epoch, NonFinite, Optimizer, Totals};
use crate::data::Split;
use crate::model::permutation;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What to train.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Passes over the training set.
    pub epochs: u64,
    /// Samples in the training set.
    pub samples: usize,
    /// Samples a step.
    pub batch_size: usize,
    /// Where the permutations come from.
    pub seed: u64,
    /// How parameters follow their gradients.
    pub optimizer: Optimizer,
    /// How long an epoch may run before it is paused for [`Event::Paused`]; none lets it run to its end.
    pub pause_after: Option<Duration>,
}

impl TrainOptions {
    /// Training from the seed 0, each epoch without a pause.
    pub fn new(epochs: u64, samples: usize, batch_size: usize, optimizer: Optimizer) -> Self {
        TrainOptions { epochs, samples, batch_size, seed: 0, optimizer, pause_after: None }
    }

    /// Steps of an epoch.
    pub fn batches(&self) -> usize {
        self.samples.div_ceil(self.batch_size)
    }
}

/// How far training has come: with an engine's [`State`](super::State), all that is needed to go on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The whole epochs.
    pub history: Vec<EpochRecord>,
    /// What is done of the epoch after them.
    pub done: Totals,
    /// Time spent in that epoch so far.
    pub seconds: f64,
}

impl Position {
    /// The epoch to go on with, counted from 1.
    pub fn epoch(&self) -> u64 {
        self.history.len() as u64 + 1
    }

    /// Steps done since the beginning, in epochs of `batches`.
    pub fn steps(&self, batches: usize) -> u64 {
        self.history.len() as u64 * batches as u64 + self.done.batches as u64
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
    /// Mean loss on the validation images after the epoch; none where none were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Accuracy on the validation images after the epoch, 0 to 1; none where none were held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_accuracy: Option<f64>,
    /// Duration.
    pub seconds: f64,
    /// Training speed.
    pub images_per_second: f64,
}

/// What the trainer tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// An epoch begins, or goes on after a resume.
    EpochStarted {
        /// Counted from 1.
        epoch: u64,
        /// Steps of the epoch.
        batches: usize,
    },
    /// Some steps are done; several times a second.
    Progress {
        /// Counted from 1.
        epoch: u64,
        /// Sums of the epoch so far.
        totals: &'a Totals,
        /// Time in the epoch so far.
        seconds: f64,
    },
    /// The epoch stands still, as [`TrainOptions::pause_after`] is over or the user interrupted: the time for a checkpoint.
    Paused {
        /// How far training has come.
        position: &'a Position,
        /// The engine as it stands.
        engine: &'a mut dyn Engine,
    },
    /// An epoch is done, its validation too, and every parameter is finite.
    EpochFinished {
        /// What it gave; the last of the position's history.
        record: &'a EpochRecord,
        /// How far training has come.
        position: &'a Position,
        /// The engine as it stands, for those who look at weights and gradients.
        engine: &'a mut dyn Engine,
    },
}

/// How training ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every epoch was done.
    Complete,
    /// The user interrupted; what was reached is kept.
    Interrupted,
    /// A number was not finite any more. The engine holds the state from before the epoch, or its last pause.
    NonFinite {
        /// The epoch, counted from 1.
        epoch: u64,
        /// The step of the epoch whose loss was the first that was not finite, counted from 1; that of the last step where the
        /// loss was finite and a parameter was not.
        step: usize,
        /// What went bad first, where replaying found it.
        cause: Option<NonFinite>,
    },
}

/// What training gave.
#[derive(Clone, Debug)]
pub struct Trained {
    /// How far it came.
    pub position: Position,
    /// How it ended.
    pub outcome: Outcome,
    /// Time in epochs, without start-up and evaluation; from the beginning, not only since a resume.
    pub seconds: f64,
    /// Images trained on, from the beginning.
    pub images: u64,
}

/// Trains `engine` from `start` on, whose state the engine must hold. Each epoch takes a new permutation, drawn from the seed
/// and the epoch's number, and is followed by an evaluation on `validation`, which may be empty.
///
/// # Errors
/// The engine failed.
pub fn train(
    engine: &mut dyn Engine,
    options: &TrainOptions,
    start: Position,
    validation: &Split,
    interrupt: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Trained, EngineError> {
    let mut position = start;
    let outcome = epochs(engine, options, &mut position, validation, interrupt, on_event)?;
    Ok(Trained {
        outcome,
        seconds: position.history.iter().map(|record| record.seconds).sum::<f64>() + position.seconds,
        images: position.history.len() as u64 * options.samples as u64 + position.done.samples,
        position,
    })
}

fn epochs(
    engine: &mut dyn Engine,
    options: &TrainOptions,
    position: &mut Position,
    validation: &Split,
    interrupt: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, EngineError> {
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
                if is_over || interrupted() || !totals.loss.is_finite() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
            let state = engine.state()?;
            if !totals.loss.is_finite() || !state.is_finite() {
                engine.restore(&good)?;
                let cause = engine.find_non_finite(&work, totals.batches)?;
                engine.restore(&good)?;
                let step = cause.as_ref().map_or(totals.batches, |cause| cause.step);
                return Ok(Outcome::NonFinite { epoch, step, cause });
            }
            good = state;
            position.seconds += begin.elapsed().as_secs_f64();
            position.done = totals;
            work.done = totals;
            if totals.batches == batches {
                break;
            }
            on_event(Event::Paused { position, engine });
            if interrupted() {
                return Ok(Outcome::Interrupted);
            }
        }
        let val = validate(engine, validation, interrupt)?;
        if val.is_none() && !validation.is_empty() {
            on_event(Event::Paused { position, engine });
            return Ok(Outcome::Interrupted);
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
        on_event(Event::EpochFinished { record: &record, position, engine });
        if interrupted() && epoch < options.epochs {
            return Ok(Outcome::Interrupted);
        }
    }
    Ok(Outcome::Complete)
}

/// Loss and accuracy on the validation images; none where there are none, or where the user interrupted.
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
