//! Loss and right answers of a batch.

use super::real::Real;

/// The sums of loss and correct flags over the first `n_valid` rows.
pub fn metrics_accumulate<T: Real>(n_valid: usize, loss: &[T], correct: &[u32]) -> (T, u32) {
    let mut sum = T::ZERO;
    for &loss in &loss[..n_valid] {
        sum += loss;
    }
    (sum, correct[..n_valid].iter().sum())
}
