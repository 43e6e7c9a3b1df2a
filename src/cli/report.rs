//! `fmnist-gpu report`

use super::device::{Device, DeviceArgs};
use super::source::SourceArgs;
use super::{Global, Interrupted, evaluate, interrupt_flag, output_path, print_result};
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::data::Dataset;
use fmnist_gpu::engine::{KernelTimes, Optimizer};
use fmnist_gpu::files::{ShownPath, check_target, write_whole};
use fmnist_gpu::model::summary;
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::report::maps::{feature_maps, filters};
use fmnist_gpu::report::metrics::Metrics;
use fmnist_gpu::report::run_page::{Report, report_files};
use fmnist_gpu::run::{Run, Summary};
use fmnist_gpu::train::EpochRecord;
use sha2::{Digest, Sha256};
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

/// What a report is about.
pub struct Material<'a> {
    /// The run; its folder names it.
    pub run: &'a Run,
    /// Its summary, if there is one.
    pub summary: Option<&'a Summary>,
    /// Its epochs.
    pub history: &'a [EpochRecord],
    /// The data set with the test images.
    pub dataset: &'a Dataset,
    /// Their probabilities.
    pub probabilities: &'a [f32],
    /// The test image whose feature maps are drawn.
    pub image: usize,
}

/// Writes `report.html`, `report.json` and the images; returns the number of files and the figures.
pub fn write(
    material: &Material<'_>,
    device: &Device,
    folder: &Path,
    force: bool,
    interrupt: &AtomicBool,
) -> Result<(usize, Metrics)> {
    let Material { run, dataset, probabilities, .. } = *material;
    let (model, parameters, config) = (&run.model, &run.parameters, run.config.as_ref());
    let (test, description) = (&dataset.test, &dataset.description);
    let go_on = || if interrupt.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) };
    let metrics = Metrics::new(test, probabilities, description);
    go_on()?;
    let adam = Optimizer::Adam(AdamConfig::default());
    let (batch_size, optimizer) = config.map_or((32, adam), |c| (c.batch_size, c.optimizer));
    let tiles = config.and_then(|config| config.tiles).unwrap_or_default();
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
    let sha256: String = Sha256::digest(&run.model_file).iter().map(|byte| format!("{byte:02x}")).collect();
    let first_filters = filters(model, parameters)?;
    let report = Report {
        name: &run_name(&run.path),
        config,
        summary: material.summary,
        history: material.history,
        model: &model.name,
        layers: &summary(model)?,
        dataset: dataset.kind,
        description,
        test,
        probabilities,
        metrics: &metrics,
        filters: first_filters.as_ref(),
        maps: &feature_maps(model, parameters, test.image(material.image), description)?,
        map_index: material.image,
        kernel_times: kernel_times.as_ref(),
        model_sha256: &sha256,
    };
    let files = report_files(&report).context("drawing the report")?;
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
    let engine = &mut *evaluate::engine(&run, &device)?;
    let material = Material {
        run: &run,
        summary: summary.as_ref(),
        history: &history,
        dataset: &dataset,
        probabilities: &evaluate::predict(engine, &dataset.test.images, &interrupt)?,
        image: args.image,
    };
    let (files, metrics) = write(&material, &device, folder, args.force, &interrupt)?;
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
