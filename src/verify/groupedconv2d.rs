//! Proof of the grouped convolution: its kernels agree with [`crate::cpu::groupedconv2d`].

use super::gradients::Gradients;
use super::{Bounded, Verifier, bias};
use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::groupedconv2d as cpu;
use crate::gpu::GpuError;
use crate::ops::groupedconv2d::{
    BACKWARD_W, BACKWARD_W_SUM, GroupedConv2dDims, Padding, backward_w_kernel, backward_x_kernel, forward_kernel,
    record_backward_w, record_backward_x, record_forward,
};

/// The dimensions of the bias of a convolution.
fn bias_dims(d: &GroupedConv2dDims) -> BiasDims {
    BiasDims { n: d.conv.n * d.conv.ho * d.conv.wo, o: d.conv.o }
}

/// Returns y.
pub(super) fn forward(d: &GroupedConv2dDims, x: &[f32], w: &[f32], b: &[f32]) -> Bounded {
    let mirror = |[x, w, b]: [&[f64]; 3], y: &mut [f64]| cpu::groupedconv2d_forward(d, x, w, b, y);
    Bounded::mirrored([x, w, b], d.conv.y_len(), d.terms() + 1, mirror)
}

/// Returns dx.
pub(super) fn backward_x(d: &GroupedConv2dDims, w: &[f32], dy: &[f32]) -> Bounded {
    let [_, o_each] = d.of_group();
    let mirror = |[w, dy]: [&[f64]; 2], dx: &mut [f64]| cpu::groupedconv2d_backward_x(d, w, dy, dx);
    Bounded::mirrored([w, dy], d.conv.x_len(), d.conv.kh * d.conv.kw * o_each, mirror)
}

/// Returns dw and db.
pub(super) fn backward_w(d: &GroupedConv2dDims, x: &[f32], dy: &[f32]) -> [Bounded; 2] {
    let mirror = |[x, dy]: [&[f64]; 2], dw: &mut [f64]| cpu::groupedconv2d_backward_w(d, x, dy, dw);
    [Bounded::mirrored([x, dy], d.w_len(), bias_dims(d).n, mirror), bias::backward_b(&bias_dims(d), dy)]
}

/// Compares the kernels with the mirror for one shape, with and without the ReLUs after and before it.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &GroupedConv2dDims) -> Result<(), GpuError> {
    let conv = &d.conv;
    let case = format!(
        "{}x{}x{}x{} k{}x{} o{} g{} s{}x{} p{},{}",
        conv.n,
        conv.h,
        conv.w,
        conv.c,
        conv.kh,
        conv.kw,
        conv.o,
        d.groups,
        conv.stride_h,
        conv.stride_w,
        conv.pad_top,
        conv.pad_left
    );
    let (x, w, b, dy) = (v.random(conv.x_len()), v.random(d.w_len()), v.random(conv.o), v.random(conv.y_len()));
    let (y, dx, [dw, db]) = (forward(d, &x, &w, &b), backward_x(d, &w, &dy), backward_w(d, &x, &dy));
    for relu in [false, true] {
        let name = forward_kernel(d).entry;
        v.check(name, &case, [&x, &w, &b], [&y.then_relu(relu)], |plan, [x, w, b], [y]| {
            record_forward(plan, d, relu, [x, w, b, y])
        })?;
        let name = backward_x_kernel(d).entry;
        v.check(name, &case, [&x, &w, &dy], [&dx.masked(relu, &x)], |plan, [x, w, dy], [dx]| {
            record_backward_x(plan, d, relu, [x, w, dy, dx])
        })?;
    }
    v.check(backward_w_kernel(d).entry, &case, [&x, &dy], [&dw, &db], |plan, [x, dy], [dw, db]| {
        record_backward_w(plan, d, [x, dy, dw, db])
    })?;
    v.covered(BACKWARD_W_SUM.entry, BACKWARD_W.entry);
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`: depthwise convolutions, four channels at once and not, and groups of several
/// channels. Images have several rows and columns that no window begins at, so that swapped sizes and strides show.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    for (n, input, window, o, stride, padding, groups) in [
        (2, [14, 14, 64], [3, 3], 64, [1, 1], Padding::Same, 64),
        (3, [9, 7, 8], [3, 4], 8, [2, 1], Padding::Same, 8),
        (2, [8, 9, 6], [2, 3], 6, [1, 2], Padding::Valid, 6),
        (3, [9, 7, 12], [3, 4], 18, [2, 3], Padding::Same, 3),
        (2, [6, 5, 8], [3, 3], 16, [1, 1], Padding::Same, 8),
    ] {
        let d = GroupedConv2dDims::new(n, input, window, o, stride, padding, groups);
        verify(v, &d.expect("the shapes above are valid"))?;
    }
    Ok(())
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, input, window, o, stride, padding, groups) in [
        (2, [5, 4, 3], [3, 3], 3, [1, 1], Padding::Same, 3),
        (1, [6, 5, 4], [2, 3], 6, [2, 1], Padding::Valid, 2),
        (2, [3, 4, 2], [5, 4], 6, [2, 3], Padding::Same, 2),
        (1, [4, 4, 3], [2, 2], 2, [1, 1], Padding::Same, 1),
    ] {
        let d = GroupedConv2dDims::new(n, input, window, o, stride, padding, groups);
        let d = d.expect("the shapes above are valid");
        let case = format!("{d:?}");
        let (x, w, b, dy) =
            (g.values(d.conv.x_len()), g.values(d.w_len()), g.values(d.conv.o), g.values(d.conv.y_len()));
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; b.len()]);
        cpu::groupedconv2d_backward_x(&d, &w, &dy, &mut dx);
        cpu::groupedconv2d_backward_w(&d, &x, &dy, &mut dw);
        bias_backward_b(&bias_dims(&d), &dy, &mut db);
        let forward = cpu::groupedconv2d_forward::<f64>;
        g.check("groupedconv2d_backward_x", &case, [&x, &dx], &dy, |x, y| forward(&d, x, &w, &b, y));
        g.check("groupedconv2d_backward_w", &case, [&w, &dw], &dy, |w, y| forward(&d, &x, w, &b, y));
        g.check("bias_backward_b", &case, [&b, &db], &dy, |b, y| forward(&d, &x, &w, b, y));
    }
}
