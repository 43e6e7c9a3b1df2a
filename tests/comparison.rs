//! `fmnist-gpu compare` with any number of runs: their order, the settings that differ, the drawing, errors.

use crate::output::TINY;
use crate::report_page::{check_page, in_chromium};
use crate::support::program::{Place, json_file};
use serde_json::Value;
use std::fs;

/// Trains small runs that differ in what `settings` says, one for each.
fn runs(settings: &[(&str, &str)]) -> Place {
    let place = Place::new();
    fs::write(place.path("tiny.toml"), TINY).unwrap();
    for (name, flags) in settings {
        let train =
            "train --model tiny.toml --dataset synthetic --train-limit 200 --epochs 2 --device cpu --no-report --quiet";
        place.run(&format!("{train} --out {name} {flags}")).exits(0);
    }
    place
}

/// Changes a field of a JSON file.
fn set(place: &Place, path: &str, field: &str, value: impl Into<Value>) {
    let mut json = json_file(&place.path(path));
    json[field] = value.into();
    fs::write(place.path(path), json.to_string()).unwrap();
}

/// Writes the validation results of a run.
fn validated(place: &Place, run: &str, results: &[(f64, f64)]) {
    let line = |(i, (loss, accuracy)): (usize, &(f64, f64))| {
        format!(
            r#"{{"epoch": {}, "loss": 1.0, "accuracy": 0.5, "val_loss": {loss}, "val_accuracy": {accuracy}, "seconds": 1.0, "images_per_second": 160.0}}"#,
            i + 1
        )
    };
    let lines: Vec<String> = results.iter().enumerate().map(line).collect();
    fs::write(place.path(run).join("history.jsonl"), lines.join("\n")).unwrap();
}

fn names(comparison: &Value) -> Vec<&str> {
    comparison["runs"].as_array().unwrap().iter().map(|run| run["name"].as_str().unwrap()).collect()
}

/// The accuracy of the final weights decides, then the loss; the test set never does, and runs without validation come last.
#[test]
fn many_runs_are_sorted_by_validation() {
    let split = "--validation-split 0.2";
    let place = runs(&[
        ("without", ""),
        ("a", &format!("{split} --learning-rate 0.003")),
        ("b", &format!("{split} --learning-rate 0.000123456789 --batch-size 16")),
        ("c", &format!("{split} --optimizer sgd --momentum 0.9 --learning-rate 0.01")),
        ("d", split),
    ]);
    validated(&place, "a", &[(0.1, 0.99), (0.9, 0.5)]);
    validated(&place, "b", &[(1.0, 0.4), (0.7, 0.8)]);
    validated(&place, "c", &[(1.0, 0.4), (0.5, 0.8)]);
    validated(&place, "d", &[(1.0, 0.4), (0.5, 0.7)]);
    for (run, accuracy) in [("a", 0.99), ("without", 0.98), ("c", 0.1)] {
        set(&place, &format!("{run}/summary.json"), "test_accuracy", accuracy);
    }
    let all = "compare without a b c d";
    let json = place.run(&format!("{all} --json")).exits(0).json();
    assert_eq!(names(&json), ["c", "b", "d", "a", "without"]);
    assert_eq!(json["best_by_validation"], "c");
    let differing = ["batch_size", "optimizer", "learning_rate", "momentum", "validation_split"];
    assert_eq!(json["differing_settings"], serde_json::json!(differing));
    assert_eq!(
        (&json["runs"][0]["validation_accuracy"], &json["runs"][4]["validation_accuracy"]),
        (&0.8.into(), &Value::Null)
    );
    assert_eq!(
        (&json["runs"][0]["settings"]["momentum"], &json["runs"][1]["settings"]["batch_size"]),
        (&0.9.into(), &16.into())
    );
    assert!(json["runs"][1]["settings"]["momentum"].is_null());

    let ran = place.run(&format!("{all} --out page.html")).exits(0);
    let lines: Vec<&str> = ran.out.lines().take(6).collect();
    assert!(lines[0].contains("validation accuracy") && lines[0].contains("learning rate"), "{}", ran.out);
    for (line, name) in lines[1..].iter().zip(["c ", "b ", "d ", "a ", "without "]) {
        assert!(line.starts_with(name), "{}", ran.out);
    }
    assert!(lines[2].contains(" 0.0001235 "), "{}", ran.out);
    assert_eq!(json["runs"][1]["settings"]["learning_rate"], 0.000123456789);
    for part in [
        "Best by validation: c (accuracy 0.8000, standard error 0.0632 on 40 images).",
        "Without validation images, and so not ranked: without.",
        "Settings that differ: batch size, optimizer, learning rate, momentum, validation split.",
        "A: c",
    ] {
        assert!(ran.out.contains(part), "no `{part}` in\n{}", ran.out);
    }
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    check_page(&page);
    let plot = page.split("id=\"settings\"").nth(1).unwrap().split("</section>").next().unwrap();
    // Of four runs with five axes; the run without a result is not drawn.
    assert_eq!(plot.matches("<circle").count(), 4 * 5, "{plot}");
    for part in ["c: batch size 32, optimizer sgd", "best: c", "learning rate", "validation accuracy", "\nnone\n"] {
        assert!(plot.contains(part), "no `{part}` in\n{plot}");
    }
    assert!(!plot.contains("without"), "{plot}");
    in_chromium(&[&place.path("page.html")]);

    // Two runs stay in the order that they were given in.
    let json = place.run("compare d c --json").exits(0).json();
    assert_eq!((names(&json), &json["best_by_validation"]), (vec!["d", "c"], &"c".into()));
    let none = place.run("compare without d --json").exits(0).json();
    assert_eq!(none["best_by_validation"], "d");
    // With early stopping, the weights of an earlier epoch are the result.
    set(&place, "a/summary.json", "best_epoch", 1);
    let json = place.run("compare c b a --json").exits(0).json();
    assert_eq!((names(&json), &json["runs"][0]["validation_accuracy"]), (vec!["a", "c", "b"], &0.99.into()));
}

