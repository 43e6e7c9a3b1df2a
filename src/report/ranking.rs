//! Many runs of one experiment: which settings differ, which run is best by its validation images, and parallel coordinates of both.
//!
//! The order never depends on the test set: a result that is the best of many on the test set is no longer a result of the test set.

use super::ReportError;
use super::comparison::{Compared, test_accuracy};
use super::page::grouped;
use super::parallel::{Axis, Line, draw_parallel};
use crate::train::EpochRecord;
use crate::train::settings::{SETTINGS, Value};
use std::cmp::Ordering;

/// The largest number of runs that are drawn and tested one by one; the plots have as many colours.
pub const FEW: usize = 6;

/// A setting with another value in some of the runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Differing {
    /// Its name, as in a model file; `model` for the model.
    pub name: &'static str,
    /// Its value in each run; `None` where it does not apply or is not known.
    pub values: Vec<Option<Value>>,
    /// The same for people.
    pub texts: Vec<Option<String>>,
}

impl Differing {
    /// Its name for people.
    pub fn label(&self) -> String {
        self.name.replace('_', " ")
    }

    /// Its value in a run for people.
    pub fn text(&self, run: usize) -> &str {
        self.texts[run].as_deref().unwrap_or("–")
    }

    /// Its value in each run as a number; `None` if it is not one in every run that has it.
    fn numbers(&self) -> Option<Vec<Option<f64>>> {
        let number = |value: &Option<Value>| match value {
            None => Some(None),
            Some(Value::Count(count)) => Some(Some(*count as f64)),
            Some(Value::Real(real)) => Some(Some(*real)),
            Some(_) => None,
        };
        let numbers: Option<Vec<Option<f64>>> = self.values.iter().map(number).collect();
        numbers.filter(|numbers| numbers.iter().any(Option::is_some))
    }
}

impl Compared {
    /// Accuracy of the resulting weights on the validation images, 0 to 1; `None` if none were held out.
    pub fn validation_accuracy(&self) -> Option<f64> {
        self.result()?.val_accuracy
    }

    /// Loss of the resulting weights on the validation images; `None` if none were held out.
    pub fn validation_loss(&self) -> Option<f64> {
        self.result()?.val_loss
    }

    /// The epoch whose weights are the result: the last one, or with early stopping the one that was kept.
    fn result(&self) -> Option<&EpochRecord> {
        match self.summary.best_epoch {
            Some(kept) => self.history.iter().find(|record| record.epoch == kept),
            None => self.history.last(),
        }
    }

    /// Validation images; 0 if none were held out.
    fn validation_images(&self) -> usize {
        self.config.as_ref().map_or(0, |config| config.validation_images)
    }
}

/// Sorts runs, the best first: by validation accuracy, of equal ones by validation loss. Runs without come last, in the order given.
pub fn sort_by_validation(runs: &mut [Compared]) {
    runs.sort_by(by_validation);
}

/// The best run by validation accuracy, of equal ones by validation loss; `None` if no run has one.
pub fn best_by_validation(runs: &[Compared]) -> Option<&Compared> {
    runs.iter().filter(|run| run.validation_accuracy().is_some()).min_by(|a, b| by_validation(a, b))
}

/// Whether a run comes before another.
fn by_validation(a: &Compared, b: &Compared) -> Ordering {
    let accuracy = |run: &Compared| run.validation_accuracy().unwrap_or(f64::NEG_INFINITY);
    let loss = |run: &Compared| run.validation_loss().unwrap_or(f64::INFINITY);
    accuracy(b).total_cmp(&accuracy(a)).then(loss(a).total_cmp(&loss(b)))
}

/// Returns the settings that are not the same in all runs whose configuration is known, the model first, then in the order of the table.
pub fn differing_settings(runs: &[Compared]) -> Vec<Differing> {
    let models = Differing {
        name: "model",
        values: vec![None; runs.len()],
        texts: runs.iter().map(|run| Some(model_name(run, runs))).collect(),
    };
    let recipes: Vec<_> = runs.iter().map(|run| run.config.as_ref()?.recipe().ok()).collect();
    let settings = SETTINGS.iter().map(|setting| {
        let values: Vec<_> = recipes.iter().map(|recipe| (setting.get)(recipe.as_ref()?)).collect();
        let texts = values.iter().map(|value| Some(shown(value.as_ref()?))).collect();
        Differing { name: setting.name, values, texts }
    });
    let differs = |setting: &Differing| {
        let all = setting.values.iter().zip(&setting.texts).zip(runs);
        let mut known = all.filter(|(_, run)| run.config.is_some() || setting.name == "model").map(|(value, _)| value);
        let first = known.next();
        known.any(|value| Some(value) != first)
    };
    std::iter::once(models).chain(settings).filter(differs).collect()
}

/// A value with at most four digits: one that was drawn at random has many.
fn shown(value: &Value) -> String {
    match value {
        Value::Real(real) => Value::Real(format!("{real:.3e}").parse().unwrap_or(*real)).to_string(),
        other => other.to_string(),
    }
}

