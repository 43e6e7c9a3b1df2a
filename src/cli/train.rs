//! `fmnist-gpu train`

use super::device::{Device, DeviceArgs, TuneArgs};
use super::progress::Display;
use super::report::{self, Material};
use super::source::SourceArgs;
use super::{Global, INTERRUPTED, interrupt_flag, picture, print};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::{CLASS_NAMES, Dataset, N_CLASSES};
use fmnist_gpu::gpu::Tiling;
use fmnist_gpu::model::{Model, initial_parameters, summary};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::tensorboard::TrainingEvents;
use fmnist_gpu::train::run::{RunConfig, RunFolder, Summary};
use fmnist_gpu::train::{
    Engine, Event, GpuEngine, Optimizer, Outcome, ReferenceEngine, Totals, TrainOptions, Trained, train,
};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Flags of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// mlp (the article's "without CNN"), cnn ("with CNN"), or a .toml file that lists layers
    #[arg(long, default_value = "cnn", value_name = "mlp|cnn|FILE.toml")]
    model: String,
    /// Passes over the training set; 0 writes the initial weights
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    /// Images a step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=32_768))]
    batch_size: u32,
    /// How weights follow their gradients
    #[arg(long, value_enum, default_value_t = OptimizerName::Adam)]
    optimizer: OptimizerName,
    /// Step size of the optimizer
    #[arg(long, default_value_t = 0.001)]
    learning_rate: f64,
    /// Share of the last change that sgd keeps [default: 0]
    #[arg(long)]
    momentum: Option<f64>,
    /// Seed of the initial weights and of every epoch's order; the same seed on the same device gives the same bits
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Use only the first N training images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    train_limit: Option<u64>,
    /// Hold out this share of the training images, the last ones, and evaluate on them after each epoch, such as 0.1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    validation_split: f64,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
    /// Run folder to write [default: the first free runs/MODEL-NUMBER]
    #[arg(long, value_name = "RUN")]
    out: Option<PathBuf>,
    /// Replace files of the same name in an existing run folder
    #[arg(long)]
    force: bool,
    /// Write no report.html, only weights, history, summary and the two pictures
    #[arg(long)]
    no_report: bool,
    /// Write event files for TensorBoard into RUN/tensorboard: scalars, histograms of weights and gradients, the predictions
    #[arg(long)]
    tensorboard: bool,
    /// Print a JSON object a line on standard output: one as each epoch ends (as in history.jsonl), the summary last
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OptimizerName {
    /// Adam in Keras's form
    Adam,
    /// Gradient descent with momentum
    Sgd,
}

impl TrainArgs {
    /// How many of `available` training images are held out; the rounding is that of Keras's `validation_split`.
    fn validation_images(&self, available: usize) -> Result<usize> {
        let share = self.validation_split;
        let held_out = available - (available as f64 * (1.0 - share)).floor() as usize;
        if share > 0.0 && (held_out == 0 || held_out == available) {
            bail!(
                "--validation-split {share} of {available} training images leaves {} to train on and {held_out} to validate \
                 on; both need at least one",
                available - held_out
            );
        }
        Ok(held_out)
    }

    fn optimizer(&self) -> Result<Optimizer> {
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            bail!("--learning-rate is {}; it must be a number above 0, such as 0.001", self.learning_rate);
        }
        let momentum = self.momentum.unwrap_or(0.0);
        if !(0.0..1.0).contains(&momentum) {
            bail!("--momentum is {momentum}; it must be at least 0 and below 1, such as 0.9");
        }
        Ok(match self.optimizer {
            OptimizerName::Adam if self.momentum.is_some() => bail!("--momentum belongs to --optimizer sgd"),
            OptimizerName::Adam => {
                Optimizer::Adam(AdamConfig { learning_rate: self.learning_rate, ..AdamConfig::default() })
            }
            OptimizerName::Sgd => Optimizer::Sgd(SgdConfig { learning_rate: self.learning_rate, momentum }),
        })
    }
}

