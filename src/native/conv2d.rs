//! Convolution with bias, optional ReLU and optional max pooling; see [`crate::cpu::conv2d`] and
//! [`crate::cpu::pool2d`].
//!
//! Whatever depends only on the shape is decided once, in [`Conv2d::new`]: forward directly in vector registers or as a
//! product over patches; backward over the positions that the pooling chose or as two products. The patches work for
//! every shape.

use super::conv2d_direct::{self, Forward};
use super::conv2d_pooled::{self, BackwardW, BackwardX, Entry, FilterSums};
use super::{Aligned, Matrix, lanes, matmul, vectorized};
use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::pool2d::{Pool2dDims, pool2d_max_backward_x, pool2d_max_forward};
use std::ops::Range;

/// Which loops compute a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// The fastest ones for the shape.
    Fastest,
    /// Products over patches, for any shape.
    Patches,
}

/// A convolution of one image, planned in advance.
#[derive(Debug)]
pub struct Conv2d {
    /// Of one image: `n` is 1.
    pub(super) d: Conv2dDims,
    /// Whether a ReLU follows.
    pub(crate) relu: bool,
    /// The pooling after the convolution, of one image.
    pub(crate) pool: Option<Pool2dDims>,
    /// Output channels side by side in the packed filter of the direct form; `None` if patches are used.
    direct: Option<usize>,
    /// How the gradient of the filter is summed after the pooling, and that of the input if needed; `None` if patches
    /// are used.
    pooled: Option<FilterSums>,
    /// Whether the gradient of the input is needed.
    needs_dx: bool,
    /// For each position of the output, its pixel in the padded image: that of the filter's first cell. Empty unless
    /// `pooled` is set.
    pub(super) pixel_of: Vec<u32>,
    /// For each position of the output, its place in its pooling window. Empty unless `pooled` is set.
    pub(super) place_of: Vec<u32>,
}

/// Buffers for intermediate results of [`Conv2d::forward`] and [`Conv2d::backward`]: one per thread, allocated once.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The image in a frame of zeros, then its gradient.
    padded: Aligned<f32>,
    /// Those of the image, then their gradients.
    patches: Aligned<f32>,
    /// The convolution's output before the pooling, or some of its rows.
    rows: Aligned<f32>,
    entries: Vec<Entry>,
    counts: Vec<usize>,
}

impl Scratch {
    /// Allocates buffers large enough for each of the given convolutions.
    pub fn new<'a>(convolutions: impl IntoIterator<Item = &'a Conv2d>) -> Self {
        let mut scratch = Scratch::default();
        for conv in convolutions {
            let d = &conv.d;
            if conv.direct.is_some() || conv.pooled.is_some() {
                scratch.padded.grow(conv.padded_len());
            }
            if conv.direct.is_none() || conv.pooled.is_none() {
                scratch.patches.grow(conv.band() * d.wo * d.terms());
            }
            if let Some(pool) = &conv.pool {
                let (places, cells) = (pool.kh * pool.kw, pool.ho * pool.wo);
                scratch.rows.grow(d.y_len());
                grow(&mut scratch.entries, (places * d.o).max(cells + 1));
                grow(&mut scratch.counts, places);
            }
        }
        scratch
    }
}

fn grow<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    values.resize(values.len().max(len), T::default());
}

/// A filter in the order in which the loops read it; rebuilt when the filter changes.
#[derive(Debug, Default)]
pub struct Packed {
    forward: Aligned<f32>,
    backward: Aligned<f32>,
}

