//! Fully connected layer: kernels in `shaders/dense.wgsl`, `dense_shared.wgsl` and `dense_subgroup.wgsl`, mirror in
//! [`crate::cpu::dense`].

use super::{Form, SharedTiles};
use crate::gpu::{Constant, GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};

pub use crate::cpu::dense::DenseDims;

const SOURCE: &str = include_str!("../../shaders/dense.wgsl");
const SOURCE_SHARED: &str = include_str!("../../shaders/dense_shared.wgsl");
const SOURCE_SUBGROUP: &str = include_str!("../../shaders/dense_subgroup.wgsl");

/// Rows of outputs per lane in the subgroup tiles of a workgroup: samples for y and dx, of which a batch has few;
/// inputs for dw.
const SAMPLES_PER_LANE: usize = 4;
const INPUTS_PER_LANE: usize = 8;

/// `y = x w + b`, one output per invocation.
pub static FORWARD: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_forward",
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")],
};

/// As [`FORWARD`], in subgroup tiles.
pub static FORWARD_SUBGROUP: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_forward_subgroup",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")],
};

/// As [`FORWARD`], in shared-memory tiles.
pub static FORWARD_SHARED: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_forward_shared",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")],
};

/// As [`FORWARD_SHARED`], but each workgroup sums a part of the inputs.
pub static FORWARD_SHARED_PARTS: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_forward_shared_parts",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(1, "w"), write(8, "y_parts")],
};

/// Adds up these partial sums and the bias.
pub static FORWARD_SUM: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_forward_sum",
    source: SOURCE,
    bindings: &[read(8, "parts"), read(2, "b"), write(3, "y")],
};

/// `dx = dy w^T`, one output per invocation.
pub static BACKWARD_X: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_backward_x",
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")],
};

/// As [`BACKWARD_X`], in subgroup tiles.
pub static BACKWARD_X_SUBGROUP: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_backward_x_subgroup",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")],
};

/// As [`BACKWARD_X`], in shared-memory tiles.
pub static BACKWARD_X_SHARED: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_backward_x_shared",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")],
};

/// `dw = x^T dy` and `db`, one output per invocation.
pub static BACKWARD_W: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_backward_w",
    source: SOURCE,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw"), write(7, "db")],
};

/// As [`BACKWARD_W`], in subgroup tiles.
pub static BACKWARD_W_SUBGROUP: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_backward_w_subgroup",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw"), write(7, "db")],
};

/// As [`BACKWARD_W`], in shared-memory tiles.
pub static BACKWARD_W_SHARED: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_backward_w_shared",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw"), write(7, "db")],
};

/// [`BACKWARD_X_SHARED`] and [`BACKWARD_W_SHARED`] in one dispatch.
pub static BACKWARD_X_AND_W_SHARED: KernelSpec = KernelSpec {
    op: "dense",
    entry: "dense_backward_x_and_w_shared",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx"), write(6, "dw"), write(7, "db")],
};

fn constants(d: &DenseDims) -> Vec<Constant> {
    [("N", d.n), ("I", d.i), ("O", d.o)].map(|(name, value)| (name, value as f64)).to_vec()
}

/// Records `y = x w + b`, followed by `max(y, 0)` if `relu`.
///
/// Shapes: x `[N, I]`, w `[I, O]`, b `[O]`, y `[N, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_forward(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &DenseDims,
    relu: bool,
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    y: &Tensor,
) -> Result<(), GpuError> {
    form.check(form.pick([&FORWARD, &FORWARD_SUBGROUP, &FORWARD_SHARED]), &[d.i, d.o])?;
    let mut constants = constants(d);
    constants.push(("RELU", f64::from(relu)));
    if let Form::Shared(tiles) = form
        && inputs_per_part(tiles, d) < d.i
    {
        return record_forward_parts(plan, tiles, d, constants, x, w, b, y);
    }
    plan.push(
        form.pick([&FORWARD, &FORWARD_SUBGROUP, &FORWARD_SHARED]),
        &form.constants(constants, d.o),
        form.workgroups(d.n, d.o, SAMPLES_PER_LANE),
        &[bind("x", x, d.n * d.i), bind("w", w, d.i * d.o), bind("b", b, d.o), bind("y", y, d.n * d.o)],
    )?;
    plan.note_multiply_adds(d.n * d.i * d.o);
    Ok(())
}

/// Returns how many inputs one workgroup sums in the forward pass with tiles in workgroup memory: all, if the outputs
/// alone keep a GPU busy.
pub(crate) fn inputs_per_part(tiles: SharedTiles, d: &DenseDims) -> usize {
    tiles.steps_per_part(tiles.tiles(d.n, d.o), d.i)
}

