//! Convolution with bias: kernels of `shaders/conv2d.wgsl` and `shaders/conv2d_subgroup.wgsl`, mirror in [`crate::cpu::conv2d`].

use super::Form;
use crate::cpu::pool2d::{Pool2dDims, pool2d_max_forward};
use crate::cpu::{bias, conv2d as cpu};
use crate::gpu::{Constant, GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::verify::{Breadth, Verifier, absolute, widen};

pub use crate::cpu::conv2d::{Conv2dDims, Padding};

const SOURCE: &str = include_str!("../../shaders/conv2d.wgsl");
const SOURCE_SUBGROUP: &str = include_str!("../../shaders/conv2d_subgroup.wgsl");

/// Rows of outputs of a workgroup in subgroup tiles, for each lane: positions for y and dx, filter cells for dw.
const POSITIONS_PER_LANE: usize = 4;
const CELLS_PER_LANE: usize = 8;

/// `y = conv(x, w) + b`, one output an invocation.
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
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y"), write(10, "argmax")],
};

/// As [`FORWARD_SUBGROUP_ANY`], followed by max pooling.
pub static FORWARD_SUBGROUP_ANY_POOL: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward_subgroup_any_pool",
    source: SOURCE_SUBGROUP,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y"), write(10, "argmax")],
};

/// As [`FORWARD`], in shared-memory tiles.
pub static FORWARD_SHARED: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_forward_shared",
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "w"), read(2, "b"), write(3, "y")],
};

/// The gradient of the input, one output an invocation.
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
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "w"), read(4, "dy"), write(5, "dx")],
};

/// Parts of the gradients of filter and bias, one output an invocation.
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

/// As [`BACKWARD_W`], in shared-memory tiles.
pub static BACKWARD_W_SHARED: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_w_shared",
    source: SOURCE,
    bindings: &[read(0, "x"), read(4, "dy"), write(6, "dw_parts")],
};

/// The sum of the parts.
pub static BACKWARD_W_SUM: KernelSpec = KernelSpec {
    op: "conv2d",
    entry: "conv2d_backward_w_sum",
    source: SOURCE,
    bindings: &[read(7, "parts"), write(8, "dw"), write(9, "db")],
};

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[
    &FORWARD,
    &FORWARD_SUBGROUP,
    &FORWARD_SUBGROUP_ANY,
    &FORWARD_SUBGROUP_POOL,
    &FORWARD_SUBGROUP_ANY_POOL,
    &FORWARD_SHARED,
    &BACKWARD_X,
    &BACKWARD_X_SUBGROUP,
    &BACKWARD_X_SHARED,
    &BACKWARD_W,
    &BACKWARD_W_SUBGROUP,
    &BACKWARD_W_SUBGROUP_ANY,
    &BACKWARD_W_SHARED,
    &BACKWARD_W_SUM,
];

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

/// Of each of the three passes.
fn multiply_adds(d: &Conv2dDims) -> usize {
    d.n * d.ho * d.wo * d.o * d.kh * d.kw * d.c
}

/// The kernel for the forward pass.
fn forward_kernel(form: Form, d: &Conv2dDims) -> &'static KernelSpec {
    let subgroup = if d.c.is_multiple_of(4) { &FORWARD_SUBGROUP } else { &FORWARD_SUBGROUP_ANY };
    form.pick([&FORWARD, subgroup, &FORWARD_SHARED])
}

/// Records `y = conv(x, w) + b`, with `max(y, 0)` where `relu`.
///
/// Shapes: x `[N, H, W, C]`, w `[KH, KW, C, O]`, b `[O]`, y `[N, HO, WO, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the shader does not compile.
#[allow(clippy::too_many_arguments, reason = "one argument a tensor, named as in the formula")]
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
        &form.constants(constants),
        form.workgroups(d.n * d.ho * d.wo, d.o, POSITIONS_PER_LANE),
        &[bind("x", x, d.x_len()), bind("w", w, d.w_len()), bind("b", b, d.o), bind("y", y, d.y_len())],
    )?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// Whether [`record_forward_pool`] can compute this convolution and the max pooling after it at once: windows of 2x2 with
/// stride 2 that fill the picture, in subgroup tiles.
pub fn pools(form: Form, d: &Conv2dDims, pool: &Pool2dDims) -> bool {
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
    matches!(form, Form::Subgroup(_)) && d.ho.is_multiple_of(2) && d.wo.is_multiple_of(2) && *pool == halves
}