impl Conv2d {
    /// Plans a convolution `d` with the max pooling after it, if there is one; `n` is ignored in both. `needs_dx` says
    /// whether the gradient of the input will be needed.
    ///
    /// # Panics
    /// [`Conv2d::can_pool`] returns false for the pooling.
    pub fn new(d: &Conv2dDims, relu: bool, pool: Option<Pool2dDims>, needs_dx: bool, algorithm: Algorithm) -> Self {
        let d = Conv2dDims { n: 1, ..*d };
        let pool = pool.map(|pool| Pool2dDims { n: 1, ..pool });
        assert!(pool.as_ref().is_none_or(Self::can_pool), "the pooling windows overlap or extend past the edge");
        let mut conv =
            Conv2d { pixel_of: Vec::new(), place_of: Vec::new(), d, relu, pool, direct: None, pooled: None, needs_dx };
        if algorithm == Algorithm::Fastest {
            conv.direct = conv2d_direct::block(&conv, lanes());
            conv.pooled = conv2d_pooled::plan(&conv, needs_dx, lanes());
        }
        if let (Some(p), Some(_)) = (pool, conv.pooled) {
            let width = conv.padded_width();
            let positions = || (0..d.ho * d.wo).map(|at| (at / d.wo, at % d.wo));
            conv.pixel_of = positions().map(|(i, j)| (i * width + j) as u32).collect();
            conv.place_of = positions().map(|(i, j)| (i % p.kh * p.kw + j % p.kw) as u32).collect();
        }
        conv
    }

    /// Whether a pooling can be computed together with the convolution before it: the windows must be side by side and
    /// inside the image.
    pub fn can_pool(pool: &Pool2dDims) -> bool {
        [pool.stride_h, pool.stride_w] == [pool.kh, pool.kw]
            && [pool.pad_top, pool.pad_left] == [0, 0]
            && pool.ho * pool.kh <= pool.h
            && pool.wo * pool.kw <= pool.w
    }

    /// Describes in words how the forward pass and the backward pass are computed.
    pub fn describe(&self) -> [&'static str; 2] {
        let forward = if self.direct.is_some() { "direct" } else { "patches" };
        let backward = match self.pooled {
            Some(FilterSums::ByInputs) => "pooled positions",
            Some(FilterSums::ByOutputs) => "pooled positions, outputs on the lanes",
            None => "patches",
        };
        [forward, backward]
    }

    /// Returns the number of output values per image.
    pub fn y_len(&self) -> usize {
        self.pool.map_or(self.d.y_len(), |pool| pool.ho * pool.wo * pool.c)
    }

    /// Returns the number of values that [`Conv2d::backward`] adds to: the gradients of the filter, in an internal
    /// order, and of the bias.
    pub fn sums_len(&self) -> usize {
        self.d.w_len() + self.d.o
    }

    pub(super) fn padded_width(&self) -> usize {
        (self.d.wo - 1) * self.d.stride_w + self.d.kw
    }

    fn padded_len(&self) -> usize {
        let height = (self.d.ho - 1) * self.d.stride_h + self.d.kh;
        height * self.padded_width() * self.d.c
    }

    /// Packs a filter `[KH, KW, C, O]`.
    pub fn pack(&self, w: &[f32], packed: &mut Packed) {
        if let Some(block) = self.direct {
            packed.forward.grow(w.len());
            conv2d_direct::pack(self.d.terms(), self.d.o, block, w, &mut packed.forward);
        }
        if self.pooled.is_some() && self.needs_dx {
            packed.backward.grow(w.len());
            conv2d_pooled::pack(self.d.c, self.d.o, lanes(), w, &mut packed.backward);
        }
    }