/// Records the forward pass in parts, and their sum.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
fn record_forward_parts(
    plan: &mut PlanBuilder<'_>,
    tiles: SharedTiles,
    d: &DenseDims,
    constants: Vec<Constant>,
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    y: &Tensor,
) -> Result<(), GpuError> {
    let inputs_per_part = inputs_per_part(tiles, d);
    let parts = d.i.div_ceil(inputs_per_part);
    let y_parts = plan.scratch("y_parts", &[parts, d.n, d.o])?;
    let mut of_parts = self::constants(d);
    of_parts.push(("INPUTS_PER_PART", inputs_per_part as f64));
    plan.push(
        &FORWARD_SHARED_PARTS,
        &Form::Shared(tiles).constants(of_parts, d.o),
        workgroups_linear(tiles.tiles(d.n, d.o) * parts, 1),
        &[bind("x", x, d.n * d.i), bind("w", w, d.i * d.o), bind("y_parts", &y_parts, y_parts.len())],
    )?;
    plan.note_multiply_adds(d.n * d.i * d.o);
    plan.push(
        &FORWARD_SUM,
        &[constants, vec![("PARTS", parts as f64)]].concat(),
        workgroups_linear(d.n * d.o, 64),
        &[bind("parts", &y_parts, y_parts.len()), bind("b", b, d.o), bind("y", y, d.n * d.o)],
    )
}

/// Records the gradient of the input. If `x_is_relu`, dx is zero where x is, which is the backward pass of the ReLU
/// before it.
///
/// Shapes: x and dx `[N, I]`, w `[I, O]`, dy `[N, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &DenseDims,
    x_is_relu: bool,
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<(), GpuError> {
    form.check(form.pick([&BACKWARD_X, &BACKWARD_X_SUBGROUP, &BACKWARD_X_SHARED]), &[d.i, d.o])?;
    let mut constants = constants(d);
    constants.push(("X_IS_RELU", f64::from(x_is_relu)));
    plan.push(
        form.pick([&BACKWARD_X, &BACKWARD_X_SUBGROUP, &BACKWARD_X_SHARED]),
        &form.constants(constants, d.i),
        form.workgroups(d.n, d.i, SAMPLES_PER_LANE),
        &[bind("x", x, d.n * d.i), bind("w", w, d.i * d.o), bind("dy", dy, d.n * d.o), bind("dx", dx, d.n * d.i)],
    )?;
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
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &DenseDims,
    x: &Tensor,
    dy: &Tensor,
    dw: &Tensor,
    db: &Tensor,
) -> Result<(), GpuError> {
    form.check(form.pick([&BACKWARD_W, &BACKWARD_W_SUBGROUP, &BACKWARD_W_SHARED]), &[d.i, d.o])?;
    // The bias takes a separate row, except in subgroup tiles, where its gradient is computed along with the weights'.
    let rows = d.i + usize::from(!matches!(form, Form::Subgroup(_)));
    plan.push(
        form.pick([&BACKWARD_W, &BACKWARD_W_SUBGROUP, &BACKWARD_W_SHARED]),
        &form.constants(constants(d), d.o),
        form.workgroups(rows, d.o, INPUTS_PER_LANE),
        &[bind("x", x, d.n * d.i), bind("dy", dy, d.n * d.o), bind("dw", dw, d.i * d.o), bind("db", db, d.o)],
    )?;
    plan.note_multiply_adds(d.n * d.i * d.o);
    Ok(())
}

/// Records [`record_backward_w`] and [`record_backward_x`]; in workgroup memory they are one dispatch.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_backward(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &DenseDims,
    x_is_relu: bool,
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
    dw: &Tensor,
    db: &Tensor,
) -> Result<(), GpuError> {
    let Form::Shared(tiles) = form else {
        record_backward_w(plan, form, d, x, dy, dw, db)?;
        return record_backward_x(plan, form, d, x_is_relu, x, w, dy, dx);
    };
    form.check(&BACKWARD_X_AND_W_SHARED, &[])?;
    let width = d.i.min(d.o);
    let n_tiles = tiles.tiles_as(width, d.i + 1, d.o) + tiles.tiles_as(width, d.n, d.i);
    let mut constants = constants(d);
    constants.push(("X_IS_RELU", f64::from(x_is_relu)));
    plan.push(
        &BACKWARD_X_AND_W_SHARED,
        &form.constants(constants, width),
        workgroups_linear(n_tiles, 1),
        &[
            bind("x", x, d.n * d.i),
            bind("w", w, d.i * d.o),
            bind("dy", dy, d.n * d.o),
            bind("dx", dx, d.n * d.i),
            bind("dw", dw, d.i * d.o),
            bind("db", db, d.o),
        ],
    )?;
    plan.note_multiply_adds(2 * d.n * d.i * d.o);
    Ok(())
}
