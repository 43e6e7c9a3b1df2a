//! `fmnist-gpu export`

use super::{Global, print, print_json};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use fmnist_gpu::export::{About, Format, export};
use fmnist_gpu::files::write_whole;
use fmnist_gpu::train::run::Run;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Run folder, or the model.safetensors in it
    run: PathBuf,
    /// What the file is for
    #[arg(long, value_enum)]
    format: FormatName,
    /// File to write [default: in the run folder: model.onnx, model.torch.safetensors, model.keras.npz, model.npz]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatName {
    /// ONNX, opset 17: for onnxruntime, tract and others; divides by 255 itself
    Onnx,
    /// A safetensors file in PyTorch's layout, with the module that loads it
    Torch,
    /// A NumPy archive in Keras's layout, with the model that takes it
    Keras,
    /// A NumPy archive of the parameters as they are
    Npz,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Onnx => Format::Onnx,
            FormatName::Torch => Format::Torch,
            FormatName::Keras => Format::Keras,
            FormatName::Npz => Format::Npz,
        }
    }
}

/// What `export --json` prints.
#[derive(Debug, Serialize)]
struct Written {
    format: Format,
    file: PathBuf,
    bytes: usize,
    model: String,
    python: String,
}

/// Writes a run's model in the format of another tool.
pub fn run(args: ExportArgs, global: &Global) -> Result<ExitCode> {
    let run = Run::open(&args.run)?;
    let format = Format::from(args.format);
    let summary = run.summary()?;
    let about = About {
        dataset: run.config.as_ref().map(|config| config.dataset.to_string()),
        test_accuracy: summary.and_then(|summary| summary.test_accuracy),
    };
    let exported = export(format, &run.model, &run.parameters, &about)?;
    let file = args.out.unwrap_or_else(|| run.path.join(format.file_name()));
    write_whole(&file, &exported.bytes, args.force).context("writing the exported model")?;
    // A JSON string is a Python string too, whatever the path holds.
    let path = serde_json::to_string(&file.display().to_string()).context("quoting the path")?;
    let python = exported.python.replace("\"{file}\"", &path);
    global.say(format!("Written: {} ({} bytes). To open it:\n", file.display(), exported.bytes.len()));
    if args.json {
        print_json(&Written { format, file, bytes: exported.bytes.len(), model: run.model.name, python })?;
    } else {
        print(&python)?;
    }
    Ok(ExitCode::SUCCESS)
}
