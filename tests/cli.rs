use crate::support::gpu;
use crate::support::program::{Place, Ran, json_file};
use fmnist_gpu::data::FASHION_MNIST;
use fmnist_gpu::files::read_stream;
use fmnist_gpu::model::weights;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const SMALL: &str = "train --model mlp --dataset synthetic --train-limit 320 --epochs 1";

/// A file may be as long as the limit, and no longer.
#[test]
fn what_is_read_may_have_the_length_of_the_limit() {
    assert_eq!(read_stream(&b"1234"[..], 4).unwrap(), b"1234");
    assert_eq!(read_stream(&b""[..], 4).unwrap(), b"");
    let error = read_stream(&b"12345"[..], 4).unwrap_err().to_string();
    assert!(error.contains("5 bytes or more") && error.contains("at most 4"), "{error}");
}

/// Only `-v` and `-vv` say what the program does inside.
#[test]
fn messages_are_as_verbose_as_asked_for() {
    gpu();
    let place = Place::new();
    let line = "train --model mlp --dataset synthetic --train-limit 32 --epochs 1 --no-report --force --out run";
    for (flag, is_verbose) in [("", false), (" -v", true), (" -vv", true)] {
        let said = place.run(&format!("{line}{flag}")).exits(0).err;
        assert_eq!(said.contains("DEBUG fmnist_gpu"), is_verbose, "{flag}: {said}");
    }
}

/// Every name of a backend is known, on every system: one that is not compiled in has no adapters, which is another message.
#[test]
fn backends_have_these_names() {
    let place = Place::new();
    for (name, is_known) in [
        ("vulkan", true),
        ("VK", true),
        ("metal", true),
        ("mtl", true),
        ("dx12", true),
        ("d3d12 , vk", true),
        ("gl", false),
    ] {
        let said = place.command("devices").env("WGPU_BACKEND", name).output().unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert_eq!(!said.contains("not a known backend"), is_known, "{name}: {said}");
    }
}

/// The folders are those that the environment names, and how much of a data set they have.
#[test]
fn the_doctor_lists_the_folders_of_the_data() {
    let place = Place::new();
    let folder = |name: &str| place.path(name).to_str().unwrap().to_string();
    let state = |page: &Value, path: &str| {
        let folders = page["data"].as_array().unwrap_or_else(|| panic!("{page}"));
        let found = folders.iter().find(|folder| folder["path"].as_str().is_some_and(|found| found.starts_with(path)));
        found.map(|folder| folder["state"].as_str().unwrap().to_string())
    };
    fs::create_dir(place.path("data")).unwrap();
    fs::write(place.path("data/train-images-idx3-ubyte.gz"), b"").unwrap();
    fs::write(place.path("data/t10k-labels-idx1-ubyte"), b"").unwrap();
    let mut command = place.command("doctor --json --no-selftest");
    let ran = command.env("FMNIST_DATA_DIR", folder("data")).env("KERAS_HOME", folder("keras")).output().unwrap();
    let page = Ran::new(ran, "doctor").exits(0).json();
    assert_eq!(state(&page, &folder("data")).unwrap(), "2 of 4 files");
    assert_eq!(state(&page, &folder("keras")).unwrap(), "does not exist");
    let mut command = place.command("doctor --json --no-selftest");
    let page = Ran::new(command.env("FMNIST_DATA_DIR", "").output().unwrap(), "doctor").exits(0).json();
    assert_eq!(state(&page, &folder("keras")), None);
}

#[test]
fn help_and_version_are_there_for_every_command() {
    let place = Place::new();
    let help = place.run("--help").exits(0).out;
    for command in [
        "train",
        "evaluate",
        "predict",
        "report",
        "compare",
        "export",
        "import",
        "filter",
        "samples",
        "devices",
        "doctor",
        "selftest",
        "bench",
        "speedrun",
        "profile",
        "summary",
        "completions",
        "man",
    ] {
        assert!(help.contains(command), "{help}");
        assert!(place.run(&format!("{command} --help")).exits(0).out.contains("Usage:"));
    }
    assert!(place.run("--version").exits(0).out.contains(env!("CARGO_PKG_VERSION")));
    place.run("no-such-command").exits(2).says(&["no-such-command"]);
    place.run("").exits(2);
}

