//! Trains the article's first model, evaluates it, and writes a run folder: what `fmnist-gpu train` does, with the library.
//!
//! ```sh
//! cargo run --release --example train
//! ```

use fmnist_gpu::data::{self, LoadOptions};
use fmnist_gpu::gpu::{Gpu, GpuOptions};
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::session::{Device, Plan, RunOptions, Session, SessionEvent, WriteError};
use fmnist_gpu::train::Event;
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(train_and_evaluate())
}

async fn train_and_evaluate() -> Result<(), Box<dyn std::error::Error>> {
    // What to train and how.
    let mut plan = Plan::new(ModelFile::load("mlp")?, &[])?;
    plan.recipe.epochs = 2;
    // Fashion-MNIST if it is found or can be downloaded, otherwise the synthetic dataset.
    let dataset = data::load(&LoadOptions::default(), &mut |_| {})?;
    let device = Device::Gpu(Gpu::open(&GpuOptions::default()).await?);
    println!("{} on {}", dataset.kind, device.describe()[0]);

    // Set it from another thread, and training stops with a checkpoint.
    let interrupt = AtomicBool::new(false);
    let session = Session::new(&plan, &device, SharedTiles::default(), dataset, &interrupt)?;
    let folder = RunFolder::create_next(&plan.model.name)?;
    let on_event = &mut |event: SessionEvent<'_>| {
        if let SessionEvent::Training(Event::EpochFinished(record)) = event {
            println!("epoch {}: loss {:.4}, accuracy {:.4}", record.epoch, record.loss, record.accuracy);
        }
    };
    let on_failure = &mut |error: &WriteError| eprintln!("{error}; training continues");
    let finished = session.train(&folder, &RunOptions::default(), on_event, on_failure).await?;
    if let Some(test) = finished.test {
        println!("test: loss {:.4}, accuracy {:.4}", test.totals.mean_loss(), test.totals.accuracy());
    }
    println!("weights, history and report are in {}", folder.path().display());
    Ok(())
}
