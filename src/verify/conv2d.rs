//! Proof of the convolution: its kernels, in every form, agree with [`crate::cpu::conv2d`].

use super::gradients::Gradients;
use super::{Bounded, Breadth, LOADS_BY_4, TilesChange, Verifier, bias, widen};
use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::conv2d as cpu;
use crate::cpu::pool2d::{Pool2dDims, pool2d_max_backward_x, pool2d_max_forward};
use crate::gpu::GpuError;
use crate::ops::conv2d::{
    BACKWARD_W, BACKWARD_W_SUM, Conv2dDims, Padding, backward_w_kernel, backward_x_and_w_kernel, backward_x_kernel,
    forward_kernel, halving, is_small, pools, record_backward, record_backward_w, record_backward_x, record_forward,
    unpools,
};
use crate::ops::{Form, SharedTiles};

/// Sums of a small filter's gradient in registers.
const SMALL_FILTERS: TilesChange = |tiles| SharedTiles { small_filters: true, ..tiles };

/// The dimensions of the bias of a convolution.
fn bias_dims(d: &Conv2dDims) -> BiasDims {
    BiasDims { n: d.n * d.ho * d.wo, o: d.o }
}

/// Returns y.
pub(super) fn forward(d: &Conv2dDims, x: &[f32], w: &[f32], b: &[f32]) -> Bounded {
    Bounded::mirrored([x, w, b], d.y_len(), d.terms() + 1, |[x, w, b], y| cpu::conv2d_forward(d, x, w, b, y))
}

/// Returns dx.
pub(super) fn backward_x(d: &Conv2dDims, w: &[f32], dy: &[f32]) -> Bounded {
    Bounded::mirrored([w, dy], d.x_len(), d.kh * d.kw * d.o, |[w, dy], dx| cpu::conv2d_backward_x(d, w, dy, dx))
}

/// Returns dw and db.
pub(super) fn backward_w(d: &Conv2dDims, x: &[f32], dy: &[f32]) -> [Bounded; 2] {
    let positions = d.n * d.ho * d.wo;
    let dw = Bounded::mirrored([x, dy], d.w_len(), positions, |[x, dy], dw| cpu::conv2d_backward_w(d, x, dy, dw));
    [dw, bias::backward_b(&bias_dims(d), dy)]
}

/// Compares the kernels with the mirror for one shape.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &Conv2dDims, breadth: Breadth) -> Result<(), GpuError> {
    let case = format!(
        "{}x{}x{}x{} k{}x{} o{} s{}x{} p{},{}",
        d.n, d.h, d.w, d.c, d.kh, d.kw, d.o, d.stride_h, d.stride_w, d.pad_top, d.pad_left
    );
    let x = v.random(d.x_len());
    let w = v.random(d.w_len());
    let b = v.random(d.o);
    let dy = v.random(d.y_len());

    let y = forward(d, &x, &w, &b);
    for form in v.forms(breadth, d.o, &[d.o], &changes(d, false)) {
        for &relu in breadth.relu() {
            let name = forward_kernel(form, d, false).entry;
            v.check(name, &case, [&x, &w, &b], [&y.then_relu(relu)], |plan, [x, w, b], [y]| {
                record_forward(plan, form, d, relu, [x, w, b, y], None)
            })?;
        }
    }

    verify_forward_pool(v, d, breadth, &case)?;
    verify_backward(v, d, breadth, &case, [&x, &w, &dy], None)?;
    if let Some(pool) = halving(d) {
        // The gradient of the pooled outputs, and the gradient before the pooling.
        let given = v.random(d.y_len() / 4);
        let before = v.random(d.y_len());
        let (mut pooled, mut argmax) = (vec![0.0; given.len()], vec![0; given.len()]);
        pool2d_max_forward(&pool, &before, &mut pooled, &mut argmax);
        verify_backward(v, d, breadth, &case, [&x, &w, &given], Some((&pool, &argmax)))?;
    }
    v.covered(BACKWARD_W_SUM.entry, BACKWARD_W.entry);
    Ok(())
}

/// Returns the other ways to compute the passes of this shape in tiles, and the one more for the filter's gradient.
fn changes(d: &Conv2dDims, of_filter: bool) -> Vec<TilesChange> {
    let by_4 = d.c.is_multiple_of(4) && d.o.is_multiple_of(4);
    let small = of_filter && is_small(d);
    [(by_4, LOADS_BY_4), (small, SMALL_FILTERS)].into_iter().filter(|(can, _)| *can).map(|(_, change)| change).collect()
}

