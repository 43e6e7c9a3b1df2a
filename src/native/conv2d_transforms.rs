//! The transforms of Winograd's algorithm (see [`super::conv2d_winograd`]), each compiled by itself and not into the loops that call it.

#![allow(
    clippy::needless_range_loop,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::conv2d_direct::{relu, vectors};
use super::conv2d_tiles::{Forward, frame_width};
use crate::cpu::conv2d::Conv2dDims;
use pulp::{Simd, WithSimd};

/// The transforms along one axis.
pub(crate) trait Transforms<const M: usize, const T: usize> {
    /// From products to outputs.
    const OUTPUT: [[f32; T]; M];
    /// Of inputs.
    const INPUT: [[f32; T]; T];
    /// Of a filter.
    const FILTER: [[f32; 3]; T];
}

/// F(2 x 2, 3 x 3), from the points 0, 1, -1.
pub(crate) struct Two;

impl Transforms<2, 4> for Two {
    const OUTPUT: [[f32; 4]; 2] = [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, -1.0]];
    const INPUT: [[f32; 4]; 4] =
        [[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0, 1.0, 0.0, -1.0]];
    const FILTER: [[f32; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
}

/// F(3 x 3, 3 x 3), from the points 0, 1, -1, 2.
pub(crate) struct Three;

impl Transforms<3, 5> for Three {
    const OUTPUT: [[f32; 5]; 3] = [[1.0, 1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, 2.0, 0.0], [0.0, 1.0, 1.0, 4.0, 1.0]];
    const INPUT: [[f32; 5]; 5] = [
        [2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 1.0, 0.0],
        [0.0, 2.0, -3.0, 1.0, 0.0],
        [0.0, -1.0, 0.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0],
    ];
    const FILTER: [[f32; 3]; 5] = [
        [1.0 / 2.0, 0.0, 0.0],
        [-1.0 / 2.0, -1.0 / 2.0, -1.0 / 2.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 6.0, 1.0 / 3.0, 2.0 / 3.0],
        [0.0, 0.0, 1.0],
    ];
}

/// F(4 x 4, 3 x 3), from the points 0, 1, -1, 2, -2.
pub(crate) struct Four;

impl Transforms<4, 6> for Four {
    const OUTPUT: [[f32; 6]; 4] = [
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
        [0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
        [0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
    ];
    const INPUT: [[f32; 6]; 6] = [
        [4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
        [0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
        [0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
        [0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
        [0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
        [0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
    ];
    const FILTER: [[f32; 3]; 6] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
}

/// Whether there are tiles of more than 2x2 outputs. Not in a browser, where the module has to be small.
pub(crate) const LARGER: bool = !cfg!(target_arch = "wasm32");

/// Calls a function for an instruction set with the transforms of a side. Without vectors, nothing is computed by this algorithm.
macro_rules! with_transforms {
    ($side:expr, $function:ident::<$simd:ty>($($arguments:expr),*)) => {
        match $side {
            _ if <$simd>::F32_LANES < 4 => unreachable!("there are vectors"),
            3 if LARGER => $function::<$simd, Three, 3, 5>($($arguments),*),
            4 if LARGER => $function::<$simd, Four, 4, 6>($($arguments),*),
            _ => $function::<$simd, Two, 2, 4>($($arguments),*),
        }
    };
}

/// Returns the transpose of a matrix.
pub(crate) const fn transposed<const R: usize, const C: usize>(matrix: &[[f32; C]; R]) -> [[f32; R]; C] {
    let mut transposed = [[0.0; R]; C];
    let mut r = 0;
    while r < R {
        let mut c = 0;
        while c < C {
            transposed[c][r] = matrix[r][c];
            c += 1;
        }
        r += 1;
    }
    transposed
}

/// Repeats a block for each index below `$n`, which is at most 6. In a loop, a compiler may keep arrays of vectors in memory.
macro_rules! unrolled {
    ($n:expr, $i:ident, $block:block) => {
        unrolled!($n, $i, $block, 0, 1, 2, 3, 4, 5)
    };
    ($n:expr, $i:ident, $block:block, $($index:literal),*) => {
        $(if $index < $n {
            const $i: usize = $index;
            $block
        })*
    };
}

/// Returns the product of a constant matrix and a column of vectors: an addition where the factor is 1, nothing where it is 0.
#[inline(always)]
fn along_axis<S: Simd, const R: usize, const C: usize>(
    simd: S,
    matrix: &[[f32; C]; R],
    x: [S::f32s; C],
) -> [S::f32s; R] {
    let zero = simd.splat_f32s(0.0);
    let mut y = [zero; R];
    unrolled!(R, I, {
        // First something that is added: a difference needs no negation then.
        let mut first = C;
        unrolled!(C, J, {
            if first == C && matrix[I][J] > 0.0 {
                first = J;
                y[I] = if matrix[I][J] == 1.0 { x[J] } else { simd.mul_f32s(simd.splat_f32s(matrix[I][J]), x[J]) };
            }
        });
        unrolled!(C, J, {
            let factor = matrix[I][J];
            if factor != 0.0 && J != first {
                y[I] = if factor == 1.0 {
                    simd.add_f32s(y[I], x[J])
                } else if factor == -1.0 {
                    simd.sub_f32s(y[I], x[J])
                } else {
                    simd.mul_add_e_f32s(simd.splat_f32s(factor), x[J], y[I])
                };
            }
        });
    });
    y
}

/// The same along both axes: the columns first.
#[inline(always)]
fn along_both<S: Simd, const R: usize, const C: usize>(
    simd: S,
    matrix: &[[f32; C]; R],
    x: impl Fn(usize, usize) -> S::f32s,
) -> [[S::f32s; R]; R] {
    let zero = simd.splat_f32s(0.0);
    let mut rows = [[zero; C]; R];
    unrolled!(C, J, {
        let mut column = [zero; C];
        unrolled!(C, I, { column[I] = x(I, J) });
        let column = along_axis::<S, R, C>(simd, matrix, column);
        unrolled!(R, I, { rows[I][J] = column[I] });
    });
    let mut y = [[zero; R]; R];
    unrolled!(R, I, { y[I] = along_axis::<S, R, C>(simd, matrix, rows[I]) });
    y
}

/// The output channels of a block, at most.
pub(super) const MOST: usize = 64;

/// The transform of some filters, `block` output channels of one input channel.
pub(super) struct Pack<'a> {
    pub(super) side: usize,
    pub(super) filter: &'a [[f32; MOST]; 9],
    pub(super) block: usize,
    pub(super) to: &'a mut [f32],
    pub(super) of_frequency: usize,
}

impl WithSimd for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_transforms!(self.side, transform_filter::<S>(simd, self));
    }
}

#[inline(always)]
fn transform_filter<S: Simd, X: Transforms<M, T>, const M: usize, const T: usize>(simd: S, pack: Pack<'_>) {
    let Pack { filter, block, to, of_frequency, .. } = pack;
    for first in (0..block).step_by(S::F32_LANES) {
        let transformed = along_both::<S, T, 3>(
            simd,
            &X::FILTER,
            #[inline(always)]
            |i, j| vector::<S>(&filter[3 * i + j][first..]),
        );
        unrolled!(T, I, {
            unrolled!(T, J, { store::<S>(&mut to[(T * I + J) * of_frequency + first..], transformed[I][J]) });
        });
    }
}

/// The transform of the windows of tiles.
pub(super) struct TransformX<'a> {
    pub(super) side: usize,
    pub(super) d: &'a Conv2dDims,
    pub(super) framed: &'a [f32],
    pub(super) tiles: &'a [[u32; 2]],
    pub(super) of_tile: usize,
    pub(super) to: &'a mut [f32],
}

impl WithSimd for TransformX<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_transforms!(self.side, transform_x::<S>(simd, self));
    }
}

#[inline(always)]
fn transform_x<S: Simd, X: Transforms<M, T>, const M: usize, const T: usize>(simd: S, transform: TransformX<'_>) {
    let TransformX { d, framed, tiles, of_tile, to, .. } = transform;
    let (c, row) = (d.c, frame_width(d) * d.c);
    for (&[window, _], to) in tiles.iter().zip(to.chunks_exact_mut(of_tile)) {
        let mut rows: [&[f32]; T] = [&[]; T];
        for i in 0..T {
            rows[i] = &framed[window as usize + i * row..][..T * c];
        }
        for (first, to) in (0..c).step_by(S::F32_LANES).zip(to.chunks_exact_mut(T * T * S::F32_LANES)) {
            let transformed = along_both::<S, T, T>(
                simd,
                &X::INPUT,
                #[inline(always)]
                |i, j| vector::<S>(&rows[i][j * c + first..]),
            );
            store_tile::<S, T>(to, transformed);
        }
    }
}

/// The transform of sums of products to the outputs of tiles.
pub(super) struct TransformSums<'a, 'p> {
    pub(super) side: usize,
    pub(super) tiles: &'a [[u32; 2]],
    pub(super) of_tile: usize,
    pub(super) sums: &'a [f32],
    pub(super) product: &'a mut Forward<'p>,
}

impl WithSimd for TransformSums<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_transforms!(self.side, transform_sums::<S>(simd, self));
    }
}

#[inline(always)]
fn transform_sums<S: Simd, X: Transforms<M, T>, const M: usize, const T: usize>(
    simd: S,
    transform: TransformSums<'_, '_>,
) {
    let TransformSums { tiles, of_tile, sums, product, .. } = transform;
    let Forward { windows, b, relu: with_relu, pool, y, argmax, .. } = product;
    let (d, zero) = (&windows.d, simd.splat_f32s(0.0));
    let (o, image) = (d.o, d.ho * d.wo);
    for (&[_, position], sums) in tiles.iter().zip(sums.chunks_exact(of_tile)) {
        let position = position as usize;
        let (i_image, i, j) = (position / image, position % image / d.wo, position % d.wo);
        for (first, sums) in (0..o).step_by(S::F32_LANES).zip(sums.chunks_exact(T * T * S::F32_LANES)) {
            let bias = b.map_or(zero, |b| vector::<S>(&b[first..]));
            let sums = S::as_simd_f32s(sums).0.as_chunks::<T>().0;
            let mut outputs = along_both::<S, M, T>(
                simd,
                &X::OUTPUT,
                #[inline(always)]
                |i, j| sums[i][j],
            );
            unrolled!(M, K, {
                unrolled!(M, L, {
                    outputs[K][L] = simd.add_f32s(outputs[K][L], bias);
                    outputs[K][L] = if *with_relu { relu(simd, outputs[K][L]) } else { outputs[K][L] };
                });
            });
            if pool.is_none() {
                unrolled!(M, K, {
                    let y = &mut y[(position + K * d.wo) * o + first..];
                    unrolled!(M, L, { store::<S>(&mut y[L * o..], outputs[K][L]) });
                });
                continue;
            }
            // A tile is one pooling window, or four.
            unrolled!(M / 2, K, {
                unrolled!(M / 2, L, {
                    let window = [
                        [outputs[2 * K][2 * L], outputs[2 * K][2 * L + 1]],
                        [outputs[2 * K + 1][2 * L], outputs[2 * K + 1][2 * L + 1]],
                    ];
                    let [i, j] = [i + 2 * K, j + 2 * L];
                    let (best, best_at) = maximum(simd, window, [i * d.wo + j, d.wo]);
                    let cell = ((i_image * d.ho + i) / 2 * (d.wo / 2) + j / 2) * o + first;
                    store::<S>(&mut y[cell..], best);
                    S::as_mut_simd_u32s(&mut argmax[cell..cell + S::F32_LANES]).0[0] = best_at;
                });
            });
        }
    }
}

/// Returns the maximum of a pooling window and its position, given the first position and the number of positions in a row.
#[inline(always)]
fn maximum<S: Simd>(simd: S, window: [[S::f32s; 2]; 2], [first, row]: [usize; 2]) -> (S::f32s, S::u32s) {
    let place = |position: usize| simd.splat_u32s(position as u32);
    let (mut best, mut best_at) = (window[0][0], place(first));
    // The first of equal values wins, as in the plain loops.
    for (y, position) in [(window[0][1], first + 1), (window[1][0], first + row), (window[1][1], first + row + 1)] {
        let is_higher = simd.greater_than_f32s(y, best);
        best = simd.select_f32s(is_higher, y, best);
        best_at = simd.select_u32s(is_higher, place(position), best_at);
    }
    (best, best_at)
}

/// The transform of the gradients of the outputs of tiles: the transpose of that of outputs.
pub(super) struct TransformDy<'a> {
    pub(super) side: usize,
    pub(super) d: &'a Conv2dDims,
    pub(super) dy: &'a [f32],
    pub(super) tiles: &'a [[u32; 2]],
    pub(super) of_tile: usize,
    pub(super) to: &'a mut [f32],
}

