//! Grouped convolution; see [`crate::cpu::groupedconv2d`].
//!
//! One vector of output channels after the other, called a block. What a block sees of an image is copied into a frame of
//! zeros, and every output is a sum over the *taps*: the cells of the window, and in each the planes of the frame. Tiles of
//! adjacent positions are summed in registers.
//! - In a depthwise convolution, each channel sees itself: the frame has one plane of vectors.
//! - Otherwise it has a plane of numbers for each input channel of the groups that the block is of, and each number is
//!   broadcast to all lanes. Where it belongs to another group, the weight is zero: a convolution in groups takes as long as
//!   one in groups of at least one vector each. (Zero times NaN is NaN, so a NaN may leave its group: one that ends the
//!   training in any case.)
//!
//! The gradient of the input is such a convolution too, of dy with zeros between its values if there is a stride. That of the
//! filter sums products of the same frame and dy over fixed groups of images, with all threads: any number of threads computes
//! the same bits.

#![allow(
    clippy::needless_range_loop,
    reason = "an array indexed by anything but a constant is kept in memory, not in registers"
)]

use super::conv2d_direct::{constant_len, relu as positive};
use super::{Aligned, lanes, vectorized, vectorized_loop};
use crate::cpu::groupedconv2d::GroupedConv2dDims;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// A window that slides over an image.
struct Slide {
    /// Rows, columns and channels of the image.
    image: [usize; 3],
    /// Rows, columns and channels of the output.
    output: [usize; 3],
    /// Input and output channels of a group.
    of_group: [usize; 2],
    /// Numbers in a vector.
    lanes: usize,
    /// The place of the first row of the image in the frame, and the distance to the next one.
    rows_at: [usize; 2],
    /// The place of each column of the image in a row of the frame, as far as the window sees it.
    columns_at: Vec<usize>,
    /// Rows of the frame.
    rows: usize,
    /// Elements in a row of the frame. The columns at which the window begins are side by side, then follow those beside
    /// them, and so on: a tile of positions reads adjacent elements whatever the stride.
    row_len: usize,
    /// Planes of the frame.
    planes: usize,
    /// Rows of the frame from one row of the output to the next.
    stride: usize,
    /// The place of each tap in the frame, relative to that of the output's position: cells, and in each the planes.
    taps: Vec<usize>,
}

impl Slide {
    /// Plans a slide over an image whose first pixel is at `first` in the frame, and the others `step` apart.
    fn new(
        [image, output]: [[usize; 3]; 2],
        [first, step]: [[usize; 2]; 2],
        [window, stride]: [[usize; 2]; 2],
        groups: usize,
    ) -> Self {
        let size = |axis: usize| (output[axis] - 1) * stride[axis] + window[axis];
        let (rows, columns) = (size(0), size(1));
        let width = columns.div_ceil(stride[1]);
        let row_len = width * stride[1];
        let place = |column: usize| column % stride[1] * width + column / stride[1];
        let columns_at = (0..image[1]).map(|j| first[1] + j * step[1]).filter(|&j| j < columns).map(place).collect();
        let (of_group, lanes) = ([image[2] / groups, output[2] / groups], lanes());
        let planes = if of_group == [1, 1] { 1 } else { groups_of_block(of_group[1], lanes).min(groups) * of_group[0] };
        let cells = (0..window[0]).flat_map(|p| (0..window[1]).map(move |q| p * row_len + place(q)));
        let taps = cells.flat_map(|at| (0..planes).map(move |plane| plane * rows * row_len + at)).collect();
        let rows_at = [first[0], step[0]];
        Slide { image, output, of_group, lanes, rows_at, columns_at, rows, row_len, planes, stride: stride[0], taps }
    }

    /// The forward pass.
    fn forward(d: &GroupedConv2dDims) -> Self {
        let c = &d.conv;
        let sizes = [[c.h, c.w, c.c], [c.ho, c.wo, c.o]];
        let window = [[c.kh, c.kw], [c.stride_h, c.stride_w]];
        Slide::new(sizes, [[c.pad_top, c.pad_left], [1, 1]], window, d.groups)
    }

