//! The convolution and both of its gradients in vector registers, for any window: no patches are written to memory.
//!
//! Some images, each in its frame of zeros, are one list of positions. The windows of all positions are read in place: a
//! row of a window is one run of `KW * C` values. Three products follow, all by [`add_products`], which adds `R` numbers,
//! each broadcast to all lanes, times `V` vectors to a tile of `R * V` sums in registers:
//!
//! | product | the tile | the sum is over | the numbers | the vectors |
//! |---|---|---|---|---|
//! | y | positions by output channels | the window | x | the filter |
//! | dx | pixels by input channels | the window | dy | the filter, turned by 180 degrees |
//! | dw | cells of the filter by output channels | the positions | x | dy |
//!
//! So dx is computed as a convolution of dy; only strides prevent that. Where a tile would extend past the end, it starts
//! where it just fits, and computes some sums again.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::Aligned;
use super::conv2d_direct::{constant_len, relu, vectors, window_maximum};
use super::conv2d_winograd::{self, Winograd};
use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::pool2d::Pool2dDims;
use pulp::{Simd, WithSimd};

/// Where the windows of a convolution are in the framed images, and how its output channels are divided into blocks.
#[derive(Debug)]
pub(super) struct Windows {
    /// Of one image: `n` is 1.
    pub(super) d: Conv2dDims,
    /// The number of images that are computed together.
    pub(super) images: usize,
    /// For each position of the output of these images, the offset of its window in the framed images.
    starts: Vec<u32>,
    /// The number of vectors per block of output channels.
    vectors: usize,
    /// The number of output channels per block.
    pub(super) block: usize,
    /// How these windows are computed with fewer products, if they can be.
    pub(super) winograd: Option<Winograd>,
}

impl Windows {
    /// Returns `None` if a vector has more lanes than there are output channels, or only one.
    pub(super) fn new(d: &Conv2dDims, winograd: Option<Winograd>, lanes: usize) -> Option<Self> {
        if lanes < 4 || d.o < lanes {
            return None;
        }
        // As `with_tile` has them.
        let most = if lanes == 4 && !cfg!(target_arch = "wasm32") { 4 } else { 2 };
        let vectors = if d.o >= most * lanes { most } else { 1 };
        // Framed images that fit into the L2 cache beside their gradients; a power of two, as the number of rows of a share is.
        const NEAR: usize = 1 << 15;
        let least = winograd.as_ref().map_or(1, |winograd| winograd.least_images(d));
        let images = (NEAR / frame_len(d)).min(16).max(least).next_power_of_two();
        let row = d.stride_h * frame_width(d) * d.c;
        let start = |image: usize, i: usize, j: usize| image * frame_len(d) + i * row + j * d.stride_w * d.c;
        let positions = |image| (0..d.ho * d.wo).map(move |at| start(image, at / d.wo, at % d.wo) as u32);
        let starts = (0..images).flat_map(positions).collect();
        Some(Windows { d: *d, images, starts, vectors, block: vectors * lanes, winograd })
    }

    /// Returns the windows of the convolution of dy that gives dx; `None` also if the windows have strides.
    pub(super) fn of_gradient(d: &Conv2dDims, lanes: usize) -> Option<Self> {
        let unpadded = (d.kh - 1).checked_sub(d.pad_top).zip((d.kw - 1).checked_sub(d.pad_left));
        let (pad_top, pad_left) = unpadded.filter(|_| [d.stride_h, d.stride_w] == [1, 1])?;
        let (h, w, c, ho, wo, o) = (d.ho, d.wo, d.o, d.h, d.w, d.c);
        let of_dy = Conv2dDims { h, w, c, ho, wo, o, pad_top, pad_left, ..*d };
        Self::new(&of_dy, Winograd::of_gradient(&of_dy, lanes), lanes)
    }

    /// Reduces the number of images that are computed together.
    pub(super) fn limit(&mut self, images: usize) {
        self.images = images;
        self.starts.truncate(images * self.d.ho * self.d.wo);
        if let Some(winograd) = &mut self.winograd {
            winograd.list(&self.d, images);
        }
    }

    /// Returns the length of the framed images that are computed together; 0 if the images need no frame.
    pub(super) fn framed_len(&self) -> usize {
        if self.is_framed() { self.images * frame_len(&self.d) } else { 0 }
    }

