//! `fmnist-gpu evaluate`

use super::device::DeviceArgs;
use super::source::SourceArgs;
use super::views::{ViewsArgs, by_views};
use super::{Global, Interrupted, interrupt_flag, print_result, signals};
use anyhow::Result;
use clap::Args;
use fmnist_gpu::data::{Dataset, DatasetKind, Description, FASHION_MNIST};
use fmnist_gpu::engine::{Engine, Totals};
use fmnist_gpu::model::Views;
use fmnist_gpu::run::Run;
use fmnist_gpu::session::views;
use fmnist_gpu::train::unless;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Flags of `evaluate`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct EvaluateArgs {
    /// Run folder, or the model.safetensors in it
    run: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    views: ViewsArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What `evaluate --json` prints.
#[derive(Debug, Serialize)]
struct Evaluation {
    model: String,
    dataset: DatasetKind,
    device: String,
    driver: String,
    test_loss: f64,
    test_accuracy: f64,
    /// By the images alone, if there are several views.
    #[serde(skip_serializing_if = "Option::is_none")]
    test_accuracy_one_view: Option<f64>,
    views: usize,
    images: u64,
    seconds: f64,
    version: &'static str,
}

/// Probabilities `[n, classes]` of `n` images by these views, of as many bytes each as the model reads.
///
/// # Errors
/// The engine failed, or the user interrupted.
pub async fn predict(engine: &mut dyn Engine, images: &[u8], views: Views, interrupt: &AtomicBool) -> Result<Vec<f32>> {
    let probabilities = views::predict(engine, images, views, &mut |_| unless(interrupt)).await?;
    if interrupt.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(probabilities) }
}

/// The images and classes that a run was trained on; of weights alone, whose origin is unknown, those of Fashion-MNIST.
pub fn description(run: &Run) -> &'static Description {
    match run.config.as_ref().map(|config| config.dataset) {
        // The generated set is like the genuine one.
        Some(DatasetKind::FashionMnist | DatasetKind::Synthetic) | None => &FASHION_MNIST,
    }
}

/// The data set that a run was trained on, or the one that the flags name.
pub fn load_data(run: &Run, source: &SourceArgs, global: &Global, interrupt: &Arc<AtomicBool>) -> Result<Dataset> {
    let mut source = source.clone();
    if let Some(config) = &run.config {
        source.prefer_data_of(&run.path, config);
    }
    source.load(global, interrupt.clone(), 0)
}

/// Evaluates a trained model on the test set.
pub async fn run(args: EvaluateArgs, global: &Global) -> Result<ExitCode> {
    let run = Run::open(&args.run)?;
    let interrupt = interrupt_flag();
    let device = args.device.open(global).await?;
    let dataset = load_data(&run, &args.source, global, &interrupt)?;
    let mut engine = device.evaluator(&run.model, &run.parameters)?;
    let start = Instant::now();
    let views = args.views.of(&run.model);
    let evaluation = views::infer(&mut *engine, &dataset.test, views, &mut |_| unless(&interrupt)).await?;
    let (totals, one_view) = (evaluation.totals, evaluation.one_view);
    if (totals.samples as usize) < dataset.test.len() {
        global.say(format!("Interrupted after {} of {} images", totals.samples, dataset.test.len()));
        return Ok(signals::exit_code());
    }
    let [device_name, driver, _] = device.describe();
    let result = Evaluation {
        model: run.model.name.clone(),
        dataset: dataset.kind,
        device: device_name,
        driver,
        test_loss: totals.mean_loss(),
        test_accuracy: totals.accuracy(),
        test_accuracy_one_view: one_view.as_ref().map(Totals::accuracy),
        views: views.list().len(),
        images: totals.samples,
        seconds: start.elapsed().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION"),
    };
    print_result(args.json, &result, |_| {
        format!(
            "Test loss {:.4}, test accuracy {:.4} on {} images (model {}, dataset: {}{})",
            result.test_loss,
            result.test_accuracy,
            result.images,
            result.model,
            result.dataset,
            by_views(views, one_view.as_ref())
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