    /// The gradient of the input: of dy, `stride` apart, with the cells of the window in reverse.
    fn backward_x(d: &GroupedConv2dDims) -> Self {
        let c = &d.conv;
        let sizes = [[c.ho, c.wo, c.o], [c.h, c.w, c.c]];
        let first = [c.kh - 1 - c.pad_top, c.kw - 1 - c.pad_left];
        Slide::new(sizes, [first, [c.stride_h, c.stride_w]], [[c.kh, c.kw], [1, 1]], d.groups)
    }

    /// A window of one cell over each channel: its frame is dy itself, one vector of channels after the other.
    fn identity(d: &GroupedConv2dDims) -> Self {
        let size = [d.conv.ho, d.conv.wo, d.conv.o];
        Slide::new([size, size], [[0, 0], [1, 1]], [[1, 1], [1, 1]], d.conv.o)
    }

    fn is_depthwise(&self) -> bool {
        self.of_group == [1, 1]
    }

    /// Returns the number of elements of an image and of its output.
    fn lens(&self) -> [usize; 2] {
        [self.image, self.output].map(|size| size.iter().product())
    }

    /// Returns the number of weights, packed.
    fn packed_len(&self) -> usize {
        self.output[2].div_ceil(self.lanes) * self.taps.len() * self.lanes
    }

    /// Returns the place of a weight in `[blocks, taps, lanes]`, given its cell, its input channel within the group, and its
    /// output channel.
    fn packed_at(&self, cell: usize, c: usize, o: usize) -> usize {
        let (block, [c_each, o_each], lanes) = (o / self.lanes, self.of_group, self.lanes);
        let group = if self.is_depthwise() { 0 } else { o / o_each - block * lanes / o_each };
        (block * self.taps.len() + cell * self.planes + group * c_each + c) * lanes + o % lanes
    }

    /// Returns a frame of zeros.
    fn frame(&self) -> Aligned<f32> {
        let mut frame = Aligned::default();
        let each = if self.is_depthwise() { self.lanes } else { 1 };
        frame.grow(self.planes * self.rows * self.row_len * each);
        frame
    }

    /// Returns each row of an image that the window sees, and its place in the frame.
    fn rows_of<'x>(&self, x: &'x [f32]) -> impl Iterator<Item = (usize, &'x [f32])> {
        let [first, step] = self.rows_at;
        let (rows, row_len) = (self.rows, self.row_len);
        let all = x.chunks_exact(self.image[1] * self.image[2]).enumerate().map(move |(i, x)| (first + i * step, x));
        all.take_while(move |(row, _)| *row < rows).map(move |(row, x)| (row * row_len, x))
    }

    /// Copies some channels of an image into the frame of a depthwise convolution. Everything else in it must be zero.
    #[inline(always)]
    fn fill_vectors<S: Simd>(&self, simd: S, x: &[f32], channels: Range<usize>, frame: &mut [S::f32s]) {
        for (at, x) in self.rows_of(x) {
            let row = &mut frame[at..at + self.row_len];
            for (x, &column) in x.chunks_exact(self.image[2]).zip(&self.columns_at) {
                row[column] = load(simd, &x[channels.clone()]);
            }
        }
    }

    /// Copies what some output channels see of an image into the frame. In other planes may be what others see.
    #[inline(always)]
    fn fill_planes(&self, x: &[f32], outputs: Range<usize>, frame: &mut [f32]) {
        let [c_each, o_each] = self.of_group;
        let channels = outputs.start / o_each * c_each..((outputs.end - 1) / o_each + 1) * c_each;
        for (c, plane) in channels.zip(frame.chunks_exact_mut(self.rows * self.row_len)) {
            for (at, x) in self.rows_of(x) {
                let row = &mut plane[at..at + self.row_len];
                for (x, &column) in x.chunks_exact(self.image[2]).zip(&self.columns_at) {
                    row[column] = x[c];
                }
            }
        }
    }
}

/// Returns how many groups a vector of output channels may be of, if each has `o_each`.
fn groups_of_block(o_each: usize, lanes: usize) -> usize {
    if lanes.is_multiple_of(o_each) || o_each.is_multiple_of(lanes) {
        lanes.div_ceil(o_each)
    } else {
        (lanes - 1).div_ceil(o_each) + 1
    }
}

/// Returns zeros.
fn zeros(len: usize) -> Aligned<f32> {
    let mut values = Aligned::default();
    values.grow(len);
    values
}

