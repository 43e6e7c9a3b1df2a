//! Proof of the native loops of the fully connected layer.

use super::Check;
use crate::native::dense as fast;
use crate::ops::dense::DenseDims;
use crate::verify::Breadth;
use crate::verify::dense::{backward_w, backward_x, forward};

pub(in crate::verify) fn proof(check: &mut Check) {
    let mut sizes = vec![(32, 784, 128), (16, 3136, 128), (32, 128, 10), (3, 5, 7)];
    if check.breadth == Breadth::Everything {
        sizes.extend([
            (1, 1, 1),
            (1, 65, 1),
            (7, 64, 17),
            (33, 63, 31),
            (13, 257, 64),
            (5, 2, 100),
            (40, 31, 128),
            (5, 14, 32),
        ]);
    }
    for (n, i, o) in sizes {
        let d = DenseDims { n, i, o };
        let case = format!("{d:?}");
        let (w, b, dy) = (check.values(d.i * d.o), check.values(d.o), check.values(d.n * d.o));
        let x: Vec<f32> = check.values(d.n * d.i).into_iter().map(|x| x.max(0.0)).collect();
        for relu in [false, true] {
            let mut y = vec![f32::NAN; d.n * d.o];
            fast::dense_forward(&d, relu, &x, &w, &b, &mut y);
            let expected = forward(&d, &x, &w, &b).then_relu(relu);
            check.bounded("native dense_forward", &case, &y, &expected);
            // Divided by its inputs, as layers are where there are threads.
            if cfg!(target_family = "wasm") {
                continue;
            }
            y.chunks_exact_mut(d.o).for_each(|row| row.copy_from_slice(&b));
            for part in 0..3 {
                let inputs = part * d.i / 3..(part + 1) * d.i / 3;
                let mut products = vec![f32::NAN; d.n * d.o];
                fast::dense_products(&d, inputs, &x, &w, &mut products);
                fast::add_products(&products, &mut y);
            }
            if relu {
                fast::relu(&mut y);
            }
            check.bounded("native dense_forward", &format!("{case}, by inputs"), &y, &expected);
        }
        for masked in [false, true] {
            let mut dx = vec![f32::NAN; d.n * d.i];
            fast::dense_backward_x(&d, masked, &x, &w, &dy, &mut dx);
            check.bounded("native dense_backward_x", &case, &dx, &backward_x(&d, &w, &dy).masked(masked, &x));
        }
        let mut dw = vec![f32::NAN; d.i * d.o];
        // In slices of rows, as threads share the work.
        let rows = d.i.div_ceil(3);
        for (i, dw) in dw.chunks_mut(rows * d.o).enumerate() {
            fast::dense_backward_w(&d, &x, &dy, i * rows, dw);
        }
        check.bounded("native dense_backward_w", &case, &dw, &backward_w(&d, &x, &dy));
    }
}
