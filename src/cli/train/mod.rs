//! `fmnist-gpu train`

mod faults;
mod keeper;
mod settings;

use self::faults::{explained, gpu_error, non_finite, resume_command, too_large};
use self::keeper::Keeper;
use self::settings::{Settings, check_resumed, prepare};
use super::device::{Device, DeviceArgs, TuneArgs};
use super::evaluate::{predict, unless};
use super::progress::Display;
use super::report;
use super::source::SourceArgs;
use super::{
    Global, Interrupted, counted, interrupt_flag, output_path, picture, shell_quoted, signals, terminal, with_causes,
};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::Dataset;
use fmnist_gpu::engine::{Engine, EngineError, GpuEngine, NativeEngine, ReferenceEngine, Totals};
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::gpu::{GpuError, Tiling};
use fmnist_gpu::model::{initial_parameters, summary};
use fmnist_gpu::report::run_page::Report;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::run::{MAX_BATCH_SIZE, MAX_EPOCHS, RunConfig, Summary};
use fmnist_gpu::train::{Event, Outcome, Position, TrainOptions, Trained, train};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Flags of `train`.
#[derive(Clone, Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct TrainArgs {
    /// mlp (the article's "without CNN"), cnn ("with CNN"), or a .toml file that lists layers [default: cnn]
    #[arg(long, value_name = "mlp|cnn|FILE.toml")]
    model: Option<String>,
    /// Passes over the training set; 0 writes the initial weights [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=MAX_EPOCHS))]
    epochs: Option<u64>,
    /// Images per training step [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE as i64))]
    batch_size: Option<u32>,
    /// Optimizer [default: adam]
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerName>,
    /// Learning rate of the optimizer [default: 0.001]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Momentum for SGD [default: 0]
    #[arg(long)]
    momentum: Option<f64>,
    /// Seed of the initial weights and of the order of images in every epoch; the same seed on the same device gives the same bits
    /// [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Use only the first N training images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    train_limit: Option<u64>,
    /// Hold out this share of the training images (the last ones) and evaluate on them after each epoch, for example 0.1 [default: 0]
    #[arg(long, value_name = "SHARE")]
    validation_split: Option<f64>,
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

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum OptimizerName {
    /// Adam in Keras's form
    Adam,
    /// Stochastic gradient descent with momentum
    Sgd,
}

/// A run that has been started.
struct Started {
    folder: PathBuf,
    has_checkpoint: bool,
}

