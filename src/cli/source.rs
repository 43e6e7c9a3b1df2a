//! `--dataset` and `--data-dir`: finding, downloading or generating the data, with a word on each step.

use super::Global;
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::data::{self, DataEvent, Dataset, DatasetChoice, DatasetKind, LoadOptions, PIXELS};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

/// Flags of every command that reads the data.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// auto (Fashion-MNIST, or the generated set if it can neither be found nor downloaded), fashion-mnist, or synthetic
    /// [default: auto; for a trained model, what it was trained on]
    #[arg(long, value_name = "auto|fashion-mnist|synthetic")]
    dataset: Option<DatasetChoice>,
    /// Folder that holds the four files of Fashion-MNIST, gzipped or plain
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the data of a run that is resumed were found.
    #[arg(skip)]
    begun_with: Option<PathBuf>,
}

impl SourceArgs {
    /// Also looks into the folder that a run was begun with, so that it need not be named again.
    pub fn also_search(&mut self, folder: PathBuf) {
        self.begun_with = Some(folder);
    }

    /// Loads the data; `trained_on` is the data set of a run that is evaluated.
    pub fn load(
        &self,
        global: &Global,
        trained_on: Option<DatasetKind>,
        interrupt: Option<Arc<AtomicBool>>,
    ) -> Result<Dataset> {
        let dataset = self.read(global, trained_on, interrupt, None, &mut || ())?;
        announce(global, &dataset);
        Ok(dataset)
    }

    /// Begins to load the data, with no more than `train_limit` training images, in a thread of its own.
    ///
    /// The thread says nothing, downloads nothing and generates nothing before [`Loading::allow`].
    /// `trained_on` is the data set of a run that is resumed.
    pub fn start(
        &self,
        global: &Global,
        interrupt: Arc<AtomicBool>,
        train_limit: Option<usize>,
        trained_on: Option<DatasetKind>,
    ) -> Result<Loading> {
        let (source, global) = (self.clone(), global.clone());
        let (allowed, gate) = mpsc::channel();
        let mut gate = Some(gate);
        let mut wait = move || {
            if gate.take().is_some_and(|gate: Receiver<()>| gate.recv().is_err()) {
                // The command failed meanwhile, and the program is about to end: what this thread would do is in vain.
                loop {
                    thread::park();
                }
            }
        };
        let work = move || source.read(&global, trained_on, Some(interrupt), train_limit, &mut wait);
        let thread =
            thread::Builder::new().name("data".into()).spawn(work).context("starting the thread of the data")?;
        Ok(Loading { allowed, thread })
    }

    /// Loads the data, and calls `wait` before anything is said, downloaded or generated.
    fn read(
        &self,
        global: &Global,
        trained_on: Option<DatasetKind>,
        interrupt: Option<Arc<AtomicBool>>,
        train_limit: Option<usize>,
        wait: &mut dyn FnMut(),
    ) -> Result<Dataset> {
        let choice = self.dataset.unwrap_or(match trained_on {
            // A named folder holds the genuine set, whatever the model was trained on.
            _ if self.data_dir.is_some() => DatasetChoice::Auto,
            Some(DatasetKind::FashionMnist) => DatasetChoice::FashionMnist,
            Some(DatasetKind::Synthetic) => DatasetChoice::Synthetic,
            None => DatasetChoice::Auto,
        });
        let mut options = LoadOptions { choice, data_dir: self.data_dir.clone(), interrupt, ..LoadOptions::default() };
        options.places.others.splice(0..0, self.begun_with.clone());
        let available = options.synthetic_n_train;
        if let Some(limit) = train_limit.filter(|&limit| limit > available) {
            bail!("--train-limit is {limit}, and the training set has {available} images");
        }
        // A generated image does not depend on how many there are, so no more are made than are used.
        options.synthetic_n_train = train_limit.unwrap_or(available);
        let mut bar = DownloadBar { bar: None, quiet: global.quiet };
        let mut dataset = data::load(&options, &mut |event| {
            if !matches!(event, DataEvent::Searching { .. } | DataEvent::Found { .. }) {
                wait();
            }
            report(&event, global, &mut bar);
        })?;
        bar.finish();
        if let Some(limit) = train_limit {
            dataset.train.labels.truncate(limit);
            dataset.train.images.truncate(limit * PIXELS);
        }
        Ok(dataset)
    }
}

/// Data that a thread of its own loads, begun by [`SourceArgs::start`].
pub struct Loading {
    allowed: Sender<()>,
    thread: JoinHandle<Result<Dataset>>,
}

impl Loading {
    /// Lets the thread say what it does, download and generate.
    pub fn allow(&self) {
        // A thread that has ended already needs no leave.
        let _ = self.allowed.send(());
    }

    /// Whether the thread has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// The data, once they are there.
    pub fn finish(self, global: &Global) -> Result<Dataset> {
        self.allow();
        let dataset = self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        announce(global, &dataset);
        Ok(dataset)
    }
}

fn announce(global: &Global, dataset: &Dataset) {
    global.say(format!(
        "Data: {}, {} training and {} test images ({})",
        dataset.kind,
        dataset.train.len(),
        dataset.test.len(),
        dataset.source
    ));
}

fn report(event: &DataEvent, global: &Global, bar: &mut DownloadBar) {
    match event {
        DataEvent::Skipped { place, reason } => {
            global.say(format!("Skipped {}: {reason}", place.display()));
        }
        DataEvent::Connecting { file, mirror } => global.say(format!("Downloading {file} from {mirror}")),
        DataEvent::Downloading { file, received, total, .. } => bar.update(file, *received, *total),
        DataEvent::MirrorFailed { file, mirror, reason } => {
            bar.finish();
            global.say(format!("{mirror} did not give {file}: {reason}"));
        }
        DataEvent::Downloaded { .. } => bar.finish(),
        DataEvent::FallingBack { reason } => {
            bar.finish();
            // Not silenced by --quiet: results on another data set must not pass for results on Fashion-MNIST.
            eprintln!("{}", warning(&reason.to_string()));
        }
        DataEvent::Generating { n_train, n_test, .. } => {
            global.say(format!("Generating {n_train} training and {n_test} test images"));
        }
        _ => {}
    }
}

fn warning(reason: &str) -> String {
    let rule = "!".repeat(96);
    format!(
        "{rule}\n\
         WARNING: Fashion-MNIST could not be found or downloaded. Going on with GENERATED pictures.\n\
         Accuracies on them say nothing about Fashion-MNIST; every result is marked `dataset: synthetic`.\n\
         For the genuine set, put its four files into a folder and pass --data-dir DIR.\n\n{reason}\n{rule}"
    )
}

struct DownloadBar {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl DownloadBar {
    fn update(&mut self, file: &str, received: u64, total: u64) {
        if self.quiet {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(file.to_string())
        });
        bar.set_position(received);
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