    /// Computes the outputs of some images. `packed` must be packed from `w`.
    ///
    /// Shapes: x `[N, H, W, C]`, w `[KH, KW, C, O]`, b `[O]`; y and argmax (empty without a pooling) `[N, HO, WO, O]`
    /// of the pooling or the convolution.
    pub fn forward(
        &self,
        [x, w, b]: [&[f32]; 3],
        packed: &Packed,
        y: &mut [f32],
        argmax: &mut [u32],
        scratch: &mut Scratch,
    ) {
        let d = &self.d;
        let argmax_len = if self.pool.is_some() { self.y_len() } else { 0 };
        for (i, (x, y)) in x.chunks_exact(d.x_len()).zip(y.chunks_exact_mut(self.y_len())).enumerate() {
            let argmax = &mut argmax[i * argmax_len..][..argmax_len];
            if self.direct.is_some() {
                let padded = &mut scratch.padded[..self.padded_len()];
                self.pad(x, padded);
                let (packed, rows) = (&packed.forward[..], &mut scratch.rows[..]);
                vectorized(Forward { conv: self, padded, packed, b, y, argmax, rows });
                continue;
            }
            let (convolved, pooled) = match &self.pool {
                Some(pool) => (&mut scratch.rows[..d.y_len()], Some((pool, y))),
                None => (y, None),
            };
            for row in convolved.chunks_exact_mut(d.o) {
                row.copy_from_slice(b);
            }
            for band in self.bands() {
                let y = &mut convolved[band.start * d.wo * d.o..band.end * d.wo * d.o];
                let patches = self.gather_patches(x, band, &mut scratch.patches);
                matmul(patches, Matrix::new(w, d.terms(), d.o), true, y);
            }
            if self.relu {
                for y in convolved.iter_mut() {
                    *y = if *y > 0.0 { *y } else { 0.0 };
                }
            }
            if let Some((pool, y)) = pooled {
                pool2d_max_forward(pool, convolved, y, argmax);
            }
        }
    }

    /// Adds the gradients of the filter and the bias over some images to `sums`, and writes that of the input unless
    /// `dx` is `None`. `masked` says that x is the output of a ReLU: then dx is zero where x is.
    ///
    /// Shapes as for [`Conv2d::forward`]; dy as y, already masked by this convolution's own ReLU; dx as x.
    #[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
    pub fn backward(
        &self,
        masked: bool,
        [x, w, dy]: [&[f32]; 3],
        packed: &Packed,
        argmax: &[u32],
        sums: &mut [f32],
        dx: Option<&mut [f32]>,
        scratch: &mut Scratch,
    ) {
        let d = &self.d;
        let (dw, db) = sums.split_at_mut(d.w_len());
        let argmax_len = if self.pool.is_some() { self.y_len() } else { 0 };
        let mut dx = dx.map(|dx| dx.chunks_exact_mut(d.x_len()));
        for (i, (x, dy)) in x.chunks_exact(d.x_len()).zip(dy.chunks_exact(self.y_len())).enumerate() {
            let mut dx = dx.as_mut().and_then(Iterator::next);
            let argmax = &argmax[i * argmax_len..][..argmax_len];
            let Some(sums) = self.pooled else {
                self.backward_by_patches([x, w, dy], argmax, [&mut *dw, &mut *db], dx.as_deref_mut(), scratch);
                if let (Some(dx), true) = (dx, masked) {
                    super::mask(x, dx);
                }
                continue;
            };
            let Scratch { padded, entries, counts, .. } = &mut *scratch;
            let padded = &mut padded[..self.padded_len()];
            self.pad(x, padded);
            vectorized(BackwardW { conv: self, sums, padded, dy, argmax, dw, db, entries });
            if let Some(dx) = dx {
                let (packed, padded_dx) = (&packed.backward[..], &mut *padded);
                vectorized(BackwardX { conv: self, packed, dy, argmax, padded_dx, entries, counts });
                self.take_out(padded, masked.then_some(x), dx);
            }
        }
    }

    /// Writes the gradient of the input alone, as [`Conv2d::backward`] does with those of filter and bias.
    pub fn backward_x(
        &self,
        masked: bool,
        [x, w, dy]: [&[f32]; 3],
        packed: &Packed,
        argmax: &[u32],
        dx: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let d = &self.d;
        let argmax_len = if self.pool.is_some() { self.y_len() } else { 0 };
        let images = x.chunks_exact(d.x_len()).zip(dy.chunks_exact(self.y_len()));
        for (i, ((x, dy), dx)) in images.zip(dx.chunks_exact_mut(d.x_len())).enumerate() {
            let argmax = &argmax[i * argmax_len..][..argmax_len];
            if self.pooled.is_some() {
                let Scratch { padded, entries, counts, .. } = &mut *scratch;
                let (packed, padded) = (&packed.backward[..], &mut padded[..self.padded_len()]);
                vectorized(BackwardX { conv: self, packed, dy, argmax, padded_dx: &mut *padded, entries, counts });
                self.take_out(padded, masked.then_some(x), dx);
                continue;
            }
            let Scratch { rows, patches, .. } = &mut *scratch;
            let dy = self.unpooled(dy, argmax, rows);
            dx.fill(0.0);
            for band in self.bands() {
                self.add_dx(dy, w, band, patches, dx);
            }
            if masked {
                super::mask(x, dx);
            }
        }
    }

