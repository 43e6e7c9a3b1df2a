//! One training, from the flags to the run folder.

use super::TrainArgs;
use super::faults::{explained, non_finite, resume_command};
use super::flags;
use super::keeper::Keeper;
use super::prepare::prepare;
use crate::cli::progress::Display;
use crate::cli::{Global, counted, picture, report, shell_quoted, signals, terminal};
use anyhow::{Context, Result};
use fmnist_gpu::data::{Dataset, Split};
use fmnist_gpu::engine::{EngineError, GpuEngine, Inference};
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::model::{summary, weights};
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::report::metrics::argmax;
use fmnist_gpu::report::run_page::Report;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::run::{RunConfig, Summary};
use fmnist_gpu::session::{Device, Plan, Training};
use fmnist_gpu::train::{Event, Outcome, Trained};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// One attempt to train.
pub(super) struct Attempt<'a> {
    args: &'a TrainArgs,
    global: &'a Global,
    interrupt: &'a Arc<AtomicBool>,
    begin: Instant,
    /// The run, once there is something in its folder.
    pub(super) started: Option<Started>,
}

/// A run that has been started.
pub(super) struct Started {
    pub(super) folder: PathBuf,
    pub(super) has_checkpoint: bool,
}

/// What a training works with.
struct Opened {
    device: Device,
    tiles: SharedTiles,
    dataset: Dataset,
    validation: Split,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(args: &'a TrainArgs, global: &'a Global, interrupt: &'a Arc<AtomicBool>) -> Self {
        Attempt { args, global, interrupt, begin: Instant::now(), started: None }
    }

    fn log_time(&self, what: &str) {
        log::debug!("{what} {:.0} ms after the start", 1e3 * self.begin.elapsed().as_secs_f64());
    }

    /// Trains, evaluates, and writes the run folder.
    pub(super) fn run(&mut self) -> Result<ExitCode> {
        let (args, global) = (self.args, self.global);
        let pause_after = args.pause_after()?;
        let (folder, plan) = prepare(args, global)?;
        let Opened { device, tiles, dataset, validation } = self.open(&folder, &plan)?;
        let config = plan.config(&device, &dataset, &validation, tiles);
        self.check_resumed(&plan, &config)?;
        global.say(format!("\n{}", summary(&plan.model)?));
        let mut training = Training::new(&plan, &device, tiles, &dataset.train, &validation, self.interrupt)?;
        self.log_time("engine ready");
        folder.write_config(&config)?;
        let names = plan.model.parameters()?.into_iter().map(|parameter| parameter.name).collect();
        let mut keeper = Keeper::new(args, &folder, &config, names, training.start(), plan.start.is_some());

        let mut display = Display::new(global.quiet, config.epochs);
        let mut at = (training.start().epoch(), 0);
        let mut stepped = false;
        let trained = training.run(pause_after, &mut |event, trainer| {
            display.show(event);
            match event {
                Event::EpochStarted { epoch, .. } => at = (*epoch, 0),
                Event::Progress { epoch, totals, .. } => {
                    at = (*epoch, totals.batches);
                    if !std::mem::replace(&mut stepped, true) {
                        self.log_time("first training step done");
                    }
                    if let (Some(steps), Some(gpu)) = (args.lose_device_after, device.gpu())
                        && totals.batches >= steps
                    {
                        gpu.destroy();
                    }
                }
                _ => keeper.event(event, trainer),
            }
        });
        display.clear();
        self.started = Some(Started { folder: folder.path().to_path_buf(), has_checkpoint: keeper.has_checkpoint() });
        let trained = trained.map_err(|error| explained(error, at, &folder, keeper.has_checkpoint()))?;
        if let Outcome::NonFinite { epoch, step, cause } = &trained.outcome {
            let summary = Summary::new(&config, &trained, None);
            // A run that did not complete an epoch does not replace another one.
            if folder.is_committed() {
                keeper.finish(&trained);
                keeper.attempt("summary", |_| Ok(folder.write_summary(&summary)?));
            }
            if args.json {
                terminal::print(&serde_json::to_string(&summary)?);
            }
            terminal::complain(non_finite(*epoch, *step, cause.as_ref(), &config.optimizer, &folder));
            return Ok(ExitCode::from(1));
        }
        keeper.finish(&trained);
        let test = self.evaluate(&mut training, &trained, &dataset, &folder)?;
        let summary = Summary::new(&config, &trained, test.as_ref().map(|test| &test.totals));
        let finished = Finished {
            folder: &folder,
            config: &config,
            trained: &trained,
            summary: &summary,
            dataset: &dataset,
            test: test.as_ref(),
        };
        self.write_results(&mut keeper, &finished, &device)?;
        keeper.conclude()?;
        Ok(if summary.status == "interrupted" { signals::exit_code() } else { ExitCode::SUCCESS })
    }

