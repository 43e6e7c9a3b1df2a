//! `report.html`: the metrics and plots of a run, its mistakes, and how to reproduce it.
//!
//! Above 500 lines: one section of the page after the other, in the order in which they are read.

use super::maps::LayerPicture;
use super::metrics::Metrics;
use super::page::{Page, escape_lines, grouped};
use super::plots::{Curve, draw_bars, draw_calibration, draw_confusion, draw_curves, escape};
use super::{GridItem, ReportError, Tone, columns_for, draw_grid, prediction_caption};
use crate::data::{DatasetKind, Description, Split};
use crate::engine::{KernelTimes, Optimizer};
use crate::run::{RunConfig, Summary};
use crate::text::count;
use crate::train::EpochRecord;

/// The data of a report.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Name of the run.
    pub name: &'a str,
    /// Its configuration, if available.
    pub config: Option<&'a RunConfig>,
    /// Its summary, if available.
    pub summary: Option<&'a Summary>,
    /// Its epochs.
    pub history: &'a [EpochRecord],
    /// Name of the model.
    pub model: &'a str,
    /// The layers as text, as `fmnist-gpu summary` prints them.
    pub layers: &'a str,
    /// The data set that was evaluated.
    pub dataset: DatasetKind,
    /// What its images look like, and what they show.
    pub description: &'a Description,
    /// Its test images.
    pub test: &'a Split,
    /// Their probabilities, `[n, classes]`.
    pub probabilities: &'a [f32],
    /// The metrics of these probabilities.
    pub metrics: &'a Metrics,
    /// The filters of the first layer.
    pub filters: Option<&'a LayerPicture>,
    /// The output of each layer for one test image.
    pub maps: &'a [LayerPicture],
    /// Index of that test image.
    pub map_index: usize,
    /// Time of each kernel; `None` if it was not measured.
    pub kernel_times: Option<&'a KernelTimes>,
    /// SHA-256 of `model.safetensors`, in hexadecimal.
    pub model_sha256: &'a str,
}

/// A file of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Its name in the run folder.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Returns the files of a report: `report.html`, `report.json` with the [`Metrics`], and every figure as a separate file.
///
/// # Errors
/// A figure could not be drawn.
pub fn report_files(report: &Report<'_>) -> Result<Vec<File>, ReportError> {
    let mut files = Vec::new();
    let mut keep = |name: &str, bytes: &[u8]| files.push(File { name: name.to_string(), bytes: bytes.to_vec() });
    let [loss_svg, accuracy_svg] = learning_curves(report)?;
    let confusion_svg = draw_confusion(&report.metrics.confusion, report.description)?;
    let calibration_svg = draw_calibration(&report.metrics.bins, report.metrics.ece)?;
    keep("loss.svg", loss_svg.as_bytes());
    keep("accuracy.svg", accuracy_svg.as_bytes());
    keep("confusion.svg", confusion_svg.as_bytes());
    keep("calibration.svg", calibration_svg.as_bytes());
    let times_svg = report.kernel_times.map(kernel_bars).transpose()?;
    if let Some(svg) = &times_svg {
        keep("kernel_times.svg", svg.as_bytes());
    }
    let mistakes = mistakes_png(report)?;
    if let Some(png) = &mistakes {
        keep("mistakes.png", png);
    }
    let grid = grid_png(report)?;
    let filters = report.filters.map(|f| f.picture.encode_png()).transpose()?;
    if let Some(png) = &filters {
        keep("filters.png", png);
    }
    let maps = report.maps.iter().map(|m| m.picture.encode_png()).collect::<Result<Vec<_>, _>>()?;
    for (map, png) in report.maps.iter().zip(&maps) {
        keep(&format!("feature_maps_{}.png", map.layer), png);
    }

    let mut page = Page::new(&format!("{}: report", report.name));
    page.title(&format!("Report of {}", report.name));
    result_section(&mut page, report);
    curves_section(&mut page, report, &loss_svg, &accuracy_svg);
    confusion_section(&mut page, report, &confusion_svg);
    classes_section(&mut page, report);
    mistakes_section(&mut page, report, mistakes.as_deref());
    page.section("predictions", "Predictions");
    page.text("The first test images: predicted class, its probability, and the original class in parentheses. A red frame marks wrong predictions.");
    page.png(&grid, "Test images with predicted and original classes", &grid_text(report));
    calibration_section(&mut page, report, &calibration_svg);
    insides_section(&mut page, report, filters.as_deref(), &maps);
    times_section(&mut page, report, times_svg.as_deref());
    repeat_section(&mut page, report);
    keep("report.html", page.finish().as_bytes());
    let json = serde_json::to_string_pretty(report.metrics).unwrap_or_default() + "\n";
    keep("report.json", json.as_bytes());
    Ok(files)
}

