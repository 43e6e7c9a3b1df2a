//! `report.html`: the metrics and plots of a run, its mistakes, and how to reproduce it.

use super::comparison::over_epochs;
use super::maps::{LayerPicture, feature_maps, filters};
use super::metrics::{ClassMetrics, Metrics, argmax};
use super::page::{Figure, grouped, rendered};
use super::plots::{Curve, draw_bars, draw_calibration, draw_confusion, draw_curves};
use super::{GridItem, ReportError, Tone, columns_for, draw_grid, prediction_caption};
use crate::data::{DatasetKind, Description, Split};
use crate::engine::{ClassWeights, KernelTimes, Optimizer};
use crate::model::{Layer, Model, summary};
use crate::ops::SharedTiles;
use crate::run::{RunConfig, Summary};
use crate::train::EpochRecord;
use crate::train::validation::HoldOut;
use askama::Template;
use sha2::{Digest, Sha256};

/// The data of a report.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Name of the run, for people.
    pub name: String,
    /// The model.
    pub model: &'a Model,
    /// Its weights.
    pub parameters: &'a [Vec<f32>],
    /// The run's configuration, if available.
    pub config: Option<&'a RunConfig>,
    /// The command that repeats the run, if known.
    pub repeat: Option<String>,
    /// Its summary, if available.
    pub summary: Option<&'a Summary>,
    /// Its epochs.
    pub history: &'a [EpochRecord],
    /// The data set that was evaluated.
    pub dataset: DatasetKind,
    /// What its images look like, and what they show.
    pub description: &'a Description,
    /// Its test images.
    pub test: &'a Split,
    /// Their probabilities, `[n, classes]`.
    pub probabilities: &'a [f32],
    /// Index of the test image whose feature maps are drawn.
    pub image: usize,
    /// The bytes of `model.safetensors`.
    pub model_file: &'a [u8],
}

/// A file of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Its name in the run folder.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The page of a report.
#[derive(Template)]
#[template(path = "report.html")]
struct ReportPage<'a> {
    report: &'a Report<'a>,
    metrics: Metrics,
    loss: String,
    accuracy: String,
    confusion: String,
    calibration: String,
    times: Option<(&'a KernelTimes, String)>,
    /// `None` if there are no mistakes.
    mistakes: Option<Figure>,
    predictions: Figure,
    filters: Option<Figure>,
    maps: Vec<Figure>,
    /// The layers as text, as `fmnist-gpu summary` prints them.
    layers: String,
    /// SHA-256 of `model.safetensors`, in hexadecimal.
    model_sha256: String,
}