/// Compares the gradients, each alone and both in one dispatch; with a pooling and its argmax, given the gradient dy after
/// it, in the forms that allow it.
fn verify_backward(
    v: &mut Verifier,
    d: &Conv2dDims,
    breadth: Breadth,
    case: &str,
    [x, w, dy]: [&[f32]; 3],
    pooled: Option<(&Pool2dDims, &[u32])>,
) -> Result<(), GpuError> {
    let mut whole = vec![0.0; d.y_len()];
    match pooled {
        Some((pool, argmax)) => pool2d_max_backward_x(pool, argmax, dy, &mut whole),
        None => whole.copy_from_slice(dy),
    }
    let argmax = pooled.map(|(_, argmax)| v.gpu.tensor_from_u32("argmax", &[argmax.len()], argmax)).transpose()?;
    let (dx, [dw, db]) = (backward_x(d, w, &whole), backward_w(d, x, &whole));
    let forms = |v: &Verifier, [needs_dw, needs_dx]: [bool; 2], columns: usize, by_4: &[usize]| -> Vec<Form> {
        let takes = |form: &Form| pooled.is_none_or(|(pool, _)| unpools(*form, d, needs_dx, pool));
        v.forms(breadth, columns, by_4, &changes(d, needs_dw && !needs_dx)).into_iter().filter(takes).collect()
    };
    // Images are not trained, so their gradient is compared only where every gradient is.
    let trained = breadth != Breadth::AsTrained || d.c > 1;
    for form in forms(v, [false, true], d.c, &[d.c, d.o]).into_iter().filter(|_| trained) {
        for &x_is_relu in breadth.relu() {
            let (name, dx) = (backward_x_kernel(form, d).entry, dx.masked(x_is_relu, x));
            v.check(name, case, [x, w, dy], [&dx], |plan, [x, w, dy], [dx]| {
                record_backward_x(plan, form, d, x_is_relu, [x, w, dy, dx], argmax.as_ref())
            })?;
        }
    }
    for form in forms(v, [true, false], d.o, &[d.o]) {
        let name = backward_w_kernel(form, d, pooled.is_some()).entry;
        v.check(name, case, [x, dy], [&dw, &db], |plan, [x, dy], [dw, db]| {
            record_backward_w(plan, form, d, [x, dy, dw, db], argmax.as_ref())
        })?;
    }
    // Both in one dispatch, if the form has it. Mesa 25.0 takes nine seconds to compile it, so a self-test does it only
    // once.
    if breadth == Breadth::Forms && pooled.is_none() && halving(d).is_some() {
        return Ok(());
    }
    let shared = |form: &Form| matches!(form, Form::Shared(_));
    for form in forms(v, [true, true], d.c.min(d.o), &[]).into_iter().filter(shared) {
        let (name, outputs) = (backward_x_and_w_kernel(form, d).entry, [&dx.masked(true, x), &dw, &db]);
        v.check(name, case, [x, w, dy], outputs, |plan, [x, w, dy], [dx, dw, db]| {
            record_backward(plan, [form, form], d, true, [x, w, dy, dx, dw, db], argmax.as_ref())
        })?;
    }
    Ok(())
}

