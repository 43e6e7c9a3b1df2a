//! What a model and a batch may ask of an adapter, in bytes and in time: said before training.

use super::engine::{EngineError, Optimizer};
use super::gpu_engine::GpuEngine;
use super::network::Network;
use crate::data::{PIXELS, Split};
use crate::gpu::Gpu;
use crate::model::{Model, initial_parameters};
use crate::ops::SharedTiles;
use std::time::Duration;

/// What a dispatch may take: half of what Windows allows.
const LONGEST_DISPATCH: Duration = Duration::from_secs(1);
/// Multiply-adds of a dispatch that every adapter is trusted to do in that time: those of 10 GFLOP/s. More are measured first.
const TRUSTED_WORK: usize = 5_000_000_000;

impl GpuEngine<'_> {
    /// The largest batch that a model can be trained with on a device: so that no tensor exceeds what one binding may have.
    ///
    /// # Errors
    /// The model cannot be built.
    pub fn largest_batch(gpu: &Gpu, model: &Model) -> Result<usize, EngineError> {
        let network = Network::new(model, SharedTiles::default())?;
        let limits = gpu.limits();
        let allowed = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        Ok((allowed / 4) as usize / network.widest_tensor(gpu).max(PIXELS))
    }

    /// The largest batch up to `batch_size` of which no dispatch takes longer than `allowed`, but at least 1: a driver resets a device
    /// that is busy with one for longer than it likes, and nothing can divide a dispatch once it runs. A batch so large that a very
    /// slow adapter would take too long is not tried: the step is timed at a small part of it, dispatch by dispatch.
    ///
    /// # Errors
    /// The model cannot be built, a tensor exceeds the adapter's limits, or the device failed.
    pub fn largest_timely_batch(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        optimizer: &Optimizer,
        allowed: Duration,
    ) -> Result<usize, EngineError> {
        let work = model.shapes()?.iter().map(|shape| shape.multiply_adds).max().unwrap_or(0).max(1);
        let trusted = (TRUSTED_WORK as f64 * allowed.as_secs_f64() / LONGEST_DISPATCH.as_secs_f64()) as usize / work;
        if batch_size <= trusted {
            return Ok(batch_size);
        }
        const ROUNDS: usize = 3;
        let timed = (trusted / 8).clamp(1, batch_size);
        let samples = timed * (ROUNDS + 1);
        let split = Split { images: vec![0; samples * PIXELS], labels: vec![0; samples] };
        let initial = initial_parameters(&model.parameters()?, 0);
        let mut engine = GpuEngine::with_training(gpu, model, &initial, &split, timed, optimizer)?;
        let dispatches = engine.time_step(ROUNDS)?.seconds;
        let fastest = |rounds: &Vec<f64>| rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let longest = dispatches.iter().map(fastest).fold(0.0, f64::max).max(1e-9);
        log::debug!("the longest dispatch takes {:.3} ms at batch size {timed}", 1e3 * longest);
        Ok(((timed as f64 * allowed.as_secs_f64() / longest) as usize).clamp(1, batch_size))
    }

    /// Sees whether a batch is so large for a GPU that its driver would take the device for hung.
    ///
    /// # Errors
    /// It is, or as for [`GpuEngine::largest_timely_batch`].
    pub fn check_time(gpu: &Gpu, model: &Model, batch_size: usize, optimizer: &Optimizer) -> Result<(), EngineError> {
        // Nothing watches over a software adapter.
        if gpu.is_software() {
            return Ok(());
        }
        let largest = GpuEngine::largest_timely_batch(gpu, model, batch_size, optimizer, LONGEST_DISPATCH)?;
        if largest < batch_size {
            return Err(EngineError::Slow { batch_size, largest, adapter: gpu.info().name.clone() });
        }
        Ok(())
    }

    /// Sees whether the parameters of a model, which lie in one buffer, fit a device at any batch size.
    ///
    /// # Errors
    /// They do not, or the model cannot be built.
    pub fn check_parameters(gpu: &Gpu, model: &Model) -> Result<(), EngineError> {
        let limits = gpu.limits();
        let allowed = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        // Every one is below 2^32, and a description has far fewer than 2^30 of them.
        let bytes = 4 * model.parameters()?.iter().map(|p| p.shape.iter().product::<usize>() as u64).sum::<u64>();
        if bytes > allowed {
            return Err(EngineError::Parameters { bytes, allowed, adapter: gpu.info().name.clone() });
        }
        Ok(())
    }
}
