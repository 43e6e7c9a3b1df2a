//! Convolution with bias: kernels in `shaders/conv2d.wgsl`, `conv2d_shared.wgsl`, `conv2d_shared_by_4.wgsl` and
//! `conv2d_subgroup.wgsl`, mirror in [`crate::cpu::conv2d`].

use super::conv2d_split::{dw_rows, split_w, split_x_and_w};
use super::{Form, Shader, SharedTiles, push};
use crate::cpu::pool2d::Pool2dDims;
use crate::gpu::{Binding, Constant, Element, GpuError, KernelSpec, PlanBuilder, Tensor};
use crate::gpu::{read, workgroups_linear, write};

pub use super::conv2d_split::parts;
pub use crate::cpu::conv2d::{Conv2dDims, Padding};

const PLAIN: Shader = Shader { op: "conv2d", source: shader_text!("conv2d.wgsl") };
const SHARED: Shader =
    Shader { op: "conv2d", source: concat!(shader_text!("conv2d_shared.wgsl"), shader_text!("parts/tiles.wgsl")) };
const SHARED_BY_4: Shader = Shader {
    op: "conv2d",
    source: concat!(
        shader_text!("conv2d_shared_by_4.wgsl"),
        shader_text!("parts/tiles.wgsl"),
        shader_text!("parts/blocks.wgsl")
    ),
};
const SUBGROUP: Shader = Shader { op: "conv2d", source: shader_text!("conv2d_subgroup.wgsl") };

/// Rows of outputs per lane in the subgroup tiles of a workgroup: positions for y and dx, filter cells for dw.
const POSITIONS_PER_LANE: usize = 4;
pub(super) const CELLS_PER_LANE: usize = 8;

/// Filter cells that [`BACKWARD_W_SHARED_SMALL`] has sums for: `MOST_CELLS` in the shader.
const MOST_CELLS: usize = 27;

const FORWARD_BINDINGS: &[Binding] = &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")];
const FORWARD_POOL_BINDINGS: &[Binding] =
    &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y"), write(8, "argmax_out")];
const BACKWARD_X_BINDINGS: &[Binding] = &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")];
const BACKWARD_W_BINDINGS: &[Binding] = &[read(0, "x"), read(4, "dy"), write(6, "dw_parts")];
const BACKWARD_W_POOL_BINDINGS: &[Binding] = &[read(0, "x"), read(4, "dy"), write(6, "dw_parts"), read(7, "argmax")];
const BACKWARD_X_POOL_BINDINGS: &[Binding] =
    &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx"), read(7, "argmax")];
const BACKWARD_X_AND_W_BINDINGS: &[Binding] =
    &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx"), write(6, "dw_parts"), read(7, "argmax")];

/// `y = conv(x, w) + b`, one output per invocation.
pub static FORWARD: KernelSpec = PLAIN.kernel("conv2d_forward", FORWARD_BINDINGS);

/// As [`FORWARD`], eight by four outputs per invocation.
pub static FORWARD_BY_4: KernelSpec = PLAIN.kernel("conv2d_forward_by_4", FORWARD_BINDINGS);

/// As [`FORWARD`], in subgroup tiles.
pub static FORWARD_SUBGROUP: KernelSpec = SUBGROUP.kernel("conv2d_forward_subgroup", FORWARD_BINDINGS);

/// As [`FORWARD_SUBGROUP`], for any number of input channels.
pub static FORWARD_SUBGROUP_ANY: KernelSpec = SUBGROUP.kernel("conv2d_forward_subgroup_any", FORWARD_BINDINGS);

/// As [`FORWARD_SUBGROUP`], followed by max pooling.
pub static FORWARD_SUBGROUP_POOL: KernelSpec = SUBGROUP.kernel("conv2d_forward_subgroup_pool", FORWARD_POOL_BINDINGS);

/// As [`FORWARD_SUBGROUP_ANY`], followed by max pooling.
pub static FORWARD_SUBGROUP_ANY_POOL: KernelSpec =
    SUBGROUP.kernel("conv2d_forward_subgroup_any_pool", FORWARD_POOL_BINDINGS);

