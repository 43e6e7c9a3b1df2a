use super::{INPUT_NAME, Layer, LayerShape, Model, ModelError, Parameter, Pooling, Source};
use crate::text::{grouped, shortened};
use std::fmt::Write;

/// Minimum width of the column of layers.
const LAYER_WIDTH: usize = 30;
/// Maximum number of characters for what a layer reads: a file may name many layers.
const MAX_SOURCES: usize = 80;

/// Describes the model as a table: layer, output shape, parameters, multiply-adds, and the totals. A layer that does not read the one
/// before it is followed by what it reads.
///
/// # Errors
/// The model cannot be built.
pub fn summary(model: &Model) -> Result<String, ModelError> {
    let shapes = model.shapes()?;
    let mut text = String::new();
    let layers: Vec<String> = (0..shapes.len()).map(|i| describe(&shapes, i)).collect();
    let longest = layers.iter().map(|layer| layer.chars().count()).max();
    let width = longest.unwrap_or_default().max(LAYER_WIDTH);
    let rule = "-".repeat(width + 36);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "Model: {}", model.name);
    let _ = writeln!(text, "{rule}");
    let _ = writeln!(text, "{:<width$} {:<16} {:>9} {:>8}", "Layer", "Output shape", "Params", "MFLOP");
    let _ = writeln!(text, "{rule}");
    for (shape, layer) in shapes.iter().zip(&layers) {
        let _ = writeln!(
            text,
            "{layer:<width$} {:<16} {:>9} {:>8.3}",
            format!("{:?}", shape.output),
            grouped(count(&shape.parameters())),
            2e-6 * shape.multiply_adds as f64
        );
    }
    let parameters = model.parameters()?;
    let total = count(&parameters);
    let forward = 2e-6 * shapes.iter().map(|s| s.multiply_adds).sum::<usize>() as f64;
    let _ = writeln!(text, "{rule}");
    let _ = writeln!(
        text,
        "Parameters: {} ({:.2} MB). Forward pass: {forward:.2} MFLOP per image; training step: {:.1} MFLOP.",
        grouped(total),
        total as f64 * 4e-6,
        training_mflop(&shapes)
    );
    let trained = count(parameters.iter().filter(|parameter| parameter.is_trained()));
    if trained < total {
        let statistics = match count(parameters.iter().filter(|parameter| parameter.role.is_statistic())) {
            0 => String::new(),
            n => format!(", of which {} are running statistics", grouped(n)),
        };
        let [trained, others] = [trained, total - trained].map(grouped);
        let _ = writeln!(text, "Trainable params: {trained}. Non-trainable params: {others}{statistics}.");
    }
    Ok(text)
}

/// Returns the work of a training step per image in millions of floating-point operations: the forward pass, the
/// gradient of each weight that is trained, and the gradient of each input that depends on a trained parameter.
pub fn training_mflop(shapes: &[LayerShape]) -> f64 {
    // Whether the output of each layer depends on a parameter that is trained.
    let mut depends: Vec<bool> = Vec::with_capacity(shapes.len());
    let mut total = 0;
    for shape in shapes {
        let needs_gradient = shape.sources.iter().any(|source| match source {
            Source::Image => false,
            Source::Layer(i) => depends[*i],
        });
        let is_trained = shape.parameters().iter().any(Parameter::is_trained);
        total += shape.multiply_adds * (1 + usize::from(is_trained) + usize::from(needs_gradient));
        depends.push(needs_gradient || is_trained);
    }
    2e-6 * total as f64
}

fn count<'a>(parameters: impl IntoIterator<Item = &'a Parameter>) -> usize {
    parameters.into_iter().map(Parameter::len).sum()
}

fn reads_the_one_before(shapes: &[LayerShape], i: usize) -> bool {
    shapes[i].sources == [i.checked_sub(1).map_or(Source::Image, Source::Layer)]
}

fn describe(shapes: &[LayerShape], i: usize) -> String {
    let shape = &shapes[i];
    let name = if reads_the_one_before(shapes, i) {
        shape.name.clone()
    } else {
        let read = |source: &Source| match source {
            Source::Image => INPUT_NAME,
            Source::Layer(i) => shapes[*i].name.as_str(),
        };
        let sources: Vec<&str> = shape.sources.iter().map(read).collect();
        format!("{} ({})", shape.name, shortened(&sources.join(", "), MAX_SOURCES))
    };
    match &shape.layer {
        Layer::Conv2d { kernel_size: k, stride: s, padding, groups, .. } => {
            let groups = if *groups == 1 { String::new() } else { format!(" groups {groups}") };
            format!("{name} {}x{} stride {} {padding}{groups}", k.0, k.1, step(s.0, s.1))
        }
        Layer::DepthwiseConv2d { kernel_size: k, stride: s, padding, .. } => {
            format!("{name} {}x{} stride {} {padding}", k.0, k.1, step(s.0, s.1))
        }
        Layer::MaxPool2d(pooling) | Layer::AveragePool2d(pooling) | Layer::SumPool2d(pooling) => {
            let Pooling { pool_size: k, stride, padding } = pooling;
            let s = stride.unwrap_or(*k);
            format!("{name} {}x{} stride {} {padding}", k.0, k.1, step(s.0, s.1))
        }
        _ => name,
    }
}

fn step(down: usize, across: usize) -> String {
    if down == across { down.to_string() } else { format!("{down}x{across}") }
}
