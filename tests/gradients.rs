use fmnist_gpu::cpu::adam::{AdamConfig, adam_step};
use fmnist_gpu::cpu::conv2d::{Conv2dDims, Padding, conv2d_backward_x, conv2d_forward};
use fmnist_gpu::cpu::pool2d::{Pool2dDims, pool2d_average_forward, pool2d_max_forward, pool2d_sum_forward};
use fmnist_gpu::cpu::sgd::{SgdConfig, sgd_step};
use fmnist_gpu::cpu::softmax_xent::{SoftmaxXentDims, softmax_xent_backward_x, softmax_xent_forward};
use fmnist_gpu::cpu::step::Step;
use fmnist_gpu::cpu::{DimsError, clip::clip_factor};
use fmnist_gpu::verify::OPS;
use fmnist_gpu::verify::gradients::{check, check_all};
use std::collections::BTreeSet;

#[test]
fn every_mirror_gradient_agrees_with_finite_differences() {
    for seed in 0..5 {
        let verdicts = check_all(seed);
        let mirrors = OPS.iter().flat_map(|op| op.kernels).map(|entry| entry.mirror);
        // The name of the second says forward and backward.
        let is_gradient = |mirror: &&str| mirror.contains("_backward_") || *mirror == "head_rows";
        let wanted: BTreeSet<&str> = mirrors.filter(is_gradient).collect();
        let found: BTreeSet<&str> = verdicts.iter().map(|verdict| verdict.kernel).collect();
        assert_eq!(found, wanted, "one verdict per gradient");
        for verdict in verdicts {
            assert!(verdict.passed(), "{}: {:#?}", verdict.kernel, verdict.failures);
        }
    }
}

#[test]
fn finite_differences_find_a_wrong_gradient() {
    let mut square = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    let x = [0.5, -1.5, 2.0];
    assert!(check("square", "right", &x, &[1.0, -3.0, 4.0], &mut square).passed());
    for wrong in [[1.0, -3.0, 4.001], [1.0, 3.0, 4.0], [1.0, f64::NAN, 4.0]] {
        assert!(!check("square", "wrong", &x, &wrong, &mut square).passed(), "{wrong:?}");
    }
    assert!(!check("square", "short", &x[..2], &[1.0, -3.0, 4.0], &mut square).passed());
}

/// A 3x3 image and a 2x2 window, computed by hand.
#[test]
fn conv2d_computes_the_example_of_the_book() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
    let w = [1.0, 10.0, 100.0, 1000.0];
    let valid = Conv2dDims::new(1, [3, 3, 1], [2, 2], 1, [1, 1], Padding::Valid).unwrap();
    let mut y = [0.0; 4];
    conv2d_forward(&valid, &x, &w, &[0.5], &mut y);
    // 1*1 + 2*10 + 4*100 + 5*1000 and so on: not flipped, as in every framework.
    assert_eq!(y, [5421.5, 6532.5, 8754.5, 9865.5]);

    let same = Conv2dDims::new(1, [3, 3, 1], [2, 2], 1, [1, 1], Padding::Same).unwrap();
    // TensorFlow puts the odd zero after the image, not before it.
    assert_eq!((same.ho, same.wo, same.pad_top, same.pad_left), (3, 3, 0, 0));
    let mut y = [0.0; 9];
    conv2d_forward(&same, &x, &w, &[0.0], &mut y);
    assert_eq!(y, [5421.0, 6532.0, 603.0, 8754.0, 9865.0, 906.0, 87.0, 98.0, 9.0]);
}

/// <dy, conv(x, w)> = <dx, x>: the backward pass is the adjoint of the forward pass.
#[test]
fn conv2d_backward_x_is_the_adjoint_of_forward() {
    let d = Conv2dDims::new(2, [5, 7, 3], [3, 2], 4, [2, 1], Padding::Same).unwrap();
    let values = |len: usize, step: f64| (0..len).map(|i| (i as f64 * step).sin()).collect::<Vec<_>>();
    let (x, w, dy) = (values(d.x_len(), 0.7), values(d.w_len(), 1.3), values(d.y_len(), 2.1));
    let (mut y, mut dx) = (vec![0.0; d.y_len()], vec![0.0; d.x_len()]);
    conv2d_forward(&d, &x, &w, &[0.0; 4], &mut y);
    conv2d_backward_x(&d, &w, &dy, &mut dx);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!((dot(&dy, &y) - dot(&dx, &x)).abs() < 1e-10);
}

