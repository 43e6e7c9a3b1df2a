use crate::support::{assert_all_right, gpu};
use fmnist_gpu::cpu::leakyrelu::{leakyrelu_backward_x, leakyrelu_forward};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::leakyrelu::verify;

#[test]
fn leakyrelu_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 18);
    for len in [1, 2, 63, 64, 65, 127, 1009] {
        for slope in [0.01, 0.2, 0.0, 1.5] {
            verify(&mut verifier, slope, len).unwrap();
        }
    }
    assert_all_right(&mut verifier);
}

/// More than 65,535 workgroups: the dispatch is folded into two dimensions, and the shader unfolds it.
#[test]
fn leakyrelu_matches_cpu_beyond_one_dimension_of_workgroups() {
    let mut verifier = Verifier::new(gpu(), 19);
    verify(&mut verifier, 0.01, 65_535 * 64 + 77).unwrap();
    assert_all_right(&mut verifier);
}

#[test]
fn leakyrelu_keeps_what_is_positive_and_shrinks_the_rest() {
    let (x, dy) = ([-8.0, -0.5, 0.0, 0.25, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0]);
    let (mut y, mut dx) = ([f64::NAN; 5], [f64::NAN; 5]);
    leakyrelu_forward(0.125, &x, &mut y);
    assert_eq!(y, [-1.0, -0.0625, 0.0, 0.25, 3.0]);
    // At zero it is the slope, as in TensorFlow and PyTorch.
    leakyrelu_backward_x(0.125, &y, &dy, &mut dx);
    assert_eq!(dx, [0.125, 0.25, 0.375, 4.0, 5.0]);
}
