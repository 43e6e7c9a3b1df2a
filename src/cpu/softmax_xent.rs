//! Softmax with the cross-entropy of the true class. Source: sparse categorical cross-entropy in Keras.

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
