use crate::support::{assert_all_right, gpu};
use fmnist_gpu::ops::pool2d::{Padding, Pool2dDims};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::pool2d::verify;

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

#[test]
fn pool2d_matches_cpu_on_the_layers_of_the_article() {
    check(&[(32, [28, 28, 32], [2, 2], [2, 2], Valid), (32, [14, 14, 64], [2, 2], [2, 2], Valid)]);
}
