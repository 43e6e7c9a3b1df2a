//! `fmnist-gpu speedrun`

use super::advice::of_plan;
use super::resources::ResourceArgs;
use super::settings::{SettingFlags, as_json, flag};
use super::{Global, START, counted, interrupt_flag, print_result, signals};
use anyhow::Result;
use clap::Args;
use fmnist_gpu::data::DatasetKind;
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::session::{Device, Plan, Speedrun, SpeedrunError, Speedruns, TimedEpoch, TimedRun};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::Path;
use std::process::ExitCode;

/// The model of a speedrun unless another one is named.
const DEFAULT_MODEL: &str = "fast";

/// Flags of `speedrun`.
#[derive(Clone, Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "The time of a run is that of its training up to the end of the first epoch whose test accuracy is at least the target. \
                  Start-up and evaluation are measured apart. docs/speedrun.md has the protocol and the board. Exit code 1 if no run \
                  reaches the target."
)]
pub struct SpeedrunArgs {
    /// mlp, cnn, tiny, fast, best, or a .toml file that lists the layers
    #[arg(long, default_value = DEFAULT_MODEL, value_name = "MODEL")]
    model: String,
    /// Test accuracy to reach
    #[arg(long, value_name = "ACCURACY", default_value = "0.94", value_parser = target)]
    target: f64,
    /// Number of runs; their seeds count up from --seed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    #[command(flatten)]
    settings: SettingFlags,
    #[command(flatten)]
    resources: ResourceArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What `speedrun --json` prints.
#[derive(Debug, Serialize)]
struct SpeedrunOutput {
    model: String,
    parameters: usize,
    dataset: DatasetKind,
    train_images: usize,
    device: String,
    driver: String,
    backend: String,
    /// Number of threads; only for the native engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    version: &'static str,
    /// The settings of every run.
    settings: Map<String, Value>,
    target: f64,
    start_up: StartUp,
    runs: Vec<TimedRun>,
    /// Number of runs that reached the target. The means are over these.
    reached: usize,
    mean_seconds: Option<f64>,
    /// Of the sample.
    standard_deviation: Option<f64>,
    min_seconds: Option<f64>,
    max_seconds: Option<f64>,
    mean_epochs: Option<f64>,
    /// Seconds per run, over all runs.
    mean_evaluation_seconds: Option<f64>,
    /// The line for the table in docs/speedrun.md.
    row: String,
}

/// What happens once, before the first clock starts.
#[derive(Debug, Serialize)]
struct StartUp {
    /// From the start of the program until the data are read, the device is open and its kernels are compiled.
    open_seconds: f64,
    warm_up_seconds: f64,
}

impl StartUp {
    fn seconds(&self) -> f64 {
        self.open_seconds + self.warm_up_seconds
    }
}

/// Times trainings with consecutive seeds until they reach an accuracy on the test set.
pub async fn run(args: SpeedrunArgs, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag();
    let plan = Plan::new(ModelFile::load(&args.model)?, args.settings.given()).map_err(of_plan)?;
    // A plan that starts anew has no run folder.
    let (device, tiles, dataset) = args.resources.open(&plan, Path::new(""), global, &interrupt).await?;
    let open_seconds = START.elapsed().as_secs_f64();
    let SpeedrunArgs { target, runs, .. } = args;
    let (dataset_kind, train_images) = (dataset.kind, dataset.train.len());
    let speedrun = Speedrun { plan: &plan, device: &device, tiles, target, runs, interrupt: &interrupt };
    let epochs = plan.recipe.epochs;
    let on_epoch = &mut |seed, epoch: &TimedEpoch| {
        let (accuracy, seconds) = (epoch.test_accuracy, epoch.seconds);
        global.say(format!("Seed {seed}, epoch {}/{epochs}: test accuracy {accuracy:.4}, {seconds:.2} s", epoch.epoch));
    };
    let done = speedrun.carry_out(dataset, on_epoch).await.map_err(|error| match error {
        SpeedrunError::Plan(error) => of_plan(error),
        SpeedrunError::Engine(error) => error.into(),
    })?;
    if done.is_interrupted {
        global.say(format!("Interrupted after {} of {}", done.runs.len(), counted(runs as usize, "run")));
        return Ok(signals::exit_code());
    }
    let output = output(&args, &plan, &device, done, open_seconds, (dataset_kind, train_images))?;
    print_result(args.json, &output, text)?;
    Ok(ExitCode::from(u8::from(output.reached == 0)))
}

/// Parses an accuracy.
fn target(text: &str) -> Result<f64, String> {
    let target = text.parse().ok().filter(|target| *target > 0.0 && *target <= 1.0);
    target.ok_or_else(|| "it must be a number above 0 and at most 1, for example 0.94".to_string())
}

fn output(
    args: &SpeedrunArgs,
    plan: &Plan,
    device: &Device,
    done: Speedruns,
    open_seconds: f64,
    (dataset, train_images): (DatasetKind, usize),
) -> Result<SpeedrunOutput> {
    let [name, driver, backend] = device.describe();
    let seconds = done.seconds();
    let mut settings = as_json(&plan.recipe);
    // Each run has its own.
    settings.remove("seed");
    let mut output = SpeedrunOutput {
        model: plan.model.name.clone(),
        parameters: plan.model.parameters()?.iter().map(|parameter| parameter.len()).sum(),
        dataset,
        train_images,
        device: name,
        driver,
        backend,
        threads: if let Device::Native(threads) = device { Some(*threads) } else { None },
        version: env!("CARGO_PKG_VERSION"),
        settings,
        target: args.target,
        start_up: StartUp { open_seconds, warm_up_seconds: done.warm_up_seconds },
        reached: seconds.len(),
        mean_seconds: done.mean_seconds(),
        standard_deviation: done.standard_deviation(),
        min_seconds: seconds.iter().copied().reduce(f64::min),
        max_seconds: seconds.iter().copied().reduce(f64::max),
        mean_epochs: done.mean_epochs(),
        mean_evaluation_seconds: done.mean_evaluation_seconds(),
        runs: done.runs,
        row: String::new(),
    };
    output.row = row(&output, args);
    Ok(output)
}

/// The line for the table in docs/speedrun.md, whose columns it has.
fn row(output: &SpeedrunOutput, args: &SpeedrunArgs) -> String {
    let given = args.settings.given().iter().filter(|(setting, _)| setting.name != "seed");
    let flags: Vec<String> = given.map(|(setting, value)| format!("{} {value}", flag(setting))).collect();
    let flags = if flags.is_empty() { "–".to_string() } else { format!("`{}`", flags.join(" ")) };
    let or_none = |value: Option<f64>, digits: usize| value.map_or("–".to_string(), |v| format!("{v:.digits$}"));
    let mark = if output.dataset == DatasetKind::FashionMnist { "" } else { " (generated images)" };
    let threads = output.threads.map_or(String::new(), |n| format!(", {}", counted(n, "thread")));
    let cells = [
        format!("`{}`{mark}", output.model),
        format!("{:.4}", output.target),
        time(output),
        format!("{} of {}", output.reached, output.runs.len()),
        or_none(output.mean_epochs, 1),
        format!("{:.2}", output.start_up.seconds()),
        or_none(output.mean_evaluation_seconds, 2),
        flags,
        format!("{}{threads}", output.device),
        output.driver.clone(),
        output.version.to_string(),
    ];
    // A model file and a device may have any name.
    format!("| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

/// Mean and standard deviation.
fn time(output: &SpeedrunOutput) -> String {
    match (output.mean_seconds, output.standard_deviation) {
        (None, _) => "–".to_string(),
        (Some(mean), None) => format!("{mean:.2}"),
        (Some(mean), Some(deviation)) => format!("{mean:.2} ± {deviation:.2}"),
    }
}

fn text(output: &SpeedrunOutput) -> String {
    let SpeedrunOutput { target, reached, runs, start_up, .. } = output;
    let mut lines = vec![format!(
        "Test accuracy {target:.4} was reached by {reached} of {} (model {}, dataset: {})",
        counted(runs.len(), "run"),
        output.model,
        output.dataset
    )];
    if let (Some(min), Some(max), Some(epochs)) = (output.min_seconds, output.max_seconds, output.mean_epochs) {
        lines.push(format!(
            "Time to the target: {} s (mean ± standard deviation; {min:.2} to {max:.2}), {epochs:.1} epochs",
            time(output)
        ));
    }
    lines.push(format!(
        "Not counted: start-up {:.2} s (data, device and kernels {:.2}, warm-up {:.2}), evaluation {:.2} s per run",
        start_up.seconds(),
        start_up.open_seconds,
        start_up.warm_up_seconds,
        output.mean_evaluation_seconds.unwrap_or_default()
    ));
    format!("{}\n\n{}", lines.join("\n"), output.row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_accuracy() {
        for wrong in ["0", "-0.5", "94", "1.01", "nan", "inf", "", "many"] {
            assert!(target(wrong).unwrap_err().contains("0.94"), "{wrong}");
        }
        assert_eq!((target("0.94"), target("1")), (Ok(0.94), Ok(1.0)));
    }
}
