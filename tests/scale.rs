use crate::support::{assert_all_right, gpu};
use fmnist_gpu::cpu::scale::{scale_backward_x, scale_forward};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::scale::verify;

#[test]
fn scale_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 20);
    for len in [1, 2, 63, 64, 65, 127, 1009] {
        for factor in [0.1, 1.0, -3.7, 0.0, 1e10] {
            verify(&mut verifier, factor, len).unwrap();
        }
    }
    assert_all_right(&mut verifier);
}

/// More than 65,535 workgroups: the dispatch is folded into two dimensions, and the shader unfolds it.
#[test]
fn scale_matches_cpu_beyond_one_dimension_of_workgroups() {
    let mut verifier = Verifier::new(gpu(), 21);
    verify(&mut verifier, 0.3, 65_535 * 64 + 77).unwrap();
    assert_all_right(&mut verifier);
}

#[test]
fn scale_is_a_product_both_ways() {
    let mut result = [f32::NAN; 3];
    scale_forward(-0.5, &[1.0, -2.0, 8.0], &mut result);
    assert_eq!(result, [-0.5, 1.0, -4.0]);
    scale_backward_x(-0.5, &[3.0, 0.0, -1.0], &mut result);
    assert_eq!(result, [-1.5, 0.0, 0.5]);
}
