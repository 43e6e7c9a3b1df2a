//! What training writes as it goes.

use super::TrainArgs;
use crate::cli::{terminal, with_causes};
use anyhow::{Context, Result, bail};
use fmnist_gpu::engine::State;
use fmnist_gpu::files::{ShownPath, write_whole};
use fmnist_gpu::model::weights;
use fmnist_gpu::run::checkpoint::Checkpoint;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::run::{BEST_FILE, MODEL_FILE, RunConfig, TENSORBOARD_FOLDER};
use fmnist_gpu::tensorboard::TrainingEvents;
use fmnist_gpu::train::{EpochRecord, Event, Position, Trained, Trainer};
use std::collections::BTreeMap;

/// Writes what must not be lost while training runs: weights and checkpoints first, then what is only told. Each thing fails by itself. A
/// failure is reported at once and training continues, as the weights in memory are worth more than the file; the next attempt may succeed.
pub(super) struct Keeper<'a> {
    args: &'a TrainArgs,
    folder: &'a RunFolder,
    config: &'a RunConfig,
    /// Names of the parameters.
    names: Vec<String>,
    /// The lowest validation loss so far, and its weights if they are not written yet.
    best: (f64, Option<Vec<Vec<f32>>>),
    events: Option<TrainingEvents>,
    /// What could not be written, and was not since.
    failures: BTreeMap<&'static str, anyhow::Error>,
    /// Whether there is a checkpoint of this run.
    has_checkpoint: bool,
}

impl<'a> Keeper<'a> {
    /// A keeper for a run that is at `start`.
    pub(super) fn new(
        args: &'a TrainArgs,
        folder: &'a RunFolder,
        config: &'a RunConfig,
        names: Vec<String>,
        start: &Position,
        has_checkpoint: bool,
    ) -> Self {
        let best = start.history.iter().filter_map(|record| record.val_loss).fold(f64::INFINITY, f64::min);
        let failures = BTreeMap::new();
        Keeper { args, folder, config, names, best: (best, None), events: None, failures, has_checkpoint }
    }

    /// Whether there is a checkpoint to resume from.
    pub(super) fn has_checkpoint(&self) -> bool {
        self.has_checkpoint
    }

    /// Tries to write `what`.
    pub(super) fn attempt(&mut self, what: &'static str, write: impl FnOnce(&mut Self) -> Result<()>) {
        match write(self) {
            Ok(()) => drop(self.failures.remove(what)),
            Err(error) => {
                terminal::complain(format_args!("{}; training continues", with_causes(&error)));
                self.failures.insert(what, error);
            }
        }
    }

    /// Keeps what an event is about.
    pub(super) fn event(&mut self, event: &Event, trainer: &mut Trainer<'_>) {
        match event {
            Event::Paused => self.checkpoint(trainer.position(), trainer.state()),
            Event::EpochFinished(record) => self.epoch(record, trainer),
            _ => {}
        }
    }

    fn epoch(&mut self, record: &EpochRecord, trainer: &mut Trainer<'_>) {
        let weights = &trainer.state().parameters;
        if let Some(loss) = record.val_loss.filter(|&loss| loss < self.best.0) {
            self.best = (loss, Some(weights.clone()));
        }
        // Before the checkpoint: a run that is resumed after this epoch does not see its weights again.
        self.keep_best();
        self.attempt("weights", |keeper| Ok(keeper.folder.write_weights(MODEL_FILE, &keeper.config.model, weights)?));
        let every = self.args.checkpoint_every;
        if every > 0 && (record.epoch.is_multiple_of(every) || record.epoch == self.config.epochs) {
            self.checkpoint(trainer.position(), trainer.state());
        }
        self.attempt("run", |keeper| Ok(keeper.folder.commit()?));
        self.history(&trainer.position().history);
        if self.args.json {
            // Numbers and strings always have a JSON form.
            terminal::print(&serde_json::to_string(record).unwrap_or_default());
        }
        if self.args.tensorboard {
            self.attempt("events", |keeper| keeper.write_event(trainer));
        }
    }