/// The name of a run's model, with its parameters if another run has another model of that name.
fn model_name(run: &Compared, runs: &[Compared]) -> String {
    let Compared { summary, .. } = run;
    let is_other =
        |other: &Compared| other.summary.model == summary.model && other.summary.parameters != summary.parameters;
    match runs.iter().any(is_other) {
        true => format!("{} ({} parameters)", summary.model, grouped(summary.parameters as u64)),
        false => summary.model.clone(),
    }
}

/// Returns a table with a row for each run, which begins with its name, and the heading of the other columns: results, then the settings
/// that differ.
pub fn ranking(runs: &[Compared]) -> (Vec<String>, Vec<Vec<String>>) {
    // Of the epochs there is a column anyway.
    let differing: Vec<_> = differing_settings(runs).into_iter().filter(|setting| setting.name != "epochs").collect();
    let or_none = |value: Option<f64>| value.map_or("–".to_string(), |v| format!("{v:.4}"));
    let head = ["validation accuracy", "validation loss", "test accuracy", "epochs"].map(String::from);
    let head = head.into_iter().chain(differing.iter().map(Differing::label)).chain(["training, s".to_string()]);
    let row = |(i, run): (usize, &Compared)| {
        let summary = &run.summary;
        let epochs = match summary.epochs_completed == summary.epochs {
            true => summary.epochs.to_string(),
            false => format!("{} of {}", summary.epochs_completed, summary.epochs),
        };
        let results = [run.name.clone(), or_none(run.validation_accuracy()), or_none(run.validation_loss())];
        let results = results.into_iter().chain([or_none(test_accuracy(run)), epochs]);
        let settings = differing.iter().map(|setting| setting.text(i).to_string());
        results.chain(settings).chain([format!("{:.1}", summary.train_seconds)]).collect()
    };
    (head.collect(), runs.iter().enumerate().map(row).collect())
}

/// Returns what the validation images say: which run is best, which runs have none, whether they were the same for all.
pub fn validation_remarks(runs: &[Compared]) -> Vec<String> {
    let (validated, others): (Vec<&Compared>, Vec<&Compared>) =
        runs.iter().partition(|run| run.validation_accuracy().is_some());
    let Some(best) = best_by_validation(runs) else {
        return vec![
            "No run held out images for validation, so none is named best; the test set is not for choosing.".into(),
        ];
    };
    let accuracy = best.validation_accuracy().unwrap_or_default();
    let n = best.validation_images();
    let error = match n {
        0 => String::new(),
        n => {
            let error = (accuracy * (1.0 - accuracy) / n as f64).sqrt();
            format!(", standard error {error:.4} on {} images", grouped(n as u64))
        }
    };
    let mut remarks = vec![format!("Best by validation: {} (accuracy {accuracy:.4}{error}).", best.name)];
    if !others.is_empty() {
        let names: Vec<&str> = others.iter().map(|run| run.name.as_str()).collect();
        remarks.push(format!("Without validation images, and so not ranked: {}.", names.join(", ")));
    }
    let images = |run: &Compared| {
        let config = run.config.as_ref()?;
        Some((config.hold_out(), config.validation_images, config.train_images))
    };
    if validated.iter().any(|run| images(run) != images(best)) {
        remarks.push(
            "The runs were validated on different images (seed, share or limit differ): small differences mean little."
                .into(),
        );
    }
    remarks
}

/// Draws the settings that differ and the validation accuracy as parallel coordinates, a line for each run that has one. `None` if no
/// setting differs, or if fewer than two runs have a validation accuracy.
///
/// # Errors
/// The plot could not be drawn.
pub fn draw_settings(runs: &[Compared]) -> Result<Option<String>, ReportError> {
    let mut runs: Vec<Compared> = runs.iter().filter(|run| run.validation_accuracy().is_some()).cloned().collect();
    sort_by_validation(&mut runs);
    let differing = differing_settings(&runs);
    if runs.len() < 2 || differing.is_empty() {
        return Ok(None);
    }
    let mut axes: Vec<Axis> = differing
        .iter()
        .map(|setting| match setting.numbers() {
            Some(numbers) => Axis::numbers(&setting.label(), &numbers, &setting.texts),
            None => Axis::names(&setting.label(), &setting.texts),
        })
        .collect();
    let accuracies: Vec<f64> = runs.iter().filter_map(Compared::validation_accuracy).collect();
    axes.push(Axis::quantity("validation accuracy", &accuracies));
    let line = |(i, run): (usize, &Compared)| {
        let settings = differing.iter().map(|setting| format!("{} {}", setting.label(), setting.text(i)));
        let parts: Vec<String> = settings.chain([format!("validation accuracy {:.4}", accuracies[i])]).collect();
        Line { name: run.name.clone(), text: parts.join(", ") }
    };
    let lines: Vec<Line> = runs.iter().enumerate().map(line).collect();
    draw_parallel("Settings and validation accuracy", &axes, &lines).map(Some)
}
