//! Proof of softmax and cross-entropy: their kernels agree with [`crate::cpu::softmax_xent`].

use super::gradients::{Gradients, check};
use super::{Bounded, UNIT_ROUNDOFF, Verifier, sum_bound, widen};
use crate::cpu::softmax_xent as cpu;
use crate::gpu::GpuError;
use crate::ops::softmax_xent::{BACKWARD_X, BatchTotals, FORWARD, SoftmaxXentDims, record_backward_x, record_forward};

/// Error bounds of one row, from what the WGSL specification guarantees for `exp`, `log` and division.
struct RowBounds {
    /// Relative error of each probability.
    probability: f64,
    /// Absolute error of the loss.
    loss: f64,
}

fn row_bounds(x: &[f64], label: usize) -> RowBounds {
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
    RowBounds { probability: exp + total + 5.0 * UNIT_ROUNDOFF, loss: log + 2.0 * UNIT_ROUNDOFF * (gap + sum.ln()) }
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
    let dx_bound = |(i, dx): (usize, &f64)| {
        if i / d.c >= n_valid {
            return 0.0;
        }
        // The difference p - target rounds once, and the division by the number of rows adds 2.5 units.
        let difference = dx.abs() * n_valid as f64;
        (p.bound[i] + 6.0 * UNIT_ROUNDOFF * difference) / n_valid as f64 + tiny
    };
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

/// Checks the shapes of `fmnist-gpu selftest`.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let cases = [(32, 10, 32, 4.0), (32, 10, 7, 30.0), (300, 3, 257, 1000.0), (1, 1, 1, 1.0)];
    cases.into_iter().try_for_each(|(n, c, n_valid, scale)| verify(v, &SoftmaxXentDims { n, c }, n_valid, scale))
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, c, n_valid, scale) in [(4, 10, 4, 1.0), (5, 3, 2, 8.0), (1, 1, 1, 1.0)] {
        let d = SoftmaxXentDims { n, c };
        let x: Vec<f64> = g.values(d.n * d.c).iter().map(|x| x * scale).collect();
        let labels: Vec<u32> = (0..d.n).map(|n| ((n * 3 + 1) % d.c) as u32).collect();
        let mut dx = vec![0.0; x.len()];
        cpu::softmax_xent_backward_x(&d, &x, &labels, n_valid, &mut dx);
        g.note(check("softmax_xent_backward_x", &format!("{d:?}"), &x, &dx, |x| {
            let (mut p, mut loss, mut correct) = (vec![0.0; x.len()], vec![0.0; d.n], vec![0; d.n]);
            cpu::softmax_xent_forward(&d, x, &labels, &mut p, &mut loss, &mut correct);
            loss[..n_valid].iter().sum::<f64>() / n_valid as f64
        }));
    }
}
