//! Quality of a classifier's predictions: accuracy, confusion matrix, precision and recall, calibration, worst mistakes.

use crate::data::{Description, Split};
use serde::{Deserialize, Serialize};

/// Metrics over a test set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Number of images.
    pub images: usize,
    /// Number of views of each image whose predictions were averaged, if there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub views: Option<usize>,
    /// Accuracy, 0 to 1.
    pub accuracy: f64,
    /// Confidence interval of the accuracy at 95 % (Wilson, 1927).
    pub accuracy_95: [f64; 2],
    /// Mean cross-entropy, computed from the single-precision probabilities.
    pub loss: f64,
    /// `confusion[original][predicted]`: numbers of images.
    pub confusion: Vec<Vec<u64>>,
    /// Metrics of each class.
    pub classes: Vec<ClassMetrics>,
    /// Mean of the classes' F1 scores.
    pub macro_f1: f64,
    /// Expected calibration error over [`N_BINS`] bins of equal width, 0 to 1 (Guo et al., On Calibration of Modern Neural Networks, 2017).
    pub ece: f64,
    /// The confidence bins.
    pub bins: Vec<Bin>,
    /// Whether each image was classified correctly: a string of `1` and `0`, for comparing two runs image by image.
    pub right: String,
    /// The mistakes with the highest confidence.
    pub mistakes: Vec<Mistake>,
}

/// Metrics of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Its name.
    pub class: String,
    /// Fraction of the images predicted as this class that belong to it; 0 if there are none.
    pub precision: f64,
    /// Fraction of the images of this class that were predicted as it; 0 if there are none.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Number of images of this class.
    pub support: u64,
}

/// Number of confidence bins.
pub const N_BINS: usize = 15;

/// The predictions whose confidence lies in one bin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower bound of the confidence, exclusive (inclusive for the first bin).
    pub above: f64,
    /// Upper bound of the confidence, inclusive.
    pub to: f64,
    /// Number of images.
    pub images: u64,
    /// Mean confidence; 0 if there are no images.
    pub confidence: f64,
    /// Accuracy; 0 if there are no images.
    pub accuracy: f64,
}

/// One wrong prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mistake {
    /// Index in the test set.
    pub index: usize,
    /// The original class.
    pub label: usize,
    /// The predicted class.
    pub predicted: usize,
    /// Probability of every class.
    pub probabilities: Vec<f32>,
}

impl Mistake {
    /// Returns the most probable class beside the predicted and the original one, if there are others.
    pub(super) fn runner_up(&self) -> Option<usize> {
        let mut others: Vec<usize> =
            (0..self.probabilities.len()).filter(|&class| class != self.predicted && class != self.label).collect();
        others.sort_by(|&a, &b| self.probabilities[b].total_cmp(&self.probabilities[a]));
        others.first().copied()
    }
}

/// Maximum number of mistakes kept.
const N_MISTAKES: usize = 15;

impl Metrics {
    /// Parses the bytes of a `report.json` of a run with these classes.
    ///
    /// # Errors
    /// They are not valid metrics of as many classes.
    pub fn parse(bytes: &[u8], description: &Description) -> Result<Self, String> {
        let metrics: Metrics = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let (n, expected) = (metrics.classes.len(), description.classes());
        if n != expected {
            return Err(format!("it has metrics of {n} classes, expected {expected}"));
        }
        let confusion = &metrics.confusion;
        if confusion.len() != expected || confusion.iter().any(|row| row.len() != expected) {
            return Err(format!("its confusion matrix is not {expected} x {expected}"));
        }
        Ok(metrics)
    }

