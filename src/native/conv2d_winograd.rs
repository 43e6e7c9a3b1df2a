//! Convolutions with 3x3 windows by Winograd's algorithm F(2x2, 3x3): 16 products for a 2x2 tile of the output, not 36.
//!
//! Along one axis, two outputs of the filter g over the inputs x are
//!
//! ```text
//! y0 = m0 + m1 + m2        m0 = (x0 - x2) g0        m1 = (x1 + x2) (g0 + g1 + g2) / 2
//! y1 = m1 - m2 - m3        m3 = (x1 - x3) g2        m2 = (x2 - x1) (g0 - g1 + g2) / 2
//! ```
//!
//! Along both axes, a tile has 16 such products, its frequencies. The factors are transformed once per channel, so for each
//! frequency all that is left is a product of two matrices, which [`super::conv2d_tiles`] computes in registers:
//!
//! | result | is transformed from | products of | by |
//! |---|---|---|---|
//! | y | x and the filter | tiles by input channels | input by output channels |
//! | dx | dy in its frame and the turned filter | tiles by output channels | output by input channels |
//! | dw | x and dy | input channels by tiles | tiles by output channels |
//!
//! For dw, each transform is transposed. Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015.

#![allow(
    clippy::needless_range_loop,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::conv2d_direct::{constant_len, relu, vectors};
use super::conv2d_tiles::{BackwardW, Forward, Sums, Tiles, Windows, convolve, frame_len, frame_width, is_new};
use super::{Aligned, registers, vectorized};
use crate::cpu::conv2d::Conv2dDims;
use pulp::Simd;

/// Products per tile and channel.
const FREQUENCIES: usize = 16;

/// The tiles of the output of some images.
#[derive(Debug)]
pub(super) struct Winograd {
    /// The offset of each tile's window in the framed images, and the tile's first position in the output.
    tiles: Vec<[u32; 2]>,
    /// Tiles that are transformed together.
    at_once: usize,
    /// The offsets of the rows of a transformed tensor of as many tiles.
    rows: Vec<u32>,
}

impl Winograd {
    /// Returns `None` if this module cannot compute the convolution, or not well.
    pub(super) fn new(d: &Conv2dDims, images: usize, lanes: usize) -> Option<Self> {
        let suits = [d.kh, d.kw, d.stride_h, d.stride_w] == [3, 3, 1, 1]
            && d.ho.is_multiple_of(2)
            && d.wo.is_multiple_of(2)
            && d.c.min(d.o) >= lanes;
        if !suits {
            return None;
        }
        let tile = |at: usize| {
            let (image, tile) = (at / tiles_per_image(d), at % tiles_per_image(d));
            let (i, j) = (tile / (d.wo / 2) * 2, tile % (d.wo / 2) * 2);
            let window = image * frame_len(d) + (i * frame_width(d) + j) * d.c;
            [window as u32, ((image * d.ho + i) * d.wo + j) as u32]
        };
        // As many as leave both transformed tensors in an L2 cache of 1 MB; a multiple of the rows of a tile of sums.
        const VALUES: usize = 12_288;
        let at_once = (VALUES / (d.c + d.o) / 12 * 12).max(12);
        let tiles = (0..images * tiles_per_image(d)).map(tile).collect();
        let rows = (0..at_once).map(|row| (row * d.c) as u32).collect();
        Some(Winograd { tiles, at_once, rows })
    }

    /// Returns the number of values that both passes need room for.
    pub(super) fn room(&self, d: &Conv2dDims) -> usize {
        FREQUENCIES * (distance(self.at_once, d.c) + distance(self.at_once, d.o) + d.c * d.o)
    }

    /// Returns the tiles of some images.
    fn of(&self, d: &Conv2dDims, framed: &[f32]) -> &[[u32; 2]] {
        &self.tiles[..framed.len() / frame_len(d) * tiles_per_image(d)]
    }
}

fn tiles_per_image(d: &Conv2dDims) -> usize {
    d.ho * d.wo / 4
}

/// Returns the distance of two frequencies of a transformed tensor. A cache line lies between them, since powers of two would
/// put all frequencies of a tile into the same set of the cache.
fn distance(tiles: usize, channels: usize) -> usize {
    tiles * channels + 16
}

/// Returns the first channel of each vector; the last one is moved back to where it just fits.
#[inline(always)]
fn vectors_of(channels: usize, lanes: usize) -> impl Iterator<Item = usize> {
    (0..channels).step_by(lanes).map(move |first| first.min(channels - lanes))
}

