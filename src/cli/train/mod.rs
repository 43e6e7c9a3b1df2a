//! `fmnist-gpu train`

mod faults;
mod keeper;
mod settings;

use self::faults::{explained, gpu_error, non_finite, too_large};
use self::keeper::Keeper;
use self::settings::{Settings, check_resumed, prepare};
use super::device::{Device, DeviceArgs, TuneArgs};
use super::progress::Display;
use super::report::{self, Material};
use super::source::SourceArgs;
use super::{Global, INTERRUPTED, interrupt_flag, picture, print, with_causes};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::{CLASS_NAMES, Dataset, DatasetKind, N_CLASSES};
use fmnist_gpu::gpu::{GpuError, Tiling};
use fmnist_gpu::model::{initial_parameters, summary};
use fmnist_gpu::tensorboard::TrainingEvents;
use fmnist_gpu::train::checkpoint::Checkpoints;
use fmnist_gpu::train::run::{MAX_BATCH_SIZE, RunConfig, RunFolder, Summary};
use fmnist_gpu::train::{
    Engine, EngineError, Event, GpuEngine, NativeEngine, Outcome, Position, ReferenceEngine, Totals, TrainOptions,
    Trained, train,
};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Flags of `train`.
#[derive(Clone, Debug, Args)]
pub struct TrainArgs {
    /// mlp (the article's "without CNN"), cnn ("with CNN"), or a .toml file that lists layers [default: cnn]
    #[arg(long, value_name = "mlp|cnn|FILE.toml")]
    model: Option<String>,
    /// Passes over the training set; 0 writes the initial weights [default: 5]
    #[arg(long)]
    epochs: Option<u64>,
    /// Images a step [default: 32]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE as i64))]
    batch_size: Option<u32>,
    /// How weights follow their gradients [default: adam]
    #[arg(long, value_enum)]
    optimizer: Option<OptimizerName>,
    /// Step size of the optimizer [default: 0.001]
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Share of the last change that sgd keeps [default: 0]
    #[arg(long)]
    momentum: Option<f64>,
    /// Seed of the initial weights and of every epoch's order; the same seed on the same device gives the same bits [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Use only the first N training images
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    train_limit: Option<u64>,
    /// Hold out this share of the training images, the last ones, and evaluate on them after each epoch, such as 0.1 [default: 0]
    #[arg(long, value_name = "SHARE")]
    validation_split: Option<f64>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
    /// Run folder to write [default: the first free runs/MODEL-NUMBER]
    #[arg(long, value_name = "RUN", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Go on with a run from its newest checkpoint, with the settings that it was begun with; more --epochs may be asked for
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Write a checkpoint after every N epochs; 0 writes none
    #[arg(long, value_name = "N", default_value_t = 1)]
    checkpoint_every: u64,
    /// Write a checkpoint after so many minutes too, in the middle of an epoch
    #[arg(long, value_name = "MINUTES")]
    checkpoint_minutes: Option<f64>,
    /// Keep the newest N checkpoints
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// Replace files of the same name in an existing run folder
    #[arg(long)]
    force: bool,
    /// Where the device is lost, open it again and go on from the newest checkpoint, up to three times
    #[arg(long)]
    retry_device: bool,
    /// For tests: lose the device after so many steps of an epoch
    #[arg(long, hide = true)]
    lose_device_after: Option<usize>,
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

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum OptimizerName {
    /// Adam in Keras's form
    Adam,
    /// Gradient descent with momentum
    Sgd,
}

/// Trains, evaluates, and writes the run folder; again where the device was lost and `--retry-device` was given.
pub fn run(args: TrainArgs, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag()?;
    let mut args = args;
    let allowed = if args.retry_device { 3 } else { 0 };
    let mut retries = 0;
    let mut begun: Option<PathBuf> = None;
    loop {
        let mut written = None;
        let error = match run_once(&args, global, &interrupt, &mut written) {
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
        let known = written.or(begun);
        let Some(folder) = known.filter(|_| (is_lost || is_away) && retries < allowed) else { return Err(error) };
        retries += 1;
        // The same adapter, for the same bits: not another one, nor the processor, that is there while a reset driver is not.
        if let Some(GpuError::DeviceLost { adapter, .. }) = of_gpu {
            args.device.insist_on(adapter);
        }
        eprintln!(
            "fmnist-gpu: {}\nfmnist-gpu: opening the device again, attempt {retries} of {allowed}",
            with_causes(&error)
        );
        if is_away {
            std::thread::sleep(Duration::from_secs(5));
        }
        // Before the first checkpoint there is nothing to go on from: the same is begun anew, in the same folder.
        let has_checkpoint = Checkpoints::new(&folder, 1).newest(&mut |_, _| ())?.is_some();
        args.lose_device_after = None;
        (args.resume, args.out) =
            if has_checkpoint { (Some(folder.clone()), None) } else { (None, Some(folder.clone())) };
        args.force |= !has_checkpoint;
        begun = Some(folder);
    }
}

/// One attempt. `written` is the run folder, once there is something in it.
fn run_once(
    args: &TrainArgs,
    global: &Global,
    interrupt: &Arc<AtomicBool>,
    written: &mut Option<PathBuf>,
) -> Result<ExitCode> {
    let begin = Instant::now();
    let log_time = |what: &str| log::debug!("{what} {:.0} ms after the start", 1e3 * begin.elapsed().as_secs_f64());
    let pause_after = args.pause_after()?;
    let (folder, checkpoints, settings) = prepare(args, global)?;
    let Settings { model, epochs, batch_size, optimizer, seed, limit, .. } = &settings;
    let (epochs, batch_size, seed) = (*epochs, *batch_size, *seed);
    let parameters = model.parameters()?;
    let out = folder.path().to_path_buf();
    let begun = settings.start.as_ref().map(|start| &start.config);
    // The data is read and unpacked while the device opens and its pipelines compile: each takes about as long as the other.
    let trained_on = begun.map(|config| config.dataset);
    let mut source = args.source.clone();
    if let Some(config) = begun.filter(|config| config.dataset == DatasetKind::FashionMnist) {
        source.also_search(PathBuf::from(&config.data_source));
    }
    let loading = source.start(global, interrupt.clone(), *limit, trained_on)?;
    let device = args.device.open(global)?;
    log_time("device opened");
    if let Device::Gpu(gpu) = &device
        && epochs > 0
    {
        // Before anything of that size runs. What else is wrong comes back, better explained, when the engine is made.
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
    // Data that cannot be had is mostly known by now, and no data needs no pipelines.
    if let Device::Gpu(gpu) = &device
        && epochs > 0
        && !loading.is_finished()
    {
        // With the data there, or known to be missing, the time for it is over.
        let wanted = || !loading.is_finished() && !interrupt.load(Ordering::Relaxed);
        match GpuEngine::prepare_training(gpu, model, batch_size, optimizer, tiles, &wanted) {
            Ok(()) => log_time("kernels ready"),
            // What is wrong comes back when the engine is made; what is wrong with the data comes first.
            Err(error) => log::debug!("the kernels could not be made ready: {error}"),
        }
    }
    let mut dataset = loading.finish(global)?;
    let held_out = settings.validation_images(dataset.train.len())?;
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
        seed,
        epochs,
        batch_size,
        optimizer: *optimizer,
        device: device_name,
        driver,
        backend,
        safe: args.device.safe(),
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
            let engine = GpuEngine::with_tiles(gpu, model, &initial, &dataset.train, batch_size, optimizer, tiles);
            Box::new(engine.map_err(|error| too_large(error, gpu, model, batch_size))?)
        }
        Device::Native(threads) => {
            Box::new(NativeEngine::with_training(model, &initial, &dataset.train, batch_size, optimizer, *threads)?)
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
    *written = Some(out.clone());

    let options =
        TrainOptions { epochs, samples: dataset.train.len(), batch_size, seed, optimizer: *optimizer, pause_after };
    let mut display = Display::new(global.quiet, epochs);
    let names: Vec<String> = parameters.iter().map(|parameter| parameter.name.clone()).collect();
    let mut events = args.tensorboard.then(|| TrainingEvents::create(&out.join("tensorboard"))).transpose()?;
    let mut keeper = Keeper { args, folder: &folder, checkpoints: &checkpoints, config: &config, error: None };
    let mut stepped = false;
    let mut at = (0, 0);
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
            Event::EpochFinished { record, position, engine } => {
                keeper.attempt(|keeper| keeper.epoch(record, position, engine));
                if let Some(events) = &mut events {
                    keeper.attempt(|_| {
                        Ok(events.epoch(record, &names, &engine.parameters()?, &engine.last_gradients()?)?)
                    });
                }
            }
            Event::Paused { position, engine } => keeper.attempt(|keeper| keeper.checkpoint(position, engine)),
            _ => {}
        }
    });
    display.clear();
    let trained = trained.map_err(|error| explained(error, at, &folder, &checkpoints))?;
    let weights = engine.parameters()?;
    keeper.model(&weights)?;
    if let Some(error) = keeper.error.take() {
        return Err(error.context("not everything of the training could be written; the weights reached are saved"));
    }
    let history = &trained.position.history;
    folder.write_history(history)?;

