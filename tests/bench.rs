use crate::support::gpu;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::gpu::timing::Timings;
use fmnist_gpu::gpu::{Element, PlanBuilder};
use fmnist_gpu::ops::relu;
use fmnist_gpu::report::{Roofline, RooflinePoint, draw_roofline};
use pollster::FutureExt as _;
use serde_json::Value;
use std::process::Command;

fn run(line: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fmnist-gpu"));
    // Without a GPU, the default would be the native engine.
    command.args(line.split_whitespace()).env("WGPU_ADAPTER_NAME", &gpu().info().name);
    let output = command.output().unwrap();
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
    // 101,632 multiply-adds per image forward; training adds the gradients of both weights and of the second layer's input.
    let mflop = positive(&results[1], "gflops") * 1e3 / positive(&results[1], "images_per_second");
    assert!((mflop - 2e-6 * 101_632.0).abs() < 1e-6, "{mflop}");
    let mflop = positive(&results[0], "gflops") * 1e3 / positive(&results[0], "images_per_second");
    assert!((mflop - 2e-6 * (3.0 * 101_632.0 - 100_352.0)).abs() < 1e-6, "{mflop}");
}

/// Returns the numbers in a text, in their order.
fn numbers(text: &str) -> Vec<f64> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .filter_map(|word| word.trim_end_matches('.').parse().ok())
        .collect()
}

/// Checks that two numbers differ by no more than the rounding of what was printed explains.
#[track_caller]
fn agree(a: f64, b: f64, rounding: f64) {
    assert!((a - b).abs() <= rounding, "{a} and {b} differ by more than {rounding}");
}

/// The numbers that people read follow from each other.
#[test]
fn the_table_of_bench_adds_up() {
    let (code, out, err) = run("bench --device cpu --threads 1 --model mlp --batch-size 16,40 --seconds 0.5");
    assert_eq!(code, Some(0), "{err}");
    let said: Vec<&str> = err.lines().filter(|line| line.contains("at batch size")).collect();
    let settings = [
        ("Training", "train", 16.0),
        ("Inference", "inference", 16.0),
        ("Training", "train", 40.0),
        ("Inference", "inference", 40.0),
    ];
    assert_eq!(said, settings.map(|(what, _, batch)| format!("{what} at batch size {batch}")));

    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].ends_with(", 1 thread"), "{out}");
    let limits = numbers(lines[1]);
    let [startup, device, upload, first] = numbers(lines[2])[..] else { panic!("{}", lines[2]) };
    agree(startup, device + upload + first, 2.0);
    let has_memory = usize::from(cfg!(target_os = "linux"));
    let rows = &lines[4 + has_memory..];
    assert_eq!(rows.len(), settings.len(), "{out}");
    for (row, (_, mode, batch)) in rows.iter().zip(settings) {
        assert_eq!(row.split_whitespace().take(2).collect::<Vec<_>>(), ["mlp", mode]);
        let row = numbers(row);
        let [of_batch, speed, slowest, fastest, step_ms, gflops, percent, dispatches, host_us] = row[..] else {
            panic!("{row:?}")
        };
        assert!(of_batch == batch && slowest <= speed && speed <= fastest, "{row:?}");
        assert_eq!([dispatches, host_us], [0.0, 0.0], "the native engine has no dispatches");
        agree(step_ms, 1e3 * batch / speed, 0.006);
        let mflop = if mode == "train" { 2e-6 * (3.0 * 101_632.0 - 100_352.0) } else { 2e-6 * 101_632.0 };
        agree(gflops, speed * mflop * 1e-3, 0.051);
        agree(percent, 100.0 * gflops / limits[0], 0.06 + 12.0 / limits[0]);
    }
}

