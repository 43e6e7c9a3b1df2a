//! Proof of the convolution: its kernels, in every form, agree with [`crate::cpu::conv2d`].

use super::gradients::Gradients;
use super::native::Check;
use super::{Bounded, Breadth, Verifier, bias, compare, compare_exact, widen};
use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::conv2d as cpu;
use crate::cpu::pool2d::{Pool2dDims, pool2d_max_backward_x, pool2d_max_forward};
use crate::gpu::GpuError;
use crate::native::conv2d::{self as fast, Conv2d, Packed, Scratch};
use crate::ops::Form;
use crate::ops::conv2d::{
    BACKWARD_W, BACKWARD_W_SUM, BACKWARD_X_AND_W_SHARED, Conv2dDims, Padding, backward_w_kernel, backward_x_kernel,
    forward_kernel, halving, pools, record_backward, record_backward_w, record_backward_x, record_forward, unpools,
};

/// The dimensions of the bias of a convolution.
fn bias_dims(d: &Conv2dDims) -> BiasDims {
    BiasDims { n: d.n * d.ho * d.wo, o: d.o }
}

/// Returns y.
fn forward(d: &Conv2dDims, x: &[f32], w: &[f32], b: &[f32]) -> Bounded {
    Bounded::mirrored([x, w, b], d.y_len(), d.terms() + 1, |[x, w, b], y| cpu::conv2d_forward(d, x, w, b, y))
}

/// Returns dx.
fn backward_x(d: &Conv2dDims, w: &[f32], dy: &[f32]) -> Bounded {
    Bounded::mirrored([w, dy], d.x_len(), d.kh * d.kw * d.o, |[w, dy], dx| cpu::conv2d_backward_x(d, w, dy, dx))
}

/// Returns dw and db.
fn backward_w(d: &Conv2dDims, x: &[f32], dy: &[f32]) -> [Bounded; 2] {
    let positions = d.n * d.ho * d.wo;
    let dw = Bounded::mirrored([x, dy], d.w_len(), positions, |[x, dy], dw| cpu::conv2d_backward_w(d, x, dy, dw));
    [dw, bias::backward_b(&bias_dims(d), dy)]
}

