//! Comparison of several runs: a table, learning curves, and whether differences are significant.

use super::ReportError;
use super::metrics::{Metrics, mcnemar, wilson_95};
use super::page::{grouped, rendered};
use super::plots::{Curve, draw_curves};
use super::ranking::{FEW, draw_settings, ranking, validation_remarks};
use crate::data::Description;
use crate::run::{RunConfig, Summary};
use crate::train::EpochRecord;
use askama::Template;

/// One run of a comparison.
#[derive(Clone, Debug)]
pub struct Compared {
    /// Name of the run.
    pub name: String,
    /// The images and classes that it was trained on.
    pub description: Description,
    /// Its configuration; imported weights have none.
    pub config: Option<RunConfig>,
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
    let mut rows = vec![
        row("model", &|r| r.summary.model.clone()),
        row("data set", &|r| r.summary.dataset.to_string()),
        row("parameters", &|r| grouped(r.summary.parameters as u64)),
        row("epochs", &|r| format!("{} of {}", r.summary.epochs_completed, r.summary.epochs)),
        row("batch size", &|r| r.summary.batch_size.to_string()),
        row("test loss", &|r| or_none(r.summary.test_loss.or(r.metrics.as_ref().map(|m| m.loss)), 4)),
        row("test accuracy", &|r| or_none(test_accuracy(r), 4)),
        row("95 % confidence", &|r| {
            let Some(accuracy) = test_accuracy(r) else { return "–".to_string() };
            // The test set has 10,000 images, genuine or synthetic.
            let n = r.metrics.as_ref().map_or(10_000, |m| m.images as u64);
            let [low, high] = wilson_95((accuracy * n as f64).round() as u64, n);
            format!("{low:.4} to {high:.4}")
        }),
        row("training, s", &|r| format!("{:.1}", r.summary.train_seconds)),
        row("images/s", &|r| grouped(r.summary.images_per_second.round() as u64)),
        row("device", &|r| r.summary.device.clone()),
        row("seed", &|r| r.summary.seed.to_string()),
    ];
    if runs.iter().any(|run| run.validation_accuracy().is_some()) {
        rows.insert(5, row("validation accuracy", &|r| or_none(r.validation_accuracy(), 4)));
    }
    rows
}

/// Returns the test accuracy from the end of training, or from a later report: interrupted training does not evaluate.
pub(super) fn test_accuracy(run: &Compared) -> Option<f64> {
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
/// missing in either, and none for more than [`FEW`] runs, some of which would differ by chance.
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
    if runs.len() > FEW { Vec::new() } else { others.iter().filter_map(verdict).collect() }
}

/// The page of a comparison.
#[derive(Template)]
#[template(path = "comparison.html")]
struct Comparison<'a> {
    runs: &'a [Compared],
    names: Vec<&'a str>,
    /// Parallel coordinates of three runs or more.
    settings: Option<String>,
    /// Curves of loss and accuracy, unless there are too many runs to tell apart.
    curves: Option<[String; 2]>,
    /// The runs with metrics, unless there are too many.
    measured: Vec<(&'a Compared, &'a Metrics)>,
}

impl Comparison<'_> {
    fn measured_names(&self) -> impl Iterator<Item = &str> {
        self.measured.iter().map(|(run, _)| run.name.as_str())
    }
}

/// Returns the HTML page of a comparison: two runs side by side, or more below each other in the order given, which is that of
/// [`sort_by_validation`](super::ranking::sort_by_validation).
///
/// # Errors
/// A plot could not be drawn.
pub fn comparison_page(runs: &[Compared]) -> Result<String, ReportError> {
    let curves = || {
        let loss = draw_curves("Loss", "mean cross-entropy", &comparison_curves(runs, true))?;
        Ok::<_, ReportError>([loss, draw_curves("Accuracy", "accuracy", &comparison_curves(runs, false))?])
    };
    let few = &runs[..if runs.len() > FEW { 0 } else { runs.len() }];
    rendered(&Comparison {
        runs,
        names: runs.iter().map(|run| run.name.as_str()).collect(),
        settings: if runs.len() > 2 { draw_settings(runs)? } else { None },
        curves: if few.is_empty() { None } else { Some(curves()?) },
        measured: few.iter().filter_map(|run| Some((run, run.metrics.as_ref()?))).collect(),
    })
}

/// Returns the curves of all runs: training solid, validation dashed, one colour per run.
pub fn comparison_curves(runs: &[Compared], loss: bool) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (colour, Compared { name, history, .. }) in runs.iter().enumerate() {
        let points = over_epochs(history, |r| Some(if loss { r.loss } else { r.accuracy }));
        curves.push(Curve { name: name.clone(), colour, dashed: false, points });
        let points = over_epochs(history, |r| if loss { r.val_loss } else { r.val_accuracy });
        if !points.is_empty() {
            curves.push(Curve { name: format!("{name}, validation"), colour, dashed: true, points });
        }
    }
    curves
}

/// Returns the epochs that have a value, with this value.
pub(super) fn over_epochs(history: &[EpochRecord], value: impl Fn(&EpochRecord) -> Option<f64>) -> Vec<(f64, f64)> {
    history.iter().filter_map(|record| Some((record.epoch as f64, value(record)?))).collect()
}