/// Loads a vector of which the last lanes may be missing: they are zero.
#[inline(always)]
fn load<S: Simd>(simd: S, values: &[f32]) -> S::f32s {
    match S::as_simd_f32s(values).0 {
        [all] => *all,
        _ => simd.partial_load_f32s(values),
    }
}

/// Stores a vector of which the last lanes may be missing.
#[inline(always)]
fn store<S: Simd>(simd: S, vector: S::f32s, values: &mut [f32]) {
    match S::as_mut_simd_f32s(values).0 {
        [all] => *all = vector,
        _ => simd.partial_store_f32s(values, vector),
    }
}

/// Computes `y = conv(x, w) + b`, followed by a ReLU if `relu`, for some images.
///
/// Shapes: x `[N, H, W, C]`, w `[KH, KW, C/groups, O]`, b `[O]`, y `[N, HO, WO, O]`.
pub fn groupedconv2d_forward(d: &GroupedConv2dDims, relu: bool, [x, w, b]: [&[f32]; 3], y: &mut [f32]) {
    let slide = &Slide::forward(d);
    let mut packed = zeros(slide.packed_len());
    for_each_weight(d, w, |[cell, c, o], w| packed[slide.packed_at(cell, c, o)] = w);
    vectorized(Convolve { slide, relu, x, packed: &packed, b, y, mask: None });
}

/// Computes the gradient of the input for some images. `masked` says that x is the output of a ReLU: then dx is zero where x
/// is.
///
/// Shapes: x and dx `[N, H, W, C]`, w `[KH, KW, C/groups, O]`, dy `[N, HO, WO, O]`.
pub fn groupedconv2d_backward_x(d: &GroupedConv2dDims, masked: bool, [x, w, dy]: [&[f32]; 3], dx: &mut [f32]) {
    let ([c_each, o_each], cells) = (d.of_group(), d.conv.kh * d.conv.kw);
    let slide = &Slide::backward_x(d);
    let mut packed = zeros(slide.packed_len());
    for_each_weight(d, w, |[cell, c, o], w| {
        packed[slide.packed_at(cells - 1 - cell, o % o_each, o / o_each * c_each + c)] = w;
    });
    let (b, mask) = (&zeros(d.conv.c), masked.then_some(x));
    vectorized(Convolve { slide, relu: false, x: dy, packed: &packed, b, y: dx, mask });
}

/// Calls `f` with each weight and its cell, its input channel within the group, and its output channel.
fn for_each_weight(d: &GroupedConv2dDims, w: &[f32], mut f: impl FnMut([usize; 3], f32)) {
    let [c_each, _] = d.of_group();
    for (row, w) in w.chunks_exact(d.conv.o).enumerate() {
        let (cell, c) = (row / c_each, row % c_each);
        w.iter().enumerate().for_each(|(o, &w)| f([cell, c, o], w));
    }
}

/// The output of a slide over some images.
struct Convolve<'a> {
    slide: &'a Slide,
    relu: bool,
    x: &'a [f32],
    /// `[blocks, taps, lanes]`.
    packed: &'a [f32],
    b: &'a [f32],
    y: &'a mut [f32],
    /// Where this is not positive, the output is zero.
    mask: Option<&'a [f32]>,
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Positions per tile: as many sums as there are registers for, or fewer if a row is shorter.
        match self.slide.output[1] {
            14.. => self.in_tiles::<S, 14>(simd),
            7.. => self.in_tiles::<S, 7>(simd),
            3.. => self.in_tiles::<S, 3>(simd),
            _ => self.in_tiles::<S, 1>(simd),
        }
    }
}

