//! Proof of the fully connected layer: its kernels, in every form, agree with [`crate::cpu::dense`].

use super::gradients::Gradients;
use super::{Bounded, Breadth, LOADS_BY_4, TilesChange, Verifier, bias};
use crate::cpu::{bias::BiasDims, dense as cpu};
use crate::gpu::GpuError;
use crate::ops::dense::{
    DenseDims, FORWARD_SHARED_PARTS, FORWARD_SUM, backward_w_kernel, backward_x_and_w_kernel, backward_x_kernel,
    forward_kernel, record_backward, record_backward_w, record_backward_x, record_forward,
};
use crate::ops::{Form, SharedTiles};

/// Returns y.
pub(super) fn forward(d: &DenseDims, x: &[f32], w: &[f32], b: &[f32]) -> Bounded {
    Bounded::mirrored([x, w, b], d.n * d.o, d.i + 1, |[x, w, b], y| cpu::dense_forward(d, x, w, b, y))
}

/// Returns dx.
pub(super) fn backward_x(d: &DenseDims, w: &[f32], dy: &[f32]) -> Bounded {
    Bounded::mirrored([w, dy], d.n * d.i, d.o, |[w, dy], dx| cpu::dense_backward_x(d, w, dy, dx))
}

/// Returns dw.
pub(super) fn backward_w(d: &DenseDims, x: &[f32], dy: &[f32]) -> Bounded {
    Bounded::mirrored([x, dy], d.i * d.o, d.n, |[x, dy], dw| cpu::dense_backward_w(d, x, dy, dw))
}

/// Compares every kernel and form with the mirror for one shape.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &DenseDims, breadth: Breadth) -> Result<(), GpuError> {
    let case = format!("{}x{} o{}", d.n, d.i, d.o);
    let changes: &[TilesChange] = if d.i.is_multiple_of(4) && d.o.is_multiple_of(4) { &[LOADS_BY_4] } else { &[] };
    let (x, w) = (v.random(d.n * d.i), v.random(d.i * d.o));
    let (b, dy) = (v.random(d.o), v.random(d.n * d.o));

    let y = forward(d, &x, &w, &b);
    for form in v.forms(breadth, d.o, &[d.i, d.o], changes) {
        for &relu in breadth.relu() {
            let name = forward_kernel(form, d).entry;
            v.check(name, &case, [&x, &w, &b], [&y.then_relu(relu)], |plan, [x, w, b], [y]| {
                record_forward(plan, form, d, relu, [x, w, b, y])
            })?;
        }
    }
    let dx = backward_x(d, &w, &dy);
    for form in v.forms(breadth, d.i, &[d.i, d.o], changes) {
        for &x_is_relu in breadth.relu() {
            let (name, dx) = (backward_x_kernel(form, d).entry, dx.masked(x_is_relu, &x));
            v.check(name, &case, [&x, &w, &dy], [&dx], |plan, [x, w, dy], [dx]| {
                record_backward_x(plan, form, d, x_is_relu, [x, w, dy, dx])
            })?;
        }
    }
    let (dw, db) = (backward_w(d, &x, &dy), bias::backward_b(&BiasDims { n: d.n, o: d.o }, &dy));
    for form in v.forms(breadth, d.o, &[d.i, d.o], changes) {
        v.check(backward_w_kernel(form, d).entry, &case, [&x, &dy], [&dw, &db], |plan, [x, dy], [dw, db]| {
            record_backward_w(plan, form, d, [x, dy, dw, db])
        })?;
    }
    // Both in one dispatch, if the form has it. Mesa 25.0 takes seven seconds to compile it: one odd shape is enough in
    // a self-test.
    let again = |tiles: SharedTiles| breadth == Breadth::Forms && !tiles.loads_by_4 && !d.i.is_multiple_of(4);
    let both = |form: &Form| matches!(form, Form::Shared(tiles) if !again(*tiles));
    for form in v.forms(breadth, d.i.min(d.o), &[], changes).into_iter().filter(both) {
        let (name, outputs) = (backward_x_and_w_kernel(form, d).entry, [&dx.masked(true, &x), &dw, &db]);
        v.check(name, &case, [&x, &w, &dy], outputs, |plan, [x, w, dy], [dx, dw, db]| {
            record_backward(plan, form, d, true, [x, w, dy, dx, dw, db])
        })?;
    }
    v.covered(FORWARD_SUM.entry, FORWARD_SHARED_PARTS.entry);
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`: the layers of the article as this device trains them, and odd ones in
/// every form (above 32, for the reason given in the convolution's self-test).
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let cases = [
        (32, 3136, 128, Breadth::AsTrained),
        (32, 128, 10, Breadth::AsTrained),
        (33, 35, 33, Breadth::Forms),
        (33, 260, 36, Breadth::Forms),
    ];
    cases.into_iter().try_for_each(|(n, i, o, breadth)| verify(v, &DenseDims { n, i, o }, breadth))?;
    // Too few inputs to be summed in parts.
    let takes = |form: &Form| matches!(form, Form::Shared(tiles) if tiles.loads_by_4);
    v.within(takes, |v| verify(v, &DenseDims { n: 33, i: 36, o: 36 }, Breadth::Forms))
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, i, o) in [(3, 5, 4), (1, 1, 1), (4, 7, 2)] {
        let d = DenseDims { n, i, o };
        let case = format!("{d:?}");
        let (x, w, b) = (g.values(d.n * d.i), g.values(d.i * d.o), g.values(d.o));
        let dy = g.values(d.n * d.o);
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        cpu::dense_backward_x(&d, &w, &dy, &mut dx);
        cpu::dense_backward_w(&d, &x, &dy, &mut dw);
        g.check("dense_backward_x", &case, [&x, &dx], &dy, |x, y| cpu::dense_forward(&d, x, &w, &b, y));
        g.check("dense_backward_w", &case, [&w, &dw], &dy, |w, y| cpu::dense_forward(&d, &x, w, &b, y));
    }
}
