//! Exports, each opened by the tool that it is for: tract here, and onnxruntime, PyTorch, Keras and NumPy in Python
//! (tests/python).

use crate::programs::{draw_model, layers_and_activations, layers_and_activations_of};
use crate::support::program::Place;
use crate::support::python::Python;
use crate::support::{cases, genuine_data, gpu};
use ::half::f16;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use fmnist_gpu::cpu::conv2d::Padding;
use fmnist_gpu::data::{DatasetKind, FASHION_MNIST, LoadOptions, Split, load, synthetic};
use fmnist_gpu::engine::{Engine, GpuEngine, Optimizer, ReferenceEngine};
use fmnist_gpu::export::{ExportError, Facts, half, keras, npz, onnx, torch};
use fmnist_gpu::import::{self, Layout};
use fmnist_gpu::model::{
    Activation, INPUT_NAME, Init, Layer, Model, Node, Pair, Pooling, Role, Source, Trainable, initial_parameters,
    weights,
};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::ops::sgd::SgdConfig;
use pollster::FutureExt as _;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Cursor, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::OnceLock;
use tract_onnx::pb;
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, Tensor, tvec};

/// Largest allowed difference between probabilities.
const TOLERANCE: f32 = 1e-5;
const N_IMAGES: usize = 1000;

/// Every type of layer, with windows that are not square and asymmetric padding.
const ODD: &str = r#"
    name = "odd \"model\" of <&>'"
    [[layer]]
    type = "conv2d"
    filters = 6
    kernel_size = 5
    stride = 2
    padding = "same"
    [[layer]]
    type = "relu"
    [[layer]]
    type = "conv2d"
    filters = 5
    kernel_size = [2, 3]
    stride = [1, 2]
    activation = "relu"
    [[layer]]
    type = "averagepool2d"
    pool_size = [2, 3]
    stride = 1
    padding = "same"
    [[layer]]
    type = "sumpool2d"
    pool_size = [3, 2]
    stride = 2
    padding = "same"
    [[layer]]
    type = "maxpool2d"
    pool_size = 2
    stride = 1
    padding = "same"
    [[layer]]
    type = "flatten"
    [[layer]]
    type = "dense"
    units = 16
    activation = "relu"
    [[layer]]
    type = "dense"
    units = 10
"#;

/// The other cases of windows: symmetric padding, sums and averages without padding, steps larger than the window, a
/// second flatten.
const EVEN: &str = r#"
    name = ""
    [[layer]]
    type = "averagepool2d"
    pool_size = 3
    stride = 1
    padding = "same"
    [[layer]]
    type = "conv2d"
    filters = 4
    kernel_size = [3, 5]
    padding = "same"
    [[layer]]
    type = "sumpool2d"
    pool_size = [3, 1]
    stride = [1, 2]
    padding = "same"
    [[layer]]
    type = "maxpool2d"
    pool_size = 3
    stride = 1
    padding = "same"
    [[layer]]
    type = "sumpool2d"
    pool_size = 2
    [[layer]]
    type = "averagepool2d"
    pool_size = [2, 1]
    stride = [3, 2]
    padding = "same"
    [[layer]]
    type = "flatten"
    [[layer]]
    type = "relu"
    [[layer]]
    type = "flatten"
    [[layer]]
    type = "dense"
    units = 10
    activation = "softmax"
"#;

/// Normalizations with and without factor and summand, of images and of lists, flattened or not, and values that several layers read.
const RESIDUAL: &str = r#"
    name = "residual"
    [[layer]]
    type = "conv2d"
    name = "stem"
    filters = 6
    kernel_size = 3
    stride = 2
    padding = "same"
    [[layer]]
    type = "batchnorm"
    [[layer]]
    type = "relu"
    name = "body"
    [[layer]]
    type = "conv2d"
    filters = 6
    kernel_size = 3
    padding = "same"
    [[layer]]
    type = "batchnorm"
    scale = false
    momentum = 0.99
    [[layer]]
    type = "gelu"
    [[layer]]
    type = "conv2d"
    filters = 6
    kernel_size = 3
    padding = "same"
    [[layer]]
    type = "batchnorm"
    center = false
    epsilon = 0.02
    [[layer]]
    type = "add"
    inputs = ["body", "batchnorm_3"]
    [[layer]]
    type = "relu"
    [[layer]]
    type = "maxpool2d"
    pool_size = 2
    [[layer]]
    type = "conv2d"
    filters = 5
    kernel_size = [2, 3]
    stride = 2
    activation = "gelu"
    [[layer]]
    type = "flatten"
    [[layer]]
    type = "batchnorm"
    [[layer]]
    type = "gelu"
    [[layer]]
    type = "dense"
    units = 16
    activation = "gelu"
    [[layer]]
    type = "batchnorm"
    scale = false
    center = false
    [[layer]]
    type = "dense"
    units = 10
    activation = "softmax"
"#;

/// Convolutions in groups of channels, depthwise and larger ones, with and without bias.
const GROUPED: &str = r#"
    name = "grouped"
    [[layer]]
    type = "conv2d"
    filters = 6
    kernel_size = 3
    stride = 2
    padding = "same"
    [[layer]]
    type = "depthwiseconv2d"
    kernel_size = 3
    padding = "same"
    use_bias = false
    [[layer]]
    type = "batchnorm"
    [[layer]]
    type = "relu"
    [[layer]]
    type = "conv2d"
    filters = 9
    kernel_size = [2, 3]
    stride = [1, 2]
    groups = 3
    activation = "gelu"
    [[layer]]
    type = "depthwiseconv2d"
    kernel_size = [3, 2]
    stride = 2
    padding = "same"
    activation = "relu"
    [[layer]]
    type = "conv2d"
    filters = 18
    kernel_size = 1
    groups = 9
    [[layer]]
    type = "depthwiseconv2d"
    kernel_size = 3
    activation = "gelu"
    [[layer]]
    type = "flatten"
    [[layer]]
    type = "dense"
    units = 10
"#;

/// A graph that nobody draws: the image and other values have many readers, sums mix flattened images with each other and with the
/// outputs of dense layers, and most names are those that some format uses for itself.
const MIXED: &str = r#"
    name = "mixed"
    [[layer]]
    type = "averagepool2d"
    name = "x"
    pool_size = 4
    [[layer]]
    type = "conv2d"
    name = "F"
    input = "input"
    filters = 4
    kernel_size = 4
    stride = 4
    [[layer]]
    type = "averagepool2d"
    name = "lambda"
    pool_size = [2, 3]
    stride = 1
    padding = "same"
    [[layer]]
    type = "add"
    name = "share"
    inputs = ["F", "lambda", "F"]
    [[layer]]
    type = "sumpool2d"
    name = "rescaling"
    pool_size = 2
    padding = "same"
    [[layer]]
    type = "conv2d"
    name = "rescaling_average"
    filters = 16
    kernel_size = 2
    stride = 2
    # Flattened images of 16 and of 4 channels: neither order suits both.
    [[layer]]
    type = "flatten"
    name = "logits"
    [[layer]]
    type = "flatten"
    name = "probabilities"
    input = "rescaling"
    [[layer]]
    type = "add"
    name = "image"
    inputs = ["logits", "probabilities"]
    [[layer]]
    type = "batchnorm"
    name = "input_layer"
    [[layer]]
    type = "dense"
    name = "model"
    units = 49
    activation = "relu"
    # An image of one channel and a list.
    [[layer]]
    type = "flatten"
    name = "outputs"
    input = "x"
    [[layer]]
    type = "add"
    name = "to_channels_first"
    inputs = ["model", "outputs"]
    [[layer]]
    type = "dense"
    name = "rescale"
    units = 196
    # An image of four channels and a list, whose order follows the image's.
    [[layer]]
    type = "flatten"
    name = "pixels"
    input = "lambda"
    [[layer]]
    type = "add"
    name = "weights"
    inputs = ["rescale", "pixels"]
    [[layer]]
    type = "batchnorm"
    name = "layer"
    [[layer]]
    type = "add"
    inputs = ["layer", "weights", "rescale"]
    [[layer]]
    type = "dense"
    units = 10
