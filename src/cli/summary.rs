//! `fmnist-gpu summary`

use super::print_result;
use anyhow::Result;
use clap::Args;
use fmnist_gpu::model::{LayerShape, Model, summary, training_mflop};
use serde::Serialize;

/// Flags of `summary`.
#[derive(Debug, Args)]
pub struct SummaryArgs {
    /// Model: mlp, cnn, tiny, fast, best, or a .toml file that lists the layers
    #[arg(long, default_value = "cnn", value_name = "MODEL")]
    model: String,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// What `summary --json` prints.
#[derive(Debug, Serialize)]
struct SummaryOutput {
    model: String,
    parameters: usize,
    forward_mflop: f64,
    training_mflop: f64,
    layers: Vec<LayerReport>,
}

#[derive(Debug, Serialize)]
struct LayerReport {
    name: String,
    output_shape: Vec<usize>,
    parameters: usize,
    forward_mflop: f64,
}

/// Runs the command.
pub fn run(args: SummaryArgs) -> Result<()> {
    let model = Model::load(&args.model)?;
    let text = summary(&model)?;
    let shapes = model.shapes()?;
    let layers: Vec<LayerReport> = shapes.iter().map(layer_report).collect();
    let report = SummaryOutput {
        model: model.name,
        parameters: layers.iter().map(|layer| layer.parameters).sum(),
        forward_mflop: layers.iter().map(|layer| layer.forward_mflop).sum(),
        training_mflop: training_mflop(&shapes),
        layers,
    };
    print_result(args.json, &report, |_| text.trim_end().to_string())
}

fn layer_report(shape: &LayerShape) -> LayerReport {
    LayerReport {
        name: shape.name.clone(),
        output_shape: shape.output.clone(),
        parameters: shape.parameters().iter().map(|p| p.shape.iter().product::<usize>()).sum(),
        forward_mflop: 2e-6 * shape.multiply_adds as f64,
    }
}
