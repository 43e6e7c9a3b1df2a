//! Fully connected layer: `y[n,o] = b[o] + sum over i of x[n,i] * w[i,o]`. Source: keras.layers.Dense.
//!
//! Like other loops that several proofs call, these are never inlined: every copy is a part of what visitors of the page download.

use super::real::Real;

/// Dimensions of a fully connected layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseDims {
    /// Rows, the batch.
    pub n: usize,
    /// Inputs.
    pub i: usize,
    /// Outputs.
    pub o: usize,
}

/// Computes `y = x w + b`. Shapes: x `[N, I]`, w `[I, O]`, b `[O]`, y `[N, O]`.
#[inline(never)]
pub fn dense_forward<T: Real>(d: &DenseDims, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    for n in 0..d.n {
        let row = &mut y[n * d.o..(n + 1) * d.o];
        row.copy_from_slice(b);
        for i in 0..d.i {
            for o in 0..d.o {
                row[o] += x[n * d.i + i] * w[i * d.o + o];
            }
        }
    }
}

/// Computes the gradient of the input, `dy w^T`. Shapes: w `[I, O]`, dy `[N, O]`, dx `[N, I]`.
#[inline(never)]
pub fn dense_backward_x<T: Real>(d: &DenseDims, w: &[T], dy: &[T], dx: &mut [T]) {
    for n in 0..d.n {
        for i in 0..d.i {
            let mut sum = T::ZERO;
            for o in 0..d.o {
                sum += dy[n * d.o + o] * w[i * d.o + o];
            }
            dx[n * d.i + i] = sum;
        }
    }
}

/// Computes the gradient of the weights, `x^T dy`. Shapes: x `[N, I]`, dy `[N, O]`, dw `[I, O]`.
#[inline(never)]
pub fn dense_backward_w<T: Real>(d: &DenseDims, x: &[T], dy: &[T], dw: &mut [T]) {
    dw.fill(T::ZERO);
    for n in 0..d.n {
        for i in 0..d.i {
            for o in 0..d.o {
                dw[i * d.o + o] += x[n * d.i + i] * dy[n * d.o + o];
            }
        }
    }
}
