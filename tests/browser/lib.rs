//! Trains the MLP through WebGPU and, for comparison, by the plain loops, for a test (`tests/browser_page.rs`).
#![cfg(target_arch = "wasm32")]

use fmnist_gpu::data::{Dataset, DatasetKind, FASHION_MNIST, synthetic};
use fmnist_gpu::engine::State;
use fmnist_gpu::gpu::{Gpu, GpuOptions};
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::session::{Device, Plan, Session, Training};
use serde::Serialize;
use std::error::Error;
use std::sync::atomic::AtomicBool;
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

/// Images to train on, in batches of 32; the last one is smaller.
const TRAINED: usize = 300;
/// Images to evaluate on.
const EVALUATED: usize = 70;

/// What came out.
#[derive(Serialize)]
struct Report {
    /// Name, driver and backend of the adapter.
    device: [String; 3],
    /// The loss of each epoch: in the browser, and by the plain loops.
    losses: [Vec<f64>; 2],
    /// The loss on images that were not trained on: likewise.
    test_losses: [f64; 2],
    /// For each parameter its name, and the largest difference of the two relative to the largest value.
    differences: Vec<(String, f64)>,
}

/// Trains two epochs and returns a [`Report`] as JSON.
#[wasm_bindgen]
pub async fn train() -> Result<String, JsError> {
    compare().await.map_err(|error| JsError::new(&error.to_string()))
}

async fn compare() -> Result<String, Box<dyn Error>> {
    let gpu = Device::Gpu(Gpu::open(&GpuOptions::default()).await?);
    let device = gpu.describe();
    let mut plan = Plan::new(ModelFile::load("mlp")?, &[])?;
    plan.recipe.epochs = 2;
    let (found, loss, test_loss) = trained(&plan, &gpu).await?;
    let (expected, expected_loss, expected_test_loss) = trained(&plan, &Device::Reference).await?;
    let names = plan.model.parameters()?.into_iter().map(|parameter| parameter.name);
    let pairs = found.parameters.iter().zip(&expected.parameters);
    let differences = names.zip(pairs.map(|(found, expected)| difference(found, expected))).collect();
    let report = Report {
        device,
        losses: [loss, expected_loss],
        test_losses: [test_loss, expected_test_loss],
        differences,
    };
    Ok(serde_json::to_string(&report)?)
}

/// Returns the state after training, the loss of each epoch, and that on the test images.
async fn trained(plan: &Plan, device: &Device) -> Result<(State, Vec<f64>, f64), Box<dyn Error>> {
    let (train, test) = synthetic::generate(TRAINED, EVALUATED, 1);
    let (kind, source) = (DatasetKind::Synthetic, "generated".to_string());
    let dataset = Dataset { train, test, description: FASHION_MNIST, kind, source };
    let never = AtomicBool::new(false);
    let session = Session::new(plan, device, SharedTiles::default(), dataset, &never)?;
    let mut training = Training::new(&session).await?;
    let trained = training.run(&mut |_, _| ()).await?;
    let losses = trained.position.history.iter().map(|record| record.loss).collect();
    let test = training.evaluate().await?.ok_or("the evaluation was interrupted")?;
    Ok((trained.state, losses, test.totals.mean_loss()))
}

/// The largest difference relative to the largest expected value; infinite if there are not as many values, or one is NaN.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let differences = found.iter().zip(expected).map(|(found, expected)| f64::from((found - expected) / largest).abs());
    let worst = differences.fold(0.0, |worst, one| if one <= worst { worst } else { one });
    if found.len() == expected.len() && worst.is_finite() { worst } else { f64::INFINITY }
}
