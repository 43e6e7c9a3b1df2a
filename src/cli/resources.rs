//! The data and the device of a training: each takes about as long as the other, so both are opened at once.

use super::Global;
use super::device::{DeviceArgs, TuneArgs};
use super::source::{SourceArgs, announce};
use anyhow::Result;
use clap::Args;
use fmnist_gpu::data::Dataset;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::session::{Device, Plan};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

/// Flags about what a training works with.
#[derive(Clone, Debug, Args)]
pub struct ResourceArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
}

impl ResourceArgs {
    /// Opens the device while the data are read and unpacked, and chooses the tiles. A run that is resumed, in the folder `run`, gets its own
    /// data and device unless others were named.
    pub async fn open(
        &self,
        plan: &Plan,
        run: &Path,
        global: &Global,
        interrupt: &Arc<AtomicBool>,
    ) -> Result<(Device, SharedTiles, Dataset)> {
        let ResourceArgs { mut source, mut device, tune } = self.clone();
        if let Some(config) = &plan.begun {
            source.prefer_data_of(run, config);
            device.resume_on(config);
        }
        let limit = plan.recipe.train_limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let loading = Loading::start(source, global, interrupt.clone(), limit);
        let device = device.open(global).await?;
        log::debug!("device opened");
        device.check_time(plan).await?;
        loading.allow();
        let Plan { model, recipe, step, .. } = plan;
        let tiles = device.tiles(plan, async |gpu| tune.tiles(gpu, model, recipe.batch_size, step).await).await;
        // Missing data are mostly known by now, and without data no pipelines are needed.
        let wanted = || !loading.is_finished() && !interrupt.load(Ordering::Relaxed);
        if device.compile(plan, tiles, &wanted).await {
            log::debug!("kernels ready");
        }
        let dataset = loading.finish(global)?;
        log::debug!("data loaded");
        Ok((device, tiles, dataset))
    }
}

/// Data that another thread loads.
struct Loading {
    /// Lets the thread print, download and generate.
    allowed: Sender<()>,
    /// `None` if no thread could be started: the work is then done when the data are needed.
    thread: Option<JoinHandle<Result<Dataset>>>,
    work: Arc<Work>,
}

/// Loads the data, and calls its argument before anything is said, downloaded or generated.
type Work = dyn Fn(&mut dyn FnMut()) -> Result<Dataset> + Send + Sync;

impl Loading {
    /// Starts loading the data, with at most `train_limit` training images.
    ///
    /// The thread prints, downloads and generates nothing before [`Loading::allow`].
    fn start(source: SourceArgs, global: &Global, interrupt: Arc<AtomicBool>, train_limit: Option<usize>) -> Self {
        let global = global.clone();
        let work = Arc::new(move |wait: &mut dyn FnMut()| source.read(&global, interrupt.clone(), train_limit, wait));
        let in_thread = Arc::clone(&work);
        let (allowed, gate) = mpsc::channel();
        let mut gate = Some(gate);
        let mut wait = move || {
            if gate.take().is_some_and(|gate| gate.recv().is_err()) {
                // The command failed meanwhile and the program is about to end: nothing that this thread could do matters.
                loop {
                    thread::park();
                }
            }
        };
        let thread = thread::Builder::new().name("data".into()).spawn(move || in_thread(&mut wait));
        if let Err(error) = &thread {
            // The data wait for the device.
            log::debug!("the data are loaded later, as no thread could be started: {error}");
        }
        Loading { allowed, thread: thread.ok(), work }
    }

    /// Lets the thread print, download and generate.
    fn allow(&self) {
        // A thread that has ended needs no permission.
        let _ = self.allowed.send(());
    }

    /// Whether the thread has ended, successfully or not.
    fn is_finished(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for the data.
    fn finish(self, global: &Global) -> Result<Dataset> {
        self.allow();
        let dataset = match self.thread {
            Some(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            None => (self.work)(&mut || ())?,
        };
        announce(global, &dataset);
        Ok(dataset)
    }
}