    if let Outcome::NonFinite { epoch, step, cause } = &trained.outcome {
        folder.write_summary(&summarise(&config, &trained, &weights, None))?;
        eprintln!("fmnist-gpu: {}", non_finite(*epoch, *step, cause.as_ref(), optimizer, &out));
        return Ok(ExitCode::from(1));
    }
    let test = if trained.outcome == Outcome::Interrupted {
        None
    } else {
        global.say("Evaluating on the test set");
        let totals = engine
            .evaluate(&dataset.test, &mut |_| {
                if interrupt.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .with_context(|| {
                format!("training is done and its weights are saved; go on with: fmnist-gpu evaluate {}", out.display())
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
    conclude(args, global, &dataset, &mut *engine, &summary, &pictures, &folder)?;
    if test.is_some() && !args.no_report {
        let material = Material {
            name: report::run_name(&out),
            model,
            parameters: &weights,
            config: Some(&config),
            summary: Some(&summary),
            history,
            dataset: dataset.kind,
            test: &dataset.test,
            probabilities: &engine.predict(&dataset.test.images, &mut |_| ControlFlow::Continue(()))?,
            image: 0,
            model_file: &fmnist_gpu::model::weights::to_bytes(model, &weights)?,
        };
        report::write(&material, &device, tiles, &out, folder.overwrites())?;
        global.say(format!("Report: {}", out.join("report.html").display()));
    }
    Ok(if summary.status == "interrupted" { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
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
        epochs_completed: trained.position.history.len() as u64,
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
    let probabilities = engine.predict(&images, &mut |_| ControlFlow::Continue(()))?;
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
        let row = engine
            .predict(dataset.test.image(0), &mut |_| ControlFlow::Continue(()))
            .context("predicting the first test image")?;
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