    /// Returns the length of what Winograd's algorithm writes between its steps.
    pub(super) fn transformed_len(&self) -> usize {
        self.winograd.as_ref().map_or(0, |winograd| winograd.room(&self.d))
    }

    /// Returns the number of sums of the gradient of its transformed filter.
    pub(super) fn filter_sums_len(&self) -> usize {
        self.winograd.as_ref().map_or(0, |winograd| winograd.filter_sums_len(&self.d))
    }

    /// Returns the length of the sums of these images, one block of channels wide.
    pub(super) fn rows_len(&self) -> usize {
        self.starts.len() * self.block
    }

    fn is_framed(&self) -> bool {
        let d = &self.d;
        [frame_height(d), frame_width(d), d.pad_top, d.pad_left] != [d.h, d.w, 0, 0]
    }

    /// Copies images into frames of zeros, if there are any.
    pub(super) fn frame<'a>(&self, x: &'a [f32], framed: &'a mut [f32]) -> &'a [f32] {
        if !self.is_framed() {
            return x;
        }
        let n = x.len() / self.d.x_len();
        let framed = &mut framed[..n * frame_len(&self.d)];
        for (x, framed) in x.chunks_exact(self.d.x_len()).zip(framed.chunks_exact_mut(frame_len(&self.d))) {
            pad(&self.d, x, framed);
        }
        framed
    }

    /// Returns the first channel of each block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = usize> + use<> {
        let (o, block) = (self.d.o, self.block);
        (0..o).step_by(block).map(move |first| first.min(o - block))
    }

    /// Returns the length of a packed filter.
    fn packed_len(&self) -> usize {
        self.blocks().count() * self.d.terms() * self.block
    }

    /// Packs a filter as `[blocks, KH, KW, C, block]`, or transformed; `value` returns the one for a term and an output channel.
    fn pack(&self, packed: &mut Aligned<f32>, value: impl Fn(usize, usize) -> f32) {
        if let Some(winograd) = &self.winograd {
            return conv2d_winograd::pack(self, winograd, packed, value);
        }
        packed.grow(self.packed_len());
        let panels = packed.chunks_exact_mut(self.d.terms() * self.block);
        for (first, panel) in self.blocks().zip(panels) {
            for (term, packed) in panel.chunks_exact_mut(self.block).enumerate() {
                for (i, packed) in packed.iter_mut().enumerate() {
                    *packed = value(term, first + i);
                }
            }
        }
    }

    /// Packs the filter `[KH, KW, C, O]` for y.
    pub(super) fn pack_forward(&self, w: &[f32], packed: &mut Aligned<f32>) {
        self.pack(packed, |term, o| w[term * self.d.o + o]);
    }

    /// Packs the same filter for dx; these are the windows of dy.
    pub(super) fn pack_backward(&self, w: &[f32], packed: &mut Aligned<f32>) {
        let Conv2dDims { kh, kw, c: channels_of_dy, o: channels_of_dx, .. } = self.d;
        self.pack(packed, |term, c| {
            let (tap, o) = (term / channels_of_dy, term % channels_of_dy);
            w[((kh * kw - 1 - tap) * channels_of_dx + c) * channels_of_dy + o]
        });
    }
}

fn frame_height(d: &Conv2dDims) -> usize {
    (d.ho - 1) * d.stride_h + d.kh
}

/// Returns the width of a framed image.
pub(super) fn frame_width(d: &Conv2dDims) -> usize {
    (d.wo - 1) * d.stride_w + d.kw
}

/// Returns the number of values of a framed image.
pub(super) fn frame_len(d: &Conv2dDims) -> usize {
    frame_height(d) * frame_width(d) * d.c
}

/// Copies an image into a frame of zeros.
pub(super) fn pad(d: &Conv2dDims, x: &[f32], framed: &mut [f32]) {
    let (width, row) = (frame_width(d) * d.c, d.w * d.c);
    let left = d.pad_left * d.c;
    let copied = row.min(width - left);
    for (i, framed) in framed.chunks_exact_mut(width).enumerate() {
        match i.checked_sub(d.pad_top).filter(|&i| i < d.h) {
            Some(i) => {
                framed[..left].fill(0.0);
                framed[left..left + copied].copy_from_slice(&x[i * row..][..copied]);
                framed[left + copied..].fill(0.0);
            }
            None => framed.fill(0.0),
        }
    }
}