/// Records [`record_forward`] and then max pooling, for what [`pools`] says.
///
/// Shapes: x `[N, H, W, C]`, w `[KH, KW, C, O]`, b `[O]`, y and argmax `[N, HO/2, WO/2, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the shader does not compile.
#[allow(clippy::too_many_arguments, reason = "one argument a tensor, named as in the formula")]
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
    form.check(forward_pool_kernel(d), &[d.o])?;
    if !matches!(form, Form::Subgroup(_)) || !d.ho.is_multiple_of(2) || !d.wo.is_multiple_of(2) {
        let message = format!("{form:?} tiles of {}x{} outputs cannot be pooled by 2x2", d.ho, d.wo);
        return Err(GpuError::Record { entry: forward_pool_kernel(d).entry, message });
    }
    let mut constants = constants(d);
    constants.push(("RELU", f64::from(relu)));
    let pooled = d.y_len() / 4;
    plan.push(
        forward_pool_kernel(d),
        &form.constants(constants),
        form.workgroups(d.n * d.ho * d.wo, d.o, POSITIONS_PER_LANE),
        &[
            bind("x", x, d.x_len()),
            bind("w", w, d.w_len()),
            bind("b", b, d.o),
            bind("y", y, pooled),
            bind("argmax", argmax, pooled),
        ],
    )?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

fn forward_pool_kernel(d: &Conv2dDims) -> &'static KernelSpec {
    if d.c.is_multiple_of(4) { &FORWARD_SUBGROUP_POOL } else { &FORWARD_SUBGROUP_ANY_POOL }
}

/// Records the gradient of the input; where `x_is_relu`, dx is zero where x is, which is the backward pass of the ReLU before.
///
/// Shapes: x and dx `[N, H, W, C]`, w `[KH, KW, C, O]`, dy `[N, HO, WO, O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the shader does not compile.
#[allow(clippy::too_many_arguments, reason = "one argument a tensor, named as in the formula")]
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &Conv2dDims,
    x_is_relu: bool,
    x: &Tensor,
    w: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<(), GpuError> {
    form.check(form.pick([&BACKWARD_X, &BACKWARD_X_SUBGROUP, &BACKWARD_X_SHARED]), &[d.c, d.o])?;
    let mut constants = constants(d);
    constants.push(("X_IS_RELU", f64::from(x_is_relu)));
    plan.push(
        form.pick([&BACKWARD_X, &BACKWARD_X_SUBGROUP, &BACKWARD_X_SHARED]),
        &form.constants(constants),
        form.workgroups(d.n * d.h * d.w, d.c, POSITIONS_PER_LANE),
        &[bind("x", x, d.x_len()), bind("w", w, d.w_len()), bind("dy", dy, d.y_len()), bind("dx", dx, d.x_len())],
    )?;
    plan.note_multiply_adds(multiply_adds(d));
    Ok(())
}

/// The kernel for the filter's gradient.
fn backward_w_kernel(form: Form, d: &Conv2dDims) -> &'static KernelSpec {
    let subgroup = if d.c.is_multiple_of(4) { &BACKWARD_W_SUBGROUP } else { &BACKWARD_W_SUBGROUP_ANY };
    form.pick([&BACKWARD_W, subgroup, &BACKWARD_W_SHARED])
}

/// Tiles of the filter's gradient along its rows and its columns: what one part takes in workgroups.
fn backward_w_tiles(form: Form, d: &Conv2dDims) -> [usize; 2] {
    if form == Form::Plain {
        return [((d.kh * d.kw * d.c + 1) * d.o).div_ceil(64), 1];
    }
    let [tile_rows, tile_columns] = form.tile(CELLS_PER_LANE);
    // The bias is a row of its own, except in subgroup tiles, where its gradient comes along.
    let rows = d.kh * d.kw * d.c + usize::from(!matches!(form, Form::Subgroup(_)));
    [rows.div_ceil(tile_rows), d.o.div_ceil(tile_columns)]
}

/// Pictures that one part of the filter gradient sums.
///
/// The filter has few cells, so its gradient alone would keep few cores busy: the batch is split until there are some
/// tens of workgroups (a processor) or hundreds (a GPU). The count depends on the shapes alone, so that results repeat.
fn images_per_part(form: Form, d: &Conv2dDims) -> usize {
    let wanted: usize = match form {
        Form::Shared => 256,
        Form::Plain | Form::Subgroup(_) => 32,
    };
    let parts = wanted.div_ceil(backward_w_tiles(form, d).iter().product()).clamp(1, d.n);
    // lavapipe ends an invocation's loops after 65,535 rounds in all, and the sum would be short without a word.
    let rounds_per_image = d.ho * (d.wo + 1) + 1;
    d.n.div_ceil(parts).min((65_535 / rounds_per_image).max(1))
}

