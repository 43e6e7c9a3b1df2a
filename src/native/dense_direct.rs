//! Dense layers in vector registers, without packing a matrix first: a batch has so few rows that packing takes longer
//! than the sums.
//!
//! Tiles as in the convolution: `R` values, each broadcast to all lanes, times `V` vectors of outputs. Measured on one
//! core with AVX-512, 784 inputs, 128 outputs, 16 rows (one thread's share of a batch of 32), `matrixmultiply` takes 39
//! us for the forward pass and 22 us for dw. For dx, the lanes are rows of the batch, so that the weights need not be turned.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::conv2d_direct::{constant_len, relu, vectors};
use super::{Aligned, registers};
use crate::cpu::dense::DenseDims;
use pulp::{Simd, WithSimd};

/// Whether a layer's outputs fill tiles of vectors with this many lanes.
pub(super) fn suits(d: &DenseDims, lanes: usize) -> bool {
    lanes >= 4 && d.o.is_multiple_of(2 * lanes)
}

/// See [`super::dense::dense_forward`].
pub(super) struct Forward<'a> {
    pub(super) d: &'a DenseDims,
    pub(super) relu: bool,
    pub(super) x: &'a [f32],
    /// Of all inputs, or of as many as are multiplied.
    pub(super) w: &'a [f32],
    /// Empty if there is none.
    pub(super) b: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let n = self.d.n;
        for first in (0..self.d.o).step_by(2 * S::F32_LANES) {
            let mut row = 0;
            while row < n {
                // As many rows as there are registers for their sums. The last tile starts where it just fits, and sums some rows again.
                row += match (n, registers::<S>()) {
                    (8.., 32..) => forward_tile::<S, 8>(simd, &mut self, row.min(n - 8), first),
                    (6.., 16..32) => forward_tile::<S, 6>(simd, &mut self, row.min(n - 6), first),
                    (4.., ..16) => forward_tile::<S, 4>(simd, &mut self, row.min(n - 4), first),
                    _ => forward_tile::<S, 1>(simd, &mut self, row, first),
                };
            }
        }
    }
}

/// Computes `R` rows of two vectors of outputs; returns `R`.
#[inline(always)]
fn forward_tile<S: Simd, const R: usize>(simd: S, layer: &mut Forward<'_>, row: usize, first: usize) -> usize {
    let DenseDims { i, o, .. } = *layer.d;
    let block = 2 * S::F32_LANES;
    let mut x: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        x[r] = &layer.x[(row + r) * i..][..layer.w.len() / o];
    }
    let zero = simd.splat_f32s(0.0);
    let bias = if layer.b.is_empty() { [zero; 2] } else { vectors::<S, 2>(&layer.b[first..first + block]) };
    let mut sums = [bias; R];
    for (k, w) in layer.w.chunks_exact(o).enumerate() {
        let w = vectors::<S, 2>(&w[first..first + block]);
        for r in 0..R {
            let x = simd.splat_f32s(x[r][k]);
            sums[r][0] = simd.mul_add_e_f32s(x, w[0], sums[r][0]);
            sums[r][1] = simd.mul_add_e_f32s(x, w[1], sums[r][1]);
        }
    }
    if layer.relu {
        for r in 0..R {
            sums[r] = [relu(simd, sums[r][0]), relu(simd, sums[r][1])];
        }
    }
    for r in 0..R {
        let y = S::as_mut_simd_f32s(&mut layer.y[(row + r) * o + first..][..block]).0;
        y[0] = sums[r][0];
        y[1] = sums[r][1];
    }
    R
}

/// See [`super::dense::dense_backward_w`].
pub(super) struct BackwardW<'a> {
    pub(super) d: &'a DenseDims,
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
    /// The first input whose weights' gradients are wanted.
    pub(super) first: usize,
    pub(super) dw: &'a mut [f32],
}

impl WithSimd for BackwardW<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let n = self.dw.len() / self.d.o;
        for output in (0..self.d.o).step_by(2 * S::F32_LANES) {
            let mut input = 0;
            while input < n {
                input += match (n, registers::<S>()) {
                    (14.., 32..) => backward_w_tile::<S, 14>(simd, &mut self, input.min(n - 14), output),
                    (6.., 16..32) => backward_w_tile::<S, 6>(simd, &mut self, input.min(n - 6), output),
                    (4.., ..16) => backward_w_tile::<S, 4>(simd, &mut self, input.min(n - 4), output),
                    _ => backward_w_tile::<S, 1>(simd, &mut self, input, output),
                };
            }
        }
    }
}

