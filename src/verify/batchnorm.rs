//! Proof of the batch normalization: its kernels agree with [`crate::cpu::batchnorm`].
//!
//! Errors are derived from what the WGSL specification guarantees: 2.5 units in the last place for a division, 2 for
//! `inverseSqrt`, two roundoffs each, and half a unit for the rest.

use super::gradients::Gradients;
use super::{Bounded, UNIT_ROUNDOFF, Verifier, sum_bound, widen};
use crate::cpu::batchnorm::{self as cpu, BatchNormDims};
use crate::gpu::GpuError;
use crate::ops::batchnorm::{
    BACKWARD_W, BACKWARD_W_PARTS, BACKWARD_X, FOLD, FORWARD, MOMENTS, STATISTICS, STATISTICS_PARTS, additions, parts,
    record_backward_w, record_backward_x, record_fold, record_forward, record_moments, record_statistics,
};

/// Added to the variance, as in Keras.
pub const EPSILON: f64 = 1e-3;

/// The part of the running averages that is kept, as in Keras.
pub const MOMENTUM: f64 = 0.99;

/// Below this, results may be flushed to zero.
const TINY: f64 = f32::MIN_POSITIVE as f64;

/// Returns the sum of `value` of each element of a channel over the first `rows` rows.
fn sum(d: &BatchNormDims, rows: usize, c: usize, value: impl Fn(usize) -> f64) -> f64 {
    (0..rows).map(|row| value(row * d.c + c)).sum()
}

/// Returns the moments and both running averages after the first `n_valid` images of x. A sum is off by `additions`
/// roundoffs of each element.
pub fn statistics(
    d: &BatchNormDims,
    n_valid: usize,
    x: &[f32],
    running_mean: &[f32],
    running_var: &[f32],
    additions: usize,
) -> [Bounded; 3] {
    let u = UNIT_ROUNDOFF;
    let rows = n_valid * d.positions;
    let m = rows as f64;
    statistics_within(d, n_valid, x, running_mean, running_var, |x, c, mean, variance| {
        // The conversion of m and the division add 6 roundoffs.
        let mean_error = sum_bound(additions, sum(d, rows, c, |i| x[i].abs())) / m + 6.0 * u * mean.abs();
        // An error of the mean adds its square to the variance. The difference, rounded once, is squared, which rounds
        // again: 3 roundoffs.
        let squares = m * (variance + mean_error * mean_error);
        [mean_error, sum_bound(additions + 2, squares) / m + mean_error * mean_error + 6.0 * u * variance]
    })
}

/// The same as the kernels compute it, in parts and from the first value of each channel.
pub fn statistics_in_parts(
    d: &BatchNormDims,
    n_valid: usize,
    x: &[f32],
    running_mean: &[f32],
    running_var: &[f32],
) -> [Bounded; 3] {
    let (u, additions) = (UNIT_ROUNDOFF, additions(d));
    let rows = n_valid * d.positions;
    let [rows_per_part, _] = parts(d);
    statistics_within(d, n_valid, x, running_mean, running_var, |x, c, mean, variance| {
        let values: Vec<f64> = (0..rows).map(|row| x[row * d.c + c] - x[c]).collect();
        // The mean of some values, and its error: each difference from the first value rounds once, as do the conversion of
        // their number and, with 5 roundoffs, the division.
        let averaged = |values: &[f64]| {
            let n = values.len() as f64;
            let (average, scale) = (values.iter().sum::<f64>() / n, values.iter().map(|x| x.abs()).sum::<f64>());
            (average, sum_bound(additions + 1, scale) / n + 6.0 * u * average.abs())
        };
        let (center, center_error) = averaged(&values);
        let mut error = 0.0;
        for part in values.chunks(rows_per_part) {
            let n = part.len() as f64;
            let (average, average_error) = averaged(part);
            let of_differences: f64 = part.iter().map(|x| 2.0 * u * (x - average).abs() * x.abs()).sum();
            // Squares about another center than the average are larger by its square; a difference and its square round.
            let squares = part.iter().map(|x| (x - average).powi(2)).sum::<f64>() + n * average_error.powi(2);
            error += n * average_error.powi(2) + of_differences + sum_bound(additions + 3, squares);
            // The square of the distance of both averages: two roundoffs, a product and a sum.
            let (distance, distance_error) = ((average - center).abs(), average_error + center_error);
            error += n * distance_error * (2.0 * distance + distance_error);
            error += sum_bound(additions + 4, n * (distance + distance_error).powi(2));
        }
        let m = rows as f64;
        [center_error + 2.0 * u * mean.abs(), error / m + 6.0 * u * variance]
    })
}

