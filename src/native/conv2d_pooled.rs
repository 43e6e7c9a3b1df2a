//! The gradients of a convolution that is followed by max pooling.
//!
//! Only one position of each pooling window has a gradient, so the convolution's own gradient is zero at three of four
//! positions (2x2 windows), and at more after a ReLU. This code skips the zeros: for each output channel, it lists the
//! positions with a gradient, and each adds nine rows of channels. Measured on one core with AVX-512, second
//! convolution of the article, one image, half of the pooled cells above zero: dw 16.5 us, dx 18.1 us; the products
//! over all positions take 38 us each at the speed of the forward pass.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_memcpy,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::conv2d::Conv2d;
use super::conv2d_direct::{constant_len, vectors};
use super::registers;
use pulp::{Simd, WithSimd};

/// Cells of the filter; the loops are written for this number.
const TAPS: usize = 9;

/// How the gradient of the filter is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterSums {
    /// Input channels on the lanes: the sums are `[O, 9, C]`.
    ByInputs,
    /// Output channels on the lanes, for few input channels: the sums are `[9, C, O]`, and all positions of a window
    /// are computed.
    ByOutputs,
}

/// Returns how the gradient of the filter is summed; `None` if this module cannot compute what is needed.
pub(super) fn plan(conv: &Conv2d, needs_dx: bool, lanes: usize) -> Option<FilterSums> {
    let d = &conv.d;
    if conv.pool.is_none() || lanes < 4 || [d.kh, d.kw, d.stride_h, d.stride_w] != [3, 3, 1, 1] {
        return None;
    }
    match d.c {
        16 | 32 | 64 | 128 => Some(FilterSums::ByInputs),
        // The gradient of the input is only available with sums by inputs.
        _ => (!needs_dx && d.o.is_multiple_of(lanes)).then_some(FilterSums::ByOutputs),
    }
}

/// A gradient and its target: a pixel of the padded image, or an output channel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    at: u32,
    gradient: f32,
}

/// The gradients of the filter and of the bias for one image.
pub(super) struct BackwardW<'a> {
    pub(super) conv: &'a Conv2d,
    pub(super) sums: FilterSums,
    /// `[HO + 2, WO + 2, C]`.
    pub(super) padded: &'a [f32],
    /// After the pooling, `[cells, O]`.
    pub(super) dy: &'a [f32],
    pub(super) argmax: &'a [u32],
    /// Added to; in the layout that [`FilterSums`] describes.
    pub(super) dw: &'a mut [f32],
    /// Added to, `[O]`.
    pub(super) db: &'a mut [f32],
    /// Room for one entry per cell.
    pub(super) entries: &'a mut [Entry],
}

impl WithSimd for BackwardW<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match (self.sums, self.conv.d.c) {
            (FilterSums::ByInputs, 16) => by_inputs::<S, 16>(simd, self),
            (FilterSums::ByInputs, 32) => by_inputs::<S, 32>(simd, self),
            (FilterSums::ByInputs, 64) => by_inputs::<S, 64>(simd, self),
            (FilterSums::ByInputs, 128) => by_inputs::<S, 128>(simd, self),
            (FilterSums::ByInputs, c) => unreachable!("`plan` rejects {c} channels"),
            (FilterSums::ByOutputs, _) => by_outputs(simd, self),
        }
    }
}

#[inline(always)]
fn by_inputs<S: Simd, const C: usize>(simd: S, image: BackwardW<'_>) {
    // As many sums as fit into registers: nine, or eighteen if there are 32 registers and enough channels.
    if registers::<S>() >= 32 && C.is_multiple_of(2 * S::F32_LANES) {
        by_inputs_of::<S, C, 2>(simd, image);
    } else {
        by_inputs_of::<S, C, 1>(simd, image);
    }
}