/// Returns the metrics and the files of a report: `report.html`, `report.json` with the metrics, and every figure as a separate file.
/// `times` is `None` if the kernels were not measured.
///
/// # Errors
/// The model cannot be evaluated, or a figure could not be drawn.
pub fn report_files(report: &Report<'_>, times: Option<&KernelTimes>) -> Result<(Metrics, Vec<File>), ReportError> {
    let Report { model, parameters, description, .. } = *report;
    let mut metrics = Metrics::new(report.test, report.probabilities, description);
    metrics.views = Some(model.predict.views.list().len()).filter(|&views| views > 1);
    let [loss, accuracy] = learning_curves(report, &metrics)?;
    let figure = |layer: &LayerPicture| Figure::new(&layer.picture, &layer.title, &layer.description);
    let layers = feature_maps(model, parameters, report.test.image(report.image), description)?;
    let page = ReportPage {
        report,
        loss,
        accuracy,
        confusion: draw_confusion(&metrics.confusion, description)?,
        calibration: draw_calibration(&metrics.bins, metrics.ece)?,
        times: times.map(|times| kernel_bars(times).map(|svg| (times, svg))).transpose()?,
        mistakes: (!metrics.mistakes.is_empty()).then(|| mistakes(report, &metrics)).transpose()?,
        predictions: predictions(report)?,
        filters: filters(model, parameters)?.as_ref().map(figure).transpose()?,
        maps: layers.iter().map(figure).collect::<Result<_, _>>()?,
        layers: summary(model)?,
        model_sha256: Sha256::digest(report.model_file).iter().map(|byte| format!("{byte:02x}")).collect(),
        metrics,
    };
    let html = rendered(&page)?;
    let json = serde_json::to_string_pretty(&page.metrics).unwrap_or_default() + "\n";
    let mut files = Vec::new();
    let mut keep = |name: &str, bytes: Vec<u8>| files.push(File { name: name.to_string(), bytes });
    keep("loss.svg", page.loss.into_bytes());
    keep("accuracy.svg", page.accuracy.into_bytes());
    keep("confusion.svg", page.confusion.into_bytes());
    keep("calibration.svg", page.calibration.into_bytes());
    if let Some((_, svg)) = page.times {
        keep("kernel_times.svg", svg.into_bytes());
    }
    if let Some(mistakes) = page.mistakes {
        keep("mistakes.png", mistakes.png);
    }
    if let Some(filters) = page.filters {
        keep("filters.png", filters.png);
    }
    for (layer, map) in layers.iter().zip(page.maps) {
        keep(&format!("feature_maps_{}.png", layer.layer), map.png);
    }
    keep("report.html", html.into_bytes());
    keep("report.json", json.into_bytes());
    Ok((page.metrics, files))
}

/// Draws training and validation loss and accuracy, with the final test value.
fn learning_curves(report: &Report<'_>, metrics: &Metrics) -> Result<[String; 2], ReportError> {
    let history = report.history;
    let last = history.last().map_or(1.0, |record| record.epoch as f64);
    let curves = |training: fn(&EpochRecord) -> f64, validation: fn(&EpochRecord) -> Option<f64>, test: f64| {
        let curve = |name: &str, colour, dashed, points| Curve { name: name.to_string(), colour, dashed, points };
        [
            curve("training", 0, false, over_epochs(history, |record| Some(training(record)))),
            curve("validation", 1, true, over_epochs(history, validation)),
            curve("test, at the end", 2, false, vec![(last, test)]),
        ]
    };
    Ok([
        draw_curves("Loss", "mean cross-entropy", &curves(|r| r.loss, |r| r.val_loss, metrics.loss))?,
        draw_curves("Accuracy", "accuracy", &curves(|r| r.accuracy, |r| r.val_accuracy, metrics.accuracy))?,
    ])
}

fn kernel_bars(times: &KernelTimes) -> Result<String, ReportError> {
    let bars: Vec<(String, f64)> = times.kernels.iter().map(|k| (k.kernel.clone(), k.median_us)).collect();
    draw_bars("Kernel times in a training step", "us", &bars)
}

