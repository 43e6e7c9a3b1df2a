//! A session that writes a run folder.

mod report;
mod resume;
mod writer;

pub use report::write_report;
pub use resume::{Resumable, ResumeError};
pub use writer::{RunOptions, WriteError};

use self::writer::RunWriter;
use super::{Evaluation, Session, Training};
use crate::engine::EngineError;
use crate::files::ShownPath;
use crate::report::ReportError;
use crate::run::folder::RunFolder;
use crate::run::{RunError, Summary};
use crate::train::{EpochRecord, Event, Outcome, Trained};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What happens in [`Session::train`].
#[derive(Clone, Copy, Debug)]
pub enum SessionEvent<'a> {
    /// Training goes on; what belongs to the event is written next.
    Training(&'a Event),
    /// The files of an epoch are written.
    Saved(&'a EpochRecord),
    /// Training is complete, and the test set is evaluated next.
    Evaluating,
    /// Training is over, and everything is written except the report.
    Finished(&'a Finished),
    /// The report is written: the path of its page.
    Reported(&'a Path),
}

/// The result of a session.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What came out of training.
    pub trained: Trained,
    /// As `summary.json` has it.
    pub summary: Summary,
    /// The evaluation on the test set; `None` if the user interrupted, or if a value was not finite.
    pub test: Option<Evaluation>,
    /// The images that were written.
    pub images: Vec<PathBuf>,
}

/// A session that could not be carried out to its end.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The engine could not be created.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// The configuration could not be written.
    #[error("{0}")]
    Run(#[from] RunError),
    /// The device failed while training.
    #[error("training stopped in epoch {epoch}, after {steps} of its steps{}", what_is_left(checkpoint, unchanged))]
    Stopped {
        /// Counted from 1.
        epoch: u64,
        /// The steps that were done of it.
        steps: usize,
        /// The checkpoint to resume from.
        checkpoint: Option<PathBuf>,
        /// The folder, if it still holds the run that was to be replaced.
        unchanged: Option<PathBuf>,
        /// The cause.
        source: Box<EngineError>,
    },
    /// The test set could not be evaluated.
    #[error("training is done and its weights are saved")]
    Evaluation(#[source] EngineError),
    /// An image of the results could not be drawn.
    #[error("{0}")]
    Image(#[from] ReportError),
    /// A file could not be written, and not later either: that of the weights, or the first.
    #[error("not all results of the training could be written")]
    Incomplete(#[source] WriteError),
}

fn what_is_left(checkpoint: &Option<PathBuf>, unchanged: &Option<PathBuf>) -> String {
    match (checkpoint, unchanged) {
        (Some(path), _) => format!("; the last checkpoint is {}", path.shown()),
        (None, Some(folder)) => {
            format!(", before the first checkpoint; the run that was in {} is unchanged", folder.shown())
        }
        (None, None) => ", before the first checkpoint".to_string(),
    }
}

impl Session<'_> {
    /// Trains, evaluates once on the test set, and writes the run folder. Each event goes to `on_event`, and each file that could not be
    /// written to `on_failure`, at once; training continues.
    ///
    /// A training whose values were not finite is not evaluated; it replaces no other run unless it has completed an epoch.
    ///
    /// # Errors
    /// The device failed, or a file could not be written, not even at the end.
    pub async fn train(
        &self,
        folder: &RunFolder,
        options: &RunOptions,
        on_event: &mut dyn FnMut(SessionEvent<'_>),
        on_failure: &mut dyn FnMut(&WriteError),
    ) -> Result<Finished, TrainError> {
        let mut training = Training::new(self).await?;
        folder.write_config(&self.config)?;
        let mut writer = RunWriter::new(self, folder, options, on_failure)?;
        let mut at = (self.plan.start.as_ref().map_or(1, |start| start.position.epoch()), 0);
        let trained = run(&mut training, &mut writer, options, &mut at, on_event).await.map_err(|source| {
            let unchanged = (!folder.is_committed()).then(|| folder.path().to_path_buf());
            let (checkpoint, source) = (folder.newest_checkpoint(), Box::new(source));
            TrainError::Stopped { epoch: at.0, steps: at.1, checkpoint, unchanged, source }
        })?;
        let is_finite = !matches!(trained.outcome, Outcome::NonFinite { .. });
        let counts = is_finite || folder.is_committed();
        if counts {
            writer.finish(&trained);
        }
        let mut test = None;
        if trained.outcome == Outcome::Complete {
            on_event(SessionEvent::Evaluating);
            test = training.evaluate().await.map_err(TrainError::Evaluation)?;
        }
        let summary = Summary::new(&self.config, &trained, test.as_ref());
        if counts {
            writer.summary(&summary);
        }
        let mut finished = Finished { trained, summary, test, images: Vec::new() };
        if let Some(test) = &finished.test {
            finished.images = writer.images(&test.probabilities, finished.summary.epochs_completed)?;
        }
        on_event(SessionEvent::Finished(&finished));
        if !is_finite {
            return Ok(finished);
        }
        if let Some(page) = writer.report(&finished).await {
            on_event(SessionEvent::Reported(&page));
        }
        writer.conclude().map_err(TrainError::Incomplete)?;
        Ok(finished)
    }
}

/// Trains to the end. `at` is the epoch and the steps that are done of it.
async fn run(
    training: &mut Training<'_>,
    writer: &mut RunWriter<'_>,
    options: &RunOptions,
    at: &mut (u64, usize),
    on_event: &mut dyn FnMut(SessionEvent<'_>),
) -> Result<Trained, EngineError> {
    let mut trainer = training.trainer(options.checkpoint_interval).await?;
    loop {
        let event = trainer.advance().await?;
        match &event {
            Event::EpochStarted { epoch, .. } => *at = (*epoch, 0),
            Event::Progress { epoch, totals, .. } => *at = (*epoch, totals.batches),
            _ => {}
        }
        on_event(SessionEvent::Training(&event));
        writer.event(&event, &mut trainer).await;
        match event {
            Event::EpochFinished(record) => on_event(SessionEvent::Saved(&record)),
            Event::Ended(outcome) => return Ok(trainer.into_trained(outcome)),
            _ => {}
        }
    }
}
