//! `fmnist-gpu train`

use super::device::{Device, DeviceArgs, TuneArgs};
use super::progress::Display;
use super::report::{self, Material};
use super::source::SourceArgs;
use super::{Global, INTERRUPTED, interrupt_flag, picture, print, with_causes};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::{CLASS_NAMES, Dataset, DatasetKind, N_CLASSES};
use fmnist_gpu::gpu::{Gpu, GpuError, Tiling};
use fmnist_gpu::model::{Model, initial_parameters, summary};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::tensorboard::TrainingEvents;
use fmnist_gpu::train::checkpoint::{self, Checkpoint, Checkpoints};
use fmnist_gpu::train::run::{CONFIG_FILE, MAX_BATCH_SIZE, RunConfig, RunFolder, Summary};
use fmnist_gpu::train::{
    Engine, EngineError, EpochRecord, Event, GpuEngine, NativeEngine, NonFinite, Optimizer, Outcome, Position,
    ReferenceEngine, Totals, TrainOptions, Trained, train,
};
use std::fmt::Display as Shown;
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

/// What is trained, and how: from the flags, or from a checkpoint.
struct Settings {
    model: Model,
    epochs: u64,
    batch_size: usize,
    optimizer: Optimizer,
    seed: u64,
    /// Only so many training images.
    limit: Option<usize>,
    held_out: HeldOut,
    /// The checkpoint to go on from.
    start: Option<Checkpoint>,
}

/// What is kept from training, for validation.
enum HeldOut {
    /// A share of the images.
    Share(f64),
    /// As many as when the run was begun.
    Images(usize),
}

impl Settings {
    /// The settings of a new run.
    fn new(args: &TrainArgs) -> Result<Self> {
        let share = args.validation_split.unwrap_or(0.0);
        if !(0.0..1.0).contains(&share) {
            bail!("--validation-split is {share}; it must be at least 0 and below 1, such as 0.1");
        }
        Ok(Settings {
            optimizer: args.optimizer()?,
            model: Model::load(args.model.as_deref().unwrap_or("cnn"))?,
            epochs: args.epochs.unwrap_or(5),
            batch_size: args.batch_size.unwrap_or(32) as usize,
            seed: args.seed.unwrap_or(0),
            limit: args.train_limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            held_out: HeldOut::Share(share),
            start: None,
        })
    }

    /// The settings of the run that a checkpoint is of. A flag that says otherwise is refused.
    fn resumed(args: &TrainArgs, checkpoint: Checkpoint) -> Result<Self> {
        let config = &checkpoint.config;
        let all = config.train_images + config.validation_images;
        let refuse = |flag: &str, given: &dyn Shown, was: &dyn Shown| -> Result<()> {
            bail!(
                "{flag} is {given}, and the run was begun with {was}; leave the flag away to go on, or begin anew with --out"
            )
        };
        if let Some(name) = &args.model
            && Model::load(name)? != config.model
        {
            refuse("--model", name, &format!("another model, `{}`", config.model.name))?;
        }
        if let Some(size) = args.batch_size.filter(|&size| size as usize != config.batch_size) {
            refuse("--batch-size", &size, &config.batch_size)?;
        }
        if let Some(seed) = args.seed.filter(|&seed| seed != config.seed) {
            refuse("--seed", &seed, &config.seed)?;
        }
        if let Some(limit) = args.train_limit.filter(|&limit| limit != all as u64) {
            refuse("--train-limit", &limit, &all)?;
        }
        if let Some(share) = args.validation_split
            && held_out(share, all)? != config.validation_images
        {
            refuse("--validation-split", &share, &format!("{} of {all} images held out", config.validation_images))?;
        }
        let (name, rate, momentum) = match config.optimizer {
            Optimizer::Adam(adam) => (OptimizerName::Adam, adam.learning_rate, 0.0),
            Optimizer::Sgd(sgd) => (OptimizerName::Sgd, sgd.learning_rate, sgd.momentum),
        };
        if args.optimizer.is_some_and(|given| given != name) {
            refuse("--optimizer", &"another", &format!("{name:?}").to_lowercase())?;
        }
        if let Some(given) = args.learning_rate.filter(|&given| given != rate) {
            refuse("--learning-rate", &given, &rate)?;
        }
        if let Some(given) = args.momentum.filter(|&given| given != momentum) {
            refuse("--momentum", &given, &momentum)?;
        }
        let done = checkpoint.position.history.len() as u64;
        let epochs = args.epochs.unwrap_or(config.epochs);
        if epochs < done {
            bail!("--epochs is {epochs}, and {done} epochs are done already; ask for as many or more");
        }
        Ok(Settings {
            model: config.model.clone(),
            epochs,
            batch_size: config.batch_size,
            optimizer: config.optimizer,
            seed: config.seed,
            limit: Some(all),
            held_out: HeldOut::Images(config.validation_images),
            start: Some(checkpoint),
        })
    }

