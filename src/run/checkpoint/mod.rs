//! Checkpoints: everything that training needs to resume as if it had never stopped, in files that appear whole and carry a digest.
//!
//! A checkpoint is a safetensors file: the parameters (`parameters.NAME`), the optimizer's state for each (`m.NAME`, `v.NAME` or
//! `velocity.NAME`), their moving averages (`average.NAME`) and those of the best epoch (`best.NAME`), if training keeps any, and in its metadata the run's configuration, the position (epoch, batches done of it with their sums,
//! history; the permutations and step sizes follow from seed and position) and a SHA-256 digest over all of it.

#[cfg(feature = "disk")]
mod disk;

#[cfg(feature = "disk")]
pub(super) use disk::files;
#[cfg(feature = "disk")]
pub use disk::{Checkpoints, names};

use super::{MAX_WEIGHT_BYTES, RunConfig};
use crate::engine::State;
use crate::files::{FileError, ShownPath};
use crate::model::weights;
use crate::train::Position;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::PathBuf;
use thiserror::Error;

/// Name of the folder in a run folder.
pub const FOLDER: &str = "checkpoints";

/// Largest checkpoint that is read, bytes: the weights with two moments and an average each, and those of the best epoch.
pub const MAX_CHECKPOINT_BYTES: u64 = 5 * MAX_WEIGHT_BYTES;

const PREFIX: &str = "step-";
const SUFFIX: &str = ".safetensors";

/// The name of the file of a checkpoint; the names of a run's checkpoints sort by their steps.
pub(super) fn name(config: &RunConfig, position: &Position) -> String {
    let step = position.steps(config.train_images.div_ceil(config.batch_size));
    format!("{PREFIX}{step:012}{SUFFIX}")
}

const FORMAT: &str = "fmnist-gpu checkpoint 1";

/// A checkpoint that cannot be written or used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder or file could not be created or read.
    #[error("{}: {source}", path.shown())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The bytes are not those of a whole checkpoint.
    #[error("{0}")]
    Damaged(String),
    /// The file has the format of a version of the program that this one does not know.
    #[error("its format is `{0}`, and this version reads `{FORMAT}`; use the version that wrote it")]
    Version(String),
}

/// A training run as it stood between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The run's configuration.
    pub config: RunConfig,
    /// How far training had got.
    pub position: Position,
    /// Parameters and the optimizer's state.
    pub state: State,
}

impl Checkpoint {
    /// As [`to_bytes`].
    ///
    /// # Errors
    /// The state does not fit the configuration's model.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        to_bytes(&self.config, &self.position, &self.state)
    }

    /// Parses the bytes of a checkpoint file.
    ///
    /// # Errors
    /// They are not a whole checkpoint: truncated, changed, or another kind of file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let entry = |key: &str| -> Result<&String, CheckpointError> {
            let found = header.metadata().as_ref().and_then(|map| map.get(key));
            found.ok_or_else(|| damaged(format!("its metadata has no `{key}`, so it is not a checkpoint")))
        };
        let format = entry("format")?;
        if format != FORMAT {
            return Err(CheckpointError::Version(format.clone()));
        }
        let (config_text, position_text) = (entry("config")?, entry("position")?);
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let mut named: Vec<_> = tensors.iter().map(|(name, view)| (name, view.data())).collect();
        named.sort_unstable_by_key(|(name, _)| *name);
        if digest(config_text, position_text, named.into_iter()) != *entry("sha256")? {
            return Err(damaged("its digest does not match its content: it was truncated or changed"));
        }
        let config: RunConfig =
            serde_json::from_str(config_text).map_err(|error| damaged(format!("its configuration: {error}")))?;
        config.check().map_err(|reason| damaged(format!("its configuration: {reason}")))?;
        let mut position: Position =
            serde_json::from_str(position_text).map_err(|error| damaged(format!("its position: {error}")))?;
        check_position(&config, &position).map_err(|reason| damaged(format!("its position: {reason}")))?;
        let parameters = config.model.parameters().map_err(damaged)?;
        let read = |kind: &str| -> Result<Vec<Vec<f32>>, CheckpointError> {
            let tensor = |name: &str, shape: &[usize]| {
                let name = format!("{kind}.{name}");
                let view = tensors.tensor(&name).map_err(|_| damaged(format!("the tensor `{name}` is missing")))?;
                if view.dtype() != Dtype::F32 || view.shape() != shape {
                    let found = format!("{:?} {:?}", view.dtype(), view.shape());
                    return Err(damaged(format!("`{name}` is {found}, and the model needs F32 {shape:?}")));
                }
                Ok(bytemuck::pod_collect_to_vec::<u8, f32>(view.data()))
            };
            // The optimizer keeps nothing for what is not trained.
            let wanted = parameters.iter().filter(|parameter| has_all(kind) || parameter.is_trained());
            wanted.map(|parameter| tensor(&parameter.name, &parameter.shape)).collect()
        };
        let slots = config.optimizer.slots().iter().map(|slot| read(slot)).collect::<Result<_, _>>()?;
        let read_if = |is_there: bool, kind: &str| if is_there { read(kind) } else { Ok(Vec::new()) };
        let averages = read_if(has_averages(&config)?, AVERAGE)?;
        let state = State { parameters: read(PARAMETERS)?, slots, averages };
        let has_patience = config.recipe().is_ok_and(|recipe| recipe.patience.is_some());
        position.best = read_if(has_patience && position.best_epoch().is_some(), BEST)?;
        if !state.is_finite() || !position.best.iter().flatten().all(|value| value.is_finite()) {
            return Err(damaged("it holds values that are not finite"));
        }
        Ok(Checkpoint { config, position, state })
    }
}

