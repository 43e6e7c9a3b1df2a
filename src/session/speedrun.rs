//! How long a plan takes to reach an accuracy on the test set, over several seeds: the protocol of `docs/speedrun.md`.
//!
//! The clock of a run starts when the engine is given the training images, before the first weight is drawn from them or from the seed, and
//! is read at the end of each epoch. It stands still while the test set is evaluated. What is done once per process is done before, in a
//! warm-up: kernels are compiled, threads started, memory touched.

use super::views::{Evaluation, infer};
use super::{Device, Plan, PlanError, Session, Training};
use crate::clock::Instant;
use crate::data::Dataset;
use crate::engine::{Engine, EngineError};
use crate::ops::SharedTiles;
use crate::train::settings::{Recipe, SETTINGS, SettingError, Value};
use crate::train::{Event, Outcome, unless};
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use thiserror::Error;

/// What is timed.
#[derive(Clone, Debug)]
pub struct Speedrun<'a> {
    /// What to train and how: the same for every run, except that each has the seed after that of the run before.
    pub plan: &'a Plan,
    /// What computes.
    pub device: &'a Device,
    /// The tile sizes in workgroup memory; devices without [tiles](Device::has_tiles) ignore them.
    pub tiles: SharedTiles,
    /// The accuracy on the test set that is to be reached, 0 to 1.
    pub target: f64,
    /// Number of runs.
    pub runs: u32,
    /// Once it is set, the current run is given up soon.
    pub interrupt: &'a AtomicBool,
}

/// The state of a run at the end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimedEpoch {
    /// Counted from 1.
    pub epoch: u64,
    /// The clock: seconds since the start of the run, without evaluation.
    pub seconds: f64,
    /// Mean training loss over the epoch.
    pub loss: f64,
    /// Mean loss on the test set.
    pub test_loss: f64,
    /// Accuracy on the test set by the views that the model predicts by, 0 to 1.
    pub test_accuracy: f64,
    /// The same of the images themselves, if there are other views too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_accuracy_one_view: Option<f64>,
}

/// A run, up to the first epoch that reached the target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimedRun {
    /// Its seed.
    pub seed: u64,
    /// `reached`, `not reached` or `non-finite loss`.
    pub status: &'static str,
    /// The clock at the end of the first epoch that reached the target; `None` if none did.
    pub seconds: Option<f64>,
    /// Seconds spent evaluating, which the clock does not count.
    pub evaluation_seconds: f64,
    /// Its epochs; the last one reached the target, if any did.
    pub epochs: Vec<TimedEpoch>,
}

/// The runs of a speedrun.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Speedruns {
    /// Seconds of the warm-up, which no clock counts.
    pub warm_up_seconds: f64,
    /// The runs that are over, in the order of their seeds.
    pub runs: Vec<TimedRun>,
    /// Whether the user interrupted; the run that was given up is not among the runs.
    pub is_interrupted: bool,
}

/// A speedrun that cannot be carried out.
#[derive(Debug, Error)]
pub enum SpeedrunError {
    /// The plan is not one that can be timed, or does not fit the data.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The engine could not be created, or the device failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Speedrun<'_> {
    /// Warms up, then trains and evaluates once per seed. Each epoch goes to `on_epoch`, with the seed of its run.
    ///
    /// # Errors
    /// The plan has no epochs, holds images out of the training set or runs out of seeds; it does not fit data or device; the device failed.
    pub async fn carry_out(
        &self,
        mut dataset: Dataset,
        on_epoch: &mut dyn FnMut(u64, &TimedEpoch),
    ) -> Result<Speedruns, SpeedrunError> {
        check(&self.plan.recipe, self.runs)?;
        let mut done = Speedruns::default();
        for i in 0..self.runs {
            let mut plan = self.plan.clone();
            plan.recipe.seed += u64::from(i);
            let session = Session::new(&plan, self.device, self.tiles, dataset, self.interrupt)?;
            if i == 0 {
                timed(&mut done.warm_up_seconds, warm_up(&session)).await?;
            }
            let Some(run) = self.run(&session, on_epoch).await? else {
                done.is_interrupted = true;
                break;
            };
            done.runs.push(run);
            dataset = session.dataset;
        }
        Ok(done)
    }

    /// Trains until the target is reached or all epochs are done; `None` if the user interrupted.
    async fn run(
        &self,
        session: &Session<'_>,
        on_epoch: &mut dyn FnMut(u64, &TimedEpoch),
    ) -> Result<Option<TimedRun>, EngineError> {
        let seed = session.plan.recipe.seed;
        let (mut clock, mut evaluation_seconds, mut epochs) = (0.0, 0.0, Vec::new());
        let mut training = timed(&mut clock, Training::new(session)).await?;
        let mut trainer = timed(&mut clock, training.trainer(None)).await?;
        let (status, seconds) = loop {
            match timed(&mut clock, trainer.advance()).await? {
                Event::EpochFinished(record) => {
                    let test = timed(&mut evaluation_seconds, test(session, trainer.engine())).await?;
                    let Some(Evaluation { totals, one_view, .. }) = test else { return Ok(None) };
                    let epoch = TimedEpoch {
                        epoch: record.epoch,
                        seconds: clock,
                        loss: record.loss,
                        test_loss: totals.mean_loss(),
                        test_accuracy: totals.accuracy(),
                        test_accuracy_one_view: one_view.map(|totals| totals.accuracy()),
                    };
                    on_epoch(seed, &epoch);
                    epochs.push(epoch);
                    if totals.accuracy() >= self.target {
                        break ("reached", Some(clock));
                    }
                }
                Event::Ended(Outcome::Complete) => break ("not reached", None),
                Event::Ended(Outcome::NonFinite { .. }) => break ("non-finite loss", None),
                Event::Ended(Outcome::Interrupted) => return Ok(None),
                Event::EpochStarted { .. } | Event::Progress { .. } | Event::Paused => {}
            }
        };
        Ok(Some(TimedRun { seed, status, seconds, evaluation_seconds, epochs }))
    }
}