impl ReportPage<'_> {
    /// Returns whether images were held out for validation.
    fn is_validated(&self) -> bool {
        self.report.history.iter().any(|record| record.val_loss.is_some())
    }

    /// Names what makes the loss and accuracy of training other quantities than those of validation and test, if anything does.
    fn only_in_training(&self) -> Option<String> {
        let step = self.report.config?.step().ok()?;
        let parts = [
            ("augmented images", step.changes_images()),
            ("smoothed labels", step.loss.label_smoothing > 0.0),
            ("class weights", step.loss.class_weights != ClassWeights::Equal),
            ("dropout", self.report.model.layers.iter().any(|node| matches!(node.layer, Layer::Dropout { .. }))),
        ];
        let names: Vec<&str> = parts.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect();
        let (last, others) = names.split_last()?;
        Some(if others.is_empty() { last.to_string() } else { format!("{} and {last}", others.join(", ")) })
    }

    /// Returns the results of the TensorFlow 2 article on CNNs for its two models.
    fn article(&self) -> Option<&'static str> {
        match (self.report.model.name.as_str(), self.report.dataset) {
            ("mlp", DatasetKind::FashionMnist) => Some("loss 0.3522, accuracy 0.8756"),
            ("cnn", DatasetKind::FashionMnist) => Some("loss 0.2410, accuracy 0.9162"),
            _ => None,
        }
    }

    /// Names the two classes that are most often confused.
    fn worst_pair(&self) -> String {
        let (metrics, description) = (&self.metrics, self.report.description);
        let both = |a: usize, b: usize| metrics.confusion[a][b] + metrics.confusion[b][a];
        let pairs = (0..description.classes()).flat_map(|a| (0..a).map(move |b| (b, a)));
        match pairs.max_by_key(|&(a, b)| both(a, b)).filter(|&(a, b)| both(a, b) > 0) {
            Some((a, b)) => format!(
                "Most often confused: {} and {}, {} times in {} images.",
                description.class_name(a),
                description.class_name(b),
                both(a, b),
                grouped(metrics.images)
            ),
            None => "No two classes are confused.".to_string(),
        }
    }

    /// Returns the means of the classes' precision, recall and F1.
    fn means(&self) -> [f64; 3] {
        let classes = &self.metrics.classes;
        let mean = |of: fn(&ClassMetrics) -> f64| classes.iter().map(of).sum::<f64>() / classes.len() as f64;
        [mean(|class| class.precision), mean(|class| class.recall), mean(|class| class.f1)]
    }
}

fn mistakes(report: &Report<'_>, metrics: &Metrics) -> Result<Figure, ReportError> {
    let (mut items, mut listed) = (Vec::new(), Vec::new());
    for mistake in &metrics.mistakes {
        let [class, label] = [mistake.predicted, mistake.label].map(|class| report.description.class_name(class));
        let probability = mistake.probabilities[mistake.predicted];
        let caption = prediction_caption(class, probability, label);
        items.push(GridItem { image: report.test.image(mistake.index), caption, tone: Tone::Wrong });
        listed.push(format!("image {}: {class} {:.1} %, original {label}", mistake.index, 100.0 * probability));
    }
    Figure::new(&draw_grid(&items, 5, report.description)?, "Worst mistakes", &listed.join("; "))
}

/// Draws the article's grid: the first 25 test images.
fn predictions(report: &Report<'_>) -> Result<Figure, ReportError> {
    let (mut items, mut listed) = (Vec::new(), Vec::new());
    let rows = report.probabilities.chunks_exact(report.description.classes());
    for (i, row) in rows.enumerate().take(report.test.len().min(25)) {
        let (class, label) = (argmax(row), usize::from(report.test.labels[i]));
        let [predicted, original] = [class, label].map(|class| report.description.class_name(class));
        let caption = prediction_caption(predicted, row[class], original);
        let (tone, verdict) = if class == label { (Tone::Right, "correct") } else { (Tone::Wrong, "wrong") };
        items.push(GridItem { image: report.test.image(i), caption, tone });
        listed.push(format!("{predicted} {:.0} % ({original}), {verdict}", 100.0 * row[class]));
    }
    let grid = draw_grid(&items, columns_for(items.len()), report.description)?;
    Figure::new(&grid, "Test images with predicted and original classes", &listed.join("; "))
}

/// Returns whether the command that repeats a run makes the same bits.
fn repeatability(config: &RunConfig) -> &'static str {
    if config.hold_out() == HoldOut::Last {
        return "Version 0.1 held out the last training images for validation. The command holds out the same share of each class, so the \
                weights will differ.";
    }
    match config.tiles {
        Some(tiles) if tiles != SharedTiles::default() => {
            "The tile sizes in workgroup memory were chosen by timing this adapter. The same command with the same device, driver and \
             version produces bit-identical weights if it chooses the same sizes, as it does while the choice is kept in the cache folder."
        }
        _ => "The same command with the same device, driver and version produces bit-identical weights.",
    }
}
