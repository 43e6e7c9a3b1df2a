//! Predicts in a loop and prints how long it takes, for one image at a time and for batches of 32.
//!
//! ```sh
//! cargo run --release --example inference -- runs/cnn-1    # a trained run; untrained weights if omitted
//! ```

use fmnist_gpu::data::{FASHION_MNIST, synthetic};
use fmnist_gpu::engine::{Engine, GpuEngine};
use fmnist_gpu::gpu::{Gpu, GpuOptions};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::run::Run;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(predict())
}

async fn predict() -> Result<(), Box<dyn std::error::Error>> {
    let (model, weights) = match std::env::args().nth(1) {
        Some(path) => {
            let run = Run::open(Path::new(&path))?;
            (run.model, run.parameters)
        }
        None => (Model::cnn(), initial_parameters(&Model::cnn().parameters()?, 0)),
    };
    let gpu = Gpu::open(&GpuOptions::default()).await?;
    let mut engine = GpuEngine::new(&gpu, &model, &weights)?;
    // Images: 28 x 28 bytes each; the background is 0.
    let (_, pictures) = synthetic::generate(0, 64, 7);

    for batch in [1, 32] {
        let mut milliseconds = Vec::new();
        for images in pictures.images.chunks_exact(batch * FASHION_MNIST.pixels()) {
            let start = Instant::now();
            let probabilities = engine.predict(images, &mut |_| ControlFlow::Continue(())).await?;
            milliseconds.push(1e3 * start.elapsed().as_secs_f64());
            assert_eq!(probabilities.len(), batch * FASHION_MNIST.classes());
        }
        milliseconds.sort_by(f64::total_cmp);
        let (median, most) = (milliseconds[milliseconds.len() / 2], milliseconds[milliseconds.len() - 1]);
        println!("batch {batch}: median {median:.2} ms, longest {most:.2} ms");
    }
    let row = engine.predict(pictures.image(0), &mut |_| ControlFlow::Continue(())).await?;
    let best = (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
    println!("first picture: {} ({:.0} %)", FASHION_MNIST.class_name(best), 100.0 * row[best]);
    Ok(())
}
