//! The duration of each kernel of a training step, for reports.

use super::{EngineError, GpuEngine, StepConfig, blank};
use crate::gpu::Gpu;
use crate::gpu::timing::Clock;
use crate::model::{Model, initial_parameters};
use crate::ops::SharedTiles;
use serde::{Deserialize, Serialize};

/// Timed steps, after one to warm up.
pub(super) const STEPS: usize = 5;

/// The kernels of a training step and their durations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelTimes {
    /// Name of the adapter, or of the CPU.
    pub device: String,
    /// Images per step.
    pub batch_size: usize,
    /// `timestamps` (the adapter's clock), `submissions` (the host's clock, each dispatch submitted alone), or `one thread` (the native
    /// engine's calls, one after the other).
    pub clock: String,
    /// The slowest first.
    pub kernels: Vec<KernelTime>,
}

/// All dispatches of one entry point in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelTime {
    /// The entry point, or the call of the native engine.
    pub kernel: String,
    /// Dispatches or calls per step.
    pub calls: usize,
    /// Total microseconds: the sum of the medians of the calls.
    pub median_us: f64,
    /// Percentage of the total of all kernels, 0 to 100.
    pub percent_of_step: f64,
}

impl KernelTimes {
    /// Times a few training steps of `model` on blank images, in a separate engine.
    ///
    /// # Errors
    /// The model cannot be built, or the device failed.
    pub async fn measure(
        gpu: &Gpu,
        model: &Model,
        batch_size: usize,
        config: &StepConfig,
        tiles: SharedTiles,
    ) -> Result<KernelTimes, EngineError> {
        let engine = GpuEngine::new(gpu, model, &initial_parameters(&model.parameters()?, 0))?.with_tiles(tiles);
        let engine = engine.and_training(&blank(model, (STEPS + 2) * batch_size), batch_size, config).await?;
        let timings = engine.steps()?.time(STEPS, 1).await?;
        let dispatches = engine.steps()?.dispatches();
        let clock = match timings.clock {
            Clock::Timestamps => "timestamps",
            Clock::Submissions => "submissions",
        };
        let times = dispatches.iter().map(|dispatch| dispatch.entry).zip(timings.seconds.iter().map(Vec::as_slice));
        let (device, clock, kernels) = (gpu.info().name.clone(), clock.to_string(), kernels(times));
        Ok(KernelTimes { device, batch_size, clock, kernels })
    }
}

/// Sums up the seconds of each call in some rounds.
pub(super) fn kernels<'a>(times: impl Iterator<Item = (&'a str, &'a [f64])>) -> Vec<KernelTime> {
    let mut kernels: Vec<KernelTime> = Vec::new();
    for (name, rounds) in times {
        let at = kernels.iter().position(|k| k.kernel == name).unwrap_or_else(|| {
            let kernel = name.to_string();
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
    kernels
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_has_the_medians_of_its_calls() {
        let rounds: [(&str, &[f64]); 3] =
            [("short", &[9e-6, 2e-6, 1e-6]), ("long", &[5e-6, 4e-6, 3e-6, 8e-6, 7e-6]), ("short", &[1e-6, 1e-6, 1e-6])];
        let kernels = kernels(rounds.into_iter());
        let names: Vec<&str> = kernels.iter().map(|k| k.kernel.as_str()).collect();
        assert_eq!(names, ["long", "short"]);
        for (kernel, (calls, median_us, percent)) in kernels.iter().zip([(1, 5.0, 62.5), (2, 3.0, 37.5)]) {
            assert_eq!(kernel.calls, calls, "{kernel:?}");
            assert!((kernel.median_us - median_us).abs() < 1e-9, "{kernel:?}");
            assert!((kernel.percent_of_step - percent).abs() < 1e-9, "{kernel:?}");
        }
    }
}
