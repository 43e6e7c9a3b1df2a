//! Convolutions with 3x3 windows by Winograd's algorithm F(M x M, 3 x 3), with M = 2, 3 or 4: a product for each of the T = M + 2
//! inputs along both axes gives M outputs along both, so a tile takes 16 products instead of 36, 25 instead of 81, or 36 instead of 144.
//!
//! Along one axis, the outputs of the filter g over the inputs x are, with the matrices of [`Transforms`],
//!
//! ```text
//! y = OUTPUT ((FILTER g) * (INPUT x))     for M = 2:   y0 = m0 + m1 + m2     m0 = (x0 - x2) g0     m1 = (x1 + x2) (g0 + g1 + g2) / 2
//!                                                      y1 = m1 - m2 - m3     m3 = (x1 - x3) g2     m2 = (x2 - x1) (g0 - g1 + g2) / 2
//! ```
//!
//! Along both axes, a tile has T x T such products, its frequencies. The factors are transformed once per channel, so for each
//! frequency all that is left is a product of two matrices:
//!
//! | result | is transformed from | products of | by |
//! |---|---|---|---|
//! | y | x and the filter | tiles by input channels | input by output channels |
//! | dx | dy in its frame and the turned filter | tiles by output channels | output by input channels |
//! | dw | x and dy | input channels by tiles | tiles by output channels |
//!
//! For dw, each transform is transposed. A transformed tensor has for each tile and each vector of channels the frequencies one after the
//! other, so that a tile is written as one run of memory. Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015.

#![allow(
    clippy::needless_range_loop,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::conv2d_direct::{constant_len, relu, vectors};
use super::conv2d_tiles::{BackwardW, Forward, Tiles, Windows, add_products, convolve, frame_len, frame_width, is_new};
use super::{Aligned, registers, vectorized};
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

/// The tiles of the output of some images.
#[derive(Debug)]
pub(super) struct Winograd {
    /// The number of outputs of a tile along an axis.
    pub(super) side: usize,
    /// The offset of each tile's window in the framed images, and the tile's first position in the output.
    tiles: Vec<[u32; 2]>,
    /// Tiles that are transformed together.
    at_once: usize,
    /// The offset of each of as many tiles in a transformed tensor with the channels of x.
    starts: Vec<u32>,
}

impl Winograd {
    /// Returns `None` if this module cannot compute the convolution, or not well; `pooled` says whether a max pooling of 2x2 windows follows.
    pub(super) fn new(d: &Conv2dDims, pooled: bool, lanes: usize) -> Option<Self> {
        // A larger transformed filter would be read from beyond the L2 cache for every few tiles.
        const FILTER: usize = 420_000;
        let fits = |side: usize| {
            let is_near = (side + 2) * (side + 2) * d.c * d.o <= FILTER;
            d.ho.is_multiple_of(side) && d.wo.is_multiple_of(side) && (side == 2 || is_near)
        };
        // Whole pooling windows in a tile; and tiles enough per image to fill one of sums.
        let side = [4, 3, 2].into_iter().filter(|&side| side == 2 || LARGER).find(|&side| match side {
            3 => fits(side) && !pooled && d.ho * d.wo >= 36,
            _ => fits(side),
        })?;
        let suits = [d.kh, d.kw, d.stride_h, d.stride_w] == [3, 3, 1, 1]
            && d.c.is_multiple_of(lanes)
            && d.o.is_multiple_of(lanes);
        if !suits {
            return None;
        }
        let mut winograd = Winograd { side, tiles: Vec::new(), at_once: 0, starts: Vec::new() };
        // As many as leave both transformed tensors in an L2 cache of 1 MB; a multiple of the rows of a tile of sums.
        const VALUES: usize = 196_608;
        winograd.at_once = (VALUES / (winograd.frequencies() * (d.c + d.o)) / 12 * 12).max(72);
        winograd.starts = (0..winograd.at_once).map(|tile| (tile * winograd.tile_len(d.c)) as u32).collect();
        Some(winograd)
    }

    /// Returns the number of images that have tiles enough to read the transformed filter for, at most 16.
    pub(super) fn least_images(&self, d: &Conv2dDims) -> usize {
        const TILES: usize = 48;
        TILES.div_ceil(self.tiles_per_image(d)).min(16)
    }

    /// Lists the tiles of some images.
    pub(super) fn list(&mut self, d: &Conv2dDims, images: usize) {
        let (side, columns, per_image) = (self.side, d.wo / self.side, self.tiles_per_image(d));
        let tile = |at: usize| {
            let (image, tile) = (at / per_image, at % per_image);
            let (i, j) = (tile / columns * side, tile % columns * side);
            let window = image * frame_len(d) + (i * frame_width(d) + j) * d.c;
            [window as u32, ((image * d.ho + i) * d.wo + j) as u32]
        };
        self.tiles = (0..images * per_image).map(tile).collect();
    }