/// Packs a filter as `[16, blocks, C, block]`; `value` returns its value for a term and an output channel.
pub(super) fn pack(windows: &Windows, packed: &mut Aligned<f32>, value: impl Fn(usize, usize) -> f32) {
    const MOST: usize = 64;
    let (c, block) = (windows.d.c, windows.block);
    let of_block = c * block;
    let of_frequency = windows.blocks().count() * of_block;
    packed.grow(FREQUENCIES * of_frequency);
    let (mut filter, mut transformed) = ([[0.0; MOST]; 9], [[0.0; MOST]; FREQUENCIES]);
    for (i_block, first) in windows.blocks().enumerate() {
        for channel in 0..c {
            for (tap, of_tap) in filter.iter_mut().enumerate() {
                of_tap[..block].iter_mut().enumerate().for_each(|(i, to)| *to = value(tap * c + channel, first + i));
            }
            vectorized(
                #[inline(always)]
                || transform_filter(&filter, block, &mut transformed),
            );
            for (frequency, values) in transformed.iter().enumerate() {
                let to = frequency * of_frequency + i_block * of_block + channel * block;
                packed[to..to + block].copy_from_slice(&values[..block]);
            }
        }
    }
}

/// Transforms the first `n` filters. At most `N`, so that no index is checked.
#[inline(always)]
fn transform_filter<const N: usize>(filter: &[[f32; N]; 9], n: usize, transformed: &mut [[f32; N]; FREQUENCIES]) {
    for i in 0..n.min(N) {
        let mut rows = [[0.0; 3]; 4];
        for q in 0..3 {
            let column = spread([filter[q][i], filter[3 + q][i], filter[6 + q][i]]);
            for p in 0..4 {
                rows[p][q] = column[p];
            }
        }
        for p in 0..4 {
            let row = spread(rows[p]);
            for q in 0..4 {
                transformed[4 * p + q][i] = row[q];
            }
        }
    }
}

/// The transform of a filter along one axis.
#[inline(always)]
fn spread([g0, g1, g2]: [f32; 3]) -> [f32; 4] {
    [g0, 0.5 * (g0 + g1 + g2), 0.5 * (g0 - g1 + g2), g2]
}

/// As [`super::conv2d_tiles::Forward`].
#[inline(always)]
pub(super) fn forward<S: Simd, const R: usize, const V: usize>(simd: S, winograd: &Winograd, product: Forward<'_>) {
    let Forward { windows, framed, packed, b, relu: with_relu, pool, y, argmax, transformed, .. } = product;
    let (d, zero) = (&windows.d, simd.splat_f32s(0.0));
    let (c, o, image) = (d.c, d.o, d.ho * d.wo);
    let of_frequency = packed.len() / FREQUENCIES;
    let of_pixel = Conv2dDims { kh: 1, kw: 1, ..*d };
    for (i_chunk, tiles) in winograd.of(d, framed).chunks(winograd.at_once).enumerate() {
        let [of_x, of_y] = [c, o].map(|channels| distance(tiles.len(), channels));
        let (x, sums) = transformed.split_at_mut(FREQUENCIES * of_x);
        transform_x(simd, d, framed, tiles, x);
        let both = x.chunks_exact(of_x).zip(sums.chunks_exact_mut(of_y)).zip(packed.chunks_exact(of_frequency));
        for ((framed, sums), packed) in both {
            for (first, packed) in windows.blocks().zip(packed.chunks_exact(c * windows.block)) {
                let filter = S::as_simd_f32s(packed).0.as_chunks::<V>().0;
                let product = Tiles { d: &of_pixel, framed, filter, bias: [zero; V], relu: false };
                convolve::<S, R, V>(simd, &product, &winograd.rows[..tiles.len()], &mut sums[first..], o);
            }
        }
        for (i_tile, &[_, position]) in tiles.iter().enumerate() {
            let position = position as usize;
            let products = of_tile(sums, of_y, i_tile, o);
            for first in vectors_of(o, S::F32_LANES) {
                let bias = b.map_or(zero, |b| vector::<S>(&b[first..]));
                let mut outputs = outputs(simd, |frequency| vector::<S>(&products[frequency][first..]));
                for k in 0..4 {
                    outputs[k] = simd.add_f32s(outputs[k], bias);
                    outputs[k] = if with_relu { relu(simd, outputs[k]) } else { outputs[k] };
                }
                if pool.is_none() {
                    for k in 0..4 {
                        store::<S>(&mut y[(position + k / 2 * d.wo + k % 2) * o + first..], outputs[k]);
                    }
                    continue;
                }
                // A tile is a window of the pooling.
                let place = |k: usize| simd.splat_u32s((position % image + k / 2 * d.wo + k % 2) as u32);
                let (mut best, mut best_at) = (outputs[0], place(0));
                for k in 1..4 {
                    // The first of equal values wins, as in the plain loops.
                    let is_higher = simd.greater_than_f32s(outputs[k], best);
                    best = simd.select_f32s(is_higher, outputs[k], best);
                    best_at = simd.select_u32s(is_higher, place(k), best_at);
                }
                let cell = (i_chunk * winograd.at_once + i_tile) * o + first;
                store::<S>(&mut y[cell..], best);
                S::as_mut_simd_u32s(&mut argmax[cell..cell + S::F32_LANES]).0[0] = best_at;
            }
        }
    }
}

