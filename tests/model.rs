use crate::registry::root;
use crate::support::cases;
use fmnist_gpu::cpu::conv2d::Padding;
use fmnist_gpu::data::Split;
use fmnist_gpu::engine::{Engine, Optimizer, ReferenceEngine};
use fmnist_gpu::model::weights::{WeightsError, from_bytes, to_bytes};
use fmnist_gpu::model::{
    Activation, Init, Layer, Model, ModelError, ModelFile, Pair, Pooling, Trainable, initial_parameters, summary,
    training_mflop,
};
use fmnist_gpu::ops::adam::AdamConfig;
use pollster::FutureExt as _;
use std::ops::ControlFlow;

fn load(text: &str) -> Result<Model, ModelError> {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Model::load(file.path().to_str().unwrap())
}

fn count(model: &Model) -> usize {
    model.parameters().unwrap().iter().map(|p| p.shape.iter().product::<usize>()).sum()
}

#[test]
fn the_models_of_the_article_have_their_parameters() {
    assert_eq!(count(&Model::mlp()), 101_770);
    assert_eq!(count(&Model::cnn()), 421_642);
    let names: Vec<String> = Model::cnn().parameters().unwrap().into_iter().map(|p| p.name).collect();
    let layers = ["conv2d_1", "conv2d_2", "dense_1", "dense_2"];
    let expected: Vec<String> =
        layers.iter().flat_map(|layer| [format!("{layer}.weight"), format!("{layer}.bias")]).collect();
    assert_eq!(names, expected);
    let shapes: Vec<Vec<usize>> = Model::cnn().parameters().unwrap().into_iter().map(|p| p.shape).collect();
    assert_eq!(shapes[0], [3, 3, 1, 32]);
    assert_eq!(shapes[2], [3, 3, 32, 64]);
    assert_eq!(shapes[4], [3136, 128]);
}

/// The built-in models are the files of the folder `models`; each is named after its file, and its recipe is one that can be trained by.
#[test]
fn the_built_in_models_are_files() {
    let folder = root().join("models");
    let built_in = Model::built_in();
    let mut found: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let mut names: Vec<String> = built_in.iter().map(|model| model.name.clone()).collect();
    for name in &names {
        let file = ModelFile::load(name).unwrap();
        let read = ModelFile::load(folder.join(format!("{name}.toml")).to_str().unwrap()).unwrap();
        assert_eq!((&file.model.name, &file.path, &file.model, &file.train), (name, &None, &read.model, &read.train));
        fmnist_gpu::session::Plan::new(file, &[]).unwrap();
    }
    found.sort();
    names.sort();
    assert_eq!(found, names);
    let [_, _, tiny, fast, best] = built_in;
    assert!(count(&tiny) < 100_000 && count(&fast) < 300_000 && count(&best) < 1_000_000);
}

