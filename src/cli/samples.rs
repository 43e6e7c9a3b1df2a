//! `fmnist-gpu samples`

use super::advice::of_plan;
use super::settings::ImageFlags;
use super::source::{SourceArgs, announce};
use super::{Global, counted, interrupt_flag, print_result, write_png};
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::data::{Dataset, DatasetKind, Split};
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::report::samples_png;
use fmnist_gpu::session::{Device, Plan, Session};
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
    /// Draw the images as a training sees them: augmented and mixed as the model file and the flags say
    #[arg(long)]
    augment: bool,
    /// The epoch of that training
    #[arg(long, default_value_t = 1, value_name = "N", requires = "augment", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    epoch: u32,
    /// The model that is trained
    #[arg(long, default_value = "cnn", value_name = "MODEL", requires = "augment")]
    model: String,
    #[command(flatten)]
    settings: ImageFlags,
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
    let (drawn, dataset) = if args.augment { augmented(&args, global)? } else { plain(&args, global)? };
    if count > drawn.len() {
        bail!("--count is {count}, but the training set has only {}", counted(drawn.len(), "image"));
    }
    let png = samples_png(&drawn, count, &dataset.description).context("drawing the grid")?;
    write_png(&args.grid, &png, args.force)?;
    let mut samples = Vec::new();
    for (index, &label) in drawn.labels[..count].iter().enumerate() {
        samples.push(Sample { index, label, class: dataset.description.class_name(label.into()) });
    }
    let text = format!("{} drawn to {} (dataset: {})", counted(count, "image"), args.grid.shown(), dataset.kind);
    print_result(args.json, &Samples { dataset: dataset.kind, grid: args.grid, samples }, |_| text)
}

/// The images as they are.
fn plain(args: &SamplesArgs, global: &Global) -> Result<(Split, Dataset)> {
    let mut dataset = args.source.load(global, interrupt_flag(), args.count as usize)?;
    Ok((std::mem::take(&mut dataset.train), dataset))
}

/// The images as a training sees them.
fn augmented(args: &SamplesArgs, global: &Global) -> Result<(Split, Dataset)> {
    let plan = Plan::new(ModelFile::load(&args.model)?, args.settings.given()).map_err(of_plan)?;
    let interrupt = interrupt_flag();
    // Which image another one is mixed with depends on all of them, and so does which ones are held out.
    let is_alone = plan.step.mixing.is_none() && plan.recipe.validation_split == 0.0;
    let limit = if is_alone { Some(u64::from(args.count)) } else { plan.recipe.train_limit };
    let dataset = args.source.read(global, interrupt.clone(), limit.map(|limit| limit as usize), &mut || ())?;
    announce(global, &dataset);
    // Nothing is computed.
    let session = Session::new(&plan, &Device::Reference, SharedTiles::default(), dataset, &interrupt);
    let session = session.map_err(of_plan)?;
    Ok((session.augmented(args.count as usize, args.epoch.into()), session.dataset))
}
