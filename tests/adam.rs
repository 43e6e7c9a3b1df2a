use crate::support::{assert_all_right, gpu};
use fmnist_gpu::gpu::{GpuError, PlanBuilder};
use fmnist_gpu::ops::Groups;
use fmnist_gpu::ops::adam::{AdamConfig, record};
use fmnist_gpu::ops::head::HeadDims;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::adam::{verify, verify_pending};
use fmnist_gpu::verify::step::groups;

#[test]
fn adam_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 10);
    for len in [4, 60, 252, 256, 260, 4036] {
        verify(&mut verifier, len, &Groups::alike(len)).unwrap();
        verify(&mut verifier, len, &groups(len)).unwrap();
    }
    assert_all_right(&mut verifier);
}

/// Each part alone, and groups that are empty.
#[test]
fn adam_with_some_groups_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 13);
    let all = groups(260);
    for groups in [
        Groups { decay: false, ..all },
        Groups { clip: false, ..all },
        Groups { factors: [1.0; 3], ..all },
        Groups { starts: [0, 8, 8], ..all },
        Groups { starts: [260; 3], ..all },
        Groups { starts: [64, 64, 260], ..all },
    ] {
        verify(&mut verifier, 260, &groups).unwrap();
    }
    assert_all_right(&mut verifier);
}

/// Heads of odd sizes, with and without a hidden layer that needs no gradient of its input, and filters: none, one, several.
#[test]
fn adam_that_finishes_gradients_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 14);
    for (n, i, c, inputs, filters) in [
        (1, 4, 1, Some(1), &[][..]),
        (3, 1, 1, None, &[]),
        (64, 128, 10, Some(13), &[]),
        (65, 12, 7, Some(3), &[[1, 4, 4]]),
        (33, 5, 11, None, &[[5, 45 * 4, 20], [1, 12, 4], [130, 36, 4]]),
    ] {
        verify_pending(&mut verifier, &HeadDims { n, parts: 1, i, c }, inputs, filters).unwrap();
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
    let tensor = |len: usize| gpu.tensor_from("t", &[len], &vec![0.0; len]).unwrap();
    let progress = gpu.tensor_from_u32("p", &[2], &[0, 1]).unwrap();
    let clip = tensor(1);
    for (len, starts) in [(6, [8; 3]), (8, [4, 6, 8])] {
        let tensors = [0; 5].map(|_| tensor(len));
        let [g, w, m, v, rates] = tensors.each_ref();
        let groups = Groups { starts, ..Groups::alike(len) };
        let tensors = [g, w, m, v, rates, &progress, &clip];
        let result = record(&mut PlanBuilder::new(gpu), &AdamConfig::default(), &groups, tensors);
        let Err(GpuError::Record { entry: "adam_step", message }) = result else { panic!("{result:?}") };
        assert!(message.contains(" 6, "), "{message}");
    }
}