/// Trains, evaluates, and writes the run folder; once more if the device was lost and `--retry-device` was given.
pub fn run(args: TrainArgs, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag();
    let mut args = args;
    let allowed = if args.retry_device { 3 } else { 0 };
    let mut retries = 0;
    let mut begun: Option<Started> = None;
    loop {
        let mut started = None;
        let error = match run_once(&args, global, &interrupt, &mut started) {
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
        let known = started.or(begun);
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

/// One attempt. `started` is the run, once there is something in its folder.
fn run_once(
    args: &TrainArgs,
    global: &Global,
    interrupt: &Arc<AtomicBool>,
    started: &mut Option<Started>,
) -> Result<ExitCode> {
    let begin = Instant::now();
    let log_time = |what: &str| log::debug!("{what} {:.0} ms after the start", 1e3 * begin.elapsed().as_secs_f64());
    let pause_after = args.pause_after()?;
    let (folder, settings) = prepare(args, global)?;
    let Settings { model, epochs, batch_size, optimizer, seed, limit, .. } = &settings;
    let (epochs, batch_size, seed) = (*epochs, *batch_size, *seed);
    let parameters = model.parameters()?;
    let out = folder.path().to_path_buf();
    let begun = settings.begun.as_ref();
    // The data are read and unpacked while the device opens and its pipelines compile: each takes about as long as the other.
    let (mut source, mut device) = (args.source.clone(), args.device.clone());
    if let Some(config) = begun {
        source.prefer_data_of(&out, config);
        device.resume_on(config);
    }
    let loading = source.start(global, interrupt.clone(), *limit);
    let device = device.open(global)?;
    log_time("device opened");
    if let Device::Gpu(gpu) = &device
        && epochs > 0
    {
        // Before anything of that size runs. Other errors are reported, better explained, when the engine is created.
        match GpuEngine::check_time(gpu, model, batch_size, optimizer) {
            Err(error @ EngineError::Slow { .. }) => return Err(error.into()),
            Err(error) => log::debug!("no step could be timed: {error}"),
            Ok(()) => {}
        }
    }
    loading.allow();
    let tiles = match (&device, begun) {
        // Other tiles would sum in another order.
        (Device::Gpu(_), Some(config)) if config.tiles.is_some() => config.tiles,
        (Device::Gpu(gpu), _) if epochs > 0 => Some(args.tune.tiles(gpu, model, batch_size, optimizer)),
        _ => None,
    };
    let tiles = tiles.unwrap_or_default();
    // Missing data are mostly known by now, and without data no pipelines are needed.
    if let Device::Gpu(gpu) = &device
        && epochs > 0
        && !loading.is_finished()
    {
        // Only while the data are not there.
        let wanted = || !loading.is_finished() && !interrupt.load(Ordering::Relaxed);
        match GpuEngine::prepare_training(gpu, model, batch_size, optimizer, tiles, &wanted) {
            Ok(()) => log_time("kernels ready"),
            // The error is reported when the engine is created; errors of the data come first.
            Err(error) => log::debug!("the kernels could not be prepared: {error}"),
        }
    }
    let mut dataset = loading.finish(global)?;
    let held_out = settings.validation_images(dataset.train.len())?;
    let validation = dataset.train.split_off(dataset.train.len() - held_out);
    if held_out > 0 {
        let trained = counted(dataset.train.len(), "image");
        global.say(format!("Training on the first {trained}, validating on the last {held_out}"));
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
        seed,
        epochs,
        batch_size,
        optimizer: *optimizer,
        device: device_name,
        driver,
        backend,
        safe: args.device.safe,
        tiles: matches!(&device, Device::Gpu(gpu) if gpu.tiling() == Tiling::Shared).then_some(tiles),
    };
    if let Some(begun) = begun {
        check_resumed(begun, &config, global)?;
    }
    global.say(format!("\n{}", summary(model)?));
    if let Device::Gpu(gpu) = &device {
        // Before memory is taken for them here.
        GpuEngine::check_parameters(gpu, model)?;
    }
    let initial = initial_parameters(&parameters, seed);
    let mut engine: Box<dyn Engine> = match &device {
        Device::Gpu(gpu) => {
            let engine = GpuEngine::new(gpu, model, &initial).map(|engine| engine.with_tiles(tiles));
            let engine = engine.and_then(|engine| engine.and_training(&dataset.train, batch_size, optimizer));
            Box::new(engine.map_err(|error| too_large(error, gpu, model, batch_size))?)
        }
        Device::Native(threads) => {
            let engine = NativeEngine::new(model, &initial, *threads)?;
            Box::new(engine.and_training(&dataset.train, batch_size, optimizer)?)
        }
        Device::Reference => {
            Box::new(ReferenceEngine::<f32>::new(model, &initial, &dataset.train, batch_size, optimizer)?)
        }
    };
    let start = match &settings.start {
        Some(checkpoint) => {
            engine.restore(&checkpoint.state)?;
            checkpoint.position.clone()
        }
        None => Position::default(),
    };
    log_time("engine ready");
    folder.write_config(&config)?;
    let mut at = (start.epoch(), 0);
    let names = parameters.iter().map(|parameter| parameter.name.clone()).collect();
    let mut keeper = Keeper::new(args, &folder, &config, names, &start, settings.start.is_some());

    let options =
        TrainOptions { epochs, samples: dataset.train.len(), batch_size, seed, optimizer: *optimizer, pause_after };
    let mut display = Display::new(global.quiet, epochs);
    let mut stepped = false;
    let trained = train(&mut *engine, &options, start, &validation, interrupt, &mut |event| {
        display.show(&event);
        match &event {
            Event::EpochStarted { epoch, .. } => at = (*epoch, 0),
            Event::Progress { epoch, totals, .. } => at = (*epoch, totals.batches),
            _ => {}
        }
        if let (Event::Progress { totals, .. }, Some(steps), Device::Gpu(gpu)) =
            (&event, args.lose_device_after, &device)
            && totals.batches >= steps
        {
            gpu.destroy();
        }
        match event {
            Event::Progress { .. } if !std::mem::replace(&mut stepped, true) => log_time("first training step done"),
            Event::EpochFinished { record, position, engine } => keeper.epoch(record, position, engine),
            Event::Paused { position, engine } => keeper.checkpoint(position, engine),
            _ => {}
        }
    });
    display.clear();
    *started = Some(Started { folder: out.clone(), has_checkpoint: keeper.has_checkpoint() });
    let trained = trained.map_err(|error| explained(error, at, &folder, keeper.has_checkpoint()))?;
    let weights = engine.parameters()?;

    if let Outcome::NonFinite { epoch, step, cause } = &trained.outcome {
        let summary = summarise(&config, &trained, &weights, None);
        // A run that did not complete an epoch does not replace another one.
        if folder.is_committed() {
            keeper.finish(&trained.position, &mut *engine, &weights);
            keeper.attempt("summary", |_| Ok(folder.write_summary(&summary)?));
        }
        if args.json {
            terminal::print(&serde_json::to_string(&summary)?);
        }
        terminal::complain(non_finite(*epoch, *step, cause.as_ref(), optimizer, &folder));
        return Ok(ExitCode::from(1));
    }
    keeper.finish(&trained.position, &mut *engine, &weights);
    let test = if trained.outcome == Outcome::Interrupted {
        None
    } else {
        global.say("Evaluating on the test set");
        let totals = engine.evaluate(&dataset.test, &mut |_| unless(interrupt)).with_context(|| {
            let run = shell_quoted(&out);
            format!("training is done and its weights are saved; evaluate them with: fmnist-gpu evaluate {run}")
        })?;
        (totals.samples as usize == dataset.test.len()).then_some(totals)
    };
    let summary = summarise(&config, &trained, &weights, test.as_ref());
    keeper.attempt("summary", |_| Ok(folder.write_summary(&summary)?));
    let mut pictures = Vec::new();
    if test.is_some() {
        for (name, png) in draw_pictures(&dataset, &mut *engine)? {
            keeper.attempt(name, |_| {
                pictures.push(folder.write_picture(name, &png)?);
                Ok(())
            });
            if name == "predictions.png" {
                keeper.event_image("predictions", summary.epochs_completed, &png);
            }
        }
    }
    conclude(args, global, &dataset, &mut *engine, &summary, &pictures, &folder)?;
    if test.is_some() && !args.no_report {
        let report = Report {
            name: report::run_name(&out),
            model,
            parameters: &weights,
            config: Some(&config),
            summary: Some(&summary),
            history: &trained.position.history,
            dataset: dataset.kind,
            description: &dataset.description,
            test: &dataset.test,
            probabilities: &predict(&mut *engine, &dataset.test.images, interrupt)?,
            image: 0,
            model_file: &fmnist_gpu::model::weights::to_bytes(model, &weights)?,
        };
        keeper.attempt("report", |_| {
            report::write(&report, &device, &out, folder.replaces(), interrupt)?;
            global.say(format!("Report: {}", out.join("report.html").shown()));
            Ok(())
        });
    }
    keeper.conclude()?;
    Ok(if summary.status == "interrupted" { signals::exit_code() } else { ExitCode::SUCCESS })
}

fn summarise(config: &RunConfig, trained: &Trained, weights: &[Vec<f32>], test: Option<&Totals>) -> Summary {
    let status = match trained.outcome {
        Outcome::NonFinite { .. } => "non-finite loss",
        Outcome::Complete if test.is_some() => "complete",
        Outcome::Complete | Outcome::Interrupted => "interrupted",
    };
    let (seconds, images) = (trained.position.total_seconds(), trained.position.images(config.train_images));
    Summary {
        model: config.model.name.clone(),
        dataset: config.dataset,
        device: config.device.clone(),
        driver: config.driver.clone(),
        seed: config.seed,
        epochs: config.epochs,
        epochs_completed: trained.position.history.len() as u64,
        status: status.to_string(),
        batch_size: config.batch_size,
        parameters: weights.iter().map(Vec::len).sum(),
        test_loss: test.map(Totals::mean_loss),
        test_accuracy: test.map(Totals::accuracy),
        train_seconds: seconds,
        images_per_second: if seconds > 0.0 { images as f64 / seconds } else { 0.0 },
        version: config.version.clone(),
    }
}

/// The article's two images with their names, as PNG: 25 training images with their classes, 25 test images with predictions.
fn draw_pictures(dataset: &Dataset, engine: &mut dyn Engine) -> Result<[(&'static str, Vec<u8>); 2]> {
    let description = &dataset.description;
    let n_samples = dataset.train.len().min(25);
    let indices: Vec<usize> = (0..dataset.test.len().min(25)).collect();
    let images: Vec<u8> = indices.iter().flat_map(|&i| dataset.test.image(i)).copied().collect();
    let probabilities = engine.predict(&images, &mut |_| ControlFlow::Continue(()))?;
    Ok([
        ("samples.png", picture::samples_png(&dataset.train, n_samples, description)?),
        ("predictions.png", picture::predictions_png(&dataset.test, &indices, &probabilities, description)?),
    ])
}

/// Prints the result.
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
        terminal::print(&serde_json::to_string(summary)?);
    } else if let (Some(loss), Some(accuracy)) = (summary.test_loss, summary.test_accuracy) {
        let row = engine
            .predict(dataset.test.image(0), &mut |_| ControlFlow::Continue(()))
            .context("predicting the first test image")?;
        let (predicted, original) = (picture::argmax(&row), usize::from(dataset.test.labels[0]));
        let name = |class: usize| dataset.description.class_name(class);
        terminal::print(&format!(
            "Test loss {loss:.4}, test accuracy {accuracy:.4} (dataset: {})\n\
             First test image: original class {original} ({}), predicted class {predicted} ({})",
            summary.dataset,
            name(original),
            name(predicted)
        ));
    } else {
        terminal::print(&format!(
            "Interrupted after {} of {}; resume with: {}",
            summary.epochs_completed,
            counted(summary.epochs as usize, "epoch"),
            resume_command(folder)
        ));
    }
    for path in pictures {
        global.say(format!("Image: {}", path.shown()));
    }
    global.say(format!("Run: {}", folder.path().shown()));
    Ok(())
}
