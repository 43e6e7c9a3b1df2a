//! Convolution with bias: kernels in `shaders/conv2d.wgsl`, `conv2d_shared.wgsl` and `conv2d_subgroup.wgsl`, mirror in
//! [`crate::cpu::conv2d`].
//!
//! Above 500 lines: three forms of each pass, and every kernel is described where it is recorded.

use super::{Form, SharedTiles};
use crate::cpu::pool2d::Pool2dDims;
use crate::gpu::{Bound, Constant, Element, GpuError, KernelSpec, PlanBuilder, Tensor};
use crate::gpu::{bind, read, workgroups_linear, write};

pub use crate::cpu::conv2d::{Conv2dDims, Padding};

const SOURCE: &str = include_str!("../../shaders/conv2d.wgsl");
const SOURCE_SHARED: &str = include_str!("../../shaders/conv2d_shared.wgsl");
const SOURCE_SUBGROUP: &str = include_str!("../../shaders/conv2d_subgroup.wgsl");

/// Rows of outputs per lane in the subgroup tiles of a workgroup: positions for y and dx, filter cells for dw.
const POSITIONS_PER_LANE: usize = 4;
const CELLS_PER_LANE: usize = 8;

/// `y = conv(x, w) + b`, one output per invocation.
pub static FORWARD: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward",
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")],
};

/// As [`FORWARD`], in subgroup tiles.
pub static FORWARD_SUBGROUP: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward_subgroup",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")],
};

/// As [`FORWARD_SUBGROUP`], for any number of input channels.
pub static FORWARD_SUBGROUP_ANY: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward_subgroup_any",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")],
};

/// As [`FORWARD_SUBGROUP`], followed by max pooling.
pub static FORWARD_SUBGROUP_POOL: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward_subgroup_pool",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y"), write(8, "argmax_out")],
};

/// As [`FORWARD_SUBGROUP_ANY`], followed by max pooling.
pub static FORWARD_SUBGROUP_ANY_POOL: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward_subgroup_any_pool",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y"), write(8, "argmax_out")],
};

/// As [`FORWARD`], in shared-memory tiles.
pub static FORWARD_SHARED: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward_shared",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")],
};

/// As [`FORWARD_SHARED`], followed by max pooling.
pub static FORWARD_SHARED_POOL: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward_shared_pool",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y"), write(8, "argmax_out")],
};

/// The gradient of the input, one output per invocation.
pub static BACKWARD_X: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_x",
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")],
};

/// As [`BACKWARD_X`], in subgroup tiles.
pub static BACKWARD_X_SUBGROUP: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_x_subgroup",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")],
};

/// As [`BACKWARD_X`], in shared-memory tiles.
pub static BACKWARD_X_SHARED: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_x_shared",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx"), read(7, "argmax")],
};

/// Partial sums of the gradients of filter and bias, one output per invocation.
pub static BACKWARD_W: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_w",
    source: SOURCE,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw_parts")],
};

/// As [`BACKWARD_W`], in subgroup tiles.
pub static BACKWARD_W_SUBGROUP: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_w_subgroup",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw_parts")],
};

/// As [`BACKWARD_W_SUBGROUP`], for any number of input channels.
pub static BACKWARD_W_SUBGROUP_ANY: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_w_subgroup_any",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw_parts")],
};

/// As [`BACKWARD_W_SUBGROUP_ANY`], taking the gradient after a max pooling.
pub static BACKWARD_W_SUBGROUP_ANY_POOL: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_w_subgroup_any_pool",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw_parts"), read(7, "argmax")],
};

/// As [`BACKWARD_W`], in shared-memory tiles.
pub static BACKWARD_W_SHARED: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_w_shared",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw_parts"), read(7, "argmax")],
};

/// [`BACKWARD_X_SHARED`] and [`BACKWARD_W_SHARED`] in one dispatch.
pub static BACKWARD_X_AND_W_SHARED: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_x_and_w_shared",
    source: SOURCE_SHARED,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx"), write(6, "dw_parts"), read(7, "argmax")],
};

/// Adds up the partial sums.
pub static BACKWARD_W_SUM: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_w_sum",
    source: SOURCE,
    bindings: &[read(7, "parts"), write(8, "dw"), write(9, "db")],
};

