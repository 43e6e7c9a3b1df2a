//! Proof of the fully connected layer: its kernels, in every form, agree with [`crate::cpu::dense`].

use super::gradients::Gradients;
use super::{Bounded, Breadth, LOADS_BY_4, TilesChange, UNIT_ROUNDOFF, Verifier, bias};
use crate::cpu::batch_gather::batch_gather;
use crate::cpu::{bias::BiasDims, dense as cpu};
use crate::gpu::GpuError;
use crate::ops::batch_gather::pack_bytes;
use crate::ops::dense::{
    DenseDims, FORWARD_SHARED_BY_4_GATHERED_PARTS, FORWARD_SHARED_PARTS, FORWARD_SUM, backward_w_kernel,
    backward_x_and_w_kernel, backward_x_kernel, forward_kernel, record_backward, record_backward_w, record_backward_x,
    record_forward, record_gathered_parts, record_sum,
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

/// Compares the kernel that gathers its inputs with the mirrors: batch number `batch` of an epoch of `epoch` of `samples`.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify_gathered(
    v: &mut Verifier,
    tiles: SharedTiles,
    d: &DenseDims,
    samples: usize,
    [batch, epoch]: [usize; 2],
) -> Result<(), GpuError> {
    let case = format!("{d:?}, {tiles:?}, batch {batch} of an epoch of {epoch}");
    let images: Vec<u8> = v.random(samples * d.i).iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
    let labels: Vec<u8> = v.random(samples).iter().map(|x| (x.abs() * 10.0) as u8).collect();
    let order: Vec<u32> = (0..epoch as u32).map(|i| i * 7 % samples as u32).collect();
    let (w, b) = (v.random(d.i * d.o), v.random(d.o));
    let (mut x64, mut batch_labels) = (vec![0.0f64; d.n * d.i], vec![0; d.n]);
    batch_gather(d.i, &images, &labels, &order, batch * d.n, &mut x64, &mut batch_labels);
    // Five roundoffs of each input, as for the gather alone, besides those of the sum, of which each term has two.
    let y = Bounded::mirrored([&w, &b], d.n * d.o, d.i + 1 + 3, |[w, b], y| cpu::dense_forward(d, &x64, w, b, y));
    let x = Bounded { bound: x64.iter().map(|x| 5.0 * UNIT_ROUNDOFF * x).collect(), values: x64.clone() };
    let mut run = v.run();
    let (timages, tlabels) = (run.input_u32(&pack_bytes(&images))?, run.input_u32(&pack_bytes(&labels))?);
    let (torder, tprogress) = (run.input_u32(&order)?, run.input_u32(&[batch as u32, epoch as u32])?);
    let (tx, tbatch, ty) = (run.output(d.n * d.i)?, run.output_u32(d.n)?, run.output(d.n * d.o)?);
    let (w, b) = (run.input(&w)?, run.input(&b)?);
    let tensors = [&timages, &tlabels, &torder, &tprogress, &tx, &tbatch];
    let parts = record_gathered_parts(&mut run.plan, tiles, d, samples, tensors, &w)?;
    record_sum(&mut run.plan, d, false, [&parts, &b, &ty])?;
    run.check(FORWARD_SHARED_BY_4_GATHERED_PARTS.entry, &case, &[(&tx, &x), (&ty, &y)], &[(&tbatch, &batch_labels)]);
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
    v.within(takes, |v| verify(v, &DenseDims { n: 33, i: 36, o: 36 }, Breadth::Forms))?;
    let gathered = DenseDims { n: 33, i: 260, o: 68 };
    let forms = v.within(takes, |v| Ok(v.forms(Breadth::Forms, gathered.o, &[], &[LOADS_BY_4])))?;
    forms.into_iter().try_for_each(|form| match form {
        Form::Shared(tiles) => verify_gathered(v, tiles, &gathered, 90, [2, 33 * 2 + 20]),
        Form::Plain | Form::Subgroup(_) => Ok(()),
    })
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