/// Trains, evaluates, and writes the run folder.
pub fn run(args: TrainArgs, global: &Global) -> Result<ExitCode> {
    let begin = Instant::now();
    let log_time = |what: &str| log::debug!("{what} {:.0} ms after the start", 1e3 * begin.elapsed().as_secs_f64());
    let optimizer = args.optimizer()?;
    let limit = args.train_limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if !(0.0..1.0).contains(&args.validation_split) {
        bail!("--validation-split is {}; it must be at least 0 and below 1, such as 0.1", args.validation_split);
    }
    let model = Model::load(&args.model)?;
    let parameters = model.parameters()?;
    let out = args.out.clone().unwrap_or_else(|| RunFolder::next_free(&model.name));
    let interrupt = interrupt_flag()?;
    // The folder is made before the work, so that a bad --out costs no training.
    let folder = RunFolder::create(&out, args.force)?;
    // The data is read and unpacked while the device opens and its pipelines compile: each takes about as long as the other.
    let loading = args.source.start(global, interrupt.clone(), limit).inspect_err(|_| remove_if_empty(&out))?;
    let device = args.device.open(global).inspect_err(|_| remove_if_empty(&out))?;
    log_time("device opened");
    loading.allow();
    let batch_size = args.batch_size as usize;
    let tiles = match &device {
        Device::Gpu(gpu) if args.epochs > 0 => Some(args.tune.tiles(gpu, &model, batch_size, &optimizer)),
        _ => None,
    };
    let tiles = tiles.unwrap_or_default();
    // Data that cannot be had is mostly known by now, and no data needs no pipelines.
    if let Device::Gpu(gpu) = &device
        && args.epochs > 0
        && !loading.is_finished()
    {
        // With the data there, or known to be missing, the time for it is over.
        let wanted = || !loading.is_finished() && !interrupt.load(Ordering::Relaxed);
        match GpuEngine::prepare_training(gpu, &model, batch_size, &optimizer, tiles, &wanted) {
            Ok(()) => log_time("kernels ready"),
            // What is wrong comes back when the engine is made; what is wrong with the data comes first.
            Err(error) => log::debug!("the kernels could not be made ready: {error}"),
        }
    }
    let mut dataset = loading.finish(global).inspect_err(|_| remove_if_empty(&out))?;
    let held_out = args.validation_images(dataset.train.len()).inspect_err(|_| remove_if_empty(&out))?;
    let validation = dataset.train.split_off(dataset.train.len() - held_out);
    if held_out > 0 {
        global.say(format!("Training on the first {} images, validating on the last {held_out}", dataset.train.len()));
    }
    log_time("data loaded");
    let [device_name, driver, backend] = device.describe();
    let config = RunConfig {
        version: env!("CARGO_PKG_VERSION").to_string(),
        model: model.clone(),
        dataset: dataset.kind,
        data_source: dataset.source.clone(),
        train_images: dataset.train.len(),
        validation_images: validation.len(),
        seed: args.seed,
        epochs: args.epochs,
        batch_size,
        optimizer,
        device: device_name,
        driver,
        backend,
        safe: args.device.safe(),
        tiles: matches!(&device, Device::Gpu(gpu) if gpu.tiling() == Tiling::Shared).then_some(tiles),
    };
    global.say(format!("\n{}", summary(&model)?));
    let initial = initial_parameters(&parameters, args.seed);
    let mut engine: Box<dyn Engine> = match &device {
        Device::Gpu(gpu) => {
            Box::new(GpuEngine::with_tiles(gpu, &model, &initial, &dataset.train, batch_size, &optimizer, tiles)?)
        }
        Device::Reference => {
            Box::new(ReferenceEngine::<f32>::new(&model, &initial, &dataset.train, batch_size, &optimizer)?)
        }
    };
    log_time("engine ready");
    folder.write_config(&config)?;

    let options =
        TrainOptions { epochs: args.epochs, samples: dataset.train.len(), batch_size, seed: args.seed, optimizer };
    let mut display = Display::new(global.quiet, args.epochs);
    let mut history = Vec::new();
    let mut epoch_error = None;
    let mut stepped = false;
    let names: Vec<String> = parameters.iter().map(|parameter| parameter.name.clone()).collect();
    let mut events = args.tensorboard.then(|| TrainingEvents::create(&out.join("tensorboard"))).transpose()?;
    let trained = train(&mut *engine, &options, &validation, &interrupt, &mut |event| {
        display.show(&event);
        if matches!(event, Event::Progress { .. }) && !std::mem::replace(&mut stepped, true) {
            log_time("first training step done");
        }
        if let Event::EpochFinished { record, engine } = event {
            history.push(record.clone());
            let mut written = folder.write_history(&history).map_err(anyhow::Error::from);
            if let Some(events) = &mut events {
                written = written.and_then(|()| {
                    Ok(events.epoch(record, &names, &engine.parameters()?, &engine.last_gradients()?)?)
                });
            }
            if args.json {
                written = written.and_then(|()| print(&serde_json::to_string(record)?));
            }
            if let Err(error) = written {
                // Training goes on: the weights are worth more than the history, and are tried at the end.
                epoch_error.get_or_insert(error);
            }
        }
    })?;
    display.clear();
    let weights = engine.parameters()?;
    folder.write_model(&model, &weights)?;
    if let Some(error) = epoch_error {
        return Err(error);
    }
    if trained.history.is_empty() {
        folder.write_history(&[])?;
    }

    if let Outcome::NonFinite { epoch, step } = trained.outcome {
        folder.write_summary(&summarise(&config, &trained, &weights, None))?;
        eprintln!(
            "fmnist-gpu: the training loss stopped being finite in epoch {epoch}, by step {step}. \
             A smaller --learning-rate usually helps (it was {}). What was reached is in {}",
            args.learning_rate,
            out.display()
        );
        return Ok(ExitCode::from(1));
    }
    let test = if trained.outcome == Outcome::Interrupted {
        None
    } else {
        global.say("Evaluating on the test set");
        let totals = engine.evaluate(&dataset.test, &mut |_| {
            if interrupt.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        (totals.samples as usize == dataset.test.len()).then_some(totals)
    };
    let summary = summarise(&config, &trained, &weights, test.as_ref());
    folder.write_summary(&summary)?;
    let pictures = if test.is_some() { write_pictures(&folder, &dataset, &mut *engine)? } else { Vec::new() };
    if let (Some(events), Some(path)) = (&mut events, pictures.last()) {
        let png = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        events.picture("predictions", summary.epochs_completed, &png)?;
    }
    conclude(&args, global, &dataset, &mut *engine, &summary, &pictures, &folder)?;
    if test.is_some() && !args.no_report {
        let material = Material {
            name: report::run_name(&out),
            model: &model,
            parameters: &weights,
            config: Some(&config),
            summary: Some(&summary),
            history: &trained.history,
            dataset: dataset.kind,
            test: &dataset.test,
            probabilities: &engine.predict(&dataset.test.images)?,
            image: 0,
            model_file: &fmnist_gpu::model::weights::to_bytes(&model, &weights)?,
        };
        report::write(&material, &device, tiles, &out, args.force)?;
        global.say(format!("Report: {}", out.join("report.html").display()));
    }
    Ok(if summary.status == "interrupted" { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// A folder that was made for a run which never began is taken away again; one with anything in it stays.
fn remove_if_empty(path: &std::path::Path) {
    let _ = std::fs::remove_dir(path);
}

fn summarise(config: &RunConfig, trained: &Trained, weights: &[Vec<f32>], test: Option<&Totals>) -> Summary {
    let status = match trained.outcome {
        Outcome::NonFinite { .. } => "non-finite loss",
        Outcome::Complete if test.is_some() => "complete",
        Outcome::Complete | Outcome::Interrupted => "interrupted",
    };
    Summary {
        model: config.model.name.clone(),
        dataset: config.dataset,
        device: config.device.clone(),
        driver: config.driver.clone(),
        seed: config.seed,
        epochs: config.epochs,
        epochs_completed: trained.history.len() as u64,
        status: status.to_string(),
        batch_size: config.batch_size,
        parameters: weights.iter().map(Vec::len).sum(),
        test_loss: test.map(Totals::mean_loss),
        test_accuracy: test.map(Totals::accuracy),
        train_seconds: trained.seconds,
        images_per_second: if trained.seconds > 0.0 { trained.images as f64 / trained.seconds } else { 0.0 },
        version: config.version.clone(),
    }
}

/// The article's two pictures: 25 training images with their classes, 25 test images with predictions.
fn write_pictures(folder: &RunFolder, dataset: &Dataset, engine: &mut dyn Engine) -> Result<Vec<PathBuf>> {
    let n_samples = dataset.train.len().min(25);
    let indices: Vec<usize> = (0..dataset.test.len().min(25)).collect();
    let images: Vec<u8> = indices.iter().flat_map(|&i| dataset.test.image(i)).copied().collect();
    let probabilities = engine.predict(&images)?;
    Ok(vec![
        folder.write_picture("samples.png", &picture::samples_png(&dataset.train, n_samples)?)?,
        folder.write_picture("predictions.png", &picture::predictions_png(&dataset.test, &indices, &probabilities)?)?,
    ])
}

/// Says what came out.
fn conclude(
    args: &TrainArgs,
    global: &Global,
    dataset: &Dataset,
    engine: &mut dyn Engine,
    summary: &Summary,
    pictures: &[PathBuf],
    folder: &RunFolder,
) -> Result<()> {
    if args.json {
        print(&serde_json::to_string(summary)?)?;
    } else if let (Some(loss), Some(accuracy)) = (summary.test_loss, summary.test_accuracy) {
        let row = engine.predict(dataset.test.image(0)).context("predicting the first test image")?;
        let (predicted, original) = (picture::argmax(&row[..N_CLASSES]), usize::from(dataset.test.labels[0]));
        print(&format!(
            "Test loss {loss:.4}, test accuracy {accuracy:.4} (dataset: {})\n\
             First test image: original class {original} ({}), predicted class {predicted} ({})",
            summary.dataset, CLASS_NAMES[original], CLASS_NAMES[predicted]
        ))?;
    } else {
        print(&format!(
            "Interrupted after {} of {} epochs; the weights reached are saved, no evaluation was made",
            summary.epochs_completed, summary.epochs
        ))?;
    }
    for path in pictures {
        global.say(format!("Picture: {}", path.display()));
    }
    global.say(format!("Run: {}", folder.path().display()));
    Ok(())
}