/// Draws training and validation loss and accuracy, with the final test value.
fn learning_curves(report: &Report<'_>) -> Result<[String; 2], ReportError> {
    let last = report.history.last().map_or(1.0, |record| record.epoch as f64);
    let curves = |training: fn(&EpochRecord) -> f64, validation: fn(&EpochRecord) -> Option<f64>, test: f64| {
        let epoch = |record: &EpochRecord| record.epoch as f64;
        let of_training = report.history.iter().map(|r| (epoch(r), training(r))).collect();
        let of_validation = report.history.iter().filter_map(|r| validation(r).map(|v| (epoch(r), v))).collect();
        vec![
            Curve { name: "training".into(), colour: 0, dashed: false, points: of_training },
            Curve { name: "validation".into(), colour: 1, dashed: true, points: of_validation },
            Curve { name: "test, at the end".into(), colour: 2, dashed: false, points: vec![(last, test)] },
        ]
    };
    let metrics = report.metrics;
    Ok([
        draw_curves("Loss", "mean cross-entropy", &curves(|r| r.loss, |r| r.val_loss, metrics.loss))?,
        draw_curves("Accuracy", "accuracy", &curves(|r| r.accuracy, |r| r.val_accuracy, metrics.accuracy))?,
    ])
}

fn kernel_bars(times: &KernelTimes) -> Result<String, ReportError> {
    let bars: Vec<(String, f64)> = times.kernels.iter().map(|k| (k.kernel.clone(), k.median_us)).collect();
    draw_bars("Kernel times in a training step", "us", &bars)
}

fn result_section(page: &mut Page, report: &Report<'_>) {
    let metrics = report.metrics;
    page.section("result", "Result");
    if report.dataset == DatasetKind::Synthetic {
        page.html(
            "<p class=\"warning\"><strong>Generated images, not Fashion-MNIST.</strong> The genuine data set was not available or \
             not requested. These results say nothing about Fashion-MNIST.</p>",
        );
    }
    if let Some(summary) = report.summary.filter(|summary| summary.status != "complete") {
        page.html(&format!(
            "<p class=\"warning\"><strong>Training did not finish ({}).</strong> {} of {} epochs were completed.</p>",
            escape(&summary.status),
            summary.epochs_completed,
            summary.epochs
        ));
    }
    let [low, high] = metrics.accuracy_95.map(|share| 100.0 * share);
    page.html(&format!(
        "<p class=\"lead\"><strong>{:.2} %</strong> of {} test images are classified correctly \
         <span class=\"quiet\">(95 % confidence interval: {low:.2} to {high:.2} %)</span></p>",
        100.0 * metrics.accuracy,
        grouped(metrics.images as u64)
    ));
    let mut rows = vec![
        ("Model".to_string(), escape(report.model)),
        ("Data set".to_string(), report.dataset.to_string()),
        ("Test loss".to_string(), format!("{:.4}", metrics.loss)),
        ("Test accuracy".to_string(), format!("{:.4}", metrics.accuracy)),
        ("Macro F1".to_string(), format!("{:.4}", metrics.macro_f1)),
        ("Expected calibration error".to_string(), format!("{:.2} %", 100.0 * metrics.ece)),
    ];
    if let (Some(article), DatasetKind::FashionMnist) = (article(report.model), report.dataset) {
        rows.push(("Reported in the article".to_string(), article.to_string()));
    }
    if let Some(summary) = report.summary {
        let (seconds, speed) = (summary.train_seconds, summary.images_per_second);
        let of = format!("{seconds:.1} s, {} images/s", grouped(speed.round() as u64));
        rows.push((format!("Training, {}", count(summary.epochs_completed as usize, "epoch")), of));
        rows.push(("Device".to_string(), escape(&summary.device)));
    }
    page.facts(&rows);
}

