use crate::support::{assert_all_right, gpu};
use fmnist_gpu::ops::softmax_xent::SoftmaxXentDims;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::softmax_xent::verify;

fn check(cases: &[(usize, usize, usize, f32)]) {
    let mut verifier = Verifier::new(gpu(), 7);
    for &(n, c, n_valid, scale) in cases {
        verify(&mut verifier, &SoftmaxXentDims { n, c }, n_valid, scale).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn softmax_xent_matches_cpu() {
    check(&[
        (1, 1, 1, 1.0),
        (1, 2, 1, 1.0),
        (63, 10, 63, 3.0),
        (64, 10, 64, 3.0),
        (65, 10, 65, 3.0),
        (255, 3, 255, 2.0),
        (256, 3, 256, 2.0),
        (1000, 4, 777, 2.0),
        (7, 13, 7, 5.0),
    ]);
}

#[test]
fn softmax_xent_matches_cpu_on_short_last_batches() {
    check(&[(32, 10, 1, 3.0), (32, 10, 31, 3.0), (64, 3, 63, 2.0)]);
}

/// exp(1e4) is far beyond single precision; the maximum is subtracted first.
#[test]
fn softmax_xent_is_stable_at_large_logits() {
    check(&[(9, 10, 9, 1e4), (9, 10, 4, 88.0)]);
}