/// As [`FORWARD`], in shared-memory tiles.
pub static FORWARD_SHARED: KernelSpec = SHARED.kernel("conv2d_forward_shared", FORWARD_BINDINGS);

/// As [`FORWARD_SHARED`], followed by max pooling.
pub static FORWARD_SHARED_POOL: KernelSpec = SHARED.kernel("conv2d_forward_shared_pool", FORWARD_POOL_BINDINGS);

/// As [`FORWARD_SHARED`], four values per load.
pub static FORWARD_SHARED_BY_4: KernelSpec = SHARED_BY_4.kernel("conv2d_forward_shared_by_4", FORWARD_BINDINGS);

/// As [`FORWARD_SHARED_BY_4`], followed by max pooling.
pub static FORWARD_SHARED_BY_4_POOL: KernelSpec =
    SHARED_BY_4.kernel("conv2d_forward_shared_by_4_pool", FORWARD_POOL_BINDINGS);

/// The gradient of the input, one output per invocation.
pub static BACKWARD_X: KernelSpec = PLAIN.kernel("conv2d_backward_x", BACKWARD_X_BINDINGS);

/// As [`BACKWARD_X`], four by four outputs per invocation.
pub static BACKWARD_X_BY_4: KernelSpec = PLAIN.kernel("conv2d_backward_x_by_4", BACKWARD_X_BINDINGS);

/// As [`BACKWARD_X`], in subgroup tiles.
pub static BACKWARD_X_SUBGROUP: KernelSpec = SUBGROUP.kernel("conv2d_backward_x_subgroup", BACKWARD_X_BINDINGS);

/// As [`BACKWARD_X`], in shared-memory tiles.
pub static BACKWARD_X_SHARED: KernelSpec = SHARED.kernel("conv2d_backward_x_shared", BACKWARD_X_POOL_BINDINGS);

/// As [`BACKWARD_X_SHARED`], four values per load.
pub static BACKWARD_X_SHARED_BY_4: KernelSpec =
    SHARED_BY_4.kernel("conv2d_backward_x_shared_by_4", BACKWARD_X_POOL_BINDINGS);

/// Partial sums of the gradients of filter and bias, one output per invocation.
pub static BACKWARD_W: KernelSpec = PLAIN.kernel("conv2d_backward_w", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W`], four by four outputs per invocation.
pub static BACKWARD_W_BY_4: KernelSpec = PLAIN.kernel("conv2d_backward_w_by_4", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W`], in subgroup tiles.
pub static BACKWARD_W_SUBGROUP: KernelSpec = SUBGROUP.kernel("conv2d_backward_w_subgroup", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W_SUBGROUP`], for any number of input channels.
pub static BACKWARD_W_SUBGROUP_ANY: KernelSpec = SUBGROUP.kernel("conv2d_backward_w_subgroup_any", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W_SUBGROUP_ANY`], taking the gradient after a max pooling.
pub static BACKWARD_W_SUBGROUP_ANY_POOL: KernelSpec =
    SUBGROUP.kernel("conv2d_backward_w_subgroup_any_pool", BACKWARD_W_POOL_BINDINGS);

/// As [`BACKWARD_W`], in shared-memory tiles.
pub static BACKWARD_W_SHARED: KernelSpec = SHARED.kernel("conv2d_backward_w_shared", BACKWARD_W_POOL_BINDINGS);

/// As [`BACKWARD_W_SHARED`], four values per load.
pub static BACKWARD_W_SHARED_BY_4: KernelSpec =
    SHARED_BY_4.kernel("conv2d_backward_w_shared_by_4", BACKWARD_W_POOL_BINDINGS);

/// As [`BACKWARD_W_SHARED`], for filters with few cells ([`is_small`]), summed in registers.
pub static BACKWARD_W_SHARED_SMALL: KernelSpec =
    SHARED.kernel("conv2d_backward_w_shared_small", BACKWARD_W_POOL_BINDINGS);

/// [`BACKWARD_X_SHARED`] and [`BACKWARD_W_SHARED`] in one dispatch.
pub static BACKWARD_X_AND_W_SHARED: KernelSpec =
    SHARED.kernel("conv2d_backward_x_and_w_shared", BACKWARD_X_AND_W_BINDINGS);

