//! The settings of a training: from the flags, or from the run that is resumed.

use super::{OptimizerName, TrainArgs};
use crate::cli::{Global, counted, number, shell_quoted, terminal};
use anyhow::{Result, bail};
use fmnist_gpu::engine::Optimizer;
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::model::Model;
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::run::checkpoint::{self, Checkpoint};
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::run::{CONFIG_FILE, Run, RunConfig};
use std::fmt::Display as Shown;
use std::time::Duration;

/// What is trained, and how: from the flags, or from a checkpoint.
pub(super) struct Settings {
    pub(super) model: Model,
    pub(super) epochs: u64,
    pub(super) batch_size: usize,
    pub(super) optimizer: Optimizer,
    pub(super) seed: u64,
    /// The number of training images, if not all.
    pub(super) limit: Option<usize>,
    held_out: HeldOut,
    /// The configuration of the run that is resumed.
    pub(super) begun: Option<RunConfig>,
    /// The checkpoint to resume from; a run that was stopped before the first one starts at step 0.
    pub(super) start: Option<Checkpoint>,
}

/// What is held out from training, for validation.
enum HeldOut {
    /// A share of the images.
    Share(f64),
    /// As many as when the run was started.
    Images(usize),
}

impl Settings {
    /// The settings of a new run.
    fn new(args: &TrainArgs) -> Result<Self> {
        let share = args.validation_split.unwrap_or(0.0);
        if !(0.0..1.0).contains(&share) {
            bail!("--validation-split is {}; it must be at least 0 and less than 1, for example 0.1", number(share));
        }
        Ok(Settings {
            optimizer: args.optimizer()?,
            model: Model::load(args.model.as_deref().unwrap_or("cnn"))?,
            epochs: args.epochs.unwrap_or(5),
            batch_size: args.batch_size.unwrap_or(32) as usize,
            seed: args.seed.unwrap_or(0),
            limit: args.train_limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            held_out: HeldOut::Share(share),
            begun: None,
            start: None,
        })
    }

    /// The settings of the run that is resumed. A flag that contradicts them is refused.
    fn resumed(args: &TrainArgs, config: RunConfig, start: Option<Checkpoint>) -> Result<Self> {
        let all = config.train_images + config.validation_images;
        let refuse = |flag: &str, given: &dyn Shown, was: &dyn Shown| -> Result<()> {
            bail!(
                "{flag} is {given}, but the run was started with {was}; omit the flag to resume, or start over with --out"
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
            refuse("--learning-rate", &number(given), &number(rate))?;
        }
        if let Some(given) = args.momentum.filter(|&given| given != momentum) {
            refuse("--momentum", &number(given), &number(momentum))?;
        }
        let done = start.as_ref().map_or(0, |start| start.position.history.len());
        let epochs = args.epochs.unwrap_or(config.epochs);
        if epochs < done as u64 {
            let are_done = if done == 1 { "epoch is done" } else { "epochs are done" };
            bail!("--epochs is {epochs}, but {done} {are_done} already; ask for at least as many");
        }
        Ok(Settings {
            model: config.model.clone(),
            epochs,
            batch_size: config.batch_size,
            optimizer: config.optimizer,
            seed: config.seed,
            limit: Some(all),
            held_out: HeldOut::Images(config.validation_images),
            begun: Some(config),
            start,
        })
    }

    /// How many of `available` training images are held out.
    pub(super) fn validation_images(&self, available: usize) -> Result<usize> {
        match self.held_out {
            HeldOut::Share(share) => held_out(share, available),
            HeldOut::Images(images) => Ok(images),
        }
    }
}

/// How many of `available` training images a share is, rounded as Keras's `validation_split` rounds.
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
            bail!("--learning-rate is {}; it must be a number above 0, for example 0.001", number(learning_rate));
        }
        if learning_rate < f64::from(f32::MIN_POSITIVE) {
            bail!(
                "--learning-rate {learning_rate:e} is 0 in single precision, so nothing would be trained; a usual value is 0.001"
            );
        }
        if learning_rate < 1e-9 {
            terminal::complain(format_args!(
                "warning: --learning-rate {learning_rate:e} is so small that most weights will not change in single precision"
            ));
        }
        let momentum = self.momentum.unwrap_or(0.0);
        if !(0.0..1.0).contains(&momentum) {
            bail!("--momentum is {}; it must be at least 0 and less than 1, for example 0.9", number(momentum));
        }
        Ok(match self.optimizer.unwrap_or(OptimizerName::Adam) {
            OptimizerName::Adam if self.momentum.is_some() => bail!("--momentum requires --optimizer sgd"),
            OptimizerName::Adam => Optimizer::Adam(AdamConfig { learning_rate, ..AdamConfig::default() }),
            OptimizerName::Sgd => Optimizer::Sgd(SgdConfig { learning_rate, momentum }),
        })
    }

    /// How long training may run without a checkpoint.
    pub(super) fn pause_after(&self) -> Result<Option<Duration>> {
        let Some(minutes) = self.checkpoint_minutes else { return Ok(None) };
        match Duration::try_from_secs_f64(60.0 * minutes) {
            Ok(pause) if minutes > 0.0 => Ok(Some(pause)),
            _ => bail!("--checkpoint-minutes is {}; it must be a number above 0, for example 10", number(minutes)),
        }
    }
}

