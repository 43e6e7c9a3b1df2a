use crate::support::gpu;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::gpu::timing::Timings;
use fmnist_gpu::gpu::{Element, PlanBuilder};
use fmnist_gpu::ops::relu;
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
