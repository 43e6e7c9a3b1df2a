//! `fmnist-gpu report`

use super::device::DeviceArgs;
use super::settings::repeat_command;
use super::source::SourceArgs;
use super::{Global, evaluate, interrupt_flag, output_path, print_result};
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::report::run_page::Report;
use fmnist_gpu::run::{Run, run_name};
use fmnist_gpu::session::write_report;
use std::path::PathBuf;

/// Flags of `report`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct ReportArgs {
    /// Run folder, or the model.safetensors in it
    run: PathBuf,
    /// Folder for the report and its images [default: the run folder]
    #[arg(long, value_name = "DIR", value_parser = output_path())]
    out: Option<PathBuf>,
    /// The test image whose feature maps are drawn
    #[arg(long, default_value_t = 0, value_name = "INDEX")]
    image: usize,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Replace an existing report
    #[arg(long)]
    force: bool,
    /// Print the figures of report.json
    #[arg(long)]
    json: bool,
}

/// Writes the report of a run.
pub async fn run(args: ReportArgs, global: &Global) -> Result<()> {
    let run = Run::open(&args.run)?;
    let (summary, history) = (run.summary()?, run.history()?);
    let folder = args.out.as_deref().unwrap_or(&run.path);
    let interrupt = interrupt_flag();
    let device = args.device.open(global).await?;
    let dataset = evaluate::load_data(&run, &args.source, global, &interrupt)?;
    let available = dataset.test.len();
    if args.image >= available {
        bail!("--image {}: the test set has {available} images (0 to {})", args.image, available - 1);
    }
    if args.out.is_some() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating the folder {}", folder.shown()))?;
    }
    let engine = &mut *device.evaluator(&run.model, &run.parameters)?;
    let probabilities = evaluate::predict(engine, &dataset.test.images, run.model.predict.views, &interrupt).await?;
    let report = Report {
        name: run_name(&run.path),
        model: &run.model,
        parameters: &run.parameters,
        config: run.config.as_ref(),
        repeat: run.config.as_ref().map(repeat_command),
        summary: summary.as_ref(),
        history: &history,
        dataset: dataset.kind,
        description: &dataset.description,
        test: &dataset.test,
        probabilities: &probabilities,
        image: args.image,
        model_file: &run.model_file,
    };
    let (files, metrics) = write_report(&report, &device, folder, args.force, &interrupt).await?;
    print_result(args.json, &metrics, |_| {
        let [low, high] = metrics.accuracy_95;
        format!(
            "Test accuracy {:.4} ({low:.4} to {high:.4} with 95 % confidence), loss {:.4}, calibration error {:.4} on {} \
             images (dataset: {})",
            metrics.accuracy, metrics.loss, metrics.ece, metrics.images, dataset.kind
        )
    })?;
    let page = folder.join("report.html");
    global.say(format!("Report: {} (its {} images and figures are beside it)", page.shown(), files - 1));
    Ok(())
}