/// The same for a profile: each row with its share of the sum, and with a rate if the kernel is one of those whose multiply-adds count.
#[test]
fn the_table_of_profile_adds_up() {
    gpu();
    let (code, out, err) = run("profile --model mlp --batch-size 20 --steps 3");
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<&str> = out.lines().collect();
    let [gflops, gb_per_second, launch] = numbers(lines[1])[..] else { panic!("{}", lines[1]) };
    assert!(launch > 0.0);
    assert!(lines[2].starts_with("A training step of mlp at batch size 20: "), "{out}");
    let [_, step, dispatches, barriers, _] = numbers(lines[2])[..] else { panic!("{}", lines[2]) };
    assert!(step > 0.0 && barriers < dispatches, "{out}");
    let sum = numbers(lines[3]).pop().unwrap();
    let (mut calls, mut median) = (0.0, 0.0);
    for line in &lines[5..] {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let number = |i: usize| words[i].trim_end_matches('%').parse::<f64>().unwrap();
        calls += number(0);
        median += number(1);
        agree(number(2), 100.0 * number(1) / sum, 0.06 + 60.0 / sum);
        assert_eq!(words[3] == "-", !line.starts_with("dense"), "{line}");
        assert_eq!(words[4] == "-", words[3] == "-", "{line}");
        if words[3] != "-" {
            agree(number(4), 100.0 * number(3) / gflops, 0.06 + 12.0 / gflops);
        }
        agree(number(6), 100.0 * number(5) / gb_per_second, 0.06 + 12.0 / gb_per_second);
    }
    agree(calls, dispatches, 0.0);
    agree(median, sum, 0.6 + 0.05 * lines.len() as f64);
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
    // A byte and a float of each pixel.
    let gather = kernels.iter().find(|k| k["kernel"] == "batch_gather").unwrap();
    let bytes = 1e3 * positive(gather, "gb_per_second") * positive(gather, "median_us");
    assert!((bytes / (5.0 * 20.0 * 784.0) - 1.0).abs() < 1e-9, "{bytes}");
    for key in ["step_us", "host_us_per_step", "peak_gflops", "peak_gb_per_second", "launch_us"] {
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

/// Dense layers of one width share a row, even if the first has 784 inputs and the others 128 (in some forms it has a separate kernel).
#[test]
fn profile_adds_up_the_work_of_calls_that_differ() {
    gpu();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep.toml");
    let dense = "[[layer]]\ntype = \"dense\"\nunits = 128\nactivation = \"relu\"\n";
    let last = "[[layer]]\ntype = \"dense\"\nunits = 10\n";
    std::fs::write(&path, format!("name = \"deep\"\n[[layer]]\ntype = \"flatten\"\n{dense}{dense}{dense}{last}"))
        .unwrap();
    let report = json(&format!("profile --model {} --batch-size 20 --steps 3 --mode inference --json", path.display()));
    let kernels = report["kernels"].as_array().unwrap();
    assert!(kernels.iter().any(|k| k["calls"].as_u64() >= Some(2)), "{kernels:?}");
    let number = |k: &Value, key: &str| k[key].as_f64().unwrap();
    let flop: f64 = kernels.iter().map(|k| 1e3 * number(k, "gflops") * number(k, "median_us")).sum();
    let expected = 2.0 * 20.0 * f64::from(784 * 128 + 2 * 128 * 128 + 128 * 10);
    assert!((flop / expected - 1.0).abs() < 1e-6, "{flop} for {expected}");
}

/// What the tests read from a plot.
struct Drawn {
    title: String,
    description: String,
    height: f64,
    /// Content, x, y.
    texts: Vec<(String, f64, f64)>,
    /// Centre and radius.
    circles: Vec<[f64; 3]>,
    /// Positions of the vertical and horizontal lines: x or y, with the number of the label.
    grid_x: Vec<(f64, f64)>,
    grid_y: Vec<(f64, f64)>,
    roof: Vec<(f64, f64)>,
}

impl Drawn {
    fn read(svg: &str) -> Drawn {
        let document = roxmltree::Document::parse(svg).unwrap();
        let nodes = |tag: &'static str| {
            document.descendants().filter(move |n| n.has_tag_name(("http://www.w3.org/2000/svg", tag)))
        };
        let content = |tag| nodes(tag).next().and_then(|n| n.text()).unwrap_or_default().to_string();
        let number = |node: &roxmltree::Node<'_, '_>, name: &str| -> f64 {
            node.attribute(name).unwrap_or_else(|| panic!("no {name} in {node:?}")).parse().unwrap()
        };
        let texts: Vec<(String, f64, f64)> = nodes("text")
            .map(|n| (n.text().unwrap_or_default().trim().to_string(), number(&n, "x"), number(&n, "y")))
            .collect();
        let (mut grid_x, mut grid_y) = (Vec::new(), Vec::new());
        for line in nodes("line") {
            let (x, y) = (number(&line, "x1"), number(&line, "y1"));
            let upright = x == number(&line, "x2");
            // Labels are below vertical lines and left of horizontal ones.
            for (text, at_x, at_y) in &texts {
                let Ok(value) = text.parse::<f64>() else { continue };
                if upright && (at_x - x).abs() <= 1.0 && *at_y > y {
                    grid_x.push((x, value));
                } else if !upright && (at_y - y).abs() <= 1.0 && *at_x < x {
                    grid_y.push((y, value));
                }
            }
        }
        let roof = nodes("polyline").find(|n| n.attribute("stroke-width") == Some("2")).unwrap();
        let pairs = roof.attribute("points").unwrap().split_whitespace().map(|pair| pair.split_once(',').unwrap());
        Drawn {
            title: content("title"),
            description: content("desc"),
            height: number(&nodes("svg").next().unwrap(), "height"),
            circles: nodes("circle").map(|n| [number(&n, "cx"), number(&n, "cy"), number(&n, "r")]).collect(),
            grid_x,
            grid_y,
            roof: pairs.map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).collect(),
            texts,
        }
    }

    /// Left, top, right, bottom of the numbers next to the points: those inside the plot, without tick labels and the list.
    fn labels(&self) -> Vec<[f64; 4]> {
        let (left, right) = (self.roof[0].0, self.roof[2].0);
        let bottom = self.texts.iter().find(|t| t.0 == "floating-point operations per byte").unwrap().2 - 50.0;
        let inside = |x: f64, y: f64| x > left && x < right && y < bottom;
        let digits = self.texts.iter().filter(|(text, x, y)| text.parse::<u32>().is_ok() && inside(*x, *y));
        // A digit of a sans-serif font is at most 0.65 em wide, and its height at most 0.75 em, of 13 pixels.
        digits
            .map(|(text, x, y)| {
                let (half, high) = (4.2 * text.len() as f64, 4.9);
                [x - half, y - high, x + half, y + high]
            })
            .collect()
    }
}

