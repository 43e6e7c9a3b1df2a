//! Proof of softmax and cross-entropy: their kernels agree with [`crate::cpu::softmax_xent`].

use super::gradients::{Gradients, check};
use super::{Bounded, UNIT_ROUNDOFF, Verifier, sum_bound, widen};
use crate::cpu::softmax_xent as cpu;
use crate::gpu::GpuError;
use crate::ops::softmax_xent::{
    BACKWARD_X, BatchTotals, FORWARD, SOFT_BACKWARD_X, SoftTargets, SoftTensors, SoftmaxXentDims, record_backward_x,
    record_forward, record_soft_backward_x,
};

/// Error bounds of one row, from what the WGSL specification guarantees for `exp`, `log` and division.
pub(super) struct RowBounds {
    /// Relative error of each probability.
    pub(super) probability: f64,
    /// Absolute error of the logarithm of the sum of the exponentials.
    log: f64,
    /// Absolute error of the loss.
    pub(super) loss: f64,
}

pub(super) fn row_bounds(x: &[f64], label: usize) -> RowBounds {
    let highest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lowest = x.iter().copied().fold(f64::INFINITY, f64::min);
    let spread = highest - lowest;
    let sum: f64 = x.iter().map(|x| (x - highest).exp()).sum();
    // exp(d): 3 + 2|d| units in the last place (two roundoffs each), plus the rounding of d itself, |d| roundoffs.
    let exp = (2.0 * (3.0 + 2.0 * spread) + spread) * UNIT_ROUNDOFF;
    let total = exp + x.len() as f64 * UNIT_ROUNDOFF;
    // log(s): 3 units in the last place, or 2^-21 near one; then the differences to the label.
    let log = (6.0 * UNIT_ROUNDOFF * sum.ln().abs()).max(0.5f64.powi(21)) + total;
    let gap = highest - x[label];
    let loss = log + 2.0 * UNIT_ROUNDOFF * (gap + sum.ln());
    RowBounds { probability: exp + total + 5.0 * UNIT_ROUNDOFF, log, loss }
}

/// Returns the error that a gradient of a logit may have in a row that counts, given that of its probability.
pub(super) fn gradient_bound(n_valid: usize, dx: f64, probability: f64) -> f64 {
    // The difference p - target rounds once, and the division by the number of rows adds 2.5 units.
    let difference = dx.abs() * n_valid as f64;
    let tiny = f64::from(f32::MIN_POSITIVE);
    (probability + tiny + 6.0 * UNIT_ROUNDOFF * difference) / n_valid as f64 + tiny
}

/// Compares both kernels with the mirror: `n` rows, `n_valid` of them valid, logits up to `scale`.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &SoftmaxXentDims, n_valid: usize, scale: f32) -> Result<(), GpuError> {
    let case = format!("{}x{} valid {n_valid} logits to {scale}", d.n, d.c);
    let mut x: Vec<f32> = v.random(d.n * d.c).into_iter().map(|x| x * scale).collect();
    let labels: Vec<u32> = (0..d.n).map(|n| ((n * 7 + 3) % d.c) as u32).collect();
    // A tie between the first two classes in every third row: the first index is the prediction.
    if d.c > 1 {
        for row in x.chunks_mut(d.c).step_by(3) {
            row[0] = row.iter().copied().fold(f32::MIN, f32::max);
            row[1] = row[0];
        }
    }
    let x64 = widen(&x);
    let bounds: Vec<RowBounds> =
        x64.chunks(d.c).zip(&labels).map(|(row, &label)| row_bounds(row, label as usize)).collect();
    let (mut p64, mut loss64, mut correct) = (vec![0.0; x.len()], vec![0.0; d.n], vec![0; d.n]);
    cpu::softmax_xent_forward(d, &x64, &labels, &mut p64, &mut loss64, &mut correct);
    // Probabilities below the smallest normal number may be flushed to zero.
    let tiny = f64::from(f32::MIN_POSITIVE);
    let p_bound: Vec<f64> = p64.iter().enumerate().map(|(i, p)| p.abs() * bounds[i / d.c].probability + tiny).collect();
    let p = Bounded { values: p64, bound: p_bound };
    let (loss, n_correct) = cpu::softmax_xent_totals(n_valid, &loss64, &correct);
    // The error of each row's loss, and of their sum.
    let loss_bound = bounds[..n_valid].iter().map(|b| b.loss).sum::<f64>()
        + sum_bound(n_valid, loss64[..n_valid].iter().map(|loss| loss.abs()).sum());
    // The last batch of an epoch: two whole batches are done, n_valid samples are left. Other slots keep their content.
    let progress = [2, (2 * d.n + n_valid) as u32];
    let expected_loss = Bounded { values: vec![5.0, 5.0, loss, 5.0], bound: vec![0.0, 0.0, loss_bound, 0.0] };
    let (expected_correct, expected_progress) = ([7, 7, n_correct, 7], [3, progress[1]]);

    let mut dx64 = vec![0.0; x.len()];
    cpu::softmax_xent_backward_x(d, &x64, &labels, n_valid, &mut dx64);
    let dx_bound =
        |(i, dx): (usize, &f64)| if i / d.c < n_valid { gradient_bound(n_valid, *dx, p.bound[i]) } else { 0.0 };
    let dx = Bounded { bound: dx64.iter().enumerate().map(dx_bound).collect(), values: dx64 };

    for (kernel, output) in [(FORWARD.entry, p), (BACKWARD_X.entry, dx)] {
        let mut run = v.run();
        let (tx, tlabels, toutput) = (run.input(&x)?, run.input_u32(&labels)?, run.output(x.len())?);
        let tprogress = run.in_place_u32(&progress)?;
        let (tloss, tcorrect) = (run.in_place(&[5.0; 4])?, run.in_place_u32(&[7; 4])?);
        let totals = BatchTotals { progress: &tprogress, batch_loss: &tloss, batch_correct: &tcorrect };
        let record = if kernel == FORWARD.entry { record_forward } else { record_backward_x };
        record(&mut run.plan, d, [&tx, &tlabels, &toutput], &totals)?;
        let exact = [(&tcorrect, &expected_correct[..]), (&tprogress, &expected_progress)];
        run.check(kernel, &case, &[(&toutput, &output), (&tloss, &expected_loss)], &exact);
    }
    Ok(())
}

