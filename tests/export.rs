use crate::support::program::Place;
use crate::support::{gpu, run_python, test_images};
use fmnist_gpu::data::Split;
use fmnist_gpu::export::{About, Format, ImportError, Layout, export, import};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::train::{Engine, GpuEngine};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::fs;
use std::path::Path;
use tract_onnx::prelude::*;

/// Every layer, and every way of padding: even, uneven and none, with strides.
const EVERY_LAYER: &str = r#"
name = "every-layer"
layers = [
    { type = "conv2d", filters = 6, kernel_size = 5, stride = 2, padding = "same", activation = "relu" },
    { type = "averagepool2d", pool_size = 3, stride = 2, padding = "same" },
    { type = "conv2d", filters = 5, kernel_size = [2, 3], padding = "same" },
    { type = "relu" },
    { type = "sumpool2d", pool_size = [2, 3], stride = 2, padding = "same" },
    { type = "maxpool2d", pool_size = 2, stride = 1, padding = "same" },
    { type = "conv2d", filters = 4, kernel_size = 2, padding = "valid", activation = "relu" },
    { type = "averagepool2d", pool_size = 2, stride = 1 },
    { type = "flatten" },
    { type = "dense", units = 12, activation = "relu" },
    { type = "dense", units = 10, activation = "softmax" },
]
"#;

fn models() -> Vec<Model> {
    let every_layer: Model = toml::from_str(EVERY_LAYER).unwrap();
    vec![Model::mlp(), Model::cnn(), every_layer]
}

/// Parameters with biases that matter and logits as far apart as those of trained models.
fn parameters(model: &Model) -> Vec<Vec<f32>> {
    let shapes = model.parameters().unwrap();
    let mut values = initial_parameters(&shapes, 5);
    for (i, values) in values.iter_mut().enumerate() {
        for (j, value) in values.iter_mut().enumerate() {
            *value = if i % 2 == 1 { ((j * 7 + i) % 11) as f32 / 40.0 - 0.1 } else { *value * 2.5 };
        }
    }
    values
}

fn predicted(model: &Model, images: &Split) -> Vec<f32> {
    GpuEngine::new(gpu(), model, &parameters(model)).unwrap().predict(&images.images).unwrap()
}

#[track_caller]
fn agree(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= 1e-5, "{what}, element {i}: {a}, expected {b}");
    }
}

/// tract, an implementation of ONNX that shares nothing with this project, computes the same.
#[test]
fn tract_agrees_on_1000_test_images() {
    let images = test_images(1000);
    for model in models() {
        let expected = predicted(&model, &images);
        // Not an untrained model's: one class takes more than a tenth.
        assert!(expected.iter().any(|&p| p > 0.5), "{}: the logits are too close to tell", model.name);
        let file = export(Format::Onnx, &model, &parameters(&model), &About::default()).unwrap();
        let graph = tract_onnx::onnx().model_for_read(&mut &file.bytes[..]).unwrap();
        let runnable = graph.into_optimized().unwrap().into_runnable().unwrap();
        let mut first = 0;
        // The batch is not part of the graph.
        for n in [1, 7, 992] {
            let pixels: Vec<f32> =
                images.images[first * 784..(first + n) * 784].iter().map(|&p| f32::from(p)).collect();
            let input = Tensor::from_shape(&[n, 28, 28, 1], &pixels).unwrap();
            let output = runnable.run(tvec!(input.into())).unwrap();
            let found: Vec<f32> = output[0].to_plain_array_view::<f32>().unwrap().iter().copied().collect();
            agree(&found, &expected[first * 10..(first + n) * 10], &format!("{}, batch {n}", model.name));
            first += n;
        }
        assert_eq!(first, 1000);
    }
}

/// The tools that the files are for: onnxruntime with onnx.checker, PyTorch, Keras, NumPy, by the lines that `export` shows.
#[test]
fn the_real_tools_open_every_export_and_agree_on_1000_test_images() {
    let place = Place::new();
    let images = test_images(1000);
    fs::write(place.path("images.bin"), &images.images).unwrap();
    for model in models() {
        let folder = place.path(&model.name);
        fs::create_dir(&folder).unwrap();
        let probabilities: Vec<u8> = predicted(&model, &images).iter().flat_map(|p| p.to_le_bytes()).collect();
        fs::write(folder.join("probabilities.bin"), probabilities).unwrap();
        fs::write(folder.join("model.safetensors"), weights_file(&model)).unwrap();
        for format in Format::ALL {
            let shown = place.run(&format!("export {} --format {format}", model.name)).exits(0).out;
            fs::write(folder.join(format!("{format}.py")), shown).unwrap();
            assert!(folder.join(format.file_name()).exists());
        }
        absolute_paths(&folder, place.folder.path());
    }
    run_python("check_exports.py", &[place.folder.path()]);
}