/// Returns the results of the TensorFlow 2 article on CNNs for its two models.
fn article(model: &str) -> Option<&'static str> {
    match model {
        "mlp" => Some("loss 0.3522, accuracy 0.8756"),
        "cnn" => Some("loss 0.2410, accuracy 0.9162"),
        _ => None,
    }
}

fn curves_section(page: &mut Page, report: &Report<'_>, loss: &str, accuracy: &str) {
    page.section("curves", "Learning curves");
    page.text(
        "Training values are means over an epoch, while the weights are still changing. They therefore lag behind validation and test \
         values, which are computed with the weights at the end of an epoch.",
    );
    if report.history.iter().all(|record| record.val_loss.is_none()) {
        page.html(
            "<p>No validation images were held out. <code>train --validation-split 0.1</code> holds out a tenth of the training \
             images and adds validation curves.</p>",
        );
    }
    page.html("<div class=\"pair\">");
    page.svg(loss, "Loss per epoch");
    page.svg(accuracy, "Accuracy per epoch");
    page.html("</div>");
    if report.history.is_empty() {
        page.text("This run has no history.");
        return;
    }
    let value = |value: Option<f64>| value.map_or("–".to_string(), |value| format!("{value:.4}"));
    let row = |r: &EpochRecord| {
        vec![
            r.epoch.to_string(),
            format!("{:.4}", r.loss),
            format!("{:.4}", r.accuracy),
            value(r.val_loss),
            value(r.val_accuracy),
            format!("{:.1}", r.seconds),
            grouped(r.images_per_second.round() as u64),
        ]
    };
    let head = ["Epoch", "Loss", "Accuracy", "Validation loss", "Validation accuracy", "Seconds", "Images/s"];
    page.table("Epochs", &head, &report.history.iter().map(row).collect::<Vec<_>>());
}

fn confusion_section(page: &mut Page, report: &Report<'_>, svg: &str) {
    page.section("confusion", "Confusion matrix");
    page.text(&worst_pair(report));
    page.svg(svg, "Confusion matrix");
    let names = || (0..report.description.classes()).map(|class| report.description.class_name(class));
    let head: Vec<&str> = std::iter::once("Original").chain(names()).collect();
    let row = |(name, row): (&str, &Vec<u64>)| {
        std::iter::once(name.to_string()).chain(row.iter().map(ToString::to_string)).collect()
    };
    let rows: Vec<Vec<String>> = names().zip(&report.metrics.confusion).map(row).collect();
    page.details("Show as a table", |page| {
        page.table("Rows are original classes, columns predicted classes", &head, &rows)
    });
}

/// Names the two classes that are most often confused.
fn worst_pair(report: &Report<'_>) -> String {
    let Report { metrics, description, .. } = report;
    let both = |a: usize, b: usize| metrics.confusion[a][b] + metrics.confusion[b][a];
    let pairs = (0..description.classes()).flat_map(|a| (0..a).map(move |b| (b, a)));
    match pairs.max_by_key(|&(a, b)| both(a, b)).filter(|&(a, b)| both(a, b) > 0) {
        Some((a, b)) => format!(
            "Most often confused: {} and {}, {} times in {} images.",
            description.class_name(a),
            description.class_name(b),
            both(a, b),
            grouped(metrics.images as u64)
        ),
        None => "No two classes are confused.".to_string(),
    }
}