"#;

/// Global poolings, whose features have one order everywhere, so that no other order suits a flattened image that is added to them; fixed
/// factors; leaky ReLU and SiLU as layers and as activations; dropout.
const POOLED: &str = r#"
    name = "pooled"
    [[layer]]
    type = "scale"
    factor = 2.5
    [[layer]]
    type = "conv2d"
    filters = 8
    kernel_size = 3
    stride = 2
    padding = "same"
    activation = "leakyrelu"
    [[layer]]
    type = "dropout"
    rate = 0.25
    [[layer]]
    type = "conv2d"
    filters = 8
    kernel_size = 3
    padding = "same"
    [[layer]]
    type = "leakyrelu"
    name = "body"
    slope = 0.3
    [[layer]]
    type = "conv2d"
    filters = 8
    kernel_size = 3
    padding = "same"
    activation = "silu"
    [[layer]]
    type = "scale"
    factor = -0.5
    [[layer]]
    type = "add"
    name = "sum"
    inputs = ["body", "scale_2"]
    [[layer]]
    type = "globalmaxpool2d"
    name = "largest"
    [[layer]]
    type = "globalaveragepool2d"
    name = "mean"
    input = "sum"
    [[layer]]
    type = "leakyrelu"
    [[layer]]
    type = "conv2d"
    input = "sum"
    filters = 2
    kernel_size = [5, 7]
    stride = 7
    [[layer]]
    type = "flatten"
    name = "flat"
    [[layer]]
    type = "add"
    inputs = ["largest", "leakyrelu_2", "flat"]
    [[layer]]
    type = "silu"
    [[layer]]
    type = "dropout"
    rate = 0.5
    [[layer]]
    type = "scale"
    factor = 20
    [[layer]]
    type = "dense"
    units = 16
    activation = "leakyrelu"
    [[layer]]
    type = "dense"
    units = 16
    activation = "silu"
    [[layer]]
    type = "flatten"
    [[layer]]
    type = "dense"
    units = 10
"#;

/// The flattens of [`MIXED`] and [`POOLED`] that no order with the channels first suits.
const CHANNELS_LAST: [&str; 3] = ["logits", "probabilities", "flat"];

/// Layers without bias and frozen ones, among them those before a normalization, one that is added to a flattened image, and the last.
const BARE: &str = r#"
    name = "bare"
    [[layer]]
    type = "conv2d"
    filters = 8
    kernel_size = 3
    stride = 2
    init = "whitening"
    trainable = "bias"
    [[layer]]
    type = "conv2d"
    filters = 6
    kernel_size = 3
    padding = "same"
    use_bias = false
    init = "dirac"
    [[layer]]
    type = "batchnorm"
    scale = false
    [[layer]]
    type = "relu"
    [[layer]]
    type = "conv2d"
    filters = 4
    kernel_size = [3, 2]
    stride = [3, 4]
    use_bias = false
    activation = "relu"
    trainable = false
    [[layer]]
    type = "flatten"
    [[layer]]
    type = "dense"
    units = 48
    use_bias = false
    init = "he_normal"
    [[layer]]
    type = "batchnorm"
    trainable = false
    [[layer]]
    type = "add"
    inputs = ["batchnorm_2", "flatten_1"]
    [[layer]]
    type = "dense"
    units = 10
    use_bias = false
"#;

pub fn odd() -> Model {
    toml::from_str(ODD).unwrap()
}

pub fn residual() -> Model {
    toml::from_str(RESIDUAL).unwrap()
}

pub fn grouped() -> Model {
    toml::from_str(GROUPED).unwrap()
}

pub fn bare() -> Model {
    toml::from_str(BARE).unwrap()
}

pub fn mixed() -> Model {
    toml::from_str(MIXED).unwrap()
}

fn pooled() -> Model {
    toml::from_str(POOLED).unwrap()
}

/// A graph drawn at random, behind a convolution that makes the image as small as the graph wants it.
fn drawn(seed: u64) -> Model {
    let mut model = draw_model(seed);
    let [h, w, c] = model.input;
    let stride = Pair(28 / h, 28 / w);
    let kernel_size = Pair(28 - (h - 1) * stride.0, 28 - (w - 1) * stride.1);
    let activation = Activation::None;
    let first = Layer::Conv2d {
        filters: c,
        kernel_size,
        stride,
        padding: Padding::Valid,
        groups: 1,
        activation,
        use_bias: true,
        trainable: Trainable::Yes,
        init: Init::GlorotUniform,
    };
    for name in model.layers.iter_mut().flat_map(|node| node.input.iter_mut().chain(node.inputs.iter_mut().flatten())) {
        if name == INPUT_NAME {
            *name = "first".to_string();
        }
    }
    if let Some(Node { layer: Layer::Dense { units, .. }, .. }) = model.layers.last_mut() {
        *units = 10;
    }
    model.layers.insert(0, Node { name: Some("first".to_string()), ..Node::from(first) });
    Model { input: [28, 28, 1], ..model }
}

/// The models that every tool opens, among them a few graphs drawn at random; `FMNIST_TEST_EXPORTED_GRAPHS=50` draws more.
fn models() -> Vec<(String, Model)> {
    let graphs = (0..cases("FMNIST_TEST_EXPORTED_GRAPHS", 2, 20)).map(|seed| (format!("graph-{seed}"), drawn(seed)));
    let even = toml::from_str(EVEN).unwrap();
    let [cnn, mlp] = [Model::cnn(), Model::mlp()];
    let plain = [("cnn", cnn), ("mlp", mlp), ("odd", odd()), ("even", even)];
    let graphs_by_hand =
        [("residual", residual()), ("mixed", mixed()), ("pooled", pooled()), ("grouped", grouped()), ("bare", bare())];
    let named = plain.into_iter().chain(graphs_by_hand);
    named.map(|(name, model)| (name.to_string(), model)).chain(graphs).collect()
}

/// What no tool opens may be wrong in all exports.
#[test]
fn every_layer_and_every_activation_is_opened_by_every_tool() {
    let by_hand = models().into_iter().filter(|(name, _)| !name.starts_with("graph-"));
    let opened: BTreeSet<String> = by_hand.flat_map(|(_, model)| layers_and_activations_of(&model)).collect();
    let missing: Vec<String> = layers_and_activations().difference(&opened).cloned().collect();
    assert!(missing.is_empty(), "in none of the models written by hand: {missing:?}");
}

/// Returns parameters like those of a trained model: biases that are not zero, factors and variances that are not one, and logits up to
/// 12 that separate the classes.
pub fn trained_size(model: &Model) -> Vec<Vec<f32>> {
    let shapes = model.parameters().unwrap();
    let mut parameters = initial_parameters(&shapes, 7);
    for (parameter, values) in shapes.iter().zip(&mut parameters) {
        let (factor, modulus, slope, first) = match parameter.role {
            Role::Weight => continue,
            Role::Bias | Role::Shift => (37, 11, 0.02, -0.1),
            Role::Scale => (29, 13, 0.1, 0.5),
            Role::Mean => (17, 7, 0.1, -0.3),
            Role::Variance => (23, 17, 0.1, 0.05),
        };
        values.iter_mut().enumerate().for_each(|(i, v)| *v = (i * factor % modulus) as f32 * slope + first);
    }
    let split = synthetic::generate(0, 5, 0).1;
    let optimizer = Optimizer::Adam(AdamConfig::default());
    let engine = ReferenceEngine::<f32>::new(model, &parameters, &Split::default(), 5, optimizer).unwrap();
    let logits = engine.forward(&ReferenceEngine::batch(&split, &[0, 1, 2, 3, 4], 0, 5)).unwrap().logits;
    let largest = logits.iter().map(|y| y.abs()).fold(0.0, f32::max);
    let last = model.graph().unwrap().pop().unwrap().parameters().len();
    parameters.iter_mut().rev().take(last).flatten().for_each(|w| *w *= 12.0 / largest);
    parameters
}

