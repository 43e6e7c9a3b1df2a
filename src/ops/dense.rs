//! Fully connected layer: kernels in `shaders/dense.wgsl`, `dense_shared.wgsl`, `dense_shared_by_4.wgsl` and
//! `dense_subgroup.wgsl`, mirror in [`crate::cpu::dense`].

use super::{Form, Shader, SharedTiles, push};
use crate::gpu::{Binding, Constant, GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

pub use crate::cpu::dense::DenseDims;

const PLAIN: Shader = Shader { op: "dense", source: shader_text!("dense.wgsl") };
const SHARED: Shader =
    Shader { op: "dense", source: concat!(shader_text!("dense_shared.wgsl"), shader_text!("parts/tiles.wgsl")) };
const SHARED_BY_4: Shader = Shader {
    op: "dense",
    source: concat!(
        shader_text!("dense_shared_by_4.wgsl"),
        shader_text!("parts/tiles.wgsl"),
        shader_text!("parts/blocks.wgsl")
    ),
};
const SUBGROUP: Shader = Shader { op: "dense", source: shader_text!("dense_subgroup.wgsl") };

/// Rows of outputs per lane in the subgroup tiles of a workgroup: samples for y and dx, of which a batch has few;
/// inputs for dw.
const SAMPLES_PER_LANE: usize = 4;
const INPUTS_PER_LANE: usize = 8;

const FORWARD_BINDINGS: &[Binding] = &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")];
const FORWARD_PARTS_BINDINGS: &[Binding] = &[read(0, "x"), read(1, "w"), write(8, "y_parts")];
const BACKWARD_X_BINDINGS: &[Binding] = &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")];
const BACKWARD_W_BINDINGS: &[Binding] = &[read(0, "x"), read(4, "dy"), write(6, "dw"), write(7, "db")];
const BACKWARD_X_AND_W_BINDINGS: &[Binding] =
    &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx"), write(6, "dw"), write(7, "db")];

/// `y = x w + b`, one output per invocation.
pub static FORWARD: KernelSpec = PLAIN.kernel("dense_forward", FORWARD_BINDINGS);

/// As [`FORWARD`], four by four outputs per invocation.
pub static FORWARD_BY_4: KernelSpec = PLAIN.kernel("dense_forward_by_4", FORWARD_BINDINGS);

/// As [`FORWARD`], in subgroup tiles.
pub static FORWARD_SUBGROUP: KernelSpec = SUBGROUP.kernel("dense_forward_subgroup", FORWARD_BINDINGS);

/// As [`FORWARD`], in shared-memory tiles.
pub static FORWARD_SHARED: KernelSpec = SHARED.kernel("dense_forward_shared", FORWARD_BINDINGS);

/// As [`FORWARD_SHARED`], but each workgroup sums a part of the inputs.
pub static FORWARD_SHARED_PARTS: KernelSpec = SHARED.kernel("dense_forward_shared_parts", FORWARD_PARTS_BINDINGS);

/// As [`FORWARD_SHARED`], four values per load.
pub static FORWARD_SHARED_BY_4: KernelSpec = SHARED_BY_4.kernel("dense_forward_shared_by_4", FORWARD_BINDINGS);

/// As [`FORWARD_SHARED_PARTS`], four values per load.
pub static FORWARD_SHARED_BY_4_PARTS: KernelSpec =
    SHARED_BY_4.kernel("dense_forward_shared_by_4_parts", FORWARD_PARTS_BINDINGS);

/// Adds up these partial sums and the bias.
pub static FORWARD_SUM: KernelSpec =
    PLAIN.kernel("dense_forward_sum", &[read(8, "parts"), read(2, "b"), write(3, "y")]);

/// As [`FORWARD_SHARED_BY_4_PARTS`], of the next batch of a data set, which it gathers as [`super::batch_gather::GATHER`] does.
pub static FORWARD_SHARED_BY_4_GATHERED_PARTS: KernelSpec = SHARED_BY_4.kernel(
    "dense_forward_shared_by_4_gathered_parts",
    &[
        read(9, "images"),
        read(10, "labels"),
        read(11, "order"),
        read(12, "progress"),
        read(1, "w"),
        write(13, "x_out"),
        write(14, "batch_labels"),
        write(8, "y_parts"),
    ],
);

/// `dx = dy w^T`, one output per invocation.
pub static BACKWARD_X: KernelSpec = PLAIN.kernel("dense_backward_x", BACKWARD_X_BINDINGS);

/// As [`BACKWARD_X`], four by four outputs per invocation.
pub static BACKWARD_X_BY_4: KernelSpec = PLAIN.kernel("dense_backward_x_by_4", BACKWARD_X_BINDINGS);

/// As [`BACKWARD_X`], in subgroup tiles.
pub static BACKWARD_X_SUBGROUP: KernelSpec = SUBGROUP.kernel("dense_backward_x_subgroup", BACKWARD_X_BINDINGS);

/// As [`BACKWARD_X`], in shared-memory tiles.
pub static BACKWARD_X_SHARED: KernelSpec = SHARED.kernel("dense_backward_x_shared", BACKWARD_X_BINDINGS);

/// As [`BACKWARD_X_SHARED`], four values per load.
pub static BACKWARD_X_SHARED_BY_4: KernelSpec = SHARED_BY_4.kernel("dense_backward_x_shared_by_4", BACKWARD_X_BINDINGS);

/// `dw = x^T dy` and `db`, one output per invocation.
pub static BACKWARD_W: KernelSpec = PLAIN.kernel("dense_backward_w", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W`], four by four outputs per invocation.
pub static BACKWARD_W_BY_4: KernelSpec = PLAIN.kernel("dense_backward_w_by_4", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W`], in subgroup tiles.
pub static BACKWARD_W_SUBGROUP: KernelSpec = SUBGROUP.kernel("dense_backward_w_subgroup", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W`], in shared-memory tiles.
pub static BACKWARD_W_SHARED: KernelSpec = SHARED.kernel("dense_backward_w_shared", BACKWARD_W_BINDINGS);

/// As [`BACKWARD_W_SHARED`], four values per load.
pub static BACKWARD_W_SHARED_BY_4: KernelSpec = SHARED_BY_4.kernel("dense_backward_w_shared_by_4", BACKWARD_W_BINDINGS);

/// [`BACKWARD_X_SHARED`] and [`BACKWARD_W_SHARED`] in one dispatch.
pub static BACKWARD_X_AND_W_SHARED: KernelSpec =
    SHARED.kernel("dense_backward_x_and_w_shared", BACKWARD_X_AND_W_BINDINGS);

/// As [`BACKWARD_X_AND_W_SHARED`], four values per load.
pub static BACKWARD_X_AND_W_SHARED_BY_4: KernelSpec =
    SHARED_BY_4.kernel("dense_backward_x_and_w_shared_by_4", BACKWARD_X_AND_W_BINDINGS);

fn constants(d: &DenseDims, more: &[Constant]) -> Vec<Constant> {
    super::constants(&[("N", d.n), ("I", d.i), ("O", d.o)], more)
}

/// Whether the plain form computes four by four outputs per invocation.
fn by_4(d: &DenseDims) -> bool {
    d.i.is_multiple_of(4) && d.o.is_multiple_of(4)
}

/// Whether the form loads four values at a time.
fn loads_by_4(form: Form, d: &DenseDims) -> bool {
    form.loads_by_4(&[d.i, d.o])
}

/// Returns the workgroups for a product of `rows` x `columns`.
fn workgroups(form: Form, d: &DenseDims, rows: usize, columns: usize, rows_per_lane: usize) -> [u32; 3] {
    match form {
        Form::Plain if by_4(d) => workgroups_linear(rows.div_ceil(4) * (columns / 4), 64),
        _ => form.workgroups(rows, columns, rows_per_lane),
    }
}

/// Returns the kernel for the forward pass.
pub(crate) fn forward_kernel(form: Form, d: &DenseDims) -> &'static KernelSpec {
    let split = matches!(form, Form::Shared(tiles) if inputs_per_part(tiles, d) < d.i);
    let shared = match (loads_by_4(form, d), split) {
        (false, false) => &FORWARD_SHARED,
        (false, true) => &FORWARD_SHARED_PARTS,
        (true, false) => &FORWARD_SHARED_BY_4,
        (true, true) => &FORWARD_SHARED_BY_4_PARTS,
    };
    form.pick([if by_4(d) { &FORWARD_BY_4 } else { &FORWARD }, &FORWARD_SUBGROUP, shared])
}

/// Returns the kernel for the input's gradient.
pub(crate) fn backward_x_kernel(form: Form, d: &DenseDims) -> &'static KernelSpec {
    let shared = if loads_by_4(form, d) { &BACKWARD_X_SHARED_BY_4 } else { &BACKWARD_X_SHARED };
    form.pick([if by_4(d) { &BACKWARD_X_BY_4 } else { &BACKWARD_X }, &BACKWARD_X_SUBGROUP, shared])
}

/// Returns the kernel for the gradients of weights and bias.
pub(crate) fn backward_w_kernel(form: Form, d: &DenseDims) -> &'static KernelSpec {
    let shared = if loads_by_4(form, d) { &BACKWARD_W_SHARED_BY_4 } else { &BACKWARD_W_SHARED };
    form.pick([if by_4(d) { &BACKWARD_W_BY_4 } else { &BACKWARD_W }, &BACKWARD_W_SUBGROUP, shared])
}

/// Returns the kernel for both gradients in one dispatch, in workgroup memory.
pub(crate) fn backward_x_and_w_kernel(form: Form, d: &DenseDims) -> &'static KernelSpec {
    if loads_by_4(form, d) { &BACKWARD_X_AND_W_SHARED_BY_4 } else { &BACKWARD_X_AND_W_SHARED }
}

/// Records `y = x w + b`, followed by `max(y, 0)` if `relu`.
///
/// Shapes: x `[N, I]`, w `[I, O]`, b `[O]`, y `[N, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_forward(
    plan: &mut PlanBuilder,
    form: Form,
    d: &DenseDims,
    relu: bool,
    [x, w, b, y]: [&Tensor; 4],
) -> Result<(), GpuError> {
    form.check(form.pick([&FORWARD, &FORWARD_SUBGROUP, &FORWARD_SHARED]), &[d.i, d.o])?;
    if let Form::Shared(tiles) = form
        && inputs_per_part(tiles, d) < d.i
    {
        let parts = record_parts(plan, tiles, d, [x, w])?;
        return record_sum(plan, d, relu, [&parts, b, y]);
    }
    let constants = form.constants(constants(d, &[("RELU", f64::from(relu))]), d.o);
    let tensors = [(x, d.n * d.i), (w, d.i * d.o), (b, d.o), (y, d.n * d.o)];
    push(plan, forward_kernel(form, d), &constants, workgroups(form, d, d.n, d.o, SAMPLES_PER_LANE), &tensors)?;
    plan.note_multiply_adds(d.n * d.i * d.o);
    Ok(())
}

/// Returns how many inputs one workgroup sums in the forward pass with tiles in workgroup memory: all, if the outputs
/// alone keep a GPU busy.
fn inputs_per_part(tiles: SharedTiles, d: &DenseDims) -> usize {
    tiles.steps_per_part(tiles.tiles(d.n, d.o), d.i)
}

/// Records the sum of the parts `[parts, N, O]` and the bias, followed by `max(y, 0)` if `relu`.
///
/// Shapes: b `[O]`, y `[N, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_sum(
    plan: &mut PlanBuilder,
    d: &DenseDims,
    relu: bool,
    [parts, b, y]: [&Tensor; 3],
) -> Result<(), GpuError> {
    let constants = constants(d, &[("RELU", f64::from(relu)), ("PARTS", parts.shape()[0] as f64)]);
    let tensors = [(parts, parts.len()), (b, d.o), (y, d.n * d.o)];
    push(plan, &FORWARD_SUM, &constants, workgroups_linear(d.n * d.o, 64), &tensors)
}

/// Records `x w` in parts of the inputs, with tiles in workgroup memory. Returns the parts, `[parts, N, O]`, of which there may be only one.
///
/// Shapes: x `[N, I]`, w `[I, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_parts(
    plan: &mut PlanBuilder,
    tiles: SharedTiles,
    d: &DenseDims,
    [x, w]: [&Tensor; 2],
) -> Result<Tensor, GpuError> {
    let by_4 = loads_by_4(Form::Shared(tiles), d);
    let spec = if by_4 { &FORWARD_SHARED_BY_4_PARTS } else { &FORWARD_SHARED_PARTS };
    push_parts(plan, spec, tiles, d, &[(x, d.n * d.i), (w, d.i * d.o)])
}

/// Records the gather of a batch of `samples`, and `x w` of it as [`record_parts`]. Inputs and outputs of the gather are those of
/// [`super::batch_gather::record`].
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_gathered_parts(
    plan: &mut PlanBuilder,
    tiles: SharedTiles,
    d: &DenseDims,
    samples: usize,
    [images, labels, order, progress, x, batch_labels]: [&Tensor; 6],
    w: &Tensor,
) -> Result<Tensor, GpuError> {
    let inputs = [
        (images, samples * d.i / 4),
        (labels, samples.div_ceil(4)),
        (order, order.len()),
        (progress, 2),
        (w, d.i * d.o),
    ];
    let tensors = [&inputs[..], &[(x, d.n * d.i), (batch_labels, d.n)]].concat();
    push_parts(plan, &FORWARD_SHARED_BY_4_GATHERED_PARTS, tiles, d, &tensors)
}

/// Whether [`record_gathered_parts`] can compute it.
pub fn gathers(d: &DenseDims) -> bool {
    by_4(d)
}

/// Records a kernel that writes parts after these tensors.
fn push_parts(
    plan: &mut PlanBuilder,
    spec: &'static KernelSpec,
    tiles: SharedTiles,
    d: &DenseDims,
    tensors: &[(&Tensor, usize)],
) -> Result<Tensor, GpuError> {
    let form = Form::Shared(tiles);
    form.check(spec, &[])?;
    let inputs_per_part = inputs_per_part(tiles, d);
    let parts = d.i.div_ceil(inputs_per_part);
    let y_parts = plan.scratch("y_parts", &[parts, d.n, d.o])?;
    let constants = form.constants(constants(d, &[("INPUTS_PER_PART", inputs_per_part as f64)]), d.o);
    let workgroups = workgroups_linear(tiles.tiles(d.n, d.o) * parts, 1);
    push(plan, spec, &constants, workgroups, &[tensors, &[(&y_parts, y_parts.len())]].concat())?;
    plan.note_multiply_adds(d.n * d.i * d.o);
    Ok(y_parts)
}

/// Records the gradient of the input. If `x_is_relu`, dx is zero where x is, which is the backward pass of the ReLU
/// before it.
///
/// Shapes: x and dx `[N, I]`, w `[I, O]`, dy `[N, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_x(
    plan: &mut PlanBuilder,
    form: Form,
    d: &DenseDims,
    x_is_relu: bool,
    [x, w, dy, dx]: [&Tensor; 4],
) -> Result<(), GpuError> {
    let spec = backward_x_kernel(form, d);
    form.check(spec, &[d.i, d.o])?;
    let constants = form.constants(constants(d, &[("X_IS_RELU", f64::from(x_is_relu))]), d.i);
    let tensors = [(x, d.n * d.i), (w, d.i * d.o), (dy, d.n * d.o), (dx, d.n * d.i)];
    push(plan, spec, &constants, workgroups(form, d, d.n, d.i, SAMPLES_PER_LANE), &tensors)?;
    plan.note_multiply_adds(d.n * d.i * d.o);
    Ok(())
}