/// Completions and manual pages know every command, and the tools that read them find nothing wrong.
#[test]
fn completions_and_manual_pages_are_well_formed() {
    let place = Place::new();
    for (shell, checks) in
        [("bash", "bash -n"), ("zsh", "zsh -n"), ("fish", "fish -n"), ("powershell", ""), ("elvish", "")]
    {
        let script = place.run(&format!("completions {shell}")).exits(0).out;
        for part in ["fmnist-gpu", "train", "validation-split", "export"] {
            assert!(script.contains(part), "{shell}: no `{part}`");
        }
        let path = place.path(&format!("completions.{shell}"));
        fs::write(&path, script).unwrap();
        let mut words = checks.split_whitespace();
        let Some(program) = words.next() else { continue };
        // A shell that is not installed checks nothing.
        if let Ok(output) = Command::new(program).args(words).arg(&path).output() {
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    place.run("completions tcsh").exits(2).says(&["tcsh", "bash"]);
    place.run("man --out pages").exits(0).says(&["20 pages in pages"]);
    place.run("man --out pages").exits(2).says(&["exists", "--force"]);
    for entry in fs::read_dir(place.path("pages")).unwrap() {
        let path = entry.unwrap().path();
        let page = fs::read_to_string(&path).unwrap();
        assert!(page.contains(".TH ") && page.contains("SYNOPSIS"), "{}", path.display());
        if let Ok(output) = Command::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(&path).output() {
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && err.is_empty(), "{}: {err}", path.display());
        }
    }
    assert!(place.run("man").exits(0).out.contains("fmnist\\-gpu"));
}

#[test]
fn the_doctor_writes_a_page_for_a_bug_report() {
    gpu();
    let place = Place::new();
    let page = place.run("doctor --json --no-selftest").exits(0).json();
    assert_eq!(page["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        page["device"]["peak_gflops"].as_f64().unwrap() > 0.0
            && page["device"]["max_buffer_bytes"].as_u64().unwrap() > 0
    );
    assert_eq!(page["device"]["selftest"], "not_run");
    assert!(page["adapters"].as_array().is_some_and(|list| !list.is_empty()));
    let line = "doctor --no-selftest";
    let with = |name: &str, value: &str| Ran::new(place.command(line).env(name, value).output().unwrap(), line);
    let ran = with("MESA_TEST_VARIABLE", "seen").exits(0);
    for part in ["MESA_TEST_VARIABLE=seen", "GFLOP/s", "pipelines", "self-test: not run"] {
        assert!(ran.out.contains(part), "no `{part}` in\n{}", ran.out);
    }
    // Without an adapter the page is made too, and says so.
    let foreign = if cfg!(target_vendor = "apple") { "dx12" } else { "metal" };
    let ran = with("WGPU_BACKEND", foreign).exits(2);
    assert!(ran.out.contains("ERROR: no graphics adapter") && ran.out.contains("WGPU_BACKEND"), "{}", ran.out);
}

/// In a narrow terminal the bar stays in one line; under continuous integration and in a dumb terminal there is none.
#[test]
fn progress_fits_the_terminal() {
    gpu();
    if cfg!(not(target_os = "linux")) || Command::new("script").arg("--version").output().is_err() {
        return crate::support::not_run("progress", "there is no util-linux `script`", "FMNIST_EXPECT_SCRIPT");
    }
    let place = Place::new();
    let program = env!("CARGO_BIN_EXE_fmnist-gpu");
    let run = |columns: usize, images: u64, set: &[(&str, &str)]| {
        let train = format!(
            "train --model mlp --dataset synthetic --train-limit {images} --epochs 1 --no-report --force --out run"
        );
        let line = format!("stty cols {columns} rows 24; exec {program} {train}");
        let mut command = Command::new("script");
        let surroundings = place.command("");
        command.args(["-qec", &line, "/dev/null"]).current_dir(place.path("")).env("TERM", "xterm").env_remove("CI");
        for (key, value) in surroundings.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        command.envs(set.iter().copied());
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // What is between two returns or erasures is one drawing of the bar.
    let bars = |said: &str| -> Vec<String> {
        let drawings = said.split(['\r', '\n']).map(without_escapes);
        drawings.filter(|line| line.starts_with("Epoch 1/1 ") && line.contains("loss")).collect()
    };
    for columns in [40, 70, 120] {
        let said = run(columns, 20_000, &[]);
        let drawn = bars(&said);
        assert!(!drawn.is_empty(), "{columns}: no bar in {said:?}");
        for line in &drawn {
            assert!(line.chars().count() <= columns, "{columns}: {line:?}");
        }
        // Before the first step it says so, in words.
        assert!(said.contains("Epoch 1/1 starting"), "{columns}: {said:?}");
        assert_eq!(said.contains('░'), columns >= 110, "{columns}: {said:?}");
        assert!(said.contains("Epoch 1/1: loss"), "{said:?}");
    }
    for set in [[("CI", "true")], [("TERM", "dumb")]] {
        // Over before the line that a long epoch prints from time to time.
        let said = run(80, 2_000, &set);
        assert!(bars(&said).is_empty() && !said.contains('\u{1b}'), "{set:?}: {said:?}");
        assert!(said.contains("Epoch 1/1: loss"));
    }
    // The bar moves the cursor; it never sets a colour.
    let said = run(80, 2_000, &[("NO_COLOR", "1")]);
    assert!(!said.contains("\u{1b}[3") && !said.contains("\u{1b}[1m"), "{said:?}");
}

/// The text without the escape sequences of a terminal.
fn without_escapes(text: &str) -> String {
    let mut clean = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        clean.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic()).map_or(after.len(), |end| end + 1);
        rest = &after[end..];
    }
    clean + rest
}

#[test]
fn bad_values_are_refused_before_anything_is_touched() {
    let place = Place::new();
    for (flags, parts) in [
        ("--batch-size 0", vec!["--batch-size", "0"]),
        ("--batch-size 100000", vec!["--batch-size", "32768"]),
        ("--epochs -1", vec!["-1"]),
        ("--epochs many", vec!["many"]),
        ("--epochs 100001", vec!["--epochs", "100001", "0..=100000"]),
        ("--epochs 5000000000", vec!["--epochs", "0..=100000"]),
        ("--learning-rate -1", vec!["--learning-rate is -1", "above 0"]),
        ("--learning-rate 1e-300", vec!["--learning-rate is 1e-300", "0 in single precision"]),
        ("--learning-rate inf", vec!["--learning-rate is inf"]),
        ("--momentum -0.5 --optimizer sgd", vec!["--momentum is -0.5"]),
        ("--checkpoint-minutes -1", vec!["--checkpoint-minutes is -1"]),
        ("--threads -1 --device cpu", vec!["-1", "--threads"]),
        ("--out -", vec!["--out", "`-` is not a file"]),
        ("--learning-rate 0", vec!["--learning-rate is 0", "0.001"]),
        ("--learning-rate NaN", vec!["--learning-rate"]),
        ("--momentum 0.9", vec!["--momentum", "sgd"]),
        ("--optimizer sgd --momentum 1", vec!["--momentum is 1", "less than 1"]),
        ("--train-limit 0", vec!["--train-limit"]),
        ("--seed -1", vec!["-1"]),
        ("--validation-split 1", vec!["--validation-split is 1", "less than 1"]),
        ("--validation-split NaN", vec!["--validation-split is NaN"]),
        ("--dataset synthetic --train-limit 1 --validation-split 0.5", vec!["0 to train on", "1 to validate on"]),
        ("--model no-such-model", vec!["no-such-model", "mlp", "cnn", ".toml"]),
        ("--model no-such-file.toml", vec!["no-such-file.toml"]),
        ("--dataset mnist", vec!["mnist", "synthetic"]),
        ("--device cpu --threads 0", vec!["--threads", "1..=1024"]),
        ("--device 99", vec!["`99`", "index"]),
        ("--device no-such-card", vec!["no-such-card"]),
        ("--data-dir no-such-folder", vec!["no-such-folder"]),
        ("--dataset synthetic --train-limit 60001", vec!["60001", "60000"]),
    ] {
        place.run(&format!("train {flags}")).exits(2).says(&parts);
    }
    let left: Vec<_> = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().path()).collect();
    // `runs` was made for a run that never began; `home` is the driver's.
    let is_left = |path: &&PathBuf| !path.ends_with("home") && fs::read_dir(path).is_ok_and(|mut d| d.next().is_some());
    assert_eq!(left.iter().find(is_left), None);
}