fn facts() -> Facts {
    Facts { description: &FASHION_MNIST, dataset: Some(DatasetKind::Synthetic), test_accuracy: Some(0.875) }
}

/// Returns the first test images of the genuine data set, or else of the generated one.
fn images() -> &'static [u8] {
    static IMAGES: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGES.get_or_init(|| match genuine_data() {
        Some(folder) => {
            let options = LoadOptions { data_dir: Some(folder), ..LoadOptions::default() };
            load(&options, &mut |_| ()).unwrap().test.images[..N_IMAGES * FASHION_MNIST.pixels()].to_vec()
        }
        None => synthetic::generate(0, N_IMAGES, 0).1.images,
    })
}

/// Returns the predictions of the plain loops, which never make a normalization part of the weights before it.
fn reference(model: &Model, parameters: &[Vec<f32>], images: &[u8]) -> Vec<f32> {
    let sgd = Optimizer::Sgd(SgdConfig { learning_rate: 0.0, momentum: 0.0, nesterov: false });
    let mut engine = ReferenceEngine::<f32>::new(model, parameters, &Split::default(), 100, sgd).unwrap();
    engine.predict(images, &mut |_| ControlFlow::Continue(())).block_on().unwrap()
}

/// Returns this program's own predictions for the images, `[N_IMAGES, 10]`: far from uniform, so that swapped classes
/// or weights are detected.
fn predictions(model: &Model, parameters: &[Vec<f32>]) -> Vec<f32> {
    let probabilities = if !model.parameters().unwrap().iter().any(|parameter| parameter.role.is_statistic()) {
        let mut engine = GpuEngine::new(gpu(), model, parameters).unwrap();
        engine.predict(images(), &mut |_| ControlFlow::Continue(())).block_on().unwrap()
    } else {
        reference(model, parameters, images())
    };
    let best: Vec<f32> = probabilities.chunks(10).map(|row| row.iter().copied().fold(0.0, f32::max)).collect();
    let sure = best.iter().filter(|&&p| p > 0.5).count();
    // A graph drawn at random may not see much.
    assert!(
        sure > N_IMAGES / 4 || model.name.starts_with("graph "),
        "{}: only {sure} predictions are above one half",
        model.name
    );
    probabilities
}

fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // Maxima ignore NaN.
    assert!(found.iter().all(|p| p.is_finite()) && worst <= TOLERANCE, "{what}: differs by {worst}");
}

/// Opens an ONNX file; the function returns its predictions for images, `[N, 10]`.
fn tract(bytes: &[u8]) -> impl Fn(&[u8]) -> Vec<f32> {
    let graph = tract_onnx::onnx().model_for_read(&mut &bytes[..]).unwrap();
    let graph = graph.into_optimized().unwrap().into_runnable().unwrap();
    move |images| {
        let n = images.len() / FASHION_MNIST.pixels();
        let pixels: Vec<f32> = images.iter().map(|&p| f32::from(p)).collect();
        let outputs = graph.run(tvec!(Tensor::from_shape(&[n, 28, 28, 1], &pixels).unwrap().into())).unwrap();
        let view = outputs[0].to_plain_array_view::<f32>().unwrap();
        assert_eq!(view.shape(), [n, 10]);
        view.iter().copied().collect()
    }
}

/// Reads an exported file, and compares it with the model; returns its format.
pub fn read_back(path: &str, bytes: &[u8], model: &Model, parameters: &[Vec<f32>]) -> &'static str {
    let image = synthetic::generate(0, 1, 0).1.images;
    let expected = reference(model, parameters, &image);
    let values = || read_npz(bytes).into_iter().map(|(_, _, values)| values).collect::<Vec<_>>();
    let name = path.rsplit('/').next().unwrap_or(path);
    match name {
        "model.onnx" => {
            assert_close(path, &tract(bytes)(&image), &expected);
            "onnx"
        }
        "model.torch.safetensors" => {
            let file = SafeTensors::deserialize(bytes).unwrap();
            assert_close(path, &forward_channels_first(model, &file, &image), &expected);
            "torch"
        }
        "model.keras.npz" => {
            assert!(values() == parameters, "{path}");
            "keras"
        }
        "model.npz" => {
            assert!(values() == parameters, "{path}");
            "npz"
        }
        "model.html" => {
            // The weights of `half`, compressed and in Base64.
            let page = std::str::from_utf8(bytes).unwrap();
            let start = page.split("<script id=\"weights\" type=\"application/octet-stream\">").nth(1).unwrap();
            let packed = BASE64_STANDARD.decode(start.split('<').next().unwrap()).unwrap();
            let mut file = Vec::new();
            flate2::bufread::GzDecoder::new(&packed[..]).read_to_end(&mut file).unwrap();
            assert_eq!(read_back("model.half.safetensors", &file, model, parameters), "half");
            "html"
        }
        "model.half.safetensors" => {
            let file = SafeTensors::deserialize(bytes).unwrap();
            for (parameter, values) in model.parameters().unwrap().iter().zip(parameters) {
                let tensor = file.tensor(&parameter.name).unwrap();
                assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F16, &parameter.shape[..]), "{path}");
                let bits = tensor.data().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
                assert!(
                    bits.eq(values.iter().map(|&value| f16::from_f32(value).to_bits())),
                    "{path}: {}",
                    parameter.name
                );
            }
            "half"
        }
        _ => panic!("nothing reads {path}"),
    }
}

#[test]
fn tract_opens_the_onnx_and_agrees_at_any_batch_size() {
    for (name, model) in models() {
        let parameters = trained_size(&model);
        let expected = predictions(&model, &parameters);
        let bytes = onnx::to_bytes(&model, &parameters, &facts()).unwrap();
        let run = tract(&bytes);
        for n in [1, 7, N_IMAGES] {
            let found = run(&images()[..n * FASHION_MNIST.pixels()]);
            assert_close(&format!("{name}, batch of {n}"), &found, &expected[..n * 10]);
        }
    }
}

/// A graph may put anything anywhere; tract and the loops with channels first compute what this program computes, and what was exported
/// comes back.
#[test]
fn graphs_at_random_are_exported_and_imported() {
    let images = &images()[..5 * FASHION_MNIST.pixels()];
    let (mut compared, mut normalized) = (0, 0);
    for seed in 0..60 {
        let model = drawn(seed);
        let parameters = trained_size(&model);
        let expected = reference(&model, &parameters, images);
        let bytes = onnx::to_bytes(&model, &parameters, &facts()).unwrap();
        assert_close(&format!("tract, seed {seed}"), &tract(&bytes)(images), &expected);
        let bytes = torch::to_bytes(&model, &parameters, &facts()).unwrap();
        if !torch::python(&model, "x").unwrap().contains(".permute(") {
            compared += 1;
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let found = forward_channels_first(&model, &file, &images[..FASHION_MNIST.pixels()]);
            assert_close(&format!("loops, seed {seed}"), &found, &expected[..10]);
        }
        let own = weights::to_bytes(&model, &parameters).unwrap();
        for (bytes, layout) in [(bytes, Layout::Torch), (own, Layout::Keras)] {
            let imported = import::from_bytes(&bytes, None, None).unwrap();
            assert!(imported.parameters == parameters && imported.layout == layout, "seed {seed}, {layout}");
        }
        normalized += usize::from(model.layers.iter().any(|node| node.layer.kind() == "batchnorm"));
    }
    assert!(compared > 50 && normalized > 20, "{compared} compared, {normalized} with normalizations");
}

