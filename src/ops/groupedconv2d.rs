//! Grouped convolution with bias: kernels in `shaders/groupedconv2d.wgsl`, mirror in [`crate::cpu::groupedconv2d`].

use super::{Shader, push};
use crate::gpu::{Binding, Constant, GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};
use crate::text::count;

pub use crate::cpu::conv2d::Padding;
pub use crate::cpu::groupedconv2d::GroupedConv2dDims;

const SHADER: Shader = Shader { op: "groupedconv2d", source: shader_text!("groupedconv2d.wgsl") };

const FORWARD_BINDINGS: &[Binding] = &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")];
const BACKWARD_X_BINDINGS: &[Binding] = &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")];
const BACKWARD_W_BINDINGS: &[Binding] = &[read(0, "x"), read(4, "dy"), write(6, "dw_parts")];

/// `y = conv(x, w) + b`, one output per invocation.
pub static FORWARD: KernelSpec = SHADER.kernel("groupedconv2d_forward", FORWARD_BINDINGS);

/// As [`FORWARD`], for depthwise convolutions, four channels per invocation.
pub static FORWARD_BY_4: KernelSpec = SHADER.kernel("groupedconv2d_forward_by_4", FORWARD_BINDINGS);

/// The gradient of the input, one output per invocation.
pub static BACKWARD_X: KernelSpec = SHADER.kernel("groupedconv2d_backward_x", BACKWARD_X_BINDINGS);

/// As [`BACKWARD_X`], for depthwise convolutions, four channels per invocation.
pub static BACKWARD_X_BY_4: KernelSpec = SHADER.kernel("groupedconv2d_backward_x_by_4", BACKWARD_X_BINDINGS);

