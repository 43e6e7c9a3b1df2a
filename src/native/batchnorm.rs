//! Batch normalization; see [`crate::cpu::batchnorm`].
//!
//! The sums over a batch are computed in two parts. The thread that has the rows of an image adds up the image while it is in the cache
//! ([`batchnorm_images`], [`batchnorm_backward_images`]); then the threads meet, and the images are added up in order ([`batchnorm_statistics`],
//! [`batchnorm_backward_w`]). An image adds four rows in single precision and everything else in double precision, and so do the sums of images:
//! any number of threads computes the same bits. A GELU after the normalization is computed with it, forward and backward, so nothing between
//! them is stored.

use super::gelu::{gelu, gelu_gradient};
use super::vectorized_loop;
use crate::cpu::batchnorm::BatchNormDims;

/// Returns the length of some rows of `c` channels that the loops take for one, so that they are not too short.
fn width(c: usize) -> usize {
    const LONG: usize = 256;
    c * (LONG / c).max(1)
}

/// Repeats what belongs to the channels for as many rows as [`width`] has.
fn repeated(of_channels: &[f32]) -> Vec<f32> {
    of_channels.iter().copied().cycle().take(width(of_channels.len())).collect()
}

/// Repeats the first `c` values in the rest.
#[inline(always)]
fn repeat(c: usize, values: &mut [f32]) {
    let (first, rest) = values.split_at_mut(c);
    rest.chunks_exact_mut(c).for_each(|row| row.copy_from_slice(first));
}

/// Returns the sums over `c` channels, from those over [`width`], which are lost.
#[inline(always)]
fn folded(c: usize, sums: &mut [f64]) -> &[f64] {
    let (folded, rest) = sums.split_at_mut(c);
    for row in rest.chunks_exact(c) {
        folded.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    folded
}

/// Adds to `sums` the `value` of each of four rows, or of one, at a time; they are as long as `sums`, but the last may be shorter.
#[inline(always)]
fn add_rows(x: &[f32], sums: &mut [f64], value: impl Fn(usize, f32) -> f32) {
    let c = sums.len();
    let mut fours = x.chunks_exact(4 * c);
    for four in &mut fours {
        let (r0, rest) = four.split_at(c);
        let (r1, rest) = rest.split_at(c);
        let (r2, r3) = rest.split_at(c);
        let r3 = &r3[..c];
        for i in 0..c {
            sums[i] += f64::from((value(i, r0[i]) + value(i, r1[i])) + (value(i, r2[i]) + value(i, r3[i])));
        }
    }
    for row in fours.remainder().chunks(c) {
        for (i, (sum, &x)) in sums.iter_mut().zip(row).enumerate() {
            *sum += f64::from(value(i, x));
        }
    }
}

/// Computes for each image and channel what [`batchnorm_statistics`] needs: the mean, rounded; by how much the sum exceeds that of as many
/// means; and the sum of the squares of the differences from that mean.
///
/// Shapes: x `[N, P, C]`, images `[N, 3, C]`.
pub fn batchnorm_images(d: &BatchNormDims, x: &[f32], images: &mut [f32]) {
    let (c, rows) = (d.c, d.positions as f64);
    let (mut sums, mut means) = (vec![0.0; width(c)], vec![0.0; width(c)]);
    vectorized_loop(
        #[inline(always)]
        || {
            for (x, image) in x.chunks_exact(d.positions * c).zip(images.chunks_exact_mut(3 * c)) {
                let (mean, rest) = image.split_at_mut(c);
                let (excess, squares) = rest.split_at_mut(c);
                sums.fill(0.0);
                add_rows(x, &mut sums, |_, x| x);
                for (((&sum, mean), excess), i) in folded(c, &mut sums).iter().zip(mean).zip(excess).zip(0..) {
                    *mean = (sum / rows) as f32;
                    *excess = (sum - rows * f64::from(*mean)) as f32;
                    means[i] = *mean;
                }
                repeat(c, &mut means);
                let means = &means[..sums.len()];
                sums.fill(0.0);
                add_rows(x, &mut sums, |i, x| (x - means[i]) * (x - means[i]));
                squares.iter_mut().zip(folded(c, &mut sums)).for_each(|(squares, &sum)| *squares = sum as f32);
            }
        },
    );
}

/// Adds what `of_image` returns for each image and channel: the image's mean, excess and squares, and the channel.
#[inline(always)]
fn sums_of_images(c: usize, images: &[f32], of_image: impl Fn([f64; 3], usize) -> f64) -> Vec<f64> {
    let mut sums = vec![0.0; c];
    for image in images.chunks_exact(3 * c) {
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += of_image([image[i], image[c + i], image[2 * c + i]].map(f64::from), i);
        }
    }
    sums
}

