//! Every parser of untrusted input, and what the program does next with the values that it accepts.
//!
//! Shared by the fuzz targets and by `tests/fuzz.rs`, which runs the corpus and all findings in `cargo test`. A parser may refuse its
//! input; it must not panic, overflow, run for long or allocate more memory than the input justifies. What it accepts must be usable.

#![allow(dead_code, reason = "each fuzz target uses one of these")]

use fmnist_gpu::cpu::conv2d::Padding;
use fmnist_gpu::data::idx::{IMAGES_RANK, LABELS_RANK, parse};
use fmnist_gpu::data::{FASHION_MNIST, Split};
use fmnist_gpu::engine::{Engine, Optimizer, ReferenceEngine, TileChoices};
use fmnist_gpu::export::{Facts, keras, onnx, torch};
use fmnist_gpu::import::{self, Layout};
use fmnist_gpu::model::{Model, ModelFile, permutation, summary, weights};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::photo::{ImageFilter, Invert, Photo, prepare};
use fmnist_gpu::report::comparison::{
    Compared, comparison_page, comparison_rows, comparison_verdicts, comparison_warnings,
};
use fmnist_gpu::report::metrics::Metrics;
use fmnist_gpu::report::ranking::{ranking, validation_remarks};
use fmnist_gpu::run::checkpoint::Checkpoint;
use fmnist_gpu::run::{RunConfig, RunFiles, Summary, archive as zip, history_csv, parse_history};
use fmnist_gpu::train::settings::Recipe;
use pollster::FutureExt as _;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

/// A parser, and the name of its fuzz target and seed folder.
pub type Parser = (&'static str, fn(&[u8]));

/// All parsers.
pub const PARSERS: [Parser; 10] = [
    ("idx", idx),
    ("model_file", model_file),
    ("weights", weights),
    ("checkpoint", checkpoint),
    ("import", import),
    ("run_folder", run_folder),
    ("archive", archive),
    ("photo", photo),
    ("filter", filter),
    ("caches", caches),
];

/// IDX files, parsed unchanged and also gzipped, so that mutations get past the checksum.
pub fn idx(bytes: &[u8]) {
    let both = |bytes: &[u8]| {
        if let Ok(images) = parse("fuzz", bytes, IMAGES_RANK) {
            assert_eq!(images.payload.len(), images.shape.iter().product::<usize>());
        }
        let _ = parse("fuzz", bytes, LABELS_RANK);
    };
    both(bytes);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).expect("writing to a vector cannot fail");
    both(&packed.finish().expect("writing to a vector cannot fail"));
}

/// Model files; a small accepted model is also applied to an image.
pub fn model_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(ModelFile { model, train, .. }) = ModelFile::parse(Path::new("fuzz.toml"), text) else { return };
    let mut recipe = Recipe::default();
    if recipe.read(&train).is_ok() {
        let _ = (recipe.step(), recipe.check(&model));
    }
    use_model(&model, None);
}

/// Uses an accepted model as the program would.
fn use_model(model: &Model, parameters: Option<&[Vec<f32>]>) {
    assert!(!summary(model).expect("an accepted model has a summary").is_empty());
    let shapes = model.shapes().expect("an accepted model has shapes");
    let work: usize = shapes.iter().map(|s| s.multiply_adds + s.output.iter().product::<usize>()).sum();
    if work > 100_000 {
        return;
    }
    let images =
        Split { images: (0..2 * FASHION_MNIST.pixels()).map(|i| (i * i % 251) as u8).collect(), labels: vec![0; 2] };
    let initial = model.initial_parameters(&images, 1).expect("an accepted model has parameters");
    let optimizer = Optimizer::Adam(AdamConfig::default());
    let parameters = parameters.unwrap_or(&initial);
    let mut engine = ReferenceEngine::<f32>::new(model, parameters, &Split::default(), 1, optimizer)
        .expect("an accepted model has an engine");
    let image = vec![7; FASHION_MNIST.pixels()];
    let row =
        engine.predict(&image, &mut |_| ControlFlow::Continue(())).block_on().expect("the plain loops do not fail");
    assert_eq!(row.len(), FASHION_MNIST.classes());
    onnx::to_bytes(model, parameters, &Facts::new(&FASHION_MNIST)).expect("an accepted model can be exported");
    keras::python(model, "file").expect("an accepted model can be exported");
    // Names of layers may be refused.
    let _ = torch::to_bytes(model, parameters, &Facts::new(&FASHION_MNIST));
}