    /// Returns the gradient of the convolution's output: dy, placed at the positions that the pooling chose.
    fn unpooled<'a>(&self, dy: &'a [f32], argmax: &[u32], rows: &'a mut [f32]) -> &'a [f32] {
        let Some(pool) = &self.pool else { return dy };
        let rows = &mut rows[..self.d.y_len()];
        pool2d_max_backward_x(pool, argmax, dy, rows);
        rows
    }

    /// Adds what some rows of the output contribute to the gradient of the input.
    fn add_dx(&self, dy: &[f32], w: &[f32], band: Range<usize>, patches: &mut [f32], dx: &mut [f32]) {
        let d = &self.d;
        let dy = &dy[band.start * d.wo * d.o..band.end * d.wo * d.o];
        let patches = &mut patches[..band.len() * d.wo * d.terms()];
        let dy = Matrix::new(dy, band.len() * d.wo, d.o);
        matmul(dy, Matrix::new(w, d.terms(), d.o).transposed(), false, patches);
        self.for_each_patch_row(band, |patch_at, x_at, len| add(&patches[patch_at..][..len], &mut dx[x_at..][..len]));
    }

    /// As [`Conv2d::backward`], for one image; dx is not masked.
    fn backward_by_patches(
        &self,
        [x, w, dy]: [&[f32]; 3],
        argmax: &[u32],
        [dw, db]: [&mut [f32]; 2],
        mut dx: Option<&mut [f32]>,
        scratch: &mut Scratch,
    ) {
        let d = &self.d;
        let Scratch { rows, patches, .. } = scratch;
        let dy = self.unpooled(dy, argmax, rows);
        if let Some(dx) = &mut dx {
            dx.fill(0.0);
        }
        for band in self.bands() {
            let of_band = &dy[band.start * d.wo * d.o..band.end * d.wo * d.o];
            let of_x = self.gather_patches(x, band.clone(), patches);
            matmul(of_x.transposed(), Matrix::new(of_band, band.len() * d.wo, d.o), true, dw);
            if let Some(dx) = &mut dx {
                self.add_dx(dy, w, band, patches, dx);
            }
        }
        for dy in dy.chunks_exact(d.o) {
            add(dy, db);
        }
    }

    /// Computes the gradient of the filter, `[KH, KW, C, O]`, from the concatenated sums of several calls of
    /// [`Conv2d::backward`].
    pub fn gather_dw(&self, parts: &[f32], dw: &mut [f32]) {
        let (terms, w_len, o) = (self.d.terms(), self.d.w_len(), self.d.o);
        let parts = parts.chunks_exact(self.sums_len()).map(|part| &part[..w_len]);
        if !matches!(self.pooled, Some(FilterSums::ByInputs)) {
            dw.fill(0.0);
            parts.for_each(|part| add(part, dw));
            return;
        }
        // From `[O, terms]`: some channels at a time, so that adjacent values are written together.
        const CHANNELS: usize = 16;
        let mut sums = vec![0.0; CHANNELS * terms];
        for first in (0..o).step_by(CHANNELS) {
            let n = CHANNELS.min(o - first);
            let sums = &mut sums[..n * terms];
            sums.fill(0.0);
            parts.clone().for_each(|part| add(&part[first * terms..][..n * terms], sums));
            for (k, dw) in dw.chunks_exact_mut(o).enumerate() {
                for (dw, of_channel) in dw[first..first + n].iter_mut().zip(sums.chunks_exact(terms)) {
                    *dw = of_channel[k];
                }
            }
        }
    }

    /// Computes the gradient of the bias, `[O]`, like [`Conv2d::gather_dw`].
    pub fn gather_db(&self, parts: &[f32], db: &mut [f32]) {
        db.fill(0.0);
        for part in parts.chunks_exact(self.sums_len()) {
            add(&part[self.d.w_len()..], db);
        }
    }

