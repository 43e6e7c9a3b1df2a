//! The end of a model whose last hidden layer is dense: kernels in `shaders/head.wgsl`, mirror in [`crate::cpu::head`].
//!
//! On GPUs, where a launch takes longer than such small products: two dispatches from the parts of the hidden layer's sums to the
//! gradients of its sums and of the last layer's weights. `engine/gpu/head.rs` finds the instructions that they replace.

use super::softmax_xent::BatchTotals;
use super::{Shader, constants, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::head::HeadDims;

const SHADER: Shader =
    Shader { op: "head", source: concat!(shader_text!("head.wgsl"), shader_text!("parts/totals.wgsl")) };

/// Everything that needs no other row: forward pass, loss, gradients of logits and hidden sums.
pub static ROWS: KernelSpec = SHADER.kernel(
    "head_rows",
    &[
        read(0, "parts"),
        read(1, "hidden_b"),
        read(2, "w"),
        read(3, "b"),
        read(4, "labels"),
        read(5, "progress"),
        write(6, "rows_out"),
    ],
);

/// What is summed over rows: the gradients of the last layer, and the batch's loss and number of correct predictions.
pub static BACKWARD_W: KernelSpec = SHADER.kernel(
    "head_backward_w",
    &[
        read(7, "rows"),
        write(8, "dw"),
        write(9, "db"),
        write(10, "progress_out"),
        write(11, "batch_loss"),
        write(12, "batch_correct"),
    ],
);

/// Most hidden units and classes: `MOST_HIDDEN` and `MOST_CLASSES` in the shader.
const MOST: [usize; 2] = [1024, 128];

/// Sums of a workgroup of [`BACKWARD_W`]: `SUMS` in the shader.
const SUMS: usize = 16;

/// Whether the kernels can compute a layer of this many hidden units and classes.
pub fn suits(d: &HeadDims) -> bool {
    d.i <= MOST[0] && d.c <= MOST[1]
}

/// What both kernels keep of each row, side by side in one tensor.
#[derive(Clone, Debug)]
pub struct HeadRows {
    whole: Tensor,
    /// Outputs of the hidden layer, `[N, I]`.
    pub hidden: Tensor,
    /// `[N, C]`.
    pub logits: Tensor,
    /// `[N, C]`.
    pub dlogits: Tensor,
    /// The gradients of the sums of the hidden layer, `[N, I]`.
    pub dhidden: Tensor,
    /// Losses and correct predictions, `[N]` each; 0 or 1.
    pub of_rows: [Tensor; 2],
    /// The number of batches done before this one, `[1]`.
    pub batch: Tensor,
}

impl HeadRows {
    /// Returns the number of elements of the whole tensor.
    pub fn len(d: &HeadDims) -> usize {
        Self::starts(d)[7]
    }

    /// Returns where each part starts, and the end. Every adapter can bind a tensor at a multiple of 256 bytes.
    pub(crate) fn starts(d: &HeadDims) -> [usize; 8] {
        let (units, classes, mut end) = (d.n * d.i, d.n * d.c, 0);
        [units, classes, classes, units, d.n, d.n, 1, 0].map(|len: usize| {
            let start = end;
            end += len.next_multiple_of(64);
            start
        })
    }

    /// Divides a tensor of [`HeadRows::len`] elements.
    pub fn within(whole: Tensor, d: &HeadDims) -> Self {
        let starts = Self::starts(d);
        let part = |i: usize, name: &str, shape: &[usize]| whole.slice(format!("head.{name}"), starts[i], shape);
        let (units, classes) = ([d.n, d.i], [d.n, d.c]);
        HeadRows {
            hidden: part(0, "hidden", &units),
            logits: part(1, "logits", &classes),
            dlogits: part(2, "dlogits", &classes),
            dhidden: part(3, "dhidden", &units),
            of_rows: [part(4, "loss", &[d.n]), part(5, "correct", &[d.n])],
            batch: part(6, "batch", &[1]),
            whole,
        }
    }
}

fn constants_of(d: &HeadDims) -> Vec<(&'static str, f64)> {
    let [_, logits, dlogits, dhidden, loss, correct, batch, _] = HeadRows::starts(d);
    let sizes = [("N", d.n), ("I", d.i), ("C", d.c)];
    let starts = [("LOGITS_AT", logits), ("DLOGITS_AT", dlogits), ("DHIDDEN_AT", dhidden)];
    let of_rows = [("LOSS_AT", loss), ("CORRECT_AT", correct), ("BATCH_AT", batch)];
    constants(&[&sizes[..], &starts, &of_rows].concat(), &[])
}

/// Records what needs no other row. The gradients are those of the mean loss over the valid rows of the batch; they, loss and correct
/// predictions are zero in rows past the end of the epoch.
///
/// Shapes: parts `[parts, N, I]`, hidden_b `[I]`, w `[I, C]`, b `[C]`, labels `[N]`, progress `[batches done, samples of the epoch]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the kernel cannot compute so many hidden units or classes.
pub fn record_rows(
    plan: &mut PlanBuilder,
    d: &HeadDims,
    [parts, hidden_b, w, b, labels, progress]: [&Tensor; 6],
    rows: &HeadRows,
) -> Result<(), GpuError> {
    if !suits(d) {
        let message = format!("{} hidden units and {} classes are more than {MOST:?}", d.i, d.c);
        return Err(GpuError::Record { entry: ROWS.entry, message });
    }
    let inputs =
        [(parts, d.parts * d.n * d.i), (hidden_b, d.i), (w, d.i * d.c), (b, d.c), (labels, d.n), (progress, 2)];
    let tensors = [&inputs[..], &[(&rows.whole, HeadRows::len(d))]].concat();
    let constants = [&constants_of(d)[..], &[("PARTS", d.parts as f64)]].concat();
    push(plan, &ROWS, &constants, workgroups_linear(d.n, 1), &tensors)?;
    plan.note_multiply_adds(2 * d.n * d.i * d.c);
    Ok(())
}

/// Records what is summed over rows: the gradients dw `[I, C]` and db `[C]` of the last layer, and the batch's totals, after which the
/// batch counts as done.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_w(
    plan: &mut PlanBuilder,
    d: &HeadDims,
    rows: &HeadRows,
    [dw, db]: [&Tensor; 2],
    totals: &BatchTotals<'_>,
) -> Result<(), GpuError> {
    let BatchTotals { progress, batch_loss, batch_correct } = *totals;
    let gradients = [(&rows.whole, HeadRows::len(d)), (dw, d.i * d.c), (db, d.c)];
    let totals = [(progress, 2), (batch_loss, batch_correct.len()), (batch_correct, batch_loss.len())];
    let workgroups = workgroups_linear(((d.i + 1) * d.c).div_ceil(SUMS) + 1, 1);
    push(plan, &BACKWARD_W, &constants_of(d), workgroups, &[gradients, totals].concat())?;
    plan.note_multiply_adds(d.n * d.i * d.c);
    Ok(())
}
