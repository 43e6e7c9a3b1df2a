//! What is said, and done, when training cannot go on.

use fmnist_gpu::gpu::{Gpu, GpuError};
use fmnist_gpu::model::Model;
use fmnist_gpu::train::checkpoint::Checkpoints;
use fmnist_gpu::train::run::RunFolder;
use fmnist_gpu::train::{EngineError, GpuEngine, NonFinite, Optimizer};

/// The error of the device in an error, or in what caused it.
pub(super) fn gpu_error(error: &anyhow::Error) -> Option<&GpuError> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(EngineError::Gpu(error)) => Some(error),
        _ => cause.downcast_ref(),
    })
}

/// A batch that does not fit the adapter, with the largest that does.
pub(super) fn too_large(error: EngineError, gpu: &Gpu, model: &Model, batch_size: usize) -> anyhow::Error {
    let is_size = matches!(&error, EngineError::Gpu(GpuError::TensorTooLarge { .. }));
    match GpuEngine::largest_batch(gpu, model) {
        Ok(largest) if is_size && largest < batch_size => anyhow::Error::from(error).context(format!(
            "--batch-size {batch_size} does not fit this adapter; the largest that does is {largest}"
        )),
        _ => error.into(),
    }
}

/// An error of the device, with what was running (an epoch and the steps done of it) and how to go on.
pub(super) fn explained(
    error: EngineError,
    (epoch, steps): (u64, usize),
    folder: &RunFolder,
    checkpoints: &Checkpoints,
) -> anyhow::Error {
    let newest = checkpoints.newest(&mut |_, _| ()).ok().flatten();
    let stopped = format!("training stopped in epoch {epoch}, after {steps} steps of it");
    let advice = match newest {
        Some((path, _)) => format!(
            "{stopped}; the last checkpoint is {}; go on with: fmnist-gpu train --resume {}",
            path.display(),
            folder.path().display()
        ),
        None => format!("{stopped}, before the first checkpoint"),
    };
    anyhow::Error::from(error).context(advice)
}

/// What to say when a number was not finite any more.
pub(super) fn non_finite(
    epoch: u64,
    step: usize,
    cause: Option<&NonFinite>,
    optimizer: &Optimizer,
    out: &std::path::Path,
) -> String {
    let rate = match optimizer {
        Optimizer::Adam(adam) => adam.learning_rate,
        Optimizer::Sgd(sgd) => sgd.learning_rate,
    };
    let first = match cause {
        Some(cause) => format!(
            "The first tensor that went bad is `{}`, written by `{}` in step {}: {} elements are infinite or no numbers, the first at \
             index {}.",
            cause.tensor, cause.operation, cause.step, cause.count, cause.index
        ),
        None => "Replaying the epoch gave finite numbers throughout, so the device does not compute the same twice."
            .to_string(),
    };
    format!(
        "training met a loss or a parameter that is not finite, in epoch {epoch}, step {step}. {first} A smaller --learning-rate usually \
         helps (it was {rate}). The weights from before are in {}",
        out.display()
    )
}