/// The shown lines name the file as the user named it; here they are read from another folder.
fn absolute_paths(folder: &Path, root: &Path) {
    for format in Format::ALL {
        let path = folder.join(format!("{format}.py"));
        let text = fs::read_to_string(&path).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        let quoted = format!("\"{name}/{}\"", format.file_name());
        assert!(text.contains(&quoted), "{text}");
        let absolute = root.join(name).join(format.file_name());
        fs::write(&path, text.replace(&quoted, &format!("{:?}", absolute.display().to_string()))).unwrap();
    }
}

fn weights_file(model: &Model) -> Vec<u8> {
    fmnist_gpu::model::weights::to_bytes(model, &parameters(model)).unwrap()
}

#[test]
fn the_same_model_gives_the_same_file() {
    let model = Model::mlp();
    let about = About { dataset: Some("synthetic".into()), test_accuracy: Some(0.875) };
    for format in Format::ALL {
        let files = [(); 2].map(|()| export(format, &model, &parameters(&model), &about).unwrap().bytes);
        assert!(files[0] == files[1], "{format}");
    }
    let short = vec![vec![0.0; 3]];
    let error = export(Format::Npz, &model, &short, &about).unwrap_err().to_string();
    assert!(error.contains("[3]") && error.contains("100352"), "{error}");
}

/// What goes out as PyTorch's comes back bit by bit, under our names and under those of `nn.Sequential`.
#[test]
fn torch_files_come_back_bit_by_bit() {
    for model in models() {
        let file = export(Format::Torch, &model, &parameters(&model), &About::default()).unwrap();
        let back = import(&file.bytes, &model, None).unwrap();
        assert_eq!(back.layout, Layout::Torch);
        assert!(back.parameters == parameters(&model), "{}", model.name);
    }
    let model = Model::cnn();
    let file = export(Format::Torch, &model, &parameters(&model), &About::default()).unwrap().bytes;
    let renamed = edited(&file, |name, _| {
        let stems =
            [("conv2d_1", "features.0"), ("conv2d_2", "features.3"), ("dense_1", "head.1"), ("dense_2", "head.3")];
        stems.iter().fold(name.to_string(), |name, (ours, theirs)| name.replace(ours, theirs))
    });
    let back = import(&renamed, &model, None).unwrap();
    assert!(back.parameters == parameters(&model));
    assert_eq!(back.stems[2], ("dense_1".to_string(), "head.1".to_string()));
}

#[test]
fn keras_files_come_back_bit_by_bit() {
    let model = Model::cnn();
    let shapes = model.parameters().unwrap();
    let values = parameters(&model);
    let views: Vec<(String, TensorView<'_>)> = shapes
        .iter()
        .zip(&values)
        .map(|(p, v)| {
            let name = p.name.replace(".weight", "/kernel").replace(".bias", "/bias");
            (name, TensorView::new(Dtype::F32, p.shape.clone(), bytemuck::cast_slice(v)).unwrap())
        })
        .collect();
    let file = safetensors::serialize(views, None).unwrap();
    let back = import(&file, &model, None).unwrap();
    assert_eq!(back.layout, Layout::Keras);
    assert!(back.parameters == values);
    let error = import(&file, &model, Some(Layout::Torch)).unwrap_err();
    assert!(matches!(error, ImportError::Layout { layout: Layout::Torch, .. }), "{error}");
}

/// The same tensors with other names; a name that becomes empty is left out.
fn edited(file: &[u8], name: impl Fn(&str, &TensorView<'_>) -> String) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let views = tensors.tensors().into_iter().map(|(old, view)| (name(&old, &view), view));
    safetensors::serialize(views.filter(|(name, _)| !name.is_empty()), None).unwrap()
}

#[test]
fn files_of_another_model_are_refused_with_names_and_shapes() {
    let model = Model::cnn();
    let file = export(Format::Torch, &model, &parameters(&model), &About::default()).unwrap().bytes;
    let fails = |file: &[u8], model: &Model, parts: &[&str]| {
        let error = import(file, model, None).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "no `{part}` in: {error}"));
    };
    fails(&file, &Model::mlp(), &["dense_1", "[128, 784]", "[784, 128]", "`conv2d_1.weight` [32, 1, 3, 3]"]);
    let without_bias = edited(&file, |name, _| if name == "dense_2.bias" { String::new() } else { name.to_string() });
    fails(&without_bias, &model, &["dense_2.weight"]);
    let extra = edited(&file, |name, _| name.replace("dense_2.bias", "running_mean"));
    fails(&extra, &model, &["running_mean"]);
    fails(b"nonsense", &model, &["safetensors"]);
    fails(&file[..file.len() / 2], &model, &["safetensors"]);
    fails(&[], &model, &["safetensors"]);
    let two: Model = toml::from_str(
        "name = \"two\"\nlayers = [{ type = \"flatten\" }, { type = \"dense\", units = 784 }, { type = \"dense\", units = 784 }, \
         { type = \"dense\", units = 10 }]",
    )
    .unwrap();
    let file = export(Format::Torch, &two, &parameters(&two), &About::default()).unwrap().bytes;
    // By our own names all is clear, even where the shapes fit both layouts of two layers.
    assert!(import(&file, &two, Some(Layout::Torch)).unwrap().parameters == parameters(&two));
    let renamed = edited(&file, |name, _| name.replace("dense_", "fc"));
    fails(&renamed, &two, &["`fc1`", "`fc2`", "dense_1.weight"]);
}