fn meets(a: &[f64; 4], b: &[f64; 4]) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

fn point(name: &str, gflops: f64, gb_per_second: f64) -> RooflinePoint {
    RooflinePoint { name: name.to_string(), gflops, gb_per_second, percent_of_step: 10.0 }
}

fn roofline(points: Vec<RooflinePoint>) -> Roofline {
    let title = "A title with < and &".to_string();
    let subtitle = "A device".to_string();
    Roofline { title, subtitle, peak_gflops: 100.0, peak_gb_per_second: 10.0, points }
}

/// The plot as XML: names and positions.
#[test]
fn roofline_shows_each_kernel_where_it_belongs() {
    // At 1, 10 and 100 operations per byte, and one that only moves bytes.
    let roofline = roofline(vec![
        point("one", 1.0, 1.0),
        point("ten", 10.0, 1.0),
        point("hundred", 100.0, 1.0),
        point("bytes", 0.0, 5.0),
    ]);
    let drawn = Drawn::read(&draw_roofline(&roofline).unwrap());
    assert_eq!(drawn.title, "A title with < and &");
    assert!(drawn.description.contains("bytes: 5.00 GB/s, 50 % of its limit"), "{}", drawn.description);
    assert_eq!(drawn.circles.len(), 3, "{:?}", drawn.circles);
    // On the grid lines with their numbers, to a pixel.
    for (circle, value) in drawn.circles.iter().zip([1.0, 10.0, 100.0]) {
        for (at, grid) in [(circle[0], &drawn.grid_x), (circle[1], &drawn.grid_y)] {
            let line = grid.iter().find(|(_, label)| *label == value);
            let (place, _) = line.unwrap_or_else(|| panic!("no line {value} in {grid:?}"));
            assert!((at - place).abs() <= 1.0, "{value}: {at} is not on {place}");
        }
    }
    // The roof: 10 GB/s at 1 operation per byte are 10 GFLOP/s, and from 10 on it is constant at 100.
    let level = drawn.circles[2][1];
    assert!(drawn.roof[1..].iter().all(|(_, y)| (y - level).abs() <= 1.0), "{:?}", drawn.roof);
    assert!((drawn.roof[1].0 - drawn.circles[1][0]).abs() <= 1.0, "{:?}", drawn.roof);
    let (from, to) = (drawn.roof[0], drawn.roof[1]);
    let at_one = from.1 + (to.1 - from.1) * (drawn.circles[0][0] - from.0) / (to.0 - from.0);
    assert!((at_one - drawn.circles[1][1]).abs() <= 2.0, "{at_one} {:?}", drawn.circles);
    for name in ["one", "ten", "hundred", "bytes", "5.00 GB/s", "100.0 GFLOP/s", "50", "A device"] {
        assert!(drawn.texts.iter().any(|(text, ..)| text == name), "{name} is not in {:?}", drawn.texts);
    }
    let broken = Roofline { peak_gflops: 0.0, ..roofline.clone() };
    assert!(draw_roofline(&broken).is_err());
    // Neither character is allowed in XML.
    let odd = Roofline { title: "a\u{1}b\u{ffff}".to_string(), ..roofline };
    assert_eq!(Drawn::read(&draw_roofline(&odd).unwrap()).title, "a b ");
}