/// Without validation images none is the best, and the order is the given one; runs with other seeds hold out other images.
#[test]
fn what_validation_cannot_tell_is_said() {
    let place = runs(&[("a", "--seed 1"), ("b", "--seed 2"), ("c", "--seed 3")]);
    let ran = place.run("compare c a b").exits(0);
    assert!(ran.out.contains("No run held out images for validation, so none is named best"), "{}", ran.out);
    let json = place.run("compare c a b --json").exits(0).json();
    assert_eq!((names(&json), &json["best_by_validation"]), (vec!["c", "a", "b"], &Value::Null));
    place.run("compare c a b --out page.html").exits(0);
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    check_page(&page);
    assert!(!page.contains("id=\"settings\""));

    let split = "--validation-split 0.2";
    let place = runs(&[("a", &format!("{split} --seed 1")), ("b", &format!("{split} --seed 2")), ("c", split)]);
    let different = "validated on different images";
    assert!(place.run("compare a b c").exits(0).out.contains(different));
    let place = runs(&[("a", split), ("b", &format!("{split} --learning-rate 0.01"))]);
    assert!(!place.run("compare a b").exits(0).out.contains(different));
}

/// More runs than colours are listed and drawn together, but not one by one.
#[test]
fn a_sweep_is_a_table_and_a_drawing() {
    let settings: Vec<(String, String)> =
        (1..=8).map(|i| (format!("run-{i}"), format!("--validation-split 0.2 --learning-rate 0.00{i}"))).collect();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, flags)| (name.as_str(), flags.as_str())).collect();
    let place = runs(&settings);
    let all: Vec<&str> = settings.iter().map(|(name, _)| *name).collect();
    let ran = place.run(&format!("compare {} --out page.html", all.join(" "))).exits(0);
    assert!(!ran.out.contains("Training loss (v") && !ran.out.contains("McNemar"), "{}", ran.out);
    assert_eq!(ran.out.lines().filter(|line| line.starts_with("run-")).count(), 8);
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    check_page(&page);
    assert!(page.contains("id=\"settings\"") && !page.contains("id=\"curves\"") && !page.contains("id=\"classes\""));
    let json = place.run(&format!("compare {} --json", all.join(" "))).exits(0).json();
    let accuracies: Vec<f64> =
        json["runs"].as_array().unwrap().iter().map(|run| run["validation_accuracy"].as_f64().unwrap()).collect();
    assert!(accuracies.is_sorted_by(|a, b| a >= b), "{accuracies:?}");
    assert_eq!(json["verdicts"], serde_json::json!([]));
}

#[test]
fn what_cannot_be_compared_is_named() {
    let place = runs(&[("a", ""), ("b", "--seed 1"), ("c", "--seed 2")]);
    place.run("compare a b a/").exits(2).says(&["a and a/ are the same run", "once"]);
    place.run("compare a a/model.safetensors").exits(2).says(&["the same run"]);
    set(&place, "c/summary.json", "dataset", "fashion-mnist");
    place.run("compare a b c").exits(2).says(&["c was trained on fashion-mnist, but a on synthetic", "same data set"]);
    set(&place, "c/summary.json", "dataset", "synthetic");
    place.run("compare a b nowhere").exits(2).says(&["nowhere is not a run", "fmnist-gpu train"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.run("compare a b empty").exits(2).says(&["empty is not a run", "fmnist-gpu train"]);
    // A run that is under way, or whose process was killed: before its first epoch, and after it.
    fs::remove_file(place.path("c/summary.json")).unwrap();
    let unfinished = &["c: the training has not ended", "fmnist-gpu train --resume c"];
    place.run("compare a b c").exits(2).says(unfinished);
    fs::remove_file(place.path("c/model.safetensors")).unwrap();
    place.run("compare a b c").exits(2).says(unfinished);
}

/// Two models may have one name.
#[test]
fn models_of_one_name_are_told_apart() {
    let place = runs(&[("a", "--validation-split 0.2")]);
    let wider = TINY.replace(
        "{ type = \"dense\", units = 10 }",
        "{ type = \"dense\", units = 16 }, { type = \"dense\", units = 10 }",
    );
    fs::write(place.path("tiny.toml"), wider).unwrap();
    let train = "train --model tiny.toml --dataset synthetic --train-limit 200 --epochs 1 --validation-split 0.2 --device cpu --quiet";
    place.run(&format!("{train} --no-report --out b")).exits(0);
    place.run(&format!("{train} --no-report --seed 1 --out c")).exits(0);
    let ran = place.run("compare a b c").exits(0);
    assert!(ran.out.contains("tiny (7,850 parameters)") && ran.out.contains("tiny (12,730 parameters)"), "{}", ran.out);
    assert!(ran.out.contains("Settings that differ: model, epochs, seed."), "{}", ran.out);
}
