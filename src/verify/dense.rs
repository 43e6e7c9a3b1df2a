//! Proof of the fully connected layer: its kernels, in every form, agree with [`crate::cpu::dense`].

use super::gradients::{Gradients, check, dot};
use super::native::Check;
use super::{Breadth, Verifier, absolute, widen};
use crate::cpu::{bias, dense as cpu, relu};
use crate::gpu::GpuError;
use crate::native::dense as fast;
use crate::ops::Form;
use crate::ops::dense::{
    BACKWARD_W, BACKWARD_W_SHARED, BACKWARD_W_SUBGROUP, BACKWARD_X, BACKWARD_X_AND_W_SHARED, BACKWARD_X_SHARED,
    BACKWARD_X_SUBGROUP, DenseDims, FORWARD, FORWARD_SHARED, FORWARD_SHARED_PARTS, FORWARD_SUBGROUP, FORWARD_SUM,
    inputs_per_part, record_backward, record_backward_w, record_backward_x, record_forward,
};

/// Compares every kernel and form with the mirror for one shape.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, d: &DenseDims, breadth: Breadth) -> Result<(), GpuError> {
    let case = format!("{}x{} o{}", d.n, d.i, d.o);
    let (x, w) = (v.random(d.n * d.i), v.random(d.i * d.o));
    let (b, dy) = (v.random(d.o), v.random(d.n * d.o));
    let (x64, w64, b64, dy64) = (widen(&x), widen(&w), widen(&b), widen(&dy));

    let (mut y64, mut y_scale) = (vec![0.0; d.n * d.o], vec![0.0; d.n * d.o]);
    cpu::dense_forward(d, &x64, &w64, &b64, &mut y64);
    cpu::dense_forward(d, &absolute(&x64), &absolute(&w64), &absolute(&b64), &mut y_scale);
    for form in v.forms(breadth, d.o, &[d.i, d.o]) {
        for &relu in breadth.relu() {
            let expected: Vec<f64> = y64.iter().map(|&y| if relu { y.max(0.0) } else { y }).collect();
            let mut run = v.run();
            let (tx, tw, tb) = (run.input(&x)?, run.input(&w)?, run.input(&b)?);
            let ty = run.output(d.n * d.o)?;
            record_forward(&mut run.plan, form, d, relu, &tx, &tw, &tb, &ty)?;
            let split = matches!(form, Form::Shared(tiles) if inputs_per_part(tiles, d) < d.i);
            let shared = if split { &FORWARD_SHARED_PARTS } else { &FORWARD_SHARED };
            let name = form.pick([&FORWARD, &FORWARD_SUBGROUP, shared]).entry;
            run.check_sums(name, &case, &[(&ty, &expected, &y_scale, d.i + 1)])?;
        }
    }

    let (mut dx64, mut dx_scale) = (vec![0.0; d.n * d.i], vec![0.0; d.n * d.i]);
    cpu::dense_backward_x(d, &w64, &dy64, &mut dx64);
    cpu::dense_backward_x(d, &absolute(&w64), &absolute(&dy64), &mut dx_scale);
    let dx64_of_relu: Vec<f64> = dx64.iter().zip(&x).map(|(&dx, &x)| if x <= 0.0 { 0.0 } else { dx }).collect();
    for form in v.forms(breadth, d.i, &[d.i, d.o]) {
        for &x_is_relu in breadth.relu() {
            let expected = if x_is_relu { &dx64_of_relu } else { &dx64 };
            let mut run = v.run();
            let (tx, tw, tdy) = (run.input(&x)?, run.input(&w)?, run.input(&dy)?);
            let tdx = run.output(d.n * d.i)?;
            record_backward_x(&mut run.plan, form, d, x_is_relu, &tx, &tw, &tdy, &tdx)?;
            let name = form.pick([&BACKWARD_X, &BACKWARD_X_SUBGROUP, &BACKWARD_X_SHARED]).entry;
            run.check_sums(name, &case, &[(&tdx, expected, &dx_scale, d.o)])?;
        }
    }

    let bias_dims = bias::BiasDims { n: d.n, o: d.o };
    let (mut dw64, mut dw_scale) = (vec![0.0; d.i * d.o], vec![0.0; d.i * d.o]);
    let (mut db64, mut db_scale) = (vec![0.0; d.o], vec![0.0; d.o]);
    cpu::dense_backward_w(d, &x64, &dy64, &mut dw64);
    cpu::dense_backward_w(d, &absolute(&x64), &absolute(&dy64), &mut dw_scale);
    bias::bias_backward_b(&bias_dims, &dy64, &mut db64);
    bias::bias_backward_b(&bias_dims, &absolute(&dy64), &mut db_scale);
    for form in v.forms(breadth, d.o, &[d.i, d.o]) {
        let mut run = v.run();
        let (tx, tdy) = (run.input(&x)?, run.input(&dy)?);
        let (tdw, tdb) = (run.output(d.i * d.o)?, run.output(d.o)?);
        record_backward_w(&mut run.plan, form, d, &tx, &tdy, &tdw, &tdb)?;
        let name = form.pick([&BACKWARD_W, &BACKWARD_W_SUBGROUP, &BACKWARD_W_SHARED]).entry;
        run.check_sums(name, &case, &[(&tdw, &dw64, &dw_scale, d.n), (&tdb, &db64, &db_scale, d.n)])?;
    }
    // Both in one dispatch, if the form has it. Mesa 25.0 takes seven seconds to compile it: one odd shape is enough in
    // a self-test.
    let again = breadth == Breadth::Forms && !d.i.is_multiple_of(4);
    let both = |form: &Form| matches!(form, Form::Shared(_)) && !again;
    for form in v.forms(breadth, d.i.min(d.o), &[]).into_iter().filter(both) {
        let mut run = v.run();
        let (tx, tw, tdy) = (run.input(&x)?, run.input(&w)?, run.input(&dy)?);
        let (tdx, tdw, tdb) = (run.output(d.n * d.i)?, run.output(d.i * d.o)?, run.output(d.o)?);
        record_backward(&mut run.plan, form, d, true, &tx, &tw, &tdy, &tdx, &tdw, &tdb)?;
        let outputs = [
            (&tdx, &dx64_of_relu[..], &dx_scale[..], d.o),
            (&tdw, &dw64, &dw_scale, d.n),
            (&tdb, &db64, &db_scale, d.n),
        ];
        run.check_sums(BACKWARD_X_AND_W_SHARED.entry, &case, &outputs)?;
    }
    v.covered(FORWARD_SUM.entry, FORWARD_SHARED_PARTS.entry);
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`: the layers of the article as this device trains them, and odd ones in
/// every form (above 32, for the reason given in the convolution's self-test).
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    let cases = [
        (32, 3136, 128, Breadth::AsTrained),
        (32, 128, 10, Breadth::AsTrained),
        (33, 35, 33, Breadth::Forms),
        (33, 260, 36, Breadth::Forms),
    ];
    for (n, i, o, breadth) in cases {
        verify(v, &DenseDims { n, i, o }, breadth)?;
    }
    Ok(())
}

pub(super) fn native(check: &mut Check) {
    let mut sizes = vec![(32, 784, 128), (16, 3136, 128), (32, 128, 10), (3, 5, 7)];
    if check.breadth == Breadth::Everything {
        sizes.extend([(1, 1, 1), (1, 65, 1), (7, 64, 17), (33, 63, 31), (13, 257, 64), (5, 2, 100)]);
    }
    for (n, i, o) in sizes {
        let d = DenseDims { n, i, o };
        let case = format!("{d:?}");
        let (w, b, dy) = (check.values(d.i * d.o), check.values(d.o), check.values(d.n * d.o));
        let x: Vec<f32> = check.values(d.n * d.i).into_iter().map(|x| x.max(0.0)).collect();
        let (xd, wd, bd, dyd) = (widen(&x), widen(&w), widen(&b), widen(&dy));
        for relu in [false, true] {
            let (mut y, mut expected, mut scale) =
                (vec![f32::NAN; d.n * d.o], vec![0.0; d.n * d.o], vec![0.0; d.n * d.o]);
            fast::dense_forward(&d, relu, &x, &w, &b, &mut y);
            cpu::dense_forward(&d, &xd, &wd, &bd, &mut expected);
            cpu::dense_forward(&d, &absolute(&xd), &absolute(&wd), &absolute(&bd), &mut scale);
            if relu {
                let before = expected.clone();
                relu::relu_forward(&before, &mut expected);
            }
            check.sums("native dense_forward", &case, &y, &expected, &scale, d.i + 1);
        }
        for masked in [false, true] {
            let len = d.n * d.i;
            let (mut dx, mut expected, mut scale) = (vec![f32::NAN; len], vec![0.0; len], vec![0.0; len]);
            fast::dense_backward_x(&d, masked, &x, &w, &dy, &mut dx);
            cpu::dense_backward_x(&d, &wd, &dyd, &mut expected);
            cpu::dense_backward_x(&d, &absolute(&wd), &absolute(&dyd), &mut scale);
            if masked {
                let before = expected.clone();
                relu::relu_backward_x(&xd, &before, &mut expected);
            }
            check.sums("native dense_backward_x", &case, &dx, &expected, &scale, d.o);
        }
        let len = d.i * d.o;
        let (mut dw, mut expected, mut scale) = (vec![f32::NAN; len], vec![0.0; len], vec![0.0; len]);
        // In slices of rows, as threads share the work.
        let rows = d.i.div_ceil(3);
        for (i, dw) in dw.chunks_mut(rows * d.o).enumerate() {
            fast::dense_backward_w(&d, &x, &dy, i * rows, dw);
        }
        cpu::dense_backward_w(&d, &xd, &dyd, &mut expected);
        cpu::dense_backward_w(&d, &absolute(&xd), &absolute(&dyd), &mut scale);
        check.sums("native dense_backward_w", &case, &dw, &expected, &scale, d.n);
    }
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, i, o) in [(3, 5, 4), (1, 1, 1), (4, 7, 2)] {
        let d = DenseDims { n, i, o };
        let case = format!("{d:?}");
        let (x, w, b) = (g.values(d.n * d.i), g.values(d.i * d.o), g.values(d.o));
        let dy = g.values(d.n * d.o);
        let loss = |x: &[f64], w: &[f64], b: &[f64]| {
            let mut y = vec![0.0; d.n * d.o];
            cpu::dense_forward(&d, x, w, b, &mut y);
            dot(&y, &dy)
        };
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        cpu::dense_backward_x(&d, &w, &dy, &mut dx);
        cpu::dense_backward_w(&d, &x, &dy, &mut dw);
        g.note(check("dense_backward_x", &case, &x, &dx, |x| loss(x, &w, &b)));
        g.note(check("dense_backward_w", &case, &w, &dw, |w| loss(&x, w, &b)));
    }
}
