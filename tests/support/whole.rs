//! The files that a training without faults writes, to compare run folders after a fault with.

use super::broken_off::outcome;
use super::program::Place;
pub use super::program::files;
use fmnist_gpu::model::weights;
use fmnist_gpu::run::checkpoint::{Checkpoint, FOLDER};
use fmnist_gpu::run::{
    BEST_FILE, CONFIG_FILE, HISTORY_FILE, MODEL_FILE, RunConfig, SUMMARY_FILE, Summary, parse_history,
};
use fmnist_gpu::tensorboard::{Content, EventError, ReadEvent, read_events};
use fmnist_gpu::train::EpochRecord;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A model so small that training takes a fraction of a second: the file and its content.
pub const MODEL: (&str, &str) =
    ("small.toml", "name = \"small\"\nlayers = [{ type = \"flatten\" }, { type = \"dense\", units = 10 }]\n");

/// Returns a short training that writes every kind of file: checkpoints, best weights, report, event files.
pub fn train(seed: u64, epochs: u64) -> String {
    format!(
        "train --model {} --dataset synthetic --train-limit 200 --batch-size 20 --epochs {epochs} --validation-split 0.2 \
         --seed {seed} --checkpoint-every 1 --tensorboard --quiet",
        MODEL.0
    )
}

/// A training without faults.
pub struct Whole {
    /// Its configuration.
    pub config: RunConfig,
    /// The final weights and history.
    pub outcome: (Vec<u8>, Vec<u8>, Vec<Value>),
    /// The weight files after each epoch.
    pub models: Vec<Vec<u8>>,
    /// The files that are the same every time, by name.
    pub fixed: BTreeMap<String, Vec<u8>>,
    /// The names of all files except event files and checkpoints.
    pub names: Vec<String>,
}

impl Whole {
    /// Trains three times: to get the weights after each epoch, and to find out which files are the same every time.
    pub fn new(device: &str, seed: u64, epochs: u64) -> Self {
        let place = Place::new();
        fs::write(place.path(MODEL.0), MODEL.1).unwrap();
        for run in ["whole/run", "again/run", "every --keep 99 --no-report"] {
            place.run(&format!("{} {device} --out {run}", train(seed, epochs))).exits(0);
        }
        let checkpoints = checkpoints(&place.path("every")).unwrap();
        let bytes =
            |checkpoint: &Checkpoint| weights::to_bytes(&checkpoint.config.model, checkpoint.state.result()).unwrap();
        let (mut fixed, again) = (files(&place.path("whole/run")), files(&place.path("again/run")));
        let names = fixed.keys().filter(|name| !name.contains('/')).cloned().collect();
        fixed.retain(|name, bytes| again.get(name) == Some(bytes));
        let fixed: BTreeMap<_, _> =
            fixed.into_iter().map(|(name, bytes)| (name.clone(), anywhere(&name, bytes))).collect();
        let models: Vec<_> = checkpoints.iter().map(bytes).collect();
        assert_eq!(models.len() as u64, epochs);
        assert!(fixed.contains_key("report.json") && fixed.contains_key("predictions.png"), "{:?}", fixed.keys());
        let config = RunConfig::read(&place.path("whole/run")).unwrap().unwrap();
        Whole { config, outcome: outcome(&place, "whole/run"), models, fixed, names }
    }