/// Returns moments and running averages; `errors` returns those of mean and variance, given x, the channel, and both.
fn statistics_within(
    d: &BatchNormDims,
    n_valid: usize,
    x: &[f32],
    running_mean: &[f32],
    running_var: &[f32],
    errors: impl Fn(&[f64], usize, f64, f64) -> [f64; 2],
) -> [Bounded; 3] {
    let u = UNIT_ROUNDOFF;
    let x = widen(x);
    let (mut moments, mut mean_after, mut var_after) = (vec![0.0; 3 * d.c], widen(running_mean), widen(running_var));
    cpu::batchnorm_statistics(d, MOMENTUM, n_valid, &x, &mut moments, &mut mean_after, &mut var_after);
    let mut bound = vec![0.0; 3 * d.c];
    for c in 0..d.c {
        [bound[c], bound[d.c + c]] = errors(&x, c, moments[c], moments[d.c + c]);
    }
    // Both constants, the products and the sum: 3 roundoffs.
    let averaged = |before: &[f32], moment: usize, values: Vec<f64>| {
        Bounded::by_index(values, |c| {
            let (kept, added) = (MOMENTUM * f64::from(before[c]), (1.0 - MOMENTUM) * moments[moment * d.c + c]);
            3.0 * u * (kept.abs() + added.abs()) + (1.0 - MOMENTUM) * bound[moment * d.c + c] + TINY
        })
    };
    let (mean_after, var_after) = (averaged(running_mean, 0, mean_after), averaged(running_var, 1, var_after));
    [Bounded { values: moments, bound }, mean_after, var_after]
}

/// `1 / sqrt(variance + epsilon)`, off by 5 roundoffs: the constant and the sum, of which the root leaves half, and
/// `inverseSqrt`.
fn inverse(variance: f64) -> f64 {
    1.0 / (variance + EPSILON).sqrt()
}

/// Returns y.
pub(super) fn forward(d: &BatchNormDims, x: &[f32], moments: &[f32], scale: &[f32], shift: &[f32]) -> Bounded {
    let (x, moments, scale, shift) = (widen(x), widen(moments), widen(scale), widen(shift));
    let mut values = vec![0.0; d.x_len()];
    cpu::batchnorm_forward(d, EPSILON, &x, &moments, &scale, &shift, &mut values);
    Bounded::by_index(values, |i| {
        let c = i % d.c;
        let factor = (inverse(moments[d.c + c]) * scale[c]).abs();
        // The difference, the inverse root and two products: 8 roundoffs, and one of the sum.
        let scaled = (x[i] - moments[c]).abs() * factor;
        UNIT_ROUNDOFF * (9.0 * scaled + shift[c].abs()) + TINY * (1.0 + factor)
    })
}

/// Returns dscale and dshift. A sum is off by `additions` roundoffs of each element.
pub fn backward_w(d: &BatchNormDims, x: &[f32], moments: &[f32], dy: &[f32], additions: usize) -> [Bounded; 2] {
    let (x, moments, dy) = (widen(x), widen(moments), widen(dy));
    let (mut dscale, mut dshift) = (vec![0.0; d.c], vec![0.0; d.c]);
    cpu::batchnorm_backward_w(d, EPSILON, &x, &moments, &dy, &mut dscale, &mut dshift);
    let rows = moments[2 * d.c] as usize * d.positions;
    // The difference, its product with dy, the inverse root and the product with it: 8 roundoffs.
    let dscale = Bounded::by_index(dscale, |c| {
        let products = sum(d, rows, c, |i| (dy[i] * (x[i] - moments[c])).abs());
        sum_bound(additions + 4, products * inverse(moments[d.c + c]))
    });
    let dshift = Bounded::by_index(dshift, |c| sum_bound(additions, sum(d, rows, c, |i| dy[i].abs())));
    [dscale, dshift]
}

