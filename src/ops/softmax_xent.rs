//! Softmax with cross-entropy: kernels of `shaders/softmax_xent.wgsl`, mirror in [`crate::cpu::softmax_xent`].

use crate::cpu::softmax_xent as cpu;
use crate::gpu::{Constant, GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::verify::{UNIT_ROUNDOFF, Verifier, widen};

pub use crate::cpu::softmax_xent::SoftmaxXentDims;

const SOURCE: &str = include_str!("../../shaders/softmax_xent.wgsl");

/// Probabilities, loss and correct flag, for evaluation and prediction.
pub static FORWARD: KernelSpec = KernelSpec {
    op: "softmax_xent",
    entry: "softmax_xent_forward",
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "labels"), write(2, "probabilities"), write(3, "loss"), write(4, "correct")],
};

/// Loss, correct flag and the gradient of the logits, for training.
pub static BACKWARD_X: KernelSpec = KernelSpec {
    op: "softmax_xent",
    entry: "softmax_xent_backward_x",
    source: SOURCE,
    bindings: &[
        read(0, "x"),
        read(1, "labels"),
        write(3, "loss"),
        write(4, "correct"),
        write(5, "dx"),
        read(6, "progress"),
    ],
};

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[&FORWARD, &BACKWARD_X];

fn constants(d: &SoftmaxXentDims) -> [Constant; 2] {
    [("N", d.n as f64), ("C", d.c as f64)]
}

/// Records probabilities `[N, C]`, loss `[N]` and correct flags `[N]` of logits x `[N, C]` with labels `[N]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the shader does not compile.
pub fn record_forward(
    plan: &mut PlanBuilder<'_>,
    d: &SoftmaxXentDims,
    x: &Tensor,
    labels: &Tensor,
    probabilities: &Tensor,
    loss: &Tensor,
    correct: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &FORWARD,
        &constants(d),
        workgroups_linear(d.n, 64),
        &[
            bind("x", x, d.n * d.c),
            bind("labels", labels, d.n),
            bind("probabilities", probabilities, d.n * d.c),
            bind("loss", loss, d.n),
            bind("correct", correct, d.n),
        ],
    )
}

/// Records loss `[N]`, correct flags `[N]` and the gradient dx `[N, C]` of the mean loss over the valid rows of the batch.
///
/// `progress` is `[batches done, samples of the epoch]`: rows past the end of the epoch get a gradient of zero.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the shader does not compile.
#[allow(clippy::too_many_arguments, reason = "one argument a tensor, named as in the formula")]
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    d: &SoftmaxXentDims,
    x: &Tensor,
    labels: &Tensor,
    loss: &Tensor,
    correct: &Tensor,
    dx: &Tensor,
    progress: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &BACKWARD_X,
        &constants(d),
        workgroups_linear(d.n, 64),
        &[
            bind("x", x, d.n * d.c),
            bind("labels", labels, d.n),
            bind("loss", loss, d.n),
            bind("correct", correct, d.n),
            bind("dx", dx, d.n * d.c),
            bind("progress", progress, 2),
        ],
    )
}

/// Error bounds of one row, from what the WGSL specification promises of `exp`, `log` and division.
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
    // exp(d): 3 + 2|d| units in the last place (two roundoffs each), and the rounding of d itself, |d| roundoffs.
    let exp = (2.0 * (3.0 + 2.0 * spread) + spread) * UNIT_ROUNDOFF;
    let total = exp + x.len() as f64 * UNIT_ROUNDOFF;
    // log(s): 3 units in the last place, or 2^-21 near one; then the differences to the label.
    let log = (6.0 * UNIT_ROUNDOFF * sum.ln().abs()).max(0.5f64.powi(21)) + total;
    let gap = highest - x[label];
    RowBounds { probability: exp + total + 5.0 * UNIT_ROUNDOFF, loss: log + 2.0 * UNIT_ROUNDOFF * (gap + sum.ln()) }
}

/// Compares both kernels with the mirror: `n` rows of which `n_valid` count, logits up to `scale`.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, d: &SoftmaxXentDims, n_valid: usize, scale: f32) -> Result<(), GpuError> {
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
    let loss_bound: Vec<f64> = bounds.iter().map(|b| b.loss).collect();

    let mut run = v.run();
    let (tx, tlabels) = (run.input(&x)?, run.input_u32(&labels)?);
    let (tp, tloss, tcorrect) = (run.output(x.len())?, run.output(d.n)?, run.output_u32(d.n)?);
    record_forward(&mut run.plan, d, &tx, &tlabels, &tp, &tloss, &tcorrect)?;
    run.check(
        FORWARD.entry,
        &case,
        &[(&tp, &p64, &p_bound), (&tloss, &loss64, &loss_bound)],
        &[(&tcorrect, &correct)],
    )?;

    let mut dx64 = vec![0.0; x.len()];
    cpu::softmax_xent_backward_x(d, &x64, &labels, n_valid, &mut dx64);
    let dx_bound: Vec<f64> = (0..x.len())
        .map(|i| {
            if i / d.c < n_valid {
                // The difference p - target rounds once, and the division by the number of rows by 2.5 units.
                let difference = dx64[i].abs() * n_valid as f64;
                (p_bound[i] + 6.0 * UNIT_ROUNDOFF * difference) / n_valid as f64 + tiny
            } else {
                0.0
            }
        })
        .collect();
    let mut run = v.run();
    let (tx, tlabels) = (run.input(&x)?, run.input_u32(&labels)?);
    // The last batch of an epoch: two whole batches were done, n_valid samples are left.
    let tprogress = run.input_u32(&[2, (2 * d.n + n_valid) as u32])?;
    let (tloss, tcorrect, tdx) = (run.output(d.n)?, run.output_u32(d.n)?, run.output(x.len())?);
    record_backward_x(&mut run.plan, d, &tx, &tlabels, &tloss, &tcorrect, &tdx, &tprogress)?;
    run.check(
        BACKWARD_X.entry,
        &case,
        &[(&tdx, &dx64, &dx_bound), (&tloss, &loss64, &loss_bound)],
        &[(&tcorrect, &correct)],
    )
}

/// The shapes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for (n, c, n_valid, scale) in [(32, 10, 32, 4.0), (32, 10, 7, 30.0), (65, 3, 64, 1000.0), (1, 1, 1, 1.0)] {
        verify(v, &SoftmaxXentDims { n, c }, n_valid, scale)?;
    }
    Ok(())
}