    /// Returns the number of values that both passes need room for.
    pub(super) fn room(&self, d: &Conv2dDims) -> usize {
        self.at_once * (self.tile_len(d.c) + self.tile_len(d.o))
    }

    /// Returns the number of sums of the gradient of the filter.
    pub(super) fn filter_sums_len(&self, d: &Conv2dDims) -> usize {
        self.frequencies() * d.c * d.o
    }

    /// Returns the tiles of some images.
    fn of(&self, d: &Conv2dDims, framed: &[f32]) -> &[[u32; 2]] {
        &self.tiles[..framed.len() / frame_len(d) * self.tiles_per_image(d)]
    }

    fn tiles_per_image(&self, d: &Conv2dDims) -> usize {
        d.ho * d.wo / (self.side * self.side)
    }

    /// Returns the number of products per tile and channel.
    fn frequencies(&self) -> usize {
        (self.side + 2) * (self.side + 2)
    }

    /// Returns the distance of two tiles of a transformed tensor. A cache line lies between them, since powers of two would put the same
    /// frequency of all tiles into one set of the cache.
    fn tile_len(&self, channels: usize) -> usize {
        self.frequencies() * channels + 16
    }
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

/// Packs a filter as `[T * T, blocks, C, block]`; `value` returns its value for a term and an output channel.
pub(super) fn pack(
    windows: &Windows,
    winograd: &Winograd,
    packed: &mut Aligned<f32>,
    value: impl Fn(usize, usize) -> f32,
) {
    const MOST: usize = 64;
    let (c, block) = (windows.d.c, windows.block);
    let of_block = c * block;
    let of_frequency = windows.blocks().count() * of_block;
    packed.grow(winograd.frequencies() * of_frequency);
    let mut filter = [[0.0; MOST]; 9];
    for (i_block, first) in windows.blocks().enumerate() {
        for channel in 0..c {
            for (tap, of_tap) in filter.iter_mut().enumerate() {
                of_tap[..block].iter_mut().enumerate().for_each(|(i, to)| *to = value(tap * c + channel, first + i));
            }
            let to = &mut packed[i_block * of_block + channel * block..];
            vectorized(Pack { side: winograd.side, filter: &filter, block, to, of_frequency });
        }
    }
}

/// The transform of some filters, `block` output channels of one input channel.
struct Pack<'a> {
    side: usize,
    filter: &'a [[f32; 64]; 9],
    block: usize,
    to: &'a mut [f32],
    of_frequency: usize,
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

/// As [`super::conv2d_tiles::Forward`].
#[inline(always)]
pub(super) fn forward<S: Simd, const R: usize, const V: usize>(simd: S, winograd: &Winograd, mut product: Forward<'_>) {
    let Forward { windows, framed, packed, .. } = product;
    let (d, zero) = (&windows.d, simd.splat_f32s(0.0));
    let (c, o, lanes, frequencies) = (d.c, d.o, S::F32_LANES, winograd.frequencies());
    let of_frequency = packed.len() / frequencies;
    let [of_x, of_y] = [c, o].map(|channels| winograd.tile_len(channels));
    let (x, sums) = std::mem::take(&mut product.transformed).split_at_mut(winograd.at_once * of_x);
    for tiles in winograd.of(d, framed).chunks(winograd.at_once) {
        let side = winograd.side;
        simd.vectorize(TransformX { side, d, framed, tiles, of_tile: of_x, to: &mut *x });
        for (frequency, packed) in packed.chunks_exact(of_frequency).enumerate() {
            let framed = &x[frequency * lanes..];
            for (first, packed) in windows.blocks().zip(packed.chunks_exact(c * windows.block)) {
                let filter = S::as_simd_f32s(packed).0.as_chunks::<V>().0;
                // The channels of a tile: in runs of one vector, with the other frequencies between them.
                let [runs, run, row] = [c / lanes, lanes, frequencies * lanes];
                let product = Tiles { runs, run, row, framed, filter, bias: [zero; V], relu: false };
                let sums = &mut sums[first * frequencies + frequency * lanes..];
                convolve::<S, R, V>(simd, &product, &winograd.starts[..tiles.len()], sums, [of_y, row]);
            }
        }
        simd.vectorize(TransformSums { side, tiles, of_tile: of_y, sums: &*sums, product: &mut product });
    }
}

/// The transform of the windows of tiles. This one and those below are compiled by themselves, not into each of the loops that call them.
struct TransformX<'a> {
    side: usize,
    d: &'a Conv2dDims,
    framed: &'a [f32],
    tiles: &'a [[u32; 2]],
    of_tile: usize,
    to: &'a mut [f32],
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
struct TransformSums<'a, 'p> {
    side: usize,
    tiles: &'a [[u32; 2]],
    of_tile: usize,
    sums: &'a [f32],
    product: &'a mut Forward<'p>,
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

/// As [`super::conv2d_tiles::BackwardW`], but the sums of the gradient of the filter are transformed, `[T * T, C, O]`.
#[inline(always)]
pub(super) fn backward_w<S: Simd, const V: usize>(simd: S, winograd: &Winograd, product: BackwardW<'_>) {
    let BackwardW { windows, framed, dy, dw: of_filter, db, transformed } = product;
    let d = &windows.d;
    let (c, o, lanes, frequencies) = (d.c, d.o, S::F32_LANES, winograd.frequencies());
    let [of_x, of_dy] = [c, o].map(|channels| winograd.tile_len(channels));
    let (x, of_y) = transformed.split_at_mut(winograd.at_once * of_x);
    // Few enough that a frequency of both stays in the L1 cache, while the products go through the filter.
    for tiles in winograd.of(d, framed).chunks(winograd.at_once / 3) {
        let (side, to_x, to_dy) = (winograd.side, &mut *x, &mut *of_y);
        simd.vectorize(TransformX { side, d, framed, tiles, of_tile: of_x, to: to_x });
        simd.vectorize(TransformDy { side, d, dy, tiles, of_tile: of_dy, to: to_dy });
        for (frequency, of_filter) in of_filter.chunks_exact_mut(c * o).enumerate() {
            for (i_block, first) in windows.blocks().enumerate() {
                let is_new = is_new::<S, V>(i_block * windows.block - first);
                let dy = &of_y[first * frequencies + frequency * lanes..];
                let sums = Sums { x, of_x, dy, of_dy, row: frequencies * lanes, tiles: tiles.len(), is_new };
                let mut channel = 0;
                while channel < c {
                    let at = channel / lanes * frequencies * lanes + frequency * lanes + channel % lanes;
                    let to = &mut of_filter[channel * o + first..];
                    channel += if registers::<S>() >= 32 && lanes >= 8 {
                        sums.add_tile::<8>(simd, at, to, o)
                    } else {
                        sums.add_tile::<4>(simd, at, to, o)
                    };
                }
            }
        }
    }
    for (i_block, first) in windows.blocks().enumerate() {
        let is_new = is_new::<S, V>(i_block * windows.block - first);
        super::conv2d_tiles::Sums { framed, dy, first, o, starts: &[], is_new }.add_bias(simd, db);
    }
}

/// What the tiles of sums of one frequency and one block of output channels have in common.
struct Sums<'a, S: Simd, const V: usize> {
    x: &'a [f32],
    of_x: usize,
    dy: &'a [f32],
    of_dy: usize,
    /// The distance of two vectors of channels of dy.
    row: usize,
    tiles: usize,
    is_new: [S::f32s; V],
}

impl<S: Simd, const V: usize> Sums<'_, S, V> {
    /// Adds the products of `R` channels of x, which are at `at` in each tile, and those of the block. Returns `R`.
    #[inline(always)]
    fn add_tile<const R: usize>(&self, simd: S, at: usize, to: &mut [f32], stride: usize) -> usize {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        let (x, lanes) = (&self.x[at..], S::F32_LANES);
        for tile in 0..self.tiles {
            let x: &[f32; R] = constant_len(&x[tile * self.of_x..][..R]);
            let dy = &self.dy[tile * self.of_dy..][..(V - 1) * self.row + lanes];
            let mut vectors = [simd.splat_f32s(0.0); V];
            for v in 0..V {
                vectors[v] = vector::<S>(&dy[v * self.row..]);
            }
            sums = add_products::<S, R, V>(
                simd,
                #[inline(always)]
                |r| x[r],
                &vectors,
                sums,
            );
        }
        for r in 0..R {
            let to = S::as_mut_simd_f32s(&mut to[r * stride..][..lanes * V]).0;
            for v in 0..V {
                to[v] = simd.mul_add_e_f32s(sums[r][v], self.is_new[v], to[v]);
            }
        }
        R
    }
}

/// The transform of the gradients of the outputs of tiles: the transpose of that of outputs.
struct TransformDy<'a> {
    side: usize,
    d: &'a Conv2dDims,
    dy: &'a [f32],
    tiles: &'a [[u32; 2]],
    of_tile: usize,
    to: &'a mut [f32],
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
    pub(super) winograd: &'a Winograd,
    pub(super) sums: &'a [f32],
    pub(super) dw: &'a mut [f32],
}

impl WithSimd for AddFilter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_transforms!(self.winograd.side, add_filter::<S>(simd, self.sums, self.dw));
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
fn vector<S: Simd>(values: &[f32]) -> S::f32s {
    vectors::<S, 1>(&values[..S::F32_LANES])[0]
}

/// Stores a vector at the start of `values`.
#[inline(always)]
fn store<S: Simd>(values: &mut [f32], vector: S::f32s) {
    S::as_mut_simd_f32s(&mut values[..S::F32_LANES]).0[0] = vector;
}