#[test]
fn half_and_double_precision_are_widened_and_narrowed_and_bad_numbers_refused() {
    let model = Model::mlp();
    let values = parameters(&model);
    let shapes = model.parameters().unwrap();
    let with = |dtype: Dtype, encode: &dyn Fn(f32) -> Vec<u8>| {
        let data: Vec<Vec<u8>> = values.iter().map(|v| v.iter().flat_map(|&x| encode(x)).collect()).collect();
        let views =
            shapes.iter().zip(&data).map(|(p, d)| (&p.name, TensorView::new(dtype, p.shape.clone(), d).unwrap()));
        import(&safetensors::serialize(views, None).unwrap(), &model, Some(Layout::Keras))
    };
    assert!(with(Dtype::F64, &|x| f64::from(x).to_le_bytes().to_vec()).unwrap().parameters == values);
    let close = |found: Vec<Vec<f32>>, relative: f32| {
        let all = found.concat().into_iter().zip(values.concat());
        all.for_each(|(a, b)| assert!((a - b).abs() <= relative * b.abs() + 1e-7, "{a} {b}"));
    };
    close(with(Dtype::F16, &|x| half::f16::from_f32(x).to_le_bytes().to_vec()).unwrap().parameters, 1.0 / 2048.0);
    close(with(Dtype::BF16, &|x| half::bf16::from_f32(x).to_le_bytes().to_vec()).unwrap().parameters, 1.0 / 256.0);
    let error = with(Dtype::F32, &|_| f32::NAN.to_le_bytes().to_vec()).unwrap_err();
    assert!(matches!(&error, ImportError::NotFinite { name, index: 0, .. } if name == "dense_1.weight"), "{error}");
    let error = with(Dtype::I32, &|_| 1i32.to_le_bytes().to_vec()).unwrap_err().to_string();
    assert!(error.contains("I32") && error.contains("BF16"), "{error}");
}

/// Out as PyTorch's and in again by the program: the same predictions.
#[test]
fn export_and_import_on_the_command_line() {
    gpu();
    let place = Place::new();
    place.run("train --model mlp --dataset synthetic --train-limit 320 --epochs 1 --out run").exits(0);
    let ran = place.run("export run --format torch --json").exits(0);
    assert_eq!(ran.json()["file"], "run/model.torch.safetensors");
    place.run("export run --format torch").exits(2).says(&["run/model.torch.safetensors exists", "--force"]);
    place.run("export run --format torch --force").exits(0);
    place.run("export run --format tflite").exits(2).says(&["tflite", "onnx"]);
    place.run("import run/model.torch.safetensors --model mlp --out back").exits(0);
    let predict =
        |run: &str| place.run(&format!("predict {run} --dataset synthetic --test-index 0..5 --json")).exits(0).out;
    assert_eq!(predict("run"), predict("back"));
    place.run("import run/model.torch.safetensors --out other").exits(2).says(&["conv2d_1", "model.torch.safetensors"]);
    assert!(!place.path("other").exists());
    place.run("import nothing.safetensors").exits(2).says(&["nothing.safetensors"]);
    place.run("import run/model.torch.safetensors --layout tf").exits(2).says(&["tf", "torch"]);
}