/// Numbers of hundreds of digits, and values close to what is possible: the message stays readable, the warning is there.
#[test]
fn extreme_values_get_short_messages() {
    let place = crate::output::place();
    let digits = "9".repeat(400);
    for flags in [
        format!("--seed {digits}"),
        format!("--learning-rate -{digits}"),
        format!("--learning-rate=1{digits}"),
        format!("--momentum 1{} --optimizer sgd", "0".repeat(300)),
        format!("--validation-split {digits}"),
        format!("--epochs {digits}"),
        format!("--device {digits}"),
        format!("--model {digits}"),
    ] {
        let ran = place.run(&format!("train --dataset synthetic {flags}")).exits(2);
        assert!(ran.err.len() < 700, "{} characters: {}", ran.err.len(), ran.err);
    }
    let train =
        "train --model tiny.toml --dataset synthetic --train-limit 40 --epochs 1 --device cpu --no-report --quiet";
    place.run(&format!("{train} --learning-rate 1e-12 --out slow")).exits(0).says(&["warning", "1e-12"]);
    // The summary is printed whatever the verdict.
    let train = train.replace("--epochs 1", "--epochs 3");
    let ran = place.run(&format!("{train} --json --optimizer sgd --learning-rate 1e38 --out bad")).exits(1);
    assert_eq!(ran.summary()["status"], "non-finite loss");
}