fn classes_section(page: &mut Page, report: &Report<'_>) {
    page.section("classes", "Classes");
    page.text("Precision: the fraction of the images predicted as this class that belong to it. Recall: the fraction of the images of this class that are predicted as it. F1: the harmonic mean of both.");
    let row = |c: &super::metrics::ClassMetrics| {
        let shares = [c.precision, c.recall, c.f1].map(|share| format!("{share:.3}"));
        std::iter::once(c.class.clone()).chain(shares).chain([grouped(c.support)]).collect()
    };
    let mut rows: Vec<Vec<String>> = report.metrics.classes.iter().map(row).collect();
    let mean = |of: fn(&super::metrics::ClassMetrics) -> f64| {
        format!("{:.3}", report.metrics.classes.iter().map(of).sum::<f64>() / report.metrics.classes.len() as f64)
    };
    let means = [mean(|c| c.precision), mean(|c| c.recall), mean(|c| c.f1)];
    rows.push(
        std::iter::once("Mean".to_string()).chain(means).chain([grouped(report.metrics.images as u64)]).collect(),
    );
    page.table("Metrics per class", &["Class", "Precision", "Recall", "F1", "Images"], &rows);
}

fn mistakes_section(page: &mut Page, report: &Report<'_>, png: Option<&[u8]>) {
    page.section("mistakes", "Worst mistakes");
    let Some(png) = png else {
        page.text("None: every test image was classified correctly.");
        return;
    };
    page.text(
        "The wrong predictions with the highest confidence. Some of these images have questionable labels; judge for yourself.",
    );
    let name = |class: usize| report.description.class_name(class);
    let listed = report.metrics.mistakes.iter().map(|m| {
        let (class, label) = (name(m.predicted), name(m.label));
        format!("image {}: {class} {:.1} %, original {label}", m.index, 100.0 * m.probabilities[m.predicted])
    });
    page.png(png, "Worst mistakes", &listed.collect::<Vec<_>>().join("; "));
    let row = |m: &super::metrics::Mistake| {
        let percent = |class: usize| format!("{:.1} %", 100.0 * m.probabilities[class]);
        let mut order: Vec<usize> = (0..m.probabilities.len()).filter(|&c| c != m.predicted && c != m.label).collect();
        order.sort_by(|&a, &b| m.probabilities[b].total_cmp(&m.probabilities[a]));
        vec![
            m.index.to_string(),
            name(m.label).to_string(),
            percent(m.label),
            name(m.predicted).to_string(),
            percent(m.predicted),
            // Of two classes, no other is left.
            order.first().map_or("–".to_string(), |&next| format!("{} {}", name(next), percent(next))),
        ]
    };
    let rows: Vec<Vec<String>> = report.metrics.mistakes.iter().map(row).collect();
    let head = ["Test image", "Original", "Its probability", "Predicted", "Its probability", "Next"];
    page.details("Show the probabilities", |page| page.table("Probabilities of the worst mistakes", &head, &rows));
}

fn mistakes_png(report: &Report<'_>) -> Result<Option<Vec<u8>>, ReportError> {
    let name = |class: usize| report.description.class_name(class);
    let items: Vec<GridItem<'_>> = report
        .metrics
        .mistakes
        .iter()
        .map(|m| GridItem {
            image: report.test.image(m.index),
            caption: prediction_caption(name(m.predicted), m.probabilities[m.predicted], name(m.label)),
            tone: Tone::Wrong,
        })
        .collect();
    if items.is_empty() {
        return Ok(None);
    }
    draw_grid(&items, 5, None, report.description)?.encode_png().map(Some)
}

