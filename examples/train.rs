//! Trains the article's first model and evaluates it: the whole loop with the library.
//!
//! ```sh
//! cargo run --release --example train
//! ```

use fmnist_gpu::data::{self, LoadOptions, Split};
use fmnist_gpu::engine::{Engine, GpuEngine, Optimizer};
use fmnist_gpu::gpu::{Gpu, GpuOptions};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::train::{Event, Position, TrainOptions, train};
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Fashion-MNIST if it is found or can be downloaded, otherwise the synthetic dataset.
    let dataset = data::load(&LoadOptions::default(), &mut |_| {})?;
    let gpu = Gpu::open(&GpuOptions::default())?;
    println!("{} on {}", dataset.kind, gpu.info().name);

    let model = Model::mlp();
    let weights = initial_parameters(&model.parameters()?, 0);
    let optimizer = Optimizer::Adam(AdamConfig::default());
    let mut engine = GpuEngine::new(&gpu, &model, &weights)?.and_training(&dataset.train, 32, &optimizer)?;

    let options = TrainOptions::new(2, dataset.train.len(), 32, optimizer);
    train(&mut engine, &options, Position::default(), &Split::default(), &AtomicBool::new(false), &mut |event| {
        if let Event::EpochFinished { record, .. } = event {
            println!("epoch {}: loss {:.4}, accuracy {:.4}", record.epoch, record.loss, record.accuracy);
        }
    })?;
    let totals = engine.evaluate(&dataset.test, &mut |_| ControlFlow::Continue(()))?;
    println!("test: loss {:.4}, accuracy {:.4}", totals.mean_loss(), totals.accuracy());
    Ok(())
}