fn constants(d: &Conv2dDims) -> Vec<Constant> {
    [
        ("N", d.n),
        ("H", d.h),
        ("W", d.w),
        ("C", d.c),
        ("KH", d.kh),
        ("KW", d.kw),
        ("O", d.o),
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

/// Returns the number of multiply-adds of each of the three passes.
fn multiply_adds(d: &Conv2dDims) -> usize {
    d.n * d.ho * d.wo * d.o * d.kh * d.kw * d.c
}

/// Returns the kernel for the forward pass.
pub(crate) fn forward_kernel(form: Form, d: &Conv2dDims) -> &'static KernelSpec {
    let subgroup = if d.c.is_multiple_of(4) { &FORWARD_SUBGROUP } else { &FORWARD_SUBGROUP_ANY };
    form.pick([&FORWARD, subgroup, &FORWARD_SHARED])
}

/// Records `y = conv(x, w) + b`, followed by `max(y, 0)` if `relu`.
///
/// Shapes: x `[N, H, W, C]`, w `[KH, KW, C, O]`, b `[O]`, y `[N, HO, WO, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_forward(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &Conv2dDims,
    relu: bool,
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    y: &Tensor,
) -> Result<(), GpuError> {
    form.check(forward_kernel(form, d), &[d.o])?;
    let mut constants = constants(d);
    constants.push(("RELU", f64::from(relu)));
    plan.push(
        forward_kernel(form, d),
        &form.constants(constants, d.o),
        form.workgroups(d.n * d.ho * d.wo, d.o, POSITIONS_PER_LANE),
        &[bind("x", x, d.x_len()), bind("w", w, d.w_len()), bind("b", b, d.o), bind("y", y, d.y_len())],
    )?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// Whether the max pooling has 2x2 windows with stride 2 that cover exactly the outputs of this convolution.
pub(crate) fn halves(d: &Conv2dDims, pool: &Pool2dDims) -> bool {
    let halves = Pool2dDims {
        n: d.n,
        h: d.ho,
        w: d.wo,
        c: d.o,
        kh: 2,
        kw: 2,
        stride_h: 2,
        stride_w: 2,
        pad_top: 0,
        pad_left: 0,
        ho: d.ho / 2,
        wo: d.wo / 2,
    };
    d.ho.is_multiple_of(2) && d.wo.is_multiple_of(2) && *pool == halves
}

/// Whether [`record_forward_pool`] can compute this convolution and the max pooling after it in one dispatch: 2x2
/// windows with stride 2 that cover the image exactly, in tiles.
pub fn pools(form: Form, d: &Conv2dDims, pool: &Pool2dDims) -> bool {
    form != Form::Plain && halves(d, pool)
}

/// Records [`record_forward`] followed by max pooling, if [`pools`] returns true.
///
/// Shapes: x `[N, H, W, C]`, w `[KH, KW, C, O]`, b `[O]`, y and argmax `[N, HO/2, WO/2, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_forward_pool(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &Conv2dDims,
    relu: bool,
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    y: &Tensor,
    argmax: &Tensor,
) -> Result<(), GpuError> {
    let spec = forward_pool_kernel(form, d);
    form.check(spec, &[d.o])?;
    if form == Form::Plain || !d.ho.is_multiple_of(2) || !d.wo.is_multiple_of(2) {
        let message = format!("{form:?} tiles of {}x{} outputs cannot be pooled in 2x2 windows", d.ho, d.wo);
        return Err(GpuError::Record { entry: spec.entry, message });
    }
    let mut constants = constants(d);
    constants.push(("RELU", f64::from(relu)));
    let pooled = d.y_len() / 4;
    plan.push(
        spec,
        &form.constants(constants, d.o),
        form.workgroups(d.n * d.ho * d.wo, d.o, POSITIONS_PER_LANE),
        &[
            bind("x", x, d.x_len()),
            bind("w", w, d.w_len()),
            bind("b", b, d.o),
            bind("y", y, pooled),
            bind("argmax_out", argmax, pooled),
        ],
    )?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

pub(crate) fn forward_pool_kernel(form: Form, d: &Conv2dDims) -> &'static KernelSpec {
    let subgroup = if d.c.is_multiple_of(4) { &FORWARD_SUBGROUP_POOL } else { &FORWARD_SUBGROUP_ANY_POOL };
    form.pick([subgroup, subgroup, &FORWARD_SHARED_POOL])
}

