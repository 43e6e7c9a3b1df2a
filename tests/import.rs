//! Weights of other tools as a run: assigning tensors to layers, types, and files that must be rejected.

use crate::export::{bare, mixed, odd, residual, trained_size};
use crate::support::gpu;
use crate::support::program::Place;
use fmnist_gpu::data::FASHION_MNIST;
use fmnist_gpu::export::{Facts, torch};
use fmnist_gpu::import::{ImportError, Imported, Layout, from_bytes};
use fmnist_gpu::model::{Model, Role, weights};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::HashMap;
use std::fs;

/// A tensor in a file: name, type, shape, bytes.
type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

fn file(tensors: &[Tensor], metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()))
        .collect();
    safetensors::serialize(views, metadata).unwrap()
}

fn single(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    (name.to_string(), Dtype::F32, shape.to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Returns the tensors of an exported model, with these names for its layers.
fn tensors(model: &Model, layout: Layout, stems: &[&str], [weight, bias]: [&str; 2]) -> Vec<Tensor> {
    let bytes = match layout {
        Layout::Torch => torch::to_bytes(model, &trained_size(model), &Facts::new(&FASHION_MNIST)).unwrap(),
        Layout::Keras => weights::to_bytes(model, &trained_size(model)).unwrap(),
    };
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let parameters = model.parameters().unwrap();
    assert_eq!(parameters.len(), 2 * stems.len());
    parameters
        .iter()
        .enumerate()
        .map(|(i, parameter)| {
            let tensor = all.tensor(&parameter.name).unwrap();
            let name = format!("{}{}", stems[i / 2], if i % 2 == 0 { weight } else { bias });
            (name, tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
        })
        .collect()
}

const PYTORCH: [&str; 2] = [".weight", ".bias"];

fn import(tensors: &[Tensor], model: Option<&Model>) -> Result<Imported, ImportError> {
    from_bytes(&file(tensors, None), model, None)
}

/// Two dense layers of the same shape, with nothing else to tell them apart.
fn twins() -> Model {
    toml::from_str(
        r#"
        name = "twins"
        layer = [
            { type = "flatten" },
            { type = "dense", units = 12 },
            { type = "dense", units = 12 },
            { type = "dense", units = 12 },
            { type = "dense", units = 10 },
        ]
        "#,
    )
    .unwrap()
}

/// A model whose weights have the same shapes in both layouts.
fn symmetrical() -> Model {
    toml::from_str(
        r#"
        name = "symmetrical"
        layer = [
            { type = "conv2d", filters = 1, kernel_size = 1, stride = [9, 28] },
            { type = "maxpool2d", pool_size = 1 },
            { type = "flatten" },
            { type = "dense", units = 4 },
            { type = "dense", units = 10 },
        ]
        "#,
    )
    .unwrap()
}

#[test]
fn exported_for_pytorch_and_imported_the_weights_are_the_same() {
    for model in [Model::cnn(), Model::mlp(), odd(), twins(), symmetrical(), residual(), mixed(), bare()] {
        let parameters = trained_size(&model);
        let bytes = torch::to_bytes(&model, &parameters, &Facts::new(&FASHION_MNIST)).unwrap();
        // The file describes its model.
        let imported = from_bytes(&bytes, None, None).unwrap();
        assert_eq!((&imported.model, imported.layout), (&model, Layout::Torch));
        assert!(imported.parameters == parameters, "{}", model.name);
        let names: Vec<&str> = imported.origins.iter().map(|origin| origin.tensor.as_str()).collect();
        let expected = model.parameters().unwrap();
        // A normalization without factor has one in PyTorch's file, which is no parameter.
        assert_eq!(names, expected.iter().map(|p| p.name.as_str()).collect::<Vec<_>>());
        // This program's own file is in Keras's layout.
        let own = from_bytes(&weights::to_bytes(&model, &parameters).unwrap(), None, None).unwrap();
        assert_eq!(own.layout, Layout::Keras);
        assert!(own.parameters == parameters && own.model == model, "{}", model.name);
    }
}

#[test]
fn names_of_other_tools_are_matched_by_shape() {
    let cnn = Model::cnn();
    let expected = trained_size(&cnn);
    for (layout, stems, roles) in [
        (Layout::Torch, ["conv1", "conv2", "fc1", "fc2"], PYTORCH),
        (Layout::Torch, ["0", "3", "7", "9"], PYTORCH),
        // The alphabetical order, which is that of the file, is not that of the layers.
        (Layout::Torch, ["features.8", "features.10", "classifier.2", "classifier.11"], PYTORCH),
        (Layout::Keras, ["conv2d", "conv2d_1", "dense", "dense_1"], ["/kernel:0", "/bias:0"]),
        (Layout::Keras, ["z", "y", "x", "w"], [".kernel", ".bias"]),
    ] {
        let tensors = tensors(&cnn, layout, &stems, roles);
        for model in [None, Some(&cnn)] {
            let imported = import(&tensors, model).unwrap();
            assert_eq!((imported.layout, &imported.model), (layout, &cnn), "{stems:?}");
            assert!(imported.parameters == expected, "{stems:?}");
            assert_eq!(imported.origins[4].tensor, format!("{}{}", stems[2], roles[0]));
        }
    }
    let mlp = import(&tensors(&Model::mlp(), Layout::Torch, &["net.1", "net.3"], PYTORCH), None).unwrap();
    assert_eq!(mlp.model, Model::mlp());
}

/// Two normalizations of the same size, the second without summand, among convolutions and a dense layer.
fn normalized() -> Model {
    toml::from_str(
        r#"
        name = "normalized"
        layer = [
            { type = "conv2d", filters = 4, kernel_size = 3, stride = 4 },
            { type = "batchnorm" },
            { type = "relu", name = "body" },
            { type = "conv2d", filters = 4, kernel_size = 3, padding = "same" },
            { type = "batchnorm", center = false },
            { type = "add", inputs = ["body", "batchnorm_2"] },
            { type = "flatten" },
            { type = "dense", units = 10 },
        ]
        "#,
    )
    .unwrap()
}

/// The groups of [`normalized`], under these names: a weight's, a bias's, and those of the four tensors of a normalization.
fn normalized_tensors(layout: Layout, stems: &[&str], [weight, bias]: [&str; 2], norm: [&str; 4]) -> Vec<Tensor> {
    let model = normalized();
    let bytes = match layout {
        Layout::Torch => torch::to_bytes(&model, &trained_size(&model), &Facts::new(&FASHION_MNIST)).unwrap(),
        Layout::Keras => weights::to_bytes(&model, &trained_size(&model)).unwrap(),
    };
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let layers = ["conv2d_1", "batchnorm_1", "conv2d_2", "batchnorm_2", "dense_1"];
    let mut tensors = Vec::new();
    for (layer, stem) in layers.iter().zip(stems) {
        let keys = match layer.contains("norm") {
            true => vec![("weight", norm[0]), ("bias", norm[1]), ("running_mean", norm[2]), ("running_var", norm[3])],
            false => vec![("weight", weight), ("bias", bias)],
        };
        for (key, end) in keys {
            // PyTorch has all four, Keras those of the model.
            if let Ok(tensor) = all.tensor(&format!("{layer}.{key}")) {
                tensors.push((format!("{stem}{end}"), tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()));
            }
        }
    }
    assert_eq!(tensors.len(), if layout == Layout::Torch { 14 } else { 13 });
    tensors
}

const PYTORCH_NORM: [&str; 4] = [".weight", ".bias", ".running_mean", ".running_var"];
const KERAS_NORM: [&str; 4] = ["/gamma", "/beta", "/moving_mean", "/moving_variance"];

#[test]
fn normalizations_of_other_tools_are_matched_with_their_statistics() {
    let model = normalized();
    let expected = trained_size(&model);
    for stems in [["conv1", "bn1", "conv2", "bn2", "fc"], ["0", "1", "4", "5", "9"]] {
        let mut tensors = normalized_tensors(Layout::Torch, &stems, PYTORCH, PYTORCH_NORM);
        // As in a file that PyTorch saves: with the number of batches.
        tensors.push((format!("{}.num_batches_tracked", stems[1]), Dtype::I64, vec![], vec![7; 8]));
        let imported = import(&tensors, Some(&model)).unwrap();
        assert_eq!(imported.layout, Layout::Torch);
        assert!(imported.parameters == expected, "{stems:?}");
        let origins: Vec<&str> = imported.origins.iter().map(|origin| origin.tensor.as_str()).collect();
        let names = model.parameters().unwrap();
        assert_eq!(origins.len(), names.len());
        let variance = names.iter().position(|parameter| parameter.role == Role::Variance).unwrap();
        assert_eq!(origins[variance], format!("{}.running_var", stems[1]));
        // A normalization without factor and summand, or only without the latter, as in `affine=False`.
        tensors.retain(|(name, ..)| *name != format!("{}.bias", stems[3]));
        assert!(import(&tensors, Some(&model)).unwrap().parameters == expected, "{stems:?}");
    }
    let stems = ["conv2d", "batch_normalization", "conv2d_1", "batch_normalization_1", "dense"];
    let tensors = normalized_tensors(Layout::Keras, &stems, ["/kernel:0", "/bias:0"], KERAS_NORM);
    let imported = import(&tensors, Some(&model)).unwrap();
    assert_eq!(imported.layout, Layout::Keras);
    assert!(imported.parameters == expected);
}

/// Depthwise and grouped convolutions, one of them without bias, under the names that other tools give.
#[test]
fn groups_of_other_tools_are_matched_by_shape() {
    let model = crate::export::grouped();
    let expected = trained_size(&model);
    let own = [
        "conv2d_1",
        "depthwiseconv2d_1",
        "batchnorm_1",
        "conv2d_2",
        "depthwiseconv2d_2",
        "conv2d_3",
        "depthwiseconv2d_3",
    ];
    let own = [&own[..], &["dense_1"]].concat();
    let torch = ["0", "1", "2", "4", "6", "8", "9", "12"];
    let keras = ["conv2d", "depthwise_conv2d", "batch_normalization", "conv2d_1", "depthwise_conv2d_1", "conv2d_2"];
    let keras = [&keras[..], &["depthwise_conv2d_2", "dense"]].concat();
    let keys = |layer: &str| match layer.trim_end_matches(|c: char| c == '_' || c.is_ascii_digit()) {
        "batchnorm" => ["gamma", "beta", "moving_mean", "moving_variance"],
        "depthwiseconv2d" => ["depthwise_kernel", "bias", "", ""],
        _ => ["kernel", "bias", "", ""],
    };
    for layout in [Layout::Torch, Layout::Keras] {
        let bytes = match layout {
            Layout::Torch => torch::to_bytes(&model, &expected, &Facts::new(&FASHION_MNIST)).unwrap(),
            Layout::Keras => weights::to_bytes(&model, &expected).unwrap(),
        };
        let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Vec<Tensor> = Vec::new();
        for (name, tensor) in all.tensors() {
            let (layer, key) = name.split_once('.').unwrap();
            let at = own.iter().position(|own| *own == layer).unwrap();
            let role = ["weight", "bias", "running_mean", "running_var"].iter().position(|role| *role == key).unwrap();
            let name = match layout {
                Layout::Torch => format!("{}.{key}", torch[at]),
                Layout::Keras => format!("{}/{}:0", keras[at], keys(layer)[role]),
            };
            tensors.push((name, tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()));
        }
        let imported = import(&tensors, Some(&model)).unwrap();
        assert_eq!(imported.layout, layout);
        assert!(imported.parameters == expected, "{layout}");
        // With a bias that the model's layer lacks, and without one that it has.
        let stem = if layout == Layout::Torch { "1." } else { "depthwise_conv2d/" };
        let mut more = tensors.clone();
        more.push(single(&format!("{stem}bias"), &[6], &[0.0; 6]));
        let said = import(&more, Some(&model)).unwrap_err().to_string();
        assert!(said.contains("do not fit the model `grouped`"), "{said}");
        let dense = if layout == Layout::Torch { "12.bias" } else { "dense/bias:0" };
        tensors.retain(|(name, ..)| name != dense);
        let said = import(&tensors, Some(&model)).unwrap_err().to_string();
        // By the names of Keras, the layer is known; PyTorch's numbers might be those of any.
        let expected = match layout {
            Layout::Torch => ["do not fit the model `grouped`", "dense_1.bias [10]"],
            Layout::Keras => ["has a weight but no bias", "`dense_1` has a bias in the model"],
        };
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn normalizations_that_do_not_fit_are_refused() {
    let model = normalized();
    let stems = ["conv1", "bn1", "conv2", "bn2", "fc"];
    let good = normalized_tensors(Layout::Torch, &stems, PYTORCH, PYTORCH_NORM);
    let refused = |change: &dyn Fn(&mut Vec<Tensor>), parts: &[&str]| {
        let mut tensors = good.clone();
        change(&mut tensors);
        let said = import(&tensors, Some(&model)).unwrap_err().to_string();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}\nshould have {parts:?}");
    };
    let at = |tensors: &[Tensor], name: &str| tensors.iter().position(|tensor| tensor.0 == name).unwrap();
    let set = |tensors: &mut Vec<Tensor>, name: &str, value: f32| {
        let i = at(tensors, name);
        tensors[i].3[8..12].copy_from_slice(&value.to_le_bytes());
    };
    let rename = |tensors: &mut Vec<Tensor>, from: &str, to: &str| {
        tensors.iter_mut().for_each(|tensor| tensor.0 = tensor.0.replace(from, to));
    };
    // What the model's normalization lacks must have no effect.
    refused(&|t| set(t, "bn2.bias", 0.25), &["`bn2.bias` contains 0.25", "`batchnorm_2`", "`center = false`", "be 0"]);
    refused(&|t| set(t, "bn1.running_var", -0.5), &["`bn1.running_var` contains -0.5 at position 2"]);
    refused(&|t| set(t, "bn1.running_mean", f32::NAN), &["`bn1.running_mean` contains NaN at position 2"]);
    // Without its statistics, a normalization is none.
    for (gone, left, lacks) in
        [("running_var", "bn1.running_mean", "running_var"), ("running_mean", "bn1.running_var", "running_mean")]
    {
        let name = format!("bn1.{gone}");
        let remove = |t: &mut Vec<Tensor>| {
            t.remove(at(t, &name));
        };
        refused(&remove, &[&format!("`{left}` is a statistic"), &format!("`bn1` has no {lacks}")]);
    }
    let without_both = |t: &mut Vec<Tensor>| t.retain(|tensor| !tensor.0.starts_with("bn1.running"));
    refused(&without_both, &["do not fit the model `normalized`", "batchnorm_1.running_mean [4]"]);
    // A factor that the model has is missing.
    let without_factor = |t: &mut Vec<Tensor>| {
        t.remove(at(t, "bn1.weight"));
    };
    refused(&without_factor, &["do not fit the model `normalized`"]);
    // Which is which?
    refused(
        &|t| {
            rename(t, "bn1", "first");
            rename(t, "bn2", "second");
        },
        &["`first`, `second` have the same shapes", "`batchnorm_1`, `batchnorm_2`"],
    );
    refused(
        &|t| t.push(single("bn1.moving_mean", &[4], &[0.0; 4])),
        &["both the running_mean of `bn1`", "bn1.moving_mean", "bn1.running_mean"],
    );
    refused(
        &|t| t.push(single("attention.in_proj", &[4], &[0.0; 4])),
        &["`attention.in_proj`", "gamma", "moving_variance", "layers with other parameters"],
    );
    // The other numbers: a normalization without summand would be the first.
    let mut keras = normalized_tensors(Layout::Keras, &stems, ["/kernel", "/bias"], KERAS_NORM);
    keras.iter_mut().for_each(|tensor| {
        tensor.0 = tensor.0.replace("bn1", "bn3");
    });
    assert!(matches!(import(&keras, Some(&model)), Err(ImportError::Mismatch { .. })));
}

#[test]
fn layers_of_equal_shape_are_told_apart_by_their_numbers_or_not_at_all() {
    let model = twins();
    for stems in [
        ["fc1", "fc2", "fc3", "fc4"],
        ["1", "3", "20", "100"],
        ["dense", "dense_1", "dense_2", "dense_3"],
        ["first", "layers.2", "layers.10", "last"],
    ] {
        let imported = import(&tensors(&model, Layout::Torch, &stems, PYTORCH), Some(&model)).unwrap();
        assert!(imported.parameters == trained_size(&model), "{stems:?}");
    }
    for stems in [["a", "b", "c", "d"], ["in", "left.1", "right.2", "out"], ["in", "fc1", "fc01", "out"]] {
        let error = import(&tensors(&model, Layout::Torch, &stems, PYTORCH), Some(&model)).unwrap_err();
        assert!(matches!(error, ImportError::AmbiguousLayers { .. }), "{stems:?}: {error}");
        let text = error.to_string();
        for part in [stems[1], stems[2], "`dense_2`, `dense_3`", "rename"] {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
    }
}

#[test]
fn shapes_that_fit_both_layouts_need_the_layout() {
    let model = symmetrical();
    assert_eq!(model.parameters().unwrap()[2].shape, [4, 4]);
    let stems = ["conv", "hidden", "out"];
    let mut tensors = tensors(&model, Layout::Torch, &stems, PYTORCH);
    // [10, 4] shows that it is PyTorch's.
    assert_eq!(import(&tensors, Some(&model)).unwrap().layout, Layout::Torch);
    // With ten inputs nothing does.
    let model: Model = toml::from_str(
        "name = \"square\"\nlayer = [{ type = \"conv2d\", filters = 1, kernel_size = 1, stride = [3, 28] }, \
         { type = \"flatten\" }, { type = \"dense\", units = 10 }]",
    )
    .unwrap();
    let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
    tensors = vec![
        single("conv.weight", &[1, 1, 1, 1], &[2.0]),
        single("conv.bias", &[1], &[0.0]),
        single("out.weight", &[10, 10], &values),
        single("out.bias", &[10], &values[..10]),
    ];
    let error = import(&tensors, Some(&model)).unwrap_err();
    assert!(matches!(error, ImportError::AmbiguousLayout), "{error}");
    let bytes = file(&tensors, None);
    let keras = from_bytes(&bytes, Some(&model), Some(Layout::Keras)).unwrap();
    let torch = from_bytes(&bytes, Some(&model), Some(Layout::Torch)).unwrap();
    assert_eq!((keras.parameters[2][1], torch.parameters[2][1]), (1.0, 10.0));
}

#[test]
fn files_that_do_not_fit_are_refused_with_names_and_shapes() {
    let cnn = Model::cnn();
    let good = tensors(&cnn, Layout::Torch, &["conv1", "conv2", "fc1", "fc2"], PYTORCH);
    let refused = |tensors: &[Tensor], model: Option<&Model>, parts: &[&str]| {
        let error = import(tensors, model).unwrap_err();
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}\nshould have {parts:?}");
        error
    };
    let found = "conv2.weight F32 [64, 32, 3, 3]";
    let expected = ["[128, 784] (torch)", "[784, 128] (keras)", "dense_1.bias [128]"];
    refused(&good, Some(&Model::mlp()), &[&[found, "`mlp`"][..], &expected].concat());
    refused(&good[2..], None, &["fc1.weight F32 [128, 3136]", "cnn", "mlp", "specify the model"]);
    refused(&good[1..], Some(&cnn), &["conv1", "bias", "no weight"]);
    refused(&good[..7], Some(&cnn), &["`fc2`", "weight but no bias", "`dense_2`", "`use_bias = false`"]);
    let mut other = good.clone();
    other[3].0 = "bn.running_mean".to_string();
    refused(&other, Some(&cnn), &["bn.running_mean", "batch normalization"]);
    let mut twice = good.clone();
    twice.push(single("conv1/kernel", &[32, 1, 3, 3], &[0.0; 288]));
    refused(&twice, Some(&cnn), &["conv1.weight", "conv1/kernel"]);
    let mut integers = good.clone();
    integers[1].1 = Dtype::I32;
    let error = refused(&integers, Some(&cnn), &["conv1.bias", "I32", "F32"]);
    assert!(matches!(error, ImportError::Dtype { .. }));
    // If a layout is given, only this layout is tried and listed.
    let error = from_bytes(&file(&good, None), Some(&cnn), Some(Layout::Keras)).unwrap_err().to_string();
    assert!(error.contains("[3, 3, 32, 64] (keras)") && !error.contains("(torch)"), "{error}");
    // Layers with this program's names but other shapes are not matched by shape.
    let swapped = tensors(&cnn, Layout::Torch, &["conv2d_2", "conv2d_1", "dense_1", "dense_2"], PYTORCH);
    refused(&swapped, Some(&cnn), &["conv2d_1.weight [32, 1, 3, 3] (torch)"]);
    let many: Vec<Tensor> = (0..200)
        .flat_map(|i| [single(&format!("{i}.weight"), &[1], &[0.0]), single(&format!("{i}.bias"), &[1], &[0.0])])
        .collect();
    refused(&many, Some(&cnn), &["and 376 more"]);
}

/// A file without a bias is of a layer without bias; a model that was specified must say so.
#[test]
fn layers_without_bias_are_imported_as_such() {
    let cnn = Model::cnn();
    let stems = ["conv1", "conv2", "fc1", "fc2"];
    for layout in [Layout::Torch, Layout::Keras] {
        let mut some = tensors(&cnn, layout, &stems, PYTORCH);
        let mut expected = trained_size(&cnn);
        for gone in [7, 1] {
            some.remove(gone);
            expected.remove(gone);
        }
        let imported = import(&some, None).unwrap();
        let description = serde_json::to_value(&imported.model).unwrap();
        let is_said: Vec<bool> = [0, 2, 5, 6].map(|i| description["layer"][i].get("use_bias").is_some()).to_vec();
        assert_eq!(is_said, [true, false, false, true], "{description}");
        assert!(imported.parameters == expected && imported.layout == layout);
        let origins: Vec<&str> = imported.origins.iter().map(|origin| origin.tensor.as_str()).collect();
        let weights = ["conv1.weight", "conv2.weight", "conv2.bias", "fc1.weight", "fc1.bias", "fc2.weight"];
        assert_eq!(origins, weights);
        // The model that came out fits the file, and the one with all biases does not.
        assert!(import(&some, Some(&imported.model)).unwrap() == imported);
        let error = import(&some, Some(&cnn)).unwrap_err();
        assert!(
            matches!(&error, ImportError::NoBias { stem, layer } if stem == "conv1" && layer == "conv2d_1"),
            "{error}"
        );
        // A bias that the model does not have is refused too.
        let all = tensors(&cnn, layout, &stems, PYTORCH);
        assert!(matches!(import(&all, Some(&imported.model)), Err(ImportError::Mismatch { .. })));
        assert_eq!(import(&all, None).unwrap().model, cnn);
    }
    // A file that describes its model and lacks a bias of it is damaged.
    let bytes = torch::to_bytes(&cnn, &trained_size(&cnn), &Facts::new(&FASHION_MNIST)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let some = tensors(&cnn, Layout::Torch, &["conv2d_1", "conv2d_2", "dense_1", "dense_2"], PYTORCH);
    let error = from_bytes(&file(&some[..7], header.metadata().clone()), None, None).unwrap_err();
    assert!(matches!(&error, ImportError::NoBias { layer, .. } if layer == "dense_2"), "{error}");
}

/// Layers of the same weight, with and without bias, are told apart by it.
#[test]
fn a_bias_tells_layers_of_equal_weight_apart() {
    let model: Model = toml::from_str(
        "name = \"pair\"\nlayer = [{ type = \"flatten\" }, { type = \"dense\", units = 12 }, \
         { type = \"dense\", units = 12 }, { type = \"dense\", units = 12, use_bias = false }, \
         { type = \"dense\", units = 10 }]",
    )
    .unwrap();
    let parameters = trained_size(&model);
    let own = ["a", "b", "c", "d"].map(|stem| [format!("{stem}.weight"), format!("{stem}.bias")]);
    let described = model.parameters().unwrap();
    let names = [&own[0][..], &own[1][..], &own[2][..1], &own[3][..]].concat();
    let transposed = |i: usize| match described[i].shape[..] {
        [inputs, outputs] => {
            let at = |o: usize, i: usize| i * outputs + o;
            let values = |of: &[f32]| (0..outputs * inputs).map(|k| of[at(k / inputs, k % inputs)]).collect();
            (vec![outputs, inputs], values(&parameters[i]))
        }
        _ => (described[i].shape.clone(), parameters[i].clone()),
    };
    let all: Vec<Tensor> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let (shape, values): (Vec<usize>, Vec<f32>) = transposed(i);
            single(name, &shape, &values)
        })
        .collect();
    let imported = import(&all, Some(&model)).unwrap();
    assert!(imported.parameters == parameters && imported.layout == Layout::Torch);
}

#[test]
fn values_that_are_not_finite_are_refused_with_their_place() {
    let model = twins();
    let stems = ["fc1", "fc2", "fc3", "fc4"];
    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut tensors = tensors(&model, Layout::Torch, &stems, PYTORCH);
        tensors[4].3[4 * 17..4 * 18].copy_from_slice(&value.to_le_bytes());
        let error = import(&tensors, Some(&model)).unwrap_err().to_string();
        assert!(error.contains("`fc3.weight`") && error.contains(text) && error.contains("position 17"), "{error}");
    }
    // Finite in double precision, infinite in single precision.
    let mut tensors = tensors(&model, Layout::Torch, &stems, PYTORCH);
    tensors[1] = ("fc1.bias".into(), Dtype::F64, vec![12], 1e39f64.to_le_bytes().repeat(12));
    assert!(matches!(import(&tensors, Some(&model)), Err(ImportError::NotFinite { position: 0, .. })));
}

#[test]
fn half_precision_is_converted_exactly() {
    let model = twins();
    let with_bias = |dtype: Dtype, bits: [u16; 12]| {
        let mut tensors = tensors(&model, Layout::Torch, &["fc1", "fc2", "fc3", "fc4"], PYTORCH);
        tensors[1] = ("fc1.bias".into(), dtype, vec![12], bits.iter().flat_map(|b| b.to_le_bytes()).collect());
        import(&tensors, Some(&model)).map(|imported| imported.parameters[1].clone())
    };
    // One, the next larger number, the largest, the smallest normal and subnormal numbers, zeros.
    let bits = [0x3c00, 0x3c01, 0x7bff, 0x0400, 0x0001, 0x03ff, 0, 0x8000, 0xc000, 0x3555, 0xfbff, 0x8001];
    let tiny = 2f32.powi(-24);
    let expected = [
        1.0,
        1.0 + 2f32.powi(-10),
        65504.0,
        2f32.powi(-14),
        tiny,
        1023.0 * tiny,
        0.0,
        -0.0,
        -2.0,
        0.333_251_95,
        -65504.0,
        -tiny,
    ];
    let found = with_bias(Dtype::F16, bits).unwrap();
    assert_eq!(found.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), expected.map(f32::to_bits));
    let found = with_bias(Dtype::BF16, [0x3f80, 0xbf80, 0x4049, 0, 1, 0x7f7f, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(found[..3], [1.0, -1.0, 3.140625]);
    assert_eq!(found[5], f32::from_bits(0x7f7f_0000));
    for (dtype, infinite, nan) in [(Dtype::F16, 0x7c00, 0x7e01), (Dtype::BF16, 0x7f80, 0x7fc0)] {
        for bits in [infinite, nan] {
            let error = with_bias(dtype, [bits; 12]).unwrap_err();
            assert!(matches!(error, ImportError::NotFinite { position: 0, .. }), "{error}");
        }
    }
}

#[test]
fn damaged_and_hostile_files_are_refused_and_never_panic() {
    let model = twins();
    let bytes = torch::to_bytes(&model, &trained_size(&model), &Facts::new(&FASHION_MNIST)).unwrap();
    for len in (0..3000).chain([bytes.len() / 2, bytes.len() - 1]) {
        assert!(from_bytes(&bytes[..len], None, None).is_err(), "cut to {len} bytes");
    }
    for at in 0..2500 {
        for flip in [0x01, 0x15, 0x80] {
            let mut flipped = bytes.clone();
            flipped[at] ^= flip;
            let _ = from_bytes(&flipped, None, None);
        }
    }
    let with_header = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        from_bytes(&bytes, Some(&model), None).unwrap_err()
    };
    let tensor = |shape: &str, end: &str| {
        format!(r#"{{"a.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    };
    for (shape, end) in [
        ("[4611686018427387904,4]", "0"),
        ("[4294967296,4294967296]", "16"),
        ("[2]", "4"),
        ("[1]", "18446744073709551615"),
        ("[-1]", "4"),
    ] {
        assert!(matches!(with_header(&tensor(shape, end), 16), ImportError::Format(_)), "{shape} {end}");
    }
    // A header that claims to be larger than the file.
    assert!(matches!(from_bytes(&u64::MAX.to_le_bytes(), None, None), Err(ImportError::Format(_))));
    // A description with a million layers in the metadata is not even parsed.
    let layers = r#"{"type":"relu"},"#.repeat(1_000_000);
    let text = format!(r#"{{"name":"x","layer":[{}]}}"#, layers.trim_end_matches(','));
    let metadata = HashMap::from([("fmnist_gpu_model".to_string(), text)]);
    let error = from_bytes(&file(&[], Some(metadata)), None, None).unwrap_err();
    assert!(matches!(&error, ImportError::Metadata(reason) if reason.contains("65536")), "{error}");
    let nonsense = HashMap::from([("fmnist_gpu_model".to_string(), "{".to_string())]);
    let stems = ["fc1", "fc2", "fc3", "fc4"];
    let bytes = file(&tensors(&model, Layout::Torch, &stems, PYTORCH), Some(nonsense));
    let error = from_bytes(&bytes, None, None).unwrap_err();
    assert!(error.to_string().contains("specify the model"), "{error}");
    // If the caller specifies the model, the description in the file is not needed.
    assert_eq!(from_bytes(&bytes, Some(&model), None).unwrap().parameters, trained_size(&model));
}

#[test]
fn the_command_makes_a_run_that_predicts_the_same() {
    gpu();
    let place = Place::new();
    let model = Model::mlp();
    fs::create_dir(place.path("run")).unwrap();
    let own = weights::to_bytes(&model, &trained_size(&model)).unwrap();
    fs::write(place.path("run/model.safetensors"), &own).unwrap();
    place.run("export run --format torch").exits(0);
    let ran = place.run("import run/model.torch.safetensors --out back").exits(0);
    assert!(ran.out.contains("Model mlp, 101770 parameters, layout torch"), "{}", ran.out);
    assert!(ran.out.contains("dense_1.weight  from dense_1.weight  F32 [128, 784]"), "{}", ran.out);
    assert!(fs::read(place.path("back/model.safetensors")).unwrap() == own, "the imported file differs");
    let prediction =
        |run: &str| place.run(&format!("predict {run} --dataset synthetic --test-index 0..3 --json")).exits(0).out;
    assert_eq!(prediction("run"), prediction("back"));
    place.run("evaluate back --dataset synthetic").exits(0);

    // Nothing is overwritten, and the weights of a training run never.
    place.run("import run/model.torch.safetensors --out back").exits(2).says(&["back", "--force"]);
    place.run("import run/model.torch.safetensors --out back --force").exits(0);
    fs::write(place.path("back/config.json"), "{}").unwrap();
    let refused = place.run("import run/model.torch.safetensors --out back --force").exits(2);
    refused.says(&["config.json", "another --out"]);

    // Without --out there is a new folder; renamed tensors work, and a model and a layout can be specified.
    let other = tensors(&model, Layout::Keras, &["a", "b"], [".kernel", ".bias"]);
    fs::write(place.path("other.safetensors"), file(&other, None)).unwrap();
    let report = place.run("import other.safetensors --model mlp --layout keras --json --quiet").exits(0);
    assert_eq!(report.err, "");
    let report = report.json();
    assert_eq!((&report["layout"], &report["model"]), (&"keras".into(), &"mlp".into()));
    assert_eq!(
        (&report["tensors"][2]["parameter"], &report["tensors"][2]["from"]),
        (&"dense_2.weight".into(), &"b.kernel".into())
    );
    let made = place.path(report["run"].as_str().unwrap()).join("model.safetensors");
    assert!(fs::read(made).unwrap() == own);

    place.run("import other.safetensors --layout torch --out x").exits(2).says(&["other.safetensors", "cnn", "mlp"]);
    place.run("import other.safetensors --model cnn --out x").exits(2).says(&["conv2d_1.weight [32, 1, 3, 3] (torch)"]);
    place.run("import no-such-file --out x").exits(2).says(&["no-such-file"]);
    place.run("import run --out x").exits(2).says(&["run"]);
    fs::write(place.path("text"), "not a tensor").unwrap();
    place.run("import text --out x").exits(2).says(&["text", "safetensors"]);
    assert!(!place.path("x").exists());
}
