//! Softmax with cross-entropy: kernels in `shaders/softmax_xent.wgsl`, mirror in [`crate::cpu::softmax_xent`].

use crate::gpu::{Bound, Constant, GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, write};

pub use crate::cpu::softmax_xent::SoftmaxXentDims;

const SOURCE: &str = include_str!("../../shaders/softmax_xent.wgsl");

/// The probabilities, and the batch's loss and number of correct predictions, for evaluation and prediction.
pub static FORWARD: KernelSpec = KernelSpec {
    op: "softmax_xent",
    entry: "softmax_xent_forward",
    source: SOURCE,
    bindings: &[
        read(0, "x"),
        read(1, "labels"),
        write(2, "probabilities"),
        write(4, "progress"),
        write(5, "batch_loss"),
        write(6, "batch_correct"),
    ],
};

/// The gradient of the logits, and the batch's loss and number of correct predictions, for training.
pub static BACKWARD_X: KernelSpec = KernelSpec {
    op: "softmax_xent",
    entry: "softmax_xent_backward_x",
    source: SOURCE,
    bindings: &[
        read(0, "x"),
        read(1, "labels"),
        write(3, "dx"),
        write(4, "progress"),
        write(5, "batch_loss"),
        write(6, "batch_correct"),
    ],
};

fn constants(d: &SoftmaxXentDims) -> [Constant; 2] {
    [("N", d.n as f64), ("C", d.c as f64)]
}

/// Where the losses and correct predictions of an epoch's batches are written.
#[derive(Clone, Copy, Debug)]
pub struct BatchTotals<'a> {
    /// `[batches done, samples of the epoch]`; the first is advanced by one.
    pub progress: &'a Tensor,
    /// Sum of the losses of each batch, `[batches]`.
    pub batch_loss: &'a Tensor,
    /// Number of correct predictions of each batch, `[batches]`.
    pub batch_correct: &'a Tensor,
}

impl<'a> BatchTotals<'a> {
    fn bind(&self) -> [Bound<'a>; 3] {
        [
            bind("progress", self.progress, 2),
            bind("batch_loss", self.batch_loss, self.batch_correct.len()),
            bind("batch_correct", self.batch_correct, self.batch_loss.len()),
        ]
    }
}

/// Records the probabilities `[N, C]` of logits x `[N, C]` with labels `[N]`, and the batch's totals over its valid
/// rows.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_forward(
    plan: &mut PlanBuilder<'_>,
    d: &SoftmaxXentDims,
    x: &Tensor,
    labels: &Tensor,
    probabilities: &Tensor,
    totals: &BatchTotals<'_>,
) -> Result<(), GpuError> {
    let [progress, loss, correct] = totals.bind();
    let (x, probabilities) = (bind("x", x, d.n * d.c), bind("probabilities", probabilities, d.n * d.c));
    let bound = [x, bind("labels", labels, d.n), probabilities, progress, loss, correct];
    plan.push(&FORWARD, &constants(d), [1, 1, 1], &bound)
}

/// Records the gradient dx `[N, C]` of the mean loss over the valid rows of the batch, and the batch's totals.
///
/// The gradient of rows past the end of the epoch is zero.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    d: &SoftmaxXentDims,
    x: &Tensor,
    labels: &Tensor,
    dx: &Tensor,
    totals: &BatchTotals<'_>,
) -> Result<(), GpuError> {
    let [progress, loss, correct] = totals.bind();
    let (x, dx) = (bind("x", x, d.n * d.c), bind("dx", dx, d.n * d.c));
    let bound = [x, bind("labels", labels, d.n), dx, progress, loss, correct];
    plan.push(&BACKWARD_X, &constants(d), [1, 1, 1], &bound)
}
