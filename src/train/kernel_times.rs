//! How long each kernel of a training step takes, for reports.

use super::engine::{EngineError, Optimizer};
use super::gpu_engine::GpuEngine;
use crate::data::{PIXELS, Split};
use crate::gpu::Gpu;
use crate::gpu::timing::Clock;
use crate::model::{Model, initial_parameters};
use crate::ops::SharedTiles;
use serde::{Deserialize, Serialize};

/// Steps that are timed; one before does not count.
const STEPS: usize = 5;

/// The kernels of a training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelTimes {
    /// The adapter.
    pub device: String,
    /// Images a step.
    pub batch_size: usize,
    /// `timestamps` (the adapter's clock) or `submissions` (the host's, around each dispatch alone).
    pub clock: String,
    /// The largest first.
    pub kernels: Vec<KernelTime>,
}

/// All dispatches of one entry point in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelTime {
    /// The entry point.
    pub kernel: String,
    /// Dispatches a step.
    pub calls: usize,
    /// Microseconds of all of them together: the sum of their medians.
    pub median_us: f64,
    /// Of all kernels of the step, 0 to 100.
    pub percent_of_step: f64,
}

impl KernelTimes {
    /// Times a few training steps of `model` on blank images, in an engine of its own.
    ///
    /// # Errors
    /// The model cannot be built, or the device failed.
    pub fn measure(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        optimizer: &Optimizer,
        tiles: SharedTiles,
    ) -> Result<KernelTimes, EngineError> {
        let samples = (STEPS + 2) * batch_size;
        let split = Split { images: vec![0; samples * PIXELS], labels: vec![0; samples] };
        let initial = initial_parameters(&model.parameters()?, 0);
        let mut engine = GpuEngine::with_tiles(gpu, model, &initial, &split, batch_size, optimizer, tiles)?;
        let timings = engine.time_step(STEPS)?;
        let mut kernels: Vec<KernelTime> = Vec::new();
        for (dispatch, rounds) in engine.step_dispatches().iter().zip(&timings.seconds) {
            let at = kernels.iter().position(|k| k.kernel == dispatch.entry).unwrap_or_else(|| {
                let kernel = dispatch.entry.to_string();
                kernels.push(KernelTime { kernel, calls: 0, median_us: 0.0, percent_of_step: 0.0 });
                kernels.len() - 1
            });
            kernels[at].calls += 1;
            kernels[at].median_us += 1e6 * median(rounds);
        }
        let total: f64 = kernels.iter().map(|k| k.median_us).sum();
        for kernel in &mut kernels {
            kernel.percent_of_step = 100.0 * kernel.median_us / total;
        }
        kernels.sort_by(|a, b| b.median_us.total_cmp(&a.median_us));
        let clock = match timings.clock {
            Clock::Timestamps => "timestamps",
            Clock::Submissions => "submissions",
        };
        Ok(KernelTimes { device: gpu.info().name.clone(), batch_size, clock: clock.to_string(), kernels })
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
