//! What computes: an adapter, or the processor.

use crate::{failed, json};
use fmnist_gpu::gpu::{Gpu, GpuOptions};
use fmnist_gpu::session::Device;
use serde::Serialize;
use std::rc::Rc;
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

/// A device of the browser.
#[wasm_bindgen]
#[derive(Clone)]
pub struct Computer {
    pub(crate) device: Rc<Device>,
    /// Its name, which the browser tells the page rather than the library.
    pub(crate) name: String,
}

#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    driver: &'a str,
    backend: &'a str,
    /// Whether an adapter is one in software.
    is_software: bool,
}

#[wasm_bindgen]
impl Computer {
    /// Opens the adapter that the browser prefers.
    pub async fn gpu(name: String) -> Result<Computer, JsError> {
        let gpu = Gpu::open(&GpuOptions::default()).await.map_err(failed)?;
        Ok(Computer { device: Rc::new(Device::Gpu(gpu)), name })
    }

    /// The native engine, in one thread, by the vector instructions of WebAssembly.
    pub fn cpu(name: String) -> Computer {
        Computer { device: Rc::new(Device::Native(1)), name }
    }

    /// Name, driver and backend as JSON.
    pub fn describe(&self) -> String {
        let [_, driver, backend] = self.device.describe();
        let is_software = self.device.gpu().is_some_and(Gpu::is_software);
        json(&Described { name: &self.name, driver: &driver, backend: &backend, is_software })
    }

    /// Whether it is an adapter.
    #[wasm_bindgen(js_name = isGpu)]
    pub fn is_gpu(&self) -> bool {
        self.device.gpu().is_some()
    }

    /// Submits nothing to the adapter, so that the browser looks for what is done.
    pub fn nudge(&self) {
        self.device.gpu().inspect(|gpu| gpu.nudge());
    }

    /// Gives the adapter back. Whoever waits for it gets an error.
    pub fn close(&self) {
        self.device.gpu().inspect(|gpu| gpu.destroy());
    }
}