/// The folder of the run and its settings: a new run, or one that is resumed.
pub(super) fn prepare(args: &TrainArgs, global: &Global) -> Result<(RunFolder, Settings)> {
    let Some(path) = &args.resume else {
        let settings = Settings::new(args)?;
        // The folder is created before the work, so that a bad --out costs no training.
        let folder = match &args.out {
            Some(out) => RunFolder::create(out, args.force)?,
            None => RunFolder::create_next(&settings.model.name)?,
        };
        return Ok((folder, settings));
    };
    let folder = RunFolder::reopen(path)?;
    let mut damaged = 0;
    let found = folder.checkpoints(args.keep as usize).newest(&mut |path, error| {
        terminal::complain(format_args!("{} is not used: {error}", path.shown()));
        damaged += 1;
    })?;
    let settings = match found {
        Some((file, checkpoint)) => {
            check_config_file(&folder, &checkpoint.config)?;
            let position = &checkpoint.position;
            let steps = match position.done.batches {
                0 => String::new(),
                steps => format!(", and {} of the next", counted(steps, "step")),
            };
            let done = counted(position.history.len(), "epoch");
            global.say(format_args!("Resuming from {}: {done} done{steps}", file.shown()));
            Settings::resumed(args, checkpoint.config.clone(), Some(checkpoint))?
        }
        None if damaged > 0 => bail!(
            "{} has no checkpoint that can be used (they are in {}); start over with --out",
            path.shown(),
            path.join(checkpoint::FOLDER).shown()
        ),
        None => {
            let config = stopped_early(&folder, args)?;
            global.say(format_args!("{} has no checkpoint yet: starting at step 0", path.shown()));
            Settings::resumed(args, config, None)?
        }
    };
    Ok((folder, settings))
}

/// The configuration of a run without checkpoints, from which it starts once more.
fn stopped_early(folder: &RunFolder, args: &TrainArgs) -> Result<RunConfig> {
    let path = folder.path();
    let Some(config) = RunConfig::read(path)? else {
        bail!(
            "{} has neither a checkpoint nor a {CONFIG_FILE}, so there is nothing to resume; start over with --out",
            path.shown()
        );
    };
    // A run that was trained without checkpoints would be trained a second time to end as it is.
    let done = Run::open(path).and_then(|run| run.history()).map_or(0, |history| history.len() as u64);
    if done > 0 && done >= args.epochs.unwrap_or(config.epochs) {
        bail!(
            "{0} is complete and kept no checkpoint, so there is nothing to resume; evaluate it with: fmnist-gpu evaluate {1}",
            path.shown(),
            shell_quoted(path)
        );
    }
    Ok(config)
}

/// Refuses a run folder whose `config.json` differs from its checkpoint: nobody knows which of the two is meant.
fn check_config_file(folder: &RunFolder, begun: &RunConfig) -> Result<()> {
    let Some(file) = RunConfig::read(folder.path())? else { return Ok(()) };
    // The number of epochs and the device may differ: a run may be resumed for longer, or elsewhere.
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
                "`{name}` is {found} in {}, but {was} in the checkpoint: it was changed since. Restore it, or start over with --out",
                folder.path().join(CONFIG_FILE).shown()
            );
        }
    }
    Ok(())
}

/// Refuses data other than those that the run was started with; prints a note if the device is another one.
pub(super) fn check_resumed(begun: &RunConfig, now: &RunConfig, global: &Global) -> Result<()> {
    if begun.dataset != now.dataset {
        bail!(
            "the data set is {}, but the run was started with {}; name that one with --dataset or --data-dir",
            now.dataset,
            begun.dataset
        );
    }
    if begun.train_images != now.train_images {
        bail!("there are {} training images, but the run was started with {}", now.train_images, begun.train_images);
    }
    let same = (&begun.device, &begun.driver, &begun.version) == (&now.device, &now.driver, &now.version);
    if !same || begun.tiles != now.tiles {
        global.say(format!(
            "Note: the run was started on {} ({}, fmnist-gpu {}); here the last bits may come out differently.",
            begun.device, begun.driver, begun.version
        ));
    }
    Ok(())
}
