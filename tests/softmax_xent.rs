use crate::support::made::{self, Case, close};
use crate::support::{assert_all_right, gpu};
use fmnist_gpu::cpu::softmax_xent::{softmax_xent_backward_x, softmax_xent_soft_backward_x, softmax_xent_soft_loss};
use fmnist_gpu::data::Split;
use fmnist_gpu::engine::{ClassWeights, EngineError, LossConfig, ReferenceEngine, StepConfig};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::softmax_xent::{SoftTargets, SoftmaxXentDims};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::softmax_xent::{verify, verify_soft};

fn check(cases: &[(usize, usize, usize, f32)]) {
    let mut verifier = Verifier::new(gpu(), 7);
    for &(n, c, n_valid, scale) in cases {
        verify(&mut verifier, &SoftmaxXentDims { n, c }, n_valid, scale).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn softmax_xent_matches_cpu() {
    check(&[
        (1, 1, 1, 1.0),
        (1, 2, 1, 1.0),
        (63, 10, 63, 3.0),
        (64, 10, 64, 3.0),
        (65, 10, 65, 3.0),
        (255, 3, 255, 2.0),
        (256, 3, 256, 2.0),
        (1000, 4, 777, 2.0),
        (7, 13, 7, 5.0),
    ]);
}

#[test]
fn softmax_xent_matches_cpu_on_short_last_batches() {
    check(&[(32, 10, 1, 3.0), (32, 10, 31, 3.0), (64, 3, 63, 2.0)]);
}

/// exp(1e4) is far beyond single precision; the maximum is subtracted first.
#[test]
fn softmax_xent_is_stable_at_large_logits() {
    check(&[(9, 10, 9, 1e4), (9, 10, 4, 88.0)]);
}

#[test]
fn softmax_xent_with_soft_targets_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 8);
    for (n, c, n_valid, smoothing, share) in [
        (1, 1, 1, 0.0, None),
        (1, 3, 1, 0.3, Some(0.25)),
        (63, 10, 63, 0.1, None),
        (64, 10, 1, 0.1, Some(0.5)),
        (65, 10, 64, 0.0, Some(0.75)),
        (257, 3, 256, 0.5, Some(0.0)),
        (1000, 4, 777, 0.2, Some(0.9)),
    ] {
        verify_soft(&mut verifier, &SoftmaxXentDims { n, c }, n_valid, smoothing, share).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn soft_targets_agree_with_pytorch() {
    let made::Losses { logits, labels, partners, cases } = made::load().losses;
    let d = SoftmaxXentDims { n: labels.len(), c: 3 };
    for Case { smoothing, class_weights, share, loss, gradient } in cases {
        let targets = SoftTargets { smoothing, class_weights: &class_weights, partners: &partners, share };
        let (mut found, mut dx) = (vec![f64::NAN; d.n], vec![f64::NAN; logits.len()]);
        softmax_xent_soft_loss(&d, &logits, &labels, &targets, &mut found);
        softmax_xent_soft_backward_x(&d, &logits, &labels, &targets, d.n, &mut dx);
        let case = format!("smoothing {smoothing}, weights {class_weights:?}, share {share}");
        close(&case, &found, &loss, 1e-14);
        close(&case, &dx, &gradient, 1e-14);
    }
}

/// Without smoothing, weights and mixing, soft targets are the labels: the same bits.
#[test]
fn soft_targets_without_effect_are_the_labels() {
    let made::Losses { logits, labels, partners, .. } = made::load().losses;
    let logits: Vec<f32> = logits.iter().map(|&x| x as f32).collect();
    let d = SoftmaxXentDims { n: labels.len(), c: 3 };
    let targets = SoftTargets { smoothing: 0.0, class_weights: &[1.0; 3], partners: &partners, share: 1.0 };
    let [mut soft, mut plain] = [vec![f32::NAN; logits.len()], vec![f32::NAN; logits.len()]];
    softmax_xent_soft_backward_x(&d, &logits, &labels, &targets, 4, &mut soft);
    softmax_xent_backward_x(&d, &logits, &labels, 4, &mut plain);
    assert_eq!(soft, plain);
}

/// By hand: the loss of each image times the weight of its class, the mean over the number of images; accuracy counts images alike.
#[test]
fn weights_of_classes_multiply_the_loss_of_their_images() {
    let model = Model::mlp();
    let parameters = initial_parameters(&model.parameters().unwrap(), 2);
    let images = (0..4 * 784).map(|i| (i * 7 % 256) as u8).collect();
    let split = Split { images, labels: vec![3, 3, 3, 8] };
    let engine = |class_weights: ClassWeights| {
        let loss = LossConfig { class_weights, ..LossConfig::default() };
        ReferenceEngine::<f64>::new(&model, &parameters, &split, 4, StepConfig { loss, ..StepConfig::default() })
    };
    let batch = ReferenceEngine::batch(&split, &[0, 1, 2, 3], 0, 4);
    let plain = engine(ClassWeights::Equal).unwrap().gradients(&batch).unwrap();
    let mut given = vec![1.0; 10];
    (given[3], given[8]) = (0.25, 3.0);
    // 4 images of 10 classes: 4 / (10 * 3) and 4 / (10 * 1), in single precision.
    let balanced = [f64::from(4.0f32 / 30.0), f64::from(0.4f32)];
    for (class_weights, [of_3, of_8]) in [(ClassWeights::Given(given), [0.25, 3.0]), (ClassWeights::Balanced, balanced)]
    {
        let found = engine(class_weights).unwrap().gradients(&batch).unwrap();
        let expected: Vec<f64> = plain.loss.iter().zip([of_3, of_3, of_3, of_8]).map(|(loss, w)| loss * w).collect();
        close("losses", &found.loss, &expected, 1e-12);
        assert_eq!(found.correct, plain.correct);
    }
    let wrong = engine(ClassWeights::Given(vec![1.0; 9])).unwrap_err();
    assert!(matches!(wrong, EngineError::ClassWeights { given: 9, classes: 10 }), "{wrong}");
}
