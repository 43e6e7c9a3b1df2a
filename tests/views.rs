//! Prediction by several views of each image.

use crate::support::program::{Place, json_file};
use fmnist_gpu::data::{Split, synthetic};
use fmnist_gpu::engine::{Engine, NativeEngine};
use fmnist_gpu::model::{Model, ModelFile, Predict, Views, initial_parameters};
use fmnist_gpu::session::views::{infer, predict};
use pollster::FutureExt as _;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// As in `fmnist_recipes.py`'s `logits_of`, but for the probabilities: the image, its mirror image, and both shifted along the diagonal.
#[test]
fn views_are_mirrored_and_shifted() {
    let image: Vec<u8> = (1..=12).collect();
    let views: Vec<Vec<u8>> = Views::FlipShift.list().iter().map(|view| view.of(&image, [2, 3, 2])).collect();
    let expected: [[u8; 12]; 6] = [
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        [5, 6, 3, 4, 1, 2, 11, 12, 9, 10, 7, 8],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
        [0, 0, 0, 0, 0, 0, 3, 4, 1, 2, 0, 0],
        [9, 10, 11, 12, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 11, 12, 9, 10, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(views, expected);
    for views in [Views::One, Views::Flip, Views::FlipShift] {
        let list = views.list();
        assert_eq!(list.iter().map(|view| view.weight).sum::<f64>(), 1.0);
        assert_eq!(list[0].of(&image, [2, 3, 2]), image, "the first is the image itself");
    }
    let weights: Vec<f64> = Views::FlipShift.list().iter().map(|view| view.weight).collect();
    assert_eq!(weights, [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]);
}

#[test]
fn the_probabilities_of_views_are_averaged() {
    let (_, test) = synthetic::generate(1, 40, 3);
    let model = Model::mlp();
    let parameters = initial_parameters(&model.parameters().unwrap(), 2);
    let mut engine = NativeEngine::new(&model, &parameters, 2).unwrap();
    let mut go = |_: &fmnist_gpu::engine::Totals| ControlFlow::Continue(());
    let alone = engine.infer(&test, &mut go).block_on().unwrap();
    let one = infer(&mut engine, &test, Views::One, &mut go).block_on().unwrap();
    assert_eq!((one.totals, &one.probabilities, one.one_view), (alone.totals, &alone.probabilities, None));
    let several = infer(&mut engine, &test, Views::FlipShift, &mut go).block_on().unwrap();
    assert_eq!(several.one_view, Some(alone.totals));
    let mut sums = vec![0.0; 400];
    for view in Views::FlipShift.list() {
        let seen = Split { images: view.of(&test.images, model.input), labels: test.labels.clone() };
        let probabilities = engine.infer(&seen, &mut go).block_on().unwrap().probabilities;
        sums.iter_mut().zip(probabilities).for_each(|(sum, p)| *sum += view.weight * f64::from(p));
    }
    let near = several.probabilities.iter().zip(&sums).all(|(found, sum)| (f64::from(*found) - sum).abs() < 1e-7);
    assert!(near);
    let rows = || sums.chunks(10).zip(&test.labels);
    let loss: f64 = rows().map(|(row, &label)| -row[usize::from(label)].ln()).sum();
    assert!((several.totals.loss - loss).abs() < 1e-9 && several.totals.samples == 40);
    let is_right = |(row, label): &(&[f64], &u8)| {
        let label = usize::from(**label);
        (0..10).all(|class| class == label || row[class] < row[label])
    };
    assert_eq!(several.totals.correct, rows().filter(is_right).count() as u64);
    let mut go = |_| ControlFlow::Continue(());
    let predicted = predict(&mut engine, &test.images, Views::FlipShift, &mut go).block_on().unwrap();
    assert!(predicted == several.probabilities);
}

#[test]
fn a_model_file_names_its_views() {
    let text = |predict: &str| {
        format!(
            "name = \"m\"\nlayers = [{{ type = \"flatten\" }}, {{ type = \"dense\", units = 10 }}]\n[predict]\n{predict}\n"
        )
    };
    let parse = |predict: &str| ModelFile::parse(Path::new("m.toml"), &text(predict));
    for (name, views) in [("one", Views::One), ("flip", Views::Flip), ("flip+shift", Views::FlipShift)] {
        let model = parse(&format!("views = \"{name}\"")).unwrap().model;
        assert_eq!(model.predict, Predict { views });
        let json = serde_json::to_string(&model).unwrap();
        assert_eq!(json.contains("predict"), views != Views::One, "files of other models stay as they are");
        assert_eq!(serde_json::from_str::<Model>(&json).unwrap(), model);
    }
    for (predict, part) in [("views = \"two\"", "flip+shift"), ("view = \"flip\"", "views"), ("views = 2", "views")] {
        let error = parse(predict).unwrap_err().to_string();
        assert!(error.contains(part), "{predict}: {error}");
    }
}

/// The views of the model file hold for the evaluation at the end, for `evaluate` and for `predict`, of a run and of its weights alone.
#[test]
fn a_run_keeps_its_views() {
    let place = Place::new();
    let text = "name = \"m\"\nlayers = [{ type = \"flatten\" }, { type = \"dense\", units = 10 }]\n[predict]\nviews = \"flip+shift\"\n";
    fs::write(place.path("m.toml"), text).unwrap();
    let train = "train --dataset synthetic --train-limit 300 --epochs 1 --device cpu";
    let ran = place.run(&format!("{train} --model m.toml --out run")).exits(0);
    assert!(ran.out.contains(", by 6 views; by one view 0."), "{}", ran.out);
    let summary = json_file(&place.path("run/summary.json"));
    let one = summary["test_accuracy_one_view"].as_f64().unwrap();
    assert_eq!(summary["views"], 6);
    assert_eq!(json_file(&place.path("run/report.json"))["views"], 6);
    assert_eq!(json_file(&place.path("run/report.json"))["accuracy"], summary["test_accuracy"]);
    let page = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(page.contains("by 6 views of each") && page.contains(" --views flip+shift"), "the report");
    for run in ["run", "run/model.safetensors"] {
        let evaluate = |flags: &str| {
            place.run(&format!("evaluate {run} --dataset synthetic --device cpu --json {flags}")).exits(0).json()
        };
        let by_views = evaluate("");
        assert_eq!((&by_views["views"], &by_views["test_accuracy"]), (&6.into(), &summary["test_accuracy"]));
        assert_eq!(by_views["test_accuracy_one_view"], one);
        let alone = evaluate("--views one");
        assert_eq!((&alone["views"], &alone["test_accuracy"]), (&1.into(), &one.into()));
        assert!(alone.get("test_accuracy_one_view").is_none());
    }
    let predict =
        |flags: &str| place.run(&format!("predict run --dataset synthetic --device cpu --test-index 0..40 {flags}"));
    assert!(predict("").exits(0).out.contains(" of 40 correct, by 6 views"));
    let json = predict("--json").exits(0).json();
    assert_eq!(json[0]["views"], 6);
    let alone = predict("--json --views one").exits(0).json();
    assert!(alone[0].get("views").is_none() && alone[0]["probability"] != json[0]["probability"]);
    place.run("evaluate run --views two").exits(2).says(&["two", "flip+shift"]);

    // Asked for by the flag, taken back by it, and changed when the run is resumed.
    place.run(&format!("{train} --model mlp --views flip --out flag --quiet --no-report")).exits(0);
    assert_eq!(json_file(&place.path("flag/summary.json"))["views"], 2);
    place.run("train --resume flag --model mlp --epochs 1 --quiet --no-report").exits(0);
    place.run("train --resume flag --views flip+shift --quiet --no-report").exits(0);
    assert_eq!(json_file(&place.path("flag/summary.json"))["views"], 6);
    place.run("train --resume flag --views one --quiet --no-report").exits(0);
    assert!(json_file(&place.path("flag/summary.json")).get("test_accuracy_one_view").is_none());
}
