//! Convolution with bias, optional ReLU and optional max pooling; see [`crate::cpu::conv2d`] and
//! [`crate::cpu::pool2d`].
//!
//! Whatever depends only on the shape is decided once, in [`Conv2d::new`]: in tiles of sums in vector registers, for 3x3
//! windows by Winograd's algorithm, or, for few channels, as products over patches, which work for every shape; backward
//! over the positions that the pooling chose, if that is possible. Both forms in tiles compute the same bits forward.

use super::conv2d_direct::{self, Forward};
use super::conv2d_pooled::{self, BackwardW, BackwardX, Entry, FilterSums};
use super::conv2d_tiles::{self as tiles, Windows};
use super::conv2d_transforms::AddFilter;
use super::conv2d_winograd::Winograd;
use super::{Aligned, lanes, vectorized, vectorized_loop};
use crate::cpu::conv2d::Conv2dDims;
use crate::cpu::pool2d::Pool2dDims;

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
    /// Output channels side by side in the packed filter of the direct form, if that is used forward.
    direct: Option<usize>,
    /// The windows of the input; `None` if patches are used.
    windows: Option<Windows>,
    /// The windows of the output's gradient, if they give that of the input.
    dx_windows: Option<Windows>,
    /// How the gradient of the filter is summed after the pooling, if that is possible; without `dx_windows`, so is that
    /// of the input.
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
    pub(super) patches: Aligned<f32>,
    /// The convolution's output before the pooling, or some of its rows.
    pub(super) rows: Aligned<f32>,
    /// What Winograd's algorithm writes between its steps.
    transformed: Aligned<f32>,
    /// The sums of the gradient of its transformed filter.
    filter_sums: Aligned<f32>,
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
                scratch.padded.grow(tiles::frame_len(d));
            }
            for windows in conv.windows.iter().chain(&conv.dx_windows) {
                scratch.padded.grow(windows.framed_len());
                scratch.transformed.grow(windows.transformed_len());
                scratch.filter_sums.grow(windows.filter_sums_len());
            }
            if conv.windows.is_none() || conv.tiles_backward().is_none() {
                scratch.patches.grow(conv.band() * d.wo * d.terms());
            }
            if let Some(pool) = &conv.pool {
                let (places, cells) = (pool.kh * pool.kw, pool.ho * pool.wo);
                let windows = conv.windows.as_ref().map(|windows| (windows.images, windows.rows_len()));
                scratch.rows.grow(windows.map_or(d.y_len(), |(images, rows)| rows.max(images * d.y_len())));
                let entries = scratch.entries.len().max(places * d.o).max(cells + 1);
                scratch.entries.resize(entries, Entry::default());
                scratch.counts.resize(scratch.counts.len().max(places), 0);
            }
        }
        scratch
    }
}

/// A filter in the order in which the loops read it; rebuilt when the filter changes.
#[derive(Debug, Default)]
pub struct Packed {
    forward: Aligned<f32>,
    backward: Aligned<f32>,
}