#[test]
fn the_onnx_file_says_what_it_is() {
    let model = Model::cnn();
    let bytes = onnx::to_bytes(&model, &trained_size(&model), &facts()).unwrap();
    // Decoded with the structs of tract, which are generated from onnx.proto.
    let proto = <pb::ModelProto as prost::Message>::decode(&bytes[..]).unwrap();
    assert_eq!((proto.ir_version, proto.opset_import[0].version), (8, 17));
    assert_eq!(proto.producer_name, "fmnist-gpu");
    let metadata: BTreeMap<&str, &str> =
        proto.metadata_props.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect();
    assert_eq!(serde_json::from_str::<Vec<String>>(metadata["class_names"]).unwrap(), FASHION_MNIST.class_names);
    assert_eq!(serde_json::from_str::<Model>(metadata["layers"]).unwrap(), model);
    assert_eq!((metadata["model"], metadata["dataset"], metadata["test_accuracy"]), ("cnn", "synthetic", "0.875"));
    let graph = proto.graph.unwrap();
    let names: Vec<&str> = graph.node.iter().map(|node| node.name.as_str()).collect();
    for layer in model.shapes().unwrap() {
        assert!(names.contains(&layer.name.as_str()), "{} in {names:?}", layer.name);
    }
    let constants: Vec<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    for parameter in model.parameters().unwrap() {
        assert!(constants.contains(&parameter.name.as_str()), "{} in {constants:?}", parameter.name);
    }
    let without = onnx::to_bytes(&model, &trained_size(&model), &Facts::new(&FASHION_MNIST)).unwrap();
    let proto = <pb::ModelProto as prost::Message>::decode(&without[..]).unwrap();
    assert!(!proto.metadata_props.iter().any(|entry| entry.key == "test_accuracy" || entry.key == "dataset"));
}

/// A model in which every size differs; the value of each parameter is its position.
fn numbered() -> (Model, Vec<Vec<f32>>) {
    let model: Model = toml::from_str(
        r#"
        name = "numbered"
        layer = [
            { type = "conv2d", filters = 2, kernel_size = [1, 3], stride = 7 },
            { type = "conv2d", filters = 3, kernel_size = [2, 1] },
            { type = "flatten" },
            { type = "dense", units = 5 },
            { type = "dense", units = 10 },
        ]
        "#,
    )
    .unwrap();
    let numbers = |p: &fmnist_gpu::model::Parameter| (0..p.shape.iter().product()).map(|i: usize| i as f32).collect();
    let parameters = model.parameters().unwrap().iter().map(numbers).collect();
    (model, parameters)
}

fn torch_tensor(file: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = file.tensor(name).unwrap();
    (tensor.shape().to_vec(), bytemuck::pod_collect_to_vec(tensor.data()))
}

#[test]
fn torch_files_have_every_value_where_pytorch_wants_it() {
    let (model, parameters) = numbered();
    let bytes = torch::to_bytes(&model, &parameters, &facts()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // This program's: [KH, KW, C, O] = [2, 1, 2, 3]; PyTorch's: [O, C, KH, KW].
    let (shape, filter) = torch_tensor(&file, "conv2d_2.weight");
    assert_eq!(shape, [3, 2, 2, 1]);
    for (o, c, p) in (0..3).flat_map(|o| (0..2).flat_map(move |c| (0..2).map(move |p| (o, c, p)))) {
        assert_eq!(filter[(o * 2 + c) * 2 + p], ((p * 2 + c) * 3 + o) as f32);
    }
    // The flattened image is [H, W, C] = [3, 4, 3].
    let (shape, dense) = torch_tensor(&file, "dense_1.weight");
    assert_eq!((model.shapes().unwrap()[2].input.as_slice(), shape), (&[3, 4, 3][..], vec![5, 36]));
    for (c, i, j, o) in
        (0..3).flat_map(|c| (0..3).flat_map(move |i| (0..4).flat_map(move |j| (0..5).map(move |o| (c, i, j, o)))))
    {
        assert_eq!(dense[o * 36 + (c * 3 + i) * 4 + j], (((i * 4 + j) * 3 + c) * 5 + o) as f32);
    }
    // The second dense layer does not see an image: it is only transposed.
    let (shape, dense) = torch_tensor(&file, "dense_2.weight");
    assert_eq!(shape, [10, 5]);
    for (o, i) in (0..10).flat_map(|o| (0..5).map(move |i| (o, i))) {
        assert_eq!(dense[o * 5 + i], (i * 10 + o) as f32);
    }
    assert_eq!(torch_tensor(&file, "conv2d_1.bias"), (vec![2], vec![0.0, 1.0]));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert_eq!((metadata["format"].as_str(), metadata["test_accuracy"].as_str()), ("pt", "0.875"));
    assert!(torch::python(&model, "x").unwrap().contains(metadata["module"].trim_end()));
}

/// A normalization and a dense layer, both in the order of a flattened image [H, W, C] = [3, 4, 3].
#[test]
fn what_is_added_to_a_flattened_image_has_its_order() {
    let model: Model = toml::from_str(
        r#"
        name = "numbered"
        layer = [
            { type = "conv2d", filters = 3, kernel_size = [3, 4], stride = 8, padding = "same" },
            { type = "conv2d", filters = 3, kernel_size = [2, 1] },
            { type = "flatten" },
            { type = "batchnorm", center = false },
            { type = "dense", units = 36 },
            { type = "add", inputs = ["dense_1", "batchnorm_1"] },
            { type = "gelu" },
            { type = "dense", units = 10 },
        ]
        "#,
    )
    .unwrap();
    assert_eq!(model.shapes().unwrap()[2].input, [3, 4, 3]);
    let numbers = |p: &fmnist_gpu::model::Parameter| (0..p.len()).map(|i| i as f32).collect();
    let parameters: Vec<Vec<f32>> = model.parameters().unwrap().iter().map(numbers).collect();
    let bytes = torch::to_bytes(&model, &parameters, &facts()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // From [C, H, W] to [H, W, C].
    let own = |i: usize| i % 12 * 3 + i / 12;
    let vector: Vec<f32> = (0..36).map(|i| own(i) as f32).collect();
    for name in ["batchnorm_1.weight", "batchnorm_1.running_mean", "batchnorm_1.running_var", "dense_1.bias"] {
        assert_eq!(torch_tensor(&file, name), (vec![36], vector.clone()), "{name}");
    }
    // PyTorch has it anyway.
    assert_eq!(torch_tensor(&file, "batchnorm_1.bias"), (vec![36], vec![0.0; 36]));
    let (_, dense_1) = torch_tensor(&file, "dense_1.weight");
    let (_, dense_2) = torch_tensor(&file, "dense_2.weight");
    for (o, i) in (0..36).flat_map(|o| (0..36).map(move |i| (o, i))) {
        assert_eq!(dense_1[o * 36 + i], (own(i) * 36 + own(o)) as f32);
        assert!(o >= 10 || dense_2[o * 36 + i] == (own(i) * 10 + o) as f32);
    }
}

/// A value of a graph: an image [C, H, W], or a list as [N, 1, 1].
type Value = (Vec<f64>, [usize; 3]);

/// Computes the forward pass as in PyTorch, with independent loops: images [C, H, W], weights from the file, double
/// precision.
fn forward_channels_first(model: &Model, file: &SafeTensors<'_>, image: &[u8]) -> Vec<f32> {
    let image: Value = (image.iter().map(|&p| f64::from(p) / 255.0).collect(), [1, 28, 28]);
    let mut values: Vec<Value> = Vec::new();
    for layer in model.shapes().unwrap() {
        let inputs: Vec<&Value> = layer
            .sources
            .iter()
            .map(|source| match source {
                Source::Image => &image,
                Source::Layer(i) => &values[*i],
            })
            .collect();
        let parameter = |role: &str| -> Vec<f64> {
            torch_tensor(file, &format!("{}.{role}", layer.name)).1.into_iter().map(f64::from).collect()
        };
        let value = layer_channels_first(&layer.layer, &inputs, &parameter, CHANNELS_LAST.contains(&&layer.name[..]));
        values.push(value);
    }
    let x = values.pop().unwrap().0;
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = x.iter().map(|v| (v - largest).exp()).sum();
    x.iter().map(|v| ((v - largest).exp() / sum) as f32).collect()
}

fn layer_channels_first(
    layer: &Layer,
    inputs: &[&Value],
    parameter: &dyn Fn(&str) -> Vec<f64>,
    channels_last: bool,
) -> Value {
    let (x, shape) = inputs[0];
    let (shape, plane) = (*shape, x.len() / shape[0]);
    let relu = |v: f64| v.max(0.0);
    let leaky = |slope: f64| move |v: f64| v.max(slope * v);
    let silu = |v: f64| v / (1.0 + (-v).exp());
    let gelu = |v: f64| v / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3))).tanh());
    let mut activation = Activation::None;
    let (mut y, shape) = match layer {
        Layer::Conv2d { kernel_size, stride, padding, activation: after, .. }
        | Layer::DepthwiseConv2d { kernel_size, stride, padding, activation: after, .. } => {
            activation = *after;
            let [filters, groups, has_bias] = match layer {
                Layer::Conv2d { filters, groups, use_bias, .. } => [*filters, *groups, usize::from(*use_bias)],
                Layer::DepthwiseConv2d { use_bias, .. } => [shape[0], shape[0], usize::from(*use_bias)],
                _ => unreachable!(),
            };
            let w = parameter("weight");
            let b = if has_bias == 1 { parameter("bias") } else { vec![0.0; filters] };
            let (window, padding) = ([kernel_size.0, kernel_size.1], padding.to_string());
            let each = shape[0] / groups;
            windows(x, shape, filters, window, [stride.0, stride.1], &padding, |cells, o| {
                let first = o * groups / filters * each;
                let of_channel = |c: usize| {
                    let filter = &w[(o * each + c) * window[0] * window[1]..];
                    let x = &x[(first + c) * plane..];
                    cells.iter().map(|&(p, q, at)| filter[p * window[1] + q] * x[at]).sum::<f64>()
                };
                (0..each).map(of_channel).sum::<f64>() + b[o]
            })
        }
        Layer::MaxPool2d(pooling) | Layer::AveragePool2d(pooling) | Layer::SumPool2d(pooling) => {
            let Pooling { pool_size, stride, padding } = pooling;
            let stride = stride.unwrap_or(*pool_size);
            let (window, padding) = ([pool_size.0, pool_size.1], padding.to_string());
            windows(x, shape, shape[0], window, [stride.0, stride.1], &padding, |cells, c| {
                let values = cells.iter().map(|&(_, _, at)| x[c * plane + at]);
                match layer.kind() {
                    "maxpool2d" => values.fold(f64::NEG_INFINITY, f64::max),
                    "averagepool2d" => values.sum::<f64>() / cells.len() as f64,
                    _ => values.sum(),
                }
            })
        }
        Layer::BatchNorm { epsilon, .. } => {
            let [w, b, mean, variance] = ["weight", "bias", "running_mean", "running_var"].map(parameter);
            let normalized = |(i, v): (usize, &f64)| {
                let c = i / plane;
                (v - mean[c]) / (variance[c] + epsilon).sqrt() * w[c] + b[c]
            };
            (x.iter().enumerate().map(normalized).collect(), shape)
        }
        Layer::Add {} => ((0..x.len()).map(|i| inputs.iter().map(|(x, _)| x[i]).sum()).collect(), shape),
        Layer::Relu {} => (x.iter().copied().map(relu).collect(), shape),
        Layer::Gelu {} => (x.iter().copied().map(gelu).collect(), shape),
        Layer::LeakyRelu { slope } => (x.iter().copied().map(leaky(*slope)).collect(), shape),
        Layer::Silu {} => (x.iter().copied().map(silu).collect(), shape),
        Layer::Scale { factor } => (x.iter().map(|v| v * factor).collect(), shape),
        Layer::GlobalMaxPool2d {} => {
            let largest = |channel: &[f64]| channel.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            (x.chunks(plane).map(largest).collect(), [shape[0], 1, 1])
        }
        Layer::GlobalAveragePool2d {} => {
            let mean = |channel: &[f64]| channel.iter().sum::<f64>() / plane as f64;
            (x.chunks(plane).map(mean).collect(), [shape[0], 1, 1])
        }
        // Nothing but in training.
        Layer::Dropout { .. } => (x.clone(), shape),
        Layer::Flatten {} if channels_last => {
            ((0..x.len()).map(|i| x[i % shape[0] * plane + i / shape[0]]).collect(), [x.len(), 1, 1])
        }
        Layer::Flatten {} => (x.clone(), [x.len(), 1, 1]),
        Layer::Dense { units, activation: after, use_bias, .. } => {
            activation = *after;
            let (w, b) = (parameter("weight"), if *use_bias { parameter("bias") } else { vec![0.0; *units] });
            let dot = |o: usize| x.iter().zip(&w[o * x.len()..]).map(|(x, w)| x * w).sum::<f64>() + b[o];
            ((0..*units).map(dot).collect(), [*units, 1, 1])
        }
    };
    match activation {
        Activation::None | Activation::Softmax => {}
        Activation::Relu => y.iter_mut().for_each(|v| *v = relu(*v)),
        Activation::Gelu => y.iter_mut().for_each(|v| *v = gelu(*v)),
        Activation::LeakyRelu => y.iter_mut().for_each(|v| *v = leaky(0.01)(*v)),
        Activation::Silu => y.iter_mut().for_each(|v| *v = silu(*v)),
    }
    (y, shape)
}

