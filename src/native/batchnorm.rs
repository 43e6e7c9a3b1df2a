//! Batch normalization; see [`crate::cpu::batchnorm`].
//!
//! Sums over the batch are divided into groups of images that do not depend on the number of threads. A group adds four
//! rows in single precision and everything else in double precision, and so do the groups, in order: any number of threads
//! computes the same bits.

use super::vectorized;
use crate::cpu::batchnorm::BatchNormDims;
use rayon::prelude::*;

/// Rows (images times positions) of a group, at least, if the batch has as many.
const ROWS: usize = 1024;

/// Returns the sums over all rows of `sums` numbers per channel. `add` adds those of the rows `first..first + count` of the
/// batch; it is called for different groups at once.
fn sum_groups(d: &BatchNormDims, sums: usize, add: impl Fn(usize, usize, &mut [f64]) + Sync) -> Vec<f64> {
    let group = ROWS.div_ceil(d.positions);
    let parts: Vec<Vec<f64>> = (0..d.n.div_ceil(group))
        .into_par_iter()
        .map(|i| {
            let images = i * group..((i + 1) * group).min(d.n);
            let mut part = vec![0.0; sums * d.c];
            add(images.start * d.positions, images.len() * d.positions, &mut part);
            part
        })
        .collect();
    let mut total = vec![0.0; sums * d.c];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}

/// Adds to `sums` the `value` of each of four rows of `c` channels, or of one, at a time.
#[inline(always)]
fn add_rows(c: usize, x: &[f32], sums: &mut [f64], value: impl Fn(usize, f32) -> f32) {
    let sums = &mut sums[..c];
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
    for row in fours.remainder().chunks_exact(c) {
        for i in 0..c {
            sums[i] += f64::from(value(i, row[i]));
        }
    }
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
    let sums = sum_groups(d, 1, |first, rows, sums| {
        let x = &x[first * c..(first + rows) * c];
        vectorized(
            #[inline(always)]
            || add_rows(c, x, sums, |_, x| x),
        );
    });
    let (mean, rest) = moments.split_at_mut(c);
    let (variance, images) = rest.split_at_mut(c);
    mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (sum / m) as f32);
    let mean = &mean[..c];
    let squares = sum_groups(d, 1, |first, rows, squares| {
        let x = &x[first * c..(first + rows) * c];
        vectorized(
            #[inline(always)]
            || add_rows(c, x, squares, |i, x| (x - mean[i]) * (x - mean[i])),
        );
    });
    variance.iter_mut().zip(squares).for_each(|(variance, squares)| *variance = (squares / m) as f32);
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
    let c = d.c;
    let (mean, shift) = (&moments[..c], &shift[..c]);
    let factors: Vec<f32> =
        inverses(d, epsilon, moments).zip(scale).map(|(inverse, &scale)| (inverse * f64::from(scale)) as f32).collect();
    let factors = &factors[..c];
    vectorized(
        #[inline(always)]
        || {
            for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                for i in 0..c {
                    y[i] = (x[i] - mean[i]) * factors[i] + shift[i];
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
    let mean = &moments[..c];
    let sums = sum_groups(d, 2, |first, rows, sums| {
        let rows = first * c..(first + rows) * c;
        let (x, dy) = (&x[rows.clone()], &dy[rows]);
        let (scale_sums, shift_sums) = sums.split_at_mut(c);
        vectorized(
            #[inline(always)]
            || {
                add_rows(c, dy, shift_sums, |_, dy| dy);
                add_products(c, x, mean, dy, scale_sums);
            },
        );
    });
    let (scale_sums, shift_sums) = sums.split_at(c);
    for ((dscale, sum), inverse) in dscale.iter_mut().zip(scale_sums).zip(inverses(d, epsilon, moments)) {
        *dscale = (sum * inverse) as f32;
    }
    dshift.iter_mut().zip(shift_sums).for_each(|(dshift, &sum)| *dshift = sum as f32);
}

/// Adds `dy * (x - mean)` to `sums`, as [`add_rows`].
#[inline(always)]
fn add_products(c: usize, x: &[f32], mean: &[f32], dy: &[f32], sums: &mut [f64]) {
    let (mean, sums) = (&mean[..c], &mut sums[..c]);
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
    for (x, dy) in fours.remainder().chunks_exact(c).zip(dy_fours.remainder().chunks_exact(c)) {
        for i in 0..c {
            sums[i] += f64::from(dy[i] * (x[i] - mean[i]));
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
    let (mean, factors, offsets, slopes) = (&moments[..c], &factors[..c], &offsets[..c], &slopes[..c]);
    vectorized(
        #[inline(always)]
        || {
            for ((dx, x), dy) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c)) {
                for i in 0..c {
                    dx[i] = factors[i] * (dy[i] - offsets[i] - (x[i] - mean[i]) * slopes[i]);
                }
            }
        },
    );
}
