use super::{Layer, LayerShape, Model, ModelError, Parameter};
use std::fmt::Write;

/// Describes the model as a table: layer, output shape, parameters, multiply-adds, and the totals.
///
/// # Errors
/// The model cannot be built.
pub fn summary(model: &Model) -> Result<String, ModelError> {
    let shapes = model.shapes()?;
    let mut text = String::new();
    let rule = "-".repeat(66);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "Model: {}", model.name);
    let _ = writeln!(text, "{rule}");
    let _ = writeln!(text, "{:<30} {:<16} {:>9} {:>8}", "Layer", "Output shape", "Params", "MFLOP");
    let _ = writeln!(text, "{rule}");
    for shape in &shapes {
        let _ = writeln!(
            text,
            "{:<30} {:<16} {:>9} {:>8.3}",
            describe(shape),
            format!("{:?}", shape.output),
            thousands(count(&shape.parameters())),
            2e-6 * shape.multiply_adds as f64
        );
    }
    let total = count(&model.parameters()?);
    let forward = 2e-6 * shapes.iter().map(|s| s.multiply_adds).sum::<usize>() as f64;
    let _ = writeln!(text, "{rule}");
    let _ = writeln!(
        text,
        "Parameters: {} ({:.2} MB). Forward pass: {forward:.2} MFLOP per image; training step: {:.1} MFLOP.",
        thousands(total),
        total as f64 * 4e-6,
        training_mflop(&shapes)
    );
    Ok(text)
}

/// Returns the work of a training step per image in millions of floating-point operations: the forward pass, the
/// gradient of each weight, and the gradient of each input except the first layer's.
pub fn training_mflop(shapes: &[LayerShape]) -> f64 {
    let heavy: Vec<usize> = shapes.iter().map(|s| s.multiply_adds).filter(|&m| m > 0).collect();
    let total: usize = heavy.iter().sum();
    2e-6 * (3 * total - heavy.first().unwrap_or(&0)) as f64
}

fn count(parameters: &[Parameter]) -> usize {
    parameters.iter().map(Parameter::len).sum()
}

fn describe(shape: &LayerShape) -> String {
    let name = &shape.name;
    match &shape.layer {
        Layer::Conv2d { kernel_size: k, stride: s, padding, .. } => {
            format!("{name} {}x{} stride {} {padding}", k.0, k.1, step(s.0, s.1))
        }
        Layer::MaxPool2d { pool_size: k, stride, padding }
        | Layer::AveragePool2d { pool_size: k, stride, padding }
        | Layer::SumPool2d { pool_size: k, stride, padding } => {
            let s = stride.unwrap_or(*k);
            format!("{name} {}x{} stride {} {padding}", k.0, k.1, step(s.0, s.1))
        }
        _ => name.clone(),
    }
}

fn step(down: usize, across: usize) -> String {
    if down == across { down.to_string() } else { format!("{down}x{across}") }
}

/// Formats a number with thousands separators: 421,642.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
