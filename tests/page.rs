//! The page in real browsers: it trains, proves its kernels, exchanges runs with the program, and says what is wrong.

use crate::support::program::{Place, json_file};
use crate::support::visit::{Browser, nothing, visit};
use crate::support::{genuine_data, not_run};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use fmnist_gpu::data::{Dataset, DatasetKind, FASHION_MNIST, synthetic};
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::run::{RunFiles, archive};
use fmnist_gpu::session::{Device, Plan, Session, Training};
use fmnist_gpu::train::settings::{SETTINGS, Value};
use pollster::block_on;
use serde_json::Value as Json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The browsers that train.
const BOTH: [Browser; 2] = [Browser::Chromium, Browser::Firefox];

/// What a training of generated images gives in this process: the run, and the accuracy on the test images.
fn trained(model: &str, images: [usize; 2], epochs: u64, device: &Device) -> (RunFiles, f64) {
    let epochs =
        SETTINGS.iter().find(|setting| setting.name == "epochs").map(|setting| (setting, Value::Count(epochs)));
    let plan = Plan::new(ModelFile::load(model).unwrap(), &[epochs.unwrap()]).unwrap();
    let (train, test) = synthetic::generate(images[0], images[1], 0);
    let (kind, source) = (DatasetKind::Synthetic, String::new());
    let dataset = Dataset { train, test, description: FASHION_MNIST, kind, source };
    let never = AtomicBool::new(false);
    let session = Session::new(&plan, device, SharedTiles::default(), dataset, &never).unwrap();
    let mut training = block_on(Training::new(&session)).unwrap();
    let trained = block_on(training.run(&mut |_, _| ())).unwrap();
    let accuracy = block_on(training.evaluate()).unwrap().unwrap().totals.accuracy();
    let run = RunFiles {
        model: plan.model.clone(),
        parameters: trained.parameters().to_vec(),
        config: None,
        history: trained.position.history,
        summary: None,
        checkpoint: None,
    };
    (run, accuracy)
}

/// The address of such a training.
fn query(model: &str, images: [usize; 2], epochs: u64, device: &str) -> String {
    let [train, test] = images;
    format!(
        "model={model}&dataset=synthetic&train_limit={train}&test_limit={test}&epochs={epochs}&device={device}&start=1"
    )
}

/// The files of the zip archive that a script reports.
fn files(result: &Json) -> archive::Files {
    archive::unpack(&BASE64_STANDARD.decode(result["zip"].as_str().unwrap()).unwrap()).unwrap()
}