#[test]
fn pool2d_computes_the_example_of_the_article() {
    let x = [1.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0];
    let d = Pool2dDims::new(1, [4, 4, 1], [2, 2], [2, 2], Padding::Valid).unwrap();
    let (mut y, mut argmax) = ([0.0; 4], [0; 4]);
    pool2d_max_forward(&d, &x, &mut y, &mut argmax);
    assert_eq!((y, argmax), ([6.0, 8.0, 3.0, 4.0], [5, 7, 8, 15]));
    pool2d_average_forward(&d, &x, &mut y);
    assert_eq!(y, [3.25, 5.25, 2.0, 2.0]);
    pool2d_sum_forward(&d, &x, &mut y);
    assert_eq!(y, [13.0, 21.0, 8.0, 8.0]);
}

#[test]
fn ties_go_to_the_first_index() {
    let d = Pool2dDims::new(1, [2, 2, 1], [2, 2], [2, 2], Padding::Valid).unwrap();
    let (mut y, mut argmax) = ([0.0; 1], [9; 1]);
    pool2d_max_forward(&d, &[2.0, 2.0, 2.0, 2.0], &mut y, &mut argmax);
    assert_eq!(argmax, [0]);
    let (mut p, mut loss, mut correct) = ([0.0; 3], [0.0; 1], [9; 1]);
    softmax_xent_forward(&SoftmaxXentDims { n: 1, c: 3 }, &[1.0, 5.0, 5.0], &[2], &mut p, &mut loss, &mut correct);
    assert_eq!(correct, [0], "the prediction is class 1, the first of the two");
}

#[test]
fn padding_never_wins_a_maximum_and_is_not_counted_in_an_average() {
    let d = Pool2dDims::new(1, [1, 1, 1], [3, 3], [1, 1], Padding::Same).unwrap();
    let (mut y, mut argmax) = ([0.0; 1], [9; 1]);
    pool2d_max_forward(&d, &[-7.0], &mut y, &mut argmax);
    assert_eq!((y, argmax), ([-7.0], [0]));
    pool2d_average_forward(&d, &[-7.0], &mut y);
    assert_eq!(y, [-7.0]);
}

#[test]
fn softmax_is_stable_and_its_gradient_sums_to_zero() {
    let d = SoftmaxXentDims { n: 2, c: 3 };
    let x = [1e4, -1e4, 9_999.0, 0.1, 0.2, 0.3];
    let (mut p, mut loss, mut correct) = ([0.0; 6], [0.0; 2], [0; 2]);
    softmax_xent_forward(&d, &x, &[0, 1], &mut p, &mut loss, &mut correct);
    assert!(p.iter().chain(&loss).all(|v| f64::is_finite(*v)), "{p:?} {loss:?}");
    assert!((loss[0] - (1.0 + (-1f64).exp()).ln()).abs() < 1e-12);
    let mut dx = [0.0; 6];
    softmax_xent_backward_x(&d, &x, &[0, 1], 2, &mut dx);
    for row in dx.chunks(3) {
        assert!(row.iter().sum::<f64>().abs() < 1e-15, "{row:?}");
    }
}