/// As [`BACKWARD_X_AND_W_SHARED`], four values per load.
pub static BACKWARD_X_AND_W_SHARED_BY_4: KernelSpec =
    SHARED_BY_4.kernel("conv2d_backward_x_and_w_shared_by_4", BACKWARD_X_AND_W_BINDINGS);

/// Adds up the partial sums.
pub static BACKWARD_W_SUM: KernelSpec =
    PLAIN.kernel("conv2d_backward_w_sum", &[read(7, "parts"), write(8, "dw"), write(9, "db")]);

fn constants(d: &Conv2dDims, more: &[Constant]) -> Vec<Constant> {
    let input = [("N", d.n), ("H", d.h), ("W", d.w), ("C", d.c)];
    let filter = [("KH", d.kh), ("KW", d.kw), ("O", d.o), ("SH", d.stride_h), ("SW", d.stride_w)];
    let output = [("PT", d.pad_top), ("PL", d.pad_left), ("HO", d.ho), ("WO", d.wo)];
    super::constants(&[&input[..], &filter, &output].concat(), more)
}

/// Returns the number of multiply-adds of each of the three passes.
fn multiply_adds(d: &Conv2dDims) -> usize {
    d.n * d.ho * d.wo * d.o * d.kh * d.kw * d.c
}

/// Whether the plain form computes eight by four outputs per invocation.
fn forward_by_4(d: &Conv2dDims) -> bool {
    d.o.is_multiple_of(4)
}

/// Whether the plain form computes four by four gradients per invocation.
pub(super) fn by_4(d: &Conv2dDims) -> bool {
    d.c.is_multiple_of(4) && d.o.is_multiple_of(4)
}

/// Whether the form loads four values at a time.
fn loads_by_4(form: Form, d: &Conv2dDims) -> bool {
    form.loads_by_4(&[d.c, d.o])
}

/// Returns the workgroups for a product of `rows` x `columns` whose rows are positions. If the plain form computes four columns per invocation, it
/// does so of `rows_by_4` rows.
fn workgroups(form: Form, rows: usize, columns: usize, rows_by_4: Option<usize>) -> [u32; 3] {
    match (form, rows_by_4) {
        (Form::Plain, Some(rows_each)) => workgroups_linear(rows.div_ceil(rows_each) * (columns / 4), 64),
        _ => form.workgroups(rows, columns, POSITIONS_PER_LANE),
    }
}

/// Returns the kernel for the forward pass, with or without a max pooling after it; there is no plain one with it.
pub(crate) fn forward_kernel(form: Form, d: &Conv2dDims, pooled: bool) -> &'static KernelSpec {
    let subgroup = match (d.c.is_multiple_of(4), pooled) {
        (true, false) => &FORWARD_SUBGROUP,
        (true, true) => &FORWARD_SUBGROUP_POOL,
        (false, false) => &FORWARD_SUBGROUP_ANY,
        (false, true) => &FORWARD_SUBGROUP_ANY_POOL,
    };
    let shared = match (loads_by_4(form, d), pooled) {
        (false, false) => &FORWARD_SHARED,
        (false, true) => &FORWARD_SHARED_POOL,
        (true, false) => &FORWARD_SHARED_BY_4,
        (true, true) => &FORWARD_SHARED_BY_4_POOL,
    };
    let plain = if forward_by_4(d) { &FORWARD_BY_4 } else { &FORWARD };
    form.pick([if pooled { subgroup } else { plain }, subgroup, shared])
}

