//! `fmnist-gpu report`

use super::device::DeviceArgs;
use super::source::SourceArgs;
use super::train::repeat_command;
use super::{Global, Interrupted, evaluate, interrupt_flag, output_path, print_result};
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::engine::{KernelTimes, Optimizer};
use fmnist_gpu::files::{ShownPath, check_target, write_whole};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::report::metrics::Metrics;
use fmnist_gpu::report::run_page::{Report, report_files};
use fmnist_gpu::run::Run;
use fmnist_gpu::session::Device;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Writes `report.html`, `report.json` and the images; returns the number of files and the figures.
pub fn write(
    report: &Report<'_>,
    device: &Device,
    folder: &Path,
    force: bool,
    interrupt: &AtomicBool,
) -> Result<(usize, Metrics)> {
    let go_on = || if interrupt.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) };
    go_on()?;
    let Report { model, parameters, test, .. } = *report;
    let adam = Optimizer::Adam(AdamConfig::default());
    let (batch_size, optimizer) = report.config.map_or((32, adam), |c| (c.batch_size, c.optimizer));
    let tiles = report.config.and_then(|config| config.tiles).unwrap_or_default();
    let kernel_times = match device {
        Device::Gpu(gpu) => Some(KernelTimes::measure(gpu, model, batch_size, &optimizer, tiles)),
        Device::Native(_) => {
            let [name, ..] = device.describe();
            Some(KernelTimes::measure_native(&name, model, parameters, test, batch_size, &optimizer))
        }
        Device::Reference => None,
    };
    let kernel_times = kernel_times.transpose().context("timing the kernels")?;
    go_on()?;
    let (metrics, files) = report_files(report, kernel_times.as_ref()).context("drawing the report")?;
    go_on()?;
    // All or none: a report of which half is old would mislead.
    for file in &files {
        check_target(&folder.join(&file.name), force)?;
    }
    for file in &files {
        write_whole(&folder.join(&file.name), &file.bytes, force).context("writing the report")?;
    }
    Ok((files.len(), metrics))
}

/// The name of a run for people: that of its folder.
pub fn run_name(folder: &Path) -> String {
    let canonical = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    canonical.file_name().map_or_else(|| "run".to_string(), |name| name.to_string_lossy().into_owned())
}

/// Writes the report of a run.
pub fn run(args: ReportArgs, global: &Global) -> Result<()> {
    let run = Run::open(&args.run)?;
    let (summary, history) = (run.summary()?, run.history()?);
    let folder = args.out.as_deref().unwrap_or(&run.path);
    let interrupt = interrupt_flag();
    let device = args.device.open(global)?;
    let dataset = evaluate::load_data(&run, &args.source, global, &interrupt)?;
    let available = dataset.test.len();
    if args.image >= available {
        bail!("--image {}: the test set has {available} images (0 to {})", args.image, available - 1);
    }
    if args.out.is_some() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating the folder {}", folder.shown()))?;
    }
    let engine = &mut *device.evaluator(&run.model, &run.parameters)?;
    let probabilities = evaluate::predict(engine, &dataset.test.images, &interrupt)?;
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
    let (files, metrics) = write(&report, &device, folder, args.force, &interrupt)?;
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