/// As [`super::conv2d_tiles::BackwardW`].
#[inline(always)]
pub(super) fn backward_w<S: Simd, const V: usize>(simd: S, winograd: &Winograd, product: BackwardW<'_>) {
    let BackwardW { windows, framed, dy, dw, db, transformed } = product;
    let d = &windows.d;
    let (c, o) = (d.c, d.o);
    let (of_filter, transformed) = transformed.split_at_mut(FREQUENCIES * c * o);
    of_filter.fill(0.0);
    for tiles in winograd.of(d, framed).chunks(winograd.at_once) {
        let [of_x, of_dy] = [c, o].map(|channels| distance(tiles.len(), channels));
        let (x, of_y) = transformed.split_at_mut(FREQUENCIES * of_x);
        transform_x(simd, d, framed, tiles, x);
        transform_dy(simd, d, dy, tiles, of_y);
        let both = x.chunks_exact(of_x).zip(of_y.chunks_exact(of_dy)).zip(of_filter.chunks_exact_mut(c * o));
        for ((framed, dy), of_filter) in both {
            for (i_block, first) in windows.blocks().enumerate() {
                let is_new = is_new::<S, V>(i_block * windows.block - first);
                let (starts, dy) = (&winograd.rows[..tiles.len()], &dy[..tiles.len() * o]);
                let sums = Sums { framed, dy, first, o, starts, is_new };
                let mut channel = 0;
                while channel < c {
                    let to = &mut of_filter[channel * o..];
                    // Most numbers of channels are multiples of eight.
                    channel += match c - channel {
                        8.. if registers::<S>() >= 32 => sums.add_tile::<8>(simd, channel, to),
                        4.. => sums.add_tile::<4>(simd, channel, to),
                        _ => sums.add_tile::<1>(simd, channel, to),
                    };
                }
            }
        }
    }
    for (i_block, first) in windows.blocks().enumerate() {
        let is_new = is_new::<S, V>(i_block * windows.block - first);
        Sums { framed, dy, first, o, starts: &[], is_new }.add_bias(simd, db);
    }
    add_filter(c * o, of_filter, dw);
}

/// Adds the gradient of a filter with `len` values per tap, given that of the transformed filter.
#[inline(always)]
fn add_filter(len: usize, transformed: &[f32], dw: &mut [f32]) {
    // As many at once as a compiler makes vectors of.
    const MANY: usize = 16;
    let whole = len / MANY * MANY;
    (0..whole).step_by(MANY).for_each(|at| add_cells::<MANY>(len, at, transformed, dw));
    (whole..len).for_each(|at| add_cells::<1>(len, at, transformed, dw));
}

#[inline(always)]
fn add_cells<const N: usize>(len: usize, at: usize, transformed: &[f32], dw: &mut [f32]) {
    let of = |frequency: usize| constant_len::<f32, N>(&transformed[frequency * len + at..][..N]);
    let of: [&[f32; N]; FREQUENCIES] = std::array::from_fn(of);
    let mut sums = [[0.0; N]; 9];
    for i in 0..N {
        let mut rows = [[0.0; 4]; 3];
        for q in 0..4 {
            let column = gathered([of[q][i], of[4 + q][i], of[8 + q][i], of[12 + q][i]]);
            for p in 0..3 {
                rows[p][q] = column[p];
            }
        }
        for p in 0..3 {
            let row = gathered(rows[p]);
            for q in 0..3 {
                sums[3 * p + q][i] = row[q];
            }
        }
    }
    for tap in 0..9 {
        let dw = &mut dw[tap * len + at..][..N];
        for i in 0..N {
            dw[i] += sums[tap][i];
        }
    }
}

/// The transpose of [`spread`].
#[inline(always)]
fn gathered([u0, u1, u2, u3]: [f32; 4]) -> [f32; 3] {
    let [even, odd] = [0.5 * (u1 + u2), 0.5 * (u1 - u2)];
    [u0 + even, odd, even + u3]
}