impl Convolve<'_> {
    #[inline(always)]
    fn in_tiles<S: Simd, const R: usize>(self, simd: S) {
        let Convolve { slide, relu, x, packed, b, y, mask } = self;
        let (mut frame, packed) = (slide.frame(), S::as_simd_f32s(packed).0);
        let [x_len, y_len] = slide.lens();
        for (i, (x, y)) in x.chunks_exact(x_len).zip(y.chunks_exact_mut(y_len)).enumerate() {
            for (block, w) in packed.chunks_exact(slide.taps.len()).enumerate() {
                let outputs = channels_of::<S>(block, slide.output[2]);
                let of_block = Block { slide, relu, w, b: load(simd, &b[outputs.clone()]), outputs: outputs.clone() };
                if slide.is_depthwise() {
                    let frame = S::as_mut_simd_f32s(&mut frame).0;
                    slide.fill_vectors(simd, x, outputs, frame);
                    of_block.convolve::<_, R>(simd, frame, y, |x| x);
                } else {
                    slide.fill_planes(x, outputs, &mut frame);
                    of_block.convolve::<_, R>(
                        simd,
                        &frame,
                        y,
                        #[inline(always)]
                        |x| simd.splat_f32s(x),
                    );
                }
            }
            if let Some(mask) = mask {
                // Now, while the output is in the cache.
                super::mask(&mask[i * y_len..][..y_len], y);
            }
        }
    }
}

/// Returns the channels of a block, out of `channels`.
fn channels_of<S: Simd>(block: usize, channels: usize) -> Range<usize> {
    let first = block * S::F32_LANES;
    first..channels.min(first + S::F32_LANES)
}

/// A block in the forward pass.
struct Block<'a, S: Simd> {
    slide: &'a Slide,
    relu: bool,
    outputs: Range<usize>,
    w: &'a [S::f32s],
    b: S::f32s,
}

impl<S: Simd> Block<'_, S> {
    /// Computes the outputs of an image, given its frame; `wide` makes a vector of an element.
    #[inline(always)]
    fn convolve<E: Copy, const R: usize>(self, simd: S, frame: &[E], y: &mut [f32], wide: impl Fn(E) -> S::f32s) {
        let Block { slide, relu, outputs, w, b } = self;
        let [_, columns, channels] = slide.output;
        for (i, y) in y.chunks_exact_mut(columns * channels).enumerate() {
            let row = &frame[i * slide.stride * slide.row_len..];
            let mut j = 0;
            while j < columns {
                // The last tile starts where it just fits, and sums some positions again.
                let start = j.min(columns - R);
                let x = &row[start..];
                let mut sums = [b; R];
                for (&tap, &w) in slide.taps.iter().zip(w) {
                    let x: &[E; R] = constant_len(&x[tap..tap + R]);
                    for r in 0..R {
                        sums[r] = simd.mul_add_e_f32s(wide(x[r]), w, sums[r]);
                    }
                }
                for r in 0..R {
                    let sum = if relu { positive(simd, sums[r]) } else { sums[r] };
                    store(simd, sum, &mut y[(start + r) * channels..][outputs.clone()]);
                }
                j += R;
            }
        }
    }
}

/// Computes the gradient of the filter over all images, with all threads of the current pool.
///
/// Shapes: x `[N, H, W, C]`, dy `[N, HO, WO, O]`, dw `[KH, KW, C/groups, O]`.
pub fn groupedconv2d_backward_w(d: &GroupedConv2dDims, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (slide, identity) = (&Slide::forward(d), &Slide::identity(d));
    let [x_len, y_len] = slide.lens();
    let sums = sum_groups(d, slide.packed_len(), |images, sums| {
        let of = |len: usize| images.start * len..images.end * len;
        vectorized(Correlate { slide, identity, x: &x[of(x_len)], dy: &dy[of(y_len)], sums });
    });
    let (o, [c_each, _]) = (d.conv.o, d.of_group());
    for (i, dw) in dw.iter_mut().enumerate() {
        *dw = sums[slide.packed_at(i / (c_each * o), i / o % c_each, i % o)];
    }
}

/// Computes the gradient of the bias over all images, with all threads of the current pool. Shapes: dy `[N, HO, WO, O]`, db
/// `[O]`.
pub fn groupedconv2d_backward_b(d: &GroupedConv2dDims, dy: &[f32], db: &mut [f32]) {
    let (o, y_len) = (d.conv.o, d.conv.ho * d.conv.wo * d.conv.o);
    let sums = sum_groups(d, o, |images, sums| {
        let dy = &dy[images.start * y_len..images.end * y_len];
        vectorized_loop(
            #[inline(always)]
            || {
                for dy in dy.chunks_exact(o) {
                    sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                }
            },
        );
    });
    db.copy_from_slice(&sums[..o]);
}