/// What users do with their photos: folders from a Mac, broken links, arguments in the wrong order, many indices, images that exist.
#[test]
fn predictions_of_odd_arguments_are_predicted_or_explained() {
    let place = crate::output::place();
    fs::create_dir(place.path("photos")).unwrap();
    fs::copy(place.path("photo.png"), place.path("photos/a.png")).unwrap();
    fs::write(place.path("photos/._a.png"), "attributes").unwrap();
    fs::write(place.path("photos/notes.txt"), "no image").unwrap();
    place.run("predict run photos --device cpu").exits(0);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("gone.png", place.path("photos/link.png")).unwrap();
        let ran = place.run("predict run photos --device cpu").exits(2);
        assert!(ran.out.contains("photos/a.png"), "{}", ran.out);
        ran.says(&["photos/link.png", "1 image could not be read"]);
    }
    place.run("predict photo.png run --device cpu").exits(2).says(&["photo.png is not a run; the run comes first"]);
    let many = ["0..10000"; 300].join(",");
    place.run(&format!("predict run --test-index {many} --device cpu")).exits(2).says(&["3000000 images", "100000"]);
    // Of two images that are to be drawn, none is if one may not be.
    fs::write(place.path("inputs.png"), "mine").unwrap();
    place
        .run("predict run photo.png --device cpu --grid grid.png --show-input inputs.png")
        .exits(2)
        .says(&["inputs.png exists", "--force"]);
    assert!(!place.path("grid.png").exists());
    assert_eq!(fs::read_to_string(place.path("inputs.png")).unwrap(), "mine");
    for line in [
        "predict run photo.png --grid -",
        "predict run photo.png --show-input -",
        "export run --format npz --out -",
        "samples --grid -",
        "filter photo.png --out -",
        "compare run run --out -",
        "report run --out -",
        "import run/model.safetensors --out -",
        "man --out -",
    ] {
        place.run(line).exits(2).says(&["`-` is not a file"]);
    }
    assert!(!place.path("-").exists());
}

