//! The duration of each call of a training step in the native engine, for reports.

use super::NativeEngine;
use crate::data::Split;
use crate::engine::kernel_times::{STEPS, kernels};
use crate::engine::{EngineError, KernelTimes, StepConfig};
use crate::model::Model;

impl KernelTimes {
    /// Like [`KernelTimes::measure`], for the native engine on `device`, in one thread, with the given parameters and the images of `split`, repeated to fill a
    /// batch: the duration of its gradients depends on how many are zero.
    ///
    /// # Errors
    /// The model cannot be built, there are no samples, or there is not enough memory.
    pub fn measure_native(
        device: &str,
        model: &Model,
        parameters: &[Vec<f32>],
        split: &Split,
        batch_size: usize,
        config: &StepConfig,
    ) -> Result<KernelTimes, EngineError> {
        let samples = (0..split.len()).cycle().take(if split.is_empty() { 0 } else { batch_size });
        let mut batch =
            Split { images: samples.clone().flat_map(|i| split.image(i)).copied().collect(), labels: Vec::new() };
        batch.labels = samples.map(|i| split.labels[i]).collect();
        if batch.is_empty() {
            return Err(EngineError::Samples("there are none to time a step with".to_string()));
        }
        let mut engine = NativeEngine::new(model, parameters, 1)?.and_training(&batch, batch_size, config)?;
        let times = engine.time_step(STEPS)?;
        let times = times.iter().map(|(name, seconds)| (name.as_str(), seconds.as_slice()));
        let (device, clock, kernels) = (device.to_string(), "one thread".to_string(), kernels(times));
        Ok(KernelTimes { device, batch_size, clock, kernels })
    }
}