/// Records `y = conv(x, w) + b`, followed by `max(y, 0)` if `relu`; with `argmax`, followed by a max pooling in 2x2
/// windows with stride 2, if [`pools`] returns true.
///
/// Shapes: x `[N, H, W, C]`, w `[KH, KW, C, O]`, b `[O]`, y `[N, HO, WO, O]`; with `argmax`, y and argmax `[N, HO/2,
/// WO/2, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the outputs cannot be pooled.
pub fn record_forward(
    plan: &mut PlanBuilder,
    form: Form,
    d: &Conv2dDims,
    relu: bool,
    [x, w, b, y]: [&Tensor; 4],
    argmax: Option<&Tensor>,
) -> Result<(), GpuError> {
    let spec = forward_kernel(form, d, argmax.is_some());
    form.check(spec, &[d.o])?;
    if argmax.is_some() && (form == Form::Plain || !d.ho.is_multiple_of(2) || !d.wo.is_multiple_of(2)) {
        let message = format!("{form:?} tiles of {}x{} outputs cannot be pooled in 2x2 windows", d.ho, d.wo);
        return Err(GpuError::Record { entry: spec.entry, message });
    }
    let y_len = if argmax.is_some() { d.y_len() / 4 } else { d.y_len() };
    let mut tensors = vec![(x, d.x_len()), (w, d.w_len()), (b, d.o), (y, y_len)];
    tensors.extend(argmax.map(|argmax| (argmax, y_len)));
    let constants = form.constants(constants(d, &[("RELU", f64::from(relu))]), d.o);
    let workgroups = workgroups(form, d.n * d.ho * d.wo, d.o, forward_by_4(d).then_some(8));
    push(plan, spec, &constants, workgroups, &tensors)?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// Returns the max pooling in 2x2 windows with stride 2 that cover exactly the outputs of this convolution, if they can.
pub(crate) fn halving(d: &Conv2dDims) -> Option<Pool2dDims> {
    let halves = Pool2dDims::new(d.n, [d.ho, d.wo, d.o], [2, 2], [2, 2], Padding::Valid).ok();
    halves.filter(|_| d.ho.is_multiple_of(2) && d.wo.is_multiple_of(2))
}

/// Whether [`record_forward`] can compute this convolution and the max pooling after it in one dispatch: 2x2 windows
/// with stride 2 that cover the image exactly, in tiles.
pub fn pools(form: Form, d: &Conv2dDims, pool: &Pool2dDims) -> bool {
    form != Form::Plain && halving(d) == Some(*pool)
}

/// Whether the backward pass can use the gradient after the max pooling that follows this convolution, with its argmax,
/// so that the pooling needs no backward pass: always in workgroup memory; in subgroup tiles if only the filter's
/// gradient is needed and the input has few channels.
pub fn unpools(form: Form, d: &Conv2dDims, needs_dx: bool, pool: &Pool2dDims) -> bool {
    let takes = match form {
        Form::Plain => false,
        Form::Subgroup(_) => !needs_dx && !d.c.is_multiple_of(4),
        Form::Shared(_) => true,
    };
    takes && halving(d) == Some(*pool)
}

/// Returns the number of elements of dy, and what `spec` binds as the argmax, with its number of elements.
fn upstream(
    plan: &PlanBuilder,
    spec: &KernelSpec,
    d: &Conv2dDims,
    argmax: Option<&Tensor>,
) -> Result<(usize, Option<(Tensor, usize)>), GpuError> {
    let takes_argmax = spec.bindings.iter().any(|binding| binding.name == "argmax");
    let pooled = d.y_len() / 4;
    match argmax {
        Some(argmax) if takes_argmax => Ok((pooled, Some((argmax.clone(), pooled)))),
        Some(_) => {
            let message = "this form does not take the gradient after a max pooling".to_string();
            Err(GpuError::Record { entry: spec.entry, message })
        }
        // Something must be bound, but it is not read: one value, or one load of four.
        None if takes_argmax => Ok((d.y_len(), Some((plan.gpu().tensor("no argmax", &[4], Element::U32)?, 4)))),
        None => Ok((d.y_len(), None)),
    }
}

/// Whether dy is the gradient after a max pooling, which kernels in workgroup memory have as a constant.
fn pooled(form: Form, argmax: Option<&Tensor>) -> Option<Constant> {
    matches!(form, Form::Shared(_)).then_some(("POOLED", f64::from(argmax.is_some())))
}

/// Returns the kernel for the input's gradient.
pub(crate) fn backward_x_kernel(form: Form, d: &Conv2dDims) -> &'static KernelSpec {
    let shared = if loads_by_4(form, d) { &BACKWARD_X_SHARED_BY_4 } else { &BACKWARD_X_SHARED };
    form.pick([if by_4(d) { &BACKWARD_X_BY_4 } else { &BACKWARD_X }, &BACKWARD_X_SUBGROUP, shared])
}