#[test]
fn environment_variables_that_name_nothing_are_named() {
    gpu();
    let place = Place::new();
    let with =
        |name: &str, value: &str, line: &str| Ran::new(place.command(line).env(name, value).output().unwrap(), line);
    with("WGPU_BACKEND", "glide", "devices").exits(2).says(&["WGPU_BACKEND", "glide", "vulkan"]);
    with("WGPU_ADAPTER_NAME", "no-such-card", "devices").exits(2).says(&["WGPU_ADAPTER_NAME", "no-such-card"]);
    with("FMNIST_DATA_DIR", "no-such-folder", SMALL.replace("--dataset synthetic", "").as_str())
        .exits(2)
        .says(&["FMNIST_DATA_DIR", "no-such-folder"]);
    let vectors = |value: &str| with("FMNIST_NATIVE_VECTORS", value, "evaluate missing --device cpu").exits(2);
    vectors("bogus").says(&["FMNIST_NATIVE_VECTORS", "bogus", "none"]);
    vectors("none").says(&["missing is not a run"]);
    // A backend that this system does not have: no adapter, and which package brings one.
    let foreign = if cfg!(target_vendor = "apple") { "dx12" } else { "metal" };
    with("WGPU_BACKEND", foreign, "train --dataset synthetic").exits(2).says(&["no graphics adapter", "lavapipe"]);
    // What needs no adapter is still there.
    let list = with("WGPU_BACKEND", foreign, "devices --json").exits(0).json();
    let words: Vec<&Value> = list.as_array().unwrap().iter().map(|d| &d["device"]).collect();
    assert_eq!(words, ["cpu", "reference"]);
    assert!(with("WGPU_BACKEND", foreign, "devices").exits(0).out.contains("scripts/setup.sh"));
}

#[test]
fn devices_lists_each_adapter_with_its_fields() {
    gpu();
    let list = Place::new().run("devices --json").exits(0).json();
    let list = list.as_array().unwrap();
    assert_eq!(list.iter().filter(|a| a["default"] == true).count(), 1);
    for (i, adapter) in list.iter().enumerate() {
        // The native engine and the plain loops come last, and have no index.
        let number = if i + 2 < list.len() { Value::from(i) } else { Value::Null };
        assert_eq!(adapter["index"], number);
        assert!(number.is_null() || adapter["device"].as_str() == Some(i.to_string().as_str()), "{adapter}");
        for field in ["name", "backend", "device_type", "driver"] {
            assert!(adapter[field].is_string(), "{adapter}");
        }
    }
}

