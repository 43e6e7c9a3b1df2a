use crate::support::gpu;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::gpu::timing::Timings;
use fmnist_gpu::gpu::{Element, PlanBuilder};
use fmnist_gpu::ops::relu;
use fmnist_gpu::report::{Roofline, RooflinePoint, draw_roofline};
use serde_json::Value;
use std::process::Command;

fn run(line: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fmnist-gpu")).args(line.split_whitespace()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(line: &str) -> Value {
    let (code, out, err) = run(line);
    assert_eq!(code, Some(0), "{line}\n{err}");
    serde_json::from_str(&out).unwrap()
}

fn positive(value: &Value, key: &str) -> f64 {
    let number = value[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {value}"));
    assert!(number > 0.0 && number.is_finite(), "{key} is {number}");
    number
}

#[test]
fn bench_measures_every_setting_that_was_asked_for() {
    gpu();
    let report = json("bench --model mlp --batch-size 16,40 --seconds 0.5 --json");
    for key in ["peak_gflops", "peak_gb_per_second", "startup_ms"] {
        positive(&report, key);
    }
    for key in ["device", "driver"] {
        assert!(!report[key].as_str().unwrap().is_empty());
    }
    if cfg!(target_os = "linux") {
        // The images alone are 47 MB.
        assert!(positive(&report, "peak_memory_mb") > 47.0);
    }
    let results = report["results"].as_array().unwrap();
    let settings: Vec<(u64, &str)> =
        results.iter().map(|r| (r["batch_size"].as_u64().unwrap(), r["mode"].as_str().unwrap())).collect();
    assert_eq!(settings, [(16, "train"), (16, "inference"), (40, "train"), (40, "inference")]);
    for result in results {
        assert_eq!(result["model"], "mlp");
        let speed = positive(result, "images_per_second");
        assert!(positive(result, "images_per_second_min") <= speed);
        assert!(positive(result, "images_per_second_max") >= speed);
        let batch = positive(result, "batch_size");
        assert!((positive(result, "step_ms") * speed / 1e3 / batch - 1.0).abs() < 1e-6);
        let share = positive(result, "gflops") / report["peak_gflops"].as_f64().unwrap();
        assert!((positive(result, "percent_of_peak") / 100.0 - share).abs() < 1e-6);
        assert!(positive(result, "dispatches_per_step") <= 25.0);
        positive(result, "host_us_per_step");
    }
    // 101,632 multiply-adds an image forward; training adds the gradients of both weights and of the second layer's input.
    let mflop = positive(&results[1], "gflops") * 1e3 / positive(&results[1], "images_per_second");
    assert!((mflop - 2e-6 * 101_632.0).abs() < 1e-6, "{mflop}");
    let mflop = positive(&results[0], "gflops") * 1e3 / positive(&results[0], "images_per_second");
    assert!((mflop - 2e-6 * (3.0 * 101_632.0 - 100_352.0)).abs() < 1e-6, "{mflop}");
}

#[test]
fn bench_compares_with_and_without_run_time_checks() {
    gpu();
    let report = json("bench --model mlp --batch-size 16 --seconds 0.3 --mode train --ab-checks --json");
    let checks: Vec<bool> =
        report["results"].as_array().unwrap().iter().map(|r| r["runtime_checks"].as_bool().unwrap()).collect();
    assert_eq!(checks, [false, true]);
}

#[test]
fn bench_refuses_what_it_cannot_measure() {
    for (flags, part) in
        [("--seconds 0", "--seconds is 0"), ("--seconds nan", "--seconds is NaN"), ("--batch-size 0", "0")]
    {
        let (code, _, err) = run(&format!("bench {flags}"));
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(part), "{err}");
    }
}

#[test]
fn profile_accounts_for_every_dispatch_of_a_step() {
    gpu();
    let report = json("profile --model mlp --batch-size 20 --steps 3 --json");
    let kernels = report["kernels"].as_array().unwrap();
    let calls: u64 = kernels.iter().map(|k| k["calls"].as_u64().unwrap()).sum();
    assert_eq!(calls, report["dispatches_per_step"].as_u64().unwrap());
    assert!(report["barriers_per_step"].as_u64().unwrap() < calls);
    let share: f64 = kernels.iter().map(|k| positive(k, "percent_of_step")).sum();
    assert!((share - 100.0).abs() < 1e-6);
    let sum: f64 = kernels.iter().map(|k| positive(k, "median_us")).sum();
    assert!((sum / positive(&report, "kernels_us") - 1.0).abs() < 1e-9);
    for key in ["step_us", "host_us_per_step", "peak_gflops", "peak_gb_per_second"] {
        positive(&report, key);
    }
    let names: Vec<&str> = kernels.iter().map(|k| k["kernel"].as_str().unwrap()).collect();
    for pass in ["batch_gather", "dense_forward", "dense_backward_w", "softmax_xent_backward_x", "adam_step"] {
        assert!(names.iter().any(|name| name.starts_with(pass)), "no {pass} in {names:?}");
    }
}

#[test]
fn profile_of_a_forward_pass_has_no_backward_kernels() {
    gpu();
    let report = json("profile --model mlp --batch-size 20 --steps 3 --mode inference --json");
    assert_eq!(report["mode"], "inference");
    let names: Vec<&str> =
        report["kernels"].as_array().unwrap().iter().map(|k| k["kernel"].as_str().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("dense_forward")), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("backward") || name.contains("adam")), "{names:?}");
}