/// Compares the kernels with the mirror for one shape.
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

    let y = forward(d, &x, &w, &b);
    for form in v.forms(breadth, d.o, &[d.o]) {
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

/// Compares the gradients, each alone and both in one dispatch; with a pooling and its argmax, given the gradient dy after
/// it, in the forms that allow it.
fn verify_backward(
    v: &mut Verifier<'_>,
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
    let forms = |v: &Verifier<'_>, needs_dx: bool, columns: usize, by_4: &[usize]| -> Vec<Form> {
        let takes = |form: &Form| pooled.is_none_or(|(pool, _)| unpools(*form, d, needs_dx, pool));
        v.forms(breadth, columns, by_4).into_iter().filter(takes).collect()
    };
    // Images are not trained, so their gradient is compared only where every gradient is.
    let trained = breadth != Breadth::AsTrained || d.c > 1;
    for form in forms(v, true, d.c, &[d.c, d.o]).into_iter().filter(|_| trained) {
        for &x_is_relu in breadth.relu() {
            let (name, dx) = (backward_x_kernel(form).entry, dx.masked(x_is_relu, x));
            v.check(name, case, [x, w, dy], [&dx], |plan, [x, w, dy], [dx]| {
                record_backward_x(plan, form, d, x_is_relu, [x, w, dy, dx], argmax.as_ref())
            })?;
        }
    }
    for form in forms(v, false, d.o, &[d.o]) {
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
    for form in forms(v, true, d.c.min(d.o), &[]).into_iter().filter(|form| matches!(form, Form::Shared(_))) {
        let (name, outputs) = (BACKWARD_X_AND_W_SHARED.entry, [&dx.masked(true, x), &dw, &db]);
        v.check(name, case, [x, w, dy], outputs, |plan, [x, w, dy], [dx, dw, db]| {
            record_backward(plan, [form, form], d, true, [x, w, dy, dx, dw, db], argmax.as_ref())
        })?;
    }
    Ok(())
}

/// Compares convolution and pooling in one dispatch. The inputs are small integers, so every sum is exact and so is the
/// position of the largest, of which there are often several.
fn verify_forward_pool(v: &mut Verifier<'_>, d: &Conv2dDims, breadth: Breadth, case: &str) -> Result<(), GpuError> {
    let whole = |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(|value| (value * 3.0).round()).collect() };
    let (x, w, b) = (whole(v.random(d.x_len())), whole(v.random(d.w_len())), whole(v.random(d.o)));
    let Some(pool) = halving(d) else { return Ok(()) };
    let forms: Vec<Form> = v.forms(breadth, d.o, &[d.o]).into_iter().filter(|&form| pools(form, d, &pool)).collect();
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
            run.check(forward_kernel(form, d, true).entry, case, &outputs, &[(&targmax, &argmax)])?;
        }
    }
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`: the two layers of the article as this device trains them, and small odd
/// ones in every form.
///
/// The odd shapes have more than 32 channels and more than 32 filter cells: Mesa 25.0 unrolls shorter sums and then
/// takes up to 14 s to compile a kernel. Shorter ones are compared in the tests.
pub(super) fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    let cases = [
        (2, [28, 28, 1], [3, 3], 32, [1, 1], Padding::Same, Breadth::AsTrained),
        (2, [14, 14, 32], [3, 3], 64, [1, 1], Padding::Same, Breadth::AsTrained),
        (3, [9, 6, 6], [2, 3], 36, [2, 1], Padding::Valid, Breadth::Forms),
        (1, [7, 6, 4], [3, 4], 36, [2, 3], Padding::Same, Breadth::OwnForms),
    ];
    for (n, input, window, o, stride, padding, breadth) in cases {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).expect("the shapes above are valid");
        verify(v, &d, breadth)?;
    }
    Ok(())
}

pub(super) fn native(check: &mut Check) {
    let everything = check.breadth == Breadth::Everything;
    let pools = [None, Some([2, 2])];
    // n, [H, W, C], [KH, KW], O, [SH, SW], padding
    let mut convolutions = vec![
        (2, [28, 28, 1], [3, 3], 32, [1, 1], Padding::Same),
        (2, [14, 14, 32], [3, 3], 64, [1, 1], Padding::Same),
        (1, [9, 17, 16], [3, 3], 32, [1, 1], Padding::Same),
        (2, [11, 6, 5], [2, 3], 7, [2, 1], Padding::Valid),
    ];
    if everything {
        convolutions.extend([
            (1, [1, 1, 1], [1, 1], 1, [1, 1], Padding::Valid),
            (3, [5, 5, 2], [3, 3], 16, [1, 1], Padding::Same),
            (2, [7, 15, 3], [3, 3], 32, [1, 1], Padding::Valid),
            (1, [8, 13, 32], [3, 3], 64, [1, 1], Padding::Same),
            (1, [16, 16, 64], [3, 3], 32, [1, 1], Padding::Same),
            (1, [16, 16, 16], [3, 3], 48, [1, 1], Padding::Same),
            (1, [15, 31, 8], [3, 3], 64, [1, 1], Padding::Same),
            (2, [17, 19, 1], [5, 5], 32, [1, 1], Padding::Same),
            (1, [20, 18, 32], [5, 3], 32, [1, 1], Padding::Valid),
            (2, [13, 11, 4], [4, 4], 12, [3, 2], Padding::Same),
            (1, [3, 4, 7], [5, 5], 3, [1, 1], Padding::Same),
            (1, [40, 300, 33], [3, 3], 17, [1, 1], Padding::Same),
        ]);
    }
    for (n, input, window, o, stride, padding) in convolutions {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).expect("the shapes above are valid");
        let more = [Some([3, 2]), Some([4, 4])];
        for pool in pools.iter().chain(more.iter().filter(|_| everything)) {
            let pool =
                pool.and_then(|window| Pool2dDims::new(d.n, [d.ho, d.wo, d.o], window, window, Padding::Valid).ok());
            for form in [fast::Form::Fastest, fast::Form::Patches] {
                native_case(check, &d, pool.as_ref(), form);
            }
        }
    }
    if everything {
        // A window with more positions than fit into a byte.
        let d = Conv2dDims::new(1, [18, 18, 16], [3, 3], 32, [1, 1], Padding::Same).expect("the shape is valid");
        let pool = Pool2dDims::new(1, [18, 18, 32], [18, 17], [18, 17], Padding::Valid).expect("the window fits");
        native_case(check, &d, Some(&pool), fast::Form::Fastest);
    }
}

/// Compares the forward pass and all gradients of a convolution, including what follows it.
fn native_case(check: &mut Check, d: &Conv2dDims, pool: Option<&Pool2dDims>, form: fast::Form) {
    let case = format!("{d:?}, {pool:?}, {form:?}");
    for relu in [false, true] {
        let conv = Conv2d::new(d, relu, pool.copied(), true, form);
        let (w, b) = (check.whole_numbers(d.w_len()), check.whole_numbers(d.o));
        let x = check.whole_numbers(d.x_len());
        native_forward(check, &case, &conv, d, [&x, &w, &b], true);
        let (w, b, x) = (check.values(d.w_len()), check.values(d.o), check.values(d.x_len()));
        native_forward(check, &case, &conv, d, [&x, &w, &b], false);
    }
    for needs_dx in [false, true] {
        native_backward(check, &case, &Conv2d::new(d, true, pool.copied(), needs_dx, form), d, needs_dx);
    }
}

/// Compares the forward pass; with `exact`, all sums are whole numbers.
fn native_forward(check: &mut Check, case: &str, conv: &Conv2d, d: &Conv2dDims, [x, w, b]: [&[f32]; 3], exact: bool) {
    const NAME: &str = "native conv2d_forward";
    let (mut packed, mut scratch) = (Packed::default(), Scratch::new([conv]));
    conv.pack(w, &mut packed);
    let mut y = vec![f32::NAN; d.n * conv.y_len()];
    let mut argmax = vec![u32::MAX; if conv.pool.is_some() { y.len() } else { 0 }];
    conv.forward([x, w, b], &packed, &mut y, &mut argmax, &mut scratch);

    let mut sums = forward(d, x, w, b).then_relu(conv.relu);
    if exact {
        sums.bound.fill(0.0);
    }
    let Some(pool) = conv.pool.map(|pool| pool.for_images(d.n)) else {
        return check.bounded(NAME, case, &y, &sums);
    };
    let (mut expected, mut expected_at) = (vec![0.0; y.len()], vec![0; y.len()]);
    pool2d_max_forward(&pool, &sums.values, &mut expected, &mut expected_at);
    // The error of a maximum is at most the largest error in its window.
    let (mut allowed, mut unused) = (vec![0.0; y.len()], vec![0; y.len()]);
    pool2d_max_forward(&pool, &sums.bound, &mut allowed, &mut unused);
    check.note(NAME, case, y.len(), &compare(&y, &expected, &allowed));
    if exact {
        check.note("native conv2d_forward, argmax", case, y.len(), &compare_exact(&argmax, &expected_at));
        return;
    }
    // The chosen value is a maximum within the accuracy of single precision.
    let image = d.ho * d.wo;
    let chosen: Vec<f32> = argmax
        .iter()
        .enumerate()
        .map(|(i, &at)| {
            let (n, o) = (i / conv.y_len(), i % d.o);
            if (at as usize) < image { sums.values[(n * image + at as usize) * d.o + o] as f32 } else { f32::NAN }
        })
        .collect();
    let allowed: Vec<f64> = allowed.iter().zip(&expected).map(|(a, e)| 2.0 * a + e.abs() * 1e-7).collect();
    check.note("native conv2d_forward, argmax", case, y.len(), &compare(&chosen, &expected, &allowed));
}

fn native_backward(check: &mut Check, case: &str, conv: &Conv2d, d: &Conv2dDims, needs_dx: bool) {
    // The input is the output of a ReLU, and a ReLU follows: some values and gradients are zero.
    let x: Vec<f32> = check.values(d.x_len()).into_iter().map(|x| x.max(0.0)).collect();
    let (w, b) = (check.values(d.w_len()), check.values(d.o));
    let y_len = d.n * conv.y_len();
    let mut dy = check.values(y_len);
    dy.iter_mut().step_by(3).for_each(|dy| *dy = 0.0);
    let (mut packed, mut scratch) = (Packed::default(), Scratch::new([conv]));
    conv.pack(&w, &mut packed);
    let (mut y, mut argmax) = (vec![0.0; y_len], vec![0; if conv.pool.is_some() { y_len } else { 0 }]);
    conv.forward([&x, &w, &b], &packed, &mut y, &mut argmax, &mut scratch);

    // In two parts, the last image separately.
    let mut parts = vec![0.0; 2 * conv.sums_len()];
    let mut dx = vec![f32::NAN; d.x_len()];
    let first = d.n - 1;
    let (of_first, of_last) = parts.split_at_mut(conv.sums_len());
    for (sums, images) in [(of_first, 0..first), (of_last, first..d.n)] {
        let of = |len: usize| images.start * len..images.end * len;
        let (x_len, y_len) = (d.x_len() / d.n, conv.y_len());
        let argmax = if argmax.is_empty() { &argmax[..] } else { &argmax[of(y_len)] };
        let dx = needs_dx.then(|| &mut dx[of(x_len)]);
        conv.backward(true, [&x[of(x_len)], &w, &dy[of(y_len)]], &packed, argmax, sums, dx, &mut scratch);
    }
    let (mut dw, mut db) = (vec![f32::NAN; d.w_len()], vec![f32::NAN; d.o]);
    conv.gather_dw(&parts, &mut dw);
    conv.gather_db(&parts, &mut db);

    let dy = match conv.pool {
        Some(pool) => {
            let mut unpooled = vec![0.0; d.y_len()];
            pool2d_max_backward_x(&pool.for_images(d.n), &argmax, &dy, &mut unpooled);
            unpooled
        }
        None => dy,
    };
    let [expected_dw, expected_db] = backward_w(d, &x, &dy);
    check.bounded("native conv2d_backward_w", case, &dw, &expected_dw);
    check.bounded("native conv2d_backward_b", case, &db, &expected_db);
    if needs_dx {
        check.bounded("native conv2d_backward_x", case, &dx, &backward_x(d, &w, &dy).masked(true, &x));
    }
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
