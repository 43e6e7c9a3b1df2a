//! Proof of the native loops of the poolings.

use super::Check;
use crate::cpu::conv2d::Padding;
use crate::cpu::pool2d::{self as cpu, Pool2dDims};
use crate::native::pool2d as fast;
use crate::verify::{Breadth, compare_exact};

/// A loop of sums or averages.
type Mean = fn(&Pool2dDims, &[f32], &mut [f32]);

/// The results must have the same bits as those of the plain loops.
pub(in crate::verify) fn proof(check: &mut Check) {
    // Whole images, one window over each; and windows side by side.
    let mut shapes = vec![
        (3, [7, 7, 64], [7, 7], [7, 7], Padding::Valid),
        (1, [28, 28, 5], [28, 28], [28, 28], Padding::Valid),
        (2, [14, 14, 32], [2, 2], [2, 2], Padding::Valid),
    ];
    if check.breadth == Breadth::Everything {
        shapes.extend([
            (1, [1, 1, 1], [1, 1], [1, 1], Padding::Valid),
            (2, [7, 5, 17], [3, 2], [2, 1], Padding::Same),
            (2, [9, 11, 8], [2, 3], [3, 4], Padding::Valid),
            (1, [2, 3, 4], [5, 5], [1, 1], Padding::Same),
            (2, [5, 37, 3], [5, 37], [5, 37], Padding::Valid),
        ]);
    }
    for (n, input, window, stride, padding) in shapes {
        let d = Pool2dDims::new(n, input, window, stride, padding).expect("the shapes above are valid");
        maxima(check, &d);
        let means: [(&'static str, [Mean; 2], bool); 4] = [
            ("native pool2d_average_forward", [fast::pool2d_average_forward, cpu::pool2d_average_forward], true),
            (
                "native pool2d_average_backward_x",
                [fast::pool2d_average_backward_x, cpu::pool2d_average_backward_x],
                false,
            ),
            ("native pool2d_sum_forward", [fast::pool2d_sum_forward, cpu::pool2d_sum_forward], true),
            ("native pool2d_sum_backward_x", [fast::pool2d_sum_backward_x, cpu::pool2d_sum_backward_x], false),
        ];
        for (name, loops, is_forward) in means {
            let [from, to] = if is_forward { [d.x_len(), d.y_len()] } else { [d.y_len(), d.x_len()] };
            let values = check.values(from);
            let [actual, expected] = loops.map(|compute| {
                let mut result = vec![f32::NAN; to];
                compute(&d, &values, &mut result);
                result
            });
            check.same(name, to, &actual, &expected);
        }
    }
}

/// Whole numbers tie: the first of equal cells is the maximum.
fn maxima(check: &mut Check, d: &Pool2dDims) {
    let (x, dy) = (check.whole_numbers(d.x_len()), check.values(d.y_len()));
    let (mut y, mut argmax) = (vec![f32::NAN; d.y_len()], vec![u32::MAX; d.y_len()]);
    let (mut expected, mut positions) = (vec![0.0; d.y_len()], vec![0; d.y_len()]);
    fast::pool2d_max_forward(d, &x, &mut y, &mut argmax);
    cpu::pool2d_max_forward(d, &x, &mut expected, &mut positions);
    check.same("native pool2d_max_forward", d.y_len(), &y, &expected);
    let comparison = compare_exact(&argmax, &positions);
    check.note("native pool2d_max_forward", &format!("{d:?}, argmax"), d.y_len(), &comparison);
    let (mut dx, mut expected) = (vec![f32::NAN; d.x_len()], vec![0.0; d.x_len()]);
    fast::pool2d_max_backward_x(d, &positions, &dy, &mut dx);
    cpu::pool2d_max_backward_x(d, &positions, &dy, &mut expected);
    check.same("native pool2d_max_backward_x", d.x_len(), &dx, &expected);
}