impl WithSimd for TransformDy<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_transforms!(self.side, transform_dy::<S>(simd, self));
    }
}

#[inline(always)]
fn transform_dy<S: Simd, X: Transforms<M, T>, const M: usize, const T: usize>(simd: S, transform: TransformDy<'_>) {
    let TransformDy { d, dy, tiles, of_tile, to, .. } = transform;
    let o = d.o;
    for (&[_, position], to) in tiles.iter().zip(to.chunks_exact_mut(of_tile)) {
        let mut rows: [&[f32]; M] = [&[]; M];
        for i in 0..M {
            rows[i] = &dy[(position as usize + i * d.wo) * o..][..M * o];
        }
        for (first, to) in (0..o).step_by(S::F32_LANES).zip(to.chunks_exact_mut(T * T * S::F32_LANES)) {
            let transformed = along_both::<S, T, M>(
                simd,
                const { &transposed(&X::OUTPUT) },
                #[inline(always)]
                |i, j| vector::<S>(&rows[i][j * o + first..]),
            );
            store_tile::<S, T>(to, transformed);
        }
    }
}

/// Adds the gradient of a filter `[3, 3, C, O]` to `dw`, from its transformed sums `[T * T, C, O]`.
pub(super) struct AddFilter<'a> {
    pub(super) side: usize,
    pub(super) sums: &'a [f32],
    pub(super) dw: &'a mut [f32],
}

