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
use super::registers;
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
    pub(super) w: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many rows as there are registers for their sums.
        let rows = match registers::<S>() {
            32.. => 8,
            16.. => 6,
            _ => 4,
        };
        let n = self.d.n;
        for first in (0..self.d.o).step_by(2 * S::F32_LANES) {
            let mut row = 0;
            while row < n {
                match (n >= rows, registers::<S>()) {
                    // The last tile starts where it just fits, and sums some rows again.
                    (true, 32..) => forward_tile::<S, 8>(simd, &mut self, row.min(n - rows), first),
                    (true, 16..) => forward_tile::<S, 6>(simd, &mut self, row.min(n - rows), first),
                    (true, _) => forward_tile::<S, 4>(simd, &mut self, row.min(n - rows), first),
                    (false, _) => forward_tile::<S, 1>(simd, &mut self, row, first),
                }
                row += if n >= rows { rows } else { 1 };
            }
        }
    }
}

#[inline(always)]
fn forward_tile<S: Simd, const R: usize>(simd: S, layer: &mut Forward<'_>, row: usize, first: usize) {
    let DenseDims { i, o, .. } = *layer.d;
    let block = 2 * S::F32_LANES;
    let mut x: [&[f32]; R] = [&[]; R];
    for r in 0..R {
        x[r] = &layer.x[(row + r) * i..][..i];
    }
    let mut sums = [vectors::<S, 2>(&layer.b[first..first + block]); R];
    for (k, w) in layer.w.chunks_exact(o).enumerate().take(i) {
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
        let inputs = match registers::<S>() {
            32.. => 14,
            16.. => 6,
            _ => 4,
        };
        let n = self.dw.len() / self.d.o;
        for output in (0..self.d.o).step_by(2 * S::F32_LANES) {
            let mut input = 0;
            while input < n {
                match (n >= inputs, registers::<S>()) {
                    (true, 32..) => backward_w_tile::<S, 14>(simd, &mut self, input.min(n - inputs), output),
                    (true, 16..) => backward_w_tile::<S, 6>(simd, &mut self, input.min(n - inputs), output),
                    (true, _) => backward_w_tile::<S, 4>(simd, &mut self, input.min(n - inputs), output),
                    (false, _) => backward_w_tile::<S, 1>(simd, &mut self, input, output),
                }
                input += if n >= inputs { inputs } else { 1 };
            }
        }
    }
}

#[inline(always)]
fn backward_w_tile<S: Simd, const R: usize>(simd: S, layer: &mut BackwardW<'_>, input: usize, output: usize) {
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
}

/// See [`super::dense::dense_backward_x`].
pub(super) struct BackwardX<'a> {
    pub(super) d: &'a DenseDims,
    pub(super) w: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) dx: &'a mut [f32],
}

/// The most outputs of a layer whose gradient [`BackwardX`] computes.
const MOST_OUTPUTS: usize = 128;
/// The most inputs of a tile of it.
const MOST_INPUTS: usize = 12;
/// The most lanes of two vectors.
const MOST_LANES: usize = 32;

/// Numbers that begin at a cache line.
#[repr(align(64))]
struct Lined<const N: usize>([f32; N]);

impl BackwardX<'_> {
    /// Whether this computes a layer. With few outputs, there is little to pack.
    pub(super) fn suits(d: &DenseDims, lanes: usize) -> bool {
        suits(d, lanes) && d.i >= MOST_INPUTS && d.o <= MOST_OUTPUTS
    }
}

impl WithSimd for BackwardX<'_> {
    type Output = ();

    /// The lanes are rows of the batch, so the weights are read as they are, one number at a time.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let BackwardX { d: &DenseDims { i, o, .. }, w, dy, dx } = self;
        let rows = 2 * S::F32_LANES;
        let mut columns = Lined([0.0; MOST_OUTPUTS * MOST_LANES]);
        for (dy, dx) in dy.chunks(rows * o).zip(dx.chunks_mut(rows * i)) {
            let n = dx.len() / i;
            for (output, column) in columns.0.chunks_exact_mut(rows).take(o).enumerate() {
                (0..rows).for_each(|row| column[row] = if row < n { dy[row * o + output] } else { 0.0 });
            }
            let columns = &S::as_simd_f32s(&columns.0[..o * rows]).0.as_chunks::<2>().0;
            let fits_one = n <= S::F32_LANES;
            let mut input = 0;
            while input < i {
                // The last tile starts where it just fits, and computes some columns again.
                input += match (fits_one, registers::<S>()) {
                    (false, 32..) => backward_x_tile::<S, 12, 2>(simd, columns, w, input.min(i - 12), [i, n], dx),
                    (true, 16..) => backward_x_tile::<S, 12, 1>(simd, columns, w, input.min(i - 12), [i, n], dx),
                    (false, 16..) => backward_x_tile::<S, 6, 2>(simd, columns, w, input.min(i - 6), [i, n], dx),
                    _ => backward_x_tile::<S, 4, 2>(simd, columns, w, input.min(i - 4), [i, n], dx),
                };
            }
        }
    }
}

/// Computes `R` columns of dx, `i` wide, of `n` rows in `V` vectors; returns `R`. `columns` are those of dy, of two vectors each.
#[inline(always)]
fn backward_x_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    columns: &[[S::f32s; 2]],
    w: &[f32],
    input: usize,
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
    let mut turned = Lined([0.0; MOST_INPUTS * MOST_LANES]);
    for r in 0..R {
        let to = S::as_mut_simd_f32s(&mut turned.0[r * lanes..][..lanes]).0;
        for v in 0..V {
            to[v] = sums[r][v];
        }
    }
    for (row, dx) in dx.chunks_exact_mut(i).take(n).enumerate() {
        let dx = &mut dx[input..input + R];
        for r in 0..R {
            dx[r] = turned.0[r * lanes + row];
        }
    }
    R
}
