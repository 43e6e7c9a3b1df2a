//! Trains the article's first model and evaluates it: the whole loop with the library.
//!
//! ```sh
//! cargo run --release --example train
//! ```

use fmnist_gpu::data::{self, LoadOptions};
use fmnist_gpu::gpu::{Gpu, GpuOptions};
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::session::{Device, Plan, Training};
use fmnist_gpu::train::Event;
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Fashion-MNIST if it is found or can be downloaded, otherwise the synthetic dataset.
    let mut dataset = data::load(&LoadOptions::default(), &mut |_| {})?;
    let device = Device::Gpu(Box::new(Gpu::open(&GpuOptions::default())?));
    println!("{} on {}", dataset.kind, device.describe()[0]);

    let mut plan = Plan::new(ModelFile::load("mlp")?, &[])?;
    plan.recipe.epochs = 2;
    let validation = plan.hold_out(&mut dataset.train)?;
    let interrupt = AtomicBool::new(false);
    let tiles = SharedTiles::default();
    let mut training = Training::new(&plan, &device, tiles, &dataset.train, &validation, &interrupt)?;
    training.run(None, &mut |event, _| {
        if let Event::EpochFinished(record) = event {
            println!("epoch {}: loss {:.4}, accuracy {:.4}", record.epoch, record.loss, record.accuracy);
        }
    })?;
    if let Some(test) = training.evaluate(&dataset.test)? {
        println!("test: loss {:.4}, accuracy {:.4}", test.totals.mean_loss(), test.totals.accuracy());
    }
    Ok(())
}