/// `model.safetensors`.
pub fn weights(bytes: &[u8]) {
    let Ok((model, parameters)) = weights::from_bytes(bytes) else { return };
    let written = weights::to_bytes(&model, &parameters).expect("an accepted file can be written again");
    assert_eq!(
        weights::from_bytes(&written).expect("a written file can be read again"),
        (model.clone(), parameters.clone())
    );
    use_model(&model, Some(&parameters));
}

/// Checkpoints, parsed unchanged and also with a corrected digest, so that mutations get past the digest.
pub fn checkpoint(bytes: &[u8]) {
    for bytes in [Some(bytes.to_vec()), sealed(bytes)].into_iter().flatten() {
        let Ok(checkpoint) = Checkpoint::from_bytes(&bytes) else { continue };
        let written = checkpoint.to_bytes().expect("an accepted file can be written again");
        assert_eq!(Checkpoint::from_bytes(&written).expect("a written file can be read again"), checkpoint);
        let Checkpoint { config, position, state } = &checkpoint;
        let batches = config.train_images.div_ceil(config.batch_size);
        assert!(position.steps(batches) >= position.history.len() as u64);
        assert!(position.epoch() > 0 && history_csv(&position.history).lines().count() == position.history.len() + 1);
        if config.train_images < 1000 {
            let _ = permutation(config.train_images, config.seed, position.epoch());
        }
        let _ = config.optimizer.step_size(position.steps(batches) + 1);
        let _ = (config.step(), config.hold_out());
        use_model(&config.model, Some(&state.parameters));
    }
}

/// Returns the checkpoint file with the correct digest of its content.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let mut metadata: HashMap<String, String> = header.metadata().clone()?;
    let tensors = SafeTensors::deserialize(bytes).ok()?;
    let mut named: Vec<_> = tensors.iter().collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    let mut hasher = Sha256::new();
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(metadata.get("config")?.as_bytes());
    add(metadata.get("position")?.as_bytes());
    for (name, view) in &named {
        add(name.as_bytes());
        add(view.data());
    }
    let digest = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    metadata.insert("sha256".into(), digest);
    safetensors::serialize(named, Some(metadata)).ok()
}

/// Weights from other tools, with and without a given model.
pub fn import(bytes: &[u8]) {
    let small = ModelFile::parse(Path::new("small.toml"), SMALL).expect("the small model is valid").model;
    for model in [None, Some(&small)] {
        for layout in [None, Some(Layout::Torch), Some(Layout::Keras)] {
            let Ok(imported) = import::from_bytes(bytes, model, layout) else { continue };
            let written =
                weights::to_bytes(&imported.model, &imported.parameters).expect("imported weights can be written");
            weights::from_bytes(&written).expect("a written file can be read again");
            use_model(&imported.model, Some(&imported.parameters));
        }
    }
}

/// A model whose weight files are small.
pub const SMALL: &str = r#"
name = "small"
layer = [
    { type = "conv2d", filters = 2, kernel_size = [5, 3], stride = 7, activation = "relu" },
    { type = "maxpool2d", pool_size = 2 },
    { type = "flatten" },
    { type = "dense", units = 10, activation = "softmax" },
]
"#;

