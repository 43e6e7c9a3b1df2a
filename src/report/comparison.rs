//! Comparison of several runs: a table, learning curves, and whether differences are significant.

use super::ReportError;
use super::metrics::{Metrics, mcnemar, wilson_95};
use super::page::{Page, grouped};
use super::plots::{Curve, draw_curves, escape};
use crate::data::Description;
use crate::run::Summary;
use crate::train::EpochRecord;

/// One run of a comparison.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Name of the run.
    pub name: String,
    /// The images and classes that it was trained on.
    pub description: Description,
    /// Its summary.
    pub summary: Summary,
    /// Its epochs.
    pub history: Vec<EpochRecord>,
    /// Its metrics, if `report.json` exists.
    pub metrics: Option<Metrics>,
}

/// Returns the rows of the comparison table: a label and its value for each run.
pub fn comparison_rows(runs: &[Compared]) -> Vec<Vec<String>> {
    let row = |what: &str, value: &dyn Fn(&Compared) -> String| {
        std::iter::once(what.to_string()).chain(runs.iter().map(value)).collect::<Vec<String>>()
    };
    let or_none = |value: Option<f64>, digits: usize| value.map_or("–".to_string(), |v| format!("{v:.digits$}"));
    vec![
        row("model", &|r| r.summary.model.clone()),
        row("data set", &|r| r.summary.dataset.to_string()),
        row("parameters", &|r| grouped(r.summary.parameters as u64)),
        row("epochs", &|r| format!("{} of {}", r.summary.epochs_completed, r.summary.epochs)),
        row("batch size", &|r| r.summary.batch_size.to_string()),
        row("test loss", &|r| or_none(r.summary.test_loss.or(r.metrics.as_ref().map(|m| m.loss)), 4)),
        row("test accuracy", &|r| or_none(test_accuracy(r), 4)),
        row("95 % confidence", &|r| match test_accuracy(r) {
            // The test set has 10,000 images, genuine or synthetic.
            Some(accuracy) => {
                let n = r.metrics.as_ref().map_or(10_000, |m| m.images as u64);
                let [low, high] = wilson_95((accuracy * n as f64).round() as u64, n);
                format!("{low:.4} to {high:.4}")
            }
            None => "–".to_string(),
        }),
        row("training, s", &|r| format!("{:.1}", r.summary.train_seconds)),
        row("images/s", &|r| grouped(r.summary.images_per_second.round() as u64)),
        row("device", &|r| r.summary.device.clone()),
        row("seed", &|r| r.summary.seed.to_string()),
    ]
}

/// Returns the test accuracy from the end of training, or from a later report: interrupted training does not evaluate.
fn test_accuracy(run: &Compared) -> Option<f64> {
    run.summary.test_accuracy.or(run.metrics.as_ref().map(|metrics| metrics.accuracy))
}

/// Returns sentences that say what makes the runs hard to compare.
pub fn comparison_warnings(runs: &[Compared]) -> Vec<String> {
    let differ = |of: &dyn Fn(&Compared) -> String| runs.windows(2).any(|pair| of(&pair[0]) != of(&pair[1]));
    let mut warnings = Vec::new();
    if differ(&|r| r.summary.dataset.to_string()) {
        warnings.push("The runs used different data sets, so their accuracies are not comparable.".to_string());
    }
    if differ(&|r| r.summary.epochs_completed.to_string()) {
        warnings.push("The runs were trained for different numbers of epochs.".to_string());
    }
    if differ(&|r| r.summary.device.clone()) {
        warnings.push("The runs used different devices, so their times are not comparable.".to_string());
    }
    warnings
}

/// Returns, for each run after the first, a sentence on whether it differs significantly from the first; none if `report.json` is
/// missing in either.
pub fn comparison_verdicts(runs: &[Compared]) -> Vec<String> {
    let Some((first, others)) = runs.split_first() else { return Vec::new() };
    let verdict = |other: &Compared| {
        let (a, b) = (first.metrics.as_ref()?, other.metrics.as_ref()?);
        if first.summary.dataset != other.summary.dataset {
            return None;
        }
        let (only_a, only_b, p) = mcnemar(&a.right, &b.right)?;
        let meaning = if p < 0.05 { "significant" } else { "not significant" };
        let p = if p < 1e-4 { "p < 0.0001".to_string() } else { format!("p = {p:.4}") };
        Some(format!(
            "Only {} is right on {} images, only {} on {}: {meaning} (McNemar's exact test, {p}).",
            first.name,
            grouped(only_a),
            other.name,
            grouped(only_b)
        ))
    };
    others.iter().filter_map(verdict).collect()
}

/// Returns the HTML page of a comparison.
///
/// # Errors
/// A plot could not be drawn.
pub fn comparison_page(runs: &[Compared]) -> Result<String, ReportError> {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let mut page = Page::new(&format!("Comparison of {}", names.join(", ")));
    page.title(&format!("Comparison of {}", names.join(", ")));
    page.section("table", "Overview");
    for warning in comparison_warnings(runs) {
        page.html(&format!("<p class=\"warning\">{}</p>", escape(&warning)));
    }
    let head: Vec<&str> = std::iter::once("").chain(names.iter().copied()).collect();
    page.table("Runs", &head, &comparison_rows(runs));
    for verdict in comparison_verdicts(runs) {
        page.text(&verdict);
    }
    page.section("curves", "Learning curves");
    page.text("Solid: training. Dashed: validation, if images were held out.");
    page.html("<div class=\"pair\">");
    page.svg(&draw_curves("Loss", "mean cross-entropy", &comparison_curves(runs, true))?, "Loss per epoch");
    let accuracy = comparison_curves(runs, false);
    page.svg(&draw_curves("Accuracy", "accuracy", &accuracy)?, "Accuracy per epoch");
    page.html("</div>");
    let with_metrics: Vec<&Compared> = runs.iter().filter(|run| run.metrics.is_some()).collect();
    if let [first, _, ..] = with_metrics[..] {
        page.section("classes", "Classes");
        page.text("Recall: the fraction of the images of a class that are classified correctly.");
        let head: Vec<&str> = std::iter::once("Class").chain(with_metrics.iter().map(|r| r.name.as_str())).collect();
        let recall = |run: &Compared, class: usize| run.metrics.as_ref().map_or(0.0, |m| m.classes[class].recall);
        let row = |class: usize| {
            let values = with_metrics.iter().map(|run| format!("{:.3}", recall(run, class)));
            std::iter::once(first.description.class_name(class).to_string()).chain(values).collect()
        };
        let rows: Vec<Vec<String>> = (0..first.description.classes()).map(row).collect();
        page.table("Recall per class", &head, &rows);
    }
    Ok(page.finish())
}

/// Returns the curves of all runs: training solid, validation dashed, one colour per run.
pub fn comparison_curves(runs: &[Compared], loss: bool) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (colour, run) in runs.iter().enumerate() {
        let value = |r: &EpochRecord| if loss { r.loss } else { r.accuracy };
        let validation = |r: &EpochRecord| if loss { r.val_loss } else { r.val_accuracy };
        let points = run.history.iter().map(|r| (r.epoch as f64, value(r))).collect();
        curves.push(Curve { name: run.name.clone(), colour, dashed: false, points });
        let points: Vec<(f64, f64)> =
            run.history.iter().filter_map(|r| validation(r).map(|v| (r.epoch as f64, v))).collect();
        if !points.is_empty() {
            curves.push(Curve { name: format!("{}, validation", run.name), colour, dashed: true, points });
        }
    }
    curves
}
