use crate::support::{assert_all_right, gpu};
use fmnist_gpu::gpu::{GpuError, PlanBuilder};
use fmnist_gpu::ops::adam::{AdamConfig, record};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::adam::verify;

#[test]
fn adam_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 10);
    for len in [4, 60, 252, 256, 260, 4036] {
        verify(&mut verifier, len).unwrap();
    }
    assert_all_right(&mut verifier);
}

/// The first step with Keras's defaults: alpha_1 = lr * sqrt(0.001) / 0.1.
#[test]
fn adam_step_size_is_computed_in_double_precision() {
    let config = AdamConfig::default();
    assert!((config.step_size(1) - 1e-3 * 0.001f64.sqrt() / 0.1).abs() < 1e-15);
    assert!((config.step_size(1_000_000) - 1e-3).abs() < 1e-12);
}

#[test]
fn adam_refuses_a_number_of_parameters_that_is_no_multiple_of_four() {
    let gpu = gpu();
    let tensor = gpu.tensor_from("t", &[6], &[0.0; 6]).unwrap();
    let progress = gpu.tensor_from_u32("p", &[2], &[0, 1]).unwrap();
    let tensors = [&tensor, &tensor, &tensor, &tensor, &tensor, &progress];
    let result = record(&mut PlanBuilder::new(gpu), &AdamConfig::default(), tensors);
    assert!(matches!(result, Err(GpuError::Record { entry: "adam_step", .. })), "{result:?}");
}