/// Computes mean and biased variance of each channel over all images, from what [`batchnorm_images`] returns of each, and `running = momentum *
/// running + (1 - momentum) * batch` for both.
///
/// Shapes: images `[N, 3, C]`, moments `[3, C]`, running mean and variance `[C]`.
pub fn batchnorm_statistics(
    d: &BatchNormDims,
    momentum: f64,
    images: &[f32],
    [moments, running_mean, running_var]: [&mut [f32]; 3],
) {
    let (c, rows) = (d.c, d.positions as f64);
    let m = d.n as f64 * rows;
    let images = &images[..d.n * 3 * c];
    let sums = sums_of_images(c, images, |[mean, excess, _], _| rows * mean + excess);
    let squares = sums_of_images(c, images, |[mean, excess, squares], i| {
        let shift = mean - sums[i] / m;
        let sum = squares + shift * (2.0 * excess + rows * shift);
        // Rounding can leave less than nothing.
        if sum < 0.0 { 0.0 } else { sum }
    });
    let (mean, rest) = moments.split_at_mut(c);
    let (variance, count) = rest.split_at_mut(c);
    mean.iter_mut().zip(&sums).for_each(|(mean, sum)| *mean = (sum / m) as f32);
    variance.iter_mut().zip(&squares).for_each(|(variance, sum)| *variance = (sum / m) as f32);
    count.fill(d.n as f32);
    let average = |running: &mut f32, batch: f32| {
        *running = (momentum * f64::from(*running) + (1.0 - momentum) * f64::from(batch)) as f32;
    };
    running_mean.iter_mut().zip(&*mean).for_each(|(running, &mean)| average(running, mean));
    running_var.iter_mut().zip(&*variance).for_each(|(running, &variance)| average(running, variance));
}

/// Returns `1 / sqrt(variance + epsilon)` for each channel.
fn inverses<'a>(d: &BatchNormDims, epsilon: f64, moments: &'a [f32]) -> impl Iterator<Item = f64> + use<'a> {
    moments[d.c..2 * d.c].iter().map(move |&variance| 1.0 / (f64::from(variance) + epsilon).sqrt())
}

/// What a normalization does to each channel, for [`width`] values: `(x - mean) * factor + shift`.
struct Normalization {
    mean: Vec<f32>,
    factor: Vec<f32>,
    shift: Vec<f32>,
}

impl Normalization {
    /// Shapes: moments `[3, C]`, scale and shift `[C]`.
    fn new(d: &BatchNormDims, epsilon: f64, [moments, scale, shift]: [&[f32]; 3]) -> Self {
        let factors =
            inverses(d, epsilon, moments).zip(scale).map(|(inverse, &scale)| (inverse * f64::from(scale)) as f32);
        let factors: Vec<f32> = factors.collect();
        let [mean, factor, shift] = [&moments[..d.c], &factors, shift].map(repeated);
        Normalization { mean, factor, shift }
    }

    /// Sets each element of y to `value` of the normalized element of x, and of the element of `other`.
    #[inline(always)]
    fn each(&self, [x, other]: [&[f32]; 2], y: &mut [f32], value: impl Fn(f32, f32) -> f32) {
        let long = self.mean.len();
        for ((y, x), other) in y.chunks_mut(long).zip(x.chunks(long)).zip(other.chunks(long)) {
            let coefficients = self.mean.iter().zip(&self.factor).zip(&self.shift);
            for (((y, x), other), ((mean, factor), shift)) in y.iter_mut().zip(x).zip(other).zip(coefficients) {
                *y = value((x - mean) * factor + shift, *other);
            }
        }
    }
}

