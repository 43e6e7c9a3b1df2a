//! The limits of an adapter in bytes and time, checked for a model and a batch size before training.

use super::GpuEngine;
use super::program::GpuFusion;
use crate::engine::{EngineError, StepConfig, blank};
use crate::gpu::Gpu;
use crate::lower::{Mode, lower};
use crate::model::{Model, initial_parameters};
use crate::ops::SharedTiles;
use std::time::Duration;

/// The longest time that a dispatch may take: half of what Windows allows.
const LONGEST_DISPATCH: Duration = Duration::from_secs(1);
/// Multiply-adds that every adapter is assumed to manage in that time, at 10 GFLOP/s. Larger dispatches are measured first.
const TRUSTED_WORK: f64 = 5e9;

impl GpuEngine {
    /// Returns the largest batch size at which a model can be trained on a device: no tensor exceeds the limit of a binding.
    ///
    /// # Errors
    /// The model cannot be built.
    pub fn largest_batch(gpu: &Gpu, model: &Model) -> Result<usize, EngineError> {
        let program =
            lower(model, Mode::Train, 1, Some(&GpuFusion { gpu: gpu.clone(), tiles: SharedTiles::default() }))?;
        Ok((largest_tensor(gpu) / 4) as usize / program.widest())
    }

    /// Returns the largest batch size up to `batch_size` at which no dispatch takes longer than `allowed`, but at least 1. A driver resets
    /// a device whose dispatch runs for too long, and a running dispatch cannot be divided. A batch that could take too long on a very
    /// slow adapter is not tried: the step is timed at a small fraction of it, dispatch by dispatch.
    ///
    /// # Errors
    /// The model cannot be built, a tensor exceeds the adapter's limits, or the device failed.
    pub async fn largest_timely_batch(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        config: &StepConfig,
        allowed: Duration,
    ) -> Result<usize, EngineError> {
        let work = model.graph()?.iter().map(|shape| shape.multiply_adds).max().unwrap_or(0).max(1);
        let trusted = (TRUSTED_WORK * allowed.as_secs_f64() / LONGEST_DISPATCH.as_secs_f64() / work as f64) as usize;
        if batch_size <= trusted {
            return Ok(batch_size);
        }
        const ROUNDS: usize = 3;
        let timed = (trusted / 8).clamp(1, batch_size);
        let engine = GpuEngine::new(gpu, model, &initial_parameters(&model.parameters()?, 0))?;
        let engine = engine.and_training(&blank(model, timed * (ROUNDS + 1)), timed, config).await?;
        let dispatches = engine.steps()?.time(ROUNDS, 1).await?.seconds;
        let fastest = |rounds: &Vec<f64>| rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let longest = dispatches.iter().map(fastest).fold(0.0, f64::max).max(1e-9);
        log::debug!("the longest dispatch takes {:.3} ms at batch size {timed}", 1e3 * longest);
        Ok(((timed as f64 * allowed.as_secs_f64() / longest) as usize).clamp(1, batch_size))
    }

    /// Checks that a batch is not so large for a GPU that its driver would consider the device hung.
    ///
    /// # Errors
    /// It is too large, or as for [`GpuEngine::largest_timely_batch`].
    pub async fn check_time(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        config: &StepConfig,
    ) -> Result<(), EngineError> {
        // No watchdog resets a software adapter.
        if gpu.is_software() {
            return Ok(());
        }
        let largest = GpuEngine::largest_timely_batch(gpu, model, batch_size, config, LONGEST_DISPATCH).await?;
        if largest < batch_size {
            return Err(EngineError::Slow { batch_size, largest, adapter: gpu.info().name.clone() });
        }
        Ok(())
    }

    /// Checks that the parameters of a model, which share one buffer, fit a device at any batch size.
    ///
    /// # Errors
    /// They do not fit, or the model cannot be built.
    pub fn check_parameters(gpu: &Gpu, model: &Model) -> Result<(), EngineError> {
        let allowed = largest_tensor(gpu);
        // No overflow: each parameter has fewer than 2^32 elements, and a model has far fewer than 2^30 of them.
        let bytes = 4 * model.parameters()?.iter().map(|p| p.shape.iter().product::<usize>() as u64).sum::<u64>();
        if bytes > allowed {
            return Err(EngineError::Parameters { bytes, allowed, adapter: gpu.info().name.clone() });
        }
        Ok(())
    }
}

/// Returns the bytes that a tensor may have.
fn largest_tensor(gpu: &Gpu) -> u64 {
    gpu.limits().max_storage_buffer_binding_size.min(gpu.limits().max_buffer_size)
}
