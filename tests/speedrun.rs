//! `fmnist-gpu speedrun`: what the clock counts, the statistics, the verdict.

use crate::support::program::Place;
use fmnist_gpu::data::{Dataset, DatasetKind, FASHION_MNIST, synthetic};
use fmnist_gpu::model::ModelFile;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::session::{Device, Plan, Speedrun, TimedEpoch};
use pollster::FutureExt as _;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const SMALL: &str = "speedrun --model mlp --dataset synthetic --train-limit 1000 --device cpu";

fn numbers(values: &Value, field: &str) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value[field].as_f64().unwrap()).collect()
}

/// Each run ends with the first epoch that reaches the target, has its own seed, and trains as `train` does.
#[test]
fn runs_end_when_they_reach_the_target() {
    let place = Place::new();
    let result = place.run(&format!("{SMALL} --epochs 6 --target 0.7 --runs 3 --seed 4 --json")).exits(0).json();
    assert_eq!(result["reached"], 3, "{result}");
    let runs = result["runs"].as_array().unwrap();
    assert_eq!(numbers(&result["runs"], "seed"), [4.0, 5.0, 6.0]);
    for run in runs {
        let (accuracies, clock) = (numbers(&run["epochs"], "test_accuracy"), numbers(&run["epochs"], "seconds"));
        let (last, before) = accuracies.split_last().unwrap();
        assert!(*last >= 0.7 && before.iter().all(|accuracy| *accuracy < 0.7), "{run}");
        assert!(clock.is_sorted() && clock[0] > 0.0 && run["evaluation_seconds"].as_f64().unwrap() > 0.0, "{run}");
        assert_eq!((&run["status"], run["seconds"].as_f64().unwrap()), (&"reached".into(), *clock.last().unwrap()));
        // A recipe without a schedule does not depend on the number of epochs.
        let line = format!("--seed {} --epochs {} --out run-{}", run["seed"], accuracies.len(), run["seed"]);
        let line = format!("{} --no-report --json {line}", SMALL.replace("speedrun", "train"));
        let trained = place.run(&line).exits(0).summary();
        assert_eq!(trained["test_accuracy"], run["epochs"][accuracies.len() - 1]["test_accuracy"]);
    }
    let seconds = numbers(&result["runs"], "seconds");
    let mean = seconds.iter().sum::<f64>() / 3.0;
    let deviation = (seconds.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
    for (field, wanted) in [
        ("mean_seconds", mean),
        ("standard_deviation", deviation),
        ("min_seconds", seconds.iter().copied().fold(f64::INFINITY, f64::min)),
        ("max_seconds", seconds.iter().copied().fold(0.0, f64::max)),
    ] {
        assert!((result[field].as_f64().unwrap() - wanted).abs() < 1e-9, "{field}: {wanted} in {result}");
    }
    let settings = &result["settings"];
    assert_eq!((&settings["epochs"], &settings["optimizer"]), (&6.into(), &"adam".into()));
    assert!(settings["seed"].is_null() && result["threads"].is_number(), "{result}");
    assert!(result["start_up"]["open_seconds"].as_f64().unwrap() > 0.0);
    assert!(result["start_up"]["warm_up_seconds"].as_f64().unwrap() > 0.0);

    // The same seeds, for people: the line of the table comes last, and says that these images are generated.
    let ran = place.run(&format!("{SMALL} --epochs 6 --target 0.7 --runs 1 --seed 4")).exits(0);
    let row = ran.out.lines().last().unwrap();
    let wanted = "| `mlp` (generated images) | 0.7000 |";
    assert!(
        row.starts_with(wanted) && row.contains("| 1 of 1 |") && row.contains("`--epochs 6 --train-limit 1000`"),
        "{row}"
    );
    assert!(ran.out.contains("reached by 1 of 1 run") && ran.out.contains("Not counted: start-up"), "{}", ran.out);
    assert!(ran.err.contains("Seed 4, epoch 1/6: test accuracy 0."), "{}", ran.err);
}

/// The clock stands still while the test set is evaluated, which takes most of the time where it is a hundred times the training set.
#[test]
fn evaluation_is_not_on_the_clock() {
    let (train, test) = synthetic::generate(64, 6400, 3);
    let kind = DatasetKind::Synthetic;
    let dataset = Dataset { train, test, description: FASHION_MNIST, kind, source: "generated".to_string() };
    let mut plan = Plan::new(ModelFile::load("cnn").unwrap(), &[]).unwrap();
    plan.recipe.epochs = 2;
    let (device, interrupt) = (Device::Native(1), AtomicBool::new(false));
    let tiles = SharedTiles::default();
    let speedrun = Speedrun { plan: &plan, device: &device, tiles, target: 1.0, runs: 2, interrupt: &interrupt };
    let begin = Instant::now();
    let mut seen = Vec::new();
    let on_epoch = &mut |seed, epoch: &TimedEpoch| seen.push((seed, epoch.clone()));
    let done = speedrun.carry_out(dataset.clone(), on_epoch).block_on().unwrap();
    let wall = begin.elapsed().as_secs_f64();
    assert_eq!(done.runs.len(), 2);
    let clock: f64 = done.runs.iter().map(|run| run.epochs[1].seconds).sum();
    let evaluation: f64 = done.runs.iter().map(|run| run.evaluation_seconds).sum();
    assert!(clock > 0.0 && clock < evaluation / 3.0, "{clock} and {evaluation}");
    assert!(clock + evaluation + done.warm_up_seconds <= wall);
    assert!(done.runs.iter().all(|run| run.seconds.is_none() && run.status == "not reached"), "{done:?}");
    let epochs = done.runs.iter().flat_map(|run| run.epochs.iter().map(|epoch| (run.seed, epoch.clone())));
    assert_eq!(seen, epochs.collect::<Vec<_>>());

    // A run that is interrupted does not count.
    let on_epoch = &mut |seed, _: &TimedEpoch| interrupt.store(seed == 1, Ordering::Relaxed);
    let done = speedrun.carry_out(dataset, on_epoch).block_on().unwrap();
    assert!(done.is_interrupted && done.runs.len() == 1 && done.runs[0].seed == 0, "{done:?}");
}

#[test]
fn a_target_that_no_run_reaches_is_a_negative_verdict() {
    let place = Place::new();
    let result = place.run(&format!("{SMALL} --epochs 1 --target 1 --runs 2 --json")).exits(1).json();
    assert_eq!((&result["reached"], &result["runs"][1]["status"]), (&0.into(), &"not reached".into()));
    for field in ["mean_seconds", "standard_deviation", "min_seconds", "mean_epochs"] {
        assert!(result[field].is_null(), "{field} in {result}");
    }
    assert!(result["row"].as_str().unwrap().contains("| – | 0 of 2 | – |"), "{result}");
    // A training that diverges reaches nothing either.
    let line = format!("{SMALL} --epochs 3 --target 0.9 --runs 1 --learning-rate 1e30 --json");
    assert_eq!(place.run(&line).exits(1).json()["runs"][0]["status"], "non-finite loss");
}

#[test]
fn what_cannot_be_timed_is_refused() {
    let place = Place::new();
    for (flags, said) in [
        ("--target 94", &["--target", "0.94"][..]),
        ("--target 0", &["--target", "above 0"]),
        ("--runs 0", &["--runs"]),
        ("--epochs 0", &["--epochs is 0", "at least one"]),
        ("--validation-split 0.1", &["--validation-split is 0.1", "all images"]),
        ("--seed 18446744073709551615", &["--seed", "no seeds for 5 runs"]),
        ("--model missing.toml", &["missing.toml"]),
    ] {
        place.run(&format!("speedrun --dataset synthetic --train-limit 40 --device cpu {flags}")).exits(2).says(said);
    }
}

#[test]
#[cfg(unix)]
fn signals_end_a_speedrun_with_their_codes() {
    let place = Place::new();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let line = "speedrun --model mlp --dataset synthetic --train-limit 2000 --batch-size 1 --epochs 500 --target 1 --device cpu --json";
        let mut child = place.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.starts_with("Seed 0, epoch 1/500: ")));
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success()
        );
        let err: Vec<String> = lines.collect();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{err:?}");
        assert!(output.stdout.is_empty() && err.iter().any(|line| line == "Interrupted after 0 of 5 runs"), "{err:?}");
    }
}

/// The board has the columns of the line that the command prints.
#[test]
fn the_board_has_the_columns_of_the_command() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/speedrun.md")).unwrap();
    let cells =
        |row: &str| row.trim().trim_matches('|').split(" | ").map(|cell| cell.trim().to_string()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = page.lines().filter(|line| line.starts_with("| ")).map(cells).collect();
    let place = Place::new();
    let line = "speedrun --model mlp --dataset synthetic --train-limit 40 --epochs 1 --target 0.01 --runs 1 --device cpu --json";
    let row = place.run(line).exits(0).json()["row"].as_str().unwrap().to_string();
    assert!(rows.len() > 2, "{rows:?}");
    for other in &rows {
        assert_eq!(other.len(), cells(&row).len(), "{other:?} and {row}");
    }
}