/// The gradient that reaches a convolution.
#[derive(Clone, Copy, Debug)]
pub enum Upstream<'a> {
    /// Of the convolution's outputs, `[N, HO, WO, O]`.
    Direct(&'a Tensor),
    /// Of the outputs of a 2x2 max pooling after the convolution, and the position of each maximum: both `[N, HO/2,
    /// WO/2, O]`.
    Pooled(&'a Tensor, &'a Tensor),
}

/// Whether the backward pass can use the gradient after the max pooling that follows this convolution
/// ([`Upstream::Pooled`]), so that the pooling needs no backward pass: always in workgroup memory; in subgroup tiles if
/// only the filter's gradient is needed and the input has few channels.
pub fn unpools(form: Form, d: &Conv2dDims, needs_dx: bool, pool: &Pool2dDims) -> bool {
    let takes = match form {
        Form::Plain => false,
        Form::Subgroup(_) => !needs_dx && !d.c.is_multiple_of(4),
        Form::Shared(_) => true,
    };
    takes && halves(d, pool)
}

/// The gradient and its argmax, as bound by tiles in workgroup memory.
struct Upstreams {
    dy: Tensor,
    dy_len: usize,
    argmax: Tensor,
    argmax_len: usize,
}

impl Upstreams {
    fn new(plan: &PlanBuilder<'_>, d: &Conv2dDims, upstream: Upstream<'_>) -> Result<Self, GpuError> {
        Ok(match upstream {
            Upstream::Direct(dy) => {
                // Something must be bound, but it is not read.
                let argmax = plan.gpu().tensor("no argmax", &[1], Element::U32)?;
                Upstreams { dy: dy.clone(), dy_len: d.y_len(), argmax, argmax_len: 1 }
            }
            Upstream::Pooled(dy, argmax) => {
                let pooled = d.y_len() / 4;
                Upstreams { dy: dy.clone(), dy_len: pooled, argmax: argmax.clone(), argmax_len: pooled }
            }
        })
    }

    fn bind(&self) -> [Bound<'_>; 2] {
        [bind("dy", &self.dy, self.dy_len), bind("argmax", &self.argmax, self.argmax_len)]
    }

    fn constant(upstream: Upstream<'_>) -> Constant {
        ("POOLED", f64::from(matches!(upstream, Upstream::Pooled(..))))
    }
}

/// Returns the gradient itself, for forms that do not take a pooled one.
fn direct<'a>(upstream: Upstream<'a>, spec: &KernelSpec) -> Result<&'a Tensor, GpuError> {
    match upstream {
        Upstream::Direct(dy) => Ok(dy),
        Upstream::Pooled(..) => {
            let message = "this form does not take the gradient after a max pooling".to_string();
            Err(GpuError::Record { entry: spec.entry, message })
        }
    }
}

