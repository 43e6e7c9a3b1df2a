use crate::support::gpu;
use fmnist_gpu::data::synthetic;
use fmnist_gpu::engine::{GpuEngine, Optimizer, autotune};
use fmnist_gpu::gpu::{Gpu, GpuOptions, Tiling};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::ops::adam::AdamConfig;
use pollster::FutureExt as _;
use std::path::Path;

const ADAM: Optimizer = Optimizer::Adam(AdamConfig { learning_rate: 0.001, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-7 });

/// A network with small layers, and the tiling of GPUs on whatever adapter is available.
fn small() -> (Model, Gpu) {
    gpu();
    let text = "name = \"small\"\n[[layer]]\ntype = \"flatten\"\n[[layer]]\ntype = \"dense\"\nunits = 10\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.toml");
    std::fs::write(&path, text).unwrap();
    let model = Model::load(path.to_str().unwrap()).unwrap();
    (model, Gpu::open(&GpuOptions { tiling: Some(Tiling::Shared), ..GpuOptions::default() }).block_on().unwrap())
}

fn tune(gpu: &Gpu, model: &Model, batch_size: usize, kept: &Path) -> SharedTiles {
    autotune(gpu, model, batch_size, &ADAM.into(), Some(kept)).block_on().unwrap()
}

#[test]
fn tiles_are_chosen_once_and_kept() {
    let (model, gpu) = small();
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("deeper/autotune.json");
    let tiles = tune(&gpu, &model, 4, &kept);
    assert!(tiles.is_possible(), "{tiles:?}");
    let text = std::fs::read_to_string(&kept).unwrap();
    assert!(text.contains(&gpu.info().driver) && text.contains("batch 4"), "{text}");
    // The saved choice is used, even one that no measurement makes.
    let odd = text.replace(&format!("\"workgroups\": {}", tiles.workgroups), "\"workgroups\": 77");
    std::fs::write(&kept, odd).unwrap();
    assert_eq!(tune(&gpu, &model, 4, &kept), SharedTiles { workgroups: 77, ..tiles });
    // It is not used for another batch size, and then both are saved.
    assert_ne!(tune(&gpu, &model, 8, &kept).workgroups, 77);
    let text = std::fs::read_to_string(&kept).unwrap();
    assert!(text.contains("batch 4") && text.contains("batch 8"), "{text}");
}

#[test]
fn a_damaged_choice_is_made_again() {
    let (model, gpu) = small();
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("autotune.json");
    tune(&gpu, &model, 4, &kept);
    let good = std::fs::read_to_string(&kept).unwrap();
    for damaged in ["", "{", "[]", &good[..good.len() / 2], &good.replace("\"rows_each\": ", "\"rows_each\": 9")] {
        std::fs::write(&kept, damaged).unwrap();
        assert!(tune(&gpu, &model, 4, &kept).is_possible(), "{damaged}");
        let again = std::fs::read_to_string(&kept).unwrap();
        assert!(again.contains("batch 4"), "{again}");
    }
    // If the choice cannot be saved, training works all the same.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(tune(&gpu, &model, 4, &file.join("autotune.json")).is_possible());
}

#[test]
fn software_tilings_are_not_tuned() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("autotune.json");
    let options = GpuOptions { tiling: Some(Tiling::Plain), ..GpuOptions::default() };
    gpu();
    assert_eq!(tune(&Gpu::open(&options).block_on().unwrap(), &Model::mlp(), 4, &kept), SharedTiles::default());
    assert!(!kept.exists());
}

#[test]
fn impossible_tiles_are_refused() {
    let (model, gpu) = small();
    let split = synthetic::generate(4, 1, 3).0;
    let initial = initial_parameters(&model.parameters().unwrap(), 1);
    let tiles = SharedTiles::default();
    for tiles in [SharedTiles { rows_each: 6, ..tiles }, SharedTiles { workgroups: 0, ..tiles }] {
        let engine = GpuEngine::new(&gpu, &model, &initial).unwrap().with_tiles(tiles);
        let error = engine.and_training(&split, 4, &ADAM).block_on().unwrap_err().to_string();
        assert!(error.contains("do not support"), "{error}");
    }
}

/// A search takes several hundred steps, too many if each of them is slow.
#[test]
fn a_slow_adapter_is_not_searched() {
    let (_, gpu) = small();
    if !gpu.is_software() {
        return crate::support::not_run("tiles on a slow adapter", "this adapter is fast", "FMNIST_EXPECT_SLOW");
    }
    let folder = tempfile::tempdir().unwrap();
    let begin = std::time::Instant::now();
    assert_eq!(tune(&gpu, &Model::cnn(), 64, &folder.path().join("autotune.json")), SharedTiles::default());
    let seconds = begin.elapsed().as_secs_f64();
    // Two steps of about a second each, instead of the 160 of a search.
    assert!(seconds < 60.0, "{seconds:.0} s");
}