/// Loss and accuracy on the test set, by the views that the model predicts by; `None` if the user interrupted.
async fn test(session: &Session<'_>, engine: &mut dyn Engine) -> Result<Option<Evaluation>, EngineError> {
    let Session { dataset, interrupt, plan, .. } = session;
    let evaluation = infer(engine, &dataset.test, plan.model.predict.views, &mut |_| unless(interrupt)).await?;
    Ok((evaluation.totals.samples as usize == dataset.test.len()).then_some(evaluation))
}

/// Checks that a recipe can be timed this many times.
fn check(recipe: &Recipe, runs: u32) -> Result<(), PlanError> {
    let wrong = |name: &str, value, reason: &str| {
        let setting = SETTINGS.iter().find(|setting| setting.name == name).expect("a name from the table");
        Err(PlanError::Setting(SettingError { setting, value, reason: reason.to_string() }))
    };
    if recipe.epochs == 0 {
        return wrong("epochs", Value::Count(0), "a speedrun trains for at least one");
    }
    if recipe.validation_split > 0.0 {
        let share = Value::Real(recipe.validation_split);
        return wrong(
            "validation_split",
            share,
            "a speedrun trains on all images, with settings that were chosen before",
        );
    }
    if recipe.seed.checked_add(u64::from(runs)).is_none() {
        return wrong("seed", Value::Count(recipe.seed), &format!("that leaves no seeds for {runs} runs"));
    }
    Ok(())
}

/// Trains for a fraction of a second and begins to evaluate, with an engine that is not used again.
async fn warm_up(session: &Session<'_>) -> Result<(), EngineError> {
    let mut training = Training::new(session).await?;
    let mut trainer = training.trainer(None).await?;
    while !matches!(trainer.advance().await?, Event::Progress { .. } | Event::Paused | Event::Ended(_)) {}
    let engine = trainer.engine();
    engine.settle().await?;
    engine.evaluate(&session.dataset.test, &mut |_| ControlFlow::Break(())).await?;
    Ok(())
}

/// Does work, and adds the seconds that it took.
async fn timed<T>(seconds: &mut f64, work: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
    let begin = Instant::now();
    let result = work.await;
    *seconds += begin.elapsed().as_secs_f64();
    result
}

impl Speedruns {
    /// The clocks of the runs that reached the target.
    pub fn seconds(&self) -> Vec<f64> {
        self.runs.iter().filter_map(|run| run.seconds).collect()
    }

    /// Epochs that the runs that reached the target took on average; `None` if there are none.
    pub fn mean_epochs(&self) -> Option<f64> {
        let reached = self.runs.iter().filter(|run| run.seconds.is_some());
        mean(&reached.map(|run| run.epochs.len() as f64).collect::<Vec<_>>())
    }

    /// Seconds per run spent evaluating; `None` if there are no runs.
    pub fn mean_evaluation_seconds(&self) -> Option<f64> {
        mean(&self.runs.iter().map(|run| run.evaluation_seconds).collect::<Vec<_>>())
    }

    /// Mean of the clocks of the runs that reached the target; `None` if there are none.
    pub fn mean_seconds(&self) -> Option<f64> {
        mean(&self.seconds())
    }

    /// Sample standard deviation of these clocks; `None` if there are fewer than two.
    pub fn standard_deviation(&self) -> Option<f64> {
        let seconds = self.seconds();
        let mean = mean(&seconds).filter(|_| seconds.len() > 1)?;
        let squares: f64 = seconds.iter().map(|seconds| (seconds - mean).powi(2)).sum();
        Some((squares / (seconds.len() - 1) as f64).sqrt())
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_the_runs_that_reached_the_target() {
        let epoch = |epoch| TimedEpoch {
            epoch,
            seconds: epoch as f64,
            loss: 1.0,
            test_loss: 1.0,
            test_accuracy: 0.5,
            test_accuracy_one_view: None,
        };
        let run = |seed, seconds: Option<f64>, epochs| TimedRun {
            seed,
            status: if seconds.is_some() { "reached" } else { "not reached" },
            seconds,
            evaluation_seconds: 2.0,
            epochs: (1..=epochs).map(epoch).collect(),
        };
        let runs = vec![run(0, Some(2.0), 1), run(1, None, 9), run(2, Some(4.0), 2), run(3, Some(9.0), 3)];
        let all = Speedruns { runs, ..Speedruns::default() };
        assert_eq!(all.seconds(), [2.0, 4.0, 9.0]);
        assert_eq!(
            (all.mean_seconds(), all.mean_epochs(), all.mean_evaluation_seconds()),
            (Some(5.0), Some(2.0), Some(2.0))
        );
        // (9 + 1 + 16) / 2
        assert_eq!(all.standard_deviation(), Some(13f64.sqrt()));
        let one = Speedruns { runs: all.runs[..2].to_vec(), ..Speedruns::default() };
        assert_eq!((one.mean_seconds(), one.standard_deviation()), (Some(2.0), None));
        let none = Speedruns { runs: all.runs[1..2].to_vec(), ..Speedruns::default() };
        assert_eq!((none.mean_seconds(), none.mean_epochs(), none.mean_evaluation_seconds()), (None, None, Some(2.0)));
    }
}
