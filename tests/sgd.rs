use crate::support::{assert_all_right, gpu};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::sgd::verify;

#[test]
fn sgd_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 11);
    for (len, momentum) in [(1, 0.0), (63, 0.9), (64, 0.5), (65, 0.99), (1009, 0.0)] {
        verify(&mut verifier, len, momentum).unwrap();
    }
    assert_all_right(&mut verifier);
}