    /// How many of `available` training images are held out.
    fn validation_images(&self, available: usize) -> Result<usize> {
        match self.held_out {
            HeldOut::Share(share) => held_out(share, available),
            HeldOut::Images(images) => Ok(images),
        }
    }
}

/// How many of `available` training images a share is; the rounding is that of Keras's `validation_split`.
fn held_out(share: f64, available: usize) -> Result<usize> {
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

impl TrainArgs {
    fn optimizer(&self) -> Result<Optimizer> {
        let learning_rate = self.learning_rate.unwrap_or(0.001);
        if !(learning_rate.is_finite() && learning_rate > 0.0) {
            bail!("--learning-rate is {learning_rate}; it must be a number above 0, such as 0.001");
        }
        let momentum = self.momentum.unwrap_or(0.0);
        if !(0.0..1.0).contains(&momentum) {
            bail!("--momentum is {momentum}; it must be at least 0 and below 1, such as 0.9");
        }
        Ok(match self.optimizer.unwrap_or(OptimizerName::Adam) {
            OptimizerName::Adam if self.momentum.is_some() => bail!("--momentum belongs to --optimizer sgd"),
            OptimizerName::Adam => Optimizer::Adam(AdamConfig { learning_rate, ..AdamConfig::default() }),
            OptimizerName::Sgd => Optimizer::Sgd(SgdConfig { learning_rate, momentum }),
        })
    }

    /// How long an epoch may run before a checkpoint.
    fn pause_after(&self) -> Result<Option<Duration>> {
        let Some(minutes) = self.checkpoint_minutes else { return Ok(None) };
        match Duration::try_from_secs_f64(60.0 * minutes) {
            Ok(pause) if minutes > 0.0 => Ok(Some(pause)),
            _ => bail!("--checkpoint-minutes is {minutes}; it must be a number above 0, such as 10"),
        }
    }
}

/// The folder of the run, and what is trained: a new run, or one that is resumed.
fn prepare(args: &TrainArgs, global: &Global) -> Result<(RunFolder, Checkpoints, Settings)> {
    let keep = args.keep as usize;
    let Some(path) = &args.resume else {
        let settings = Settings::new(args)?;
        let out = args.out.clone().unwrap_or_else(|| RunFolder::next_free(&settings.model.name));
        // The folder is made before the work, so that a bad --out costs no training.
        let folder = RunFolder::create(&out, args.force)?;
        let checkpoints = Checkpoints::new(folder.path(), keep);
        // Those of the run that was here before would be taken for this one's.
        checkpoints.clear()?;
        return Ok((folder, checkpoints, settings));
    };
    let folder = RunFolder::reopen(path)?;
    let checkpoints = Checkpoints::new(folder.path(), keep);
    let found = checkpoints.newest(&mut |path, error| {
        eprintln!("fmnist-gpu: {} is not used: {error}", path.display());
    })?;
    let Some((file, checkpoint)) = found else {
        bail!(
            "{} has no checkpoint that could be used (they lie in {}); begin anew with --out",
            path.display(),
            path.join(checkpoint::FOLDER).display()
        );
    };
    check_config_file(&folder, &checkpoint.config)?;
    let position = &checkpoint.position;
    global.say(format!(
        "Going on from {}: {} epochs done{}",
        file.display(),
        position.history.len(),
        if position.done.batches > 0 {
            format!(", and {} steps of the next", position.done.batches)
        } else {
            String::new()
        }
    ));
    let settings = Settings::resumed(args, checkpoint)?;
    Ok((folder, checkpoints, settings))
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
        let is_lost = is_of_gpu(&error, |error| matches!(error, GpuError::DeviceLost { .. }));
        // A driver that is reset takes a while to come back.
        let is_away = begun.is_some()
            && is_of_gpu(&error, |error| {
                matches!(
                    error,
                    GpuError::NoAdapter { .. } | GpuError::NoSuchAdapter { .. } | GpuError::OpenDevice { .. }
                )
            });
        let known = written.or(begun);
        let Some(folder) = known.filter(|_| (is_lost || is_away) && retries < allowed) else { return Err(error) };
        retries += 1;
        // The same adapter, for the same bits: not another one, nor the processor, that is there while a reset driver is not.
        if let Some(name) = lost_adapter(&error) {
            args.device.insist_on(&name);
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

/// Whether an error, or what caused it, is one of the device of that kind.
fn is_of_gpu(error: &anyhow::Error, is_kind: impl Fn(&GpuError) -> bool) -> bool {
    error.chain().any(|cause| match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(error), _) | (_, Some(EngineError::Gpu(error))) => is_kind(error),
        _ => false,
    })
}

/// The adapter of a device that was lost.
fn lost_adapter(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| match (cause.downcast_ref(), cause.downcast_ref()) {
        (Some(GpuError::DeviceLost { adapter, .. }), _)
        | (_, Some(EngineError::Gpu(GpuError::DeviceLost { adapter, .. }))) => Some(adapter.clone()),
        _ => None,
    })
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
            probabilities: &engine.predict(&dataset.test.images)?,
            image: 0,
            model_file: &fmnist_gpu::model::weights::to_bytes(model, &weights)?,
        };
        report::write(&material, &device, tiles, &out, folder.overwrites())?;
        global.say(format!("Report: {}", out.join("report.html").display()));
    }
    Ok(if summary.status == "interrupted" { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Refuses a run folder whose `config.json` is of another training than its checkpoint: which of the two is meant, nobody knows.
fn check_config_file(folder: &RunFolder, begun: &RunConfig) -> Result<()> {
    let Some(file) = RunConfig::read(folder.path())? else { return Ok(()) };
    // What may differ: more epochs were asked for, or it went on elsewhere.
    let fields = |config: &RunConfig| -> Result<[(&str, String); 7]> {
        Ok([
            ("model", serde_json::to_string(&config.model)?),
            ("dataset", config.dataset.to_string()),
            ("train_images", config.train_images.to_string()),
            ("validation_images", config.validation_images.to_string()),
            ("seed", config.seed.to_string()),
            ("batch_size", config.batch_size.to_string()),
            ("optimizer", serde_json::to_string(&config.optimizer)?),
        ])
    };
    for ((name, found), (_, was)) in fields(&file)?.into_iter().zip(fields(begun)?) {
        if found != was {
            bail!(
                "`{name}` is {found} in {}, and {was} in the checkpoint: it was changed since. Put it back, or begin anew with --out",
                folder.path().join(CONFIG_FILE).display()
            );
        }
    }
    Ok(())
}

/// Refuses data that are not those that the run was begun with; says where the device is another.
fn check_resumed(begun: &RunConfig, now: &RunConfig, global: &Global) -> Result<()> {
    if begun.dataset != now.dataset {
        bail!(
            "the data set is {}, and the run was begun with {}; name that one with --dataset or --data-dir",
            now.dataset,
            begun.dataset
        );
    }
    if begun.train_images != now.train_images {
        bail!("there are {} training images, and the run was begun with {}", now.train_images, begun.train_images);
    }
    let same = (&begun.device, &begun.driver, &begun.version) == (&now.device, &now.driver, &now.version);
    if !same || begun.tiles != now.tiles {
        global.say(format!(
            "Note: the run was begun on {} ({}, fmnist-gpu {}); here the last bits may come out differently.",
            begun.device, begun.driver, begun.version
        ));
    }
    Ok(())
}

/// Writes what must not be lost while training runs. What cannot be written is said at once; training goes on, as the weights in
/// memory are worth more than the file, and the next attempt may succeed.
struct Keeper<'a> {
    args: &'a TrainArgs,
    folder: &'a RunFolder,
    checkpoints: &'a Checkpoints,
    config: &'a RunConfig,
    /// The first error.
    error: Option<anyhow::Error>,
}

impl Keeper<'_> {
    fn attempt(&mut self, write: impl FnOnce(&Self) -> Result<()>) {
        if let Err(error) = write(self) {
            eprintln!("fmnist-gpu: {}; training goes on", with_causes(&error));
            self.error.get_or_insert(error);
        }
    }

    fn epoch(&self, record: &EpochRecord, position: &Position, engine: &mut dyn Engine) -> Result<()> {
        self.folder.write_history(&position.history)?;
        if self.args.json {
            print(&serde_json::to_string(record)?)?;
        }
        let before = position.history.iter().rev().skip(1).filter_map(|earlier| earlier.val_loss);
        if record.val_loss.is_some_and(|loss| before.fold(f64::INFINITY, f64::min) > loss) {
            self.folder.write_best(&self.config.model, &engine.parameters()?)?;
        }
        self.folder.write_model(&self.config.model, &engine.parameters()?)?;
        let every = self.args.checkpoint_every;
        if every > 0 && (record.epoch.is_multiple_of(every) || record.epoch == self.config.epochs) {
            self.checkpoint(position, engine)?;
        }
        Ok(())
    }

    fn checkpoint(&self, position: &Position, engine: &mut dyn Engine) -> Result<()> {
        let checkpoint = Checkpoint { config: self.config.clone(), position: position.clone(), state: engine.state()? };
        let batches = self.config.train_images.div_ceil(self.config.batch_size);
        let path = self.checkpoints.write(&checkpoint, batches)?;
        log::debug!("checkpoint {}", path.display());
        Ok(())
    }

    /// The weights, in the run folder or, where that is gone, in another place.
    fn model(&self, weights: &[Vec<f32>]) -> Result<()> {
        let model = &self.config.model;
        let Err(error) = self.folder.write_model(model, weights) else { return Ok(()) };
        let elsewhere = std::env::temp_dir().join(format!("fmnist-gpu-{}-rescued.safetensors", std::process::id()));
        let bytes = fmnist_gpu::model::weights::to_bytes(model, weights)?;
        match fmnist_gpu::files::write_whole(&elsewhere, &bytes, true) {
            Ok(()) => bail!("{error}; the trained weights are in {}", elsewhere.display()),
            Err(_) => Err(error.into()),
        }
    }
}