/// Draws the article's grid: the first 25 test images.
fn grid_png(report: &Report<'_>) -> Result<Vec<u8>, ReportError> {
    let name = |class: usize| report.description.class_name(class);
    let items: Vec<GridItem<'_>> = (0..report.test.len().min(25))
        .map(|i| {
            let (predicted, probability, label) = first_choice(report, i);
            GridItem {
                image: report.test.image(i),
                caption: prediction_caption(name(predicted), probability, name(label)),
                tone: if predicted == label { Tone::Right } else { Tone::Wrong },
            }
        })
        .collect();
    draw_grid(&items, columns_for(items.len()), None, report.description)?.encode_png()
}

fn grid_text(report: &Report<'_>) -> String {
    let name = |class: usize| report.description.class_name(class);
    let one = |i: usize| {
        let (predicted, probability, label) = first_choice(report, i);
        let verdict = if predicted == label { "correct" } else { "wrong" };
        format!("{} {:.0} % ({}), {verdict}", name(predicted), 100.0 * probability, name(label))
    };
    (0..report.test.len().min(25)).map(one).collect::<Vec<_>>().join("; ")
}

/// Returns the predicted class, its probability and the original class.
fn first_choice(report: &Report<'_>, i: usize) -> (usize, f32, usize) {
    let classes = report.description.classes();
    let row = &report.probabilities[i * classes..(i + 1) * classes];
    let predicted = super::metrics::argmax(row);
    (predicted, row[predicted], usize::from(report.test.labels[i]))
}

fn calibration_section(page: &mut Page, report: &Report<'_>, svg: &str) {
    let metrics = report.metrics;
    page.section("calibration", "Calibration");
    page.text(
        "When a calibrated model predicts 80 %, it is right eight times out of ten. Bars below the dashed line mean overconfidence. The \
         expected calibration error is the mean gap over 15 bins, weighted by images (Guo et al., 2017). Bins with few images are not \
         meaningful; the table lists the number of images per bin.",
    );
    page.svg(svg, "Reliability diagram");
    let row = |b: &super::metrics::Bin| {
        let share = |share: f64| if b.images == 0 { "–".to_string() } else { format!("{:.1} %", 100.0 * share) };
        vec![
            format!("{:.0} to {:.0} %", 100.0 * b.above, 100.0 * b.to),
            grouped(b.images),
            share(b.confidence),
            share(b.accuracy),
        ]
    };
    let rows: Vec<Vec<String>> = metrics.bins.iter().map(row).collect();
    let head = ["Confidence", "Images", "Mean confidence", "Accuracy"];
    page.details("Show as a table", |page| page.table("Confidence bins", &head, &rows));
}

fn insides_section(page: &mut Page, report: &Report<'_>, filters: Option<&[u8]>, maps: &[Vec<u8>]) {
    page.section("insides", "Inside the network");
    if let (Some(picture), Some(png)) = (report.filters, filters) {
        page.heading("Weights of the first layer");
        page.png(png, &picture.title, &picture.description);
    }
    if maps.is_empty() {
        return;
    }
    page.heading(&format!("Test image {} through the layers", report.map_index));
    page.text("Each tile is one channel of a layer's output. Blue is positive, red negative, white zero. For another image, use report --image INDEX.");
    for (picture, png) in report.maps.iter().zip(maps) {
        page.png(png, &picture.title, &picture.description);
    }
}