    /// Checks that every file in `run` is one that this training writes at some time; files may be missing.
    ///
    /// # Errors
    /// A file is not one of this training.
    pub fn has(&self, run: &Path) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let seed = |name: &str, seed: u64| {
            if seed == self.config.seed { Ok(()) } else { Err(format!("{name} is of the seed {seed}")) }
        };
        let config = RunConfig::read(run).map_err(|error| text(&error))?;
        config.map_or(Ok(()), |config| seed(CONFIG_FILE, config.seed))?;
        if let Ok(bytes) = fs::read(run.join(SUMMARY_FILE)) {
            seed(SUMMARY_FILE, Summary::parse(&bytes)?.seed)?;
        }
        for name in [MODEL_FILE, BEST_FILE] {
            let is_known = fs::read(run.join(name)).map_or(true, |bytes| self.models.contains(&bytes));
            is_known.then_some(()).ok_or_else(|| format!("{name} is of no epoch of the seed {}", self.config.seed))?;
        }
        if let Ok(bytes) = fs::read(run.join(HISTORY_FILE)) {
            self.begins_with(HISTORY_FILE, &parse_history(&bytes)?)?;
        }
        for checkpoint in checkpoints(run)? {
            seed("a checkpoint", checkpoint.config.seed)?;
            self.begins_with("a checkpoint", &checkpoint.position.history)?;
        }
        // The files that are written once.
        for (name, bytes) in self
            .fixed
            .iter()
            .filter(|(name, _)| ![MODEL_FILE, BEST_FILE, HISTORY_FILE].contains(&name.as_str()) && !name.contains('/'))
        {
            let is_same = fs::read(run.join(name)).map_or(true, |found| anywhere(name, found) == *bytes);
            is_same.then_some(()).ok_or_else(|| format!("{name} is not that of the seed {}", self.config.seed))?;
        }
        Ok(())
    }

    /// Checks that `run` is the complete training, with every file.
    ///
    /// # Errors
    /// A file is missing or differs.
    pub fn is_at(&self, place: &Place, run: &str) -> Result<(), String> {
        let found: BTreeMap<_, _> =
            files(&place.path(run)).into_iter().map(|(name, bytes)| (name.clone(), anywhere(&name, bytes))).collect();
        if let Some(name) = self.names.iter().find(|name| !found.contains_key(*name)) {
            return Err(format!("{name} is missing"));
        }
        if let Some((name, _)) = self.fixed.iter().find(|(name, bytes)| found.get(*name) != Some(bytes)) {
            return Err(format!("{name} differs"));
        }
        if outcome(place, run) != self.outcome {
            return Err("the weights or the history differ".to_string());
        }
        self.has(&place.path(run))
    }

    /// Checks that the event files in `run` contain the loss of every epoch.
    ///
    /// # Errors
    /// An epoch is missing.
    pub fn has_events(&self, run: &Path) -> Result<(), String> {
        let history: Vec<EpochRecord> = parse_history(&fs::read(run.join(HISTORY_FILE)).unwrap())?;
        for (folder, losses) in [
            ("train", history.iter().map(|record| Some(record.loss)).collect::<Vec<_>>()),
            ("validation", history.iter().map(|record| record.val_loss).collect()),
        ] {
            let events = events(&run.join("tensorboard").join(folder))?;
            for (i, loss) in losses.iter().enumerate() {
                let wanted = Content::Scalar(loss.unwrap() as f32);
                let is_there = |event: &ReadEvent| {
                    (event.step, event.tag.as_str()) == (i as u64 + 1, "epoch_loss") && event.content == wanted
                };
                if !events.iter().any(is_there) {
                    return Err(format!("tensorboard/{folder} lacks epoch {}", i + 1));
                }
            }
        }
        Ok(())
    }

    fn begins_with(&self, name: &str, history: &[EpochRecord]) -> Result<(), String> {
        for (i, record) in history.iter().enumerate() {
            let known = self.outcome.2.get(i).ok_or_else(|| format!("{name} has epoch {}", i + 1))?;
            if known["loss"] != record.loss || known["val_loss"].as_f64() != record.val_loss {
                return Err(format!("{name} has another epoch {} than the seed {}", i + 1, self.config.seed));
            }
        }
        Ok(())
    }
}

/// Returns a file as it is in every place: a configuration has the path of the model's file.
fn anywhere(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    match RunConfig::parse(&bytes) {
        Ok(config) if name == CONFIG_FILE => {
            serde_json::to_vec(&RunConfig { model_file: Some(MODEL.0.into()), ..config }).unwrap()
        }
        _ => bytes,
    }
}

/// Returns the hidden names below a folder: locks and temporary files.
pub fn hidden(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') {
            found.push(name);
        } else if path.is_dir() {
            found.extend(hidden(&path));
        }
    }
    found
}

/// Returns the checkpoints of a run, the oldest first.
///
/// # Errors
/// One is damaged.
fn checkpoints(run: &Path) -> Result<Vec<Checkpoint>, String> {
    let found = files(&run.join(FOLDER)).into_iter();
    found.map(|(name, bytes)| Checkpoint::from_bytes(&bytes).map_err(|error| format!("{name}: {error}"))).collect()
}

/// Returns the events of all files in a folder; a truncated last record is ignored.
fn events(folder: &Path) -> Result<Vec<ReadEvent>, String> {
    let mut events = Vec::new();
    for (name, bytes) in files(folder) {
        events.extend(match read_events(&bytes) {
            Err(EventError::Record { offset, reason, .. }) if reason.contains("cut off") => {
                read_events(&bytes[..offset]).map_err(|error| format!("{name}: {error}"))?
            }
            read => read.map_err(|error| format!("{name}: {error}"))?,
        });
    }
    Ok(events)
}
