use crate::support::{assert_all_right, gpu};
use fmnist_gpu::gpu::PlanBuilder;
use fmnist_gpu::ops::pool2d::{
    Padding, Pool2dDims, Reduction, record_max_backward_x, record_max_forward, record_mean_forward,
};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::pool2d::verify;
use pollster::FutureExt as _;

use Padding::{Same, Valid};

/// N, [H, W, C], window, stride, padding.
type Case = (usize, [usize; 3], [usize; 2], [usize; 2], Padding);

fn check(cases: &[Case]) {
    let mut verifier = Verifier::new(gpu(), 3);
    for &(n, input, window, stride, padding) in cases {
        verify(&mut verifier, &Pool2dDims::new(n, input, window, stride, padding).unwrap()).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn pool2d_matches_cpu_on_separate_windows() {
    check(&[
        (1, [1, 1, 1], [1, 1], [1, 1], Valid),
        (3, [4, 6, 5], [2, 2], [2, 2], Valid),
        (3, [4, 6, 8], [2, 2], [2, 2], Valid),
        (2, [6, 9, 4], [2, 3], [2, 3], Valid),
    ]);
}

#[test]
fn pool2d_matches_cpu_on_overlapping_windows() {
    check(&[
        (2, [5, 7, 3], [3, 3], [1, 1], Same),
        (2, [5, 7, 4], [3, 2], [2, 1], Valid),
        (1, [6, 6, 8], [4, 4], [2, 2], Same),
    ]);
}

#[test]
fn pool2d_matches_cpu_where_windows_leave_pixels_out() {
    check(&[
        (2, [7, 5, 4], [2, 2], [2, 2], Valid),
        (2, [9, 11, 8], [2, 3], [3, 4], Valid),
        (2, [9, 11, 3], [1, 1], [3, 4], Valid),
        (1, [8, 8, 4], [1, 2], [5, 3], Same),
    ]);
}

#[test]
fn pool2d_matches_cpu_with_padding() {
    check(&[
        (2, [7, 5, 4], [2, 2], [2, 2], Same),
        (2, [7, 5, 3], [3, 3], [3, 3], Same),
        (2, [7, 5, 4], [3, 3], [3, 3], Same),
        (1, [2, 3, 4], [5, 5], [1, 1], Same),
        (1, [2, 3, 4], [5, 5], [5, 5], Same),
    ]);
}

/// One window over the whole image, as in the global poolings.
#[test]
fn pool2d_matches_cpu_on_windows_of_whole_images() {
    check(&[
        (5, [7, 7, 64], [7, 7], [7, 7], Valid),
        (2, [28, 28, 5], [28, 28], [28, 28], Valid),
        (2, [28, 28, 8], [28, 28], [28, 28], Valid),
        (1, [61, 47, 4], [61, 47], [61, 47], Valid),
    ]);
}

/// lavapipe ends an invocation's loops after 65,535 iterations: with more, the last cells would silently be left out.
#[test]
fn pool2d_reads_windows_as_large_as_it_accepts() {
    let dims = |h: usize, w: usize, c: usize| Pool2dDims::new(1, [h, w, c], [h, w], [h, w], Valid).unwrap();
    let gpu = gpu();
    let plan = || PlanBuilder::new(gpu);
    // 254 * 258 + 1 iterations; the last cell is the largest.
    for c in [1, 4] {
        let d = dims(254, 256, c);
        let x: Vec<f32> = (0..d.x_len()).map(|i| (i / c) as f32).collect();
        let tensor = |data: &[f32]| gpu.tensor_from("t", &[data.len()], data).unwrap();
        let (tx, ty, tdx) = (tensor(&x), tensor(&vec![0.0; c]), tensor(&vec![0.0; x.len()]));
        let targmax = gpu.tensor_from_u32("argmax", &[c], &vec![0; c]).unwrap();
        let mut plan = plan();
        record_max_forward(&mut plan, &d, [&tx, &ty, &targmax]).unwrap();
        record_max_backward_x(&mut plan, &d, [&targmax, &ty, &tdx]).unwrap();
        gpu.run(&plan.finish().block_on().unwrap()).block_on().unwrap();
        let last = (254 * 256 - 1) as f32;
        assert_eq!(gpu.read(&ty).block_on().unwrap(), vec![last; c]);
        let dx = gpu.read(&tdx).block_on().unwrap();
        assert!(dx[x.len() - c..].iter().all(|&dx| dx == last) && dx[..x.len() - c].iter().all(|&dx| dx == 0.0));
    }
    for c in [1, 4] {
        let d = dims(256, 254, c);
        let tensor = |len: usize| gpu.tensor_from("t", &[len], &vec![0.0; len]).unwrap();
        let (tx, ty) = (tensor(d.x_len()), tensor(c));
        let targmax = gpu.tensor_from_u32("argmax", &[c], &vec![0; c]).unwrap();
        let refused = [
            record_max_forward(&mut plan(), &d, [&tx, &ty, &targmax]),
            record_mean_forward(&mut plan(), Reduction::Average, &d, [&tx, &ty]),
        ];
        for result in refused {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("256x254 cells"), "{error}");
        }
    }
    // A window may reach far beyond the image.
    check(&[(1, [7, 5, 4], [400, 300], [400, 300], Same), (1, [7, 5, 3], [400, 300], [400, 300], Same)]);
}

#[test]
fn pool2d_matches_cpu_on_the_layers_of_the_article() {
    check(&[(32, [28, 28, 32], [2, 2], [2, 2], Valid), (32, [14, 14, 64], [2, 2], [2, 2], Valid)]);
}
