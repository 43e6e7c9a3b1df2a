//! Softmax with the cross-entropy of the true class, or of soft targets. Sources: sparse categorical cross-entropy in Keras, with its
//! `class_weight`; Szegedy and others, Rethinking the Inception architecture, 2016, section 7, for label smoothing; Zhang and others, mixup, 2018.

use super::real::Real;

/// Dimensions of a softmax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxXentDims {
    /// Rows, the batch.
    pub n: usize,
    /// Classes.
    pub c: usize,
}

/// Returns the position of the largest value, the first on ties, and the sum of the exponentials relative to it.
fn row_parts<T: Real>(x: &[T]) -> (usize, T) {
    let mut highest = 0;
    for c in 1..x.len() {
        if x[c] > x[highest] {
            highest = c;
        }
    }
    let mut sum = T::ZERO;
    for &value in x {
        sum += (value - x[highest]).exp();
    }
    (highest, sum)
}

/// Computes the probabilities, loss and correct flag of each row.
///
/// Shapes: logits x and probabilities `[N, C]`; labels, loss and correct `[N]`.
#[inline(never)]
pub fn softmax_xent_forward<T: Real>(
    d: &SoftmaxXentDims,
    x: &[T],
    labels: &[u32],
    probabilities: &mut [T],
    loss: &mut [T],
    correct: &mut [u32],
) {
    for n in 0..d.n {
        let row = &x[n * d.c..(n + 1) * d.c];
        let (highest, sum) = row_parts(row);
        for c in 0..d.c {
            probabilities[n * d.c + c] = (row[c] - row[highest]).exp() / sum;
        }
        loss[n] = sum.ln() - (row[labels[n] as usize] - row[highest]);
        correct[n] = u32::from(highest == labels[n] as usize);
    }
}

/// What the rows of a batch are to be classified as, besides their labels.
///
/// The target of a class is `(1 - smoothing) * [it is the label] + smoothing / C`, times the weight of the label's class. That of a mixed row is
/// `share` of the target of its label, and the rest of that of its partner's label.
#[derive(Clone, Copy, Debug)]
pub struct SoftTargets<'a> {
    /// The part of each target that all classes share, 0 to 1.
    pub smoothing: f64,
    /// The weight of each class in the loss, `[C]`.
    pub class_weights: &'a [f32],
    /// The label of the row that each row is mixed with, `[N]`.
    pub partners: &'a [u32],
    /// The share of the own label in the target of a mixed row; 1 if rows are not mixed.
    pub share: f64,
}

/// The target of a row.
struct SoftTarget<T> {
    /// The sum over all classes: the weight of the row in the loss.
    weight: T,
    /// What its label and that of its partner have besides the part that all classes share.
    own: (usize, T),
    other: (usize, T),
    /// What every class has.
    even: T,
}

impl<T: Real> SoftTarget<T> {
    fn new(targets: &SoftTargets<'_>, n: usize, label: u32, classes: usize) -> Self {
        let (label, partner) = (label as usize, targets.partners[n] as usize);
        let [share, smoothing] = [targets.share, targets.smoothing].map(T::from_f64);
        let weight = |class: usize| T::from_f64(f64::from(targets.class_weights[class]));
        let (own, other) = (share * weight(label), (T::ONE - share) * weight(partner));
        let (weight, rest) = (own + other, T::ONE - smoothing);
        let even = smoothing / T::from_f64(classes as f64) * weight;
        SoftTarget { weight, own: (label, rest * own), other: (partner, rest * other), even }
    }

    fn at(&self, class: usize) -> T {
        let of = |(label, part): (usize, T)| if class == label { part } else { T::ZERO };
        of(self.own) + of(self.other) + self.even
    }
}

/// Computes the loss of each row for soft targets: the cross-entropy between its target and its probabilities.
///
/// Shapes: logits x `[N, C]`, labels and loss `[N]`.
pub fn softmax_xent_soft_loss<T: Real>(
    d: &SoftmaxXentDims,
    x: &[T],
    labels: &[u32],
    targets: &SoftTargets<'_>,
    loss: &mut [T],
) {
    for n in 0..d.n {
        let row = &x[n * d.c..(n + 1) * d.c];
        let (highest, sum) = row_parts(row);
        let target = SoftTarget::<T>::new(targets, n, labels[n], d.c);
        loss[n] = target.weight * sum.ln();
        for c in 0..d.c {
            loss[n] += target.at(c) * (row[highest] - row[c]);
        }
    }
}

/// Computes the gradient of the mean of [`softmax_xent_soft_loss`] over the first `n_valid` rows; zero in the rows after them.
///
/// Shapes: logits x and dx `[N, C]`, labels `[N]`.
pub fn softmax_xent_soft_backward_x<T: Real>(
    d: &SoftmaxXentDims,
    x: &[T],
    labels: &[u32],
    targets: &SoftTargets<'_>,
    n_valid: usize,
    dx: &mut [T],
) {
    dx.fill(T::ZERO);
    for n in 0..n_valid.min(d.n) {
        let row = &x[n * d.c..(n + 1) * d.c];
        let (highest, sum) = row_parts(row);
        let target = SoftTarget::<T>::new(targets, n, labels[n], d.c);
        for c in 0..d.c {
            let p = (row[c] - row[highest]).exp() / sum;
            dx[n * d.c + c] = (target.weight * p - target.at(c)) / T::from_f64(n_valid as f64);
        }
    }
}

/// Returns the sums of loss and correct flags over the first `n_valid` rows.
pub fn softmax_xent_totals<T: Real>(n_valid: usize, loss: &[T], correct: &[u32]) -> (T, u32) {
    let mut sum = T::ZERO;
    for &loss in &loss[..n_valid] {
        sum += loss;
    }
    (sum, correct[..n_valid].iter().sum())
}

/// Computes the gradient of the mean loss over the first `n_valid` rows; zero in the rows after them.
///
/// Shapes: logits x and dx `[N, C]`, labels `[N]`.
#[inline(never)]
pub fn softmax_xent_backward_x<T: Real>(d: &SoftmaxXentDims, x: &[T], labels: &[u32], n_valid: usize, dx: &mut [T]) {
    dx.fill(T::ZERO);
    for n in 0..n_valid.min(d.n) {
        let row = &x[n * d.c..(n + 1) * d.c];
        let (highest, sum) = row_parts(row);
        for c in 0..d.c {
            let target = if c == labels[n] as usize { T::ONE } else { T::ZERO };
            dx[n * d.c + c] = ((row[c] - row[highest]).exp() / sum - target) / T::from_f64(n_valid as f64);
        }
    }
}