/// Calls a function with the tile for this instruction set, `R` by `V`: as many sums as fit into the registers beside their operands
/// (there are 32 with AVX-512 and NEON, 16 with AVX2; see [`registers`](super::registers) for WebAssembly).
macro_rules! with_tile {
    ($function:ident, $simd:expr, $product:expr) => {
        match (S::F32_LANES, $product.windows.vectors) {
            (16, 2) => $function::<S, 12, 2>($simd, $product),
            (8, 2) => $function::<S, 6, 2>($simd, $product),
            (4, 2) => $function::<S, 4, 2>($simd, $product),
            (4, 4) => $function::<S, 6, 4>($simd, $product),
            _ => $function::<S, 12, 1>($simd, $product),
        }
    };
}

/// y, or dx, of some images.
pub(super) struct Forward<'a> {
    pub(super) windows: &'a Windows,
    pub(super) framed: &'a [f32],
    /// From [`Windows::pack_forward`] or [`Windows::pack_backward`].
    pub(super) packed: &'a [f32],
    /// Zeros if there is none.
    pub(super) b: Option<&'a [f32]>,
    pub(super) relu: bool,
    pub(super) pool: Option<&'a Pool2dDims>,
    /// The output of the convolution, or of the pooling if there is one.
    pub(super) y: &'a mut [f32],
    /// Of the pooling; empty if there is none.
    pub(super) argmax: &'a mut [u32],
    /// Room for [`Windows::rows_len`] values if there is a pooling.
    pub(super) rows: &'a mut [f32],
    /// Room for [`Windows::transformed_len`] values.
    pub(super) transformed: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_tile!(forward, simd, self);
    }
}

#[inline(always)]
fn forward<S: Simd, const R: usize, const V: usize>(simd: S, product: Forward<'_>) {
    if let Some(winograd) = &product.windows.winograd
        && S::F32_LANES >= 4
    {
        return conv2d_winograd::forward::<S, R, V>(simd, winograd, product);
    }
    let Forward { windows, framed, packed, b, relu, pool, y, argmax, rows, .. } = product;
    let (d, block) = (&windows.d, windows.block);
    let starts = &windows.starts[..framed.len() / frame_len(d) * d.ho * d.wo];
    for (first, packed) in windows.blocks().zip(packed.chunks_exact(d.terms() * block)) {
        let bias = b.map_or([simd.splat_f32s(0.0); V], |b| vectors::<S, V>(&b[first..first + block]));
        let filter = S::as_simd_f32s(packed).0.as_chunks::<V>().0;
        let [runs, run, row] = [d.kh, d.kw * d.c, frame_width(d) * d.c];
        let tiles = Tiles { runs, run, row, framed, filter, bias, relu };
        match pool {
            None => convolve::<S, R, V>(simd, &tiles, starts, &mut y[first..], [d.o, S::F32_LANES]),
            Some(pool) => {
                convolve::<S, R, V>(simd, &tiles, starts, rows, [block, S::F32_LANES]);
                take_maxima::<S, V>(simd, pool, d, rows, [first, d.o], y, argmax);
            }
        }
    }
}

/// What the tiles of one block of channels have in common.
pub(super) struct Tiles<'a, S: Simd, const V: usize> {
    /// The runs of values of a window.
    pub(super) runs: usize,
    /// The length of a run.
    pub(super) run: usize,
    /// The distance of two runs.
    pub(super) row: usize,
    pub(super) framed: &'a [f32],
    pub(super) filter: &'a [[S::f32s; V]],
    pub(super) bias: [S::f32s; V],
    pub(super) relu: bool,
}

/// Computes all positions, one block of channels wide. In `out`, two positions are `strides[0]` apart, and two vectors of a position `strides[1]`.
#[inline(always)]
pub(super) fn convolve<S: Simd, const R: usize, const V: usize>(
    simd: S,
    tiles: &Tiles<'_, S, V>,
    starts: &[u32],
    out: &mut [f32],
    strides: [usize; 2],
) {
    if starts.len() < R {
        for (at, start) in starts.iter().enumerate() {
            convolve_tile::<S, 1, V>(simd, tiles, &[*start], &mut out[at * strides[0]..], strides);
        }
        return;
    }
    for at in (0..starts.len()).step_by(R) {
        let at = at.min(starts.len() - R);
        let (starts, out) = (constant_len(&starts[at..at + R]), &mut out[at * strides[0]..]);
        convolve_tile::<S, R, V>(simd, tiles, starts, out, strides);
    }
}

