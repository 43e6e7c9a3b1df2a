use crate::support::{assert_all_right, gpu};
use fmnist_gpu::cpu::gelu::{gelu_backward_x, gelu_forward};
use fmnist_gpu::native::gelu as native;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::gelu::verify;

#[test]
fn gelu_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 16);
    for len in [1, 2, 63, 64, 65, 127, 1009, 100_003] {
        verify(&mut verifier, len).unwrap();
    }
    assert_all_right(&mut verifier);
}

/// More than 65,535 workgroups: the dispatch is folded into two dimensions, and the shader unfolds it.
#[test]
fn gelu_matches_cpu_beyond_one_dimension_of_workgroups() {
    let mut verifier = Verifier::new(gpu(), 17);
    verify(&mut verifier, 65_535 * 64 + 77).unwrap();
    assert_all_right(&mut verifier);
}

/// The mirror computes the tanh form, written without tanh.
#[test]
fn gelu_is_the_tanh_form() {
    let x: Vec<f64> = (-12_000..=12_000).map(|i| f64::from(i) / 1000.0).collect();
    let mut y = vec![f64::NAN; x.len()];
    gelu_forward(&x, &mut y);
    for (x, y) in x.iter().zip(y) {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        let expected = 0.5 * x * (1.0 + u.tanh());
        assert!((y - expected).abs() < 1e-14, "gelu({x}) is {y}, expected {expected}");
    }
}

/// Far out, powers of x and exp(-2u) would be infinite, and their products NaN.
#[test]
fn gelu_of_any_number_is_a_number() {
    let x = [-f32::MAX, -1e30, -1e13, -100.0, -10.5, 10.5, 100.0, 1e13, 1e30, f32::MAX];
    let (mut y, mut dx) = ([f32::NAN; 10], [f32::NAN; 10]);
    for native_loops in [false, true] {
        if native_loops {
            native::gelu_forward(&x, &mut y);
            native::gelu_backward_x(&x, &[1.0; 10], &mut dx);
        } else {
            gelu_forward(&x, &mut y);
            gelu_backward_x(&x, &[1.0; 10], &mut dx);
        }
        for i in 0..x.len() {
            assert_eq!(y[i], x[i].max(0.0));
            assert!((dx[i] - if x[i] > 0.0 { 1.0 } else { 0.0 }).abs() < 1e-35, "{} at {}", dx[i], x[i]);
        }
    }
}

/// A number that is not one must not disappear: training stops because of it.
#[test]
fn gelu_of_nan_is_nan() {
    let (mut y, mut native_y) = ([0.0; 1], [0.0; 1]);
    gelu_forward(&[f32::NAN], &mut y);
    native::gelu_forward(&[f32::NAN], &mut native_y);
    assert!(y[0].is_nan() && native_y[0].is_nan());
}
