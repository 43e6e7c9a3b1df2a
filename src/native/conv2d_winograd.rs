//! Convolutions with 3x3 windows by Winograd's algorithm F(M x M, 3 x 3), with M = 2, 3 or 4: a product for each of the T = M + 2
//! inputs along both axes gives M outputs along both, so a tile takes 16 products instead of 36, 25 instead of 81, or 36 instead of 144.
//!
//! Along one axis, the outputs of the filter g over the inputs x are, with the matrices of [`super::conv2d_transforms`],
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

use super::conv2d_direct::constant_len;
use super::conv2d_tiles::{BackwardW, Forward, Tiles, Windows, add_products, convolve, frame_len, frame_width, is_new};
use super::conv2d_transforms::{LARGER, MOST, Pack, TransformDy, TransformSums, TransformX, vector};
use super::{Aligned, registers, vectorized};
use crate::cpu::conv2d::Conv2dDims;
use pulp::Simd;

/// The tiles of the output of some images.
#[derive(Debug)]
pub(super) struct Winograd {
    /// See [`Winograd::side`], which is what to read.
    side: usize,
    /// The offset of each tile's window in the framed images, and the tile's first position in the output.
    tiles: Vec<[u32; 2]>,
    /// Tiles that are transformed together.
    at_once: usize,
    /// The offset of each of as many tiles in a transformed tensor with the channels of x.
    starts: Vec<u32>,
}

impl Winograd {
    /// Plans y and dw, with tiles side by side. Returns `None` if this module cannot compute them, or not well; `pooled` says whether a max
    /// pooling of 2x2 windows follows.
    pub(super) fn new(d: &Conv2dDims, pooled: bool, lanes: usize) -> Option<Self> {
        // Whole pooling windows in a tile.
        let fits = |side| d.ho.is_multiple_of(side) && d.wo.is_multiple_of(side) && !(side == 3 && pooled);
        let side = Self::sides(d, lanes).find(|&side| fits(side))?;
        Some(Self::with_side(side, d))
    }

    /// Plans dx; `d` is the convolution of dy. The last tile of a row or column starts where it just fits, and computes some outputs again.
    pub(super) fn of_gradient(d: &Conv2dDims, lanes: usize) -> Option<Self> {
        let products = |side: usize| d.ho.div_ceil(side) * d.wo.div_ceil(side) * (side + 2) * (side + 2);
        let fits = |side| side <= d.ho.min(d.wo) && 2 * products(side) <= 9 * d.ho * d.wo;
        let side = Self::sides(d, lanes).filter(|&side| fits(side)).min_by_key(|&side| products(side))?;
        Some(Self::with_side(side, d))
    }

    /// Returns the sides of tiles that suit a convolution, the largest first.
    fn sides(d: &Conv2dDims, lanes: usize) -> impl Iterator<Item = usize> {
        // A larger transformed filter would be read from beyond the L2 cache for every few tiles.
        const FILTER: usize = 420_000;
        let suits = [d.kh, d.kw, d.stride_h, d.stride_w] == [3, 3, 1, 1]
            && d.c.is_multiple_of(lanes)
            && d.o.is_multiple_of(lanes);
        let channels = d.c * d.o;
        let is_near = move |side| (side + 2) * (side + 2) * channels <= FILTER;
        [4, 3, 2].into_iter().filter(move |&side| suits && (side == 2 || LARGER && is_near(side)))
    }

    /// Plans tiles of `side` by `side` outputs.
    fn with_side(side: usize, d: &Conv2dDims) -> Self {
        let mut winograd = Winograd { side, tiles: Vec::new(), at_once: 0, starts: Vec::new() };
        // As many as leave both transformed tensors in an L2 cache of 1 MB; a multiple of the rows of a tile of sums.
        const VALUES: usize = 196_608;
        winograd.at_once = (VALUES / (winograd.frequencies() * (d.c + d.o)) / 12 * 12).max(72);
        winograd.starts = (0..winograd.at_once).map(|tile| (tile * winograd.tile_len(d.c)) as u32).collect();
        winograd
    }

    /// Returns the number of images that have tiles enough to read the transformed filter for, at most those of a share.
    pub(super) fn least_images(&self, d: &Conv2dDims) -> usize {
        const TILES: usize = 48;
        const SHARE: usize = 32;
        TILES.div_ceil(self.tiles_per_image(d)).min(SHARE)
    }

    /// Lists the tiles of some images.
    pub(super) fn list(&mut self, d: &Conv2dDims, images: usize) {
        let (side, columns, per_image) = (self.side(), d.wo.div_ceil(self.side()), self.tiles_per_image(d));
        let tile = |at: usize| {
            let (image, tile) = (at / per_image, at % per_image);
            let (i, j) = ((tile / columns * side).min(d.ho - side), (tile % columns * side).min(d.wo - side));
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
        d.ho.div_ceil(self.side()) * d.wo.div_ceil(self.side())
    }

    /// Returns the number of outputs of a tile along an axis: where there is one size, the compiler knows it.
    pub(super) fn side(&self) -> usize {
        if LARGER { self.side } else { 2 }
    }

    /// Returns the number of products per tile and channel.
    fn frequencies(&self) -> usize {
        (self.side() + 2) * (self.side() + 2)
    }

    /// Returns the distance of two tiles of a transformed tensor. A cache line lies between them, since powers of two would put the same
    /// frequency of all tiles into one set of the cache.
    fn tile_len(&self, channels: usize) -> usize {
        self.frequencies() * channels + 16
    }
}

/// Packs a filter as `[T * T, blocks, C, block]`; `value` returns its value for a term and an output channel.
pub(super) fn pack(
    windows: &Windows,
    winograd: &Winograd,
    packed: &mut Aligned<f32>,
    value: impl Fn(usize, usize) -> f32,
) {
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
            vectorized(Pack { side: winograd.side(), filter: &filter, block, to, of_frequency });
        }
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
        let side = winograd.side();
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
        let (side, to_x, to_dy) = (winograd.side(), &mut *x, &mut *of_y);
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