#[test]
fn training_writes_a_run_that_evaluate_and_predict_open() {
    gpu();
    let place = Place::new();
    let streamed = place.run(&format!("{SMALL} --out run --json")).exits(0).json_lines();
    let summary = streamed.last().unwrap().clone();
    for field in [
        "model",
        "dataset",
        "device",
        "driver",
        "seed",
        "epochs",
        "batch_size",
        "parameters",
        "test_loss",
        "test_accuracy",
    ] {
        assert!(!summary[field].is_null(), "no {field} in {summary}");
    }
    assert_eq!((&summary["dataset"], &summary["parameters"]), (&"synthetic".into(), &101_770.into()));
    assert_eq!(summary["status"], "complete");
    assert_eq!(json_file(&place.path("run/summary.json")), summary);
    let config = json_file(&place.path("run/config.json"));
    assert_eq!((&config["train_images"], &config["optimizer"]["name"]), (&320.into(), &"adam".into()));
    let history = fs::read_to_string(place.path("run/history.jsonl")).unwrap();
    let lines: Vec<Value> = history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1);
    let mut first = streamed[0].clone();
    assert_eq!(first.as_object_mut().unwrap().remove("step"), Some(10.into()));
    assert!(
        first
            .as_object_mut()
            .unwrap()
            .remove("timestamp")
            .is_some_and(|time| (1.7e9..4e9).contains(&time.as_f64().unwrap()))
    );
    assert_eq!(first, lines[0], "the stream is the history with step and time, then the summary");
    assert_eq!(streamed.len(), 2);
    for field in ["epoch", "loss", "accuracy", "seconds", "images_per_second"] {
        assert!(lines[0][field].is_number(), "no {field} in {history}");
    }
    for picture in ["samples.png", "predictions.png"] {
        let mut reader = png::Decoder::new(std::io::Cursor::new(fs::read(place.path("run").join(picture)).unwrap()))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert!(info.width > 500 && info.height > 500, "{picture}");
    }
    let (model, parameters) = weights::from_bytes(&fs::read(place.path("run/model.safetensors")).unwrap()).unwrap();
    assert_eq!((model.name.as_str(), parameters.len()), ("mlp", 4));

    // The folder and the file in it are the same run, and evaluate agrees with what training measured.
    for run in ["run", "run/model.safetensors"] {
        let evaluation = place.run(&format!("evaluate {run} --json")).exits(0).json();
        assert_eq!(evaluation["test_accuracy"], summary["test_accuracy"]);
        assert_eq!(evaluation["dataset"], "synthetic");
        assert_eq!(evaluation["images"], 10_000);
    }

    let predictions = place.run("predict run --test-index 3,0..2 --json").exits(0).json();
    let predictions = predictions.as_array().unwrap();
    assert_eq!(predictions.iter().map(|p| p["index"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 0, 1]);
    for p in predictions {
        let probabilities: Vec<f64> =
            p["probabilities"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(probabilities.len(), 10);
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5);
        let predicted = p["predicted"].as_u64().unwrap() as usize;
        assert_eq!(p["probability"].as_f64().unwrap(), probabilities[predicted]);
        assert!(probabilities.iter().all(|&q| q <= probabilities[predicted]));
        assert_eq!(p["class"], FASHION_MNIST.class_name(predicted));
        assert!(p["label"].as_u64().unwrap() < 10);
    }
    let table = place.run("predict run --grid grid.png").exits(0).out;
    assert!(table.contains("of 25 correct"), "{table}");
    assert!(place.path("grid.png").exists());
    place.run("predict run --grid grid.png").exits(2).says(&["grid.png", "--force"]);
    place.run("predict run --grid grid.png --force").exits(0);
    place.run("predict run --test-index 9999..10001").exits(2).says(&["10000 images"]);
    place.run("predict run --test-index 5..5").exits(2).says(&["empty"]);
    place.run("predict run --test-index first").exits(2).says(&["first"]);
    place.run("predict run --test-index 0..18446744073709551615").exits(2).says(&["10000 images"]);

    // Nothing is overwritten, unless it is asked for.
    let before = fs::read(place.path("run/model.safetensors")).unwrap();
    place.run(&format!("{SMALL} --out run --seed 9")).exits(2).says(&["run", "--force"]);
    assert!(before == fs::read(place.path("run/model.safetensors")).unwrap());
    place.run(&format!("{SMALL} --out run --seed 9 --force")).exits(0);
    assert!(before != fs::read(place.path("run/model.safetensors")).unwrap());
}

#[test]
fn the_same_command_gives_the_same_file() {
    gpu();
    let place = Place::new();
    for (run, seed) in [("a", 4), ("b", 4), ("c", 5)] {
        place.run(&format!("{SMALL} --seed {seed} --out {run}")).exits(0);
    }
    let file = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
    assert!(file("a") == file("b"), "the same seed gave different files");
    assert!(file("a") != file("c"), "another seed gave the same file");
}