/// The bytes of a checkpoint file: the same for the same checkpoint.
///
/// # Errors
/// The state does not fit the configuration's model.
pub fn to_bytes(config: &RunConfig, position: &Position, state: &State) -> Result<Vec<u8>, CheckpointError> {
    let tensors = named_tensors(config, position, state)?;
    let config = serde_json::to_string(config).map_err(damaged)?;
    let position = serde_json::to_string(position).map_err(damaged)?;
    let digest = digest(&config, &position, tensors.iter().map(|(name, view)| (name.as_str(), view.data())));
    let metadata = HashMap::from([
        ("format".to_string(), FORMAT.to_string()),
        ("config".to_string(), config),
        ("position".to_string(), position),
        ("sha256".to_string(), digest),
    ]);
    weights::serialize(tensors, metadata).map_err(damaged)
}

/// What the names of the parameters begin with.
const PARAMETERS: &str = "parameters";
/// The same for their moving averages.
const AVERAGE: &str = "average";
/// The same for those of the best epoch.
const BEST: &str = "best";

/// Whether there is one tensor of this kind for each parameter, not for the trained ones alone.
fn has_all(kind: &str) -> bool {
    [PARAMETERS, AVERAGE, BEST].contains(&kind)
}

fn has_averages(config: &RunConfig) -> Result<bool, CheckpointError> {
    config.step().map(|step| step.average.is_some()).map_err(damaged)
}

/// Every tensor with its name, in the order of the names.
fn named_tensors<'a>(
    config: &RunConfig,
    position: &'a Position,
    state: &'a State,
) -> Result<Vec<(String, TensorView<'a>)>, CheckpointError> {
    let parameters = config.model.parameters().map_err(damaged)?;
    let slots = config.optimizer.slots();
    state.check(&parameters, slots, has_averages(config)?).map_err(damaged)?;
    let mut named = Vec::new();
    let whole = [(&PARAMETERS, &state.parameters), (&AVERAGE, &state.averages), (&BEST, &position.best)];
    for (kind, tensors) in slots.iter().zip(&state.slots).chain(whole) {
        let wanted = parameters.iter().filter(|p| has_all(kind) || p.is_trained());
        for (parameter, values) in wanted.zip(tensors) {
            let data = bytemuck::cast_slice(values);
            let view = TensorView::new(Dtype::F32, parameter.shape.clone(), data).map_err(damaged)?;
            named.push((format!("{kind}.{}", parameter.name), view));
        }
    }
    named.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(named)
}

/// Checks whether a run of this configuration can reach this position: a digest only shows that nothing was changed since.
fn check_position(config: &RunConfig, position: &Position) -> Result<(), String> {
    let Position { history, done, seconds, .. } = position;
    let times = history.iter().map(|record| record.seconds).chain([*seconds]);
    if let Some(time) = times.into_iter().find(|time| !(time.is_finite() && *time >= 0.0)) {
        return Err(format!("a time of {time} seconds"));
    }
    if let Some((i, record)) = history.iter().enumerate().find(|(i, record)| record.epoch != *i as u64 + 1) {
        return Err(format!("epoch {} stands where epoch {} belongs", record.epoch, i + 1));
    }
    let batches = config.train_images.div_ceil(config.batch_size);
    let images = done.batches.checked_mul(config.batch_size).map(|images| images.min(config.train_images) as u64);
    // A pause while validating has the whole epoch done.
    if done.batches > batches || images != Some(done.samples) || done.correct > done.samples || !done.loss.is_finite() {
        return Err(format!("{done:?} of an epoch of {batches} batches"));
    }
    Ok(())
}

fn damaged(reason: impl ToString) -> CheckpointError {
    CheckpointError::Damaged(reason.to_string())
}

/// SHA-256, in hexadecimal, over every part with its length before it.
fn digest<'a>(config: &str, position: &str, tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hasher = Sha256::new();
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(config.as_bytes());
    add(position.as_bytes());
    for (name, data) in tensors {
        add(name.as_bytes());
        add(data);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