/// Weights of classes, all different.
fn class_weights(classes: usize) -> Vec<f32> {
    (0..classes).map(|class| 0.5 + 0.375 * class as f32).collect()
}

/// The labels of the rows that rows are mixed with: the next one among those that count.
fn partners(labels: &[u32], n_valid: usize) -> Vec<u32> {
    (0..labels.len()).map(|n| labels[(n + 1) % n_valid]).collect()
}

/// Error bounds of the gradient of each logit, and of the sum of the losses before they are summed, for soft targets.
fn soft_bounds(
    d: &SoftmaxXentDims,
    [x, p, dx]: [&[f64]; 3],
    labels: &[u32],
    targets: &SoftTargets<'_>,
    n_valid: usize,
) -> (Vec<f64>, f64) {
    let (u, tiny) = (UNIT_ROUNDOFF, f64::from(f32::MIN_POSITIVE));
    let (mut dx_bound, mut loss_bound) = (vec![0.0; x.len()], 0.0);
    for (n, (&label, &partner)) in labels.iter().zip(targets.partners).enumerate().take(n_valid) {
        let at = n * d.c..(n + 1) * d.c;
        let row = &x[at.clone()];
        let (bounds, highest) = (row_bounds(row, 0), row.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        let sum: f64 = row.iter().map(|x| (x - highest).exp()).sum();
        let of = |label: u32| f64::from(targets.class_weights[label as usize]);
        let weight = targets.share * of(label) + (1.0 - targets.share) * of(partner);
        let mut gaps = 0.0;
        for i in at {
            let difference = dx[i] * n_valid as f64;
            let value = weight * p[i] - difference;
            gaps += value * (highest - x[i]);
            // The weight of the row rounds three times, and a target ten times, its division as five: all of its terms are positive. The
            // product, the difference, and a division with 2.5 units follow.
            let product = weight * p[i] * (bounds.probability + 4.0 * u) + tiny;
            dx_bound[i] = (product + 10.0 * u * value + 6.0 * u * difference.abs()) / n_valid as f64 + tiny;
        }
        loss_bound += weight * bounds.log + (12 + d.c) as f64 * u * (gaps + weight * sum.ln());
    }
    (dx_bound, loss_bound)
}

/// Compares the kernel for soft targets with the mirror, as [`verify`] does; images are mixed if there is a `share`.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify_soft(
    v: &mut Verifier,
    d: &SoftmaxXentDims,
    n_valid: usize,
    smoothing: f32,
    share: Option<f32>,
) -> Result<(), GpuError> {
    let case = format!("{}x{} valid {n_valid}, smoothing {smoothing}, share {share:?}", d.n, d.c);
    let x: Vec<f32> = v.random(d.n * d.c).into_iter().map(|x| x * 5.0).collect();
    let labels: Vec<u32> = (0..d.n).map(|n| ((n * n + 3) % d.c) as u32).collect();
    let (x64, weights) = (widen(&x), class_weights(d.c));
    let targets = SoftTargets {
        smoothing: f64::from(smoothing),
        class_weights: &weights,
        partners: &partners(&labels, n_valid),
        share: f64::from(share.unwrap_or(1.0)),
    };
    let (mut p64, mut loss64, mut correct) = (vec![0.0; x.len()], vec![0.0; d.n], vec![0; d.n]);
    cpu::softmax_xent_forward(d, &x64, &labels, &mut p64, &mut loss64, &mut correct);
    cpu::softmax_xent_soft_loss(d, &x64, &labels, &targets, &mut loss64);
    let mut dx64 = vec![0.0; x.len()];
    cpu::softmax_xent_soft_backward_x(d, &x64, &labels, &targets, n_valid, &mut dx64);
    let (dx_bound, mut loss_bound) = soft_bounds(d, [&x64, &p64, &dx64], &labels, &targets, n_valid);
    let (loss, n_correct) = cpu::softmax_xent_totals(n_valid, &loss64, &correct);
    loss_bound += sum_bound(n_valid, loss64[..n_valid].iter().map(|loss| loss.abs()).sum());
    let progress = [2, (2 * d.n + n_valid) as u32];
    let expected_loss = Bounded { values: vec![5.0, 5.0, loss, 5.0], bound: vec![0.0, 0.0, loss_bound, 0.0] };
    let (expected_correct, expected_progress) = ([7, 7, n_correct, 7], [3, progress[1]]);
    let mut run = v.run();
    let (tx, tlabels, tdx) = (run.input(&x)?, run.input_u32(&labels)?, run.output(x.len())?);
    let (tloss, tcorrect) = (run.in_place(&[5.0; 4])?, run.in_place_u32(&[7; 4])?);
    let (tprogress, tweights) = (run.in_place_u32(&progress)?, run.input(&weights)?);
    // The share of this batch is in its slot; using any other number would change the result.
    let rates = run.input(&[[9.0; 4], [9.0; 4], [9.0, 9.0, 9.0, share.unwrap_or(9.0)], [9.0; 4]].concat())?;
    let totals = BatchTotals { progress: &tprogress, batch_loss: &tloss, batch_correct: &tcorrect };
    let soft = SoftTensors {
        smoothing: f64::from(smoothing),
        mixes: share.is_some(),
        class_weights: &tweights,
        rates: &rates,
    };
    record_soft_backward_x(&mut run.plan, d, [&tx, &tlabels, &tdx], soft, &totals)?;
    let exact = [(&tcorrect, &expected_correct[..]), (&tprogress, &expected_progress)];
    let dx = Bounded { values: dx64, bound: dx_bound };
    run.check(SOFT_BACKWARD_X.entry, &case, &[(&tdx, &dx), (&tloss, &expected_loss)], &exact);
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let cases = [(32, 10, 32, 4.0), (32, 10, 7, 30.0), (300, 3, 257, 1000.0), (1, 1, 1, 1.0)];
    cases.into_iter().try_for_each(|(n, c, n_valid, scale)| verify(v, &SoftmaxXentDims { n, c }, n_valid, scale))?;
    let cases = [(32, 10, 32, 0.0, None), (32, 10, 7, 0.1, Some(0.3)), (300, 3, 257, 0.2, Some(1.0))];
    cases.into_iter().try_for_each(|(n, c, n_valid, smoothing, share)| {
        verify_soft(v, &SoftmaxXentDims { n, c }, n_valid, smoothing, share)
    })
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, c, n_valid, scale) in [(4, 10, 4, 1.0), (5, 3, 2, 8.0), (1, 1, 1, 1.0)] {
        let d = SoftmaxXentDims { n, c };
        let x: Vec<f64> = g.values(d.n * d.c).iter().map(|x| x * scale).collect();
        let labels: Vec<u32> = (0..d.n).map(|n| ((n * 3 + 1) % d.c) as u32).collect();
        let mut dx = vec![0.0; x.len()];
        cpu::softmax_xent_backward_x(&d, &x, &labels, n_valid, &mut dx);
        g.note(check("softmax_xent_backward_x", &format!("{d:?}"), &x, &dx, &mut |x| {
            let (mut p, mut loss, mut correct) = (vec![0.0; x.len()], vec![0.0; d.n], vec![0; d.n]);
            cpu::softmax_xent_forward(&d, x, &labels, &mut p, &mut loss, &mut correct);
            loss[..n_valid].iter().sum::<f64>() / n_valid as f64
        }));
        let (weights, partners) = (class_weights(c), partners(&labels, n_valid));
        let targets = SoftTargets { smoothing: 0.2, class_weights: &weights, partners: &partners, share: 0.7 };
        cpu::softmax_xent_soft_backward_x(&d, &x, &labels, &targets, n_valid, &mut dx);
        g.note(check("softmax_xent_soft_backward_x", &format!("{d:?}"), &x, &dx, &mut |x| {
            let mut loss = vec![0.0; d.n];
            cpu::softmax_xent_soft_loss(&d, x, &labels, &targets, &mut loss);
            loss[..n_valid].iter().sum::<f64>() / n_valid as f64
        }));
    }
}
