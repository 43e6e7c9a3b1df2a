//! Loss and right answers of a batch, and the end of the step: kernel of `shaders/metrics.wgsl`, mirror in [`crate::cpu::metrics`].

use crate::cpu::metrics as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, write};
use crate::verify::{Verifier, sum_bound, widen};

const SOURCE: &str = include_str!("../../shaders/metrics.wgsl");

/// Sums of the batch, and `progress` advanced by one batch.
pub static ACCUMULATE: KernelSpec = KernelSpec {
    op: "metrics",
    entry: "metrics_accumulate",
    source: SOURCE,
    bindings: &[
        read(0, "loss"),
        read(1, "correct"),
        write(2, "progress"),
        write(3, "batch_loss"),
        write(4, "batch_correct"),
    ],
};

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[&ACCUMULATE];

/// Records the sums of loss `[N]` and correct `[N]` into slot `progress[0]` of batch_loss and batch_correct.
///
/// # Errors
/// A tensor's size does not fit, or the shader does not compile.
pub fn record(
    plan: &mut PlanBuilder<'_>,
    n: usize,
    loss: &Tensor,
    correct: &Tensor,
    progress: &Tensor,
    batch_loss: &Tensor,
    batch_correct: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &ACCUMULATE,
        &[("N", n as f64)],
        [1, 1, 1],
        &[
            bind("loss", loss, n),
            bind("correct", correct, n),
            bind("progress", progress, 2),
            bind("batch_loss", batch_loss, batch_correct.len()),
            bind("batch_correct", batch_correct, batch_loss.len()),
        ],
    )
}

/// Compares the kernel with the mirror: `n` rows of which `n_valid` count.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, n: usize, n_valid: usize) -> Result<(), GpuError> {
    let case = format!("{n_valid} of {n}");
    let loss: Vec<f32> = v.random(n).iter().map(|x| x.abs() * 3.0).collect();
    let correct: Vec<u32> = v.random(n).iter().map(|x| u32::from(*x > 0.0)).collect();
    let (loss64, n_correct) = cpu::metrics_accumulate(n_valid, &widen(&loss), &correct);
    let mut run = v.run();
    let (tloss, tcorrect) = (run.input(&loss)?, run.input_u32(&correct)?);
    let tprogress = run.in_place_u32(&[2, (2 * n + n_valid) as u32])?;
    // Slots other than the batch's own keep what they held.
    let tbatch_loss = run.in_place(&[5.0; 4])?;
    let tbatch_correct = run.in_place_u32(&[7; 4])?;
    record(&mut run.plan, n, &tloss, &tcorrect, &tprogress, &tbatch_loss, &tbatch_correct)?;
    run.check(
        ACCUMULATE.entry,
        &case,
        &[(&tbatch_loss, &[5.0, 5.0, loss64, 5.0], &[0.0, 0.0, sum_bound(n_valid, loss64), 0.0])],
        &[(&tbatch_correct, &[7, 7, n_correct, 7]), (&tprogress, &[3, (2 * n + n_valid) as u32])],
    )
}

/// The shapes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for (n, n_valid) in [(32, 32), (32, 5), (1, 1), (200, 133)] {
        verify(v, n, n_valid)?;
    }
    Ok(())
}
