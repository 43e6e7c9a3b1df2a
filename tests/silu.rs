use crate::support::{assert_all_right, gpu};
use fmnist_gpu::cpu::silu::{silu_backward_x, silu_forward};
use fmnist_gpu::native::silu as native;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::silu::verify;

#[test]
fn silu_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 22);
    for len in [1, 2, 63, 64, 65, 127, 1009, 100_003] {
        verify(&mut verifier, len).unwrap();
    }
    assert_all_right(&mut verifier);
}

/// More than 65,535 workgroups: the dispatch is folded into two dimensions, and the shader unfolds it.
#[test]
fn silu_matches_cpu_beyond_one_dimension_of_workgroups() {
    let mut verifier = Verifier::new(gpu(), 23);
    verify(&mut verifier, 65_535 * 64 + 77).unwrap();
    assert_all_right(&mut verifier);
}

/// The logistic function is half of a shifted tanh.
#[test]
fn silu_is_the_input_times_its_logistic_function() {
    let x: Vec<f64> = (-90_000..=90_000).map(|i| f64::from(i) / 1000.0).collect();
    let mut y = vec![f64::NAN; x.len()];
    silu_forward(&x, &mut y);
    for (x, y) in x.iter().zip(y) {
        let expected = x / 2.0 * (1.0 + (x / 2.0).tanh());
        assert!((y - expected).abs() < 1e-14, "silu({x}) is {y}, expected {expected}");
    }
}

/// Far out, exp(-x) would be infinite, and products with it NaN.
#[test]
fn silu_of_any_number_is_a_number() {
    let x = [-f32::MAX, -1e30, -1e13, -1000.0, -87.5, 87.5, 1000.0, 1e13, 1e30, f32::MAX];
    let (mut y, mut dx) = ([f32::NAN; 10], [f32::NAN; 10]);
    for native_loops in [false, true] {
        if native_loops {
            native::silu_forward(&x, &mut y);
            native::silu_backward_x(&x, &[1.0; 10], &mut dx);
        } else {
            silu_forward(&x, &mut y);
            silu_backward_x(&x, &[1.0; 10], &mut dx);
        }
        for i in 0..x.len() {
            assert_eq!(y[i], x[i].max(0.0));
            assert!((dx[i] - if x[i] > 0.0 { 1.0 } else { 0.0 }).abs() < 1e-35, "{} at {}", dx[i], x[i]);
        }
    }
}

/// A number that is not one must not disappear: training stops because of it.
#[test]
fn silu_of_nan_is_nan() {
    let (mut y, mut native_y) = ([0.0; 1], [0.0; 1]);
    silu_forward(&[f32::NAN], &mut y);
    native::silu_forward(&[f32::NAN], &mut native_y);
    assert!(y[0].is_nan() && native_y[0].is_nan());
}