    /// Opens the device while the data are read and unpacked: each takes about as long as the other.
    fn open(&self, folder: &RunFolder, plan: &Plan) -> Result<Opened> {
        let Plan { model, recipe, optimizer, begun, .. } = plan;
        let (mut source, mut device) = (self.args.source.clone(), self.args.device.clone());
        if let Some(config) = begun {
            source.prefer_data_of(folder.path(), config);
            device.resume_on(config);
        }
        let limit = recipe.train_limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let loading = source.start(self.global, self.interrupt.clone(), limit);
        let device = device.open(self.global)?;
        self.log_time("device opened");
        let trained_on = device.gpu().filter(|_| recipe.epochs > 0);
        if let Some(gpu) = trained_on {
            // Before anything of that size runs. Other errors are reported, better explained, when the engine is created.
            match GpuEngine::check_time(gpu, model, recipe.batch_size, optimizer) {
                Err(error @ EngineError::Slow { .. }) => return Err(error.into()),
                Err(error) => log::debug!("no step could be timed: {error}"),
                Ok(()) => {}
            }
        }
        loading.allow();
        // Other tiles than those of a run that is resumed would sum in another order.
        let tiles = begun
            .as_ref()
            .and_then(|config| config.tiles)
            .or_else(|| trained_on.map(|gpu| self.args.tune.tiles(gpu, model, recipe.batch_size, optimizer)));
        let tiles = tiles.unwrap_or_default();
        // Missing data are mostly known by now, and without data no pipelines are needed.
        if let Some(gpu) = trained_on.filter(|_| !loading.is_finished()) {
            let wanted = || !loading.is_finished() && !self.interrupt.load(Ordering::Relaxed);
            match GpuEngine::prepare_training(gpu, model, recipe.batch_size, optimizer, tiles, &wanted) {
                Ok(()) => self.log_time("kernels ready"),
                // The error is reported when the engine is created; errors of the data come first.
                Err(error) => log::debug!("the kernels could not be prepared: {error}"),
            }
        }
        let mut dataset = loading.finish(self.global)?;
        let validation = plan.hold_out(&mut dataset.train).map_err(flags::explained)?;
        if !validation.is_empty() {
            let (trained, held_out) = (counted(dataset.train.len(), "image"), validation.len());
            self.global.say(format!("Training on {trained}, validating on {held_out}"));
        }
        self.log_time("data loaded");
        Ok(Opened { device, tiles, dataset, validation })
    }

    /// Refuses data other than those that the run was started with; prints a note if the device is another one.
    fn check_resumed(&self, plan: &Plan, now: &RunConfig) -> Result<()> {
        plan.check_data(now).map_err(flags::explained)?;
        let Some(begun) = &plan.begun else { return Ok(()) };
        let same = (&begun.device, &begun.driver, &begun.version) == (&now.device, &now.driver, &now.version);
        if !same || begun.tiles != now.tiles {
            self.global.say(format!(
                "Note: the run was started on {} ({}, fmnist-gpu {}); here the last bits may come out differently.",
                begun.device, begun.driver, begun.version
            ));
        }
        Ok(())
    }

