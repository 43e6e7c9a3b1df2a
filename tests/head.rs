use crate::support::{assert_all_right, gpu};
use fmnist_gpu::ops::head::HeadDims;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::head::verify;

fn check(cases: &[(usize, usize, usize, usize, usize)]) {
    let mut verifier = Verifier::new(gpu(), 9);
    for &(n, parts, i, c, n_valid) in cases {
        verify(&mut verifier, &HeadDims { n, parts, i, c }, n_valid).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn head_matches_cpu() {
    check(&[(1, 1, 1, 1, 1), (2, 3, 5, 2, 2), (63, 2, 64, 10, 63), (64, 7, 128, 10, 64), (65, 1, 10, 13, 65)]);
}

/// 256 lanes: the hidden units of a row, the classes of a slice, the rows of a batch.
#[test]
fn head_matches_cpu_around_the_lanes() {
    check(&[(3, 1, 255, 3, 3), (3, 1, 257, 100, 3), (4, 2, 1024, 128, 4), (255, 1, 3, 4, 255), (257, 1, 2, 127, 257)]);
}

#[test]
fn head_matches_cpu_on_short_last_batches() {
    check(&[(32, 2, 16, 10, 1), (32, 2, 16, 10, 31), (300, 1, 4, 3, 256)]);
}

#[test]
fn a_head_too_large_is_refused() {
    let too_large = |i, c| verify(&mut Verifier::new(gpu(), 9), &HeadDims { n: 2, parts: 1, i, c }, 2).unwrap_err();
    for (i, c) in [(1025, 10), (8, 129)] {
        let error = too_large(i, c).to_string();
        assert!(error.contains(&format!("{i} hidden units and {c} classes")), "{error}");
    }
}
