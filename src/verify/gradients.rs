//! Compares the mirrors' gradients with central differences in double precision, an independent reference that uses
//! none of the project's formulas.

use super::Verdict;
use crate::cpu::batchnorm::{self, BatchNormDims};
use crate::cpu::conv2d::{Conv2dDims, Padding, conv2d_backward_w, conv2d_backward_x, conv2d_forward};
use crate::cpu::dense::{DenseDims, dense_backward_w, dense_backward_x, dense_forward};
use crate::cpu::pool2d::{
    Pool2dDims, pool2d_average_backward_x, pool2d_average_forward, pool2d_max_backward_x, pool2d_max_forward,
    pool2d_sum_backward_x, pool2d_sum_forward,
};
use crate::cpu::softmax_xent::{SoftmaxXentDims, softmax_xent_backward_x, softmax_xent_forward};
use crate::cpu::{bias, gelu, relu};
use crate::text::count;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Half the step of a central difference. Every operation except the softmax, the GELU and the batch normalization is
/// linear between kinks, where the difference is exact for any step; values are kept farther than this from every kink.
const H: f64 = 1e-4;

/// Allowed error, absolute and relative: the third derivatives of these three and the rounding of the differences are
/// far smaller.
const TOLERANCE: f64 = 1e-6;

/// Compares `gradient` with the central difference of `loss` for every element of `x`.
pub fn check(
    kernel: &'static str,
    case: &str,
    x: &[f64],
    gradient: &[f64],
    mut loss: impl FnMut(&[f64]) -> f64,
) -> Verdict {
    let mut verdict = Verdict { kernel, comparisons: 1, elements: x.len(), worst_ratio: 0.0, failures: Vec::new() };
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        moved[i] = x[i] + H;
        let above = loss(&moved);
        moved[i] = x[i] - H;
        let below = loss(&moved);
        moved[i] = x[i];
        let difference = (above - below) / (2.0 * H);
        let ratio = (gradient[i] - difference).abs() / (TOLERANCE * (1.0 + difference.abs()));
        // NaN is a failure, and its ratio is infinite.
        let ratio = if ratio.is_nan() { f64::INFINITY } else { ratio };
        if ratio > 1.0 {
            verdict.failures.push(format!(
                "{case}: element {i} is {:e}, but the central difference is {difference:e}",
                gradient[i]
            ));
        }
        verdict.worst_ratio = verdict.worst_ratio.max(ratio);
    }
    if gradient.len() != x.len() {
        verdict.failures.push(format!(
            "{case}: there are {} for {}",
            count(gradient.len(), "gradient"),
            count(x.len(), "element")
        ));
    }
    verdict
}

/// Checks every gradient of every mirror on small shapes: one verdict per entry point.
pub fn check_all(seed: u64) -> Vec<Verdict> {
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    let mut verdicts = Vec::new();
    for (n, input, window, o, stride, padding) in [
        (2, [5, 4, 2], [3, 3], 3, [1, 1], Padding::Same),
        (1, [6, 5, 3], [2, 3], 2, [2, 1], Padding::Valid),
        (2, [3, 4, 1], [5, 4], 2, [2, 3], Padding::Same),
        (1, [1, 1, 1], [1, 1], 1, [1, 1], Padding::Valid),
    ] {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).expect("the shapes above are valid");
        verdicts.extend(conv2d(&d, &mut random));
    }
    for (n, input, window, stride, padding) in [
        (2, [4, 6, 3], [2, 2], [2, 2], Padding::Valid),
        (1, [5, 7, 2], [3, 2], [1, 1], Padding::Same),
        (1, [7, 5, 2], [2, 2], [3, 3], Padding::Valid),
        (2, [5, 5, 1], [3, 3], [2, 2], Padding::Same),
    ] {
        let d = Pool2dDims::new(n, input, window, stride, padding).expect("the shapes above are valid");
        verdicts.extend(pool2d(&d, &mut random));
    }
    for (n, i, o) in [(3, 5, 4), (1, 1, 1), (4, 7, 2)] {
        verdicts.extend(dense(&DenseDims { n, i, o }, &mut random));
    }
    for (n, o) in [(5, 3), (1, 1)] {
        verdicts.extend(bias_only(&bias::BiasDims { n, o }, &mut random));
    }
    verdicts.push(relu_only(&mut random));
    verdicts.push(gelu_only(&mut random));
    for (n, positions, c, n_valid) in [(3, 4, 2, 3), (4, 5, 3, 2), (12, 1, 2, 11), (1, 1, 1, 1)] {
        verdicts.extend(batchnorm(&BatchNormDims { n, positions, c }, n_valid, &mut random));
    }
    for (n, c, n_valid, scale) in [(4, 10, 4, 1.0), (5, 3, 2, 8.0), (1, 1, 1, 1.0)] {
        verdicts.push(softmax_xent(&SoftmaxXentDims { n, c }, n_valid, scale, &mut random));
    }
    merge(verdicts)
}