/// Computes the gradients of the weights of `R` inputs and two vectors of outputs; returns `R`.
#[inline(always)]
fn backward_w_tile<S: Simd, const R: usize>(simd: S, layer: &mut BackwardW<'_>, input: usize, output: usize) -> usize {
    let DenseDims { i, o, .. } = *layer.d;
    let block = 2 * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); 2]; R];
    for (x, dy) in layer.x.chunks_exact(i).zip(layer.dy.chunks_exact(o)) {
        let x: &[f32; R] = constant_len(&x[layer.first + input..][..R]);
        let dy = vectors::<S, 2>(&dy[output..output + block]);
        for r in 0..R {
            let x = simd.splat_f32s(x[r]);
            sums[r][0] = simd.mul_add_e_f32s(x, dy[0], sums[r][0]);
            sums[r][1] = simd.mul_add_e_f32s(x, dy[1], sums[r][1]);
        }
    }
    for r in 0..R {
        let dw = S::as_mut_simd_f32s(&mut layer.dw[(input + r) * o + output..][..block]).0;
        dw[0] = sums[r][0];
        dw[1] = sums[r][1];
    }
    R
}

/// See [`super::dense::dense_backward_x`].
pub(super) struct BackwardX<'a> {
    pub(super) d: &'a DenseDims,
    pub(super) w: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) dx: &'a mut [f32],
}

impl BackwardX<'_> {
    /// The most inputs of a tile.
    const INPUTS: usize = 12;

    /// Whether a layer fills the tiles. One whose outputs fill no vectors has few, and little to pack.
    pub(super) fn suits(d: &DenseDims, lanes: usize) -> bool {
        suits(d, lanes) && d.i >= Self::INPUTS
    }
}

impl WithSimd for BackwardX<'_> {
    type Output = ();

    /// The lanes are rows of the batch, so the weights are read as they are, one number at a time.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let BackwardX { d: &DenseDims { i, o, .. }, w, dy, dx } = self;
        let rows = 2 * S::F32_LANES;
        // The columns of dy, and the tile before it is turned.
        let (mut columns, mut turned) = (Aligned::default(), Aligned::default());
        columns.grow(o * rows);
        turned.grow(Self::INPUTS * rows);
        for (dy, dx) in dy.chunks(rows * o).zip(dx.chunks_mut(rows * i)) {
            let n = dx.len() / i;
            for (output, column) in columns.chunks_exact_mut(rows).enumerate() {
                (0..rows).for_each(|row| column[row] = if row < n { dy[row * o + output] } else { 0.0 });
            }
            let columns = S::as_simd_f32s(&columns).0.as_chunks::<2>().0;
            // One vector holds all rows.
            let fit_one = n <= S::F32_LANES;
            let (mut input, turned) = (0, &mut *turned);
            while input < i {
                // As above, the last tile starts where it just fits.
                input += match (fit_one, registers::<S>()) {
                    (false, 32..) => {
                        backward_x_tile::<S, 12, 2>(simd, columns, w, input.min(i - 12), turned, [i, n], dx)
                    }
                    (true, 16..) => {
                        backward_x_tile::<S, 12, 1>(simd, columns, w, input.min(i - 12), turned, [i, n], dx)
                    }
                    (false, 16..) => backward_x_tile::<S, 6, 2>(simd, columns, w, input.min(i - 6), turned, [i, n], dx),
                    _ => backward_x_tile::<S, 4, 2>(simd, columns, w, input.min(i - 4), turned, [i, n], dx),
                };
            }
        }
    }
}

/// Computes `R` columns of dx, which has `n` rows, in `V` vectors, and `i` columns; returns `R`. `columns` are those of dy.
#[inline(always)]
fn backward_x_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    columns: &[[S::f32s; 2]],
    w: &[f32],
    input: usize,
    turned: &mut [f32],
    [i, n]: [usize; 2],
    dx: &mut [f32],
) -> usize {
    let o = columns.len();
    let mut of: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        of[r] = &w[(input + r) * o..][..o];
    }
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (output, dy) in columns.iter().enumerate() {
        for r in 0..R {
            let w = simd.splat_f32s(of[r][output]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(w, dy[v], sums[r][v]);
            }
        }
    }
    let lanes = S::F32_LANES * V;
    for r in 0..R {
        let to = S::as_mut_simd_f32s(&mut turned[r * lanes..][..lanes]).0;
        for v in 0..V {
            to[v] = sums[r][v];
        }
    }
    for (row, dx) in dx.chunks_exact_mut(i).take(n).enumerate() {
        let dx = &mut dx[input..input + R];
        for r in 0..R {
            dx[r] = turned[r * lanes + row];
        }
    }
    R
}