/// The picture as XML: names, places and labels.
#[test]
fn roofline_shows_each_kernel_where_it_belongs() {
    let point = |name: &str, gflops: f64, gb_per_second: f64| RooflinePoint {
        name: name.to_string(),
        gflops,
        gb_per_second,
        percent_of_step: 10.0,
    };
    let roofline = Roofline {
        title: "A title with < and &".to_string(),
        subtitle: "A device".to_string(),
        peak_gflops: 100.0,
        peak_gb_per_second: 10.0,
        // At 1, 10 and 100 operations a byte, three of them on one spot, and one that only moves bytes.
        points: vec![
            point("one", 1.0, 1.0),
            point("ten", 10.0, 1.0),
            point("hundred", 100.0, 1.0),
            point("again", 10.0, 1.0),
            point("and_again", 10.0, 1.0),
            point("bytes", 0.0, 5.0),
        ],
    };
    let svg = draw_roofline(&roofline).unwrap();
    let document = roxmltree::Document::parse(&svg).unwrap();
    let text_of = |tag: &str| -> String {
        document
            .descendants()
            .find(|n| n.has_tag_name(("http://www.w3.org/2000/svg", tag)))
            .and_then(|n| n.text())
            .unwrap_or_default()
            .to_string()
    };
    assert_eq!(text_of("title"), "A title with < and &");
    assert!(text_of("desc").contains("bytes reaches 50 % of its limit"), "{}", text_of("desc"));
    let number = |node: &roxmltree::Node<'_, '_>, name: &str| -> f64 { node.attribute(name).unwrap().parse().unwrap() };
    let circles: Vec<(f64, f64)> = document
        .descendants()
        .filter(|n| n.tag_name().name() == "circle")
        .map(|n| (number(&n, "cx"), number(&n, "cy")))
        .collect();
    assert_eq!(circles.len(), 5, "{circles:?}");
    let (one, ten, hundred) = (circles[0], circles[1], circles[2]);
    // Logarithmic: the same step from 1 to 10 as from 10 to 100, to a pixel.
    assert!((2.0 * ten.0 - one.0 - hundred.0).abs() <= 2.0 && ten.0 > one.0, "{circles:?}");
    assert!((2.0 * ten.1 - one.1 - hundred.1).abs() <= 2.0 && ten.1 < one.1, "{circles:?}");
    // The third stands on the roof.
    let roof = document
        .descendants()
        .filter(|n| n.tag_name().name() == "polyline")
        .find(|n| n.attribute("stroke-width") == Some("2"))
        .unwrap();
    let last = roof.attribute("points").unwrap().split_whitespace().last().unwrap().to_string();
    let level: f64 = last.split(',').nth(1).unwrap().parse().unwrap();
    assert!((level - hundred.1).abs() <= 1.0, "{level} {circles:?}");
    let texts: Vec<(String, f64, f64)> = document
        .descendants()
        .filter(|n| n.tag_name().name() == "text")
        .map(|n| (n.text().unwrap_or_default().trim().to_string(), number(&n, "x"), number(&n, "y")))
        .collect();
    for point in &roofline.points {
        assert!(texts.iter().any(|(text, ..)| *text == point.name), "{} is not in {texts:?}", point.name);
    }
    // No label of a point covers another.
    let labels: Vec<&(String, f64, f64)> = texts
        .iter()
        .filter(|(text, x, _)| text.parse::<u32>().is_ok_and(|n| (1..=6).contains(&n)) && *x < 610.0 && *x > 75.0)
        .collect();
    assert!(labels.len() >= 5, "{labels:?}");
    for (i, a) in labels.iter().enumerate() {
        for b in &labels[i + 1..] {
            assert!((a.1 - b.1).abs() >= 14.0 || (a.2 - b.2).abs() >= 13.0, "{a:?} and {b:?}");
        }
    }
    assert!(draw_roofline(&Roofline { peak_gflops: 0.0, ..roofline }).is_err());
}

#[test]
fn profile_writes_its_roofline_and_overwrites_nothing() {
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("roof.svg");
    let line = format!("profile --model mlp --batch-size 20 --steps 3 --roofline {}", path.display());
    let (code, _, err) = run(&line);
    assert_eq!(code, Some(0), "{err}");
    let svg = std::fs::read_to_string(&path).unwrap();
    assert!(roxmltree::Document::parse(&svg).is_ok() && svg.contains("adam_step"));
    std::fs::write(&path, "mine").unwrap();
    let (code, _, err) = run(&line);
    assert!(code == Some(2) && err.contains("--force"), "{err}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(run(&format!("{line} --force")).0, Some(0));
    assert!(std::fs::read_to_string(&path).unwrap().contains("<svg"));
    let (code, _, err) = run("profile --roofline picture.png");
    assert!(code == Some(2) && err.contains(".svg"), "{err}");
}

/// What is known: the copy moves 64 MiB twice, and no adapter is as slow or as fast as the bounds.
#[test]
fn peaks_are_of_this_world() {
    let peak = Peak::measure(gpu()).unwrap();
    assert!(peak.gflops > 0.5 && peak.gflops < 1e6, "{peak:?}");
    assert!(peak.gb_per_second > 0.05 && peak.gb_per_second < 1e5, "{peak:?}");
}

/// Twice the work takes longer, and one time comes back for each dispatch and round.
#[test]
fn timings_follow_the_work() {
    let gpu = gpu();
    let mut plan = PlanBuilder::new(gpu);
    for len in [1 << 10, 1 << 22] {
        let (x, y) = (gpu.tensor("x", &[len], Element::F32).unwrap(), gpu.tensor("y", &[len], Element::F32).unwrap());
        relu::record_forward(&mut plan, len, &x, &y).unwrap();
    }
    let plan = plan.finish().unwrap();
    let timings = Timings::measure(gpu, &plan, 5).unwrap();
    assert_eq!(timings.seconds.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5]);
    let fastest = |i: usize| timings.seconds[i].iter().copied().fold(f64::INFINITY, f64::min);
    assert!(fastest(1) > 4.0 * fastest(0), "{timings:?}");
}
