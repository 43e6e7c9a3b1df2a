//! The forward convolution in vector registers: no patches are written to memory, and the pooling after it reads the
//! sums while they are in the L1 cache.
//!
//! A tile of `R` adjacent positions by `V` vectors of output channels is summed in registers: each step loads `V`
//! vectors of the filter and broadcasts one input value at a time to all lanes, so `R * V` multiply-adds share `R + V`
//! loads. The number of channels is a type parameter, so that positions are at fixed offsets and no index is checked in
//! the loop. Measured on one core with AVX-512, second convolution of the article, one image: 37.8 us, 191 GFLOP/s of a
//! peak of about 240; the same as a product over patches, not counting building them, takes 60 us. Winograd's algorithm,
//! which needs fewer products, computes that layer now; this form is for few channels and for sizes and poolings that the
//! algorithm does not allow.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::conv2d::Conv2d;
use crate::cpu::pool2d::Pool2dDims;
use pulp::{Simd, WithSimd};

/// Numbers of input channels for which the loops are compiled.
const CHANNELS: [usize; 6] = [1, 3, 8, 16, 32, 64];

/// Positions and vectors per tile, by the lanes of a vector: as many sums as fit into the registers beside their
/// operands (there are 32 with AVX-512 and NEON, 16 with AVX2; see [`registers`](super::registers) for WebAssembly).
const fn tile(lanes: usize) -> Option<[usize; 2]> {
    match lanes {
        16 => Some([14, 2]),
        8 => Some([5, 2]),
        4 if cfg!(target_arch = "wasm32") => Some([4, 2]),
        4 => Some([5, 4]),
        _ => None,
    }
}

/// Returns the number of output channels that are computed together, which are side by side in packed filters; `None`
/// if the convolution's shape does not allow it.
pub(super) fn block(conv: &Conv2d, lanes: usize) -> Option<usize> {
    let d = &conv.d;
    let [positions, vectors] = tile(lanes)?;
    let block = lanes * vectors;
    let suits = conv.relu
        && conv.pool.is_some()
        && [d.stride_h, d.stride_w] == [1, 1]
        && CHANNELS.contains(&d.c)
        && d.o.is_multiple_of(block)
        && d.wo >= positions;
    suits.then_some(block)
}

/// Packs the filter `[KH, KW, C, O]` as `[O / block, KH, KW, C, block]`.
pub(super) fn pack(terms: usize, o: usize, block: usize, w: &[f32], packed: &mut [f32]) {
    for (i_block, packed) in packed.chunks_exact_mut(terms * block).enumerate() {
        for (row, packed) in w.chunks_exact(o).zip(packed.chunks_exact_mut(block)) {
            packed.copy_from_slice(&row[i_block * block..][..block]);
        }
    }
}

/// The forward pass of one image.
pub(super) struct Forward<'a> {
    pub(super) conv: &'a Conv2d,
    /// `[HO + KH - 1, WO + KW - 1, C]`, including the frame of zeros.
    pub(super) padded: &'a [f32],
    /// From [`pack`].
    pub(super) packed: &'a [f32],
    pub(super) b: &'a [f32],
    /// The output of the convolution, or of the pooling if there is one.
    pub(super) y: &'a mut [f32],
    /// Of the pooling; empty if there is none.
    pub(super) argmax: &'a mut [u32],
    /// Room for the rows of one pooling window, one block of channels wide.
    pub(super) rows: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => by_channels::<S, 14, 2>(simd, self),
            8 => by_channels::<S, 5, 2>(simd, self),
            4 if cfg!(target_arch = "wasm32") => by_channels::<S, 4, 2>(simd, self),
            4 => by_channels::<S, 5, 4>(simd, self),
            lanes => unreachable!("no tile for {lanes} lanes"),
        }
    }
}

#[inline(always)]
fn by_channels<S: Simd, const R: usize, const V: usize>(simd: S, image: Forward<'_>) {
    match image.conv.d.c {
        1 => forward::<S, R, V, 1>(simd, image),
        3 => forward::<S, R, V, 3>(simd, image),
        8 => forward::<S, R, V, 8>(simd, image),
        16 => forward::<S, R, V, 16>(simd, image),
        32 => forward::<S, R, V, 32>(simd, image),
        64 => forward::<S, R, V, 64>(simd, image),
        c => unreachable!("`block` rejects {c} channels"),
    }
}

#[inline(always)]
fn forward<S: Simd, const R: usize, const V: usize, const C: usize>(simd: S, image: Forward<'_>) {
    let Forward { conv, padded, packed, b, y, argmax, rows } = image;
    let d = &conv.d;
    let block = S::F32_LANES * V;
    let pixels = padded.as_chunks::<C>().0;
    for (i_block, packed) in packed.chunks_exact(d.terms() * block).enumerate() {
        let first = i_block * block;
        let filter = S::as_simd_f32s(packed).0.as_chunks::<V>().0;
        let bias: [S::f32s; V] = vectors::<S, V>(&b[first..first + block]);
        let tiles = Tiles { conv, pixels, filter, bias };
        let Some(pool) = &conv.pool else {
            for i in 0..d.ho {
                convolve_row::<S, R, V, C>(simd, &tiles, i, &mut y[i * d.wo * d.o + first..], d.o);
            }
            continue;
        };
        for i in 0..pool.ho {
            for k in 0..pool.kh {
                convolve_row::<S, R, V, C>(simd, &tiles, i * pool.kh + k, &mut rows[k * d.wo * block..], block);
            }
            for j in 0..pool.wo {
                let at = (i * pool.wo + j) * d.o + first;
                let (best, best_at) = window_maximum::<S, V>(simd, pool, d.wo, i, j, rows);
                S::as_mut_simd_f32s(&mut y[at..at + block]).0.copy_from_slice(&best);
                S::as_mut_simd_u32s(&mut argmax[at..at + block]).0.copy_from_slice(&best_at);
            }
        }
    }
}

