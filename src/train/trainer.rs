//! The loop over epochs: permutations, step sizes, history, and when to stop.

use super::engine::{Engine, EngineError, Epoch, Optimizer, Totals};
use crate::data::Split;
use crate::model::permutation;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

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
    /// An epoch begins.
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
        /// Since the epoch began.
        seconds: f64,
    },
    /// An epoch is done, its validation too.
    EpochFinished {
        /// What it gave.
        record: &'a EpochRecord,
        /// The engine as it stands, for those who look at weights and gradients.
        engine: &'a mut dyn Engine,
    },
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every epoch was done.
    Complete,
    /// The user interrupted; what was reached is kept.
    Interrupted,
    /// The loss was not a number or infinite.
    NonFinite {
        /// The epoch, counted from 1.
        epoch: u64,
        /// The step of the epoch by which it had happened, counted from 1.
        step: usize,
    },
}

/// What training gave.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The whole epochs.
    pub history: Vec<EpochRecord>,
    /// How it ended.
    pub outcome: Outcome,
    /// Time in epochs, without start-up and evaluation.
    pub seconds: f64,
    /// Images trained on.
    pub images: u64,
}

/// Trains `engine`. Each epoch takes a new permutation, drawn from the seed and the epoch's number, and is followed by an
/// evaluation on `validation`, which may be empty.
///
/// # Errors
/// The engine failed.
pub fn train(
    engine: &mut dyn Engine,
    options: &TrainOptions,
    validation: &Split,
    interrupt: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Trained, EngineError> {
    let batches = options.samples.div_ceil(options.batch_size);
    let mut trained = Trained { history: Vec::new(), outcome: Outcome::Complete, seconds: 0.0, images: 0 };
    for epoch in 1..=options.epochs {
        on_event(Event::EpochStarted { epoch, batches });
        let first_step = (epoch - 1) * batches as u64 + 1;
        let work = Epoch {
            order: permutation(options.samples, options.seed, epoch),
            step_sizes: (0..batches as u64).map(|i| options.optimizer.step_size(first_step + i)).collect(),
        };
        let start = Instant::now();
        let totals = engine.train_epoch(&work, &mut |totals| {
            on_event(Event::Progress { epoch, totals, seconds: start.elapsed().as_secs_f64() });
            if interrupt.load(Ordering::Relaxed) || !totals.loss.is_finite() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        let seconds = start.elapsed().as_secs_f64();
        trained.seconds += seconds;
        trained.images += totals.samples;
        if !totals.loss.is_finite() {
            trained.outcome = Outcome::NonFinite { epoch, step: totals.batches };
            break;
        }
        if totals.batches < batches {
            trained.outcome = Outcome::Interrupted;
            break;
        }
        let val = validate(engine, validation, interrupt)?;
        let record = EpochRecord {
            epoch,
            loss: totals.mean_loss(),
            accuracy: totals.accuracy(),
            val_loss: val.map(|val| val.mean_loss()),
            val_accuracy: val.map(|val| val.accuracy()),
            seconds,
            images_per_second: totals.samples as f64 / seconds,
        };
        on_event(Event::EpochFinished { record: &record, engine });
        trained.history.push(record);
        if interrupt.load(Ordering::Relaxed) && epoch < options.epochs {
            trained.outcome = Outcome::Interrupted;
            break;
        }
    }
    Ok(trained)
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
