//! Proof of the native loops of the batch normalization, which round less often than the kernels.

use super::Check;
use crate::cpu::batchnorm::BatchNormDims;
use crate::native::{batchnorm as fast, gelu};
use crate::verify::Breadth;
use crate::verify::batchnorm::{EPSILON, MOMENTUM, backward_w, backward_x, forward, inputs, statistics};
use crate::verify::{Bounded, widen};

pub(in crate::verify) fn proof(check: &mut Check) {
    // A sum of four, and the rounding of an image's sum and of the total: everything else is in double precision.
    const ADDITIONS: usize = 4;
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
        // In two parts, the last image separately.
        let image = d.positions * d.c;
        let (first, last) = (BatchNormDims { n: d.n - 1, ..d }, BatchNormDims { n: 1, ..d });
        let split = first.n * image;
        let mut images = vec![f32::NAN; d.n * 3 * d.c];
        let (images_first, images_last) = images.split_at_mut(first.n * 3 * d.c);
        fast::batchnorm_images(&first, &x[..split], images_first);
        fast::batchnorm_images(&last, &x[split..], images_last);
        let (mut moments, mut mean_after, mut var_after) = (vec![f32::NAN; 3 * d.c], mean.clone(), var.clone());
        fast::batchnorm_statistics(&d, MOMENTUM, &images, [&mut moments, &mut mean_after, &mut var_after]);
        let expected = statistics(&d, d.n, &x, &mean, &var, ADDITIONS);
        for (actual, expected) in [&moments, &mean_after, &var_after].into_iter().zip(&expected) {
            check.bounded("native batchnorm_statistics", &case, actual, expected);
        }

        let mut y = vec![f32::NAN; d.x_len()];
        let (y_first, y_last) = y.split_at_mut(split);
        fast::batchnorm_forward(&first, EPSILON, [&x[..split], &moments, &scale, &shift], y_first);
        fast::batchnorm_forward(&last, EPSILON, [&x[split..], &moments, &scale, &shift], y_last);
        check.bounded("native batchnorm_forward", &case, &y, &forward(&d, &x, &moments, &scale, &shift));

        let (mut dscale, mut dshift) = (vec![f32::NAN; d.c], vec![f32::NAN; d.c]);
        let mut images = vec![f32::NAN; d.n * 2 * d.c];
        fast::batchnorm_backward_images(&d, [&x, &moments, &dy], &mut images);
        fast::batchnorm_backward_w(&d, EPSILON, [&images, &moments], [&mut dscale, &mut dshift]);
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

        // With a GELU: the bits of both, one after the other.
        let mut equal = |what: &'static str, actual: &[f32], expected: &[f32]| {
            let expected = Bounded { values: widen(expected), bound: vec![0.0; expected.len()] };
            check.bounded(what, &case, actual, &expected);
        };
        let (mut expected, mut actual) = (vec![f32::NAN; d.x_len()], vec![f32::NAN; d.x_len()]);
        gelu::gelu_forward(&y, &mut expected);
        fast::batchnorm_gelu_forward(&d, EPSILON, [&x, &moments, &scale, &shift], &mut actual);
        equal("native batchnorm_gelu_forward", &actual, &expected);
        gelu::gelu_backward_x(&y, &dy, &mut expected);
        fast::batchnorm_backward_images(&d, [&x, &moments, &expected], &mut images);
        let mut images_behind = vec![f32::NAN; images.len()];
        let both = [&mut actual[..], &mut images_behind];
        fast::batchnorm_gelu_backward_images(&d, EPSILON, [&x, &moments, &scale, &shift, &dy], both);
        equal("native batchnorm_gelu_backward_images", &actual, &expected);
        equal("native batchnorm_gelu_backward_images", &images_behind, &images);
    }
}