/// Shape of the scratch tensor of [`record_backward_w`]: `[parts, KH*KW*C + 1, O]`.
pub fn dw_parts_shape(form: Form, d: &Conv2dDims) -> [usize; 3] {
    [d.n.div_ceil(images_per_part(form, d)), d.kh * d.kw * d.c + 1, d.o]
}

/// Records the gradients of filter and bias: parts over groups of pictures, then their sum.
///
/// Shapes: x `[N, H, W, C]`, dy `[N, HO, WO, O]`, dw_parts [`dw_parts_shape`], dw `[KH, KW, C, O]`, db `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or the shader does not compile.
#[allow(clippy::too_many_arguments, reason = "one argument a tensor, named as in the formula")]
pub fn record_backward_w(
    plan: &mut PlanBuilder<'_>,
    form: Form,
    d: &Conv2dDims,
    x: &Tensor,
    dy: &Tensor,
    dw_parts: &Tensor,
    dw: &Tensor,
    db: &Tensor,
) -> Result<(), GpuError> {
    form.check(backward_w_kernel(form, d), &[d.o])?;
    let mut constants = constants(d);
    constants.push(("IMAGES_PER_PART", images_per_part(form, d) as f64));
    let [parts, rows, _] = dw_parts_shape(form, d);
    let workgroups = match form {
        Form::Plain => workgroups_linear(parts * rows * d.o, 64),
        _ => {
            let [x, y] = backward_w_tiles(form, d);
            [x as u32, y as u32, parts as u32]
        }
    };
    let parts_len = parts * rows * d.o;
    plan.push(
        backward_w_kernel(form, d),
        &form.constants(constants.clone()),
        workgroups,
        &[bind("x", x, d.x_len()), bind("dy", dy, d.y_len()), bind("dw_parts", dw_parts, parts_len)],
    )?;
    plan.note_multiply_adds(multiply_adds(d));
    plan.push(
        &BACKWARD_W_SUM,
        &constants,
        workgroups_linear(d.w_len() + d.o, 64),
        &[bind("parts", dw_parts, parts_len), bind("dw", dw, d.w_len()), bind("db", db, d.o)],
    )
}

/// Compares the kernels with the mirror on one shape.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, d: &Conv2dDims, breadth: Breadth) -> Result<(), GpuError> {
    let case = format!(
        "{}x{}x{}x{} k{}x{} o{} s{}x{} p{},{}",
        d.n, d.h, d.w, d.c, d.kh, d.kw, d.o, d.stride_h, d.stride_w, d.pad_top, d.pad_left
    );
    let x = v.random(d.x_len());
    let w = v.random(d.w_len());
    let b = v.random(d.o);
    let dy = v.random(d.y_len());
    let (x64, w64, b64, dy64) = (widen(&x), widen(&w), widen(&b), widen(&dy));
    let positions = d.n * d.ho * d.wo;

    let mut y64 = vec![0.0; d.y_len()];
    cpu::conv2d_forward(d, &x64, &w64, &b64, &mut y64);
    let mut y_scale = vec![0.0; d.y_len()];
    cpu::conv2d_forward(d, &absolute(&x64), &absolute(&w64), &absolute(&b64), &mut y_scale);
    for form in v.forms(breadth, &[d.o]) {
        for &relu in breadth.relu() {
            let expected: Vec<f64> = y64.iter().map(|&y| if relu { y.max(0.0) } else { y }).collect();
            let mut run = v.run();
            let (tx, tw, tb) = (run.input(&x)?, run.input(&w)?, run.input(&b)?);
            let ty = run.output(d.y_len())?;
            record_forward(&mut run.plan, form, d, relu, &tx, &tw, &tb, &ty)?;
            let name = forward_kernel(form, d).entry;
            run.check_sums(name, &case, &[(&ty, &expected, &y_scale, d.terms() + 1)])?;
        }
    }

    verify_forward_pool(v, d, breadth, &case)?;

    let mut dx64 = vec![0.0; d.x_len()];
    cpu::conv2d_backward_x(d, &w64, &dy64, &mut dx64);
    let mut dx_scale = vec![0.0; d.x_len()];
    cpu::conv2d_backward_x(d, &absolute(&w64), &absolute(&dy64), &mut dx_scale);
    for form in v.forms(breadth, &[d.c, d.o]) {
        for &x_is_relu in breadth.relu() {
            let expected: Vec<f64> =
                dx64.iter().zip(&x).map(|(&dx, &x)| if x_is_relu && x <= 0.0 { 0.0 } else { dx }).collect();
            let mut run = v.run();
            let (tx, tw, tdy) = (run.input(&x)?, run.input(&w)?, run.input(&dy)?);
            let tdx = run.output(d.x_len())?;
            record_backward_x(&mut run.plan, form, d, x_is_relu, &tx, &tw, &tdy, &tdx)?;
            let name = form.pick([&BACKWARD_X, &BACKWARD_X_SUBGROUP, &BACKWARD_X_SHARED]).entry;
            run.check_sums(name, &case, &[(&tdx, &expected, &dx_scale, d.kh * d.kw * d.o)])?;
        }
    }

    let bias_dims = bias::BiasDims { n: positions, o: d.o };
    let (mut dw64, mut db64) = (vec![0.0; d.w_len()], vec![0.0; d.o]);
    cpu::conv2d_backward_w(d, &x64, &dy64, &mut dw64);
    bias::bias_backward_b(&bias_dims, &dy64, &mut db64);
    let (mut dw_scale, mut db_scale) = (vec![0.0; d.w_len()], vec![0.0; d.o]);
    cpu::conv2d_backward_w(d, &absolute(&x64), &absolute(&dy64), &mut dw_scale);
    bias::bias_backward_b(&bias_dims, &absolute(&dy64), &mut db_scale);
    for form in v.forms(breadth, &[d.o]) {
        let mut run = v.run();
        let (tx, tdy) = (run.input(&x)?, run.input(&dy)?);
        let parts = run.output(dw_parts_shape(form, d).iter().product())?;
        let (tdw, tdb) = (run.output(d.w_len())?, run.output(d.o)?);
        record_backward_w(&mut run.plan, form, d, &tx, &tdy, &parts, &tdw, &tdb)?;
        let name = backward_w_kernel(form, d).entry;
        run.check_sums(name, &case, &[(&tdw, &dw64, &dw_scale, positions), (&tdb, &db64, &db_scale, positions)])?;
    }
    v.covered(BACKWARD_W_SUM.entry, BACKWARD_W.entry);
    Ok(())
}