/// What the tiles of one block of channels have in common.
struct Tiles<'a, S: Simd, const V: usize, const C: usize> {
    conv: &'a Conv2d,
    pixels: &'a [[f32; C]],
    filter: &'a [[S::f32s; V]],
    bias: [S::f32s; V],
}

/// Computes row `i` of the convolution, one block of channels wide: its positions are `stride` apart in `out`.
#[inline(always)]
fn convolve_row<S: Simd, const R: usize, const V: usize, const C: usize>(
    simd: S,
    tiles: &Tiles<'_, S, V, C>,
    i: usize,
    out: &mut [f32],
    stride: usize,
) {
    let width = tiles.conv.d.wo;
    let mut j = 0;
    while j < width {
        // The last tile starts where it just fits, and sums some positions again.
        let start = j.min(width - R);
        let sums = tile_of_sums::<S, R, V, C>(simd, tiles, i, start);
        // Constant indices, here and below: an array indexed by a variable anywhere is kept in memory everywhere.
        for r in 0..R {
            let out = S::as_mut_simd_f32s(&mut out[(start + r) * stride..][..S::F32_LANES * V]).0;
            for v in 0..V {
                out[v] = sums[r][v];
            }
        }
        j += R;
    }
}

/// Computes the maximum of a pooling window and its position, per channel, from the rows of the convolution that it
/// covers, which are `width` positions long.
#[inline(always)]
pub(super) fn window_maximum<S: Simd, const V: usize>(
    simd: S,
    pool: &Pool2dDims,
    width: usize,
    i: usize,
    j: usize,
    rows: &[f32],
) -> ([S::f32s; V], [S::u32s; V]) {
    let block = S::F32_LANES * V;
    let first = j * pool.kw;
    let mut best = vectors::<S, V>(&rows[first * block..][..block]);
    let mut best_at = [simd.splat_u32s((i * pool.kh * width + first) as u32); V];
    for k in 0..pool.kh {
        for l in 0..pool.kw {
            let position = simd.splat_u32s(((i * pool.kh + k) * width + first + l) as u32);
            let values = vectors::<S, V>(&rows[(k * width + first + l) * block..][..block]);
            for v in 0..V {
                // The first of equal values wins, as in the plain loops.
                let is_higher = simd.greater_than_f32s(values[v], best[v]);
                best[v] = simd.select_f32s(is_higher, values[v], best[v]);
                best_at[v] = simd.select_u32s(is_higher, position, best_at[v]);
            }
        }
    }
    (best, best_at)
}

/// Computes the sums of `R` positions of row `i` starting at column `j`, `V` vectors of channels wide.
#[inline(always)]
fn tile_of_sums<S: Simd, const R: usize, const V: usize, const C: usize>(
    simd: S,
    tiles: &Tiles<'_, S, V, C>,
    i: usize,
    j: usize,
) -> [[S::f32s; V]; R] {
    let Tiles { conv, pixels, filter, bias } = tiles;
    let d = &conv.d;
    let mut sums = [*bias; R];
    for p in 0..d.kh {
        for q in 0..d.kw {
            let x = constant_len(&pixels[(i + p) * conv.padded_width() + j + q..][..R]);
            let w = constant_len(&filter[(p * d.kw + q) * C..][..C]);
            sums = add_products::<S, R, V, C>(simd, x, w, sums);
        }
    }
    if conv.relu {
        for r in 0..R {
            for v in 0..V {
                sums[r][v] = relu(simd, sums[r][v]);
            }
        }
    }
    sums
}

/// Adds one cell of the filter: nearly all the time is spent in this loop.
#[inline(always)]
fn add_products<S: Simd, const R: usize, const V: usize, const C: usize>(
    simd: S,
    x: &[[f32; C]; R],
    w: &[[S::f32s; V]; C],
    mut sums: [[S::f32s; V]; R],
) -> [[S::f32s; V]; R] {
    for c in 0..C {
        for r in 0..R {
            let x = simd.splat_f32s(x[r][c]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(x, w[c][v], sums[r][v]);
            }
        }
    }
    sums
}

/// Converts a slice whose length is known to an array, so that its indices need no checks.
#[inline(always)]
pub(super) fn constant_len<T, const N: usize>(slice: &[T]) -> &[T; N] {
    slice.try_into().expect("the slice was cut to this length")
}

/// Loads `V` vectors from a slice of exactly that length.
#[inline(always)]
pub(super) fn vectors<S: Simd, const V: usize>(values: &[f32]) -> [S::f32s; V] {
    *constant_len(S::as_simd_f32s(values).0)
}

/// As in the plain loops: NaN becomes 0 too.
#[inline(always)]
pub(super) fn relu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.select_f32s(simd.greater_than_f32s(x, zero), x, zero)
}
