//! Bias: one number a column. `y[n,o] = x[n,o] + b[o]`. Source: tf.nn.bias_add.

use super::real::Real;

/// Dimensions of a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BiasDims {
    /// Rows; of pictures, `N * H * W`.
    pub n: usize,
    /// Columns.
    pub o: usize,
}

/// `y = x + b` by row. Shapes: x and y `[N, O]`, b `[O]`.
pub fn bias_forward<T: Real>(d: &BiasDims, x: &[T], b: &[T], y: &mut [T]) {
    for n in 0..d.n {
        for o in 0..d.o {
            y[n * d.o + o] = x[n * d.o + o] + b[o];
        }
    }
}

/// The gradient of the bias: sums of the columns. Shapes: dy `[N, O]`, db `[O]`.
pub fn bias_backward_b<T: Real>(d: &BiasDims, dy: &[T], db: &mut [T]) {
    db.fill(T::ZERO);
    for n in 0..d.n {
        for o in 0..d.o {
            db[o] += dy[n * d.o + o];
        }
    }
}
