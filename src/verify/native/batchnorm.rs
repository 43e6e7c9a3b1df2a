//! Proof of the native loops of the batch normalization, which round less often than the kernels.

use super::Check;
use crate::cpu::batchnorm::BatchNormDims;
use crate::native::batchnorm as fast;
use crate::verify::Breadth;
use crate::verify::batchnorm::{EPSILON, MOMENTUM, backward_w, backward_x, forward, inputs, statistics};

pub(in crate::verify) fn proof(check: &mut Check) {
    // A sum of four, and the rounding of the total: everything else is in double precision.
    const ADDITIONS: usize = 3;
    let mut normalized = vec![(4, 196, 32), (32, 1, 128), (3, 7, 5)];
    if check.breadth == Breadth::Everything {
        normalized.extend([(1, 1, 1), (5, 1, 3), (3, 1023, 2), (7, 49, 17), (6, 784, 4), (2050, 1, 9)]);
    }
    for (n, positions, c) in normalized {
        let d = BatchNormDims { n, positions, c };
        let case = format!("{d:?}");
        let x = inputs(&d, d.n, check.values(d.x_len()));
        let dy = check.values(d.x_len());
        let (scale, shift, mean) = (check.values(d.c), check.values(d.c), check.values(d.c));
        let var: Vec<f32> = check.values(d.c).into_iter().map(f32::abs).collect();
        let (mut moments, mut mean_after, mut var_after) = (vec![f32::NAN; 3 * d.c], mean.clone(), var.clone());
        fast::batchnorm_statistics(&d, MOMENTUM, &x, [&mut moments, &mut mean_after, &mut var_after]);
        let expected = statistics(&d, d.n, &x, &mean, &var, ADDITIONS);
        for (actual, expected) in [&moments, &mean_after, &var_after].into_iter().zip(&expected) {
            check.bounded("native batchnorm_statistics", &case, actual, expected);
        }

        // In two parts, the last image separately.
        let image = d.positions * d.c;
        let (first, last) = (BatchNormDims { n: d.n - 1, ..d }, BatchNormDims { n: 1, ..d });
        let split = first.n * image;
        let mut y = vec![f32::NAN; d.x_len()];
        let (y_first, y_last) = y.split_at_mut(split);
        fast::batchnorm_forward(&first, EPSILON, [&x[..split], &moments, &scale, &shift], y_first);
        fast::batchnorm_forward(&last, EPSILON, [&x[split..], &moments, &scale, &shift], y_last);
        check.bounded("native batchnorm_forward", &case, &y, &forward(&d, &x, &moments, &scale, &shift));

        let (mut dscale, mut dshift) = (vec![f32::NAN; d.c], vec![f32::NAN; d.c]);
        fast::batchnorm_backward_w(&d, EPSILON, [&x, &moments, &dy], [&mut dscale, &mut dshift]);
        let expected = backward_w(&d, &x, &moments, &dy, ADDITIONS);
        for (actual, expected) in [&dscale, &dshift].into_iter().zip(&expected) {
            check.bounded("native batchnorm_backward_w", &case, actual, expected);
        }

        let mut dx = vec![f32::NAN; d.x_len()];
        let (dx_first, dx_last) = dx.split_at_mut(split);
        for (part, rows, dx) in [(first, 0..split, dx_first), (last, split..d.x_len(), dx_last)] {
            let (x, dy) = (&x[rows.clone()], &dy[rows]);
            fast::batchnorm_backward_x(&part, EPSILON, [x, &moments, &scale, &dscale, &dshift, dy], dx);
        }
        let expected = backward_x(&d, &x, &moments, &scale, &dscale, &dshift, &dy);
        check.bounded("native batchnorm_backward_x", &case, &dx, &expected);
    }
}