/// Slides a window over the plane of an image [C, H, W]: `make` gets the cells inside the image, as row and column in
/// the window with the position in the plane, and the output channel.
fn windows(
    x: &[f64],
    [c, h, w]: [usize; 3],
    channels: usize,
    window: [usize; 2],
    stride: [usize; 2],
    padding: &str,
    make: impl Fn(&[(usize, usize, usize)], usize) -> f64,
) -> (Vec<f64>, [usize; 3]) {
    assert_eq!(x.len(), c * h * w);
    // TensorFlow's rules, implemented again: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    let axis = |size: usize, window: usize, stride: usize| match padding {
        "same" => {
            let last = if size.is_multiple_of(stride) { stride } else { size % stride };
            (size.div_ceil(stride), window.saturating_sub(last) / 2)
        }
        _ => ((size - window + 1).div_ceil(stride), 0),
    };
    let ((ho, top), (wo, left)) = (axis(h, window[0], stride[0]), axis(w, window[1], stride[1]));
    let mut y = Vec::new();
    for channel in 0..channels {
        for (i, j) in (0..ho).flat_map(|i| (0..wo).map(move |j| (i, j))) {
            let mut cells = Vec::new();
            for (p, q) in (0..window[0]).flat_map(|p| (0..window[1]).map(move |q| (p, q))) {
                let (row, column) = ((i * stride[0] + p).wrapping_sub(top), (j * stride[1] + q).wrapping_sub(left));
                if row < h && column < w {
                    cells.push((p, q, row * w + column));
                }
            }
            y.push(make(&cells, channel));
        }
    }
    (y, [channels, ho, wo])
}

