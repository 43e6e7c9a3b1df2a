//! What is reported when training cannot continue.

use crate::cli::shell_quoted;
use fmnist_gpu::engine::{EngineError, NonFinite, Optimizer};
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::gpu::GpuError;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::train::settings::Value;

/// The error of the device in an error, or in what caused it.
pub(super) fn gpu_error(error: &anyhow::Error) -> Option<&GpuError> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(EngineError::Gpu(error) | EngineError::TooLarge { source: error, .. }) => Some(error),
        _ => cause.downcast_ref(),
    })
}

/// The command that resumes a run.
pub(super) fn resume_command(folder: &RunFolder) -> String {
    format!("fmnist-gpu train --resume {}", shell_quoted(folder.path()))
}

/// An error of the device, with what was running (an epoch and the steps done of it) and how to resume.
pub(super) fn explained(
    error: EngineError,
    (epoch, steps): (u64, usize),
    folder: &RunFolder,
    has_checkpoint: bool,
) -> anyhow::Error {
    let stopped = format!("training stopped in epoch {epoch}, after {steps} of its steps");
    let newest = has_checkpoint.then(|| folder.checkpoints(1).newest(&mut |_, _| ()).ok().flatten()).flatten();
    let advice = match newest {
        Some((path, _)) => {
            format!("{stopped}; the last checkpoint is {}; resume with: {}", path.shown(), resume_command(folder))
        }
        None if !folder.is_committed() => {
            format!(
                "{stopped}, before the first checkpoint; the run that was in {} is unchanged",
                folder.path().shown()
            )
        }
        None => format!("{stopped}, before the first checkpoint"),
    };
    anyhow::Error::from(error).context(advice)
}

/// The message about a value that is not finite.
pub(super) fn non_finite(
    epoch: u64,
    step: usize,
    cause: Option<&NonFinite>,
    optimizer: &Optimizer,
    folder: &RunFolder,
) -> String {
    let rate = match optimizer {
        Optimizer::Adam(adam) => adam.learning_rate,
        Optimizer::Sgd(sgd) => sgd.learning_rate,
    };
    let first = match cause {
        Some(cause) => format!(
            "The first tensor that went bad is `{}`, written by `{}` in step {}: {} of its elements are infinite or NaN, the first at \
             index {}.",
            cause.tensor, cause.operation, cause.step, cause.count, cause.index
        ),
        None => "Replaying the epoch gave finite values throughout, so the device does not compute the same twice."
            .to_string(),
    };
    let path = folder.path().shown();
    let kept = match folder.is_committed() {
        true => format!("The weights from before are in {path}"),
        false => format!("It had not completed an epoch, so the run that was in {path} is unchanged"),
    };
    format!(
        "the training loss or a parameter became infinite or NaN (it is not finite) in epoch {epoch}, step {step}. {first} A smaller \
         --learning-rate usually helps (it was {}). {kept}",
        Value::Real(rate)
    )
}
