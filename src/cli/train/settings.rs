//! What `train` is to do: from its flags, or from the checkpoint that it goes on from.

use super::{OptimizerName, TrainArgs};
use crate::cli::Global;
use anyhow::{Result, bail};
use fmnist_gpu::model::Model;
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::train::Optimizer;
use fmnist_gpu::train::checkpoint::{self, Checkpoint, Checkpoints};
use fmnist_gpu::train::run::{CONFIG_FILE, RunConfig, RunFolder};
use std::fmt::Display as Shown;
use std::time::Duration;

/// What is trained, and how: from the flags, or from a checkpoint.
pub(super) struct Settings {
    pub(super) model: Model,
    pub(super) epochs: u64,
    pub(super) batch_size: usize,
    pub(super) optimizer: Optimizer,
    pub(super) seed: u64,
    /// Only so many training images.
    pub(super) limit: Option<usize>,
    held_out: HeldOut,
    /// The checkpoint to go on from.
    pub(super) start: Option<Checkpoint>,
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
    pub(super) fn validation_images(&self, available: usize) -> Result<usize> {
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
    pub(super) fn pause_after(&self) -> Result<Option<Duration>> {
        let Some(minutes) = self.checkpoint_minutes else { return Ok(None) };
        match Duration::try_from_secs_f64(60.0 * minutes) {
            Ok(pause) if minutes > 0.0 => Ok(Some(pause)),
            _ => bail!("--checkpoint-minutes is {minutes}; it must be a number above 0, such as 10"),
        }
    }
}

/// The folder of the run, and what is trained: a new run, or one that is resumed.
pub(super) fn prepare(args: &TrainArgs, global: &Global) -> Result<(RunFolder, Checkpoints, Settings)> {
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
pub(super) fn check_resumed(begun: &RunConfig, now: &RunConfig, global: &Global) -> Result<()> {
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
