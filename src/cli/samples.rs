//! `fmnist-gpu samples`

use super::source::SourceArgs;
use super::{Global, counted, interrupt_flag, print_result, write_png};
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::data::DatasetKind;
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::report::samples_png;
use serde::Serialize;
use std::path::PathBuf;

/// Flags of `samples`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct SamplesArgs {
    /// Number of training images, starting with the first
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=2_500))]
    count: u32,
    /// PNG file to write
    #[arg(long, default_value = "samples.png", value_name = "FILE.png", value_parser = super::output_path())]
    grid: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// What `samples --json` prints.
#[derive(Debug, Serialize)]
struct Samples<'a> {
    dataset: DatasetKind,
    grid: PathBuf,
    samples: Vec<Sample<'a>>,
}

#[derive(Debug, Serialize)]
struct Sample<'a> {
    index: usize,
    label: u8,
    class: &'a str,
}

/// Runs the command: draws the first training images.
pub fn run(args: SamplesArgs, global: &Global) -> Result<()> {
    let count = args.count as usize;
    let dataset = args.source.load(global, interrupt_flag(), count)?;
    if count > dataset.train.len() {
        bail!("--count is {count}, but the training set has only {}", counted(dataset.train.len(), "image"));
    }
    let png = samples_png(&dataset.train, count, &dataset.description).context("drawing the grid")?;
    write_png(&args.grid, &png, args.force)?;
    let mut samples = Vec::new();
    for (index, &label) in dataset.train.labels[..count].iter().enumerate() {
        samples.push(Sample { index, label, class: dataset.description.class_name(label.into()) });
    }
    let text = format!("{} drawn to {} (dataset: {})", counted(count, "image"), args.grid.shown(), dataset.kind);
    print_result(args.json, &Samples { dataset: dataset.kind, grid: args.grid, samples }, |_| text)
}
