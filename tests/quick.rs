//! The first tier: every operation, engine, file format and command once, on tiny data. `cargo test --release -- quick` runs these tests
//! alone, in less than 90 seconds of two cores without a GPU.
//!
//! They walk the tables of the program, its help and the files that it writes, so that what is new is covered, or its test fails by name.

use crate::support::gpu;
use crate::support::program::{Place, files};
use crate::{data, export, fuzz, programs, session, tensorboard, training, web};
use fmnist_gpu::data::FASHION_MNIST;
use fmnist_gpu::gpu::Tiling;
use fmnist_gpu::model::{Model, weights};
use fmnist_gpu::report::metrics::Metrics;
use fmnist_gpu::run::checkpoint::Checkpoint;
use fmnist_gpu::run::{RunConfig, Summary, parse_history};
use fmnist_gpu::tensorboard::read_events;
use fmnist_gpu::verify::OPS;
use std::collections::BTreeSet;
use std::fs;

/// Every kernel in every form, every native loop and every gradient, as `fmnist-gpu selftest` proves them.
#[test]
fn every_operation_is_proven() {
    gpu();
    let report = Place::new().run("selftest --json").exits(0).json();
    assert_eq!(report["passed"], true);
    let tested = report["kernels"].as_array().unwrap();
    for kernel in OPS.iter().flat_map(|op| op.kernels).map(|kernel| kernel.spec) {
        // In subgroup tiles only a processor trains, and not every one.
        if kernel.entry.contains("_subgroup") && gpu().tiling() != Tiling::Subgroup {
            continue;
        }
        let verdict = tested.iter().find(|v| v["kernel"] == kernel.entry);
        let verdict = verdict.unwrap_or_else(|| panic!("selftest does not run {}", kernel.entry));
        assert!(verdict["elements"].as_u64().unwrap() > 0, "{verdict}");
    }
    assert!(report["gradients"].as_array().unwrap().len() >= 10);
}

/// Graphs at random, until every type of layer and every activation was trained on every engine.
#[test]
fn every_engine_trains_every_layer() {
    let mut missing = programs::layers_and_activations();
    for seed in 1.. {
        missing = missing.difference(&programs::engines_agree(seed, true).0).cloned().collect();
        if missing.is_empty() {
            break;
        }
        assert!(seed < 100, "in no graph: {missing:?}");
    }
    training::mlp_agrees_with_keras();
    session::every_epoch_has_its_own_order();
}

/// The model that the commands train.
pub const SMALL: &str = r#"
name = "small"
layer = [
    { type = "conv2d", filters = 4, kernel_size = 5, stride = 3, activation = "relu" },
    { type = "maxpool2d", pool_size = 2 },
    { type = "flatten" },
    { type = "dense", units = 10 },
]
"#;

/// Every command but `train` and `export`, which run first, with what they write.
const COMMANDS: &[&str] = &[
    "evaluate run",
    "predict run photo.png photo.jpg photo.webp photo.bmp --grid grid.png",
    "report run --out page",
    "compare run run-cpu --out compared.html",
    "import run/model.torch.safetensors --model small.toml --out imported",
    "filter photo.png --out filtered.png",
    "samples --dataset synthetic --count 4 --grid samples.png",
    "devices",
    "doctor --no-selftest",
    "selftest --device cpu",
    "bench --model small.toml --batch-size 8 --seconds 0.01",
    "speedrun --model small.toml --dataset synthetic --train-limit 40 --epochs 1 --target 0.01 --runs 2",
    "profile --model small.toml --batch-size 8 --steps 2 --roofline roofline.svg",
    "summary --model small.toml",
    "completions bash",
    "man --out pages",
    // It serves until it is stopped: `web::` does more.
    "web --help",
];

/// Returns the first words of the lines that follow `title` in a help and begin with `mark`.
fn listed(help: &str, title: &str, mark: &str) -> BTreeSet<String> {
    let lines = help.split(title).nth(1).unwrap_or_else(|| panic!("no `{title}` in\n{help}")).lines().skip(1);
    let items = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix(mark));
    let words = items.filter_map(|item| item.split([' ', ':']).next());
    words.filter(|word| !word.is_empty() && *word != "help").map(str::to_string).collect()
}

