//! One HTML file that classifies photos, drawings and camera images in any browser, by a double click: without a server, a network or WebGPU.
//!
//! It contains the weights in half precision and the loops of the native engine, compiled for WebAssembly (`web/src/classifier.rs`), both
//! compressed and in Base64.

use super::{ExportError, Facts, checked_shapes, half};
use crate::model::Model;
use crate::text::grouped;
use askama::Template;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

/// What `web/build.sh` builds for this page.
#[derive(Clone, Debug)]
pub struct Classifier {
    /// The module of WebAssembly.
    pub module: Vec<u8>,
    /// The script that loads it.
    pub glue: String,
}

/// The page.
#[derive(Template)]
#[template(path = "classifier.html")]
struct Page<'a> {
    model: &'a Model,
    facts: &'a Facts,
    parameters: String,
    /// The names of the classes as JSON.
    names: String,
    weights: String,
    module: String,
    glue: &'a str,
    dom: &'static str,
    sources: &'static str,
}

/// Returns the bytes of the page.
///
/// # Errors
/// The model cannot be built, the parameters do not belong to it, or a value is too large for half precision.
pub fn to_bytes(
    model: &Model,
    parameters: &[Vec<f32>],
    facts: &Facts,
    classifier: &Classifier,
) -> Result<Vec<u8>, ExportError> {
    checked_shapes(model, parameters)?;
    let page = Page {
        model,
        facts,
        parameters: grouped(parameters.iter().map(Vec::len).sum::<usize>()),
        names: serde_json::Value::from(facts.description.class_names.to_vec()).to_string(),
        weights: packed(&half::to_bytes(model, parameters)?)?,
        module: packed(&classifier.module)?,
        glue: &classifier.glue,
        dom: include_str!("../../web/page/dom.js"),
        sources: include_str!("../../web/page/sources.js"),
    };
    Ok(page.render()?.into_bytes())
}

/// The bytes, compressed, in Base64.
fn packed(bytes: &[u8]) -> Result<String, ExportError> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    Ok(BASE64_STANDARD.encode(written.map_err(ExportError::Compression)?))
}