/// Compares convolution and pooling in one dispatch. The inputs are small integers, so every sum is exact and so is the
/// position of the largest, of which there are often several.
fn verify_forward_pool(v: &mut Verifier, d: &Conv2dDims, breadth: Breadth, case: &str) -> Result<(), GpuError> {
    let whole = |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(|value| (value * 3.0).round()).collect() };
    let (x, w, b) = (whole(v.random(d.x_len())), whole(v.random(d.w_len())), whole(v.random(d.o)));
    let Some(pool) = halving(d) else { return Ok(()) };
    let forms = v.forms(breadth, d.o, &[d.o], &changes(d, false));
    let forms: Vec<Form> = forms.into_iter().filter(|&form| pools(form, d, &pool)).collect();
    if forms.is_empty() {
        return Ok(());
    }
    let mut y64 = vec![0.0; d.y_len()];
    cpu::conv2d_forward(d, &widen(&x), &widen(&w), &widen(&b), &mut y64);
    let y = Bounded::exact(y64);
    for form in forms {
        for &relu in breadth.relu() {
            let mut expected = vec![0.0; d.y_len() / 4];
            let mut argmax = vec![0; d.y_len() / 4];
            pool2d_max_forward(&pool, &y.then_relu(relu).values, &mut expected, &mut argmax);
            let mut run = v.run();
            let (tx, tw, tb) = (run.input(&x)?, run.input(&w)?, run.input(&b)?);
            let (ty, targmax) = (run.output(expected.len())?, run.output_u32(argmax.len())?);
            record_forward(&mut run.plan, form, d, relu, [&tx, &tw, &tb, &ty], Some(&targmax))?;
            let outputs = [(&ty, &Bounded::exact(expected))];
            run.check(forward_kernel(form, d, true).entry, case, &outputs, &[(&targmax, &argmax)]);
        }
    }
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`: the two layers of the article as this device trains them, and small odd
/// ones in every form.
///
/// The odd shapes have more than 32 channels and more than 32 filter cells: Mesa 25.0 unrolls shorter sums and then
/// takes up to 14 s to compile a kernel. Shorter ones are compared in the tests. The padded ones have two images: of a single one, what a
/// forgotten guard reads is outside the tensor, and zero. One of them has channels in multiples of four, for which the plain form has
/// other kernels.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let cases = [
        (2, [28, 28, 1], [3, 3], 32, [1, 1], Padding::Same, Breadth::AsTrained),
        (2, [14, 14, 32], [3, 3], 64, [1, 1], Padding::Same, Breadth::AsTrained),
        (3, [9, 6, 6], [2, 3], 36, [2, 1], Padding::Valid, Breadth::Forms),
        (2, [7, 6, 4], [3, 4], 36, [2, 3], Padding::Same, Breadth::OwnForms),
        (2, [7, 6, 3], [3, 4], 37, [2, 3], Padding::Same, Breadth::OwnForms),
    ];
    for (n, input, window, o, stride, padding, breadth) in cases {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).expect("the shapes above are valid");
        verify(v, &d, breadth)?;
    }
    // Other ways to compute in tiles: more channels than a tile has, and parts of different lengths.
    let small = Conv2dDims::new(19, [9, 6, 2], [2, 3], 36, [2, 1], Padding::Valid).expect("the shape is valid");
    let takes = |form: &Form| matches!(form, Form::Shared(tiles) if tiles.small_filters);
    v.within(takes, |v| verify(v, &small, Breadth::Forms))?;
    let by_4 = Conv2dDims::new(4, [6, 6, 8], [2, 3], 36, [1, 1], Padding::Same).expect("the shape is valid");
    let takes = |form: &Form| matches!(form, Form::Shared(tiles) if tiles.loads_by_4);
    v.within(takes, |v| verify(v, &by_4, Breadth::Forms))
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, input, window, o, stride, padding) in [
        (2, [5, 4, 2], [3, 3], 3, [1, 1], Padding::Same),
        (1, [6, 5, 3], [2, 3], 2, [2, 1], Padding::Valid),
        (2, [3, 4, 1], [5, 4], 2, [2, 3], Padding::Same),
        (1, [1, 1, 1], [1, 1], 1, [1, 1], Padding::Valid),
    ] {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).expect("the shapes above are valid");
        let case = format!("{d:?}");
        let (x, w, b) = (g.values(d.x_len()), g.values(d.w_len()), g.values(d.o));
        let dy = g.values(d.y_len());
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; d.o]);
        cpu::conv2d_backward_x(&d, &w, &dy, &mut dx);
        cpu::conv2d_backward_w(&d, &x, &dy, &mut dw);
        bias_backward_b(&bias_dims(&d), &dy, &mut db);
        g.check("conv2d_backward_x", &case, [&x, &dx], &dy, |x, y| cpu::conv2d_forward(&d, x, &w, &b, y));
        g.check("conv2d_backward_w", &case, [&w, &dw], &dy, |w, y| cpu::conv2d_forward(&d, &x, w, &b, y));
        g.check("bias_backward_b", &case, [&b, &db], &dy, |b, y| cpu::conv2d_forward(&d, &x, &w, b, y));
    }
}
