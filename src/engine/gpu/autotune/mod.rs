//! Choice of the tile sizes in workgroup memory that suit a GPU: measured on the real training step, and saved for later runs.
//!
//! GPUs differ in how much workgroup memory and how many registers a workgroup may use before others must wait, and in how many
//! workgroups keep them busy. Adapters do not report this, so a few candidates are timed. The choice is saved in a file by adapter, driver,
//! version, model and batch size: until one of these changes, the choice stays the same, and so do the bits of the results.
//! Software (CPU) adapters have only one tiling and are not tuned.

#[cfg(feature = "disk")]
mod disk;

#[cfg(feature = "disk")]
pub use disk::autotune;

use super::GpuEngine;
use crate::clock::Instant;
use crate::engine::{Engine, EngineError, Epoch, StepConfig, blank};
use crate::gpu::{Gpu, Tiling};
use crate::model::{Model, initial_parameters};
use crate::ops::SharedTiles;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::ControlFlow;
use std::time::Duration;

/// Steps of the synthetic epoch that is timed.
const STEPS: usize = 8;
/// How long each candidate is timed.
const WINDOW: Duration = Duration::from_millis(40);
/// If a step takes longer than this, a search would take too long: training uses the standard tiles.
const SLOW_STEP: Duration = Duration::from_millis(100);
/// A candidate must take less than this fraction of the best time so far: smaller differences are noise, and the choice should be stable.
const MARGIN: f64 = 0.97;

/// Times the candidates: first loads of four values, then the height of the tiles, then sums of small filters in registers, then the end of the
/// model in few dispatches, then the number of workgroups that long sums are split into.
async fn measure(gpu: &Gpu, model: &Model, batch_size: usize, config: &StepConfig) -> Result<SharedTiles, EngineError> {
    let begin = Instant::now();
    let (initial, split) = (initial_parameters(&model.parameters()?, 0), blank(model, STEPS * batch_size));
    let seconds_per_step = async |tiles| {
        let engine = GpuEngine::new(gpu, model, &initial)?.with_tiles(tiles);
        seconds_per_step(engine.and_training(&split, batch_size, config).await?, batch_size, config).await
    };
    let mut best = SharedTiles::default();
    let Some(mut best_seconds) = seconds_per_step(best).await? else {
        log::debug!("a step takes longer than {} ms: no other tiles are tried", SLOW_STEP.as_millis());
        return Ok(best);
    };
    let mut consider = async |tiles: SharedTiles, best: &mut SharedTiles| -> Result<(), EngineError> {
        if let Some(seconds) = seconds_per_step(tiles).await?.filter(|seconds| *seconds < MARGIN * best_seconds) {
            (*best, best_seconds) = (tiles, seconds);
        }
        Ok(())
    };
    consider(SharedTiles { loads_by_4: true, ..best }, &mut best).await?;
    consider(SharedTiles { rows_each: 8, ..best }, &mut best).await?;
    consider(SharedTiles { small_filters: true, ..best }, &mut best).await?;
    consider(SharedTiles { head: true, ..best }, &mut best).await?;
    consider(SharedTiles { head: true, fused_update: true, ..best }, &mut best).await?;
    for workgroups in [64, 256, 512] {
        consider(SharedTiles { workgroups, ..best }, &mut best).await?;
    }
    log::debug!("tiles chosen in {:.2} s: {best:?}", begin.elapsed().as_secs_f64());
    Ok(best)
}

/// Returns the seconds per step of the fastest of several short epochs on blank images; `None` if a step takes longer than [`SLOW_STEP`].
async fn seconds_per_step(
    mut engine: GpuEngine,
    batch_size: usize,
    config: &StepConfig,
) -> Result<Option<f64>, EngineError> {
    let tiles = engine.tiles;
    let epoch = |steps: usize| Epoch {
        order: (0..(steps * batch_size) as u32).collect(),
        rates: (1..=STEPS as u64).map(|step| config.rates(step, STEPS as u64)).collect(),
        ..Epoch::default()
    };
    let mut train = async |epoch: &Epoch| engine.train_epoch(epoch, &mut |_| ControlFlow::Continue(())).await;
    // The first step may compile.
    let one = epoch(1);
    train(&one).await?;
    let begin = Instant::now();
    train(&one).await?;
    if begin.elapsed() > SLOW_STEP {
        return Ok(None);
    }
    let all = epoch(STEPS);
    // Warms up, and lets the engine settle on the number of steps per submission.
    for _ in 0..3 {
        train(&all).await?;
    }
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < WINDOW {
        let start = Instant::now();
        train(&all).await?;
        best = best.min(start.elapsed().as_secs_f64() / STEPS as f64);
    }
    log::debug!("{tiles:?}: {:.0} us per step", 1e6 * best);
    Ok(Some(best))
}

/// Raised with every new candidate, so that choices that were made without it are made again.
const SEARCH: usize = 4;

/// Everything that the choice depends on.
fn key(gpu: &Gpu, model: &Model, batch_size: usize) -> String {
    let info = gpu.info();
    let layers = serde_json::to_vec(model).unwrap_or_default();
    let digest: String = Sha256::digest(layers).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let checks = if gpu.checked() { "checked" } else { "unchecked" };
    format!(
        "{} | {} | {} | {} | {checks} | model {digest} | batch {batch_size} | search {SEARCH}",
        env!("CARGO_PKG_VERSION"),
        info.backend,
        info.name,
        info.driver,
    )
}

/// The contents of the file of choices.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct TileChoices {
    choices: Vec<Choice>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Choice {
    key: String,
    tiles: SharedTiles,
}

impl TileChoices {
    /// Returns the tiles with which `model` trains fastest on this GPU: those of an earlier choice, or those that are now measured to, which
    /// become one.
    ///
    /// # Errors
    /// The model cannot be built at that batch size, or the device failed.
    pub async fn choose(
        &mut self,
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        config: &StepConfig,
    ) -> Result<SharedTiles, EngineError> {
        if gpu.tiling() != Tiling::Shared {
            return Ok(SharedTiles::default());
        }
        let key = key(gpu, model, batch_size);
        if let Some(choice) = self.choices.iter().find(|choice| choice.key == key) {
            log::debug!("tiles from an earlier choice: {:?}", choice.tiles);
            return Ok(choice.tiles);
        }
        let tiles = measure(gpu, model, batch_size, config).await?;
        self.choices.push(Choice { key, tiles });
        Ok(tiles)
    }

    /// Parses the contents of a file, which is untrusted input: choices with impossible tiles are dropped.
    ///
    /// # Errors
    /// The bytes are not a file of choices.
    pub fn parse(bytes: &[u8]) -> Result<TileChoices, String> {
        let mut choices: TileChoices = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        choices.choices.retain(|choice| choice.tiles.is_possible());
        Ok(choices)
    }

    /// Returns the tiles chosen for each key.
    pub fn tiles(&self) -> impl Iterator<Item = (&str, SharedTiles)> {
        self.choices.iter().map(|choice| (choice.key.as_str(), choice.tiles))
    }
}
