//! `--dataset` and `--data-dir`: finding, downloading or generating the data, reporting each step.

use super::{Global, counted, terminal};
use anyhow::{Result, bail};
use clap::Args;
use fmnist_gpu::data::{self, DataEvent, Dataset, DatasetChoice, DatasetKind, LoadOptions};
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::run::RunConfig;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Flags of all commands that read the data.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// auto (Fashion-MNIST, or generated images if it can neither be found nor downloaded), fashion-mnist, or synthetic
    /// [default: auto; for a trained model, the data set it was trained on]
    #[arg(long, value_name = "auto|fashion-mnist|synthetic")]
    dataset: Option<DatasetChoice>,
    /// Folder with the four files of Fashion-MNIST, gzipped or plain
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the data of the run may be that is resumed or evaluated.
    #[arg(skip)]
    run_data: Vec<PathBuf>,
}

impl SourceArgs {
    /// Loads the data set that a run was trained on, unless the flags say otherwise, and also searches the folder that it was trained from,
    /// so that it need not be named again. If run and data were moved together, or the folder was recorded relative to the working folder
    /// (version 0.1), it is found beside the run.
    pub fn prefer_data_of(&mut self, run: &Path, config: &RunConfig) {
        // A named folder holds the genuine data set, whatever the model was trained on.
        if self.data_dir.is_none() {
            self.dataset.get_or_insert(match config.dataset {
                DatasetKind::FashionMnist => DatasetChoice::FashionMnist,
                DatasetKind::Synthetic => DatasetChoice::Synthetic,
            });
        }
        if config.dataset != DatasetKind::FashionMnist {
            return;
        }
        let recorded = Path::new(&config.data_source);
        let beside = if recorded.is_absolute() { recorded.file_name().map(Path::new) } else { Some(recorded) };
        let run = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
        let above = run.ancestors().skip(1).take(3);
        self.run_data = std::iter::once(recorded.to_path_buf())
            .chain(above.flat_map(|folder| beside.map(|name| folder.join(name))))
            .collect();
    }

    /// Loads the data, with at most `train_limit` training images.
    pub fn load(&self, global: &Global, interrupt: Arc<AtomicBool>, train_limit: usize) -> Result<Dataset> {
        let dataset = self.read(global, interrupt, Some(train_limit), &mut || ())?;
        announce(global, &dataset);
        Ok(dataset)
    }

    /// Loads the data, and calls `wait` before anything is said, downloaded or generated.
    pub fn read(
        &self,
        global: &Global,
        interrupt: Arc<AtomicBool>,
        train_limit: Option<usize>,
        wait: &mut dyn FnMut(),
    ) -> Result<Dataset> {
        let mut options = LoadOptions {
            choice: self.dataset.unwrap_or_default(),
            data_dir: self.data_dir.clone(),
            interrupt: Some(interrupt),
            ..LoadOptions::default()
        };
        options.places.others.splice(0..0, self.run_data.iter().cloned());
        let available = options.synthetic_n_train;
        if let Some(limit) = train_limit.filter(|&limit| limit > available) {
            bail!("--train-limit is {limit}, and the training set has {available} images");
        }
        // A generated image does not depend on their number, so only those that are used are generated.
        options.synthetic_n_train = train_limit.unwrap_or(available);
        let mut bar = None;
        let mut dataset = data::load(&options, &mut |event| {
            if !matches!(event, DataEvent::Searching(_) | DataEvent::Found(_)) {
                wait();
            }
            report(&event, global, &mut bar);
        })?;
        if let Some(limit) = train_limit {
            dataset.train.truncate(limit);
        }
        Ok(dataset)
    }
}

/// Says what was loaded.
pub fn announce(global: &Global, dataset: &Dataset) {
    // A command that does not train loads no training images.
    let parts = [(&dataset.train, "training image"), (&dataset.test, "test image")];
    let parts = parts.into_iter().filter(|(split, _)| !split.is_empty());
    let parts: Vec<String> = parts.map(|(split, noun)| counted(split.len(), noun)).collect();
    global.say(format!("Data: {}, {} ({})", dataset.kind, parts.join(" and "), Path::new(&dataset.source).shown()));
}

/// Says what happens, and draws a bar while a file is downloaded.
fn report(event: &DataEvent, global: &Global, bar: &mut Option<ProgressBar>) {
    if let DataEvent::Downloading { file, received, total } = event {
        if !global.quiet {
            bar.get_or_insert_with(|| download_bar(file, *total)).set_position(*received);
        }
        return;
    }
    if let Some(bar) = bar.take() {
        bar.finish_and_clear();
    }
    match event {
        DataEvent::Skipped { place, reason } => global.say(format!("Skipped {}: {reason}", place.shown())),
        DataEvent::Connecting { file, mirror } => global.say(format!("Downloading {file} from {mirror}")),
        DataEvent::MirrorFailed { file, mirror, reason } => {
            global.say(format!("{file} could not be downloaded from {mirror}: {reason}"));
        }
        // Even with --quiet: results on another data set must not pass for results on Fashion-MNIST.
        DataEvent::FallingBack(reason) => terminal::say(warning(reason)),
        DataEvent::Generating { n_train, n_test, .. } => {
            let both = format!("{n_train} training and {n_test} test images");
            global.say(format!("Generating {}", if *n_train == 0 { counted(*n_test, "test image") } else { both }));
        }
        _ => {}
    }
}

fn download_bar(file: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    ProgressBar::with_draw_target(Some(total), terminal::bars())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(file.to_string())
}

fn warning(reason: &str) -> String {
    let rule = "!".repeat(96);
    format!(
        "{rule}\n\
         WARNING: Fashion-MNIST could not be found or downloaded. Continuing with GENERATED images.\n\
         Accuracy on them says nothing about Fashion-MNIST; every result is marked `dataset: synthetic`.\n\
         For the genuine data set, put its four files into a folder and pass --data-dir DIR.\n\n{reason}\n{rule}"
    )
}