/// A batch that does not fit the adapter, with the largest that does.
fn too_large(error: EngineError, gpu: &Gpu, model: &Model, batch_size: usize) -> anyhow::Error {
    let is_size = matches!(&error, EngineError::Gpu(GpuError::TensorTooLarge { .. } | GpuError::OutOfMemory { .. }));
    match GpuEngine::largest_batch(gpu, model) {
        Ok(largest) if is_size && largest < batch_size => anyhow::Error::from(error).context(format!(
            "--batch-size {batch_size} does not fit this adapter; the largest that does is {largest}"
        )),
        _ => error.into(),
    }
}

/// An error of the device, with what was running (an epoch and the steps done of it) and how to go on.
fn explained(
    error: EngineError,
    (epoch, steps): (u64, usize),
    folder: &RunFolder,
    checkpoints: &Checkpoints,
) -> anyhow::Error {
    let newest = checkpoints.newest(&mut |_, _| ()).ok().flatten();
    let stopped = format!("training stopped in epoch {epoch}, after {steps} steps of it");
    let advice = match newest {
        Some((path, _)) => format!(
            "{stopped}; the last checkpoint is {}; go on with: fmnist-gpu train --resume {}",
            path.display(),
            folder.path().display()
        ),
        None => format!("{stopped}, before the first checkpoint"),
    };
    anyhow::Error::from(error).context(advice)
}

/// What to say when a number was not finite any more.
fn non_finite(
    epoch: u64,
    step: usize,
    cause: Option<&NonFinite>,
    optimizer: &Optimizer,
    out: &std::path::Path,
) -> String {
    let rate = match optimizer {
        Optimizer::Adam(adam) => adam.learning_rate,
        Optimizer::Sgd(sgd) => sgd.learning_rate,
    };
    let first = match cause {
        Some(cause) => format!(
            "The first tensor that went bad is `{}`, written by `{}` in step {}: {} elements are infinite or no numbers, the first at \
             index {}.",
            cause.tensor, cause.operation, cause.step, cause.count, cause.index
        ),
        None => "Replaying the epoch gave finite numbers throughout, so the device does not compute the same twice."
            .to_string(),
    };
    format!(
        "training met a loss or a parameter that is not finite, in epoch {epoch}, step {step}. {first} A smaller --learning-rate usually \
         helps (it was {rate}). The weights from before are in {}",
        out.display()
    )
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