/// Every command once, every engine that `devices` lists, every format that `export` offers; and every file that they wrote is read back.
#[test]
fn every_command_runs_and_every_file_is_read_back() {
    gpu();
    let place = Place::new();
    fs::write(place.path("small.toml"), SMALL).unwrap();
    let photo = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 250]));
    for ending in ["png", "jpg", "webp", "bmp"] {
        photo.save(place.path(&format!("photo.{ending}"))).unwrap();
    }

    let train = "train --dataset synthetic --train-limit 40 --batch-size 16 --validation-split 0.2 --quiet";
    place.run(&format!("{train} --model small.toml --epochs 1 --checkpoint-every 1 --tensorboard --out run")).exits(0);
    place.run("train --resume run --epochs 2 --quiet").exits(0);
    let devices = place.run("devices --json").exits(0).json();
    let devices: Vec<&str> =
        devices.as_array().unwrap().iter().map(|device| device["device"].as_str().unwrap()).collect();
    let parameters =
        |run: &str| weights::from_bytes(&fs::read(place.path(run).join("model.safetensors")).unwrap()).unwrap().1;
    for device in devices {
        let run = format!("run-{device}");
        place.run(&format!("{train} --model small.toml --epochs 2 --no-report --device {device} --out {run}")).exits(0);
        for (a, b) in parameters("run").iter().flatten().zip(parameters(&run).iter().flatten()) {
            assert!((a - b).abs() < 1e-4, "{device}: {a} and {b}");
        }
    }

    let mut formats = listed(&place.run("export --help").exits(0).out, "Possible values:", "          - ");
    assert!(formats.len() >= 4, "{formats:?}");
    if !web::has_page(&place) {
        place.run("export run --format html").exits(2).says(&["built without the page"]);
        formats.remove("html");
    }
    for format in &formats {
        place.run(&format!("export run --format {format}")).exits(0);
    }
    let mut ran = BTreeSet::from(["train", "export"]);
    for line in COMMANDS {
        place.run(line).exits(0);
        ran.extend(line.split(' ').next());
    }
    let commands = listed(&place.run("--help").exits(0).out, "Commands:", "  ");
    assert_eq!(
        commands.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        ran,
        "commands of the program, and those that ran"
    );

    let (model, parameters) = weights::from_bytes(&fs::read(place.path("run/model.safetensors")).unwrap()).unwrap();
    let mut exported = BTreeSet::new();
    for (name, bytes) in files(&place.path("")) {
        if !name.starts_with("home/") && !read_back(&name, &bytes) {
            exported.insert(export::read_back(&name, &bytes, &model, &parameters).to_string());
        }
    }
    assert_eq!(exported, formats, "formats that were read back, and formats of `export`");
}

/// Reads a file; `false` if it is an export.
fn read_back(path: &str, bytes: &[u8]) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let text = || std::str::from_utf8(bytes).unwrap();
    let has =
        |parts: &[&str]| assert!(parts.iter().all(|part| text().contains(part)), "{path} has not all of {parts:?}");
    match (name, name.rsplit('.').next().unwrap()) {
        ("config.json", _) => drop(RunConfig::parse(bytes).unwrap()),
        ("summary.json", _) => drop(Summary::parse(bytes).unwrap()),
        ("report.json", _) => drop(Metrics::parse(bytes, &FASHION_MNIST).unwrap()),
        ("history.jsonl", _) => assert!(!parse_history(bytes).unwrap().is_empty()),
        ("history.csv", _) => assert!(text().lines().count() >= 2),
        ("model.safetensors" | "best.safetensors", _) => drop(weights::from_bytes(bytes).unwrap()),
        (_, "safetensors") if folder.ends_with("checkpoints") => drop(Checkpoint::from_bytes(bytes).unwrap()),
        (_, "png" | "jpg" | "webp" | "bmp") => drop(image::load_from_memory(bytes).unwrap()),
        (_, "svg") => drop(roxmltree::Document::parse(text()).unwrap()),
        (_, "html") if name != "model.html" => has(&["<!DOCTYPE html>", "</html>"]),
        (_, "1") => has(&[".TH ", "SYNOPSIS"]),
        (_, "toml") => drop(toml::from_str::<Model>(text()).unwrap()),
        _ if name.starts_with("events.out.tfevents.") => assert!(read_events(bytes).unwrap().len() > 1, "{path}"),
        _ => return false,
    }
    true
}

/// Every parser, on files that it must take.
#[test]
fn every_format_is_read() {
    fuzz::seeds_that_are_right_are_taken();
    data::images_are_read_plain_and_compressed();
    tensorboard::what_is_written_is_read();
}
