//! Max, average and sum pooling: kernels in `shaders/pool2d.wgsl`, mirror in [`crate::cpu::pool2d`].

use crate::gpu::{Constant, GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

pub use crate::cpu::conv2d::Padding;
pub use crate::cpu::pool2d::{Pool2dDims, Reduction};

const SOURCE: &str = include_str!("../../shaders/pool2d.wgsl");

/// Max pooling, with the position of each maximum.
pub static MAX_FORWARD: KernelSpec = KernelSpec {
    op: "pool2d",
    entry: "pool2d_max_forward",
    source: SOURCE,
    bindings: &[read(0, "x"), write(1, "y"), write(2, "argmax_out")],
};

/// The gradient of max pooling.
pub static MAX_BACKWARD_X: KernelSpec = KernelSpec {
    op: "pool2d",
    entry: "pool2d_max_backward_x",
    source: SOURCE,
    bindings: &[read(3, "argmax"), read(4, "dy"), write(5, "dx")],
};

/// As [`MAX_FORWARD`], four channels per invocation.
pub static MAX_FORWARD_BY_4: KernelSpec = KernelSpec {
    op: "pool2d",
    entry: "pool2d_max_forward_by_4",
    source: SOURCE,
    bindings: &[read(0, "x"), write(1, "y"), write(2, "argmax_out")],
};

/// As [`MAX_BACKWARD_X`], four channels per invocation, for windows that do not overlap.
pub static MAX_BACKWARD_X_BY_4: KernelSpec = KernelSpec {
    op: "pool2d",
    entry: "pool2d_max_backward_x_by_4",
    source: SOURCE,
    bindings: &[read(3, "argmax"), read(4, "dy"), write(5, "dx")],
};

/// Average pooling.
pub static AVERAGE_FORWARD: KernelSpec = KernelSpec {
    op: "pool2d",
    entry: "pool2d_average_forward",
    source: SOURCE,
    bindings: &[read(0, "x"), write(1, "y")],
};

/// The gradient of average pooling.
pub static AVERAGE_BACKWARD_X: KernelSpec = KernelSpec {
    op: "pool2d",
    entry: "pool2d_average_backward_x",
    source: SOURCE,
    bindings: &[read(4, "dy"), write(5, "dx")],
};

/// Sum pooling.
pub static SUM_FORWARD: KernelSpec =
    KernelSpec { op: "pool2d", entry: "pool2d_sum_forward", source: SOURCE, bindings: &[read(0, "x"), write(1, "y")] };

/// The gradient of sum pooling.
pub static SUM_BACKWARD_X: KernelSpec = KernelSpec {
    op: "pool2d",
    entry: "pool2d_sum_backward_x",
    source: SOURCE,
    bindings: &[read(4, "dy"), write(5, "dx")],
};

/// Whether max pooling uses its form for four channels at once, forward and backward.
pub(crate) fn by_4(d: &Pool2dDims) -> [bool; 2] {
    let fours = d.c.is_multiple_of(4);
    [fours, fours && d.kh <= d.stride_h && d.kw <= d.stride_w]
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

fn constants(d: &Pool2dDims) -> Vec<Constant> {
    [
        ("N", d.n),
        ("H", d.h),
        ("W", d.w),
        ("C", d.c),
        ("KH", d.kh),
        ("KW", d.kw),
        ("SH", d.stride_h),
        ("SW", d.stride_w),
        ("PT", d.pad_top),
        ("PL", d.pad_left),
        ("HO", d.ho),
        ("WO", d.wo),
    ]
    .map(|(name, value)| (name, value as f64))
    .to_vec()
}

pub(crate) fn x_len(d: &Pool2dDims) -> usize {
    d.n * d.h * d.w * d.c
}

pub(crate) fn y_len(d: &Pool2dDims) -> usize {
    d.n * d.ho * d.wo * d.c
}

/// Records max pooling. Shapes: x `[N, H, W, C]`, y and argmax `[N, HO, WO, C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_max_forward(
    plan: &mut PlanBuilder<'_>,
    d: &Pool2dDims,
    x: &Tensor,
    y: &Tensor,
    argmax: &Tensor,
) -> Result<(), GpuError> {
    let (spec, channels) = if by_4(d)[0] { (&MAX_FORWARD_BY_4, 4) } else { (&MAX_FORWARD, 1) };
    plan.push(
        spec,
        &constants(d),
        workgroups_linear(y_len(d) / channels, 64),
        &[bind("x", x, x_len(d)), bind("y", y, y_len(d)), bind("argmax_out", argmax, y_len(d))],
    )
}

/// Records the gradient of max pooling. Shapes: argmax and dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_max_backward_x(
    plan: &mut PlanBuilder<'_>,
    d: &Pool2dDims,
    argmax: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<(), GpuError> {
    let (spec, invocations) =
        if by_4(d)[1] { (&MAX_BACKWARD_X_BY_4, y_len(d) / 4) } else { (&MAX_BACKWARD_X, x_len(d)) };
    let mut constants = constants(d);
    if by_4(d)[1] {
        let (rows, equal_rows) = cells(d.ho, d.stride_h, d.pad_top, d.h);
        let (columns, equal_columns) = cells(d.wo, d.stride_w, d.pad_left, d.w);
        constants.push(("CELL_ROWS", rows as f64));
        constants.push(("CELL_COLUMNS", columns as f64));
        constants.push(("ALL_CELLS_EQUAL", f64::from(equal_rows && equal_columns)));
    }
    plan.push(
        spec,
        &constants,
        workgroups_linear(invocations, 64),
        &[bind("argmax", argmax, y_len(d)), bind("dy", dy, y_len(d)), bind("dx", dx, x_len(d))],
    )
}

/// Records average or sum pooling. Shapes: x `[N, H, W, C]`, y `[N, HO, WO, C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_mean_forward(
    plan: &mut PlanBuilder<'_>,
    reduction: Reduction,
    d: &Pool2dDims,
    x: &Tensor,
    y: &Tensor,
) -> Result<(), GpuError> {
    let spec = match reduction {
        Reduction::Average => &AVERAGE_FORWARD,
        Reduction::Sum => &SUM_FORWARD,
    };
    let groups = workgroups_linear(y_len(d), 64);
    plan.push(spec, &constants(d), groups, &[bind("x", x, x_len(d)), bind("y", y, y_len(d))])
}

/// Records the gradient of average or sum pooling. Shapes: dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_mean_backward_x(
    plan: &mut PlanBuilder<'_>,
    reduction: Reduction,
    d: &Pool2dDims,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<(), GpuError> {
    let spec = match reduction {
        Reduction::Average => &AVERAGE_BACKWARD_X,
        Reduction::Sum => &SUM_BACKWARD_X,
    };
    let groups = workgroups_linear(x_len(d), 64);
    plan.push(spec, &constants(d), groups, &[bind("dy", dy, y_len(d)), bind("dx", dx, x_len(d))])
}
