use crate::support::{assert_all_right, gpu};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::relu::verify;

#[test]
fn relu_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 5);
    for len in [1, 2, 63, 64, 65, 127, 1009] {
        verify(&mut verifier, len).unwrap();
    }
    assert_all_right(&mut verifier);
}

/// More than 65,535 workgroups: the dispatch is folded into two dimensions, and the shader unfolds it.
#[test]
fn relu_matches_cpu_beyond_one_dimension_of_workgroups() {
    let mut verifier = Verifier::new(gpu(), 6);
    verify(&mut verifier, 65_535 * 64 + 77).unwrap();
    assert_all_right(&mut verifier);
}