/// Writes the files of an archive, and returns the path of the run.
fn unpacked(files: &archive::Files, place: &Place) -> PathBuf {
    for (name, bytes) in files {
        let path = place.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    place.path("run")
}

/// Checks that a run of the page has the losses and weights of one of this process, up to rounding.
fn agree(found: &RunFiles, expected: &RunFiles, tolerance: f64) {
    for (found, expected) in found.history.iter().zip(&expected.history) {
        let (found, expected) = (found.loss, expected.loss);
        assert!((found - expected).abs() <= tolerance * expected, "loss {found}, expected {expected}");
    }
    assert_eq!(found.history.len(), expected.history.len());
    let names = found.model.parameters().unwrap();
    for (name, (found, expected)) in names.iter().zip(found.parameters.iter().zip(&expected.parameters)) {
        let largest = expected.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
        let differences =
            found.iter().zip(expected).map(|(found, expected)| f64::from((found - expected).abs() / largest));
        let worst = differences.fold(0.0, f64::max);
        assert!(worst <= tolerance, "{}: {worst:e} of the largest weight", name.name);
    }
}

/// The article's networks, trained by WebGPU, agree with the reference engine.
fn webgpu_agrees(browser: Browser, model: &str, images: [usize; 2]) -> Option<Json> {
    let result = visit(browser, &query(model, images, 1, "gpu"), "trained", nothing())?;
    assert!(result["device"].as_str().unwrap().contains("GPU"), "{}", result["device"]);
    let found = RunFiles::open(&files(&result)).unwrap();
    assert_eq!(found.config.as_ref().unwrap().backend, "webgpu");
    let (expected, accuracy) = trained(model, images, 1, &Device::Reference);
    agree(&found, &expected, 5e-5);
    let found = found.summary.unwrap().test_accuracy.unwrap();
    assert!((found - accuracy).abs() <= 1.0 / images[1] as f64, "accuracy {found}, the reference engine {accuracy}");
    Some(result)
}

#[test]
fn the_mlp_trains_through_webgpu_and_its_run_is_one_of_the_program() {
    const TEST: usize = 200;
    let Some(result) = webgpu_agrees(Browser::Chromium, "mlp", [512, TEST]) else { return };
    assert_eq!(result["fields"], serde_json::json!(["mlp", "1", "", "512", ""]));
    let place = Place::new();
    let files = files(&result);
    let run = unpacked(&files, &place);
    let summary = json_file(&run.join("summary.json"));
    assert_eq!(summary, result["summary"]);
    assert!(result["verdict"].as_str().unwrap().contains("101,770 parameters"));
    for name in ["report.html", "loss.svg", "history.csv"] {
        assert!(files.contains_key(&format!("run/{name}")), "{name} of {:?}", files.keys());
    }
    // The program says the same of the same images.
    let evaluated = place.run("evaluate run --device cpu --json").exits(0).json();
    assert_eq!(evaluated["images"], 10_000);
    let predicted = place.run(&format!("predict run --test-index 0..{TEST} --device cpu --json")).exits(0).json();
    let right = predicted.as_array().unwrap().iter().filter(|image| image["label"] == image["predicted"]).count();
    assert_eq!(summary["test_accuracy"].as_f64(), Some(right as f64 / TEST as f64));
    // And resumes it.
    place.run("train --resume run --epochs 2 --device cpu --no-report").exits(0);
    let history = fs::read_to_string(run.join("history.jsonl")).unwrap();
    assert_eq!(history.lines().count(), 2);
    assert_eq!(json_file(&run.join("summary.json"))["epochs_completed"], 2);
}

#[test]
fn the_cnn_trains_through_webgpu_as_by_the_reference_engine() {
    webgpu_agrees(Browser::Chromium, "cnn", [64, 20]);
}

#[test]
fn the_mlp_trains_through_webgpu_in_firefox() {
    webgpu_agrees(Browser::Firefox, "mlp", [256, 50]);
}

/// On the CPU, the bits are the same in every browser, and the accuracy is that of the native engine, which rounds differently where the CPU
/// multiplies and adds in one instruction.
#[test]
fn the_cnn_trains_on_the_cpu_with_the_same_bits_in_every_browser() {
    const IMAGES: [usize; 2] = [2000, 500];
    let results: Vec<Json> = BOTH
        .iter()
        .filter_map(|&browser| visit(browser, &query("cnn", IMAGES, 2, "cpu"), "trained", nothing()))
        .collect();
    let Some(first) = results.first() else { return };
    assert!(results.iter().all(|result| result["digest"] == first["digest"]), "the browsers differ");
    let found = RunFiles::open(&files(first)).unwrap();
    let (expected, accuracy) = trained("cnn", IMAGES, 2, &Device::Native(1));
    for (found, expected) in found.history.iter().zip(&expected.history) {
        assert!((found.loss - expected.loss).abs() < 0.02, "loss {}, native {}", found.loss, expected.loss);
    }
    let found = found.summary.unwrap().test_accuracy.unwrap();
    eprintln!("{} browsers: accuracy {found}, native {accuracy}", results.len());
    assert!((found - accuracy).abs() < 0.03, "accuracy {found}, native {accuracy}");
    assert!(first["figures"].as_u64().unwrap() >= 6, "the layers are drawn");
    node_agrees(first["digest"].as_str().unwrap(), IMAGES);
}

/// The same training in Node, if it is installed.
fn node_agrees(digest: &str, [train, test]: [usize; 2]) {
    let folder = crate::support::visit::page().expect("the browsers had it");
    let mut node = std::process::Command::new("node");
    let output = node.arg("tests/page/node.mjs").arg(folder).args([train.to_string(), test.to_string()]).output();
    match output {
        Ok(output) => {
            let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(said.trim(), digest, "Node differs from the browsers: {log}");
        }
        Err(error) => not_run("node", &error.to_string(), "FMNIST_EXPECT_NODE"),
    }
}

/// Checks a self-test of the page: its JSON is that of the program, and the table has a row for each verdict.
fn proves(browser: Browser, device: &str) {
    let Some(result) = visit(browser, &format!("device={device}"), "selftest", nothing()) else { return };
    let report = &result["report"];
    assert_eq!(report["passed"], true, "{report:#}");
    let verdicts = [&report["kernels"], &report["gradients"]].map(|list| list.as_array().unwrap().len());
    eprintln!("{browser:?}, {device}: {verdicts:?} verdicts in {} s", report["seconds"]);
    let least = if device == "gpu" { [90, 20] } else { [35, 20] };
    assert!(verdicts[0] >= least[0] && verdicts[1] >= least[1], "{verdicts:?}");
    if result["rows"] != 0 {
        assert_eq!(result["rows"].as_u64().unwrap() as usize, verdicts.iter().sum::<usize>());
        assert!(result["status"].as_str().unwrap().starts_with("All "), "{}", result["status"]);
    }
}

#[test]
fn the_loops_prove_themselves_in_every_browser() {
    BOTH.iter().for_each(|&browser| proves(browser, "cpu"));
}

#[test]
fn the_kernels_prove_themselves_through_webgpu() {
    proves(Browser::Chromium, "gpu");
}

/// Without WebGPU, or with an adapter in software only, the CPU computes, and the page says why. A model answers before anything is trained.
#[test]
fn the_page_says_which_device_it_takes_and_why() {
    for (browser, why) in [
        (Browser::ChromiumWithoutWebGpu, "has WebGPU, but found no adapter"),
        (Browser::Chromium, "computes in software"),
        (Browser::Firefox, "computes in software"),
    ] {
        let Some(result) = visit(browser, "", "device", nothing()) else { continue };
        let device = result["device"].as_str().unwrap();
        assert!(device.starts_with("Computes on the CPU") && device.contains(why), "{browser:?}: {device}");
        assert!(result["model"].as_str().unwrap().contains("tiny, which comes with the page"), "{}", result["model"]);
    }
}

#[test]
fn a_wrong_model_text_is_refused_with_its_line_and_a_right_one_trains() {
    let Some(result) = visit(Browser::Chromium, "device=cpu&test_limit=20", "text", nothing()) else { return };
    let text = |name: &str| result[name].as_str().unwrap();
    assert!(text("wrong").contains("unknown field `filter`") && text("wrong").contains("line "), "{}", text("wrong"));
    assert!(text("refused").contains("unknown field `filter`"), "{}", text("refused"));
    assert!(text("right").contains("28 x 28 x 4") || text("right").contains("[28, 28, 4]"), "{}", text("right"));
    assert_eq!(result["summary"]["model"], "small");
}

#[test]
fn a_training_pauses_stops_and_is_resumed() {
    let Some(result) = visit(Browser::Chromium, "test_limit=50", "controls", nothing()) else { return };
    // A step may have been under way.
    assert!(result["paused"].as_f64().unwrap() < 0.01, "{}", result["paused"]);
    let (stopped, resumed) = (&result["stopped"], &result["resumed"]);
    assert_eq!((&stopped["status"], &resumed["status"]), (&"interrupted".into(), &"complete".into()));
    assert_eq!((&resumed["epochs_completed"], &resumed["epochs"]), (&40.into(), &40.into()));
    let label = format!("Resume after epoch {} of 40", stopped["epochs_completed"]);
    assert_eq!(result["label"], label);
}

#[test]
fn a_lost_device_costs_no_more_than_an_epoch() {
    let query = "model=mlp&dataset=synthetic&train_limit=512&test_limit=50&device=gpu";
    let Some(result) = visit(Browser::Chromium, query, "lost", nothing()) else { return };
    let (said, label) = (result["said"].as_str().unwrap(), result["label"].as_str().unwrap());
    assert!(said.contains("was lost"), "{said}");
    let kept = said.split_once("up to epoch ").and_then(|(_, rest)| rest.split_once(" is kept")).map(|(kept, _)| kept);
    let kept: usize = kept.and_then(|kept| kept.parse().ok()).unwrap_or_else(|| panic!("no epoch in `{said}`"));
    // It was lost in the third epoch, or one or two later: they are short.
    assert!((2..12).contains(&kept), "{said}");
    assert_eq!(label, format!("Resume after epoch {kept} of 12"));
    assert_eq!(
        (&result["summary"]["epochs_completed"], &result["summary"]["status"]),
        (&12.into(), &"complete".into())
    );
}

#[test]
fn a_drawing_and_a_photo_are_classified_and_a_filter_is_explained() {
    let Some(result) = visit(Browser::Chromium, "device=cpu", "photo", nothing()) else { return };
    let text = |name: &str| result[name].as_str().unwrap();
    assert!(text("drawing").contains("says tiny"), "{}", text("drawing"));
    assert!(
        text("file").starts_with("Trouser, ") && text("file").contains("Light and dark were swapped"),
        "{}",
        text("file")
    );
    assert_eq!(text("refused"), "This browser cannot read notes.txt as an image.");
    assert!(text("pooled").contains("14 × 14"), "{}", text("pooled"));
    assert!(text("sum").starts_with("Row 2, column 1: ") && text("sum").contains(" = "), "{}", text("sum"));
}

/// What a visitor downloads before anything computes: the module and what loads it, compressed as web servers do.
#[test]
fn the_page_is_small() {
    const BUDGET: usize = 900_000;
    let Some(folder) = crate::support::visit::page() else { return };
    let Some(python) = std::env::var_os("FMNIST_TEST_PYTHON") else {
        return not_run("brotli", "FMNIST_TEST_PYTHON is not set; see tests/python/setup.sh", "FMNIST_EXPECT_PYTHON");
    };
    let code = "import brotli, sys\nprint(sum(len(brotli.compress(open(name, 'rb').read())) for name in sys.argv[1:]))";
    let files = ["fmnist_gpu_web_bg.wasm", "fmnist_gpu_web.js"].map(|name| folder.join(name));
    let output = std::process::Command::new(python).args(["-c", code]).args(files).output().unwrap();
    let size = String::from_utf8_lossy(&output.stdout).trim().parse::<usize>();
    let size = size.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    eprintln!("{size} bytes with brotli");
    assert!(size < BUDGET, "{size} bytes, and {BUDGET} are allowed");
}

/// The data set is accepted by its digests only, wherever it comes from.
#[test]
fn the_data_set_is_the_genuine_one_or_none() {
    let Some(folder) = genuine_data() else { return };
    let served = |folder: PathBuf, changes: bool| {
        Arc::new(move |path: &str| {
            let mut bytes = fs::read(folder.join(Path::new(path).strip_prefix("data").ok()?)).ok()?;
            if changes && path.contains("t10k-labels") {
                // Still a file of labels: the first is another one.
                bytes = flate2_of(&bytes);
                bytes[8] = (bytes[8] + 1) % 10;
            }
            Some(bytes)
        })
    };
    let query = "device=cpu&dataset=fashion-mnist";
    if let Some(result) = visit(Browser::Chromium, query, "data", served(folder.clone(), false)) {
        let status = result["status"].as_str().unwrap();
        assert!(status.contains("from beside this page; SHA-256 as expected: 60,000"), "{status}");
        assert_eq!(result["samples"], true);
    }
    if let Some(result) = visit(Browser::ChromiumOffline, query, "data", served(folder, true)) {
        let status = result["status"].as_str().unwrap();
        assert!(status.contains("t10k-labels") && status.contains("SHA-256"), "{status}");
        assert_eq!(result["samples"], false);
    }
}

fn flate2_of(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::bufread::MultiGzDecoder::new(bytes), &mut plain).unwrap();
    plain
}

