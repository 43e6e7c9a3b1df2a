//! `fmnist-gpu predict`

use super::device::DeviceArgs;
use super::source::SourceArgs;
use super::{Global, evaluate, interrupt_flag, picture, print, print_json};
use anyhow::{Result, bail};
use clap::Args;
use fmnist_gpu::data::{CLASS_NAMES, N_CLASSES};
use fmnist_gpu::train::run::Run;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// Flags of `predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Run folder, or the model.safetensors in it
    run: PathBuf,
    /// Test images: an index, a range whose end is not included, or several of them, such as 7 or 0..25 or 3,10..12
    #[arg(long, default_value = "0..25", value_name = "INDICES")]
    test_index: IndexList,
    /// Draw the images with `Predicted 97% (Original)` under each, blue where right, red where wrong
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Replace an existing picture
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A list of indices as typed.
#[derive(Clone, Debug, PartialEq)]
struct IndexList(Vec<std::ops::Range<usize>>);

impl FromStr for IndexList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |word: &str| {
            word.trim().parse::<usize>().map_err(|_| format!("`{word}` is not an index such as 7 or 0..25"))
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let range = match part.split_once("..") {
                Some((first, end)) => number(first)?..number(end)?,
                None => {
                    let index = number(part)?;
                    index..index.checked_add(1).ok_or_else(|| format!("`{part}` is too large"))?
                }
            };
            if range.is_empty() {
                return Err(format!("the range `{part}` is empty: its end is not included, as in 0..25"));
            }
            ranges.push(range);
        }
        Ok(IndexList(ranges))
    }
}

/// One element of `predict --json`.
#[derive(Debug, Serialize)]
struct Prediction {
    index: usize,
    label: u8,
    predicted: usize,
    class: &'static str,
    probability: f32,
    probabilities: Vec<f32>,
}

/// Predicts test images.
pub fn run(args: PredictArgs, global: &Global) -> Result<ExitCode> {
    let run = Run::open(&args.run)?;
    let interrupt = interrupt_flag()?;
    let device = args.device.open(global)?;
    let dataset = args.source.load(global, run.config.as_ref().map(|c| c.dataset), Some(interrupt))?;
    let available = dataset.test.len();
    // Checked before the list is spelled out: 0..18446744073709551615 is a short text.
    if let Some(range) = args.test_index.0.iter().find(|range| range.end > available) {
        bail!(
            "--test-index {}..{} reaches past the test set, which has {available} images (0 to {})",
            range.start,
            range.end,
            available - 1
        );
    }
    let indices: Vec<usize> = args.test_index.0.iter().cloned().flatten().collect();
    let images: Vec<u8> = indices.iter().flat_map(|&i| dataset.test.image(i)).copied().collect();
    let probabilities = evaluate::engine(&run, &device)?.predict(&images)?;
    if let Some(path) = &args.grid {
        picture::write_png(path, &picture::predictions_png(&dataset.test, &indices, &probabilities)?, args.force)?;
        global.say(format!("Picture: {}", path.display()));
    }
    let predictions: Vec<Prediction> = indices
        .iter()
        .zip(probabilities.chunks(N_CLASSES))
        .map(|(&index, row)| {
            let predicted = picture::argmax(row);
            Prediction {
                index,
                label: dataset.test.labels[index],
                predicted,
                class: CLASS_NAMES[predicted],
                probability: row[predicted],
                probabilities: row.to_vec(),
            }
        })
        .collect();
    if args.json {
        print_json(&predictions)?;
    } else {
        print(&table(&predictions))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(predictions: &[Prediction]) -> String {
    let mut lines = vec![format!("{:>6}  {:<12} {:>6}  {:<12}", "index", "predicted", "", "original")];
    for p in predictions {
        let mark = if p.predicted == usize::from(p.label) { "" } else { "wrong" };
        let percent = format!("{:.0} %", p.probability * 100.0);
        let original = CLASS_NAMES[usize::from(p.label)];
        lines.push(
            format!("{:>6}  {:<12} {percent:>6}  {original:<12} {mark}", p.index, p.class).trim_end().to_string(),
        );
    }
    let right = predictions.iter().filter(|p| p.predicted == usize::from(p.label)).count();
    lines.push(format!("{right} of {} right", predictions.len()));
    lines.join("\n")
}