/// Returns the sum over all images of `len` numbers. `add` adds those of some images; it is called for different groups at
/// once.
fn sum_groups(d: &GroupedConv2dDims, len: usize, add: impl Fn(Range<usize>, &mut [f32]) + Sync) -> Aligned<f32> {
    /// Positions of a group, at least, if the batch has as many.
    const POSITIONS: usize = 1024;
    /// Groups, at most.
    const GROUPS: usize = 64;
    let n = d.conv.n;
    let group = POSITIONS.div_ceil(d.conv.ho * d.conv.wo).max(n.div_ceil(GROUPS));
    let parts: Vec<Aligned<f32>> = (0..n.div_ceil(group))
        .into_par_iter()
        .map(|i| {
            let mut part = zeros(len);
            add(i * group..n.min((i + 1) * group), &mut part);
            part
        })
        .collect();
    let mut total = zeros(len);
    for part in parts {
        total.iter_mut().zip(part.iter()).for_each(|(total, part)| *total += part);
    }
    total
}

/// The gradients of the weights of a slide over some images: products of what the taps see and of dy, added to `sums`.
struct Correlate<'a> {
    slide: &'a Slide,
    identity: &'a Slide,
    x: &'a [f32],
    dy: &'a [f32],
    /// As packed weights.
    sums: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Taps per tile: those of a window of 3x3, or fewer.
        match self.slide.taps.len() {
            9.. => self.in_tiles::<S, 9>(simd),
            3.. => self.in_tiles::<S, 3>(simd),
            _ => self.in_tiles::<S, 1>(simd),
        }
    }
}

impl Correlate<'_> {
    #[inline(always)]
    fn in_tiles<S: Simd, const R: usize>(self, simd: S) {
        let Correlate { slide, identity, x, dy, sums } = self;
        let (mut frame, mut dy_frame) = (slide.frame(), identity.frame());
        let (dy_frame, sums) = (S::as_mut_simd_f32s(&mut dy_frame).0, S::as_mut_simd_f32s(sums).0);
        let [x_len, y_len] = slide.lens();
        for (x, dy) in x.chunks_exact(x_len).zip(dy.chunks_exact(y_len)) {
            for (block, sums) in sums.chunks_exact_mut(slide.taps.len()).enumerate() {
                let outputs = channels_of::<S>(block, slide.output[2]);
                identity.fill_vectors(simd, dy, outputs.clone(), dy_frame);
                if slide.is_depthwise() {
                    let frame = S::as_mut_simd_f32s(&mut frame).0;
                    slide.fill_vectors(simd, x, outputs, frame);
                    correlate::<S, _, R>(simd, slide, frame, dy_frame, sums, |x| x);
                } else {
                    slide.fill_planes(x, outputs, &mut frame);
                    correlate::<S, _, R>(
                        simd,
                        slide,
                        &frame,
                        dy_frame,
                        sums,
                        #[inline(always)]
                        |x| simd.splat_f32s(x),
                    );
                }
            }
        }
    }
}

/// Adds the sums over the positions of an image to those of its block; `wide` makes a vector of an element of the frame.
#[inline(always)]
fn correlate<S: Simd, E: Copy, const R: usize>(
    simd: S,
    slide: &Slide,
    frame: &[E],
    dy: &[S::f32s],
    sums: &mut [S::f32s],
    wide: impl Fn(E) -> S::f32s,
) {
    let (taps, columns) = (&slide.taps, slide.output[1]);
    let mut tap = 0;
    while tap < taps.len() {
        // The last tile starts where it just fits, and sums some taps again.
        let start = tap.min(taps.len() - R);
        let at: &[usize; R] = constant_len(&taps[start..start + R]);
        let mut products = [simd.splat_f32s(0.0); R];
        for (i, dy) in dy.chunks_exact(columns).enumerate() {
            let row = &frame[i * slide.stride * slide.row_len..];
            let mut x: [&[E]; R] = [&[]; R];
            for r in 0..R {
                x[r] = &row[at[r]..at[r] + columns];
            }
            for (j, &dy) in dy.iter().enumerate() {
                for r in 0..R {
                    products[r] = simd.mul_add_e_f32s(wide(x[r][j]), dy, products[r]);
                }
            }
        }
        for r in 0..R {
            if start + r >= tap {
                sums[start + r] = simd.add_f32s(sums[start + r], products[r]);
            }
        }
        tap += R;
    }
}