/// The files of a run folder, selected by the first byte; then the page that compares the run with itself.
pub fn run_folder(bytes: &[u8]) {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    let mut summary = Summary::parse(SUMMARY.as_bytes()).expect("the plain summary is valid");
    let (mut history, mut metrics, mut config) = (Vec::new(), None, None);
    match which {
        b'c' => {
            let Ok(parsed) = RunConfig::parse(bytes) else { return };
            let _ = (parsed.step(), parsed.hold_out());
            use_model(&parsed.model, None);
            history = parse_history(VALIDATED.as_bytes()).expect("the plain history is valid");
            config = Some(parsed);
        }
        b's' => match Summary::parse(bytes) {
            Ok(found) => summary = found,
            Err(_) => return,
        },
        b'h' => match parse_history(bytes) {
            Ok(found) => history = found,
            Err(_) => return,
        },
        _ => match Metrics::parse(bytes, &FASHION_MNIST) {
            Ok(found) => metrics = Some(found),
            Err(_) => return,
        },
    }
    let _ = history_csv(&history);
    let plain = Compared { name: "fuzz".into(), description: FASHION_MNIST, config: None, summary, history, metrics };
    let run = Compared { config, ..plain.clone() };
    let runs = [run.clone(), run, plain];
    let _ = (comparison_rows(&runs), comparison_warnings(&runs), comparison_verdicts(&runs));
    let _ = (ranking(&runs), validation_remarks(&runs));
    // A plot that cannot be drawn must be an error, not a panic; text from a file must be shown, never executed.
    if let Ok(page) = comparison_page(&runs) {
        assert!(!page.contains("<script"), "markup from a run file reached the page");
    }
}

/// Zip archives of runs; what is accepted is packed again.
pub fn archive(bytes: &[u8]) {
    let Ok(files) = zip::unpack(bytes) else { return };
    let Ok(run) = RunFiles::open(&files) else { return };
    let files = run.files().expect("an accepted run has files");
    let packed = zip::pack("run", &files).expect("these files fit into an archive");
    let again = RunFiles::open(&zip::unpack(&packed).expect("it was packed here")).expect("it was accepted before");
    assert_eq!((again.model, again.parameters.len()), (run.model, run.parameters.len()));
}

const VALIDATED: &str = r#"{"epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.1, "val_accuracy": 0.4, "seconds": 1.0, "images_per_second": 80.0}"#;

const SUMMARY: &str = r#"{
    "model": "mlp", "dataset": "synthetic", "device": "d", "driver": "v", "seed": 1, "epochs": 2, "epochs_completed": 2,
    "status": "complete", "batch_size": 32, "parameters": 10, "test_loss": 0.5, "test_accuracy": 0.8, "train_seconds": 1.5,
    "images_per_second": 80.0, "version": "0.1.0"
}"#;

/// Image files, and their preparation for the network.
pub fn photo(bytes: &[u8]) {
    let Ok(photo) = Photo::decode(bytes, "fuzz") else { return };
    assert_eq!(photo.rgba.len(), 4 * photo.width * photo.height);
    // A few bytes can decode to many megapixels, which would only take longer.
    if photo.rgba.len() > 1 << 20 {
        return;
    }
    let (grey, [rows, columns]) = photo.grey(64);
    assert!(
        grey.len() == rows * columns && rows.max(columns) <= 64 && grey.iter().all(|v| (-0.01..=255.01).contains(v))
    );
    for invert in [Invert::Auto, Invert::Yes, Invert::No] {
        let garment = prepare(&photo, invert);
        let [left, top, width, height] = garment.crop;
        assert_eq!(garment.image.len(), FASHION_MNIST.pixels());
        assert!(left + width <= photo.width && top + height <= photo.height, "{:?}", garment.crop);
    }
}

/// Filter files, and an accepted filter applied to an image.
pub fn filter(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(filter) = ImageFilter::parse("fuzz", text) else { return };
    assert_eq!(filter.weights.len(), filter.size[0] * filter.size[1]);
    for padding in [Padding::Same, Padding::Valid] {
        let Ok(dims) = filter.dims([9, 40], 3, padding) else { continue };
        let results = filter.apply_by_loops(&dims, &[200.0; 360]);
        assert_eq!(filter.shown().grey(&dims, &results).len(), results.len());
    }
}

/// The files that the program writes for its own use: compiled pipelines, chosen tiles.
pub fn caches(bytes: &[u8]) {
    use fmnist_gpu::gpu::pipeline_cache::{pack, unpack};
    if let Ok(data) = unpack("1", "adapter", bytes) {
        assert_eq!(pack("1", "adapter", data), bytes, "two different files with the same content");
    }
    assert_eq!(unpack("1", "adapter", &pack("1", "adapter", bytes)), Ok(bytes));
    if let Ok(choices) = TileChoices::parse(bytes) {
        assert!(choices.tiles().all(|(_, tiles)| tiles.is_possible()));
    }
}