#[inline(always)]
fn convolve_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    tiles: &Tiles<'_, S, V>,
    starts: &[u32; R],
    out: &mut [f32],
    [stride, vector_stride]: [usize; 2],
) {
    let &Tiles { runs, run, row, framed, filter, bias, relu: with_relu } = tiles;
    let mut sums = [bias; R];
    for p in 0..runs {
        let mut x: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            x[r] = &framed[starts[r] as usize + p * row..][..run];
        }
        let (fours, rest) = filter[p * run..][..run].as_chunks::<4>();
        for (k, w) in fours.iter().enumerate() {
            // Bounds are checked here: with a check in each product, a compiler keeps the sums in memory.
            let mut four: [&[f32; 4]; R] = [&[0.0; 4]; R];
            for r in 0..R {
                four[r] = constant_len(&x[r][4 * k..][..4]);
            }
            // Not in a loop, which compilers for WebAssembly keep.
            sums = add_products::<S, R, V>(simd, |r| four[r][0], &w[0], sums);
            sums = add_products::<S, R, V>(simd, |r| four[r][1], &w[1], sums);
            sums = add_products::<S, R, V>(simd, |r| four[r][2], &w[2], sums);
            sums = add_products::<S, R, V>(simd, |r| four[r][3], &w[3], sums);
        }
        for (w, k) in rest.iter().zip(run - rest.len()..) {
            sums = add_products::<S, R, V>(simd, |r| x[r][k], w, sums);
        }
    }
    // Constant indices, here and below: an array indexed by a variable anywhere is kept in memory everywhere.
    for r in 0..R {
        for v in 0..V {
            let out = S::as_mut_simd_f32s(&mut out[r * stride + v * vector_stride..][..S::F32_LANES]).0;
            out[0] = if with_relu { relu(simd, sums[r][v]) } else { sums[r][v] };
        }
    }
}

/// Adds one product to each sum of a tile: nearly all the time is spent in this function.
#[inline(always)]
pub(super) fn add_products<S: Simd, const R: usize, const V: usize>(
    simd: S,
    x: impl Fn(usize) -> f32,
    w: &[S::f32s; V],
    mut sums: [[S::f32s; V]; R],
) -> [[S::f32s; V]; R] {
    for r in 0..R {
        let x = simd.splat_f32s(x(r));
        for v in 0..V {
            sums[r][v] = simd.mul_add_e_f32s(x, w[v], sums[r][v]);
        }
    }
    sums
}

/// Writes the maximum of each pooling window and its position, for channels `first..` of `o`, from `rows`, which has one block of them.
#[inline(always)]
fn take_maxima<S: Simd, const V: usize>(
    simd: S,
    pool: &Pool2dDims,
    d: &Conv2dDims,
    rows: &[f32],
    [first, o]: [usize; 2],
    y: &mut [f32],
    argmax: &mut [u32],
) {
    let block = S::F32_LANES * V;
    let images = rows.chunks_exact(d.ho * d.wo * block);
    let cells = pool.ho * pool.wo * o;
    for ((y, argmax), rows) in y.chunks_exact_mut(cells).zip(argmax.chunks_exact_mut(cells)).zip(images) {
        for i in 0..pool.ho {
            let rows = &rows[i * pool.kh * d.wo * block..];
            for j in 0..pool.wo {
                let at = (i * pool.wo + j) * o + first;
                let (best, best_at) = window_maximum::<S, V>(simd, pool, d.wo, i, j, rows);
                S::as_mut_simd_f32s(&mut y[at..at + block]).0.copy_from_slice(&best);
                S::as_mut_simd_u32s(&mut argmax[at..at + block]).0.copy_from_slice(&best_at);
            }
        }
    }
}

/// The gradients of the filter and of the bias over some images.
pub(super) struct BackwardW<'a> {
    pub(super) windows: &'a Windows,
    pub(super) framed: &'a [f32],
    /// `[images, HO, WO, O]`.
    pub(super) dy: &'a [f32],
    /// Added to, `[KH, KW, C, O]`; by Winograd's algorithm, the sums of the transformed filter.
    pub(super) dw: &'a mut [f32],
    /// Added to, `[O]`.
    pub(super) db: &'a mut [f32],
    /// Room for [`Windows::transformed_len`] values.
    pub(super) transformed: &'a mut [f32],
}

