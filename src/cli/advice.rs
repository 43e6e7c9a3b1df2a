//! What to do about errors: the library speaks of things, and the command line adds the flags and the commands that help.

use super::settings::flag;
use super::{Interrupted, shell_quoted};
use anyhow::{Chain, anyhow};
use fmnist_gpu::data::DataError;
use fmnist_gpu::engine::{EngineError, NonFinite};
use fmnist_gpu::files::{FileError, ShownPath};
use fmnist_gpu::gpu::GpuError;
use fmnist_gpu::import::ImportError;
use fmnist_gpu::model::weights::WeightsError;
use fmnist_gpu::run::RunError;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::session::{PlanError, ResumeError, TrainError, WriteError};
use fmnist_gpu::train::settings::{SettingError, Value};
use std::error::Error;

/// An error with its causes, each said once as most messages of the library quote their cause themselves, and with the flags that help.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in Chain::new(error).skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text + Chain::new(error).find_map(advice).unwrap_or_default()
}

/// What to do about an error of the library, which does not know the flags.
fn advice(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(FileError::Exists(_)) = cause.downcast_ref() {
        return Some("; choose another name, or overwrite it with --force");
    }
    match cause.downcast_ref() {
        Some(RunError::Exists(_)) => return Some("; choose another --out, or replace the run in it with --force"),
        Some(RunError::Folder { .. }) => return Some("; choose another folder with --out"),
        Some(RunError::NoRun { .. }) => {
            return Some(" (a run is a folder that `fmnist-gpu train` wrote, or the model.safetensors in it)");
        }
        Some(RunError::Weights { source: WeightsError::Metadata(_), .. }) => {
            return Some(" (command: fmnist-gpu import)");
        }
        _ => {}
    }
    match cause.downcast_ref() {
        Some(GpuError::TensorTooLarge { .. } | GpuError::OutOfMemory { .. }) => return Some(" (flag: --batch-size N)"),
        Some(GpuError::Limit { .. }) => return Some(" (flag: --device NAME; `fmnist-gpu devices` lists them)"),
        Some(GpuError::DeviceLost { .. }) => return Some(" (flags: --batch-size N, --device NAME)"),
        _ => {}
    }
    if let Some(DataError::NoCacheFolder | DataError::DownloadFailed { .. } | DataError::FolderForSynthetic(_)) =
        cause.downcast_ref()
    {
        return Some(" (flags: --data-dir DIR, --dataset synthetic)");
    }
    if let Some(DataError::NamedFolder { variable: None, .. }) = cause.downcast_ref() {
        return Some(" (flag: --data-dir DIR)");
    }
    match cause.downcast_ref()? {
        ImportError::Metadata(_) | ImportError::NoModel(_) => Some(" (flag: --model FILE.toml)"),
        ImportError::AmbiguousLayout => Some(" (flag: --layout torch|keras)"),
        _ => None,
    }
}

/// Whether a command ended because of a signal.
pub fn is_interruption(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Interrupted>()
            || matches!(cause.downcast_ref(), Some(DataError::Interrupted))
            || matches!(cause.downcast_ref(), Some(WriteError::Interrupted))
    })
}

/// The error of the device in an error, or in what caused it.
pub fn gpu_error(error: &anyhow::Error) -> Option<&GpuError> {
    error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(EngineError::Gpu(error) | EngineError::TooLarge { source: error, .. }) => Some(error),
        _ => cause.downcast_ref(),
    })
}

/// An error of a plan, by the flags that help.
pub fn of_plan(error: PlanError) -> anyhow::Error {
    const RESUME: &str = "omit the flag to resume, or start over with --out";
    match error {
        PlanError::Setting(SettingError { setting, value, reason }) => {
            let help = if setting.name == "patience" { " (flag: --validation-split 0.1)" } else { "" };
            anyhow!("{} is {value}; {reason}{help}", flag(setting))
        }
        PlanError::Changed { setting, given, was } => {
            anyhow!("{} is {given}, but the run was started with {was}; {RESUME}", flag(setting))
        }
        PlanError::OtherModel { given, was } => {
            anyhow!("--model is {given}, but the run was started with another model, `{was}`; {RESUME}")
        }
        PlanError::OtherEnd { .. } => anyhow!("{}; {RESUME}", error.to_string().replace("`epochs`", "--epochs")),
        PlanError::Done { .. } => anyhow!("{}", error.to_string().replace("`epochs`", "--epochs")),
        PlanError::OtherData { .. } => anyhow!("{error}; name that one with --dataset or --data-dir"),
        PlanError::Model(_) | PlanError::OtherImages { .. } | PlanError::Recorded(_) => error.into(),
    }
}

/// An error of a run that cannot be resumed.
pub fn of_resume(error: ResumeError) -> anyhow::Error {
    match &error {
        ResumeError::Damaged(_) | ResumeError::Empty(_) => anyhow!("{error}; start over with --out"),
        ResumeError::Complete(run) => {
            anyhow!("{error}; evaluate it with: fmnist-gpu evaluate {}", shell_quoted(run))
        }
        ResumeError::Changed { .. } => anyhow!("{error}. Restore it, or start over with --out"),
        ResumeError::Run(_) | ResumeError::Checkpoint(_) => error.into(),
    }
}

/// An error of a training, with the command that goes on.
pub fn of_training(error: TrainError, folder: &RunFolder) -> anyhow::Error {
    let said = error.to_string();
    match error {
        TrainError::Stopped { source, checkpoint, .. } => anyhow::Error::from(*source).context(match checkpoint {
            Some(_) => format!("{said}; resume with: {}", resume_command(folder)),
            None => said,
        }),
        TrainError::Evaluation(source) => {
            let run = shell_quoted(folder.path());
            anyhow::Error::from(source).context(format!("{said}; evaluate them with: fmnist-gpu evaluate {run}"))
        }
        TrainError::Incomplete(source) => {
            anyhow::Error::from(source).context(format!("{said}; see the messages above"))
        }
        TrainError::Engine(_) | TrainError::Run(_) | TrainError::Image(_) => error.into(),
    }
}

/// The command that resumes a run.
pub fn resume_command(folder: &RunFolder) -> String {
    format!("fmnist-gpu train --resume {}", shell_quoted(folder.path()))
}

/// The message about a value that is not finite.
pub fn non_finite(
    epoch: u64,
    step: usize,
    cause: Option<&NonFinite>,
    learning_rate: f64,
    folder: &RunFolder,
) -> String {
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
        Value::Real(learning_rate)
    )
}
