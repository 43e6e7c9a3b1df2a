use crate::support::{assert_all_right, gpu};
use fmnist_gpu::ops::metrics::verify;
use fmnist_gpu::verify::Verifier;

#[test]
fn metrics_match_cpu() {
    let mut verifier = Verifier::new(gpu(), 9);
    for (n, n_valid) in [(1, 1), (32, 32), (32, 1), (63, 63), (64, 64), (65, 65), (65, 64), (1000, 777)] {
        verify(&mut verifier, n, n_valid).unwrap();
    }
    assert_all_right(&verifier);
}