/// Records the gradient of the input. If `x_is_relu`, dx is zero where x is, which is the backward pass of the ReLU
/// before it. With `argmax`, dy is the gradient of the outputs of a 2x2 max pooling after the convolution.
///
/// Shapes: x and dx `[N, H, W, C]`, w `[KH, KW, C, O]`, dy `[N, HO, WO, O]`; with `argmax`, dy and argmax `[N, HO/2,
/// WO/2, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the form does not take a pooled gradient.
pub fn record_backward_x(
    plan: &mut PlanBuilder,
    form: Form,
    d: &Conv2dDims,
    x_is_relu: bool,
    [x, w, dy, dx]: [&Tensor; 4],
    argmax: Option<&Tensor>,
) -> Result<(), GpuError> {
    let spec = backward_x_kernel(form, d);
    form.check(spec, &[d.c, d.o])?;
    let mut constants = constants(d, &[("X_IS_RELU", f64::from(x_is_relu))]);
    constants.extend(pooled(form, argmax));
    let (dy_len, argmax) = upstream(plan, spec, d, argmax)?;
    let mut tensors = vec![(x, d.x_len()), (w, d.w_len()), (dy, dy_len), (dx, d.x_len())];
    tensors.extend(argmax.iter().map(|(tensor, len)| (tensor, *len)));
    let workgroups = workgroups(form, d.n * d.h * d.w, d.c, by_4(d).then_some(4));
    push(plan, spec, &form.constants(constants, d.c), workgroups, &tensors)?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// Returns the kernel for the filter's gradient, from the gradient after a max pooling if `pooled`.
pub(crate) fn backward_w_kernel(form: Form, d: &Conv2dDims, pooled: bool) -> &'static KernelSpec {
    let subgroup = match (d.c.is_multiple_of(4), pooled) {
        (true, _) => &BACKWARD_W_SUBGROUP,
        (false, false) => &BACKWARD_W_SUBGROUP_ANY,
        (false, true) => &BACKWARD_W_SUBGROUP_ANY_POOL,
    };
    let shared = match (sums_in_registers(form, d), loads_by_4(form, d)) {
        (true, _) => &BACKWARD_W_SHARED_SMALL,
        (false, true) => &BACKWARD_W_SHARED_BY_4,
        (false, false) => &BACKWARD_W_SHARED,
    };
    form.pick([if by_4(d) { &BACKWARD_W_BY_4 } else { &BACKWARD_W }, subgroup, shared])
}

/// Whether an invocation of a GPU can keep a sum for each filter cell in registers: 3x3 filters over up to three channels.
pub fn is_small(d: &Conv2dDims) -> bool {
    d.kh * d.kw * d.c <= MOST_CELLS
}

/// Whether the filter's gradient is summed in registers.
pub(super) fn sums_in_registers(form: Form, d: &Conv2dDims) -> bool {
    matches!(form, Form::Shared(tiles) if tiles.small_filters) && is_small(d)
}

/// Records the gradients of filter and bias: partial sums over groups of images, then their sum.
///
/// Shapes: x `[N, H, W, C]`, dw `[KH, KW, C, O]`, db `[O]`; dy and argmax as in [`record_backward_x`].
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the form does not take a pooled gradient.
pub fn record_backward_w(
    plan: &mut PlanBuilder,
    form: Form,
    d: &Conv2dDims,
    [x, dy, dw, db]: [&Tensor; 4],
    argmax: Option<&Tensor>,
) -> Result<(), GpuError> {
    let parts = plan.scratch("dw_parts", &[split_w(form, d, argmax.is_some()).parts, dw_rows(d), d.o])?;
    record_backward_w_parts(plan, form, d, [x, dy, &parts], argmax)?;
    record_backward_w_sum(plan, d, [&parts, dw, db])
}