/// Records the gradients of weights and bias.
///
/// Shapes: x `[N, I]`, dy `[N, O]`, dw `[I, O]`, db `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_w(
    plan: &mut PlanBuilder,
    form: Form,
    d: &DenseDims,
    [x, dy, dw, db]: [&Tensor; 4],
) -> Result<(), GpuError> {
    let spec = backward_w_kernel(form, d);
    form.check(spec, &[d.i, d.o])?;
    let tensors = [(x, d.n * d.i), (dy, d.n * d.o), (dw, d.i * d.o), (db, d.o)];
    let constants = form.constants(constants(d, &[]), d.o);
    // The bias takes a separate row, unless its gradient is computed along with the weights'.
    let along = matches!(form, Form::Subgroup(_)) || form == Form::Plain && by_4(d);
    let rows = d.i + usize::from(!along);
    push(plan, spec, &constants, workgroups(form, d, rows, d.o, INPUTS_PER_LANE), &tensors)?;
    plan.note_multiply_adds(d.n * d.i * d.o);
    Ok(())
}

/// Records [`record_backward_w`] and [`record_backward_x`]; in workgroup memory they are one dispatch.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward(
    plan: &mut PlanBuilder,
    form: Form,
    d: &DenseDims,
    x_is_relu: bool,
    [x, w, dy, dx, dw, db]: [&Tensor; 6],
) -> Result<(), GpuError> {
    let Form::Shared(tiles) = form else {
        record_backward_w(plan, form, d, [x, dy, dw, db])?;
        return record_backward_x(plan, form, d, x_is_relu, [x, w, dy, dx]);
    };
    let spec = backward_x_and_w_kernel(form, d);
    form.check(spec, &[])?;
    let width = d.i.min(d.o);
    let n_tiles = tiles.tiles_as(width, d.i + 1, d.o) + tiles.tiles_as(width, d.n, d.i);
    let constants = form.constants(constants(d, &[("X_IS_RELU", f64::from(x_is_relu))]), width);
    let inputs = [(x, d.n * d.i), (w, d.i * d.o), (dy, d.n * d.o)];
    let gradients = [(dx, d.n * d.i), (dw, d.i * d.o), (db, d.o)];
    let tensors = [inputs, gradients].concat();
    push(plan, spec, &constants, workgroups_linear(n_tiles, 1), &tensors)?;
    plan.note_multiply_adds(2 * d.n * d.i * d.o);
    Ok(())
}