    /// Computes the metrics of `probabilities`, `[n, classes]`, for the `n` images of `split`.
    ///
    /// # Panics
    /// Panics if the lengths do not match or there are no images, which is a bug in the caller.
    pub fn new(split: &Split, probabilities: &[f32], description: &Description) -> Metrics {
        let (n, n_classes) = (split.len(), description.classes());
        assert!(n > 0 && probabilities.len() == n * n_classes, "{n} images, {} probabilities", probabilities.len());
        let rows: Vec<&[f32]> = probabilities.chunks_exact(n_classes).collect();
        let predicted: Vec<usize> = rows.iter().map(|row| argmax(row)).collect();
        let label = |i: usize| usize::from(split.labels[i]);
        let mut confusion = vec![vec![0u64; n_classes]; n_classes];
        for (i, &class) in predicted.iter().enumerate() {
            confusion[label(i)][class] += 1;
        }
        let n_right: u64 = (0..n_classes).map(|class| confusion[class][class]).sum();
        // A probability that was rounded to zero counts as the smallest positive normal number.
        let loss = |i: usize| -f64::from(rows[i][label(i)].max(f32::MIN_POSITIVE)).ln();
        let of_class = |class| ClassMetrics::new(class, &confusion, description);
        let classes: Vec<ClassMetrics> = (0..n_classes).map(of_class).collect();
        let bins = bins(&rows, &predicted, split);
        let gap = |bin: &Bin| bin.images as f64 * (bin.accuracy - bin.confidence).abs();
        let mut wrong: Vec<usize> = (0..n).filter(|&i| predicted[i] != label(i)).collect();
        wrong.sort_by(|&a, &b| rows[b][predicted[b]].total_cmp(&rows[a][predicted[a]]));
        let mistake = |&index: &usize| Mistake {
            index,
            label: label(index),
            predicted: predicted[index],
            probabilities: rows[index].to_vec(),
        };
        Metrics {
            images: n,
            views: None,
            accuracy: n_right as f64 / n as f64,
            accuracy_95: wilson_95(n_right, n as u64),
            loss: (0..n).map(loss).sum::<f64>() / n as f64,
            macro_f1: classes.iter().map(|class| class.f1).sum::<f64>() / n_classes as f64,
            classes,
            confusion,
            ece: bins.iter().map(gap).sum::<f64>() / n as f64,
            bins,
            right: (0..n).map(|i| if predicted[i] == label(i) { '1' } else { '0' }).collect(),
            mistakes: wrong.iter().take(N_MISTAKES).map(mistake).collect(),
        }
    }
}

impl ClassMetrics {
    fn new(class: usize, confusion: &[Vec<u64>], description: &Description) -> Self {
        let right = confusion[class][class];
        let given: u64 = confusion.iter().map(|row| row[class]).sum();
        let support: u64 = confusion[class].iter().sum();
        let share = |of: u64| if of == 0 { 0.0 } else { right as f64 / of as f64 };
        let f1 = if given + support == 0 { 0.0 } else { 2.0 * right as f64 / (given + support) as f64 };
        let class = description.class_name(class).to_string();
        ClassMetrics { class, precision: share(given), recall: share(support), f1, support }
    }
}

fn bins(rows: &[&[f32]], predicted: &[usize], split: &Split) -> Vec<Bin> {
    let mut sums = [(0u64, 0.0f64, 0u64); N_BINS];
    for (i, (row, &class)) in rows.iter().zip(predicted).enumerate() {
        let confidence = f64::from(row[class]);
        let bin = ((confidence * N_BINS as f64).ceil() as usize).clamp(1, N_BINS) - 1;
        sums[bin].0 += 1;
        sums[bin].1 += confidence;
        sums[bin].2 += u64::from(class == usize::from(split.labels[i]));
    }
    let edge = |i: usize| i as f64 / N_BINS as f64;
    let bin = |(i, (images, confidence, right)): (usize, (u64, f64, u64))| {
        let mean = |sum: f64| if images == 0 { 0.0 } else { sum / images as f64 };
        Bin { above: edge(i), to: edge(i + 1), images, confidence: mean(confidence), accuracy: mean(right as f64) }
    };
    sums.into_iter().enumerate().map(bin).collect()
}

/// Returns the Wilson interval of a proportion at 95 % confidence.
pub fn wilson_95(right: u64, n: u64) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (n as f64, right as f64 / n as f64);
    let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// Performs McNemar's exact test of two runs on the same images: the probability of a difference at least this large if both were
/// equally good. `right_a` and `right_b` are as in [`Metrics::right`]; returns `None` if their lengths differ.
///
/// Returns the number of images that only a classifies correctly, the number that only b does, and the probability.
pub fn mcnemar(right_a: &str, right_b: &str) -> Option<(u64, u64, f64)> {
    if right_a.len() != right_b.len() {
        return None;
    }
    let only = |x: u8, y: u8| right_a.bytes().zip(right_b.bytes()).filter(|&pair| pair == (x, y)).count() as u64;
    let (a, b) = (only(b'1', b'0'), only(b'0', b'1'));
    let (n, least) = (a + b, a.min(b));
    // Both tails of the binomial distribution with p = 1/2, summed with logarithms because 2^n overflows a float.
    let (mut tail, mut ln_term) = (0.0f64, -(n as f64) * std::f64::consts::LN_2);
    for k in 0..=least {
        tail += ln_term.exp();
        ln_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    Some((a, b, (2.0 * tail).min(1.0)))
}

/// Returns the index of the largest value, the first one on ties.
pub fn argmax(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}
