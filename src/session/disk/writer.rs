//! What training writes as it goes.

use super::{Finished, write_report};
use crate::data::Dataset;
use crate::engine::{EngineError, State};
use crate::files::{FileError, ShownPath, write_whole};
use crate::model::weights;
use crate::report::run_page::Report;
use crate::report::{ReportError, predictions_png, samples_png};
use crate::run::checkpoint::CheckpointError;
use crate::run::folder::RunFolder;
use crate::run::{BEST_FILE, MODEL_FILE, RunError, Summary, TENSORBOARD_FOLDER, run_name};
use crate::session::Session;
use crate::tensorboard::{EventError, TrainingEvents};
use crate::train::{EpochRecord, Event, Position, Trained, Trainer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// What is written while training, and when.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Epochs from one checkpoint to the next; there is also one after the last epoch. 0 writes none.
    pub checkpoint_every: u64,
    /// The longest time without a checkpoint, after which one is written in the middle of an epoch.
    pub checkpoint_interval: Option<Duration>,
    /// Number of checkpoints to keep: the newest ones.
    pub keep: usize,
    /// Whether event files for TensorBoard are written.
    pub tensorboard: bool,
    /// Whether a report is written.
    pub report: bool,
    /// The command that repeats the run, for the report.
    pub repeat: Option<String>,
}

/// A checkpoint after each epoch, of which two are kept, and a report.
impl Default for RunOptions {
    fn default() -> Self {
        let (checkpoint_every, checkpoint_interval, keep) = (1, None, 2);
        RunOptions { checkpoint_every, checkpoint_interval, keep, tensorboard: false, report: true, repeat: None }
    }
}