impl WithSimd for BackwardW<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        with_tile!(backward_w, simd, self);
    }
}

#[inline(always)]
fn backward_w<S: Simd, const R: usize, const V: usize>(simd: S, product: BackwardW<'_>) {
    if let Some(winograd) = &product.windows.winograd
        && S::F32_LANES >= 4
    {
        return conv2d_winograd::backward_w::<S, V>(simd, winograd, product);
    }
    // Few enough that two cache lines for each of them stay in the L1 cache, while the tiles go through the filter.
    const POSITIONS: usize = 72;
    let BackwardW { windows, framed, dy, dw, db, .. } = product;
    let d = &windows.d;
    let (run, row) = (d.kw * d.c, frame_width(d) * d.c);
    for (starts, dy) in windows.starts.chunks(POSITIONS).zip(dy.chunks(POSITIONS * d.o)) {
        for (i_block, first) in windows.blocks().enumerate() {
            let is_new = is_new::<S, V>(i_block * windows.block - first);
            let sums = Sums { framed, dy, first, o: d.o, starts, is_new };
            sums.add_bias(simd, db);
            for p in 0..d.kh {
                let mut k = 0;
                while k < run {
                    let dw = &mut dw[(p * run + k) * d.o..];
                    k += if run - k >= R {
                        sums.add_tile::<R>(simd, p * row + k, dw)
                    } else {
                        sums.add_tile::<1>(simd, p * row + k, dw)
                    };
                }
            }
        }
    }
}

/// Returns 0 for the first `done` lanes, the channels that the block before has summed already, and 1 for the others.
#[inline(always)]
pub(super) fn is_new<S: Simd, const V: usize>(done: usize) -> [S::f32s; V] {
    const MOST: usize = 64;
    let mut is_new = [1.0; MOST];
    is_new[..done].fill(0.0);
    vectors::<S, V>(&is_new[..S::F32_LANES * V])
}

/// What the tiles of one block of output channels have in common.
pub(super) struct Sums<'a, S: Simd, const V: usize> {
    pub(super) framed: &'a [f32],
    pub(super) dy: &'a [f32],
    /// The first channel of the block.
    pub(super) first: usize,
    /// Output channels.
    pub(super) o: usize,
    pub(super) starts: &'a [u32],
    pub(super) is_new: [S::f32s; V],
}

impl<S: Simd, const V: usize> Sums<'_, S, V> {
    /// Adds `R` cells of the filter to `dw`, those from `offset` on in every window. Returns `R`.
    #[inline(always)]
    pub(super) fn add_tile<const R: usize>(&self, simd: S, offset: usize, dw: &mut [f32]) -> usize {
        let framed = &self.framed[offset..];
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (&start, dy) in self.starts.iter().zip(self.dy.chunks_exact(self.o)) {
            let start = start as usize;
            let x: &[f32; R] = constant_len(&framed[start..start + R]);
            let dy = vectors::<S, V>(&dy[self.first..self.first + S::F32_LANES * V]);
            sums = add_products::<S, R, V>(simd, |r| x[r], &dy, sums);
        }
        for r in 0..R {
            self.add_to(simd, &mut dw[r * self.o..], sums[r]);
        }
        R
    }

    #[inline(always)]
    pub(super) fn add_bias(&self, simd: S, db: &mut [f32]) {
        let mut sums = [simd.splat_f32s(0.0); V];
        for dy in self.dy.chunks_exact(self.o) {
            let dy = vectors::<S, V>(&dy[self.first..self.first + S::F32_LANES * V]);
            for v in 0..V {
                sums[v] = simd.add_f32s(sums[v], dy[v]);
            }
        }
        self.add_to(simd, db, sums);
    }

    #[inline(always)]
    fn add_to(&self, simd: S, to: &mut [f32], sums: [S::f32s; V]) {
        let to = S::as_mut_simd_f32s(&mut to[self.first..self.first + S::F32_LANES * V]).0;
        for v in 0..V {
            to[v] = simd.mul_add_e_f32s(sums[v], self.is_new[v], to[v]);
        }
    }
}