/// Records the gradient of the input. If `x_is_relu`, dx is zero where x is, which is the backward pass of the ReLU
/// before it.
///
/// Shapes: x and dx `[N, H, W, C]`, w `[KH, KW, C, O]`, dy as in [`Upstream`].
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the form does not take a pooled gradient.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &Conv2dDims,
    x_is_relu: bool,
    x: &Tensor,
    w: &Tensor,
    dy: Upstream<'_>,
    dx: &Tensor,
) -> Result<(), GpuError> {
    let spec = form.pick([&BACKWARD_X, &BACKWARD_X_SUBGROUP, &BACKWARD_X_SHARED]);
    form.check(spec, &[d.c, d.o])?;
    let mut constants = constants(d);
    constants.push(("X_IS_RELU", f64::from(x_is_relu)));
    let workgroups = form.workgroups(d.n * d.h * d.w, d.c, POSITIONS_PER_LANE);
    let [x, w, dx] = [bind("x", x, d.x_len()), bind("w", w, d.w_len()), bind("dx", dx, d.x_len())];
    if let Form::Shared(_) = form {
        constants.push(Upstreams::constant(dy));
        let upstreams = Upstreams::new(plan, d, dy)?;
        let [dy, argmax] = upstreams.bind();
        plan.push(spec, &form.constants(constants, d.c), workgroups, &[x, w, dy, argmax, dx])?;
    } else {
        let dy = bind("dy", direct(dy, spec)?, d.y_len());
        plan.push(spec, &form.constants(constants, d.c), workgroups, &[x, w, dy, dx])?;
    }
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// Returns the kernel for the filter's gradient.
pub(crate) fn backward_w_kernel(form: Form, d: &Conv2dDims, dy: Upstream<'_>) -> &'static KernelSpec {
    let subgroup = match (d.c.is_multiple_of(4), dy) {
        (true, _) => &BACKWARD_W_SUBGROUP,
        (false, Upstream::Direct(_)) => &BACKWARD_W_SUBGROUP_ANY,
        (false, Upstream::Pooled(..)) => &BACKWARD_W_SUBGROUP_ANY_POOL,
    };
    form.pick([&BACKWARD_W, subgroup, &BACKWARD_W_SHARED])
}

/// Returns the number of rows of the filter's gradient: its cells and the bias.
fn dw_rows(d: &Conv2dDims) -> usize {
    d.kh * d.kw * d.c + 1
}

/// How the sum of the filter's gradient over all positions of the batch is split into parts, each computed by a set of
/// tiles.
///
/// The filter has few cells, so its gradient alone would keep few cores busy: the batch is split until there are some
/// tens of workgroups (on a CPU) or hundreds (on a GPU). The count depends only on the shapes and the form, so results
/// are reproducible.
struct Split {
    parts: usize,
    constant: Constant,
    workgroups: [u32; 3],
}

impl Split {
    /// Splits by whole images, for the plain and the subgroup forms.
    fn by_images(form: Form, d: &Conv2dDims) -> Split {
        let tiles = match form {
            Form::Subgroup(lanes) => [(d.kh * d.kw * d.c).div_ceil(CELLS_PER_LANE * lanes), d.o.div_ceil(4 * lanes)],
            _ => [(dw_rows(d) * d.o).div_ceil(64), 1],
        };
        let parts = 32usize.div_ceil(tiles[0] * tiles[1]).clamp(1, d.n);
        // lavapipe stops an invocation's loops after 65,535 iterations in total; the sum would silently be incomplete.
        let rounds_per_image = d.ho * (d.wo + 1) + 1;
        let images_per_part = d.n.div_ceil(parts).min((65_535 / rounds_per_image).max(1));
        let parts = d.n.div_ceil(images_per_part);
        let workgroups = match form {
            Form::Subgroup(_) => [tiles[0] as u32, tiles[1] as u32, parts as u32],
            _ => workgroups_linear(parts * dw_rows(d) * d.o, 64),
        };
        Split { parts, constant: ("IMAGES_PER_PART", images_per_part as f64), workgroups }
    }

    /// Splits by positions, for workgroup memory. `width` is the number of columns that the tiles are made for; `more`
    /// workgroups do other work in the same dispatch.
    fn by_positions(tiles: SharedTiles, d: &Conv2dDims, width: usize, more: usize) -> Split {
        let n_tiles = tiles.tiles_as(width, dw_rows(d), d.o);
        let positions = d.n * d.ho * d.wo;
        let positions_per_part = tiles.steps_per_part(n_tiles, positions);
        let parts = positions.div_ceil(positions_per_part);
        let workgroups = workgroups_linear(n_tiles * parts + more, 1);
        Split { parts, constant: ("POSITIONS_PER_PART", positions_per_part as f64), workgroups }
    }
}

/// Records the gradients of filter and bias: partial sums over groups of images, then their sum.
///
/// Shapes: x `[N, H, W, C]`, dy as in [`Upstream`], dw `[KH, KW, C, O]`, db `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the form does not take a pooled gradient.
pub fn record_backward_w(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &Conv2dDims,
    x: &Tensor,
    dy: Upstream<'_>,
    dw: &Tensor,
    db: &Tensor,
) -> Result<(), GpuError> {
    let spec = backward_w_kernel(form, d, dy);
    form.check(spec, &[d.o])?;
    let split = match form {
        Form::Shared(tiles) => Split::by_positions(tiles, d, d.o, 0),
        _ => Split::by_images(form, d),
    };
    let parts = plan.scratch("dw_parts", &[split.parts, dw_rows(d), d.o])?;
    let mut constants = constants(d);
    constants.push(split.constant);
    let (x, dw_parts) = (bind("x", x, d.x_len()), bind("dw_parts", &parts, parts.len()));
    if let Form::Shared(_) = form {
        constants.push(Upstreams::constant(dy));
        let upstreams = Upstreams::new(plan, d, dy)?;
        let [dy, argmax] = upstreams.bind();
        plan.push(spec, &form.constants(constants, d.o), split.workgroups, &[x, dy, argmax, dw_parts])?;
    } else if std::ptr::eq(spec, &BACKWARD_W_SUBGROUP_ANY_POOL) {
        let upstreams = Upstreams::new(plan, d, dy)?;
        let [dy, argmax] = upstreams.bind();
        plan.push(spec, &form.constants(constants, d.o), split.workgroups, &[x, dy, argmax, dw_parts])?;
    } else {
        let dy = bind("dy", direct(dy, spec)?, d.y_len());
        plan.push(spec, &form.constants(constants, d.o), split.workgroups, &[x, dy, dw_parts])?;
    }
    plan.note_multiply_adds(multiply_adds(d));
    record_backward_w_sum(plan, d, &parts, dw, db)
}

/// Records the sum over the parts `[parts, KH*KW*C + 1, O]`.
fn record_backward_w_sum(
    plan: &mut PlanBuilder<'_>,
    d: &Conv2dDims,
    parts: &Tensor,
    dw: &Tensor,
    db: &Tensor,
) -> Result<(), GpuError> {
    let mut constants = constants(d);
    constants.push(("PARTS", parts.shape()[0] as f64));
    plan.push(
        &BACKWARD_W_SUM,
        &constants,
        workgroups_linear(d.w_len() + d.o, 64),
        &[bind("parts", parts, parts.len()), bind("dw", dw, d.w_len()), bind("db", db, d.o)],
    )
}

/// Records [`record_backward_w`] and [`record_backward_x`]; in workgroup memory they are one dispatch.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the form does not take a pooled gradient.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_backward(
    plan: &mut PlanBuilder<'_>,
    forms: [Form; 2],
    d: &Conv2dDims,
    x_is_relu: bool,
    x: &Tensor,
    w: &Tensor,
    dy: Upstream<'_>,
    dx: &Tensor,
    dw: &Tensor,
    db: &Tensor,
) -> Result<(), GpuError> {
    let [form_w, form_x] = forms;
    let Form::Shared(tiles) = form_w else {
        record_backward_w(plan, form_w, d, x, dy, dw, db)?;
        return record_backward_x(plan, form_x, d, x_is_relu, x, w, dy, dx);
    };
    form_w.check(&BACKWARD_X_AND_W_SHARED, &[])?;
    let width = d.c.min(d.o);
    let x_tiles = tiles.tiles_as(width, d.n * d.h * d.w, d.c);
    let split = Split::by_positions(tiles, d, width, x_tiles);
    let parts = plan.scratch("dw_parts", &[split.parts, dw_rows(d), d.o])?;
    let mut constants = constants(d);
    constants.extend([split.constant, Upstreams::constant(dy), ("X_IS_RELU", f64::from(x_is_relu))]);
    let upstreams = Upstreams::new(plan, d, dy)?;
    let [dy, argmax] = upstreams.bind();
    plan.push(
        &BACKWARD_X_AND_W_SHARED,
        &form_w.constants(constants, width),
        split.workgroups,
        &[
            bind("x", x, d.x_len()),
            bind("w", w, d.w_len()),
            dy,
            argmax,
            bind("dx", dx, d.x_len()),
            bind("dw_parts", &parts, parts.len()),
        ],
    )?;
    plan.note_multiply_adds(2 * multiply_adds(d));
    record_backward_w_sum(plan, d, &parts, dw, db)
}