/// Two widths, two themes: nothing is wider than the window, axe-core finds nothing, and every control is reached by the keyboard.
#[test]
fn the_page_fits_a_phone_and_is_accessible() {
    let axe = PathBuf::from(std::env::var_os("FMNIST_TEST_AXE").unwrap_or_else(|| "target/axe/axe.min.js".into()));
    if !axe.exists() {
        return not_run("axe", &format!("{} does not exist; see tests/axe.sh", axe.display()), "FMNIST_EXPECT_AXE");
    }
    for browser in [Browser::ChromiumDark, Browser::ChromiumLight] {
        let axe = axe.clone();
        let extra = move |path: &str| match path {
            "axe.min.js" => fs::read(&axe).ok(),
            "page.html" => fs::read(crate::support::visit::page()?.join("index.html")).ok(),
            _ => None,
        };
        let Some(result) = visit(browser, "blank.html", "frame", Arc::new(extra)) else { return };
        for (name, width) in [("narrow", 390), ("wide", 1280)] {
            let found = &result[name];
            assert_eq!(found["state"], "done", "{found:#}");
            assert_eq!(found["found"], serde_json::json!([]), "{browser:?}, {name}");
            assert_eq!(found["unreachable"], serde_json::json!([]), "{browser:?}, {name}");
            assert!(found["width"].as_u64().unwrap() <= width, "{browser:?}, {name}: {} wide", found["width"]);
            // Two models, trained with two sizes of batches, and their inference.
            assert_eq!(found["speeds"], 6, "{found:#}");
            assert!(found["rules"].as_u64().unwrap() > 20 && found["controls"].as_u64().unwrap() > 40, "{found:#}");
        }
    }
}