/// Two steps on one parameter, computed by hand: g = 0.5, then -1.
#[test]
fn adam_takes_the_two_steps_of_the_paper() {
    let c = AdamConfig::default();
    let (mut w, mut m, mut v) = ([1.0f64], [0.0], [0.0]);
    adam_step(&c, Step::of_size(c.step_size(1)), &[0.5], &mut w, &mut m, &mut v);
    assert!((m[0] - 0.05).abs() < 1e-15 && (v[0] - 0.00025).abs() < 1e-15);
    // The first step is one learning rate in the direction of the gradient, except for epsilon.
    assert!((w[0] - (1.0 - 1e-3)).abs() < 1e-8, "{}", w[0]);
    adam_step(&c, Step::of_size(c.step_size(2)), &[-1.0], &mut w, &mut m, &mut v);
    assert!((m[0] - (0.9 * 0.05 - 0.1)).abs() < 1e-15 && (v[0] - (0.999 * 0.00025 + 0.001)).abs() < 1e-15);
    let alpha = 1e-3 * (1.0 - 0.999f64 * 0.999).sqrt() / (1.0 - 0.9 * 0.9);
    assert!((w[0] - (0.999 + alpha * 0.055 / 0.00124975f64.sqrt())).abs() < 1e-7, "{}", w[0]);
}

#[test]
fn sgd_keeps_momentum() {
    let (mut w, mut velocity) = ([1.0f64], [0.0]);
    let config = SgdConfig { momentum: 0.5, ..SgdConfig::default() };
    let step = Step::of_size(0.1);
    sgd_step(&config, step, &[2.0], &mut w, &mut velocity);
    assert!((w[0] - 0.8).abs() < 1e-15);
    sgd_step(&config, step, &[0.0], &mut w, &mut velocity);
    assert!((w[0] - 0.7).abs() < 1e-15);
}

/// Computed by hand: velocity = 0.5 * -0.2 - 0.1 * 2, and the weight moves by 0.5 * velocity - 0.1 * 2 after it has decayed by a tenth.
#[test]
fn nesterov_looks_ahead_and_weights_decay_before() {
    let config = SgdConfig { momentum: 0.5, nesterov: true, ..SgdConfig::default() };
    let (mut w, mut velocity) = ([1.0f64], [-0.2]);
    sgd_step(&config, Step { size: 0.1, decay: 0.1, clip: 0.5 }, &[4.0], &mut w, &mut velocity);
    assert!((velocity[0] + 0.3).abs() < 1e-15 && (w[0] - (0.9 - 0.15 - 0.2)).abs() < 1e-15, "{w:?} {velocity:?}");
    // Without decay, a weight keeps even the sign of zero.
    assert!(Step::of_size(0.1).decayed(-0.0f64).is_sign_negative());
}

/// The norm of (2, -3, 6) is 7.
#[test]
fn gradients_are_clipped_by_the_norm_of_all() {
    let gradients = [vec![2.0f64, -3.0], Vec::new(), vec![6.0]];
    assert_eq!(clip_factor(3.5, &gradients), 0.5);
    assert_eq!([clip_factor(7.0, &gradients), clip_factor(100.0, &gradients)], [1.0; 2]);
    assert_eq!(clip_factor(1.0, &[vec![0.0f32; 3]]), 1.0);
    // What is not a number stays one, to be found later.
    assert_eq!(clip_factor(1.0, &[vec![f32::NAN]]), 1.0);
}

#[test]
fn dimensions_that_make_no_operation_are_refused_with_names_and_numbers() {
    let zero = Conv2dDims::new(1, [5, 5, 0], [3, 3], 2, [1, 1], Padding::Same);
    assert_eq!(zero, Err(DimsError::Zero { name: "the number of input channels" }));
    let window = Conv2dDims::new(1, [5, 2, 1], [3, 3], 2, [1, 1], Padding::Valid);
    assert_eq!(window, Err(DimsError::Window { axis: "columns", window: 3, input: 2 }));
    let large = Conv2dDims::new(100_000, [28, 28, 1], [3, 3], 4096, [1, 1], Padding::Same);
    assert_eq!(large, Err(DimsError::TooLarge { tensor: "the output" }));
    let huge = Pool2dDims::new(usize::MAX, [usize::MAX, 2, 3], [1, 1], [1, 1], Padding::Valid);
    assert_eq!(huge, Err(DimsError::TooLarge { tensor: "the input" }));
}
