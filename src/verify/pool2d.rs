//! Proof of the poolings: their kernels agree with [`crate::cpu::pool2d`].

use super::gradients::Gradients;
use super::{Bounded, Verifier, widen};
use crate::cpu::pool2d as cpu;
use crate::gpu::GpuError;
use crate::ops::pool2d::{
    AVERAGE_BACKWARD_X, AVERAGE_FORWARD, MAX_BACKWARD_X, MAX_BACKWARD_X_BY_4, MAX_FORWARD, MAX_FORWARD_BY_4, Padding,
    Pool2dDims, Reduction, SUM_BACKWARD_X, SUM_FORWARD, by_4, record_max_backward_x, record_max_forward,
    record_mean_backward_x, record_mean_forward,
};

/// Compares every kernel with the mirror for one shape; half of the values are repeated, so that maxima tie.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &Pool2dDims) -> Result<(), GpuError> {
    let case = format!(
        "{}x{}x{}x{} k{}x{} s{}x{} p{},{}",
        d.n, d.h, d.w, d.c, d.kh, d.kw, d.stride_h, d.stride_w, d.pad_top, d.pad_left
    );
    let x: Vec<f32> = v.random(d.x_len()).into_iter().map(|value| (value * 4.0).round() / 4.0).collect();
    let dy = v.random(d.y_len());
    let window = d.kh * d.kw;

    let (mut y64, mut argmax) = (vec![0.0; d.y_len()], vec![0; d.y_len()]);
    cpu::pool2d_max_forward(d, &widen(&x), &mut y64, &mut argmax);
    let mut run = v.run();
    let tx = run.input(&x)?;
    let (ty, targmax) = (run.output(d.y_len())?, run.output_u32(d.y_len())?);
    record_max_forward(&mut run.plan, d, [&tx, &ty, &targmax])?;
    // A maximum is one of the inputs, so there is no rounding.
    let name = if by_4(d)[0] { MAX_FORWARD_BY_4.entry } else { MAX_FORWARD.entry };
    run.check(name, &case, &[(&ty, &Bounded::exact(y64))], &[(&targmax, &argmax)]);

    let backward = |[dy]: [&[f64]; 1], dx: &mut [f64]| cpu::pool2d_max_backward_x(d, &argmax, dy, dx);
    let dx = Bounded::mirrored([&dy], d.x_len(), window, backward);
    let mut run = v.run();
    let (targmax, tdy, tdx) = (run.input_u32(&argmax)?, run.input(&dy)?, run.output(d.x_len())?);
    record_max_backward_x(&mut run.plan, d, [&targmax, &tdy, &tdx])?;
    let name = if by_4(d)[1] { MAX_BACKWARD_X_BY_4.entry } else { MAX_BACKWARD_X.entry };
    run.check(name, &case, &[(&tdx, &dx)], &[]);

    for reduction in [Reduction::Average, Reduction::Sum] {
        type Mirror = fn(&Pool2dDims, &[f64], &mut [f64]);
        let (forward, backward): (Mirror, Mirror) = match reduction {
            Reduction::Average => (cpu::pool2d_average_forward, cpu::pool2d_average_backward_x),
            Reduction::Sum => (cpu::pool2d_sum_forward, cpu::pool2d_sum_backward_x),
        };
        let names = match reduction {
            Reduction::Average => [AVERAGE_FORWARD.entry, AVERAGE_BACKWARD_X.entry],
            Reduction::Sum => [SUM_FORWARD.entry, SUM_BACKWARD_X.entry],
        };
        // A WGSL division may be off by 2.5 units in the last place, which counts as three more terms.
        let y = Bounded::mirrored([&x], d.y_len(), window + 3, |[x], y| forward(d, x, y));
        v.check(names[0], &case, [&x], [&y], |plan, [x], [y]| record_mean_forward(plan, reduction, d, [x, y]))?;
        let dx = Bounded::mirrored([&dy], d.x_len(), window + 3, |[dy], dx| backward(d, dy, dx));
        v.check(names[1], &case, [&dy], [&dx], |plan, [dy], [dx]| {
            record_mean_backward_x(plan, reduction, d, [dy, dx])
        })?;
    }
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`: the two layers of the article, overlapping and gapped windows, odd
/// sizes, windows of whole images.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    let cases = [
        (4, [28, 28, 32], [2, 2], [2, 2], Padding::Valid),
        (4, [14, 14, 64], [2, 2], [2, 2], Padding::Valid),
        (3, [7, 5, 3], [3, 2], [2, 1], Padding::Same),
        (2, [9, 11, 5], [2, 3], [3, 4], Padding::Valid),
        (2, [9, 11, 8], [2, 3], [3, 4], Padding::Valid),
        (2, [7, 5, 12], [2, 2], [2, 2], Padding::Same),
        (3, [7, 7, 8], [7, 7], [7, 7], Padding::Valid),
    ];
    for (n, input, window, stride, padding) in cases {
        verify(v, &Pool2dDims::new(n, input, window, stride, padding).expect("the shapes above are valid"))?;
    }
    Ok(())
}

pub(super) fn gradients(g: &mut Gradients) {
    for (n, input, window, stride, padding) in [
        (2, [4, 6, 3], [2, 2], [2, 2], Padding::Valid),
        (1, [5, 7, 2], [3, 2], [1, 1], Padding::Same),
        (1, [7, 5, 2], [2, 2], [3, 3], Padding::Valid),
        (2, [5, 5, 1], [3, 3], [2, 2], Padding::Same),
        (2, [4, 5, 3], [4, 5], [4, 5], Padding::Valid),
    ] {
        let d = Pool2dDims::new(n, input, window, stride, padding).expect("the shapes above are valid");
        let case = format!("{d:?}");
        let (x_len, y_len) = (d.x_len(), d.y_len());
        let (x, dy) = (g.distinct(x_len), g.values(y_len));
        let (mut y, mut argmax, mut dx) = (vec![0.0; y_len], vec![0; y_len], vec![0.0; x_len]);
        cpu::pool2d_max_forward(&d, &x, &mut y, &mut argmax);
        cpu::pool2d_max_backward_x(&d, &argmax, &dy, &mut dx);
        g.check("pool2d_max_backward_x", &case, [&x, &dx], &dy, |x, y| {
            cpu::pool2d_max_forward(&d, x, y, &mut vec![0; y_len]);
        });
        cpu::pool2d_average_backward_x(&d, &dy, &mut dx);
        g.check("pool2d_average_backward_x", &case, [&x, &dx], &dy, |x, y| cpu::pool2d_average_forward(&d, x, y));
        cpu::pool2d_sum_backward_x(&d, &dy, &mut dx);
        g.check("pool2d_sum_backward_x", &case, [&x, &dx], &dy, |x, y| cpu::pool2d_sum_forward(&d, x, y));
    }
}
