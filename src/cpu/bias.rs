//! Bias: one number per column. `y[n,o] = x[n,o] + b[o]`. Source: tf.nn.bias_add.

use super::real::Real;

/// Dimensions of a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BiasDims {
    /// Rows; for images, `N * H * W`.
    pub n: usize,
    /// Columns.
    pub o: usize,
}

/// Computes `y = x + b` for each row. Shapes: x and y `[N, O]`, b `[O]`.
pub fn bias_forward<T: Real>(d: &BiasDims, x: &[T], b: &[T], y: &mut [T]) {
    for n in 0..d.n {
        for o in 0..d.o {
            y[n * d.o + o] = x[n * d.o + o] + b[o];
        }
    }
}

/// Computes the gradient of the bias: the column sums. Shapes: dy `[N, O]`, db `[O]`.
#[inline(never)]
pub fn bias_backward_b<T: Real>(d: &BiasDims, dy: &[T], db: &mut [T]) {
    db.fill(T::ZERO);
    for n in 0..d.n {
        for o in 0..d.o {
            db[o] += dy[n * d.o + o];
        }
    }
}
