//! `fmnist-gpu train`

use super::advice::{of_plan, of_resume, of_training, with_causes};
use super::device::is_gone;
use super::progress::{self, Display};
use super::resources::ResourceArgs;
use super::settings::{SettingFlags, repeat_command};
use super::{Global, interrupt_flag, output_path, signals, terminal};
use anyhow::{Context, Result};
use clap::Args;
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::session::{Plan, Resumable, RunOptions, Session, SessionEvent, TrainError};
use fmnist_gpu::train::settings::Value;
use fmnist_gpu::train::{Event, Outcome};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Flags of `train`.
#[derive(Clone, Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct TrainArgs {
    /// mlp (the article's "without CNN"), cnn ("with CNN"), tiny, fast or best (more accurate, each with a recipe of its own), or a
    /// .toml file that lists the layers [default: cnn]
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(flatten)]
    resources: ResourceArgs,
    /// Run folder to write [default: the first free runs/MODEL-NUMBER]
    #[arg(long, value_name = "RUN", value_parser = output_path(), conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Resume a run from its newest checkpoint, with the settings it was started with; --epochs may be raised, unless the learning rate
    /// follows a schedule
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
    /// Print one JSON object per line on standard output: one after each epoch (history.jsonl's with `step` and `timestamp`, the
    /// seconds since 1970), the summary last
    #[arg(long)]
    json: bool,
}

impl TrainArgs {
    fn options(&self) -> Result<RunOptions> {
        let interval = self.checkpoint_minutes.map(|minutes| {
            let interval = Duration::try_from_secs_f64(60.0 * minutes).ok().filter(|_| minutes > 0.0);
            let value = Value::Real(minutes);
            interval.with_context(|| {
                format!("--checkpoint-minutes is {value}; it must be a number above 0, for example 10")
            })
        });
        Ok(RunOptions {
            checkpoint_every: self.checkpoint_every,
            checkpoint_interval: interval.transpose()?,
            keep: self.keep as usize,
            tensorboard: self.tensorboard,
            report: !self.no_report,
            repeat: None,
        })
    }
}

/// Trains, evaluates, and writes the run folder; once more if the device was lost and `--retry-device` was given.
pub async fn run(mut args: TrainArgs, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag();
    let allowed = if args.retry_device { 3 } else { 0 };
    let mut retries = 0;
    let mut begun: Option<Begun> = None;
    loop {
        let error = match attempt(&args, global, &interrupt, &mut begun).await {
            Err(error) => error,
            code => return code,
        };
        let known = begun.clone().filter(|_| retries < allowed && is_gone(&error));
        let Some((folder, has_checkpoint)) = known else { return Err(error) };
        retries += 1;
        terminal::complain(with_causes(error.as_ref()));
        terminal::complain(format_args!("opening the device again, attempt {retries} of {allowed}"));
        args.resources.device.wait_for(&error, &interrupt)?;
        args.lose_device_after = None;
        // Before the first checkpoint there is nothing to resume: the same training starts over, in the same folder.
        args.force |= !has_checkpoint;
        (args.resume, args.out) = if has_checkpoint { (Some(folder), None) } else { (None, Some(folder)) };
    }
}

/// The folder of a run that has begun, and whether there is a checkpoint in it.
type Begun = (PathBuf, bool);

async fn attempt(
    args: &TrainArgs,
    global: &Global,
    interrupt: &Arc<AtomicBool>,
    begun: &mut Option<Begun>,
) -> Result<ExitCode> {
    let mut options = args.options()?;
    let (folder, mut plan) = prepare(args, global)?;
    plan.model.predict.views = args.settings.views.of(&plan.model);
    let (device, tiles, dataset) = args.resources.open(&plan, folder.path(), global, interrupt).await?;
    let session = Session::new(&plan, &device, tiles, dataset, interrupt).map_err(of_plan)?;
    options.repeat = Some(repeat_command(&session.config));
    let mut display = Display::new(global, args.json, &session, &folder);
    display.announce()?;
    let on_event = &mut |event: SessionEvent<'_>| {
        display.show(event);
        if let (SessionEvent::Training(Event::Progress { totals, .. }), Some(steps)) = (event, args.lose_device_after)
            && totals.batches >= steps
        {
            device.gpu().inspect(|gpu| gpu.destroy());
        }
    };
    let finished = session.train(&folder, &options, on_event, &mut progress::failed).await;
    let finished = finished.map_err(|error| {
        if !matches!(error, TrainError::Engine(_) | TrainError::Run(_)) {
            *begun = Some((folder.path().to_path_buf(), folder.newest_checkpoint().is_some()));
        }
        of_training(error, &folder)
    })?;
    Ok(match &finished.trained.outcome {
        Outcome::NonFinite { .. } => ExitCode::from(1),
        _ if finished.test.is_none() => signals::exit_code(),
        _ => ExitCode::SUCCESS,
    })
}

/// The folder of the run and the plan: a new run, or one that is resumed.
fn prepare(args: &TrainArgs, global: &Global) -> Result<(RunFolder, Plan)> {
    let given = args.settings.given();
    let Some(path) = &args.resume else {
        let plan = Plan::new(ModelFile::load(args.model.as_deref().unwrap_or("cnn"))?, given).map_err(of_plan)?;
        let rate = plan.recipe.learning_rate;
        if rate < 1e-9 {
            terminal::complain(format_args!(
                "warning: --learning-rate {rate:e} is so small that most weights will not change in single precision"
            ));
        }
        // The folder is created before the work, so that a bad --out costs no training.
        let folder = match &args.out {
            Some(out) => RunFolder::create(out, args.force)?,
            None => RunFolder::create_next(&plan.model.name)?,
        };
        return Ok((folder, plan));
    };
    let folder = RunFolder::reopen(path)?;
    let found = Resumable::find(&folder, given, &mut progress::damaged).map_err(of_resume)?;
    global.say(progress::resuming(path, &found));
    let start = found.checkpoint.map(|(_, checkpoint)| checkpoint);
    let plan = Plan::resume(found.config, start, args.model.as_deref(), given).map_err(of_plan)?;
    Ok((folder, plan))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TrainArgs,
    }

    #[test]
    fn an_interval_of_checkpoints_is_in_minutes() {
        let options =
            |value: &str| Line::parse_from(["train", &format!("--checkpoint-minutes={value}")]).args.options();
        assert_eq!(options("1.5").unwrap().checkpoint_interval, Some(Duration::from_secs(90)));
        for bad in ["0", "-1", "nan", "inf"] {
            assert!(options(bad).unwrap_err().to_string().contains("--checkpoint-minutes is"), "{bad}");
        }
    }
}