/// Data and device are made ready side by side; what is said keeps its order, and what is wrong its precedence.
#[test]
fn the_device_speaks_and_fails_before_the_data() {
    gpu();
    let place = Place::new();
    let said = place.run(&format!("{SMALL} --out run")).exits(0).err;
    let lines =
        ["Device: ", "Generating 320 ", "Data: synthetic, 320 ", "Model: mlp", "Epoch 1/1", "Evaluating", "Run: "];
    let at: Vec<usize> = lines.iter().map(|line| said.find(line).unwrap_or_else(|| panic!("{line}: {said}"))).collect();
    assert!(at.is_sorted(), "{said}");
    assert!(said.starts_with("Device: "), "{said}");

    let no_data = "train --model mlp --data-dir no-such-folder";
    let ran = place.run(no_data).exits(2);
    assert!(!ran.err.contains("Model: "), "{}", ran.err);
    ran.says(&["Device: ", "--data-dir", "no-such-folder"]);
    // Both are wrong: the device is named, alone, and nothing is generated or downloaded for a run that cannot be.
    for line in [no_data, "train --model mlp", "train --model mlp --dataset synthetic"] {
        let ran = place.run(&format!("{line} --device no-such-card")).exits(2);
        assert!(ran.err.contains("no-such-card"), "{}", ran.err);
        for silent in ["no-such-folder", "Downloading", "Generating", "WARNING", "Data: "] {
            assert!(!ran.err.contains(silent), "{}", ran.err);
        }
    }
    assert!(
        fs::read_dir(place.path("runs")).is_ok_and(|mut runs| runs.next().is_none()),
        "an empty run folder is left"
    );
}

/// Where the backend can keep pipelines, they lie in the cache folder; what lies there instead is no error.
#[test]
fn pipelines_are_kept_in_the_cache_folder() {
    let backend = &gpu().info().backend;
    let place = Place::new();
    place.run(&format!("{SMALL} --out run")).exits(0);
    let folder = place.path("home/fmnist-gpu/pipelines");
    if backend != "vulkan" || cfg!(windows) {
        return;
    }
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    fs::write(&files[0], b"nonsense").unwrap();
    place.run("predict run --test-index 0").exits(0);
    assert!(fs::read(&files[0]).unwrap().len() > 100, "the bad file was not replaced");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, b"in the way").unwrap();
    let weights = fs::read(place.path("run/model.safetensors")).unwrap();
    place.run(&format!("{SMALL} --out again")).exits(0);
    assert!(weights == fs::read(place.path("again/model.safetensors")).unwrap(), "kept pipelines gave other bits");
}

#[test]
fn no_epochs_write_the_initial_weights() {
    let place = Place::new();
    let line = "train --model cnn --dataset synthetic --train-limit 32 --epochs 0 --seed 7 --json --device cpu";
    let summary = place.run(line).exits(0).summary();
    assert_eq!(summary["epochs_completed"], 0);
    // Without --out the first free folder is taken, and then the next.
    place.run(line).exits(0);
    let file = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
    assert!(file("runs/cnn-1") == file("runs/cnn-2"));
    let (model, parameters) = weights::from_bytes(&file("runs/cnn-1")).unwrap();
    assert_eq!(parameters, fmnist_gpu::model::initial_parameters(&model.parameters().unwrap(), 7));
}

/// Without data and network, `auto` says loudly that it generates, and `fashion-mnist` stops.
#[test]
fn without_data_auto_generates_and_says_so_and_fashion_mnist_stops() {
    gpu();
    let place = Place::new();
    let ran = place.run("train --model mlp --train-limit 64 --epochs 1 --json").exits(0);
    assert_eq!(ran.summary()["dataset"], "synthetic");
    ran.says(&["WARNING", "GENERATED", "--data-dir"]);
    let quiet = place.run("train --model mlp --train-limit 64 --epochs 1 --json --quiet").exits(0);
    assert_eq!(quiet.summary()["dataset"], "synthetic");
    quiet.says(&["WARNING"]);
    place.run("train --dataset fashion-mnist").exits(2).says(&[
        "storage.googleapis.com",
        "githubusercontent",
        "amazonaws",
        "specify it as the data folder",
    ]);
}

