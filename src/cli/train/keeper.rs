//! What training writes as it goes.

use super::TrainArgs;
use crate::cli::{print, with_causes};
use anyhow::{Result, bail};
use fmnist_gpu::train::checkpoint::{Checkpoint, Checkpoints};
use fmnist_gpu::train::run::{RunConfig, RunFolder};
use fmnist_gpu::train::{Engine, EpochRecord, Position};

/// Writes what must not be lost while training runs. What cannot be written is said at once; training goes on, as the weights in
/// memory are worth more than the file, and the next attempt may succeed.
pub(super) struct Keeper<'a> {
    pub(super) args: &'a TrainArgs,
    pub(super) folder: &'a RunFolder,
    pub(super) checkpoints: &'a Checkpoints,
    pub(super) config: &'a RunConfig,
    /// The first error.
    pub(super) error: Option<anyhow::Error>,
}

impl Keeper<'_> {
    pub(super) fn attempt(&mut self, write: impl FnOnce(&Self) -> Result<()>) {
        if let Err(error) = write(self) {
            eprintln!("fmnist-gpu: {}; training goes on", with_causes(&error));
            self.error.get_or_insert(error);
        }
    }

    pub(super) fn epoch(&self, record: &EpochRecord, position: &Position, engine: &mut dyn Engine) -> Result<()> {
        self.folder.write_history(&position.history)?;
        if self.args.json {
            print(&serde_json::to_string(record)?)?;
        }
        let before = position.history.iter().rev().skip(1).filter_map(|earlier| earlier.val_loss);
        if record.val_loss.is_some_and(|loss| before.fold(f64::INFINITY, f64::min) > loss) {
            self.folder.write_best(&self.config.model, &engine.parameters()?)?;
        }
        self.folder.write_model(&self.config.model, &engine.parameters()?)?;
        let every = self.args.checkpoint_every;
        if every > 0 && (record.epoch.is_multiple_of(every) || record.epoch == self.config.epochs) {
            self.checkpoint(position, engine)?;
        }
        Ok(())
    }

    pub(super) fn checkpoint(&self, position: &Position, engine: &mut dyn Engine) -> Result<()> {
        let checkpoint = Checkpoint { config: self.config.clone(), position: position.clone(), state: engine.state()? };
        let batches = self.config.train_images.div_ceil(self.config.batch_size);
        let path = self.checkpoints.write(&checkpoint, batches)?;
        log::debug!("checkpoint {}", path.display());
        Ok(())
    }

    /// The weights, in the run folder or, where that is gone, in another place.
    pub(super) fn model(&self, weights: &[Vec<f32>]) -> Result<()> {
        let model = &self.config.model;
        let Err(error) = self.folder.write_model(model, weights) else { return Ok(()) };
        let elsewhere = std::env::temp_dir().join(format!("fmnist-gpu-{}-rescued.safetensors", std::process::id()));
        let bytes = fmnist_gpu::model::weights::to_bytes(model, weights)?;
        match fmnist_gpu::files::write_whole(&elsewhere, &bytes, true) {
            Ok(()) => bail!("{error}; the trained weights are in {}", elsewhere.display()),
            Err(_) => Err(error.into()),
        }
    }
}