impl WithSimd for AddFilter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_transforms!(self.side, add_filter::<S>(simd, self.sums, self.dw));
    }
}

#[inline(always)]
fn add_filter<S: Simd, X: Transforms<M, T>, const M: usize, const T: usize>(simd: S, sums: &[f32], dw: &mut [f32]) {
    let len = dw.len() / 9;
    for at in (0..len).step_by(S::F32_LANES) {
        let added = along_both::<S, 3, T>(
            simd,
            const { &transposed(&X::FILTER) },
            #[inline(always)]
            |i, j| vector::<S>(&sums[(T * i + j) * len + at..]),
        );
        for i in 0..3 {
            for j in 0..3 {
                let dw = &mut dw[(3 * i + j) * len + at..][..S::F32_LANES];
                let sum = simd.add_f32s(vector::<S>(dw), added[i][j]);
                store::<S>(dw, sum);
            }
        }
    }
}

/// Stores the frequencies of one vector of channels.
#[inline(always)]
fn store_tile<S: Simd, const T: usize>(to: &mut [f32], transformed: [[S::f32s; T]; T]) {
    let rows = S::as_mut_simd_f32s(to).0.as_chunks_mut::<T>().0;
    unrolled!(T, I, { rows[I] = transformed[I] });
}

/// Loads the vector at the start of `values`.
#[inline(always)]
pub(super) fn vector<S: Simd>(values: &[f32]) -> S::f32s {
    vectors::<S, 1>(&values[..S::F32_LANES])[0]
}

/// Stores a vector at the start of `values`.
#[inline(always)]
fn store<S: Simd>(values: &mut [f32], vector: S::f32s) {
    S::as_mut_simd_f32s(&mut values[..S::F32_LANES]).0[0] = vector;
}