#[inline(always)]
fn by_inputs_of<S: Simd, const C: usize, const V: usize>(simd: S, image: BackwardW<'_>) {
    let BackwardW { conv, padded, dy, argmax, dw, db, entries, .. } = image;
    let o = conv.d.o;
    let (pixels, width) = (padded.as_chunks::<C>().0, conv.padded_width());
    let pixel_of = &conv.pixel_of[..];
    let block = S::F32_LANES * V;
    for (channel, (dw, db)) in dw.chunks_exact_mut(TAPS * C).zip(db).enumerate() {
        let mut n_entries = 0;
        let mut sum = 0.0;
        for (&gradient, &position) in dy[channel..].iter().step_by(o).zip(argmax[channel..].iter().step_by(o)) {
            entries[n_entries] = Entry { at: pixel_of[position as usize], gradient };
            n_entries += usize::from(gradient != 0.0);
            sum += gradient;
        }
        *db += sum;
        for first in (0..C).step_by(block) {
            let mut sums = [[simd.splat_f32s(0.0); V]; TAPS];
            for entry in &entries[..n_entries] {
                let gradient = simd.splat_f32s(entry.gradient);
                for p in 0..3 {
                    let row: &[[f32; C]; 3] = constant_len(&pixels[entry.at as usize + p * width..][..3]);
                    for q in 0..3 {
                        let x = vectors::<S, V>(&row[q][first..first + block]);
                        for v in 0..V {
                            sums[3 * p + q][v] = simd.mul_add_e_f32s(gradient, x[v], sums[3 * p + q][v]);
                        }
                    }
                }
            }
            // Constant indices: an array indexed by a variable anywhere is kept in memory everywhere.
            for tap in 0..TAPS {
                add_to::<S, V>(simd, &mut dw[tap * C + first..][..block], &sums[tap]);
            }
        }
    }
}

#[inline(always)]
fn by_outputs<S: Simd>(simd: S, image: BackwardW<'_>) {
    if registers::<S>() >= 32 && image.conv.d.o.is_multiple_of(2 * S::F32_LANES) {
        by_outputs_of::<S, 2>(simd, image);
    } else {
        by_outputs_of::<S, 1>(simd, image);
    }
}

#[inline(always)]
fn by_outputs_of<S: Simd, const V: usize>(simd: S, image: BackwardW<'_>) {
    let BackwardW { conv, padded, dy, argmax, dw, db, .. } = image;
    let (d, width) = (&conv.d, conv.padded_width());
    let pool = conv.pool.as_ref().expect("`plan` requires a pooling");
    let block = S::F32_LANES * V;
    let zero = simd.splat_f32s(0.0);
    for first in (0..d.o).step_by(block) {
        for c in 0..d.c {
            let mut sums = [[zero; V]; TAPS];
            let mut sum_of_dy = [zero; V];
            for i in 0..pool.ho {
                for j in 0..pool.wo {
                    let at = (i * pool.wo + j) * d.o + first;
                    let dy = vectors::<S, V>(&dy[at..at + block]);
                    let argmax: &[S::u32s; V] = constant_len(S::as_simd_u32s(&argmax[at..at + block]).0);
                    for v in 0..V {
                        sum_of_dy[v] = simd.add_f32s(sum_of_dy[v], dy[v]);
                    }
                    for k in 0..pool.kh {
                        for l in 0..pool.kw {
                            let (row, column) = (i * pool.kh + k, j * pool.kw + l);
                            let position = simd.splat_u32s((row * d.wo + column) as u32);
                            let mut here = [zero; V];
                            for v in 0..V {
                                here[v] = simd.select_f32s(simd.equal_u32s(argmax[v], position), dy[v], zero);
                            }
                            for p in 0..3 {
                                let x = &padded[((row + p) * width + column) * d.c + c..][..2 * d.c + 1];
                                for q in 0..3 {
                                    let x = simd.splat_f32s(x[q * d.c]);
                                    for v in 0..V {
                                        sums[3 * p + q][v] = simd.mul_add_e_f32s(x, here[v], sums[3 * p + q][v]);
                                    }
                                }
                            }
                        }
                    }
                }
            }
            for tap in 0..TAPS {
                add_to::<S, V>(simd, &mut dw[(tap * d.c + c) * d.o + first..][..block], &sums[tap]);
            }
            if c == 0 {
                add_to::<S, V>(simd, &mut db[first..first + block], &sum_of_dy);
            }
        }
    }
}

#[inline(always)]
fn add_to<S: Simd, const V: usize>(simd: S, to: &mut [f32], values: &[S::f32s; V]) {
    let to = S::as_mut_simd_f32s(to).0;
    for v in 0..V {
        to[v] = simd.add_f32s(to[v], values[v]);
    }
}