/// Forty kernels, many of them in one place, some on the roof and in the corners.
#[test]
fn roofline_labels_cover_nothing_and_the_list_has_room() {
    let points: Vec<_> = (0..40)
        .map(|i| match i % 4 {
            0 => point(&format!("kernel_{i}"), 10.0, 1.0),
            1 => point(&format!("kernel_{i}"), 12.0 + f64::from(i) / 10.0, 1.0),
            2 => point(&format!("kernel_{i}"), 99.0, 1.0 + f64::from(i) / 4.0),
            _ => point(&format!("kernel_{i}"), 0.01 * f64::from(i), 3.0),
        })
        .collect();
    let roofline = roofline(points);
    let drawn = Drawn::read(&draw_roofline(&roofline).unwrap());
    let labels = drawn.labels();
    assert_eq!(labels.len(), 40, "{labels:?}");
    for (i, label) in labels.iter().enumerate() {
        assert!(label[0] > drawn.roof[0].0 && label[2] < drawn.roof[2].0 && label[1] > 60.0, "{label:?}");
        for other in &labels[i + 1..] {
            assert!(!meets(label, other), "{label:?} and {other:?}");
        }
        for circle in &drawn.circles {
            let [x, y, r] = *circle;
            let nearest = (x.clamp(label[0], label[2]) - x).hypot(y.clamp(label[1], label[3]) - y);
            assert!(nearest >= r, "{label:?} covers {circle:?}");
        }
    }
    for (text, _, y) in &drawn.texts {
        assert!(*y < drawn.height - 10.0, "{text} is at {y} of {}", drawn.height);
    }
    for point in &roofline.points {
        assert!(drawn.texts.iter().any(|(text, ..)| *text == point.name), "no {}", point.name);
    }
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
    let drawn = Drawn::read(&svg);
    for kernel in ["adam_step", "batch_gather", "softmax_xent_backward_x", "dense_forward", "dense_backward_w"] {
        assert!(drawn.texts.iter().any(|(text, ..)| text.starts_with(kernel)), "{kernel} is not in the plot");
    }
    assert!(drawn.title.contains("mlp at batch size 20"), "{}", drawn.title);
    std::fs::write(&path, "mine").unwrap();
    let (code, _, err) = run(&line);
    assert!(code == Some(2) && err.contains("--force"), "{err}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(run(&format!("{line} --force")).0, Some(0));
    assert!(std::fs::read_to_string(&path).unwrap().contains("<svg"));
    let (code, _, err) = run("profile --roofline picture.png");
    assert!(code == Some(2) && err.contains(".svg"), "{err}");
}

/// The copy moves 64 MiB twice, and no adapter is as slow or as fast as these bounds.
#[test]
fn peaks_are_plausible() {
    let peak = Peak::measure(gpu()).block_on().unwrap();
    assert!(peak.gflops > 0.5 && peak.gflops < 1e6, "{peak:?}");
    assert!(peak.gb_per_second > 0.05 && peak.gb_per_second < 1e5, "{peak:?}");
}

/// More work takes longer, and there is one time per dispatch and round.
#[test]
fn timings_follow_the_work() {
    let gpu = gpu();
    let mut plan = PlanBuilder::new(gpu);
    for len in [1 << 10, 1 << 22] {
        let (x, y) = (gpu.tensor("x", &[len], Element::F32).unwrap(), gpu.tensor("y", &[len], Element::F32).unwrap());
        relu::record_forward(&mut plan, len, [&x, &y]).unwrap();
    }
    let plan = plan.finish().block_on().unwrap();
    for repeats in [1, 4] {
        let timings = Timings::measure(gpu, &plan, 5, repeats).block_on().unwrap();
        assert_eq!(timings.seconds.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5]);
        let fastest = |i: usize| timings.seconds[i].iter().copied().fold(f64::INFINITY, f64::min);
        assert!(fastest(1) > 4.0 * fastest(0), "{timings:?}");
    }
}
