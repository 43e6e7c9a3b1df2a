use crate::support::{assert_all_right, gpu};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::clip::verify;

#[test]
fn clip_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 14);
    // Around the numbers of elements of a workgroup, of a part, and of as many parts as there can be.
    for len in [1, 2, 255, 256, 257, 4095, 4096, 4097, 100_003, 4096 * 256, 4096 * 256 + 1] {
        verify(&mut verifier, len).unwrap();
    }
    assert_all_right(&mut verifier);
}