#[test]
fn the_summary_shows_layers_shapes_parameters_and_work() {
    let text = summary(&Model::cnn()).unwrap();
    for part in ["conv2d_2 3x3 stride 1 same", "[14, 14, 64]", "18,496", "421,642", "8.48 MFLOP", "25.0 MFLOP"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn the_summary_of_a_graph_shows_what_layers_read_and_what_is_not_trained() {
    let text = summary(&crate::export::residual()).unwrap();
    for line in [
        "stem 3x3 stride 2 same         [14, 14, 6]             60    0.021",
        "batchnorm_1                    [14, 14, 6]             24    0.000",
        "batchnorm_2                    [14, 14, 6]             18    0.000",
        "add_1 (body, batchnorm_3)      [14, 14, 6]              0    0.000",
    ] {
        assert!(text.lines().any(|found| found == line), "no\n{line}\nin\n{text}");
    }
    // Two statistics for each of 6 + 6 + 6 + 45 + 16 channels.
    assert!(
        text.ends_with("\nTrainable params: 1,925. Non-trainable params: 158, of which 158 are running statistics.\n"),
        "{text}"
    );
    assert!(summary(&crate::export::mixed()).unwrap().contains("F (input) 4x4 stride 4 valid"));
    assert!(!summary(&Model::cnn()).unwrap().contains("statistics"));
    // The gradient of the image is not computed, by no reader of it.
    let shapes = crate::export::mixed().shapes().unwrap();
    let work = |name: &str| shapes.iter().find(|shape| shape.name == name).unwrap().multiply_adds;
    let all: usize = shapes.iter().map(|shape| shape.multiply_adds).sum();
    let expected = 2e-6 * (3 * all - work("F")) as f64;
    assert!((training_mflop(&shapes) - expected).abs() < 1e-12);
}

#[test]
fn the_summary_counts_the_work_of_groups() {
    let text = summary(&crate::export::grouped()).unwrap();
    for line in [
        "depthwiseconv2d_1 3x3 stride 1 same  [14, 14, 6]             54    0.021",
        "conv2d_2 2x3 stride 1x2 valid groups 3  [13, 6, 9]        117    0.017",
    ] {
        let words = |line: &str| line.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        assert!(text.lines().any(|found| words(found) == words(line)), "no\n{line}\nin\n{text}");
    }
    // The columns after the longest line are still aligned.
    let rows = text.lines().filter(|line| line.contains("conv2d"));
    assert_eq!(rows.map(|line| line.chars().count()).collect::<std::collections::BTreeSet<_>>().len(), 1, "{text}");
}

/// As in Keras: the fans of a kernel `[KH, KW, C, O]` are C and O times the window, also for a depthwise convolution, `[KH, KW, C, 1]`.
#[test]
fn initial_weights_of_groups_have_the_limits_of_keras() {
    let model = crate::export::grouped();
    let described = model.parameters().unwrap();
    let parameters = initial_parameters(&described, 1);
    for (name, shape, fans) in [
        ("depthwiseconv2d_1.weight", vec![3, 3, 6, 1], 9 * (6 + 1)),
        ("conv2d_2.weight", vec![2, 3, 2, 9], 6 * (2 + 9)),
        ("depthwiseconv2d_2.weight", vec![3, 2, 9, 1], 6 * (9 + 1)),
        ("conv2d_3.weight", vec![1, 1, 1, 18], 1 + 18),
    ] {
        let i = described.iter().position(|parameter| parameter.name == name).unwrap();
        assert_eq!(described[i].shape, shape, "{name}");
        let limit = (6.0 / fans as f64).sqrt() as f32;
        let largest = parameters[i].iter().fold(0.0, |largest: f32, w| largest.max(w.abs()));
        assert!(largest <= limit && largest > 0.8 * limit, "{name}: {largest} of {limit}");
    }
    assert!(!described.iter().any(|parameter| parameter.name == "depthwiseconv2d_1.bias"));
}

/// What a model file does not say is not written either, so that descriptions of older models stay as they are.
#[test]
fn defaults_of_groups_and_biases_are_not_written() {
    let text = toml::to_string(&crate::export::grouped()).unwrap();
    assert_eq!(text.matches("groups").count(), 2, "{text}");
    assert_eq!(text.matches("use_bias = false").count(), text.matches("use_bias").count(), "{text}");
    assert!(!serde_json::to_string(&Model::cnn()).unwrap().contains("groups"));
}

#[test]
fn a_model_file_lists_layers() {
    let model = load(
        r#"
        name = "small"
        [[layer]]
        type = "conv2d"
        filters = 8
        kernel_size = 3
        activation = "relu"
        [[layer]]
        type = "flatten"
        [[layer]]
        type = "dense"
        units = 10
        activation = "softmax"
        "#,
    )
    .unwrap();
    assert_eq!(count(&model), 9 * 8 + 8 + 26 * 26 * 8 * 10 + 10);
}

/// Attributes that have their default are not written, so that files of equal models are equal.
#[test]
fn the_slope_of_a_leaky_relu_has_a_default() {
    let of = |layer: &str| {
        let text =
            "name = \"x\"\nlayer = [LAYER, { type = \"globalaveragepool2d\" }, { type = \"dense\", units = 10 }]";
        load(&text.replace("LAYER", layer)).unwrap()
    };
    let [implicit, explicit] = ["{ type = \"leakyrelu\" }", "{ type = \"leakyrelu\", slope = 0.01 }"].map(of);
    assert_eq!(implicit, explicit);
    assert_eq!(implicit.layers[0].layer, Layer::LeakyRelu { slope: 0.01 });
    assert!(!serde_json::to_string(&explicit).unwrap().contains("slope"));
    let other = of("{ type = \"leakyrelu\", slope = 0 }");
    assert!(serde_json::to_string(&other).unwrap().contains("\"slope\":0.0"));
    assert_eq!(other.shapes().unwrap()[1].output, [1]);
}

#[test]
fn a_model_that_cannot_be_built_is_refused_with_layer_and_reason() {
    let dense = "{ type = \"dense\", units = 10 }";
    for (layers, parts) in [
        (dense.to_string(), vec!["layer 1 (dense)", "flatten"]),
        ("{ type = \"flatten\" }".to_string(), vec!["last layer must be dense with 10 units"]),
        (format!("{{ type = \"flatten\" }}, {}", dense.replace("10", "11")), vec!["last layer must be dense"]),
        (
            format!("{{ type = \"conv2d\", filters = 4, kernel_size = 30 }}, {{ type = \"flatten\" }}, {dense}"),
            vec!["layer 1 (conv2d)", "`kernel_size` has 30 rows", "28", "same"],
        ),
        (
            format!("{{ type = \"maxpool2d\", pool_size = 2, stride = 0 }}, {{ type = \"flatten\" }}, {dense}"),
            vec!["layer 1 (maxpool2d)", "`stride` is 0"],
        ),
        (
            format!("{{ type = \"conv2d\", filters = 0, kernel_size = 3 }}, {{ type = \"flatten\" }}, {dense}"),
            vec!["layer 1 (conv2d)", "`filters` is 0"],
        ),
        (
            format!("{{ type = \"conv2d\", filters = 4, kernel_size = [3, 0] }}, {{ type = \"flatten\" }}, {dense}"),
            vec!["layer 1 (conv2d)", "`kernel_size` is 0"],
        ),
        (
            format!(
                "{{ type = \"conv2d\", filters = 4000000000, kernel_size = 1 }}, {{ type = \"flatten\" }}, {dense}"
            ),
            vec!["layer 1 (conv2d)", "`filters`", "too large", "4294967295"],
        ),
        (
            format!(
                "{{ type = \"conv2d\", filters = 6, kernel_size = 3 }}, \
                 {{ type = \"conv2d\", filters = 8, kernel_size = 3, groups = 4 }}, {{ type = \"flatten\" }}, {dense}"
            ),
            vec!["layer 2 (conv2d)", "`groups` is 4, but 6 input channels cannot be divided", "a divisor of 6"],
        ),
        (
            format!(
                "{{ type = \"conv2d\", filters = 6, kernel_size = 3 }}, \
                 {{ type = \"conv2d\", filters = 8, kernel_size = 3, groups = 3 }}, {{ type = \"flatten\" }}, {dense}"
            ),
            vec!["layer 2 (conv2d)", "`groups` is 3, but 8 output channels cannot be divided"],
        ),
        (
            format!(
                "{{ type = \"conv2d\", filters = 6, kernel_size = 3, groups = 0 }}, {{ type = \"flatten\" }}, {dense}"
            ),
            vec!["layer 1 (conv2d)", "`groups` is 0"],
        ),
        (
            format!("{{ type = \"flatten\" }}, {{ type = \"depthwiseconv2d\", kernel_size = 3 }}, {dense}"),
            vec!["layer 2 (depthwiseconv2d)", "[784]"],
        ),
        (
            format!("{{ type = \"depthwiseconv2d\", kernel_size = 29 }}, {{ type = \"flatten\" }}, {dense}"),
            vec!["layer 1 (depthwiseconv2d)", "`kernel_size` has 29 rows"],
        ),
        (
            format!("{{ type = \"averagepool2d\", pool_size = 0 }}, {{ type = \"flatten\" }}, {dense}"),
            vec!["layer 1 (averagepool2d)", "`pool_size` is 0"],
        ),
        (
            format!("{{ type = \"flatten\" }}, {{ type = \"dense\", units = 0 }}, {dense}"),
            vec!["layer 2 (dense)", "`units` is 0"],
        ),
        (
            format!("{{ type = \"flatten\" }}, {{ type = \"maxpool2d\", pool_size = 2 }}, {dense}"),
            vec!["layer 2 (maxpool2d)", "[784]"],
        ),
        (
            format!("{{ type = \"flatten\" }}, {{ type = \"globalmaxpool2d\" }}, {dense}"),
            vec!["layer 2 (globalmaxpool2d)", "[784]", "image"],
        ),
        (
            format!("{{ type = \"globalaveragepool2d\" }}, {{ type = \"globalaveragepool2d\" }}, {dense}"),
            vec!["layer 2 (globalaveragepool2d)", "[1]", "image"],
        ),
        (
            format!("{{ type = \"leakyrelu\", slope = -0.1 }}, {{ type = \"flatten\" }}, {dense}"),
            vec!["layer 1 (leakyrelu)", "`slope` is -0.1"],
        ),
        (
            format!("{{ type = \"scale\", factor = 1e39 }}, {{ type = \"flatten\" }}, {dense}"),
            vec!["layer 1 (scale)", "`factor`", "finite"],
        ),
        (
            format!("{{ type = \"flatten\" }}, {{ type = \"dense\", units = 3, activation = \"softmax\" }}, {dense}"),
            vec!["layer 2 (dense)", "softmax"],
        ),
        (
            format!("{{ type = \"flatten\" }}, {{ type = \"dense\", units = 1152921504606846976 }}, {dense}"),
            vec!["layer 2 (dense)", "[784, 1152921504606846976]", "4294967295"],
        ),
        (String::new(), vec!["last layer must be dense"]),
    ] {
        let error = load(&format!("name = \"x\"\nlayer = [{layers}]")).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}\nshould contain {parts:?}");
    }
}

#[test]
fn a_model_file_with_a_typing_error_is_refused_with_its_line() {
    for (text, part) in [
        ("name = \"x\"\nlayer = [{ type = \"convolution\" }]", "convolution"),
        ("name = \"x\"\nlayer = [{ type = \"dense\", unit = 10 }]", "unit"),
        ("name = \"x\"\nlayer = [{ type = \"scale\" }]", "factor"),
        ("name = \"x\"\nlayer = [{ type = \"globalmaxpool2d\", pool_size = 2 }]", "pool_size"),
        ("name = \"x\"\nlayer = [{ type = \"silu\", slope = 0.1 }]", "slope"),
        ("name = \"x\"\nlayer = [{ type = \"relu\", slope = 0.1 }]", "slope"),
        ("name = \"x\"\nlayer = [{ type = \"gelu\", approximate = false }]", "approximate"),
        ("name = \"x\"\nlayer = [{ type = \"flatten\", units = 3 }]", "units"),
        ("name = \"x\"\nlayer = [{ type = \"add\", axis = 1 }]", "axis"),
        ("name = \"x\"\nlayers_ = []", "layers_"),
        ("name = ", "1"),
        ("name = \"x\"\nlayer = [{ type = \"conv2d\", filters = 1, kernel_size = [1, 2, 3] }]", "one number, or two"),
    ] {
        let error = load(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(matches!(Model::load("no-such-model"), Err(ModelError::Unknown { .. })));
    assert!(matches!(Model::load("no-such-file.toml"), Err(ModelError::Read { .. })));
}

/// A model file may be untrusted: its errors stay short.
#[test]
fn errors_do_not_repeat_long_contents_of_a_model_file() {
    let nines = "9".repeat(400);
    let text = "x ".repeat(2000);
    let dense = |units: &str| format!("name = \"x\"\nlayer = [{{ type = \"dense\", units = {units} }}]");
    for (text, place) in [
        (dense(&nines), "line 2"),
        (dense(&format!("\"{nines}\"")), "line 2"),
        (dense(&format!("\"{text}\"")), "line 2"),
        (format!("{}\n{nines} = 1", dense("1")), "line 3"),
        (format!("name = \"{nines}\"\nlayer = []"), "100 characters"),
    ] {
        let error = load(&text).unwrap_err().to_string();
        assert!(error.contains(place) && error.len() < 500 && !error.contains(&nines[..101]), "{error}");
        assert!(error.contains('…'), "{error}");
    }
}

#[test]
fn weight_files_are_the_same_bytes_each_time_and_come_back_as_they_went() {
    for model in [Model::mlp(), Model::cnn()] {
        let parameters = initial_parameters(&model.parameters().unwrap(), 9);
        let bytes = to_bytes(&model, &parameters).unwrap();
        for _ in 0..5 {
            assert!(bytes == to_bytes(&model, &parameters).unwrap(), "equal models gave different files");
        }
        assert_eq!(from_bytes(&bytes).unwrap(), (model, parameters));
    }
}

#[test]
fn weight_files_open_with_the_crate_and_say_their_layout() {
    let model = Model::cnn();
    let bytes = to_bytes(&model, &initial_parameters(&model.parameters().unwrap(), 9)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone().unwrap();
    assert!(metadata["layout"].contains("[KH, KW, C, O]"));
    assert_eq!(serde_json::from_str::<Model>(&metadata["model"]).unwrap(), model);
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("conv2d_2.weight").unwrap().shape(), [3, 3, 32, 64]);
    assert_eq!(tensors.len(), 8);
}

#[test]
fn damaged_weight_files_are_refused_and_never_panic() {
    let model = Model::mlp();
    let bytes = to_bytes(&model, &initial_parameters(&model.parameters().unwrap(), 9)).unwrap();
    for len in (0..1000).chain([bytes.len() / 2, bytes.len() - 1]) {
        assert!(from_bytes(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
    for at in 0..600 {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x15;
        let _ = from_bytes(&flipped);
    }
}

#[test]
fn weight_files_of_another_model_are_refused_with_the_tensor() {
    let model = Model::mlp();
    let view = |shape: Vec<usize>, data: &'static [u8]| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, data).unwrap()
    };
    let with = |names: &[(&str, Vec<usize>)], key: &str| {
        let zeros: &'static [u8] = &[0; 401_408];
        let views: Vec<(String, _)> = names
            .iter()
            .map(|(name, shape)| (name.to_string(), view(shape.clone(), &zeros[..4 * shape.iter().product::<usize>()])))
            .collect();
        let description = serde_json::to_string(&model).unwrap();
        let format = ("format".to_string(), "fmnist-gpu 1".to_string());
        let metadata = std::collections::HashMap::from([(key.to_string(), description), format]);
        from_bytes(&safetensors::serialize(views, Some(metadata)).unwrap()).unwrap_err()
    };
    let right = [
        ("dense_1.weight", vec![784, 128]),
        ("dense_1.bias", vec![128]),
        ("dense_2.weight", vec![128, 10]),
        ("dense_2.bias", vec![10]),
    ];
    assert!(matches!(with(&right, "other"), WeightsError::Metadata("model")));
    let missing = with(&right[..3], "model");
    assert!(matches!(&missing, WeightsError::Missing { name, .. } if name == "dense_2.bias"), "{missing}");
    let mut swapped = right.clone();
    swapped[2].1 = vec![10, 128];
    let shape = with(&swapped, "model");
    assert!(matches!(&shape, WeightsError::Shape { name, .. } if name == "dense_2.weight"), "{shape}");
    let mut extra = right.to_vec();
    extra.push(("dense_3.bias", vec![10]));
    assert!(matches!(with(&extra, "model"), WeightsError::Unknown { .. }));
}

/// Thousands of random lists of layers, including sizes at the limits: each is rejected, or consistent and usable.
#[test]
fn models_at_random_are_refused_or_fit_together() {
    const SIZES: [usize; 14] = [0, 1, 2, 3, 4, 5, 7, 14, 28, 29, 1 << 16, u32::MAX as usize, 1 << 32, usize::MAX];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let (mut accepted, mut applied) = (0, 0);
    let n = cases("FMNIST_TEST_MODELS", 5_000, 20_000);
    for _ in 0..n {
        // Mostly small, so that many are accepted.
        let size = |random: &mut dyn FnMut(usize) -> usize| match random(12) {
            0 => SIZES[random(SIZES.len())],
            _ => SIZES[1 + random(5)],
        };
        let pair = |random: &mut dyn FnMut(usize) -> usize| Pair(size(random), size(random));
        let mut layers = Vec::new();
        for _ in 0..random(5) {
            let padding = if random(2) == 0 { Padding::Same } else { Padding::Valid };
            let stride = Some(pair(&mut random)).filter(|_| random(2) == 0);
            layers.push(match random(10) {
                0 | 1 => Layer::Conv2d {
                    filters: pair(&mut random).0,
                    kernel_size: pair(&mut random),
                    stride: stride.unwrap_or(Pair(1, 1)),
                    padding,
                    groups: if random(4) == 0 { size(&mut random) } else { 1 },
                    activation: if random(2) == 0 { Activation::Relu } else { Activation::None },
                    use_bias: random(3) > 0,
                    trainable: [Trainable::Yes, Trainable::No, Trainable::Bias][random(3)],
                    init: [Init::GlorotUniform, Init::HeNormal, Init::Dirac, Init::Whitening][random(4)],
                },
                2 => Layer::MaxPool2d(Pooling { pool_size: pair(&mut random), stride, padding }),
                3 => Layer::AveragePool2d(Pooling { pool_size: pair(&mut random), stride, padding }),
                4 => Layer::SumPool2d(Pooling { pool_size: pair(&mut random), stride, padding }),
                5 => Layer::LeakyRelu { slope: [0.01, 0.0, 3.0, -1.0][random(4)] },
                6 => Layer::Scale { factor: [0.1, -2.0, 0.0, 1e60][random(4)] },
                7 if random(2) == 0 => Layer::GlobalMaxPool2d {},
                8 => Layer::DepthwiseConv2d {
                    kernel_size: pair(&mut random),
                    stride: stride.unwrap_or(Pair(1, 1)),
                    padding,
                    use_bias: random(2) == 0,
                    activation: Activation::None,
                },
                _ => Layer::Relu {},
            });
        }
        layers.push(Layer::Flatten {});
        if random(3) == 0 {
            layers.push(Layer::dense(pair(&mut random).0, Activation::Relu));
        }
        layers.push(Layer::dense(10, Activation::Softmax));
        let model = Model::sequential("random", layers);
        let Ok(shapes) = model.shapes() else { continue };
        accepted += 1;
        for pair in shapes.windows(2) {
            assert_eq!(pair[0].output, pair[1].input, "{model:?}");
        }
        for shape in &shapes {
            assert!(shape.output.iter().all(|&size| size > 0), "{model:?}");
            assert!(shape.output.iter().product::<usize>() <= u32::MAX as usize, "{model:?}");
        }
        assert!(count(&model) <= (1 << 30) / 4, "{model:?}");
        summary(&model).unwrap();
        let text = toml::to_string(&model).unwrap();
        assert_eq!(load(&text).unwrap(), model, "{text}");
        let work: usize = shapes.iter().map(|s| s.multiply_adds + s.output.iter().product::<usize>()).sum();
        if work > 20_000 {
            continue;
        }
        applied += 1;
        let images = Split { images: (0..3 * 784).map(|i| (i * i % 251) as u8).collect(), labels: vec![0; 3] };
        let parameters = model.initial_parameters(&images, 1).unwrap();
        let adam = Optimizer::Adam(AdamConfig::default());
        let mut engine = ReferenceEngine::<f32>::new(&model, &parameters, &Split::default(), 1, adam).unwrap();
        let row = engine.predict(&[100; 784], &mut |_| ControlFlow::Continue(())).block_on().unwrap();
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{row:?} of {model:?}");
    }
    assert!(accepted > n / 10 && applied > n / 40, "{accepted} accepted, {applied} applied");
}

/// Names are used in file names and printed to terminals.
#[test]
fn a_name_that_is_a_path_or_moves_the_cursor_is_refused() {
    for (name, part) in [
        ("../x", "its name is a path"),
        ("a\\\\b", "its name is a path"),
        ("..", "its name is a path"),
        ("\\u001b[2J", "control characters"),
        (&"x".repeat(101), "more than 100 characters"),
    ] {
        let text = format!("name = \"{name}\"\nlayer = [{{ type = \"flatten\" }}, {{ type = \"dense\", units = 10 }}]");
        let error = load(&text).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\u{1b}'), "{error}");
        load(&text.replace(name, "plain \u{e9} name")).unwrap();
    }
}

/// The name of a layer is part of names in files and of Python code, and `input` means the images.
#[test]
fn names_of_layers_are_words_and_not_that_of_the_images() {
    let of = |name: &str| {
        format!(
            "name = \"x\"\nlayer = [{{ type = \"flatten\" }}, {{ type = \"dense\", units = 10, name = \"{name}\" }}]"
        )
    };
    for name in ["a", "Input", "dense_7", &"x".repeat(64)] {
        load(&of(name)).unwrap();
    }
    for (name, part) in [
        ("input", "`name` is input, which stands for the images"),
        ("", "use a letter followed by at most 63"),
        ("7th", "`name` is `7th`"),
        ("_a", "`name` is `_a`"),
        ("a b", "`name` is `a b`"),
        (&"x".repeat(65), "use a letter followed by at most 63"),
    ] {
        let error = load(&of(name)).unwrap_err().to_string();
        assert!(error.contains("layer 2 (dense)") && error.contains(part), "{error}");
    }
}
