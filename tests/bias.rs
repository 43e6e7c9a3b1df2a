use crate::support::{assert_all_right, gpu};
use fmnist_gpu::ops::bias::BiasDims;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::bias::verify;

#[test]
fn bias_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 4);
    for (n, o) in [(1, 1), (3, 5), (7, 63), (7, 64), (7, 65), (6272, 64)] {
        verify(&mut verifier, &BiasDims { n, o }).unwrap();
    }
    assert_all_right(&mut verifier);
}