/// Convolution and pooling at once. The inputs are small whole numbers: then every sum is exact, and so is the position of the
/// largest, of which there are often several.
fn verify_forward_pool(v: &mut Verifier<'_>, d: &Conv2dDims, breadth: Breadth, case: &str) -> Result<(), GpuError> {
    let whole = |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(|value| (value * 3.0).round()).collect() };
    let (x, w, b) = (whole(v.random(d.x_len())), whole(v.random(d.w_len())), whole(v.random(d.o)));
    let Ok(pool) = Pool2dDims::new(d.n, [d.ho, d.wo, d.o], [2, 2], [2, 2], Padding::Valid) else { return Ok(()) };
    let forms: Vec<Form> = v.forms(breadth, &[d.o]).into_iter().filter(|&form| pools(form, d, &pool)).collect();
    if forms.is_empty() {
        return Ok(());
    }
    let mut y64 = vec![0.0; d.y_len()];
    cpu::conv2d_forward(d, &widen(&x), &widen(&w), &widen(&b), &mut y64);
    for form in forms {
        for &relu in breadth.relu() {
            let before: Vec<f64> = y64.iter().map(|&y| if relu { y.max(0.0) } else { y }).collect();
            let mut expected = vec![0.0; d.y_len() / 4];
            let mut argmax = vec![0; d.y_len() / 4];
            pool2d_max_forward(&pool, &before, &mut expected, &mut argmax);
            let mut run = v.run();
            let (tx, tw, tb) = (run.input(&x)?, run.input(&w)?, run.input(&b)?);
            let (ty, targmax) = (run.output(expected.len())?, run.output_u32(argmax.len())?);
            record_forward_pool(&mut run.plan, form, d, relu, &tx, &tw, &tb, &ty, &targmax)?;
            let exact = vec![0.0; expected.len()];
            run.check(forward_pool_kernel(d).entry, case, &[(&ty, &expected, &exact)], &[(&targmax, &argmax)])?;
        }
    }
    Ok(())
}

/// The shapes of `fmnist-gpu selftest`: the two layers of the article as this device trains them, and small odd ones in every form.
///
/// The odd shapes have more than 32 channels and more than 32 filter cells: sums that are shorter are unrolled by Mesa 25.0, which
/// then compiles for up to 14 s a kernel. Shorter ones are compared in the tests.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    let cases = [
        (2, [28, 28, 1], [3, 3], 32, [1, 1], Padding::Same, Breadth::AsTrained),
        (2, [14, 14, 32], [3, 3], 64, [1, 1], Padding::Same, Breadth::AsTrained),
        (3, [9, 6, 6], [2, 3], 36, [2, 1], Padding::Valid, Breadth::Forms),
        (1, [7, 6, 4], [3, 4], 36, [2, 3], Padding::Same, Breadth::Forms),
    ];
    for (n, input, window, o, stride, padding, breadth) in cases {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).expect("the shapes above are valid");
        verify(v, &d, breadth)?;
    }
    Ok(())
}