#[test]
fn runs_that_are_none_are_refused() {
    gpu();
    let place = Place::new();
    place.run("evaluate no-such-run").exits(2).says(&["no-such-run", "fmnist-gpu train"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.run("evaluate empty").exits(2).says(&["empty", "model.safetensors"]);
    fs::write(place.path("model.safetensors"), b"nonsense").unwrap();
    place.run("predict model.safetensors").exits(2).says(&["model.safetensors", "safetensors"]);
    // A configuration that cannot be read is not passed over.
    place.run(&format!("{SMALL} --epochs 0 --out run").replace("--epochs 1 ", "")).exits(0);
    fs::write(place.path("run/config.json"), b"{").unwrap();
    place.run("evaluate run").exits(2).says(&["config.json"]);
}

#[test]
fn a_loss_that_is_not_finite_exits_1_with_epoch_and_step() {
    gpu();
    let place = Place::new();
    place.run(&format!("{SMALL} --optimizer sgd --learning-rate 1e20 --out run")).exits(1).says(&[
        "epoch 1",
        "step",
        "--learning-rate",
    ]);
    assert_eq!(json_file(&place.path("run/summary.json"))["status"], "non-finite loss");
}

#[test]
fn samples_draws_the_grid_and_lists_the_classes() {
    let place = Place::new();
    let list = place.run("samples --dataset synthetic --count 9 --json").exits(0).json();
    assert_eq!(list["dataset"], "synthetic");
    let samples = list["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 9);
    assert!(samples.iter().all(|s| s["class"] == FASHION_MNIST.class_name(s["label"].as_u64().unwrap() as usize)));
    assert!(place.path("samples.png").exists());
    place.run("samples --dataset synthetic").exits(2).says(&["samples.png", "--force"]);
    place.run("samples --dataset synthetic --count 0").exits(2).says(&["--count"]);
    place.run("samples --dataset synthetic --grid no-such-folder/a.png").exits(2).says(&["no-such-folder"]);
}

#[test]
fn summary_shows_the_models() {
    let place = Place::new();
    let cnn = place.run("summary --json").exits(0).json();
    assert_eq!((&cnn["parameters"], cnn["layers"].as_array().unwrap().len()), (&421_642.into(), 7));
    assert!((cnn["training_mflop"].as_f64().unwrap() - 25.0).abs() < 0.1, "{cnn}");
    assert!(place.run("summary --model mlp").exits(0).out.contains("101,770"));
}

#[test]
fn the_plain_loops_train_like_the_gpu() {
    gpu();
    let place = Place::new();
    let line = "train --model mlp --dataset synthetic --train-limit 64 --epochs 2 --batch-size 16";
    place.run(&format!("{line} --out gpu")).exits(0);
    place.run(&format!("{line} --out plain --device reference")).exits(0);
    let loss = |run: &str| -> Vec<f64> {
        let history = fs::read_to_string(place.path(run).join("history.jsonl")).unwrap();
        history.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["loss"].as_f64().unwrap()).collect()
    };
    for (a, b) in loss("gpu").iter().zip(loss("plain")) {
        assert!((a - b).abs() <= 1e-5 * b, "{a} and {b}");
    }
    assert_eq!(json_file(&place.path("plain/summary.json"))["device"], "reference (plain loops)");
}

#[test]
fn quiet_says_nothing_but_the_result() {
    gpu();
    let place = Place::new();
    let ran = place.run(&format!("{SMALL} --quiet")).exits(0);
    assert_eq!(ran.err, "");
    assert!(ran.out.starts_with("Test loss"), "{}", ran.out);
    assert!(ran.out.contains("original class"), "{}", ran.out);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_what_was_reached_saved() {
    use std::io::{BufRead, BufReader};
    gpu();
    let place = Place::new();
    let mut child = place
        .command("train --model mlp --dataset synthetic --train-limit 3200 --epochs 100000 --out run")
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The first finished epoch: training is under way.
    assert!(lines.by_ref().map(|line| line.unwrap()).any(|line| line.starts_with("Epoch 1/100000:")));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest:#?}");
    assert_eq!(json_file(&place.path("run/summary.json"))["status"], "interrupted");
    let (_, parameters) = weights::from_bytes(&fs::read(place.path("run/model.safetensors")).unwrap()).unwrap();
    assert!(parameters.iter().flatten().all(|w| w.is_finite()));
    let history = fs::read_to_string(place.path("run/history.jsonl")).unwrap();
    assert!(history.lines().count() >= 1);
    let left: Vec<_> = fs::read_dir(place.path("run"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    place.run("evaluate run").exits(0);
}
