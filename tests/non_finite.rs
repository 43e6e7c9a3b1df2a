use crate::support::{assert_all_right, gpu};
use fmnist_gpu::data::{Split, synthetic};
use fmnist_gpu::engine::{Engine, Epoch, GpuEngine, NativeEngine, NonFinite, Optimizer, ReferenceEngine, StepConfig};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::sgd::SgdConfig;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::non_finite::verify;
use pollster::FutureExt;

#[test]
fn non_finite_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 7);
    for len in [1, 2, 63, 64, 65, 127, 1009] {
        verify(&mut verifier, len).unwrap();
    }
    assert_all_right(&mut verifier);
}

/// More than 65,535 workgroups: the dispatch is folded into two dimensions, and the shader unfolds it.
#[test]
fn non_finite_matches_cpu_beyond_one_dimension_of_workgroups() {
    let mut verifier = Verifier::new(gpu(), 8);
    verify(&mut verifier, 65_535 * 64 + 77).unwrap();
    assert_all_right(&mut verifier);
}

const BATCH: usize = 4;
const SGD: Optimizer = Optimizer::Sgd(SgdConfig { learning_rate: 0.1, momentum: 0.9, nesterov: false });

/// Poisons a training of the built-in MLP of three steps, and returns what the engines find: that of the GPU, the native one
/// and the plain loops.
fn causes(poison: impl FnOnce(&mut [Vec<f32>], &mut Epoch, &Split)) -> [Option<NonFinite>; 3] {
    let model = Model::mlp();
    let split = synthetic::generate(3 * BATCH, 1, 5).0;
    let mut parameters = initial_parameters(&model.parameters().unwrap(), 1);
    let rates = (1..=3).map(|step| StepConfig::from(&SGD).rates(step, 3)).collect();
    let mut work = Epoch { number: 1, order: (0..3 * BATCH as u32).collect(), rates, ..Epoch::default() };
    poison(&mut parameters, &mut work, &split);
    let on_gpu = GpuEngine::new(gpu(), &model, &parameters).unwrap();
    let mut on_gpu = on_gpu.and_training(&split, BATCH, &SGD).block_on().unwrap();
    let mut native = NativeEngine::new(&model, &parameters, 2).unwrap().and_training(&split, BATCH, SGD).unwrap();
    let mut reference = ReferenceEngine::<f32>::new(&model, &parameters, &split, BATCH, SGD).unwrap();
    let engines: [&mut dyn Engine; 3] = [&mut on_gpu, &mut native, &mut reference];
    engines.map(|engine| engine.find_non_finite(&work, 3).block_on().unwrap())
}

/// Checks what each engine blames: step, tensor, operation, first element and their number. On a GPU, the kernel of an operation depends on the
/// adapter.
#[track_caller]
fn assert_blamed(found: &[Option<NonFinite>; 3], step: usize, blamed: [(&str, &str, usize, usize); 3]) {
    for (found, (tensor, operation, index, count)) in found.iter().zip(blamed) {
        let found = found.as_ref().expect("something is found");
        let place = (found.step, found.tensor.as_str(), found.index, found.count);
        assert_eq!(place, (step, tensor, index, count), "{found:?}");
        assert!(found.operation.starts_with(operation), "{found:?} instead of {operation}");
    }
}

/// The first number that is not finite is blamed on the step, the tensor, the element and the operation that it comes from.
#[test]
fn the_first_bad_number_is_blamed_on_what_wrote_it() {
    assert_eq!(causes(|_, _, _| {}), [None, None, None], "nothing is bad");

    // A weight from the fourth hidden unit to class 7: one logit of each image.
    let weight = causes(|parameters, _, _| parameters[2][3 * 10 + 7] = f32::NAN);
    let logit = |operation| ("dense_2.y", operation, 7, BATCH);
    assert_blamed(&weight, 1, [logit("dense_forward"), logit("dense"), logit("dense")]);

    // A bias of the hidden layer. The plain loops keep the sums before the activation.
    let bias = |parameters: &mut [Vec<f32>]| parameters[1][5] = f32::INFINITY;
    let hidden = |tensor, operation| (tensor, operation, 5, BATCH);
    let blamed = [hidden("dense_1.y", "dense_forward"), hidden("dense_1.y", "dense"), hidden("dense_1.sums", "dense")];
    assert_blamed(&causes(|parameters, _, _| bias(parameters)), 1, blamed);
    // The first step of the epoch is done: the search begins with the second.
    assert_blamed(
        &causes(|parameters, work, _| {
            bias(parameters);
            work.done.batches = 1;
        }),
        2,
        blamed,
    );

    // Finite logits too far apart: the loss of every image of another class. A GPU keeps the sum of a batch.
    let logits = |class| if class == 4 { 3e38 } else { -3e38 };
    let mut others = Vec::new();
    let loss = causes(|parameters, _, split| {
        parameters[3] = (0..10).map(logits).collect();
        others = (0..BATCH).filter(|&i| split.labels[i] != 4).collect();
    });
    let losses = ("loss", "softmax_xent", others[0], others.len());
    assert_blamed(&loss, 1, [("train.batch_loss", "softmax_xent", 0, 1), losses, losses]);

    // Four times the same image, misclassified by a wide margin: finite gradients of the hidden units, whose sum over the batch is not.
    let mut bright = Vec::new();
    let backward = causes(|parameters, work, split| {
        work.order.fill(0);
        parameters[0].fill(0.0);
        parameters[1].fill(1e-38);
        let weight = |i| if i % 10 == usize::from(split.labels[0]) { -3e38 } else { 3e38 };
        parameters[2] = (0..parameters[2].len()).map(weight).collect();
        let gradient = |pixel: u8| 4.0 * 1.5e38 * f64::from(pixel) / 255.0;
        let pixels = split.images[..784].iter().enumerate();
        bright = pixels.filter(|(_, pixel)| gradient(**pixel) > f64::from(f32::MAX)).map(|(i, _)| i).collect();
    });
    let gradients = |operation| ("gradients.dense_1.weight", operation, bright[0] * 128, bright.len() * 128);
    assert_blamed(
        &backward,
        1,
        [gradients("dense_backward_w"), gradients("backward pass"), gradients("backward pass")],
    );

    // An infinite step size, in the second step. A GPU writes all parameters, and what fills them up to whole vectors, in one dispatch, and the
    // velocity after them.
    let size = causes(|_, work, _| work.rates[1].size = f32::INFINITY);
    let velocity = ("velocity.dense_1.weight", "optimizer step", 0, 784 * 128);
    assert_blamed(&size, 2, [("parameters.dense_1.weight", "sgd_step", 0, 101_824), velocity, velocity]);
}