/// Transforms the windows of tiles, as `[16, tiles, C]`.
#[inline(always)]
fn transform_x<S: Simd>(simd: S, d: &Conv2dDims, framed: &[f32], tiles: &[[u32; 2]], to: &mut [f32]) {
    let (c, row, distance) = (d.c, frame_width(d) * d.c, distance(tiles.len(), d.c));
    for (i_tile, &[window, _]) in tiles.iter().enumerate() {
        let mut pixels: [[&[f32]; 4]; 4] = [[&[]; 4]; 4];
        for i in 0..4 {
            for j in 0..4 {
                pixels[i][j] = &framed[window as usize + i * row + j * c..][..c];
            }
        }
        let to = of_tile_mut(to, distance, i_tile, c);
        for first in vectors_of(c, S::F32_LANES) {
            let x = |i: usize, j: usize| vector::<S>(&pixels[i][j][first..]);
            let mut rows = [[simd.splat_f32s(0.0); 4]; 4];
            for j in 0..4 {
                let column = differences(simd, [x(0, j), x(1, j), x(2, j), x(3, j)]);
                for i in 0..4 {
                    rows[i][j] = column[i];
                }
            }
            for i in 0..4 {
                let row = differences(simd, rows[i]);
                for j in 0..4 {
                    store::<S>(&mut to[4 * i + j][first..], row[j]);
                }
            }
        }
    }
}

/// Returns the values of a tile in each frequency of a transformed tensor. All have one length, so their indices are checked together.
#[inline(always)]
fn of_tile(transformed: &[f32], distance: usize, tile: usize, channels: usize) -> [&[f32]; FREQUENCIES] {
    std::array::from_fn(
        #[inline(always)]
        |frequency| &transformed[frequency * distance + tile * channels..][..channels],
    )
}

/// The same, to write them.
#[inline(always)]
fn of_tile_mut(transformed: &mut [f32], distance: usize, tile: usize, channels: usize) -> [&mut [f32]; FREQUENCIES] {
    let mut frequencies = transformed.chunks_exact_mut(distance);
    std::array::from_fn(
        #[inline(always)]
        |_| &mut frequencies.next().expect("there is room for all")[tile * channels..][..channels],
    )
}

/// The transform of inputs along one axis.
#[inline(always)]
fn differences<S: Simd>(simd: S, [x0, x1, x2, x3]: [S::f32s; 4]) -> [S::f32s; 4] {
    [simd.sub_f32s(x0, x2), simd.add_f32s(x1, x2), simd.sub_f32s(x2, x1), simd.sub_f32s(x1, x3)]
}

/// The transform of products along one axis.
#[inline(always)]
fn sums<S: Simd>(simd: S, [m0, m1, m2, m3]: [S::f32s; 4]) -> [S::f32s; 2] {
    [simd.add_f32s(simd.add_f32s(m0, m1), m2), simd.sub_f32s(simd.sub_f32s(m1, m2), m3)]
}

/// Its transpose.
#[inline(always)]
fn parts<S: Simd>(simd: S, [y0, y1]: [S::f32s; 2]) -> [S::f32s; 4] {
    [y0, simd.add_f32s(y0, y1), simd.sub_f32s(y0, y1), simd.sub_f32s(simd.splat_f32s(0.0), y1)]
}

/// Returns the outputs of a tile, row by row, from its products.
#[inline(always)]
fn outputs<S: Simd>(simd: S, product: impl Fn(usize) -> S::f32s) -> [S::f32s; 4] {
    let mut rows = [[simd.splat_f32s(0.0); 4]; 2];
    for j in 0..4 {
        let column = sums(simd, [product(j), product(4 + j), product(8 + j), product(12 + j)]);
        rows[0][j] = column[0];
        rows[1][j] = column[1];
    }
    let [first, second] = [sums(simd, rows[0]), sums(simd, rows[1])];
    [first[0], first[1], second[0], second[1]]
}

/// Transforms the gradients of tiles by the transpose of [`outputs`], as `[16, tiles, O]`.
#[inline(always)]
fn transform_dy<S: Simd>(simd: S, d: &Conv2dDims, dy: &[f32], tiles: &[[u32; 2]], to: &mut [f32]) {
    let (o, distance) = (d.o, distance(tiles.len(), d.o));
    for (i_tile, &[_, position]) in tiles.iter().enumerate() {
        let to = of_tile_mut(to, distance, i_tile, o);
        let pixel = |i: usize, j: usize| &dy[(position as usize + i * d.wo + j) * o..][..o];
        let pixels = [[pixel(0, 0), pixel(0, 1)], [pixel(1, 0), pixel(1, 1)]];
        for first in vectors_of(o, S::F32_LANES) {
            let dy = |i: usize, j: usize| vector::<S>(&pixels[i][j][first..]);
            let columns = [parts(simd, [dy(0, 0), dy(1, 0)]), parts(simd, [dy(0, 1), dy(1, 1)])];
            for i in 0..4 {
                let row = parts(simd, [columns[0][i], columns[1][i]]);
                for j in 0..4 {
                    store::<S>(&mut to[4 * i + j][first..], row[j]);
                }
            }
        }
    }
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
