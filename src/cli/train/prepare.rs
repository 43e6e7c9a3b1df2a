//! The folder of a run and the plan of its training: from the flags, or from the run that is resumed.

use super::{TrainArgs, flags};
use crate::cli::{Global, counted, shell_quoted, terminal};
use anyhow::{Result, bail};
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::run::checkpoint;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::run::{CONFIG_FILE, Run, RunConfig};
use fmnist_gpu::session::Plan;

/// The folder of the run and the plan: a new run, or one that is resumed.
pub(super) fn prepare(args: &TrainArgs, global: &Global) -> Result<(RunFolder, Plan)> {
    let given = args.settings.given();
    let Some(path) = &args.resume else {
        let file = ModelFile::load(args.model.as_deref().unwrap_or("cnn"))?;
        let plan = Plan::new(file, given).map_err(flags::explained)?;
        let rate = plan.recipe.learning_rate;
        if rate < 1e-9 {
            terminal::complain(format_args!(
                "warning: --learning-rate {rate:e} is so small that most weights will not change in single precision"
            ));
        }
        // The folder is created before the work, so that a bad --out costs no training.
        let folder = match &args.out {
            Some(out) => RunFolder::create(out, args.force)?,
            None => RunFolder::create_next(&plan.model.name)?,
        };
        return Ok((folder, plan));
    };
    let folder = RunFolder::reopen(path)?;
    let mut damaged = 0;
    let found = folder.checkpoints(args.keep as usize).newest(&mut |path, error| {
        terminal::complain(format_args!("{} is not used: {error}", path.shown()));
        damaged += 1;
    })?;
    let resume = |config, start| Plan::resume(config, start, args.model.as_deref(), given).map_err(flags::explained);
    let plan = match found {
        Some((file, checkpoint)) => {
            check_config_file(&folder, &checkpoint.config)?;
            let position = &checkpoint.position;
            let steps = match position.done.batches {
                0 => String::new(),
                steps => format!(", and {} of the next", counted(steps, "step")),
            };
            let done = counted(position.history.len(), "epoch");
            global.say(format_args!("Resuming from {}: {done} done{steps}", file.shown()));
            resume(checkpoint.config.clone(), Some(checkpoint))?
        }
        None if damaged > 0 => bail!(
            "{} has no checkpoint that can be used (they are in {}); start over with --out",
            path.shown(),
            path.join(checkpoint::FOLDER).shown()
        ),
        None => {
            let config = stopped_early(&folder, args)?;
            global.say(format_args!("{} has no checkpoint yet: starting at step 0", path.shown()));
            resume(config, None)?
        }
    };
    Ok((folder, plan))
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
    if done > 0 && done >= args.settings.epochs().unwrap_or(config.epochs) {
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
    let fields = |config: &RunConfig| -> Result<[(&str, String); 8]> {
        Ok([
            ("model", serde_json::to_string(&config.model)?),
            ("dataset", config.dataset.to_string()),
            ("train_images", config.train_images.to_string()),
            ("validation_images", config.validation_images.to_string()),
            ("validation_split", serde_json::to_string(&config.validation_split)?),
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