    /// Evaluates on the test set; `None` if the user interrupted, now or before.
    fn evaluate(
        &self,
        training: &mut Training<'_>,
        trained: &Trained,
        dataset: &Dataset,
        folder: &RunFolder,
    ) -> Result<Option<Inference>> {
        if trained.outcome == Outcome::Interrupted {
            return Ok(None);
        }
        self.global.say("Evaluating on the test set");
        training.evaluate(&dataset.test).with_context(|| {
            let run = shell_quoted(folder.path());
            format!("training is done and its weights are saved; evaluate them with: fmnist-gpu evaluate {run}")
        })
    }

    /// Writes and prints what came out.
    fn write_results(&self, keeper: &mut Keeper<'_>, run: &Finished<'_>, device: &Device) -> Result<()> {
        let Finished { folder, config, trained, summary, dataset, test } = run;
        keeper.attempt("summary", |_| Ok(folder.write_summary(summary)?));
        let mut pictures = Vec::new();
        if let Some(test) = test {
            for (name, png) in draw_pictures(dataset, &test.probabilities)? {
                keeper.attempt(name, |_| {
                    pictures.push(folder.write_picture(name, &png)?);
                    Ok(())
                });
                if name == "predictions.png" {
                    keeper.event_image("predictions", summary.epochs_completed, &png);
                }
            }
        }
        self.print(run)?;
        for path in pictures {
            self.global.say(format!("Image: {}", path.shown()));
        }
        self.global.say(format!("Run: {}", folder.path().shown()));
        if let Some(test) = test.filter(|_| !self.args.no_report) {
            let report = Report {
                name: report::run_name(folder.path()),
                model: &config.model,
                parameters: &trained.state.parameters,
                config: Some(config),
                repeat: Some(flags::repeat_command(config)),
                summary: Some(summary),
                history: &trained.position.history,
                dataset: dataset.kind,
                description: &dataset.description,
                test: &dataset.test,
                probabilities: &test.probabilities,
                image: 0,
                model_file: &weights::to_bytes(&config.model, &trained.state.parameters)?,
            };
            keeper.attempt("report", |_| {
                report::write(&report, device, folder.path(), folder.replaces(), self.interrupt)?;
                self.global.say(format!("Report: {}", folder.path().join("report.html").shown()));
                Ok(())
            });
        }
        Ok(())
    }

    /// Prints the result.
    fn print(&self, run: &Finished<'_>) -> Result<()> {
        let Finished { folder, summary, dataset, test, .. } = run;
        if self.args.json {
            terminal::print(&serde_json::to_string(summary)?);
        } else if let Some(test) = test {
            let row = &test.probabilities[..dataset.description.classes()];
            let (predicted, original) = (argmax(row), usize::from(dataset.test.labels[0]));
            let name = |class: usize| dataset.description.class_name(class);
            terminal::print(&format!(
                "Test loss {:.4}, test accuracy {:.4} (dataset: {})\n\
                 First test image: original class {original} ({}), predicted class {predicted} ({})",
                test.totals.mean_loss(),
                test.totals.accuracy(),
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
        Ok(())
    }
}

/// A training that is over, complete or interrupted.
struct Finished<'a> {
    folder: &'a RunFolder,
    config: &'a RunConfig,
    trained: &'a Trained,
    summary: &'a Summary,
    dataset: &'a Dataset,
    test: Option<&'a Inference>,
}

/// The article's two images with their names, as PNG: 25 training images with their classes, 25 test images with predictions.
fn draw_pictures(dataset: &Dataset, probabilities: &[f32]) -> Result<[(&'static str, Vec<u8>); 2]> {
    let description = &dataset.description;
    let n_samples = dataset.train.len().min(25);
    let indices: Vec<usize> = (0..dataset.test.len().min(25)).collect();
    Ok([
        ("samples.png", picture::samples_png(&dataset.train, n_samples, description)?),
        ("predictions.png", picture::predictions_png(&dataset.test, &indices, probabilities, description)?),
    ])
}