/// A file of a run that could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// A file of the run folder cannot be written.
    #[error("{0}")]
    Run(#[from] RunError),
    /// The weights cannot be written into the run folder at the end, and were written elsewhere.
    #[error("{source}; the trained weights are in {}", path.shown())]
    Rescued {
        /// Where the weights are.
        path: PathBuf,
        /// Why they are not in the run folder.
        source: Box<RunError>,
    },
    /// A checkpoint cannot be written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The event files cannot be written.
    #[error("{0}")]
    Events(#[from] EventError),
    /// The gradients cannot be read for the event files.
    #[error("{0}")]
    Gradients(#[source] EngineError),
    /// The kernels cannot be timed for the report.
    #[error("timing the kernels")]
    KernelTimes(#[source] EngineError),
    /// The report cannot be drawn.
    #[error("drawing the report")]
    Report(#[source] ReportError),
    /// There is a report already.
    #[error("{0}")]
    ReportExists(#[source] FileError),
    /// A file of the report cannot be written.
    #[error("writing the report")]
    ReportFile(#[source] FileError),
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
}

/// Writes what must not be lost while training runs: weights and checkpoints first, then what is only told. Each file fails by itself. A
/// failure is reported at once and training continues, as the weights in memory are worth more than the file; the next attempt may succeed.
pub(super) struct RunWriter<'a> {
    session: &'a Session<'a>,
    folder: &'a RunFolder,
    options: &'a RunOptions,
    on_failure: &'a mut dyn FnMut(&WriteError),
    /// Names of the parameters, and of the trained ones among them.
    names: [Vec<String>; 2],
    /// The lowest validation loss so far, and its weights if they are not written yet.
    best: (f64, Option<Vec<Vec<f32>>>),
    events: Option<TrainingEvents>,
    /// What could not be written, and was not since.
    failures: BTreeMap<&'static str, WriteError>,
    /// Whether there is a checkpoint of this run.
    has_checkpoint: bool,
}

impl<'a> RunWriter<'a> {
    /// A writer for a session that has not started yet. Each failure is passed to `on_failure`.
    pub(super) fn new(
        session: &'a Session<'a>,
        folder: &'a RunFolder,
        options: &'a RunOptions,
        on_failure: &'a mut dyn FnMut(&WriteError),
    ) -> Result<Self, EngineError> {
        let parameters = session.config.model.parameters()?;
        let names = [false, true].map(|only_trained| {
            let named = parameters.iter().filter(|parameter| parameter.is_trained() || !only_trained);
            named.map(|parameter| parameter.name.clone()).collect()
        });
        let start = session.plan.start.as_ref();
        let losses = start.into_iter().flat_map(|start| &start.position.history).filter_map(|record| record.val_loss);
        Ok(RunWriter {
            session,
            folder,
            options,
            on_failure,
            names,
            best: (losses.fold(f64::INFINITY, f64::min), None),
            events: None,
            failures: BTreeMap::new(),
            has_checkpoint: start.is_some(),
        })
    }

    /// Takes note of whether `what` was written.
    fn note(&mut self, what: &'static str, written: Result<(), impl Into<WriteError>>) {
        match written.map_err(Into::into) {
            Ok(()) => drop(self.failures.remove(what)),
            Err(error) => {
                (self.on_failure)(&error);
                self.failures.insert(what, error);
            }
        }
    }

    /// Writes what belongs to an event.
    pub(super) async fn event(&mut self, event: &Event, trainer: &mut Trainer<'_>) {
        match event {
            Event::Paused => self.checkpoint(trainer.position(), trainer.state()),
            Event::EpochFinished(record) => self.epoch(record, trainer).await,
            _ => {}
        }
    }

    async fn epoch(&mut self, record: &EpochRecord, trainer: &mut Trainer<'_>) {
        let weights = trainer.state().result();
        if let Some(loss) = record.val_loss.filter(|&loss| loss < self.best.0) {
            self.best = (loss, Some(weights.to_vec()));
        }
        // Before the checkpoint: a run that is resumed after this epoch does not see its weights again.
        self.best_weights();
        self.note("weights", self.folder.write_weights(MODEL_FILE, &self.session.config.model, weights));
        let every = self.options.checkpoint_every;
        if every > 0 && (record.epoch.is_multiple_of(every) || trainer.is_over()) {
            self.checkpoint(trainer.position(), trainer.state());
        }
        self.note("run", self.folder.commit());
        self.history(&trainer.position().history);
        if self.options.tensorboard {
            let gradients = trainer.engine().last_gradients().await.map_err(WriteError::Gradients);
            let written = gradients.and_then(|gradients| self.epoch_events(trainer, &gradients));
            self.note("events", written);
        }
    }

    /// Keeps the state in the middle of an epoch, or at its end.
    fn checkpoint(&mut self, position: &Position, state: &State) {
        let checkpoints = self.folder.checkpoints(self.options.keep);
        let written = checkpoints.write(&self.session.config, position, state).map_err(WriteError::from);
        let committed = written.and_then(|path| {
            log::debug!("checkpoint {}", path.shown());
            Ok(self.folder.commit()?)
        });
        self.has_checkpoint |= committed.is_ok();
        self.note("checkpoint", committed);
    }

    fn best_weights(&mut self) {
        if let Some(weights) = self.best.1.take() {
            let written = self.folder.write_weights(BEST_FILE, &self.session.config.model, &weights);
            if written.is_err() {
                self.best.1 = Some(weights);
            }
            self.note("best weights", written);
        }
    }

    fn history(&mut self, history: &[EpochRecord]) {
        self.note("history", self.folder.write_history(history));
        self.note("history table", self.folder.write_history_csv(history));
    }

    fn epoch_events(&mut self, trainer: &Trainer<'_>, gradients: &[Vec<f32>]) -> Result<(), WriteError> {
        let (history, weights) = (&trainer.position().history, trainer.state().result());
        let events = opened(&mut self.events, self.folder);
        let written = events.and_then(|events| events.epoch(history, &self.names, weights, gradients));
        if written.is_err() {
            // A record that was cut off hides what follows in its file: the next epoch gets another one.
            self.events = None;
        }
        Ok(written?)
    }

    /// Writes once more what must be there at the end of training: the weights, in the run folder or, where that is gone, in another place;
    /// the history; and what could not be written before.
    pub(super) fn finish(&mut self, trained: &Trained) {
        let Trained { position, state, .. } = trained;
        self.best_weights();
        self.note("weights", self.last_weights(trained.parameters()));
        if self.failures.contains_key("checkpoint") {
            self.checkpoint(position, state);
        }
        // A run that was stopped before it had anything to resume from does not replace another one.
        if self.has_checkpoint || !position.history.is_empty() || self.session.config.epochs == 0 {
            self.note("run", self.folder.commit());
        }
        self.history(&position.history);
        if self.options.tensorboard && self.folder.is_committed() {
            let events = opened(&mut self.events, self.folder);
            let written = events.and_then(|events| events.scalars(&position.history));
            self.note("events", written);
        }
    }

    fn last_weights(&self, weights: &[Vec<f32>]) -> Result<(), WriteError> {
        let model = &self.session.config.model;
        let Err(source) = self.folder.write_weights(MODEL_FILE, model, weights) else { return Ok(()) };
        let path = std::env::temp_dir().join(format!("fmnist-gpu-{}-rescued.safetensors", std::process::id()));
        match weights::to_bytes(model, weights).map(|bytes| write_whole(&path, &bytes, true)) {
            Ok(Ok(())) => Err(WriteError::Rescued { path, source: Box::new(source) }),
            _ => Err(source.into()),
        }
    }

    /// Writes `summary.json`.
    pub(super) fn summary(&mut self, summary: &Summary) {
        self.note("summary", self.folder.write_summary(summary));
    }

    /// Writes the article's two images, and returns their paths: 25 training images with their classes, 25 test images with predictions, of
    /// which `probabilities` has a row for each test image.
    pub(super) fn images(&mut self, probabilities: &[f32], epoch: u64) -> Result<Vec<PathBuf>, ReportError> {
        let Dataset { train, test, description, .. } = &self.session.dataset;
        let indices: Vec<usize> = (0..test.len().min(25)).collect();
        let samples = samples_png(train, train.len().min(25), description)?;
        let predictions = predictions_png(test, &indices, probabilities, description)?;
        let mut paths = Vec::new();
        for (name, png) in [("samples.png", &samples), ("predictions.png", &predictions)] {
            let written = self.folder.write_picture(name, png).map(|path| paths.push(path));
            self.note(name, written);
        }
        if self.options.tensorboard {
            let events = opened(&mut self.events, self.folder);
            let written = events.and_then(|events| events.picture("predictions", epoch, &predictions));
            self.note("events", written);
        }
        Ok(paths)
    }

    /// Writes the report, if one is wanted and the test set was evaluated, and returns the path of its page.
    pub(super) async fn report(&mut self, finished: &Finished) -> Option<PathBuf> {
        let test = finished.test.as_ref().filter(|_| self.options.report)?;
        let written = self.write_report(finished, &test.probabilities).await;
        let page = written.is_ok().then(|| self.folder.path().join("report.html"));
        self.note("report", written);
        page
    }

    async fn write_report(&self, finished: &Finished, probabilities: &[f32]) -> Result<(), WriteError> {
        let Session { device, dataset, config, interrupt, .. } = self.session;
        let (folder, parameters) = (self.folder.path(), finished.trained.parameters());
        let model_file = weights::to_bytes(&config.model, parameters)
            .map_err(|source| RunError::Weights { path: folder.join(MODEL_FILE), source })?;
        let report = Report {
            name: run_name(folder),
            model: &config.model,
            parameters,
            config: Some(config),
            repeat: self.options.repeat.clone(),
            summary: Some(&finished.summary),
            history: &finished.trained.position.history,
            dataset: dataset.kind,
            description: &dataset.description,
            test: &dataset.test,
            probabilities,
            image: 0,
            model_file: &model_file,
        };
        write_report(&report, device, folder, self.folder.replaces(), interrupt).await?;
        Ok(())
    }

    /// Ends the run, with one of the failures that were not mended: that of the weights, which may lie elsewhere, or the first.
    pub(super) fn conclude(mut self) -> Result<(), WriteError> {
        let worst = self.failures.remove("weights");
        worst.or_else(|| self.failures.into_values().next()).map_or(Ok(()), Err)
    }
}

/// The event files, created at the first event: by then the run has replaced the one that was here before.
fn opened<'e>(
    events: &'e mut Option<TrainingEvents>,
    folder: &RunFolder,
) -> Result<&'e mut TrainingEvents, EventError> {
    let open = match events.take() {
        Some(open) => open,
        None => TrainingEvents::create(&folder.path().join(TENSORBOARD_FOLDER))?,
    };
    Ok(events.insert(open))
}
