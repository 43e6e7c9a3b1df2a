//! `fmnist-gpu train`

mod attempt;
mod faults;
mod flags;
mod keeper;
mod prepare;

use self::attempt::{Attempt, Started};
use self::faults::gpu_error;
use self::flags::SettingFlags;
pub use self::flags::repeat_command;
use super::device::{DeviceArgs, TuneArgs};
use super::source::SourceArgs;
use super::{Global, Interrupted, interrupt_flag, output_path, terminal, with_causes};
use anyhow::{Result, bail};
use clap::Args;
use fmnist_gpu::gpu::GpuError;
use fmnist_gpu::train::settings::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Flags of `train`.
#[derive(Clone, Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct TrainArgs {
    /// mlp (the article's "without CNN"), cnn ("with CNN"), or a .toml file that lists layers [default: cnn]
    #[arg(long, value_name = "mlp|cnn|FILE.toml")]
    model: Option<String>,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
    /// Run folder to write [default: the first free runs/MODEL-NUMBER]
    #[arg(long, value_name = "RUN", value_parser = output_path(), conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Resume a run from its newest checkpoint, with the settings it was started with; --epochs may be raised
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Write a checkpoint after every N epochs; 0 writes none
    #[arg(long, value_name = "N", default_value_t = 1)]
    checkpoint_every: u64,
    /// Also write a checkpoint at this interval, in the middle of an epoch
    #[arg(long, value_name = "MINUTES")]
    checkpoint_minutes: Option<f64>,
    /// Keep the newest N checkpoints
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// Replace the run in an existing folder, once the new run has its first checkpoint or epoch; other files in the folder stay
    #[arg(long)]
    force: bool,
    /// If the device is lost, open it again and resume from the newest checkpoint, up to three times
    #[arg(long)]
    retry_device: bool,
    /// For tests: lose the device after this many steps of an epoch
    #[arg(long, hide = true)]
    lose_device_after: Option<usize>,
    /// Write no report.html, only weights, history, summary and the two images
    #[arg(long)]
    no_report: bool,
    /// Write event files for TensorBoard into RUN/tensorboard: scalars, histograms of weights and gradients, the predictions
    #[arg(long)]
    tensorboard: bool,
    /// Print one JSON object per line on standard output: one after each epoch (as in history.jsonl), the summary last
    #[arg(long)]
    json: bool,
}

impl TrainArgs {
    /// How long training may run without a checkpoint.
    fn pause_after(&self) -> Result<Option<Duration>> {
        let Some(minutes) = self.checkpoint_minutes else { return Ok(None) };
        match Duration::try_from_secs_f64(60.0 * minutes) {
            Ok(pause) if minutes > 0.0 => Ok(Some(pause)),
            _ => bail!("--checkpoint-minutes is {}; it must be a number above 0, for example 10", Value::Real(minutes)),
        }
    }
}

/// Trains, evaluates, and writes the run folder; once more if the device was lost and `--retry-device` was given.
pub fn run(args: TrainArgs, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag();
    let mut args = args;
    let allowed = if args.retry_device { 3 } else { 0 };
    let mut retries = 0;
    let mut begun: Option<Started> = None;
    loop {
        let mut attempt = Attempt::new(&args, global, &interrupt);
        let error = match attempt.run() {
            Ok(code) => return Ok(code),
            Err(error) => error,
        };
        let of_gpu = gpu_error(&error);
        let is_lost = matches!(of_gpu, Some(GpuError::DeviceLost { .. }));
        // A driver that is reset takes a while to come back.
        let is_away = begun.is_some()
            && matches!(
                of_gpu,
                Some(GpuError::NoAdapter { .. } | GpuError::NoSuchAdapter { .. } | GpuError::OpenDevice { .. })
            );
        let known = attempt.started.or(begun);
        let Some(known) = known.filter(|_| (is_lost || is_away) && retries < allowed) else { return Err(error) };
        retries += 1;
        // The same adapter, for the same bits: not another one, nor the CPU, that is available while a reset driver is not.
        if let Some(GpuError::DeviceLost { adapter, .. }) = of_gpu {
            args.device.insist_on(adapter);
        }
        terminal::complain(with_causes(&error));
        terminal::complain(format_args!("opening the device again, attempt {retries} of {allowed}"));
        let waiting = Instant::now();
        while is_away && waiting.elapsed() < Duration::from_secs(5) {
            if interrupt.load(Ordering::Relaxed) {
                return Err(Interrupted.into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        args.lose_device_after = None;
        let folder = Some(known.folder.clone());
        // Before the first checkpoint there is nothing to resume: the same training starts over, in the same folder.
        (args.resume, args.out) = if known.has_checkpoint { (folder, None) } else { (None, folder) };
        args.force |= !known.has_checkpoint;
        begun = Some(known);
    }
}