    /// Copies an image into a frame of zeros.
    fn pad(&self, x: &[f32], padded: &mut [f32]) {
        let d = &self.d;
        let (width, row) = (self.padded_width() * d.c, d.w * d.c);
        let left = d.pad_left * d.c;
        let copied = row.min(width - left);
        for (i, padded) in padded.chunks_exact_mut(width).enumerate() {
            match i.checked_sub(d.pad_top).filter(|&i| i < d.h) {
                Some(i) => {
                    padded[..left].fill(0.0);
                    padded[left..left + copied].copy_from_slice(&x[i * row..][..copied]);
                    padded[left + copied..].fill(0.0);
                }
                None => padded.fill(0.0),
            }
        }
    }

    /// Copies the gradient of an image out of its frame, masked by `mask`.
    fn take_out(&self, padded: &[f32], mask: Option<&[f32]>, dx: &mut [f32]) {
        let d = &self.d;
        let (width, row) = (self.padded_width() * d.c, d.w * d.c);
        let left = d.pad_left * d.c;
        // An image may extend past the last window.
        let copied = row.min(width - left);
        let rows = padded.chunks_exact(width).skip(d.pad_top).map(Some).chain(std::iter::repeat(None));
        for (i, (dx, padded)) in dx.chunks_exact_mut(row).zip(rows).enumerate() {
            let Some(padded) = padded else {
                dx.fill(0.0);
                continue;
            };
            dx[..copied].copy_from_slice(&padded[left..left + copied]);
            dx[copied..].fill(0.0);
            if let Some(x) = mask {
                super::mask(&x[i * row..][..row], dx);
            }
        }
    }

    /// Returns the number of output rows whose patches are built together: few enough to stay in cache, whatever the
    /// size of the image.
    fn band(&self) -> usize {
        const NEAR: usize = 1 << 16;
        (NEAR / (self.d.wo * self.d.terms())).clamp(1, self.d.ho)
    }

    fn bands(&self) -> impl Iterator<Item = Range<usize>> {
        let (rows, band) = (self.d.ho, self.band());
        (0..rows).step_by(band).map(move |first| first..rows.min(first + band))
    }

    /// Builds one row per position of some rows of the output: what the filter sees there, zeros outside the image.
    /// `[positions, KH * KW * C]`.
    fn gather_patches<'a>(&self, x: &[f32], rows: Range<usize>, patches: &'a mut [f32]) -> Matrix<'a> {
        let n = rows.len() * self.d.wo;
        let patches = &mut patches[..n * self.d.terms()];
        patches.fill(0.0);
        self.for_each_patch_row(rows, |patch_at, x_at, len| {
            patches[patch_at..][..len].copy_from_slice(&x[x_at..][..len]);
        });
        Matrix::new(patches, n, self.d.terms())
    }

    /// Calls `f` for each row of a window that overlaps the image: its offset in the patches of some rows of the
    /// output, its offset in the image, and its length.
    fn for_each_patch_row(&self, rows: Range<usize>, mut f: impl FnMut(usize, usize, usize)) {
        let d = &self.d;
        let first_row = rows.start;
        for i in rows {
            for j in 0..d.wo {
                let patch = ((i - first_row) * d.wo + j) * d.terms();
                // The columns of the window that lie inside the image.
                let first = d.pad_left.saturating_sub(j * d.stride_w).min(d.kw);
                let end = (d.w + d.pad_left).saturating_sub(j * d.stride_w).min(d.kw);
                for p in 0..d.kh {
                    let row = (i * d.stride_h + p).checked_sub(d.pad_top).filter(|&row| row < d.h);
                    let (Some(row), true) = (row, first < end) else { continue };
                    let column = j * d.stride_w + first - d.pad_left;
                    f(patch + (p * d.kw + first) * d.c, (row * d.w + column) * d.c, (end - first) * d.c);
                }
            }
        }
    }
}

fn add(values: &[f32], to: &mut [f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}
