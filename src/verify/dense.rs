//! Proof of the fully connected layer: its kernels, in every form, agree with [`crate::cpu::dense`].

use super::{Breadth, Verifier, absolute, widen};
use crate::cpu::{bias, dense as cpu};
use crate::gpu::GpuError;
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