/// Returns dx.
pub fn backward_x(
    d: &BatchNormDims,
    x: &[f32],
    moments: &[f32],
    scale: &[f32],
    dscale: &[f32],
    dshift: &[f32],
    dy: &[f32],
) -> Bounded {
    let inputs = [x, moments, scale, dscale, dshift, dy].map(widen);
    let mut values = vec![0.0; d.x_len()];
    cpu::batchnorm_backward_x(d, EPSILON, inputs.each_ref().map(Vec::as_slice), &mut values);
    let [x, moments, scale, dscale, dshift, dy] = inputs;
    let images = moments[2 * d.c];
    let m = images * d.positions as f64;
    Bounded::by_index(values, |i| {
        let c = i % d.c;
        if (i / (d.c * d.positions)) as f64 >= images {
            return 0.0;
        }
        let inverse = inverse(moments[d.c + c]);
        let factor = (scale[c] * inverse).abs();
        let offset = (dshift[c] / m).abs();
        let slope = ((x[i] - moments[c]) * inverse * dscale[c] / m).abs();
        // The two quotients: 6 roundoffs, with the conversion of m. The normalized value: 7, and one of its product. Two
        // differences of three terms. The factor: 6, and one of the product with it.
        let error = 6.0 * offset + 14.0 * slope + (2.0 + 7.0) * (dy[i].abs() + offset + slope);
        UNIT_ROUNDOFF * factor * error + TINY * (1.0 + factor * (2.0 + inverse * (dscale[c] / m).abs()))
    })
}

/// Compares every kernel with the mirror for a batch whose first `n_valid` images count; the others have large values, so
/// that counting one is noticed.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &BatchNormDims, n_valid: usize) -> Result<(), GpuError> {
    let case = format!("{}x{}x{}, {n_valid} valid", d.n, d.positions, d.c);
    let x = inputs(d, n_valid, v.random(d.x_len()));
    let dy = v.random(d.x_len());
    let (scale, shift) = (v.random(d.c), v.random(d.c));
    let (running_mean, running_var) = (v.random(d.c), v.random(d.c).iter().map(|x| x.abs()).collect::<Vec<_>>());
    // The last batch of an epoch: two whole batches are done, n_valid samples are left.
    let progress = [2, (2 * d.n + n_valid) as u32];

    let [expected, mean_after, var_after] = statistics_in_parts(d, n_valid, &x, &running_mean, &running_var);
    let mut run = v.run();
    let (tx, tprogress, tmoments) = (run.input(&x)?, run.input_u32(&progress)?, run.output(3 * d.c)?);
    let (tmean, tvar) = (run.in_place(&running_mean)?, run.in_place(&running_var)?);
    record_statistics(&mut run.plan, d, MOMENTUM, [&tx, &tprogress, &tmoments, &tmean, &tvar])?;
    let outputs = [(&tmoments, &expected), (&tmean, &mean_after), (&tvar, &var_after)];
    run.check(STATISTICS.entry, &case, &outputs, &[]);
    v.covered(STATISTICS_PARTS.entry, STATISTICS.entry);
    let moments = expected.narrow();

    let mut copies = vec![f64::NAN; 3 * d.c];
    cpu::batchnorm_moments(&widen(&running_mean), &widen(&running_var), &mut copies);
    let (running, copies) = ([&running_mean[..], &running_var], Bounded::exact(copies));
    v.check(MOMENTS.entry, &case, running, [&copies], |plan, [mean, var], [moments]| {
        record_moments(plan, d.c, [mean, var, moments])
    })?;

    let (inputs, y) = ([&x[..], &moments, &scale, &shift], forward(d, &x, &moments, &scale, &shift));
    v.check(FORWARD.entry, &case, inputs, [&y], |plan, [x, moments, scale, shift], [y]| {
        record_forward(plan, d, EPSILON, [x, moments, scale, shift, y])
    })?;

    let [dscale, dshift] = backward_w(d, &x, &moments, &dy, additions(d));
    let (inputs, outputs) = ([&x[..], &moments, &dy], [&dscale, &dshift]);
    v.check(BACKWARD_W.entry, &case, inputs, outputs, |plan, [x, moments, dy], [dscale, dshift]| {
        record_backward_w(plan, d, EPSILON, [x, moments, dy, dscale, dshift])
    })?;
    v.covered(BACKWARD_W_PARTS.entry, BACKWARD_W.entry);

    let (dscale, dshift) = (dscale.narrow(), dshift.narrow());
    let dx = backward_x(d, &x, &moments, &scale, &dscale, &dshift, &dy);
    let inputs = [&x[..], &moments, &scale, &dscale, &dshift, &dy];
    v.check(BACKWARD_X.entry, &case, inputs, [&dx], |plan, [x, moments, scale, dscale, dshift, dy], [dx]| {
        record_backward_x(plan, d, EPSILON, [x, moments, scale, dscale, dshift, dy, dx])
    })?;

    verify_fold(v, d.positions, [&scale, &shift, &running_mean, &running_var])
}

