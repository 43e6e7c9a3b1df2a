//! What the page calls: the library as classes and functions of JavaScript, in a worker.
//!
//! Nothing is computed here. Each file wraps a part of the library: `computer` the devices, `data` the data sets, `training` a session,
//! `network` a trained model and its run, `photo` the visitor's own images, `laboratory` a single convolution, `proof` the self-test. What
//! JavaScript reads is JSON, with the field names of the command line, or the bytes of a file.
//!
//! With the feature `classifier` in place of `page`, only `classifier`, `figure` and `photo` are compiled: what an exported page needs.
#![cfg(target_arch = "wasm32")]

#[cfg(feature = "classifier")]
mod classifier;
#[cfg(feature = "page")]
mod computer;
#[cfg(feature = "page")]
mod data;
#[cfg(feature = "page")]
mod laboratory;
mod figure;
#[cfg(feature = "page")]
mod network;
mod photo;
#[cfg(feature = "page")]
mod proof;
#[cfg(feature = "page")]
mod training;

use serde::Serialize;
use std::error::Error;
use wasm_bindgen::prelude::{JsError, wasm_bindgen};

/// The error of a library call, with its causes.
fn failed(error: impl Error) -> JsError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    JsError::new(&text)
}

/// The JSON text of a value.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("structs of numbers, strings and lists always have a JSON form")
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn log_error(text: &str);
}

/// Once, when the module is loaded: a panic names its place in the console.
#[wasm_bindgen(start)]
fn start() {
    std::panic::set_hook(Box::new(|panic| log_error(&panic.to_string())));
}

/// The version of the program.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_string()
}
