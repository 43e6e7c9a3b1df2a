//! Softmax with cross-entropy: kernels in `shaders/softmax_xent.wgsl`, mirror in [`crate::cpu::softmax_xent`].

use super::{Shader, constants, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, write};

pub use crate::cpu::softmax_xent::{SoftTargets, SoftmaxXentDims};

const SHADER: Shader = Shader {
    op: "softmax_xent",
    source: concat!(shader_text!("softmax_xent.wgsl"), shader_text!("parts/totals.wgsl")),
};

/// The probabilities, and the batch's loss and number of correct predictions, for evaluation and prediction.
pub static FORWARD: KernelSpec = SHADER.kernel(
    "softmax_xent_forward",
    &[
        read(0, "x"),
        read(1, "labels"),
        write(2, "probabilities"),
        write(4, "progress"),
        write(5, "batch_loss"),
        write(6, "batch_correct"),
    ],
);

/// The gradient of the logits, and the batch's loss and number of correct predictions, for training.
pub static BACKWARD_X: KernelSpec = SHADER.kernel(
    "softmax_xent_backward_x",
    &[
        read(0, "x"),
        read(1, "labels"),
        write(3, "dx"),
        write(4, "progress"),
        write(5, "batch_loss"),
        write(6, "batch_correct"),
    ],
);

/// The same for soft targets.
pub static SOFT_BACKWARD_X: KernelSpec = SHADER.kernel(
    "softmax_xent_soft_backward_x",
    &[
        read(0, "x"),
        read(1, "labels"),
        write(3, "dx"),
        write(4, "progress"),
        write(5, "batch_loss"),
        write(6, "batch_correct"),
        read(7, "class_weights"),
        read(8, "rates"),
    ],
);

/// What rows are to be classified as, besides their labels: [`SoftTargets`] on a GPU.
#[derive(Clone, Copy, Debug)]
pub struct SoftTensors<'a> {
    /// The part of each target that all classes share, 0 to 1.
    pub smoothing: f64,
    /// Whether each row is mixed with the next one among those that count.
    pub mixes: bool,
    /// The weight of each class in the loss, `[C]`.
    pub class_weights: &'a Tensor,
    /// The numbers of each batch of the epoch, `[batches, 4]`; the last is the share of the own label.
    pub rates: &'a Tensor,
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

/// Records the probabilities `[N, C]` of logits x `[N, C]` with labels `[N]`, and the batch's totals over its valid
/// rows.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_forward(
    plan: &mut PlanBuilder,
    d: &SoftmaxXentDims,
    [x, labels, probabilities]: [&Tensor; 3],
    totals: &BatchTotals<'_>,
) -> Result<(), GpuError> {
    record(plan, &FORWARD, d, [x, labels, probabilities], totals, None)
}

/// Records the gradient dx `[N, C]` of the mean loss over the valid rows of the batch, given logits x `[N, C]` with
/// labels `[N]`, and the batch's totals. The gradient of rows past the end of the epoch is zero.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_x(
    plan: &mut PlanBuilder,
    d: &SoftmaxXentDims,
    [x, labels, dx]: [&Tensor; 3],
    totals: &BatchTotals<'_>,
) -> Result<(), GpuError> {
    record(plan, &BACKWARD_X, d, [x, labels, dx], totals, None)
}

/// As [`record_backward_x`], for soft targets.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_soft_backward_x(
    plan: &mut PlanBuilder,
    d: &SoftmaxXentDims,
    [x, labels, dx]: [&Tensor; 3],
    targets: SoftTensors<'_>,
    totals: &BatchTotals<'_>,
) -> Result<(), GpuError> {
    record(plan, &SOFT_BACKWARD_X, d, [x, labels, dx], totals, Some(targets))
}

fn record(
    plan: &mut PlanBuilder,
    spec: &'static KernelSpec,
    d: &SoftmaxXentDims,
    [x, labels, output]: [&Tensor; 3],
    totals: &BatchTotals<'_>,
    targets: Option<SoftTensors<'_>>,
) -> Result<(), GpuError> {
    let BatchTotals { progress, batch_loss, batch_correct } = *totals;
    let totals = [(progress, 2), (batch_loss, batch_correct.len()), (batch_correct, batch_loss.len())];
    let mut tensors = [[(x, d.n * d.c), (labels, d.n), (output, d.n * d.c)], totals].concat();
    let mut constants = constants(&[("N", d.n), ("C", d.c)], &[]);
    if let Some(SoftTensors { smoothing, mixes, class_weights, rates }) = targets {
        tensors.extend([(class_weights, d.c), (rates, rates.len())]);
        constants.extend([("SMOOTHING", smoothing), ("MIXES", f64::from(u8::from(mixes)))]);
    }
    push(plan, spec, &constants, [1, 1, 1], &tensors)
}