/// Merges the verdicts into one per kernel.
fn merge(verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let mut merged: Vec<Verdict> = Vec::new();
    for verdict in verdicts {
        match merged.iter_mut().find(|m| m.kernel == verdict.kernel) {
            Some(m) => {
                m.comparisons += verdict.comparisons;
                m.elements += verdict.elements;
                m.worst_ratio = m.worst_ratio.max(verdict.worst_ratio);
                m.failures.extend(verdict.failures);
            }
            None => merged.push(verdict),
        }
    }
    merged
}

struct Random(ChaCha8Rng);

impl Random {
    /// Returns values in -1..1.
    fn values(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| f64::from(self.0.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0).collect()
    }

    /// Returns distinct values in random order, each at least 20 H from the next and from zero: away from every kink
    /// and tie.
    fn distinct(&mut self, len: usize) -> Vec<f64> {
        let mut values: Vec<f64> = (0..len).map(|i| (i as f64 + 0.5 - len as f64 / 2.0) * 0.013).collect();
        for value in &mut values {
            *value += if *value < 0.0 { -20.0 * H } else { 20.0 * H };
        }
        for i in (1..len).rev() {
            values.swap(i, self.0.next_u32() as usize % (i + 1));
        }
        values
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn conv2d(d: &Conv2dDims, random: &mut Random) -> Vec<Verdict> {
    let case = format!("{d:?}");
    let (x, w, b) = (random.values(d.x_len()), random.values(d.w_len()), random.values(d.o));
    let dy = random.values(d.y_len());
    let loss = |x: &[f64], w: &[f64], b: &[f64]| {
        let mut y = vec![0.0; d.y_len()];
        conv2d_forward(d, x, w, b, &mut y);
        dot(&y, &dy)
    };
    let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; d.o]);
    conv2d_backward_x(d, &w, &dy, &mut dx);
    conv2d_backward_w(d, &x, &dy, &mut dw);
    bias::bias_backward_b(&bias::BiasDims { n: d.n * d.ho * d.wo, o: d.o }, &dy, &mut db);
    vec![
        check("conv2d_backward_x", &case, &x, &dx, |x| loss(x, &w, &b)),
        check("conv2d_backward_w", &case, &w, &dw, |w| loss(&x, w, &b)),
        check("bias_backward_b", &case, &b, &db, |b| loss(&x, &w, b)),
    ]
}

fn pool2d(d: &Pool2dDims, random: &mut Random) -> Vec<Verdict> {
    let case = format!("{d:?}");
    let (x_len, y_len) = (d.n * d.h * d.w * d.c, d.n * d.ho * d.wo * d.c);
    let (x, dy) = (random.distinct(x_len), random.values(y_len));
    let (mut y, mut argmax, mut dx) = (vec![0.0; y_len], vec![0; y_len], vec![0.0; x_len]);
    pool2d_max_forward(d, &x, &mut y, &mut argmax);
    pool2d_max_backward_x(d, &argmax, &dy, &mut dx);
    let mut verdicts = vec![check("pool2d_max_backward_x", &case, &x, &dx, |x| {
        let (mut y, mut argmax) = (vec![0.0; y_len], vec![0; y_len]);
        pool2d_max_forward(d, x, &mut y, &mut argmax);
        dot(&y, &dy)
    })];
    pool2d_average_backward_x(d, &dy, &mut dx);
    verdicts.push(check("pool2d_average_backward_x", &case, &x, &dx, |x| {
        let mut y = vec![0.0; y_len];
        pool2d_average_forward(d, x, &mut y);
        dot(&y, &dy)
    }));
    pool2d_sum_backward_x(d, &dy, &mut dx);
    verdicts.push(check("pool2d_sum_backward_x", &case, &x, &dx, |x| {
        let mut y = vec![0.0; y_len];
        pool2d_sum_forward(d, x, &mut y);
        dot(&y, &dy)
    }));
    verdicts
}

fn dense(d: &DenseDims, random: &mut Random) -> Vec<Verdict> {
    let case = format!("{d:?}");
    let (x, w, b) = (random.values(d.n * d.i), random.values(d.i * d.o), random.values(d.o));
    let dy = random.values(d.n * d.o);
    let loss = |x: &[f64], w: &[f64], b: &[f64]| {
        let mut y = vec![0.0; d.n * d.o];
        dense_forward(d, x, w, b, &mut y);
        dot(&y, &dy)
    };
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    dense_backward_x(d, &w, &dy, &mut dx);
    dense_backward_w(d, &x, &dy, &mut dw);
    vec![
        check("dense_backward_x", &case, &x, &dx, |x| loss(x, &w, &b)),
        check("dense_backward_w", &case, &w, &dw, |w| loss(&x, w, &b)),
    ]
}