fn times_section(page: &mut Page, report: &Report<'_>, svg: Option<&str>) {
    page.section("times", "Kernel times");
    let (Some(times), Some(svg)) = (report.kernel_times, svg) else {
        page.text("Not measured: this report was computed by the plain loops, not on an adapter.");
        return;
    };
    let (how, then) = match times.clock.as_str() {
        "timestamps" => {
            ("kernel by kernel, with the adapter's clock", "In training, steps run back to back and take less time.")
        }
        "one thread" => (
            "call by call, on one thread",
            "In training, all threads share the work. An update consists of a gradient and the optimizer's step.",
        ),
        _ => ("kernel by kernel, with the host's clock", "In training, steps run back to back and take less time."),
    };
    page.text(&format!(
        "A training step with batch size {} on {}, measured when this report was generated, {how}. {then} For details, run fmnist-gpu {}.",
        times.batch_size,
        times.device,
        if times.clock == "one thread" { "bench" } else { "profile" }
    ));
    page.svg(svg, "Kernel times");
    let row = |k: &crate::engine::KernelTime| {
        vec![
            k.kernel.clone(),
            k.calls.to_string(),
            format!("{:.0}", k.median_us),
            format!("{:.1} %", k.percent_of_step),
        ]
    };
    let rows: Vec<Vec<String>> = times.kernels.iter().map(row).collect();
    let head = ["Kernel", "Calls", "Microseconds", "Share"];
    page.details("Show as a table", |page| page.table("Kernels of a step", &head, &rows));
}

fn repeat_section(page: &mut Page, report: &Report<'_>) {
    page.section("repeat", "Reproduce this run");
    if let Some(config) = report.config {
        page.html(&format!("<pre class=\"command\"><code>{}</code></pre>", escape(&command(config))));
        let (adam, rate) = match config.optimizer {
            Optimizer::Adam(adam) => ("adam", adam.learning_rate),
            Optimizer::Sgd(sgd) => ("sgd", sgd.learning_rate),
        };
        let mut rows = vec![
            ("Program".to_string(), format!("fmnist-gpu {}", escape(&config.version))),
            ("Device".to_string(), escape(&config.device)),
            ("Driver".to_string(), escape(&config.driver)),
            ("Backend".to_string(), escape(&config.backend)),
            ("Run-time checks".to_string(), if config.safe { "on" } else { "off" }.to_string()),
            ("Seed".to_string(), config.seed.to_string()),
            ("Training images".to_string(), grouped(config.train_images as u64)),
            ("Validation images".to_string(), grouped(config.validation_images as u64)),
            ("Data source".to_string(), escape(&config.data_source)),
            ("Optimizer".to_string(), format!("{adam}, learning rate {rate}")),
        ];
        rows.push((
            "SHA-256 of model.safetensors".to_string(),
            format!("<code>{}</code>", escape(report.model_sha256)),
        ));
        page.facts(&rows);
        page.text("The same command with the same device, driver and version produces bit-identical weights.");
    } else {
        page.text("There is no config.json next to the weights, so it is unknown how they were trained.");
        page.facts(&[(
            "SHA-256 of model.safetensors".to_string(),
            format!("<code>{}</code>", escape(report.model_sha256)),
        )]);
    }
    page.details("Show the layers", |page| {
        page.html(&format!("<pre tabindex=\"0\" aria-label=\"Layers\">{}</pre>", escape_lines(report.layers)));
    });
}

/// Returns the command line that reproduces a run with this configuration.
pub fn command(config: &RunConfig) -> String {
    let built_in = ["mlp", "cnn"].contains(&config.model.name.as_str());
    let model = if built_in { config.model.name.clone() } else { format!("{}.toml", config.model.name) };
    let mut command = format!(
        "fmnist-gpu train --model {model} --dataset {} --epochs {} --batch-size {} --seed {}",
        config.dataset, config.epochs, config.batch_size, config.seed
    );
    let mut add = |flag: String| {
        command.push(' ');
        command.push_str(&flag);
    };
    match config.optimizer {
        Optimizer::Adam(adam) => add(format!("--learning-rate {}", adam.learning_rate)),
        Optimizer::Sgd(sgd) => {
            add(format!("--optimizer sgd --momentum {} --learning-rate {}", sgd.momentum, sgd.learning_rate));
        }
    }
    let all = config.train_images + config.validation_images;
    if all != 60_000 {
        add(format!("--train-limit {all}"));
    }
    if config.validation_images > 0 {
        add(format!("--validation-split {}", config.validation_images as f64 / all as f64));
    }
    if config.safe {
        add("--safe".to_string());
    }
    command
}
