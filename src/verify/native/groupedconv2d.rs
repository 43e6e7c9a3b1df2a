//! Proof of the native loops of the grouped convolution.

use super::Check;
use crate::native::groupedconv2d as fast;
use crate::ops::groupedconv2d::{GroupedConv2dDims, Padding};
use crate::verify::Breadth;
use crate::verify::groupedconv2d::{backward_w, backward_x, forward};

pub(in crate::verify) fn proof(check: &mut Check) {
    // n, [H, W, C], [KH, KW], O, [SH, SW], padding, groups
    let mut convolutions = vec![
        (2, [14, 14, 32], [3, 3], 32, [1, 1], Padding::Same, 32),
        (3, [9, 7, 5], [3, 2], 5, [2, 1], Padding::Same, 5),
        (2, [8, 9, 24], [3, 3], 36, [2, 2], Padding::Same, 6),
    ];
    if check.breadth == Breadth::Everything {
        convolutions.extend([
            (1, [1, 1, 1], [1, 1], 1, [1, 1], Padding::Valid, 1),
            (3, [2, 2, 2], [1, 1], 2, [1, 1], Padding::Valid, 2),
            (2, [28, 28, 16], [3, 3], 16, [1, 1], Padding::Same, 16),
            (1, [7, 7, 17], [5, 5], 17, [1, 1], Padding::Same, 17),
            (2, [13, 6, 40], [3, 3], 40, [2, 2], Padding::Same, 40),
            (2, [6, 13, 48], [4, 3], 48, [3, 2], Padding::Valid, 48),
            (1, [4, 5, 3], [6, 7], 3, [2, 3], Padding::Same, 3),
            (1, [9, 9, 8], [2, 2], 8, [3, 4], Padding::Valid, 8),
            (2, [10, 11, 64], [3, 3], 64, [1, 1], Padding::Same, 2),
            (2, [5, 6, 8], [3, 3], 24, [1, 1], Padding::Same, 8),
            (2, [5, 6, 24], [2, 3], 8, [1, 2], Padding::Same, 8),
            (1, [6, 15, 6], [3, 3], 10, [1, 1], Padding::Valid, 1),
            (70, [3, 4, 4], [3, 3], 4, [1, 1], Padding::Same, 4),
        ]);
    }
    for (n, input, window, o, stride, padding, groups) in convolutions {
        let d = GroupedConv2dDims::new(n, input, window, o, stride, padding, groups);
        compare(check, &d.expect("the shapes above are valid"));
    }
}

fn compare(check: &mut Check, d: &GroupedConv2dDims) {
    let case = format!("{d:?}");
    let (w, b, dy) = (check.values(d.w_len()), check.values(d.conv.o), check.values(d.conv.y_len()));
    let x: Vec<f32> = check.values(d.conv.x_len()).into_iter().map(|x| x.max(0.0)).collect();
    // In two parts, the last image separately.
    let first = d.conv.n - 1;
    let (x_split, y_split) = (first * d.conv.x_len() / d.conv.n, first * d.conv.y_len() / d.conv.n);
    for relu in [false, true] {
        let mut y = vec![f32::NAN; d.conv.y_len()];
        let (of_first, of_last) = y.split_at_mut(y_split);
        for (n, x, y) in [(first, &x[..x_split], of_first), (1, &x[x_split..], of_last)] {
            fast::groupedconv2d_forward(&d.for_images(n), relu, [x, &w, &b], y);
        }
        check.bounded("native groupedconv2d_forward", &case, &y, &forward(d, &x, &w, &b).then_relu(relu));

        let mut dx = vec![f32::NAN; d.conv.x_len()];
        let (of_first, of_last) = dx.split_at_mut(x_split);
        for (n, x, dy, dx) in
            [(first, &x[..x_split], &dy[..y_split], of_first), (1, &x[x_split..], &dy[y_split..], of_last)]
        {
            fast::groupedconv2d_backward_x(&d.for_images(n), relu, [x, &w, dy], dx);
        }
        check.bounded("native groupedconv2d_backward_x", &case, &dx, &backward_x(d, &w, &dy).masked(relu, &x));
    }
    let (mut dw, mut db) = (vec![f32::NAN; d.w_len()], vec![f32::NAN; d.conv.o]);
    fast::groupedconv2d_backward_w(d, &x, &dy, &mut dw);
    fast::groupedconv2d_backward_b(d, &dy, &mut db);
    let [expected_dw, expected_db] = backward_w(d, &x, &dy);
    check.bounded("native groupedconv2d_backward_w", &case, &dw, &expected_dw);
    check.bounded("native groupedconv2d_backward_b", &case, &db, &expected_db);
}