/// Computes `value` of each normalized element of some images; shapes as for [`batchnorm_forward`].
#[inline(always)]
fn forward(
    d: &BatchNormDims,
    epsilon: f64,
    [x, moments, scale, shift]: [&[f32]; 4],
    y: &mut [f32],
    value: impl Fn(f32, f32) -> f32 + Copy,
) {
    let normalization = Normalization::new(d, epsilon, [moments, scale, shift]);
    vectorized_loop(
        #[inline(always)]
        || normalization.each([x, x], y, value),
    );
}

/// Computes `y = (x - mean) / sqrt(variance + epsilon) * scale + shift` for some images.
///
/// Shapes: x and y `[N, P, C]`, moments `[3, C]`, scale and shift `[C]`.
pub fn batchnorm_forward(d: &BatchNormDims, epsilon: f64, x: [&[f32]; 4], y: &mut [f32]) {
    forward(
        d,
        epsilon,
        x,
        y,
        #[inline(always)]
        |normalized, _| normalized,
    );
}

/// Computes the GELU of what [`batchnorm_forward`] computes.
///
/// Shapes: x and y `[N, P, C]`, moments `[3, C]`, scale and shift `[C]`.
pub fn batchnorm_gelu_forward(d: &BatchNormDims, epsilon: f64, x: [&[f32]; 4], y: &mut [f32]) {
    forward(
        d,
        epsilon,
        x,
        y,
        #[inline(always)]
        |normalized, _| gelu(normalized),
    );
}

/// The sums of an image that [`batchnorm_backward_w`] needs, and those of [`width`] values.
struct BackwardSums<'a> {
    c: usize,
    /// Repeated.
    mean: &'a [f32],
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl<'a> BackwardSums<'a> {
    fn new(c: usize, mean: &'a [f32]) -> Self {
        BackwardSums { c, mean, scale: vec![0.0; mean.len()], shift: vec![0.0; mean.len()] }
    }

    /// Stores the sums of `dy * (x - mean)` and of dy.
    #[inline(always)]
    fn add_up(&mut self, x: &[f32], dy: &[f32], image: &mut [f32]) {
        self.scale.fill(0.0);
        self.shift.fill(0.0);
        add_rows(dy, &mut self.shift, |_, dy| dy);
        add_products(x, self.mean, dy, &mut self.scale);
        let sums = folded(self.c, &mut self.scale).iter().chain(folded(self.c, &mut self.shift));
        image.iter_mut().zip(sums).for_each(|(value, &sum)| *value = sum as f32);
    }
}

/// Computes for each image and channel what [`batchnorm_backward_w`] needs: the sums of `dy * (x - mean)` and of dy.
///
/// Shapes: x and dy `[N, P, C]`, moments `[3, C]`, images `[N, 2, C]`.
pub fn batchnorm_backward_images(d: &BatchNormDims, [x, moments, dy]: [&[f32]; 3], images: &mut [f32]) {
    let (c, len) = (d.c, d.positions * d.c);
    let mean = repeated(&moments[..c]);
    let mut sums = BackwardSums::new(c, &mean);
    vectorized_loop(
        #[inline(always)]
        || {
            for ((x, dy), image) in x.chunks_exact(len).zip(dy.chunks_exact(len)).zip(images.chunks_exact_mut(2 * c)) {
                sums.add_up(x, dy, image);
            }
        },
    );
}

/// Does the same where dy is the gradient of the output of [`batchnorm_gelu_forward`]: computes first that of what its GELU reads, dz.
///
/// Shapes: x, dy and dz `[N, P, C]`, moments `[3, C]`, scale and shift `[C]`, images `[N, 2, C]`.
#[allow(clippy::redundant_closure, reason = "a closure can be inlined always, what calls a function cannot")]
pub fn batchnorm_gelu_backward_images(
    d: &BatchNormDims,
    epsilon: f64,
    [x, moments, scale, shift, dy]: [&[f32]; 5],
    [dz, images]: [&mut [f32]; 2],
) {
    let (c, len) = (d.c, d.positions * d.c);
    let normalization = Normalization::new(d, epsilon, [moments, scale, shift]);
    let mut sums = BackwardSums::new(c, &normalization.mean);
    vectorized_loop(
        #[inline(always)]
        || {
            let read = x.chunks_exact(len).zip(dy.chunks_exact(len));
            let written = dz.chunks_exact_mut(len).zip(images.chunks_exact_mut(2 * c));
            for ((x, dy), (dz, image)) in read.zip(written) {
                normalization.each(
                    [x, dy],
                    dz,
                    #[inline(always)]
                    |normalized, dy| gelu_gradient(normalized, dy),
                );
                sums.add_up(x, dz, image);
            }
        },
    );
}