/// Partial sums of the gradients of filter and bias, one output per invocation.
pub static BACKWARD_W: KernelSpec = SHADER.kernel("groupedconv2d_backward_w", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W`], for depthwise convolutions, four channels per invocation.
pub static BACKWARD_W_BY_4: KernelSpec = SHADER.kernel("groupedconv2d_backward_w_by_4", BACKWARD_W_BINDINGS);

/// Adds up the partial sums.
pub static BACKWARD_W_SUM: KernelSpec =
    SHADER.kernel("groupedconv2d_backward_w_sum", &[read(7, "parts"), write(8, "dw"), write(9, "db")]);

/// The largest number of columns of the output, and of iterations of an invocation that sums the filter's gradient.
///
/// lavapipe silently ends the loops of an invocation after 65,535 iterations in total, including the last one of each loop,
/// which only finds that its condition is false.
const MOST_COLUMNS: usize = 65_000;

/// Returns the number of channels that an invocation computes: four at once in depthwise convolutions, if their number is
/// a multiple of four.
fn channels_each(d: &GroupedConv2dDims) -> usize {
    if d.of_group() == [1, 1] && d.conv.c.is_multiple_of(4) { 4 } else { 1 }
}

/// Returns the kernel for these dimensions, out of those for any and for depthwise convolutions.
fn pick(d: &GroupedConv2dDims, kernels: [&'static KernelSpec; 2]) -> &'static KernelSpec {
    kernels[usize::from(channels_each(d) == 4)]
}

/// Returns the kernel for the forward pass.
pub(crate) fn forward_kernel(d: &GroupedConv2dDims) -> &'static KernelSpec {
    pick(d, [&FORWARD, &FORWARD_BY_4])
}

/// Returns the kernel for the input's gradient.
pub(crate) fn backward_x_kernel(d: &GroupedConv2dDims) -> &'static KernelSpec {
    pick(d, [&BACKWARD_X, &BACKWARD_X_BY_4])
}

/// Returns the kernel for the filter's gradient.
pub(crate) fn backward_w_kernel(d: &GroupedConv2dDims) -> &'static KernelSpec {
    pick(d, [&BACKWARD_W, &BACKWARD_W_BY_4])
}

fn constants(d: &GroupedConv2dDims, more: &[Constant]) -> Vec<Constant> {
    let ([c_each, o_each], conv) = (d.of_group(), &d.conv);
    let input = [("N", conv.n), ("H", conv.h), ("W", conv.w), ("C", conv.c), ("CG", c_each)];
    let filter = [("KH", conv.kh), ("KW", conv.kw), ("O", conv.o), ("OG", o_each)];
    let window = [("SH", conv.stride_h), ("SW", conv.stride_w), ("PT", conv.pad_top), ("PL", conv.pad_left)];
    let output = [("HO", conv.ho), ("WO", conv.wo)];
    super::constants(&[&input[..], &filter, &window, &output].concat(), more)
}

/// Returns the number of multiply-adds of each of the three passes.
fn multiply_adds(d: &GroupedConv2dDims) -> usize {
    d.conv.y_len() * d.terms()
}

/// Records `y = conv(x, w) + b`, followed by `max(y, 0)` if `relu`.
///
/// Shapes: x `[N, H, W, C]`, w `[KH, KW, C/groups, O]`, b `[O]`, y `[N, HO, WO, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_forward(
    plan: &mut PlanBuilder,
    d: &GroupedConv2dDims,
    relu: bool,
    [x, w, b, y]: [&Tensor; 4],
) -> Result<(), GpuError> {
    let tensors = [(x, d.conv.x_len()), (w, d.w_len()), (b, d.conv.o), (y, d.conv.y_len())];
    let workgroups = workgroups_linear(d.conv.y_len() / channels_each(d), 64);
    push(plan, forward_kernel(d), &constants(d, &[("RELU", f64::from(relu))]), workgroups, &tensors)?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// Records the gradient of the input. If `x_is_relu`, dx is zero where x is, which is the backward pass of the ReLU
/// before it.
///
/// Shapes: x and dx `[N, H, W, C]`, w `[KH, KW, C/groups, O]`, dy `[N, HO, WO, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_x(
    plan: &mut PlanBuilder,
    d: &GroupedConv2dDims,
    x_is_relu: bool,
    [x, w, dy, dx]: [&Tensor; 4],
) -> Result<(), GpuError> {
    let tensors = [(x, d.conv.x_len()), (w, d.w_len()), (dy, d.conv.y_len()), (dx, d.conv.x_len())];
    let workgroups = workgroups_linear(d.conv.x_len() / channels_each(d), 64);
    push(plan, backward_x_kernel(d), &constants(d, &[("X_IS_RELU", f64::from(x_is_relu))]), workgroups, &tensors)?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// Returns the number of rows of the output, of all images, that are summed in one part of the filter's gradient.
///
/// A filter has few cells, so its gradient alone would keep few cores busy. The number depends only on the shapes, so
/// results are reproducible.
fn rows_per_part(d: &GroupedConv2dDims) -> usize {
    // As many invocations as a large GPU keeps in flight, but not many more parts than an invocation of the last kernel
    // can add up in the time that a part takes.
    const INVOCATIONS: usize = 1 << 17;
    const PARTS: usize = 256;
    let per_part = (d.terms() + 1) * d.conv.o / channels_each(d);
    let parts = (INVOCATIONS / per_part).clamp(1, PARTS);
    let longest = MOST_COLUMNS / (d.conv.wo + 2);
    (d.conv.n * d.conv.ho).div_ceil(parts).min(longest).max(1)
}

/// Records the gradients of filter and bias: partial sums over groups of rows, then their sum.
///
/// Shapes: x `[N, H, W, C]`, dy `[N, HO, WO, O]`, dw `[KH, KW, C/groups, O]`, db `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a row of the output has more columns than the kernel can sum.
pub fn record_backward_w(
    plan: &mut PlanBuilder,
    d: &GroupedConv2dDims,
    [x, dy, dw, db]: [&Tensor; 4],
) -> Result<(), GpuError> {
    let (spec, o) = (backward_w_kernel(d), d.conv.o);
    if d.conv.wo > MOST_COLUMNS {
        let columns = count(d.conv.wo, "column");
        let message =
            format!("a row of {columns} is too long, the kernel sums at most {MOST_COLUMNS}; use smaller images");
        return Err(GpuError::Record { entry: spec.entry, message });
    }
    let rows = rows_per_part(d);
    let n_parts = (d.conv.n * d.conv.ho).div_ceil(rows);
    let parts = plan.scratch("dw_parts", &[n_parts, d.terms() + 1, o])?;
    let tensors = [(x, d.conv.x_len()), (dy, d.conv.y_len()), (&parts, parts.len())];
    let workgroups = workgroups_linear(parts.len() / channels_each(d), 64);
    push(plan, spec, &constants(d, &[("ROWS_PER_PART", rows as f64)]), workgroups, &tensors)?;
    plan.note_multiply_adds(multiply_adds(d));
    let tensors = [(&parts, parts.len()), (dw, d.w_len()), (db, o)];
    let constants = constants(d, &[("PARTS", n_parts as f64)]);
    push(plan, &BACKWARD_W_SUM, &constants, workgroups_linear(d.w_len() + o, 64), &tensors)
}

#[cfg(test)]
mod tests {
    use super::{GroupedConv2dDims, MOST_COLUMNS, Padding, rows_per_part};

    #[test]
    fn no_part_has_more_iterations_than_lavapipe_allows() {
        for (n, side, c, o, groups) in [
            (1, 1, 1, 1, 1),
            (500, 28, 64, 64, 64),
            (10_000, 28, 64, 64, 8),
            (2, 3000, 32, 32, 2),
            (30, 700, 256, 256, 1),
        ] {
            let d = GroupedConv2dDims::new(n, [side, side, c], [3, 3], o, [1, 1], Padding::Same, groups);
            let (rows, all) = (rows_per_part(&d.expect("the shapes above are valid")), n * side);
            assert!(rows >= 1 && rows * (side + 2) <= MOST_COLUMNS, "{rows} rows of {side}");
            assert!(rows <= all && all.div_ceil(rows) <= MOST_COLUMNS, "{rows} of {all} rows");
        }
    }
}