#[test]
fn a_forward_pass_with_channels_first_agrees_with_the_torch_file() {
    for (name, model) in models() {
        let parameters = trained_size(&model);
        let bytes = torch::to_bytes(&model, &parameters, &facts()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let expected = predictions(&model, &parameters);
        let permutes = torch::python(&model, "x").unwrap().contains(".permute(");
        let expected_to = name == "mixed" || name == "pooled";
        assert!(permutes == expected_to || name.starts_with("graph"), "{name}");
        if permutes && !expected_to {
            continue;
        }
        for i in 0..4 {
            let found = forward_channels_first(
                &model,
                &file,
                &images()[i * FASHION_MNIST.pixels()..][..FASHION_MNIST.pixels()],
            );
            assert_close(&format!("{name}, image {i}"), &found, &expected[i * 10..][..10]);
        }
    }
}

/// Reads the names, shapes and values of an npz with an independent parser.
fn read_npz(bytes: &[u8]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    (0..archive.len())
        .map(|i| {
            let mut entry = archive.by_index(i).unwrap();
            let date = entry.last_modified().unwrap();
            assert_eq!((date.year(), date.month(), date.day(), date.hour()), (1980, 1, 1, 0));
            let name = entry.name().unwrap().strip_suffix(".npy").unwrap().to_string();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            assert_eq!(&data[..8], b"\x93NUMPY\x01\x00");
            let end = 10 + usize::from(u16::from_le_bytes([data[8], data[9]]));
            let header = std::str::from_utf8(&data[10..end]).unwrap();
            assert!(end % 64 == 0 && header.ends_with('\n'), "{header:?}");
            assert!(header.contains("'descr': '<f4'") && header.contains("'fortran_order': False"), "{header}");
            let shape = header.split(['(', ')']).nth(1).unwrap();
            let shape = shape.split(',').filter(|s| !s.trim().is_empty()).map(|s| s.trim().parse().unwrap()).collect();
            (name, shape, bytemuck::pod_collect_to_vec(&data[end..]))
        })
        .collect()
}

#[test]
fn npz_files_hold_the_parameters_in_order_and_are_the_same_bytes_each_time() {
    for (_, model) in models() {
        let parameters = trained_size(&model);
        let plain = npz::to_bytes(&model, &parameters).unwrap();
        assert!(plain == npz::to_bytes(&model, &parameters).unwrap());
        let expected: Vec<_> = model.parameters().unwrap().into_iter().zip(parameters.clone()).collect();
        let found = read_npz(&plain);
        assert_eq!(
            found,
            expected.iter().map(|(p, v)| (p.name.clone(), p.shape.clone(), v.clone())).collect::<Vec<_>>()
        );
        let for_keras = read_npz(&keras::to_bytes(&model, &parameters).unwrap());
        for ((name, shape, values), (p, v)) in for_keras.iter().zip(&expected) {
            let (layer, key) = p.name.split_once('.').unwrap();
            let is_norm = for_keras.iter().any(|(name, ..)| *name == format!("{layer}/moving_mean"));
            let expected = match (key, is_norm) {
                ("weight", false) => "kernel",
                ("weight", true) => "gamma",
                ("bias", false) => "bias",
                ("bias", true) => "beta",
                ("running_mean", true) => "moving_mean",
                ("running_var", true) => "moving_variance",
                other => panic!("{other:?}"),
            };
            assert_eq!(*name, format!("{layer}/{expected}"));
            assert_eq!((shape, values), (&p.shape, v));
        }
        assert_eq!(for_keras.len(), expected.len());
    }
}

#[test]
fn equal_models_give_equal_files() {
    let model = odd();
    let parameters = trained_size(&model);
    for _ in 0..5 {
        for make in [onnx::to_bytes, torch::to_bytes] {
            assert!(make(&model, &parameters, &facts()).unwrap() == make(&model, &parameters, &facts()).unwrap());
        }
    }
}

/// In half precision each value is the nearest of eleven bits; the file is half as large and opens as a run, which predicts the same.
#[test]
fn half_precision_opens_as_a_run() {
    for (name, model) in models() {
        let parameters = trained_size(&model);
        let bytes = half::to_bytes(&model, &parameters).unwrap();
        assert!(bytes == half::to_bytes(&model, &parameters).unwrap(), "{name}");
        let (read, rounded) = weights::from_bytes(&bytes).unwrap();
        assert_eq!(read, model);
        for (value, rounded) in parameters.iter().flatten().zip(rounded.iter().flatten()) {
            // Below 2^-14, numbers are multiples of 2^-24.
            let allowed = (value.abs() * 2f32.powi(-11)).max(2f32.powi(-25));
            assert!((value - rounded).abs() <= allowed, "{name}: {value} became {rounded}");
        }
        // Rounding what is rounded changes nothing.
        assert!(bytes == half::to_bytes(&read, &rounded).unwrap(), "{name}");
    }
    let (model, mut parameters) = (Model::mlp(), trained_size(&Model::mlp()));
    parameters[2][5] = 65_520.0;
    let error = half::to_bytes(&model, &parameters).unwrap_err().to_string();
    assert!(error.contains("dense_2.weight") && error.contains("position 5"), "{error}");

    let place = Place::new();
    place
        .run("train --model mlp --dataset synthetic --train-limit 640 --epochs 1 --device cpu --out run --quiet")
        .exits(0);
    place.run("export run --format half").exits(0).says(&["model.half.safetensors"]);
    let size = |file: &str| fs::metadata(place.path(file)).unwrap().len();
    assert!(size("run/model.half.safetensors") < size("run/model.safetensors") * 51 / 100);
    let evaluated = |run: &str| {
        let line = format!("evaluate {run} --dataset synthetic --device cpu --json");
        place.run(&line).exits(0).json()["test_accuracy"].as_f64().unwrap()
    };
    let [single, half] = ["run", "run/model.half.safetensors"].map(evaluated);
    assert!((single - half).abs() <= 0.002, "{single} became {half}");
}

#[test]
fn what_cannot_be_exported_is_refused_with_the_reason() {
    let model = Model::mlp();
    let mut parameters = trained_size(&model);
    parameters[1].pop();
    let wrong_length = |result: Result<Vec<u8>, ExportError>| {
        let error = result.unwrap_err();
        assert!(matches!(&error, ExportError::Length { name, .. } if name == "dense_1.bias"), "{error}");
        assert!(error.to_string().contains("is 127") && error.to_string().contains("[128]"), "{error}");
    };
    wrong_length(onnx::to_bytes(&model, &parameters, &facts()));
    wrong_length(torch::to_bytes(&model, &parameters, &facts()));
    wrong_length(keras::to_bytes(&model, &parameters));
    wrong_length(npz::to_bytes(&model, &parameters));
    wrong_length(half::to_bytes(&model, &parameters));
    let error = npz::to_bytes(&model, &parameters[..3]).unwrap_err();
    assert!(matches!(error, ExportError::Count { expected: 4, found: 3, .. }), "{error}");
    // The parameters would take three gigabytes, none of which are needed to reject the model: weight files of more
    // than one are not read.
    let huge: Model = toml::from_str(
        "name = \"huge\"\nlayer = [{ type = \"flatten\" }, { type = \"dense\", units = 1000000 }, \
         { type = \"dense\", units = 10 }]",
    )
    .unwrap();
    let error = onnx::to_bytes(&huge, &[], &facts()).unwrap_err();
    assert!(matches!(error, ExportError::Model(_)) && error.to_string().contains("3180000040 bytes"), "{error}");
    let broken = Model { layers: vec![], ..Model::mlp() };
    assert!(matches!(keras::python(&broken, "x"), Err(ExportError::Model(_))));
}

/// A model whose first layer, a dense one unless `relu`, has this name.
fn named(name: &str, relu: bool) -> Model {
    let first = if relu { "type = \"relu\"" } else { "type = \"dense\", units = 4" };
    let text = format!(
        "name = \"named\"\nlayer = [{{ type = \"flatten\" }}, {{ {first}, name = \"{name}\" }}, \
         {{ type = \"dense\", units = 10 }}]"
    );
    toml::from_str(&text).unwrap()
}

/// Models may come from anywhere, and PyTorch accepts a layer that replaces `train` or `to`.
#[test]
fn names_that_python_or_pytorch_need_are_refused() {
    for (name, reason) in [
        ("lambda", "a keyword of Python"),
        ("None", "a keyword of Python"),
        ("train", "an attribute that every module has"),
        ("to", "an attribute that every module has"),
        ("state_dict", "an attribute that every module has"),
    ] {
        let model = named(name, false);
        let parameters = trained_size(&model);
        for result in
            [torch::python(&model, "x").map(|_| ()), torch::to_bytes(&model, &parameters, &facts()).map(|_| ())]
        {
            let error = result.unwrap_err();
            assert!(matches!(error, ExportError::Attribute { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains(&format!("`{name}`")) && said.contains(reason) && said.contains("`name`"), "{said}");
        }
        // Elsewhere a name is a string.
        onnx::to_bytes(&model, &parameters, &facts()).unwrap();
        keras::python(&model, "x").unwrap();
        // A layer without parameters is no attribute.
        torch::python(&named(name, true), "x").unwrap();
    }
    torch::python(&named("case", false), "x").unwrap();
}

fn assert_lines(code: &str, lines: &[&str]) {
    for line in lines {
        assert!(code.contains(&format!("{line}\n")), "no line\n{line}\nin\n{code}");
    }
}

/// The code of a model with several readers of a value, as one would write it.
#[test]
fn values_with_several_readers_have_names() {
    let code = torch::python(&residual(), "f").unwrap();
    assert_lines(
        &code,
        &[
            "        self.batchnorm_2 = nn.BatchNorm2d(6, eps=0.001, momentum=0.01)",
            "        self.batchnorm_4 = nn.BatchNorm1d(45, eps=0.001, momentum=0.1)",
            "        body = F.relu(self.batchnorm_1(self.stem(F.pad(x, (0, 1, 0, 1)))))",
            "        x = F.gelu(self.batchnorm_2(self.conv2d_2(body)), approximate=\"tanh\")",
            "        x = body + self.batchnorm_3(self.conv2d_3(x))",
            "        x = F.max_pool2d(F.relu(x), 2)",
            "        x = F.gelu(self.batchnorm_4(x), approximate=\"tanh\")",
        ],
    );
    let code = torch::python(&mixed(), "f").unwrap();
    assert_lines(
        &code,
        &[
            "        image_ = x / 255",
            "        lambda_ = F.avg_pool2d(F.pad(F_, (1, 1, 0, 1)), (2, 3), 1) / share",
            "        x = F_ + lambda_ + F_",
            "        weights = rescale + lambda_.flatten(1)",
        ],
    );
    let code = keras::python(&residual(), "f").unwrap();
    assert_lines(
        &code,
        &[
            "inputs = keras.Input((28, 28, 1))  # grey values 0 to 255",
            "x = keras.layers.Rescaling(1 / 255)(inputs)",
            "body = keras.layers.ReLU(name=\"body\")(x)",
            "x = keras.layers.BatchNormalization(momentum=0.99, epsilon=0.001, scale=False, name=\"batchnorm_2\")(x)",
            "x = keras.layers.Add(name=\"add_1\")([body, x])",
            "outputs = keras.layers.Dense(10, activation=\"softmax\", name=\"dense_2\")(x)",
        ],
    );
    let code = torch::python(&pooled(), "f").unwrap();
    assert_lines(
        &code,
        &[
            "        x = x * 2.5",
            "        x = F.leaky_relu(self.conv2d_1(F.pad(x, (0, 1, 0, 1))), 0.01)",
            "        body = F.leaky_relu(self.conv2d_2(x), 0.3)",
            "        x = F.silu(self.conv2d_3(body)) * -0.5",
            "        sum = body + x",
            "        largest = F.adaptive_max_pool2d(sum, 1).flatten(1)",
            "        x = F.adaptive_avg_pool2d(sum, 1).flatten(1)",
            "        x = self.dropout_1(x)",
            "        x = F.silu(x)",
            "        x = self.dropout_2(x) * 20",
            "        x = F.silu(self.dense_2(x)).flatten(1)",
        ],
    );
    let code = keras::python(&pooled(), "f").unwrap();
    assert_lines(
        &code,
        &[
            "x = keras.layers.Rescaling(2.5, name=\"scale_1\")(x)",
            "x = keras.layers.Conv2D(8, 3, strides=2, padding=\"same\", name=\"conv2d_1\")(x)",
            "x = keras.layers.LeakyReLU(negative_slope=0.01, name=\"conv2d_1_activation\")(x)",
            "body = keras.layers.LeakyReLU(negative_slope=0.3, name=\"body\")(x)",
            "x = keras.layers.Conv2D(8, 3, padding=\"same\", activation=\"silu\", name=\"conv2d_3\")(body)",
            "largest = keras.layers.GlobalMaxPooling2D(name=\"largest\")(sum)",
            "x = keras.layers.GlobalAveragePooling2D(name=\"mean\")(sum)",
            "x = keras.layers.Activation(\"silu\", name=\"silu_1\")(x)",
            "x = keras.layers.Dropout(0.5, name=\"dropout_2\")(x)",
        ],
    );
    assert_lines(
        &torch::python(&grouped(), "f").unwrap(),
        &[
            "        self.depthwiseconv2d_1 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)",
            "        self.conv2d_2 = nn.Conv2d(6, 9, (2, 3), stride=(1, 2), groups=3)",
            "        self.depthwiseconv2d_2 = nn.Conv2d(9, 9, (3, 2), stride=2, padding=(1, 0), groups=9)",
        ],
    );
    assert_lines(
        &keras::python(&grouped(), "f").unwrap(),
        &[
            "    keras.layers.DepthwiseConv2D(3, padding=\"same\", use_bias=False, name=\"depthwiseconv2d_1\"),",
            "    keras.layers.Conv2D(9, (2, 3), strides=(1, 2), groups=3, activation=gelu_tanh, name=\"conv2d_2\"),",
            "    keras.layers.DepthwiseConv2D((3, 2), strides=2, padding=\"same\", activation=\"relu\", name=\"depthwiseconv2d_2\"),",
        ],
    );
    // A chain remains a list of layers, whatever its layers are.
    let chain: Model = toml::from_str(
        "name = \"chain\"\nlayer = [{ type = \"flatten\" }, { type = \"batchnorm\" }, { type = \"gelu\" }, \
         { type = \"dense\", units = 16, activation = \"leakyrelu\" }, { type = \"dense\", units = 10 }]",
    )
    .unwrap();
    let code = keras::python(&chain, "f").unwrap();
    assert_lines(
        &code,
        &[
            "model = keras.Sequential([",
            "    keras.layers.Dense(16, name=\"dense_1\"),",
            "    keras.layers.LeakyReLU(negative_slope=0.01, name=\"dense_1_activation\"),",
        ],
    );
}

/// Fills a folder for each model, as the checks in tests/python expect.
fn fill(place: &Path, write: impl Fn(&Model, &[Vec<f32>], &Path) -> String) {
    for (name, model) in models() {
        let folder = place.join(&name);
        fs::create_dir(&folder).unwrap();
        let parameters = trained_size(&model);
        let lines = write(&model, &parameters, &folder);
        fs::write(folder.join("lines.py"), lines).unwrap();
        fs::write(folder.join("images.bin"), images()).unwrap();
        let probabilities = predictions(&model, &parameters);
        fs::write(folder.join("probabilities.bin"), bytemuck::cast_slice(&probabilities)).unwrap();
    }
}

fn fill_onnx(place: &Path) {
    fill(place, |model, parameters, folder| {
        fs::write(folder.join("model.onnx"), onnx::to_bytes(model, parameters, &facts()).unwrap()).unwrap();
        onnx::python("model.onnx")
    });
}

/// The folders that [`fill`] creates.
fn folders() -> String {
    models().into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn all_agree((content, said): (bool, String)) {
    assert!(content, "{said}");
    assert_eq!(said.matches("1000 images agree within").count(), models().len(), "{said}");
}

#[test]
fn onnxruntime_agrees_and_the_checker_of_onnx_passes() {
    let Some(python) = Python::with("check_onnx.py", "onnx, onnxruntime") else { return };
    let place = tempfile::tempdir().unwrap();
    fill_onnx(place.path());
    all_agree(python.check(&folders(), place.path()));
}

#[test]
fn the_checks_in_python_can_fail() {
    let Some(python) = Python::with("check_onnx.py", "onnx, onnxruntime") else { return };
    let place = tempfile::tempdir().unwrap();
    fill_onnx(place.path());
    let path = place.path().join("odd/probabilities.bin");
    let mut probabilities: Vec<f32> = bytemuck::pod_collect_to_vec(&fs::read(&path).unwrap());
    probabilities[10 * N_IMAGES - 1] += 1e-4;
    fs::write(&path, bytemuck::cast_slice(&probabilities)).unwrap();
    let (content, said) = python.check("odd", place.path());
    assert!(!content && said.contains("batch of 1000: probabilities differ by"), "{said}");
    assert!(python.check("mlp", place.path()).0);
}

#[test]
fn pytorch_agrees_and_what_it_saves_is_imported() {
    let Some(python) = Python::with("check_torch.py", "torch, safetensors") else { return };
    let place = tempfile::tempdir().unwrap();
    fill(place.path(), |model, parameters, folder| {
        let bytes = torch::to_bytes(model, parameters, &facts()).unwrap();
        fs::write(folder.join("model.torch.safetensors"), bytes).unwrap();
        torch::python(model, "model.torch.safetensors").unwrap()
    });
    all_agree(python.check(&folders(), place.path()));
    // What this version of PyTorch gives every module, and this Python's keywords.
    let reserved = fs::read_to_string(place.path().join("mlp/reserved.txt")).unwrap();
    assert!(reserved.lines().count() > 70, "{reserved}");
    for name in reserved.lines() {
        assert!(torch::python(&named(name, false), "x").is_err(), "the name `{name}` is not refused");
    }
    for (name, model) in models() {
        let expected = trained_size(&model);
        // Half the distance between adjacent numbers, relative, and the smallest number above zero.
        for (dtype, relative, absolute) in [
            ("float32", 0.0, 0.0),
            ("float64", 0.0, 0.0),
            ("float16", 2f32.powi(-11), 2f32.powi(-25)),
            ("bfloat16", 2f32.powi(-8), 0.0),
        ] {
            let bytes = fs::read(place.path().join(&name).join(format!("sequential.{dtype}.safetensors"))).unwrap();
            let imported = import::from_bytes(&bytes, Some(&model), None).unwrap();
            assert_eq!(imported.layout, Layout::Torch);
            for (a, b) in imported.parameters.iter().flatten().zip(expected.iter().flatten()) {
                assert!((a - b).abs() <= relative * b.abs() + absolute, "{name} {dtype}: {a} for {b}");
            }
        }
    }
}

#[test]
fn keras_agrees_and_what_it_saves_is_imported() {
    let Some(python) = Python::with("check_keras.py", "keras, safetensors") else { return };
    let place = tempfile::tempdir().unwrap();
    fill(place.path(), |model, parameters, folder| {
        fs::write(folder.join("model.keras.npz"), keras::to_bytes(model, parameters).unwrap()).unwrap();
        keras::python(model, "model.keras.npz").unwrap()
    });
    all_agree(python.check(&folders(), place.path()));
    for (name, model) in models() {
        let bytes = fs::read(place.path().join(&name).join("keras.safetensors")).unwrap();
        let imported = import::from_bytes(&bytes, Some(&model), None).unwrap();
        assert_eq!(imported.layout, Layout::Keras);
        assert!(imported.parameters == trained_size(&model), "{name}: the imported weights differ");
    }
}

#[test]
fn numpy_opens_the_npz() {
    let Some(python) = Python::with("check_npz.py", "numpy") else { return };
    let place = tempfile::tempdir().unwrap();
    fill(place.path(), |model, parameters, folder| {
        fs::write(folder.join("model.npz"), npz::to_bytes(model, parameters).unwrap()).unwrap();
        let all: Vec<f32> = parameters.iter().flatten().copied().collect();
        fs::write(folder.join("parameters.bin"), bytemuck::cast_slice(&all)).unwrap();
        npz::python("model.npz")
    });
    let (content, said) = python.check(&folders(), place.path());
    assert!(content && said.contains("8 arrays hold the same 421642 values"), "{said}");
}

/// Creates a run folder with an untrained model: a weight file is all that is needed.
fn write_run(place: &Place, name: &str, model: &Model) -> Vec<Vec<f32>> {
    let parameters = trained_size(model);
    fs::create_dir(place.path(name)).unwrap();
    fs::write(place.path(name).join("model.safetensors"), weights::to_bytes(model, &parameters).unwrap()).unwrap();
    parameters
}

#[test]
fn the_command_writes_beside_the_model_and_prints_the_lines() {
    let place = Place::new();
    let model = Model::mlp();
    let parameters = write_run(&place, "run", &model);
    let none = Facts::new(&FASHION_MNIST);
    for (format, file, bytes, lines) in [
        ("onnx", "model.onnx", onnx::to_bytes(&model, &parameters, &none).unwrap(), onnx::python("run/model.onnx")),
        (
            "torch",
            "model.torch.safetensors",
            torch::to_bytes(&model, &parameters, &none).unwrap(),
            torch::python(&model, "run/model.torch.safetensors").unwrap(),
        ),
        (
            "keras",
            "model.keras.npz",
            keras::to_bytes(&model, &parameters).unwrap(),
            keras::python(&model, "run/model.keras.npz").unwrap(),
        ),
        ("npz", "model.npz", npz::to_bytes(&model, &parameters).unwrap(), npz::python("run/model.npz")),
    ] {
        let ran = place.run(&format!("export run --format {format}")).exits(0);
        assert_eq!(ran.out, lines);
        assert!(fs::read(place.path("run").join(file)).unwrap() == bytes, "{format}");
        place.run(&format!("export run --format {format}")).exits(2).says(&[file, "--force"]);
        let ran = place.run(&format!("export run/model.safetensors --format {format} --force --quiet --json")).exits(0);
        assert_eq!(ran.err, "");
        let report = ran.json();
        assert_eq!((&report["format"], &report["file"]), (&format.into(), &format!("run/{file}").into()));
        assert_eq!((&report["bytes"], &report["parameters"]), (&bytes.len().into(), &101_770.into()));
    }
    place.run("export run --format onnx --out other.onnx").exits(0).says(&["other.onnx"]);
    assert!(place.path("other.onnx").exists());
    place.run("export run --format onnx --out no/such/folder.onnx").exits(2).says(&["no/such/folder.onnx"]);
    place.run("export run").exits(2).says(&["--format"]);
    place.run("export run --format tflite").exits(2).says(&["tflite", "onnx"]);
    place.run("export no-such-run --format onnx").exits(2).says(&["no-such-run", "fmnist-gpu train"]);
    // An export is not a run.
    place.run("export run/model.torch.safetensors --format onnx").exits(2).says(&["fmnist-gpu import"]);
}

#[test]
fn exports_of_a_trained_run_know_its_accuracy_and_damaged_summaries_are_named() {
    gpu();
    let place = Place::new();
    let line = "train --model mlp --dataset synthetic --train-limit 64 --epochs 1 --out run --json --quiet";
    let summary = place.run(line).exits(0);
    let accuracy = fs::read_to_string(place.path("run/summary.json")).unwrap();
    let accuracy = serde_json::from_str::<serde_json::Value>(&accuracy).unwrap()["test_accuracy"].clone();
    assert!(accuracy.is_number(), "{}", summary.out);
    let report = place.run("export run --format onnx --json").exits(0).json();
    assert_eq!((&report["dataset"], &report["test_accuracy"]), (&"synthetic".into(), &accuracy));
    // Other weights in the folder have a different accuracy.
    fs::copy(place.path("run/model.safetensors"), place.path("run/other.safetensors")).unwrap();
    let report = place.run("export run/other.safetensors --format onnx --json").exits(0).json();
    assert_eq!((&report["file"], &report["test_accuracy"]), (&"run/other.onnx".into(), &serde_json::Value::Null));
    fs::write(place.path("run/summary.json"), "{").unwrap();
    place.run("export run --format npz").exits(2).says(&["summary.json"]);
}

#[test]
fn the_documentation_shows_the_lines_that_were_tested() {
    let text = include_str!("../docs/exports.md");
    let model = Model::cnn();
    let files = include_str!("../docs/model-files.md");
    let residual = files[files.find("name = \"residual\"").unwrap()..].split("```").next().unwrap();
    let residual: Model = toml::from_str(residual).unwrap();
    for lines in [
        onnx::python("runs/cnn-1/model.onnx"),
        torch::python(&model, "runs/cnn-1/model.torch.safetensors").unwrap(),
        keras::python(&model, "runs/cnn-1/model.keras.npz").unwrap(),
        npz::python("runs/cnn-1/model.npz"),
        torch::python(&residual, "f")
            .unwrap()
            .split_once("load_file\n\n")
            .unwrap()
            .1
            .split_once("\nnet = ")
            .unwrap()
            .0
            .into(),
        keras::python(&residual, "runs/residual-1/model.keras.npz").unwrap(),
    ] {
        assert!(text.contains(&format!("```python\n{lines}```\n")), "docs/exports.md does not contain\n{lines}");
    }
}
