//! `fmnist-gpu export`

use super::evaluate::description;
use super::{Global, page, print, print_json};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::DatasetKind;
use fmnist_gpu::export::html::Classifier;
use fmnist_gpu::export::{Facts, half, html, keras, npz, onnx, torch};
use fmnist_gpu::files::{ShownPath, write_whole};
use fmnist_gpu::run::{MODEL_FILE, Run};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Run folder, or the model.safetensors in it
    run: PathBuf,
    /// File format to write
    #[arg(long, value_enum)]
    format: Format,
    /// File to write [default: next to the model: model.onnx, model.torch.safetensors, model.keras.npz, model.npz, model.half.safetensors, model.html]
    #[arg(long, value_name = "FILE", value_parser = super::output_path())]
    out: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
    /// Print a description of the file as JSON instead of the Python code that opens it
    #[arg(long)]
    json: bool,
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// ONNX graph for onnxruntime, tract and browsers: grey values in, probabilities out
    Onnx,
    /// Safetensors file for PyTorch's load_state_dict
    Torch,
    /// NumPy archive for Keras's set_weights
    Keras,
    /// NumPy archive of the parameters in this program's own layout
    Npz,
    /// This program's own file in half precision: half the size, opens as a run
    Half,
    /// A page that classifies photos and drawings in any browser, by a double click
    Html,
}

/// What `export --json` prints.
#[derive(Debug, Serialize)]
struct Exported {
    format: Format,
    file: String,
    bytes: usize,
    model: String,
    parameters: usize,
    dataset: Option<DatasetKind>,
    test_accuracy: Option<f64>,
    /// The code that opens it; none for a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    python: Option<String>,
    version: &'static str,
}

/// Runs the command.
pub fn run(args: ExportArgs, global: &Global) -> Result<()> {
    let run = Run::open(&args.run)?;
    let facts = facts(&args.run, &run)?;
    let extension = match args.format {
        Format::Onnx => "onnx",
        Format::Torch => "torch.safetensors",
        Format::Keras => "keras.npz",
        Format::Npz => "npz",
        Format::Half => "half.safetensors",
        Format::Html => "html",
    };
    let weights = if args.run.is_dir() { args.run.join(MODEL_FILE) } else { args.run.clone() };
    let path = args.out.unwrap_or_else(|| weights.with_extension(extension));
    let file = path.shown();
    let (model, parameters) = (&run.model, &run.parameters);
    let (bytes, python) = match args.format {
        Format::Onnx => (onnx::to_bytes(model, parameters, &facts)?, Some(onnx::python(&file))),
        Format::Torch => (torch::to_bytes(model, parameters, &facts)?, Some(torch::python(model, &file)?)),
        Format::Keras => (keras::to_bytes(model, parameters)?, Some(keras::python(model, &file)?)),
        Format::Npz => (npz::to_bytes(model, parameters)?, Some(npz::python(&file))),
        Format::Half => (half::to_bytes(model, parameters)?, Some(half::python(&file))),
        Format::Html => (html::to_bytes(model, parameters, &facts, &classifier()?)?, None),
    };
    write_whole(&path, &bytes, args.force).context("writing the export")?;
    global.say(format!("Wrote {file} ({:.2} MB)", bytes.len() as f64 * 1e-6));
    if args.json {
        print_json(&Exported {
            format: args.format,
            file,
            bytes: bytes.len(),
            model: run.model.name.clone(),
            parameters: run.parameters.iter().map(Vec::len).sum(),
            dataset: facts.dataset,
            test_accuracy: facts.test_accuracy,
            python,
            version: env!("CARGO_PKG_VERSION"),
        })?;
    } else if let Some(python) = python {
        global.say("Open it in Python with:\n");
        print(python.trim_end());
    } else {
        global.say("Open it in any browser");
    }
    Ok(())
}

/// What the program has of the page for a model of its own.
fn classifier() -> Result<Classifier> {
    page::check()?;
    let missing = "this program was built with half of the page; run `sh web/build.sh` again";
    let file = |name| page::file(name).context(missing);
    let glue = String::from_utf8(file("classifier.js")?).context(missing)?;
    Ok(Classifier { module: file("classifier_bg.wasm")?, glue })
}

/// Reads the facts about the model from the other files of the run.
fn facts(named: &Path, run: &Run) -> Result<Facts> {
    // Other weights in the same folder, such as a checkpoint, have another accuracy.
    let is_final = named.is_dir() || named.file_name().is_some_and(|name| name == MODEL_FILE);
    let summary = if is_final { run.summary()? } else { None };
    Ok(Facts {
        description: description(run),
        dataset: run.config.as_ref().map(|config| config.dataset),
        test_accuracy: summary.and_then(|summary| summary.test_accuracy),
    })
}