/// Records the parts `[parts, KH*KW*C + 1, O]` of the gradients of filter and bias, of which the last row of each is that of the bias.
///
/// # Errors
/// As [`record_backward_w`].
pub fn record_backward_w_parts(
    plan: &mut PlanBuilder,
    form: Form,
    d: &Conv2dDims,
    [x, dy, parts]: [&Tensor; 3],
    argmax: Option<&Tensor>,
) -> Result<(), GpuError> {
    let spec = backward_w_kernel(form, d, argmax.is_some());
    form.check(spec, &[d.o])?;
    let split = split_w(form, d, argmax.is_some());
    let mut constants = constants(d, &[split.constant]);
    constants.extend(pooled(form, argmax));
    let (dy_len, argmax) = upstream(plan, spec, d, argmax)?;
    let mut tensors = vec![(x, d.x_len()), (dy, dy_len), (parts, split.parts * dw_rows(d) * d.o)];
    tensors.extend(argmax.iter().map(|(tensor, len)| (tensor, *len)));
    push(plan, spec, &form.constants(constants, d.o), split.workgroups, &tensors)?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// Records the sum over the parts `[parts, KH*KW*C + 1, O]`.
fn record_backward_w_sum(
    plan: &mut PlanBuilder,
    d: &Conv2dDims,
    [parts, dw, db]: [&Tensor; 3],
) -> Result<(), GpuError> {
    let constants = constants(d, &[("PARTS", parts.shape()[0] as f64)]);
    let tensors = [(parts, parts.len()), (dw, d.w_len()), (db, d.o)];
    push(plan, &BACKWARD_W_SUM, &constants, workgroups_linear(d.w_len() + d.o, 64), &tensors)
}

/// Returns the kernel for both gradients in one dispatch, in workgroup memory.
pub(crate) fn backward_x_and_w_kernel(form: Form, d: &Conv2dDims) -> &'static KernelSpec {
    if loads_by_4(form, d) { &BACKWARD_X_AND_W_SHARED_BY_4 } else { &BACKWARD_X_AND_W_SHARED }
}

/// Records [`record_backward_w`] and [`record_backward_x`]; in workgroup memory they are one dispatch.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the form does not take a pooled gradient.
pub fn record_backward(
    plan: &mut PlanBuilder,
    [form_w, form_x]: [Form; 2],
    d: &Conv2dDims,
    x_is_relu: bool,
    [x, w, dy, dx, dw, db]: [&Tensor; 6],
    argmax: Option<&Tensor>,
) -> Result<(), GpuError> {
    let Form::Shared(tiles) = form_w else {
        record_backward_w(plan, form_w, d, [x, dy, dw, db], argmax)?;
        return record_backward_x(plan, form_x, d, x_is_relu, [x, w, dy, dx], argmax);
    };
    let parts = plan.scratch("dw_parts", &[split_x_and_w(tiles, d).parts, dw_rows(d), d.o])?;
    record_backward_parts(plan, tiles, d, x_is_relu, [x, w, dy, dx, &parts], argmax)?;
    record_backward_w_sum(plan, d, [&parts, dw, db])
}

/// Records the gradient of the input and the parts of those of filter and bias in one dispatch, with tiles in workgroup memory.
///
/// # Errors
/// As [`record_backward`].
pub fn record_backward_parts(
    plan: &mut PlanBuilder,
    tiles: SharedTiles,
    d: &Conv2dDims,
    x_is_relu: bool,
    [x, w, dy, dx, parts]: [&Tensor; 5],
    argmax: Option<&Tensor>,
) -> Result<(), GpuError> {
    let form = Form::Shared(tiles);
    let spec = backward_x_and_w_kernel(form, d);
    form.check(spec, &[])?;
    let split = split_x_and_w(tiles, d);
    let mut constants = constants(d, &[split.constant]);
    constants.extend(pooled(form, argmax));
    constants.push(("X_IS_RELU", f64::from(x_is_relu)));
    let (dy_len, argmax) = upstream(plan, spec, d, argmax)?;
    let of_parts = (parts, split.parts * dw_rows(d) * d.o);
    let mut tensors = vec![(x, d.x_len()), (w, d.w_len()), (dy, dy_len), (dx, d.x_len()), of_parts];
    tensors.extend(argmax.iter().map(|(tensor, len)| (tensor, *len)));
    push(plan, spec, &form.constants(constants, d.c.min(d.o)), split.workgroups, &tensors)?;
    plan.note_multiply_adds(2 * multiply_adds(d));
    Ok(())
}
