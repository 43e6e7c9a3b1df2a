//! `fmnist-gpu evaluate`

use super::device::{Device, DeviceArgs};
use super::source::SourceArgs;
use super::{Global, INTERRUPTED, interrupt_flag, print, print_json};
use anyhow::Result;
use clap::Args;
use fmnist_gpu::data::{DatasetKind, Split};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::train::run::Run;
use fmnist_gpu::train::{Engine, GpuEngine, NativeEngine, Optimizer, ReferenceEngine};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Flags of `evaluate`.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// Run folder, or the model.safetensors in it
    run: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
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
    images: u64,
    seconds: f64,
    version: &'static str,
}

/// The engine that evaluates a run's model.
pub fn engine<'g>(run: &Run, device: &'g Device) -> Result<Box<dyn Engine + 'g>> {
    Ok(match device {
        Device::Gpu(gpu) => Box::new(GpuEngine::new(gpu, &run.model, &run.parameters)?),
        Device::Native(threads) => Box::new(NativeEngine::new(&run.model, &run.parameters, *threads)?),
        Device::Reference => {
            let optimizer = Optimizer::Adam(AdamConfig::default());
            Box::new(ReferenceEngine::<f32>::new(&run.model, &run.parameters, &Split::default(), 100, &optimizer)?)
        }
    })
}

/// Evaluates a trained model on the test set.
pub fn run(args: EvaluateArgs, global: &Global) -> Result<ExitCode> {
    let run = Run::open(&args.run)?;
    let interrupt = interrupt_flag()?;
    let device = args.device.open(global)?;
    let dataset = args.source.load(global, run.config.as_ref().map(|c| c.dataset), Some(interrupt.clone()))?;
    let mut engine = engine(&run, &device)?;
    let start = Instant::now();
    let totals = engine.evaluate(&dataset.test, &mut |_| {
        if interrupt.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if (totals.samples as usize) < dataset.test.len() {
        global.say(format!("Interrupted after {} of {} images", totals.samples, dataset.test.len()));
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let [device_name, driver, _] = device.describe();
    let result = Evaluation {
        model: run.model.name.clone(),
        dataset: dataset.kind,
        device: device_name,
        driver,
        test_loss: totals.mean_loss(),
        test_accuracy: totals.accuracy(),
        images: totals.samples,
        seconds: start.elapsed().as_secs_f64(),
        version: env!("CARGO_PKG_VERSION"),
    };
    if args.json {
        print_json(&result)?;
    } else {
        print(&format!(
            "Test loss {:.4}, test accuracy {:.4} on {} images (model {}, dataset: {})",
            result.test_loss, result.test_accuracy, result.images, result.model, result.dataset
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