/// Where the gradients of filter and bias are added, if they are needed.
pub(super) type Sums<'a> = Option<[&'a mut [f32]; 2]>;

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
        let (pixel_of, place_of, direct, windows, dx_windows, pooled) = Default::default();
        let mut conv = Conv2d { d, relu, pool, direct, windows, dx_windows, pooled, needs_dx, pixel_of, place_of };
        if algorithm == Algorithm::Fastest {
            conv.pooled = conv2d_pooled::plan(&conv, needs_dx, lanes());
            // Its tiles are whole windows of 2x2 positions.
            let takes_pool = pool.is_none_or(|pool| [pool.kh, pool.kw] == [2, 2]);
            let winograd = if takes_pool { Winograd::new(&d, pool.is_some(), lanes()) } else { None };
            conv.windows = Windows::new(&d, winograd, lanes());
            // Fewer products are faster than fewer passes over the data.
            if conv.windows.as_ref().is_none_or(|windows| windows.winograd.is_none()) {
                conv.direct = conv2d_direct::block(&conv, lanes());
            }
            // A ReLU leaves so few gradients after a pooling that it is faster to skip the others.
            let is_sparse = conv.pooled.is_some() && relu;
            conv.dx_windows = Windows::of_gradient(&d, lanes()).filter(|_| needs_dx && !is_sparse);
            // Both gradients are of the same images.
            let images = conv.windows.iter().chain(&conv.dx_windows).map(|windows| windows.images).min();
            let both = conv.windows.iter_mut().chain(&mut conv.dx_windows);
            both.for_each(|windows| windows.limit(images.unwrap_or(1)));
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
        let in_tiles = |windows: &Windows| if windows.winograd.is_some() { "Winograd" } else { "tiles" };
        let forward = match (self.direct, &self.windows) {
            (Some(_), _) => "direct",
            (None, Some(windows)) => in_tiles(windows),
            (None, None) => "patches",
        };
        let backward = match (self.pooled, self.tiles_backward()) {
            (Some(FilterSums::ByInputs), _) if self.dx_windows.is_some() => "pooled positions, dx in tiles",
            (Some(FilterSums::ByInputs), _) => "pooled positions",
            (Some(FilterSums::ByOutputs), _) => "pooled positions, outputs on the lanes",
            (None, Some(windows)) => in_tiles(windows),
            (None, None) => "patches",
        };
        [forward, backward]
    }

    /// Returns the sides of the tiles with which y, dx and dw are computed by Winograd's algorithm, which has bounds of its own.
    pub(crate) fn winograd(&self) -> [Option<usize>; 3] {
        let side = |windows: Option<&Windows>| Some(windows?.winograd.as_ref()?.side());
        let forward = self.windows.as_ref().filter(|_| self.direct.is_none());
        let dw = self.tiles_backward().filter(|_| self.pooled.is_none());
        [forward, self.dx_windows.as_ref(), dw].map(side)
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
        tiles::frame_width(&self.d)
    }

    /// Returns the windows of the input, if all gradients that are needed can be summed in tiles.
    fn tiles_backward(&self) -> Option<&Windows> {
        self.windows.as_ref().filter(|_| !self.needs_dx || self.dx_windows.is_some())
    }

    /// Packs a filter `[KH, KW, C, O]`.
    pub fn pack(&self, w: &[f32], packed: &mut Packed) {
        if let Some(block) = self.direct {
            packed.forward.grow(w.len());
            conv2d_direct::pack(self.d.terms(), self.d.o, block, w, &mut packed.forward);
        } else if let Some(windows) = &self.windows {
            windows.pack_forward(w, &mut packed.forward);
        }
        if let Some(windows) = &self.dx_windows {
            windows.pack_backward(w, &mut packed.backward);
        } else if self.pooled.is_some() && self.needs_dx {
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
        let (y_len, argmax_len) = (self.y_len(), self.argmax_len());
        let at_once = self.windows.as_ref().filter(|_| self.direct.is_none()).map_or(1, |windows| windows.images);
        let images = x.chunks(at_once * d.x_len()).zip(y.chunks_mut(at_once * y_len));
        for (i, (x, y)) in images.enumerate() {
            let argmax = &mut argmax[i * at_once * argmax_len..][..y.len() / y_len * argmax_len];
            let Scratch { padded, rows, transformed, .. } = &mut *scratch;
            if self.direct.is_some() {
                let padded = &mut padded[..tiles::frame_len(d)];
                tiles::pad(d, x, padded);
                vectorized(Forward { conv: self, padded, packed: &packed.forward, b, y, argmax, rows });
            } else if let Some(windows) = &self.windows {
                let framed = windows.frame(x, padded);
                let (packed, b, relu, pool) = (&packed.forward[..], Some(b), self.relu, self.pool.as_ref());
                vectorized(tiles::Forward { windows, framed, packed, b, relu, pool, y, argmax, rows, transformed });
            } else {
                self.forward_by_patches([x, w, b], y, argmax, scratch);
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
        let (dw, db) = sums.split_at_mut(self.d.w_len());
        self.gradients(masked, [x, w, dy], packed, argmax, Some([dw, db]), dx, scratch);
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
        self.gradients(masked, [x, w, dy], packed, argmax, None, Some(dx), scratch);
    }

    /// As [`Conv2d::backward`]; the gradients of filter and bias only if there are sums for them.
    #[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
    fn gradients(
        &self,
        masked: bool,
        [x, w, dy]: [&[f32]; 3],
        packed: &Packed,
        argmax: &[u32],
        mut sums: Sums<'_>,
        dx: Option<&mut [f32]>,
        scratch: &mut Scratch,
    ) {
        let d = &self.d;
        let (y_len, argmax_len) = (self.y_len(), self.argmax_len());
        let tiles = self.tiles_backward().filter(|_| self.pooled.is_none());
        let windows = if self.pooled.is_some() { self.dx_windows.as_ref() } else { tiles };
        let at_once = windows.map_or(1, |windows| windows.images);
        let winograd = tiles.and_then(|windows| windows.winograd.as_ref()).filter(|_| sums.is_some());
        let sums_len = winograd.map_or(0, |winograd| winograd.filter_sums_len(d));
        scratch.filter_sums[..sums_len].fill(0.0);
        let mut dx = dx.map(|dx| dx.chunks_mut(at_once * d.x_len()));
        let images = x.chunks(at_once * d.x_len()).zip(dy.chunks(at_once * y_len));
        for (i, (x, dy)) in images.enumerate() {
            let dx = dx.as_mut().and_then(Iterator::next);
            let argmax = &argmax[i * at_once * argmax_len..][..dy.len() / y_len * argmax_len];
            let sums = sums.as_mut().map(|[dw, db]| [&mut **dw, &mut **db]);
            match (self.pooled, tiles) {
                (Some(order), _) => self.backward_pooled(order, masked, [x, dy], packed, argmax, sums, dx, scratch),
                (None, Some(windows)) => {
                    self.backward_by_tiles(windows, masked, [x, dy], packed, argmax, sums, dx, scratch);
                }
                (None, None) => self.backward_by_patches(masked, [x, w, dy], argmax, sums, dx, scratch),
            }
        }
        if let (Some(winograd), Some([dw, _])) = (winograd, sums) {
            vectorized(AddFilter { side: winograd.side(), sums: &scratch.filter_sums[..sums_len], dw });
        }
    }

    /// As [`Conv2d::backward`], for one image, or if there are `dx_windows` for [`Windows::images`] at most.
    #[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
    fn backward_pooled(
        &self,
        order: FilterSums,
        masked: bool,
        [x, dy]: [&[f32]; 2],
        packed: &Packed,
        argmax: &[u32],
        sums: Sums<'_>,
        dx: Option<&mut [f32]>,
        scratch: &mut Scratch,
    ) {
        let Scratch { padded: room, rows, entries, counts, transformed, .. } = scratch;
        let padded = &mut room[..tiles::frame_len(&self.d)];
        if let Some([dw, db]) = sums {
            let (x_len, y_len) = (self.d.x_len(), self.y_len());
            let images = x.chunks_exact(x_len).zip(dy.chunks_exact(y_len).zip(argmax.chunks_exact(y_len)));
            for (x, (dy, argmax)) in images {
                tiles::pad(&self.d, x, padded);
                let (padded, dw, db, entries) = (&*padded, &mut *dw, &mut *db, &mut *entries);
                vectorized(BackwardW { conv: self, sums: order, padded, dy, argmax, dw, db, entries });
            }
        }
        let Some(dx) = dx else { return };
        if let Some(windows) = &self.dx_windows {
            let mask = masked.then_some(x);
            return dx_by_tiles(windows, self.unpooled(dy, argmax, rows), packed, mask, dx, [room, transformed]);
        }
        let (packed, padded_dx) = (&packed.backward[..], &mut *padded);
        vectorized(BackwardX { conv: self, packed, dy, argmax, padded_dx, entries, counts });
        self.take_out(padded, masked.then_some(x), dx);
    }

    /// As [`Conv2d::backward`], for [`Windows::images`] images at most.
    #[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
    fn backward_by_tiles(
        &self,
        windows: &Windows,
        masked: bool,
        [x, dy]: [&[f32]; 2],
        packed: &Packed,
        argmax: &[u32],
        sums: Sums<'_>,
        dx: Option<&mut [f32]>,
        scratch: &mut Scratch,
    ) {
        let Scratch { padded, rows, transformed, filter_sums, .. } = scratch;
        let dy = self.unpooled(dy, argmax, rows);
        if let Some([dw, db]) = sums {
            let framed = windows.frame(x, padded);
            let dw = match &windows.winograd {
                Some(winograd) => &mut filter_sums[..winograd.filter_sums_len(&self.d)],
                None => dw,
            };
            vectorized(tiles::BackwardW { windows, framed, dy, dw, db, transformed });
        }
        if let (Some(dx), Some(windows)) = (dx, &self.dx_windows) {
            dx_by_tiles(windows, dy, packed, masked.then_some(x), dx, [padded, transformed]);
        }
    }

    /// Returns the gradient of the convolution's output: dy, placed at the positions that the pooling chose.
    pub(super) fn unpooled<'a>(&self, dy: &'a [f32], argmax: &[u32], rows: &'a mut [f32]) -> &'a [f32] {
        let (Some(pool), len) = (&self.pool, self.y_len()) else { return dy };
        let rows = &mut rows[..dy.len() / len * self.d.y_len()];
        let images = dy.chunks_exact(len).zip(argmax.chunks_exact(len)).zip(rows.chunks_exact_mut(self.d.y_len()));
        images.for_each(|((dy, argmax), rows)| unpool(pool, dy, argmax, rows));
        rows
    }

    /// The number of positions per image of the pooling, if there is one.
    fn argmax_len(&self) -> usize {
        if self.pool.is_some() { self.y_len() } else { 0 }
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
}

/// Computes the gradient of the input from that of the convolution's output, masked by `mask`.
fn dx_by_tiles(
    windows: &Windows,
    dy: &[f32],
    packed: &Packed,
    mask: Option<&[f32]>,
    dx: &mut [f32],
    [padded, transformed]: [&mut [f32]; 2],
) {
    let (framed, packed) = (windows.frame(dy, padded), &packed.backward[..]);
    let (b, relu, pool, argmax, rows) = (None, false, None, &mut [][..], &mut [][..]);
    vectorized(tiles::Forward { windows, framed, packed, b, relu, pool, y: &mut *dx, argmax, rows, transformed });
    if let Some(x) = mask {
        super::mask(x, dx);
    }
}

/// Places the gradient of the maxima of one image at their positions; it is 0 at all others.
fn unpool(pool: &Pool2dDims, dy: &[f32], argmax: &[u32], dx: &mut [f32]) {
    let c = pool.c;
    if [pool.ho * pool.kh, pool.wo * pool.kw] != [pool.h, pool.w] {
        dx.fill(0.0);
    }
    vectorized_loop(
        #[inline(always)]
        || {
            for (cell, (dy, argmax)) in dy.chunks_exact(c).zip(argmax.chunks_exact(c)).enumerate() {
                let (i, j) = (cell / pool.wo * pool.kh, cell % pool.wo * pool.kw);
                for place in 0..pool.kh * pool.kw {
                    let position = (i + place / pool.kw) * pool.w + j + place % pool.kw;
                    let dx = &mut dx[position * c..][..c];
                    for ((dx, &dy), &at) in dx.iter_mut().zip(dy).zip(argmax) {
                        *dx = if at == position as u32 { dy } else { 0.0 };
                    }
                }
            }
        },
    );
}

pub(super) fn add(values: &[f32], to: &mut [f32]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to += value;
    }
}