/// Packs the filter `[9, C, O]` as `[C / block, O, 9, block]`, for [`BackwardX`].
pub(super) fn pack(c: usize, o: usize, lanes: usize, w: &[f32], packed: &mut [f32]) {
    let block = block(c, lanes);
    for (i_block, packed) in packed.chunks_exact_mut(o * TAPS * block).enumerate() {
        for (channel, packed) in packed.chunks_exact_mut(TAPS * block).enumerate() {
            for (tap, packed) in packed.chunks_exact_mut(block).enumerate() {
                for (k, value) in packed.iter_mut().enumerate() {
                    *value = w[(tap * c + i_block * block + k) * o + channel];
                }
            }
        }
    }
}

/// Returns how many of `c` input channels [`BackwardX`] sums at once.
fn block(c: usize, lanes: usize) -> usize {
    // Two vectors if the registers suffice, which they do with AVX-512 and NEON.
    if lanes != 8 && !cfg!(target_arch = "wasm32") && c.is_multiple_of(2 * lanes) { 2 * lanes } else { lanes }
}

/// The gradient of the input for one image.
pub(super) struct BackwardX<'a> {
    pub(super) conv: &'a Conv2d,
    /// From [`pack`].
    pub(super) packed: &'a [f32],
    /// After the pooling, `[cells, O]`.
    pub(super) dy: &'a [f32],
    pub(super) argmax: &'a [u32],
    /// Written completely, including the frame: `[HO + 2, WO + 2, C]`.
    pub(super) padded_dx: &'a mut [f32],
    /// Room for `O` entries for each position of a window.
    pub(super) entries: &'a mut [Entry],
    /// Room for a number for each position of a window.
    pub(super) counts: &'a mut [usize],
}

impl WithSimd for BackwardX<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if block(self.conv.d.c, S::F32_LANES) == 2 * S::F32_LANES {
            backward_x::<S, 2, { 2 * TAPS }>(simd, self);
        } else {
            backward_x::<S, 1, TAPS>(simd, self);
        }
    }
}

/// `T` is `TAPS * V`.
#[inline(always)]
fn backward_x<S: Simd, const V: usize, const T: usize>(simd: S, image: BackwardX<'_>) {
    let BackwardX { conv, packed, dy, argmax, padded_dx, entries, counts } = image;
    let (d, width) = (&conv.d, conv.padded_width());
    let pool = conv.pool.as_ref().expect("`plan` requires a pooling");
    let place_of = &conv.place_of[..];
    let counts = &mut counts[..pool.kh * pool.kw];
    let block = S::F32_LANES * V;
    padded_dx.fill(0.0);
    for (i_block, packed) in packed.chunks_exact(d.o * TAPS * block).enumerate() {
        let filter = S::as_simd_f32s(packed).0.as_chunks::<T>().0;
        for i in 0..pool.ho {
            for j in 0..pool.wo {
                let at = (i * pool.wo + j) * d.o;
                // The channels with a gradient, listed by their position in the window: each list needs only one set of
                // sums.
                counts.fill(0);
                for (channel, (&gradient, &position)) in dy[at..at + d.o].iter().zip(&argmax[at..at + d.o]).enumerate()
                {
                    let place = place_of[position as usize] as usize;
                    entries[place * d.o + counts[place]] = Entry { at: channel as u32, gradient };
                    counts[place] += usize::from(gradient != 0.0);
                }
                for k in 0..pool.kh {
                    for l in 0..pool.kw {
                        let place = k * pool.kw + l;
                        let list = &entries[place * d.o..][..counts[place]];
                        if list.is_empty() {
                            continue;
                        }
                        let mut sums = [simd.splat_f32s(0.0); T];
                        for entry in list {
                            let gradient = simd.splat_f32s(entry.gradient);
                            let filter = &filter[entry.at as usize];
                            for t in 0..T {
                                sums[t] = simd.mul_add_e_f32s(gradient, filter[t], sums[t]);
                            }
                        }
                        let pixel = (i * pool.kh + k) * width + j * pool.kw + l;
                        for tap in 0..TAPS {
                            let at = (pixel + tap / 3 * width + tap % 3) * d.c + i_block * block;
                            let dx = S::as_mut_simd_f32s(&mut padded_dx[at..at + block]).0;
                            for v in 0..V {
                                dx[v] = simd.add_f32s(dx[v], sums[tap * V + v]);
                            }
                        }
                    }
                }
            }
        }
    }
}