/// Returns x: the channels have different means, and the images after the first `n_valid` large values.
pub fn inputs(d: &BatchNormDims, n_valid: usize, mut random: Vec<f32>) -> Vec<f32> {
    for (i, x) in random.iter_mut().enumerate() {
        *x += [0.0, 3.0, -0.5][i % d.c % 3];
        if i >= n_valid * d.positions * d.c {
            *x += 20.0;
        }
    }
    random
}

/// Compares the folding into weights of `k` rows.
fn verify_fold(v: &mut Verifier, k: usize, vectors: [&[f32]; 4]) -> Result<(), GpuError> {
    let o = vectors[0].len();
    let (w, b) = (v.random(k * o), v.random(o));
    let inputs = [&w[..], &b, vectors[0], vectors[1], vectors[2], vectors[3]];
    let wide = inputs.map(widen);
    let (mut w_out, mut b_out) = (vec![0.0; k * o], vec![0.0; o]);
    cpu::batchnorm_fold(o, EPSILON, wide.each_ref().map(Vec::as_slice), [&mut w_out, &mut b_out]);
    let [_, b, scale, shift, mean, variance] = wide;
    // The factor is off by 6 roundoffs; a product and, for the bias, a difference and a sum follow.
    let w_bound = w_out.iter().map(|w| 7.0 * UNIT_ROUNDOFF * w.abs() + TINY).collect();
    let b_out = Bounded::by_index(b_out, |i| {
        let factor = (scale[i] * inverse(variance[i])).abs();
        UNIT_ROUNDOFF * (9.0 * (b[i] - mean[i]).abs() * factor + shift[i].abs()) + TINY * (1.0 + factor)
    });
    let outputs = [&Bounded { values: w_out, bound: w_bound }, &b_out];
    let case = format!("{k}x{o}");
    v.check(FOLD.entry, &case, inputs, outputs, |plan, [w, b, scale, shift, mean, var], [w_out, b_out]| {
        record_fold(plan, [k, o], EPSILON, [w, b, scale, shift, mean, var, w_out, b_out])
    })
}

/// Checks the shapes of `fmnist-gpu selftest`: after a convolution and after a dense layer, short last batches, a single
/// value, more rows than one iteration sums.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let cases = [(4, 196, 32, 4), (32, 1, 128, 7), (3, 7, 5, 2), (1, 1, 1, 1), (5, 784, 3, 4)];
    cases.into_iter().try_for_each(|(n, positions, c, n_valid)| verify(v, &BatchNormDims { n, positions, c }, n_valid))
}

/// The gradients through the statistics of the batch itself, of which the first `n_valid` images are part; as in training,
/// the gradient of the others is zero.
pub(super) fn gradients(g: &mut Gradients) {
    for (n, positions, c, n_valid) in [(3, 4, 2, 3), (4, 5, 3, 2), (12, 1, 2, 11), (1, 1, 1, 1)] {
        let d = BatchNormDims { n, positions, c };
        let case = format!("{d:?}, {n_valid} valid");
        let (x, scale, shift) = (g.values(d.x_len()), g.values(d.c), g.values(d.c));
        let mut dy = g.values(d.x_len());
        dy[n_valid * d.positions * d.c..].fill(0.0);
        let moments = |x: &[f64]| {
            let (mut moments, mut running) = (vec![0.0; 3 * d.c], [vec![0.0; d.c], vec![0.0; d.c]]);
            let [mean, var] = &mut running;
            cpu::batchnorm_statistics(&d, MOMENTUM, n_valid, x, &mut moments, mean, var);
            moments
        };
        let forward = |x: &[f64], scale: &[f64], shift: &[f64], y: &mut [f64]| {
            cpu::batchnorm_forward(&d, EPSILON, x, &moments(x), scale, shift, y);
        };
        let (of_batch, mut dx) = (moments(&x), vec![0.0; d.x_len()]);
        let (mut dscale, mut dshift) = (vec![0.0; d.c], vec![0.0; d.c]);
        cpu::batchnorm_backward_w(&d, EPSILON, &x, &of_batch, &dy, &mut dscale, &mut dshift);
        cpu::batchnorm_backward_x(&d, EPSILON, [&x, &of_batch, &scale, &dscale, &dshift, &dy], &mut dx);
        g.check("batchnorm_backward_x", &case, [&x, &dx], &dy, |x, y| forward(x, &scale, &shift, y));
        g.check("batchnorm_backward_w", &case, [&scale, &dscale], &dy, |scale, y| forward(&x, scale, &shift, y));
        g.check("batchnorm_backward_w", &case, [&shift, &dshift], &dy, |shift, y| forward(&x, &scale, shift, y));
    }
}
