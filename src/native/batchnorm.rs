//! Batch normalization; see [`crate::cpu::batchnorm`].
//!
//! Sums over the batch are divided into groups of images that do not depend on the number of threads. A group adds four
//! rows in single precision and everything else in double precision, and so do the groups, in order: any number of threads
//! computes the same bits. A group fits into the cache, so that its second sum, that of squares, reads no memory again.

use super::vectorized;
use crate::cpu::batchnorm::BatchNormDims;
use rayon::prelude::*;
use std::ops::Range;

/// Values of a group, at most, if an image has no more.
const VALUES: usize = 1 << 15;

/// Returns what `sum` returns for each group, in order. It is called with the rows (images times positions) of different
/// groups at once.
fn of_groups<T: Send>(d: &BatchNormDims, sum: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let group = (VALUES / (d.positions * d.c)).max(1);
    let rows_of = |i: usize| i * group * d.positions..((i + 1) * group).min(d.n) * d.positions;
    (0..d.n.div_ceil(group)).into_par_iter().map(|i| sum(rows_of(i))).collect()
}

/// Returns the length of some rows of `c` channels that the loops take for one, so that they are not too short.
fn width(c: usize) -> usize {
    const LONG: usize = 256;
    c * (LONG / c).max(1)
}

/// Repeats what belongs to the channels for as many rows as [`width`] has.
fn repeated(of_channels: &[f32]) -> Vec<f32> {
    of_channels.iter().copied().cycle().take(width(of_channels.len())).collect()
}

/// Returns the sums over `c` channels, from those over [`width`].
fn folded(c: usize, sums: &[f64]) -> Vec<f64> {
    (0..c).map(|i| sums[i..].iter().step_by(c).sum()).collect()
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

/// The statistics of a group for each channel.
struct Group {
    rows: f64,
    sums: Vec<f64>,
    /// The group's mean, rounded.
    means: Vec<f32>,
    /// Sums of the squares of the differences from that.
    squares: Vec<f64>,
}

impl Group {
    /// Returns the sum of the squares of the differences from `center`, for one channel.
    fn squares_about(&self, channel: usize, center: f64) -> f64 {
        let mean = f64::from(self.means[channel]);
        let shift = mean - center;
        let sum = self.squares[channel] + shift * (2.0 * (self.sums[channel] - self.rows * mean) + self.rows * shift);
        // Rounding can leave less than nothing.
        if sum < 0.0 { 0.0 } else { sum }
    }
}

/// Computes the statistics of some rows of `c` channels.
fn group_statistics(c: usize, x: &[f32]) -> Group {
    let rows = (x.len() / c) as f64;
    let mut sums = vec![0.0; width(c)];
    vectorized(
        #[inline(always)]
        || add_rows(x, &mut sums, |_, x| x),
    );
    let sums = folded(c, &sums);
    let means: Vec<f32> = sums.iter().map(|sum| (sum / rows) as f32).collect();
    let mut squares = vec![0.0; width(c)];
    let mean = &repeated(&means)[..squares.len()];
    vectorized(
        #[inline(always)]
        || add_rows(x, &mut squares, |i, x| (x - mean[i]) * (x - mean[i])),
    );
    let squares = folded(c, &squares);
    Group { rows, sums, means, squares }
}

/// Computes mean and biased variance of each channel over all images, and `running = momentum * running + (1 - momentum) *
/// batch` for both, with all threads of the current pool.
///
/// Shapes: x `[N, P, C]`, moments `[3, C]`, running mean and variance `[C]`.
pub fn batchnorm_statistics(
    d: &BatchNormDims,
    momentum: f64,
    x: &[f32],
    [moments, running_mean, running_var]: [&mut [f32]; 3],
) {
    let c = d.c;
    let m = (d.n * d.positions) as f64;
    let groups = of_groups(d, |rows| group_statistics(c, &x[rows.start * c..rows.end * c]));
    let (mean, rest) = moments.split_at_mut(c);
    let (variance, images) = rest.split_at_mut(c);
    for i in 0..c {
        let sum: f64 = groups.iter().map(|group| group.sums[i]).sum();
        mean[i] = (sum / m) as f32;
        let about_mean = |group: &Group| group.squares_about(i, sum / m);
        variance[i] = (groups.iter().map(about_mean).sum::<f64>() / m) as f32;
    }
    let mean = &mean[..c];
    images.fill(d.n as f32);
    let average = |running: &mut f32, batch: f32| {
        *running = (momentum * f64::from(*running) + (1.0 - momentum) * f64::from(batch)) as f32;
    };
    running_mean.iter_mut().zip(mean).for_each(|(running, &mean)| average(running, mean));
    running_var.iter_mut().zip(&*variance).for_each(|(running, &variance)| average(running, variance));
}

/// Returns `1 / sqrt(variance + epsilon)` for each channel.
fn inverses<'a>(d: &BatchNormDims, epsilon: f64, moments: &'a [f32]) -> impl Iterator<Item = f64> + use<'a> {
    moments[d.c..2 * d.c].iter().map(move |&variance| 1.0 / (f64::from(variance) + epsilon).sqrt())
}

/// Computes `y = (x - mean) / sqrt(variance + epsilon) * scale + shift` for some images.
///
/// Shapes: x and y `[N, P, C]`, moments `[3, C]`, scale and shift `[C]`.
pub fn batchnorm_forward(d: &BatchNormDims, epsilon: f64, [x, moments, scale, shift]: [&[f32]; 4], y: &mut [f32]) {
    let factors: Vec<f32> =
        inverses(d, epsilon, moments).zip(scale).map(|(inverse, &scale)| (inverse * f64::from(scale)) as f32).collect();
    let [mean, factors, shift] = [&moments[..d.c], &factors, shift].map(repeated);
    vectorized(
        #[inline(always)]
        || {
            for (y, x) in y.chunks_mut(mean.len()).zip(x.chunks(mean.len())) {
                let coefficients = mean.iter().zip(&factors).zip(&shift);
                for ((y, x), ((mean, factor), shift)) in y.iter_mut().zip(x).zip(coefficients) {
                    *y = (x - mean) * factor + shift;
                }
            }
        },
    );
}

/// Computes the gradients of scale and shift over all images, with all threads of the current pool.
///
/// Shapes: x and dy `[N, P, C]`, moments `[3, C]`, dscale and dshift `[C]`.
pub fn batchnorm_backward_w(
    d: &BatchNormDims,
    epsilon: f64,
    [x, moments, dy]: [&[f32]; 3],
    [dscale, dshift]: [&mut [f32]; 2],
) {
    let c = d.c;
    let mean = &repeated(&moments[..c])[..];
    let groups = of_groups(d, |rows| {
        let rows = rows.start * c..rows.end * c;
        let (x, dy) = (&x[rows.clone()], &dy[rows]);
        let (mut scale_sums, mut shift_sums) = (vec![0.0; mean.len()], vec![0.0; mean.len()]);
        vectorized(
            #[inline(always)]
            || {
                add_rows(dy, &mut shift_sums, |_, dy| dy);
                add_products(x, mean, dy, &mut scale_sums);
            },
        );
        [scale_sums, shift_sums].map(|sums| folded(c, &sums))
    });
    for (i, inverse) in inverses(d, epsilon, moments).enumerate() {
        let [scale_sum, shift_sum] = [0, 1].map(|which| groups.iter().map(|sums| sums[which][i]).sum::<f64>());
        dscale[i] = (scale_sum * inverse) as f32;
        dshift[i] = shift_sum as f32;
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
    vectorized(
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