fn bias_only(d: &bias::BiasDims, random: &mut Random) -> Vec<Verdict> {
    let (x, b, dy) = (random.values(d.n * d.o), random.values(d.o), random.values(d.n * d.o));
    let mut db = vec![0.0; d.o];
    bias::bias_backward_b(d, &dy, &mut db);
    vec![check("bias_backward_b", &format!("{d:?}"), &b, &db, |b| {
        let mut y = vec![0.0; d.n * d.o];
        bias::bias_forward(d, &x, b, &mut y);
        dot(&y, &dy)
    })]
}

fn relu_only(random: &mut Random) -> Verdict {
    let (x, dy) = (random.distinct(41), random.values(41));
    let (mut y, mut dx) = (vec![0.0; 41], vec![0.0; 41]);
    relu::relu_forward(&x, &mut y);
    relu::relu_backward_x(&y, &dy, &mut dx);
    check("relu_backward_x", "41", &x, &dx, |x| {
        let mut y = vec![0.0; 41];
        relu::relu_forward(x, &mut y);
        dot(&y, &dy)
    })
}

fn gelu_only(random: &mut Random) -> Verdict {
    let x: Vec<f64> = random.values(41).iter().map(|x| x * 4.0).collect();
    let (dy, mut dx) = (random.values(41), vec![0.0; 41]);
    gelu::gelu_backward_x(&x, &dy, &mut dx);
    check("gelu_backward_x", "41", &x, &dx, |x| {
        let mut y = vec![0.0; 41];
        gelu::gelu_forward(x, &mut y);
        dot(&y, &dy)
    })
}

/// The gradients through the statistics of the batch itself, of which the first `n_valid` images are part; as in training,
/// the gradient of the others is zero.
fn batchnorm(d: &BatchNormDims, n_valid: usize, random: &mut Random) -> Vec<Verdict> {
    const EPSILON: f64 = 1e-3;
    let case = format!("{d:?}, {n_valid} valid");
    let (x, scale, shift) = (random.values(d.x_len()), random.values(d.c), random.values(d.c));
    let mut dy = random.values(d.x_len());
    dy[n_valid * d.positions * d.c..].fill(0.0);
    let moments = |x: &[f64]| {
        let (mut moments, mut running) = (vec![0.0; 3 * d.c], [vec![0.0; d.c], vec![0.0; d.c]]);
        let [mean, var] = &mut running;
        batchnorm::batchnorm_statistics(d, 0.99, n_valid, x, &mut moments, mean, var);
        moments
    };
    let loss = |x: &[f64], scale: &[f64], shift: &[f64]| {
        let mut y = vec![0.0; d.x_len()];
        batchnorm::batchnorm_forward(d, EPSILON, x, &moments(x), scale, shift, &mut y);
        dot(&y, &dy)
    };
    let (of_batch, mut dx) = (moments(&x), vec![0.0; d.x_len()]);
    let (mut dscale, mut dshift) = (vec![0.0; d.c], vec![0.0; d.c]);
    batchnorm::batchnorm_backward_w(d, EPSILON, &x, &of_batch, &dy, &mut dscale, &mut dshift);
    batchnorm::batchnorm_backward_x(d, EPSILON, &x, &of_batch, &scale, &dscale, &dshift, &dy, &mut dx);
    vec![
        check("batchnorm_backward_x", &case, &x, &dx, |x| loss(x, &scale, &shift)),
        check("batchnorm_backward_w", &case, &scale, &dscale, |scale| loss(&x, scale, &shift)),
        check("batchnorm_backward_w", &case, &shift, &dshift, |shift| loss(&x, &scale, shift)),
    ]
}

fn softmax_xent(d: &SoftmaxXentDims, n_valid: usize, scale: f64, random: &mut Random) -> Verdict {
    let x: Vec<f64> = random.values(d.n * d.c).iter().map(|x| x * scale).collect();
    let labels: Vec<u32> = (0..d.n).map(|n| ((n * 3 + 1) % d.c) as u32).collect();
    let mut dx = vec![0.0; x.len()];
    softmax_xent_backward_x(d, &x, &labels, n_valid, &mut dx);
    check("softmax_xent_backward_x", &format!("{d:?}"), &x, &dx, |x| {
        let (mut p, mut loss, mut correct) = (vec![0.0; x.len()], vec![0.0; d.n], vec![0; d.n]);
        softmax_xent_forward(d, x, &labels, &mut p, &mut loss, &mut correct);
        loss[..n_valid].iter().sum::<f64>() / n_valid as f64
    })
}
