//! The self-test.

use crate::computer::Computer;
use crate::{failed, json};
use fmnist_gpu::gpu::Gpu;
use fmnist_gpu::verify::{Breadth, OPS, SelfTest, Verdict, Verifier, gradients, native};
use js_sys::{Function, Promise};
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::{JsError, JsValue, wasm_bindgen};
use wasm_bindgen_futures::JsFuture;
use web_time::Instant;

/// Compares every kernel of the device and every loop of the native engine with its mirror in double precision, and the gradient of each
/// mirror with finite differences: what `fmnist-gpu selftest --json` prints. `on_progress` is told what is tested next, and waited for.
#[wasm_bindgen]
pub async fn selftest(computer: &Computer, seed: u32, on_progress: Function) -> Result<String, JsError> {
    let (start, seed) = (Instant::now(), u64::from(seed));
    let mut kernels = match computer.device.gpu() {
        Some(gpu) => kernels_of(gpu, seed, &on_progress).await?,
        None => Vec::new(),
    };
    tell(&on_progress, "the processor's loops").await;
    kernels.extend(native::check_all(seed, Breadth::Forms));
    tell(&on_progress, "gradients against finite differences").await;
    let gradients = gradients::check_all(seed);
    let [_, driver, _] = computer.device.describe();
    Ok(json(&SelfTest::new(computer.name.clone(), driver, start.elapsed(), kernels, gradients)))
}

async fn kernels_of(gpu: &Gpu, seed: u64, on_progress: &Function) -> Result<Vec<Verdict>, JsError> {
    let mut verifier = Verifier::new(gpu, seed);
    for op in OPS {
        tell(on_progress, op.name).await;
        (op.proof)(&mut verifier).map_err(failed)?;
        verifier.verdicts().await.map_err(failed)?;
    }
    Ok(verifier.verdicts().await.map_err(failed)?.to_vec())
}

async fn tell(on_progress: &Function, what: &str) {
    let answer = on_progress.call1(&JsValue::NULL, &what.into());
    if let Ok(promise) = answer.and_then(|answer| answer.dyn_into::<Promise>()) {
        // What the page does with it is no reason to stop.
        let _ = JsFuture::from(promise).await;
    }
}
