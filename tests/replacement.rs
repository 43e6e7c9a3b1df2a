//! `train --force` over an existing run: the old run or the new one, never a mix.

use crate::output::{TRAIN, place};
use crate::support::program::{Place, json_file};
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::run::folder::RunFolder;
use fmnist_gpu::run::{BEST_FILE, MODEL_FILE, Run, RunError};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Every file below a folder with its content.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(content(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// What cannot start touches nothing.
#[test]
fn a_run_that_cannot_start_leaves_the_old_one_as_it_was() {
    let place = place();
    fs::write(place.path("notes.txt"), "mine").unwrap();
    let before = content(&place.path("run"));
    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("damaged.toml"), "name = 3").unwrap();
    for flags in [
        "--dataset auto --data-dir missing",
        "--dataset auto --data-dir empty",
        "--device no-such-adapter",
        "--train-limit 70000",
        "--validation-split 0.999",
        "--model damaged.toml",
        "--model missing.toml",
        "--learning-rate -1",
        "--momentum 0.5",
        "--checkpoint-minutes 0",
        // It starts, and its first epoch ends in numbers that are not finite.
        "--optimizer sgd --learning-rate 1e38",
    ] {
        let mut command = place.command(&format!("{TRAIN} --force --out run --no-report {flags}"));
        let output = command.output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{flags}");
        assert!(content(&place.path("run")) == before, "{flags}: the old run was touched");
    }
    let ran = place.run(&format!("{TRAIN} --force --out run --optimizer sgd --learning-rate 1e38"));
    ran.exits(1).says(&["not finite", "the run that was in run is unchanged"]);
}

/// What is the old run's goes, what is the user's stays.
#[test]
fn a_new_run_leaves_nothing_of_the_old_one() {
    let place = place();
    place.run(&format!("{TRAIN} --force --out run --tensorboard --seed 3 --quiet")).exits(0);
    let full = content(&place.path("run"));
    assert!(full.keys().any(|name| name.starts_with("tensorboard/train/events")), "{:?}", full.keys());
    assert!(full.contains_key("report.html") && full.contains_key("best.safetensors"));
    fs::write(place.path("run/notes.txt"), "mine").unwrap();
    // A folder that is named like a checkpoint is not one.
    fs::create_dir(place.path("run/checkpoints/step-000000000001.safetensors")).unwrap();
    let plain =
        "train --model tiny.toml --dataset synthetic --train-limit 200 --epochs 1 --device cpu --no-report --quiet";
    place.run(&format!("{plain} --force --out run")).exits(0);
    place.run(&format!("{plain} --out other")).exits(0);
    let (replaced, fresh) = (content(&place.path("run")), content(&place.path("other")));
    let names = |files: &BTreeMap<String, Vec<u8>>| {
        files.keys().filter(|name| *name != "notes.txt").cloned().collect::<Vec<String>>()
    };
    assert_eq!(names(&replaced), names(&fresh));
    assert!(replaced.contains_key("notes.txt"));
    assert!(replaced["model.safetensors"] == fresh["model.safetensors"]);
    assert!(replaced["config.json"] == fresh["config.json"]);
}

/// Killed at any moment: the run that evaluates is the old one or the new one, with its own configuration, history and summary.
#[test]
#[cfg(unix)]
fn killed_while_it_replaces_another_one_run_is_whole() {
    let place = place();
    let old = fs::read(place.path("run/model.safetensors")).unwrap();
    let new = format!("{} --seed 9 --force --quiet --no-report", TRAIN.replace("--epochs 2", "--epochs 60"));
    place.run(&format!("{new} --out whole")).exits(0);
    let (mut kept, mut replaced) = (0, 0);
    for round in 0..10 {
        let run = format!("round-{round}");
        copy(&place.path("run"), &place.path(&run));
        let mut child =
            place.command(&format!("{new} --out {run}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        // From the moment when the new run is there, in steps of a few milliseconds.
        while !place.path(&run).join(".new-run").exists() && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_millis(4 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        place.run(&format!("evaluate {run} --device cpu --quiet")).exits(0);
        let seed = json_file(&place.path(&run).join("config.json"))["seed"].clone();
        if seed == 0 {
            assert!(fs::read(place.path(&run).join("model.safetensors")).unwrap() == old, "round {round}");
            kept += 1;
        } else {
            assert_eq!(seed, 9);
            for file in ["summary.json", "predictions.png"] {
                assert!(!place.path(&run).join(file).exists(), "round {round}: {file} is the old run's");
            }
            place.run(&format!("train --resume {run} --quiet --no-report")).exits(0);
            assert_same_outcome(&place, &run);
            replaced += 1;
        }
        let left = fs::read_dir(place.path(&run)).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        // The next training sweeps what a killed one left; reading a run need not.
        assert!(seed == 0 || left.is_empty(), "{left:?}");
    }
    eprintln!("{kept} kills kept the old run, {replaced} the new one");
}

fn assert_same_outcome(place: &Place, run: &str) {
    let weights = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
    assert!(weights(run) == weights("whole"), "{run}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => assert!(fs::copy(&path, &target).is_ok()),
        }
    }
}

/// Every state in which a replacement can be cut off, made by hand, is finished by whoever opens the run next.
#[test]
fn a_replacement_that_was_cut_off_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::mlp();
    let weights = |seed| initial_parameters(&model.parameters().unwrap(), seed);
    let files = |path: &Path| content(path).into_keys().collect::<Vec<String>>();
    for (name, moved) in [(".replacement", 0), (".arriving", 0), (".arriving", 1)] {
        let path = folder.path().join(format!("{name}-{moved}"));
        let old = RunFolder::create(&path, false).unwrap();
        old.write_weights(MODEL_FILE, &model, &weights(1)).unwrap();
        if name == ".replacement" {
            old.write_weights(BEST_FILE, &model, &weights(1)).unwrap();
        }
        drop(old);
        let new = RunFolder::create(&path, true).unwrap();
        new.write_weights(MODEL_FILE, &model, &weights(2)).unwrap();
        new.write_history(&[]).unwrap();
        assert!(!new.is_committed());
        // As a process that is killed leaves it.
        fs::rename(path.join(".new-run"), path.join(name)).unwrap();
        if moved == 1 {
            fs::rename(path.join(name).join("model.safetensors"), path.join("model.safetensors")).unwrap();
        }
        // The lock of a process that is alive is respected.
        assert!(matches!(Run::open(&path), Err(RunError::Locked { .. })));
        drop(new);
        let run = Run::open(&path).unwrap();
        assert!(run.parameters == weights(2), "{name}");
        assert_eq!(files(&path), ["history.jsonl", "model.safetensors"], "{name}");
    }
}

/// Several trainings that start at once without `--out` get a folder each.
#[test]
fn trainings_that_start_at_once_get_a_folder_each() {
    let place = place();
    let line = "train --model tiny.toml --dataset synthetic --train-limit 40 --epochs 1 --device cpu --threads 1 --no-report --quiet";
    for round in 0..3 {
        let children: Vec<_> = (0..4).map(|_| place.command(line).stdout(Stdio::null()).spawn().unwrap()).collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let runs = fs::read_dir(place.path("runs")).unwrap().count();
        assert_eq!(runs, 4 * (round + 1));
    }
}