    /// Keeps the state in the middle of an epoch, or at its end.
    fn checkpoint(&mut self, position: &Position, state: &State) {
        self.attempt("checkpoint", |keeper| {
            let (config, position, state) = (keeper.config.clone(), position.clone(), state.clone());
            let batches = config.train_images.div_ceil(config.batch_size);
            let checkpoint = Checkpoint { config, position, state };
            let path = keeper.folder.checkpoints(keeper.args.keep as usize).write(&checkpoint, batches)?;
            log::debug!("checkpoint {}", path.shown());
            keeper.folder.commit()?;
            keeper.has_checkpoint = true;
            Ok(())
        });
    }

    /// Writes once more what must be there at the end: the weights, in the run folder or, where that is gone, in another place; the history; and
    /// what could not be written before.
    pub(super) fn finish(&mut self, trained: &Trained) {
        let Trained { position, state, .. } = trained;
        self.keep_best();
        self.attempt("weights", |keeper| keeper.model(&state.parameters));
        if self.failures.contains_key("checkpoint") {
            self.checkpoint(position, state);
        }
        // A run that was stopped before it had anything to resume from does not replace another one.
        if self.has_checkpoint || !position.history.is_empty() || self.config.epochs == 0 {
            self.attempt("run", |keeper| Ok(keeper.folder.commit()?));
        }
        self.history(&position.history);
        if self.args.tensorboard && self.folder.is_committed() {
            self.attempt("events", |keeper| Ok(keeper.events()?.scalars(&position.history)?));
        }
    }

    /// Adds an image to the events.
    pub(super) fn event_image(&mut self, tag: &str, epoch: u64, png: &[u8]) {
        if self.args.tensorboard {
            self.attempt("events", |keeper| Ok(keeper.events()?.picture(tag, epoch, png)?));
        }
    }

    /// One of the errors that were not mended: that of the weights, which may lie elsewhere, or the first.
    pub(super) fn conclude(mut self) -> Result<()> {
        let worst = self.failures.remove("weights");
        match worst.or_else(|| self.failures.into_values().next()) {
            Some(error) => {
                Err(error.context("not all results of the training could be written; see the messages above"))
            }
            None => Ok(()),
        }
    }

    fn keep_best(&mut self) {
        self.attempt("best weights", |keeper| {
            if let Some(weights) = &keeper.best.1 {
                keeper.folder.write_weights(BEST_FILE, &keeper.config.model, weights)?;
                keeper.best.1 = None;
            }
            Ok(())
        });
    }

    fn history(&mut self, history: &[EpochRecord]) {
        self.attempt("history", |keeper| Ok(keeper.folder.write_history(history)?));
        self.attempt("history table", |keeper| Ok(keeper.folder.write_history_csv(history)?));
    }

    fn write_event(&mut self, trainer: &mut Trainer<'_>) -> Result<()> {
        let gradients = trainer.engine().last_gradients()?;
        let (history, weights) = (&trainer.position().history, &trainer.state().parameters);
        let names = std::mem::take(&mut self.names);
        let written = self.events().and_then(|events| Ok(events.epoch(history, &names, weights, &gradients)?));
        self.names = names;
        if written.is_err() {
            // A record that was cut off hides what follows in its file: the next epoch gets another one.
            self.events = None;
        }
        written
    }

    /// The event files, created at the first event: by then the run has replaced the one that was here before.
    fn events(&mut self) -> Result<&mut TrainingEvents> {
        let events = match self.events.take() {
            Some(events) => events,
            None => TrainingEvents::create(&self.folder.path().join(TENSORBOARD_FOLDER))?,
        };
        Ok(self.events.insert(events))
    }

    fn model(&self, weights: &[Vec<f32>]) -> Result<()> {
        let model = &self.config.model;
        let Err(error) = self.folder.write_weights(MODEL_FILE, model, weights) else { return Ok(()) };
        let elsewhere = std::env::temp_dir().join(format!("fmnist-gpu-{}-rescued.safetensors", std::process::id()));
        let bytes = weights::to_bytes(model, weights).context("encoding the weights")?;
        match write_whole(&elsewhere, &bytes, true) {
            Ok(()) => bail!("{error}; the trained weights are in {}", elsewhere.shown()),
            Err(_) => Err(error.into()),
        }
    }
}