/// Computes the gradients of scale and shift over all images, from what [`batchnorm_backward_images`] returns of each.
///
/// Shapes: images `[N, 2, C]`, moments `[3, C]`, dscale and dshift `[C]`.
pub fn batchnorm_backward_w(
    d: &BatchNormDims,
    epsilon: f64,
    [images, moments]: [&[f32]; 2],
    [dscale, dshift]: [&mut [f32]; 2],
) {
    let c = d.c;
    let mut sums = vec![0.0; 2 * c];
    for image in images[..d.n * 2 * c].chunks_exact(2 * c) {
        sums.iter_mut().zip(image).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    for (i, inverse) in inverses(d, epsilon, moments).enumerate() {
        dscale[i] = (sums[i] * inverse) as f32;
        dshift[i] = sums[c + i] as f32;
    }
}

/// Adds `dy * (x - mean)` to `sums`, as [`add_rows`].
#[inline(always)]
fn add_products(x: &[f32], mean: &[f32], dy: &[f32], sums: &mut [f64]) {
    let c = sums.len();
    let mean = &mean[..c];
    let (mut fours, mut dy_fours) = (x.chunks_exact(4 * c), dy.chunks_exact(4 * c));
    for (x, dy) in (&mut fours).zip(&mut dy_fours) {
        let (x0, rest) = x.split_at(c);
        let (x1, rest) = rest.split_at(c);
        let (x2, x3) = rest.split_at(c);
        let (dy0, rest) = dy.split_at(c);
        let (dy1, rest) = rest.split_at(c);
        let (dy2, dy3) = rest.split_at(c);
        let (x3, dy3) = (&x3[..c], &dy3[..c]);
        for i in 0..c {
            let (first, second) = (dy0[i] * (x0[i] - mean[i]), dy1[i] * (x1[i] - mean[i]));
            let (third, fourth) = (dy2[i] * (x2[i] - mean[i]), dy3[i] * (x3[i] - mean[i]));
            sums[i] += f64::from((first + second) + (third + fourth));
        }
    }
    for (x, dy) in fours.remainder().chunks(c).zip(dy_fours.remainder().chunks(c)) {
        for (((sum, x), mean), dy) in sums.iter_mut().zip(x).zip(mean).zip(dy) {
            *sum += f64::from(dy * (x - mean));
        }
    }
}

/// Computes the gradient of the input for some images, all of them among those that moments are of.
///
/// Shapes: x, dy and dx `[N, P, C]`, moments `[3, C]`, scale, dscale and dshift `[C]`.
pub fn batchnorm_backward_x(
    d: &BatchNormDims,
    epsilon: f64,
    [x, moments, scale, dscale, dshift, dy]: [&[f32]; 6],
    dx: &mut [f32],
) {
    let c = d.c;
    let m = f64::from(moments[2 * c]) * d.positions as f64;
    // dx = factor * (dy - offset - (x - mean) * slope)
    let (mut factors, mut offsets, mut slopes) = (vec![0.0; c], vec![0.0; c], vec![0.0; c]);
    for (i, inverse) in inverses(d, epsilon, moments).enumerate() {
        factors[i] = (f64::from(scale[i]) * inverse) as f32;
        offsets[i] = (f64::from(dshift[i]) / m) as f32;
        slopes[i] = (inverse * f64::from(dscale[i]) / m) as f32;
    }
    let [mean, factors, offsets, slopes] = [&moments[..c], &factors, &offsets, &slopes].map(repeated);
    vectorized_loop(
        #[inline(always)]
        || {
            let long = mean.len();
            for ((dx, x), dy) in dx.chunks_mut(long).zip(x.chunks(long)).zip(dy.chunks(long)) {
                let coefficients = mean.iter().zip(&factors).zip(&offsets).zip(&slopes);
                for (((dx, x), dy), (((mean, factor), offset), slope)) in dx.iter_mut().zip(x).zip(dy).zip(coefficients)
                {
                    *dx = factor * (dy - offset - (x - mean) * slope);
                }
            }
        },
    );
}
