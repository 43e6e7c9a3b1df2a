//! Max, average and sum pooling: kernels in `shaders/pool2d.wgsl`, mirror in [`crate::cpu::pool2d`].

use super::{Shader, push};
use crate::gpu::{Binding, Constant, GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::conv2d::Padding;
pub use crate::cpu::pool2d::{Pool2dDims, Reduction};

const SHADER: Shader = Shader { op: "pool2d", source: shader_text!("pool2d.wgsl") };

const MAX_FORWARD_BINDINGS: &[Binding] = &[read(0, "x"), write(1, "y"), write(2, "argmax_out")];
const MAX_BACKWARD_X_BINDINGS: &[Binding] = &[read(3, "argmax"), read(4, "dy"), write(5, "dx")];
const MEAN_FORWARD_BINDINGS: &[Binding] = &[read(0, "x"), write(1, "y")];
const MEAN_BACKWARD_X_BINDINGS: &[Binding] = &[read(4, "dy"), write(5, "dx")];

/// Max pooling, with the position of each maximum.
pub static MAX_FORWARD: KernelSpec = SHADER.kernel("pool2d_max_forward", MAX_FORWARD_BINDINGS);

/// The gradient of max pooling.
pub static MAX_BACKWARD_X: KernelSpec = SHADER.kernel("pool2d_max_backward_x", MAX_BACKWARD_X_BINDINGS);

/// As [`MAX_FORWARD`], four channels per invocation.
pub static MAX_FORWARD_BY_4: KernelSpec = SHADER.kernel("pool2d_max_forward_by_4", MAX_FORWARD_BINDINGS);

/// As [`MAX_BACKWARD_X`], four channels per invocation, for windows that do not overlap.
pub static MAX_BACKWARD_X_BY_4: KernelSpec = SHADER.kernel("pool2d_max_backward_x_by_4", MAX_BACKWARD_X_BINDINGS);

/// Average pooling.
pub static AVERAGE_FORWARD: KernelSpec = SHADER.kernel("pool2d_average_forward", MEAN_FORWARD_BINDINGS);

/// The gradient of average pooling.
pub static AVERAGE_BACKWARD_X: KernelSpec = SHADER.kernel("pool2d_average_backward_x", MEAN_BACKWARD_X_BINDINGS);

/// Sum pooling.
pub static SUM_FORWARD: KernelSpec = SHADER.kernel("pool2d_sum_forward", MEAN_FORWARD_BINDINGS);

/// The gradient of sum pooling.
pub static SUM_BACKWARD_X: KernelSpec = SHADER.kernel("pool2d_sum_backward_x", MEAN_BACKWARD_X_BINDINGS);

/// Whether max pooling uses its form for four channels at once, forward and backward.
pub(crate) fn by_4(d: &Pool2dDims) -> [bool; 2] {
    let fours = d.c.is_multiple_of(4);
    let separate = d.kh <= d.stride_h && d.kw <= d.stride_w;
    [fours && !are_cut_short(d.kh, d.kw), fours && separate && !are_cut_short(d.h, d.w)]
}

/// Whether lavapipe would silently end the two loops of an invocation over so many rows and columns: it does after 65,535 iterations in
/// total, including the last one of each loop, which only finds that its condition is false.
fn are_cut_short(rows: usize, columns: usize) -> bool {
    rows.saturating_mul(columns.saturating_add(2)) >= 65_535
}

/// Rejects windows whose cells inside the image are too many for the loops of an invocation. Those of a gradient are over the windows that
/// contain a cell, which are no more.
fn check_window(spec: &KernelSpec, d: &Pool2dDims) -> Result<(), GpuError> {
    let [rows, columns] = [d.kh.min(d.h), d.kw.min(d.w)];
    if !are_cut_short(rows, columns) {
        return Ok(());
    }
    let message =
        format!("a window of {rows}x{columns} cells has more than a kernel can read; use smaller windows or images");
    Err(GpuError::Record { entry: spec.entry, message })
}

/// Returns the maximum number of cells along one axis that one window writes, and whether all windows write that many.
///
/// Windows that do not overlap divide the axis between them: each takes its stride, the first one starting at one edge
/// of the image and the last one ending at the other edge.
fn cells(outputs: usize, stride: usize, padding: usize, size: usize) -> (usize, bool) {
    let first = |i: usize| if i == 0 { 0 } else { i * stride - padding };
    let count = |i: usize| if i + 1 == outputs { size - first(i) } else { first(i + 1) - first(i) };
    let largest = (0..outputs).map(count).max().unwrap_or(0);
    (largest, (0..outputs).all(|i| count(i) == largest))
}

fn constants(d: &Pool2dDims, more: &[Constant]) -> Vec<Constant> {
    let input = [("N", d.n), ("H", d.h), ("W", d.w), ("C", d.c)];
    let window = [("KH", d.kh), ("KW", d.kw), ("SH", d.stride_h), ("SW", d.stride_w)];
    let output = [("PT", d.pad_top), ("PL", d.pad_left), ("HO", d.ho), ("WO", d.wo)];
    super::constants(&[input, window, output].concat(), more)
}

/// Records max pooling. Shapes: x `[N, H, W, C]`, y and argmax `[N, HO, WO, C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a window has too many cells.
pub fn record_max_forward(
    plan: &mut PlanBuilder,
    d: &Pool2dDims,
    [x, y, argmax]: [&Tensor; 3],
) -> Result<(), GpuError> {
    let (spec, channels) = if by_4(d)[0] { (&MAX_FORWARD_BY_4, 4) } else { (&MAX_FORWARD, 1) };
    check_window(spec, d)?;
    let tensors = [(x, d.x_len()), (y, d.y_len()), (argmax, d.y_len())];
    push(plan, spec, &constants(d, &[]), workgroups_linear(d.y_len() / channels, 64), &tensors)
}

/// Records the gradient of max pooling. Shapes: argmax and dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a window has too many cells.
pub fn record_max_backward_x(
    plan: &mut PlanBuilder,
    d: &Pool2dDims,
    [argmax, dy, dx]: [&Tensor; 3],
) -> Result<(), GpuError> {
    let tensors = [(argmax, d.y_len()), (dy, d.y_len()), (dx, d.x_len())];
    if !by_4(d)[1] {
        check_window(&MAX_BACKWARD_X, d)?;
        return push(plan, &MAX_BACKWARD_X, &constants(d, &[]), workgroups_linear(d.x_len(), 64), &tensors);
    }
    let (rows, equal_rows) = cells(d.ho, d.stride_h, d.pad_top, d.h);
    let (columns, equal_columns) = cells(d.wo, d.stride_w, d.pad_left, d.w);
    let all_equal = ("ALL_CELLS_EQUAL", f64::from(equal_rows && equal_columns));
    let constants = constants(d, &[("CELL_ROWS", rows as f64), ("CELL_COLUMNS", columns as f64), all_equal]);
    push(plan, &MAX_BACKWARD_X_BY_4, &constants, workgroups_linear(d.y_len() / 4, 64), &tensors)
}

/// Records average or sum pooling. Shapes: x `[N, H, W, C]`, y `[N, HO, WO, C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a window has too many cells.
pub fn record_mean_forward(
    plan: &mut PlanBuilder,
    reduction: Reduction,
    d: &Pool2dDims,
    [x, y]: [&Tensor; 2],
) -> Result<(), GpuError> {
    let spec = match reduction {
        Reduction::Average => &AVERAGE_FORWARD,
        Reduction::Sum => &SUM_FORWARD,
    };
    check_window(spec, d)?;
    push(plan, spec, &constants(d, &[]), workgroups_linear(d.y_len(), 64), &[(x, d.x_len()), (y, d.y_len())])
}

/// Records the gradient of average or sum pooling. Shapes: dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a window has too many cells.
pub fn record_mean_backward_x(
    plan: &mut PlanBuilder,
    reduction: Reduction,
    d: &Pool2dDims,
    [dy, dx]: [&Tensor; 2],
) -> Result<(), GpuError> {
    let spec = match reduction {
        Reduction::Average => &AVERAGE_BACKWARD_X,
        Reduction::Sum => &SUM_BACKWARD_X,
    };
    check_window(spec, d)?;
    push(plan, spec, &constants(d, &[]), workgroups_linear(d.x_len(), 64), &[(dy, d.y_len()), (dx, d.x_len())])
}
