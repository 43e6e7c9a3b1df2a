use crate::support::program::Place;
use crate::support::{gpu, not_run};
use fmnist_gpu::data::{Description, FASHION_MNIST, Split, synthetic};
use fmnist_gpu::model::{Layer, Model, initial_parameters};
use fmnist_gpu::report::maps::{feature_maps, filters};
use fmnist_gpu::report::metrics::{Metrics, N_BINS, mcnemar, wilson_95};
use fmnist_gpu::report::plots::{Curve, draw_bars, draw_calibration, draw_confusion, draw_curves, escape};
use fmnist_gpu::report::{Tile, draw_tiles};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn row(class: usize, probability: f32) -> Vec<f32> {
    (0..10).map(|i| if i == class { probability } else { (1.0 - probability) / 9.0 }).collect()
}

/// Builds a split and its probabilities from labels, predicted classes and their probabilities.
fn split_of(answers: &[(u8, usize, f32)]) -> (Split, Vec<f32>) {
    let labels: Vec<u8> = answers.iter().map(|a| a.0).collect();
    let probabilities = answers.iter().flat_map(|a| row(a.1, a.2)).collect();
    (Split { images: vec![0; 784 * labels.len()], labels }, probabilities)
}

/// Six predictions whose metrics were calculated by hand.
#[test]
fn metrics_of_six_answers() {
    let answers = [(0, 0, 0.9), (0, 0, 0.8), (0, 1, 0.95), (1, 1, 0.7), (1, 1, 1.0), (2, 0, 0.5)];
    let (split, probabilities) = split_of(&answers);
    let m = Metrics::new(&split, &probabilities, &FASHION_MNIST);
    assert_eq!((m.images, m.right.as_str()), (6, "110110"));
    assert!((m.accuracy - 4.0 / 6.0).abs() < 1e-12);
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a}, expected {b}");
    // Class 0: predicted three times, twice correctly, three images. Class 1: predicted three times, twice correctly, two images.
    close(m.classes[0].precision, 2.0 / 3.0);
    close(m.classes[0].recall, 2.0 / 3.0);
    close(m.classes[1].precision, 2.0 / 3.0);
    close(m.classes[1].recall, 1.0);
    close(m.classes[1].f1, 0.8);
    assert_eq!(
        (m.classes[2].precision, m.classes[2].recall, m.classes[2].f1, m.classes[2].support),
        (0.0, 0.0, 0.0, 1)
    );
    close(m.macro_f1, (2.0 / 3.0 + 0.8) / 10.0);
    assert_eq!(m.confusion[0][1], 1);
    assert_eq!(m.confusion.iter().flatten().sum::<u64>(), 6);
    // Gaps of .1, .2, .3 and .5; .95 and 1.0 share the last bin, where one of two is correct with a mean confidence of .975.
    close(m.ece, (0.1 + 0.2 + 0.3 + 0.5 + 2.0 * 0.475) / 6.0);
    let loss: f64 = answers
        .iter()
        .map(|&(label, class, p)| {
            let p = f64::from(p);
            -(if usize::from(label) == class { p } else { (1.0 - p) / 9.0 }).ln()
        })
        .sum();
    assert!((m.loss - loss / 6.0).abs() < 1e-5, "{} {}", m.loss, loss / 6.0);
    // The mistake with the highest confidence comes first.
    assert_eq!(m.mistakes.iter().map(|m| m.index).collect::<Vec<_>>(), [2, 5]);
    assert_eq!(m.bins.len(), N_BINS);
    assert_eq!(m.bins.iter().map(|b| b.images).sum::<u64>(), 6);
}

/// The number of classes and their names come from the description of the data set.
#[test]
fn metrics_of_two_classes() {
    let two = Description { name: "two", shape: [2, 1, 1], class_names: &["cat", "dog"] };
    let split = Split { images: vec![0; 6], labels: vec![0, 1, 1] };
    let m = Metrics::new(&split, &[0.9, 0.1, 0.2, 0.8, 0.7, 0.3], &two);
    assert_eq!(m.confusion, [[1, 0], [1, 1]]);
    assert_eq!(m.classes.iter().map(|class| class.class.as_str()).collect::<Vec<_>>(), two.class_names);
    let svg = draw_confusion(&m.confusion, &two).unwrap();
    assert!(svg.contains("dog: 1 as cat, 1 as dog"), "{svg}");
    let json = serde_json::to_vec(&m).unwrap();
    assert_eq!(Metrics::parse(&json, &two).unwrap(), m);
    assert_eq!(Metrics::parse(&json, &FASHION_MNIST).unwrap_err(), "it has metrics of 2 classes, expected 10");
    let ragged = Metrics { confusion: vec![vec![1, 0], vec![1]], ..m };
    let said = Metrics::parse(&serde_json::to_vec(&ragged).unwrap(), &two).unwrap_err();
    assert_eq!(said, "its confusion matrix is not 2 x 2");
}

/// Values from R: `binom::binom.confint(method = "wilson")` and `mcnemar.exact`.
#[test]
fn intervals_and_tests_agree_with_published_values() {
    for (right, n, [low, high]) in
        [(9171, 10_000, [0.911531, 0.922339]), (0, 10, [0.0, 0.277533]), (10, 10, [0.722467, 1.0])]
    {
        let [l, h] = wilson_95(right, n);
        assert!((l - low).abs() < 2e-5 && (h - high).abs() < 2e-5, "{right}/{n}: {l} {h}");
    }
    let (a, b, p) = mcnemar("1111100000", "0000010000").unwrap();
    assert_eq!((a, b), (5, 1));
    // Two tails of six fair coins: 2 (1 + 6) / 64.
    assert!((p - 14.0 / 64.0).abs() < 1e-12, "{p}");
    assert_eq!(mcnemar("10", "10").unwrap(), (0, 0, 1.0));
    assert!(mcnemar("1", "11").is_none());
    let (_, _, p) = mcnemar(&"1".repeat(3000), &"0".repeat(3000)).unwrap();
    assert!((0.0..1e-300).contains(&p), "{p}");
}

/// Plots are valid XML, whatever the names are.
#[test]
fn plots_are_whole_with_names_of_any_kind() {
    let hostile = "<script>alert('1')</script> & \"x\" \u{0} \u{fffe}";
    let curve = |points: Vec<(f64, f64)>| Curve { name: hostile.into(), colour: 7, dashed: true, points };
    let confusion = |count: u64| vec![vec![count; 10]; 10];
    let (split, probabilities) = split_of(&[(0, 0, 0.9), (1, 2, 0.4)]);
    let metrics = Metrics::new(&split, &probabilities, &FASHION_MNIST);
    let many = (1..=40).map(|i| (f64::from(i), 1.0 / f64::from(i))).collect();
    let pictures = [
        draw_curves(hostile, hostile, &[curve(many), curve(vec![(1.0, f64::NAN), (2.0, 0.5)]), curve(vec![])]).unwrap(),
        draw_curves("nothing", "x", &[]).unwrap(),
        draw_curves("flat", "x", &[curve(vec![(1.0, 0.0), (2.0, 0.0)])]).unwrap(),
        draw_confusion(&confusion(3), &FASHION_MNIST).unwrap(),
        draw_confusion(&confusion(0), &FASHION_MNIST).unwrap(),
        draw_calibration(&metrics.bins, metrics.ece).unwrap(),
        draw_bars(hostile, "us", &[(hostile.into(), 10.0), ("none".into(), 0.0)]).unwrap(),
        draw_bars("nothing", "us", &[]).unwrap(),
    ];
    for svg in &pictures {
        let document = roxmltree::Document::parse(svg).unwrap_or_else(|error| panic!("{error} in\n{svg}"));
        let root = document.root_element();
        assert_eq!(root.attribute("role"), Some("img"));
        assert!(!svg.contains("<script"), "{svg}");
        assert!(root.children().any(|n| n.has_tag_name("desc") || n.tag_name().name() == "desc"));
        assert_inside(root);
    }
    assert_eq!(escape("<a href='x'>&\"\u{1}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot; ");
}

/// Nothing is drawn outside of a picture: no corner of a shape, and no text is placed there.
fn assert_inside(root: roxmltree::Node<'_, '_>) {
    let number = |node: roxmltree::Node<'_, '_>, name: &str| node.attribute(name)?.parse::<f64>().ok();
    for node in root.descendants().skip(1) {
        for (axis, limit) in
            [["x", "cx", "x1", "x2", "width"], ["y", "cy", "y1", "y2", "height"]].iter().zip(["width", "height"])
        {
            let limit = number(root, limit).unwrap();
            let extent = number(node, axis[4]).or(number(node, "r")).unwrap_or(0.0);
            for at in axis[..4].iter().filter_map(|name| number(node, name)) {
                assert!(at >= 0.0 && at + extent <= limit, "{at} and {extent} of {limit}: {node:?}");
            }
        }
        let points =
            node.attribute("points").unwrap_or_default().split_whitespace().filter_map(|point| point.split_once(','));
        for (x, y) in points {
            let [x, y]: [f64; 2] = [x, y].map(|number| number.parse().unwrap());
            let [width, height] = ["width", "height"].map(|name| number(root, name).unwrap());
            assert!((0.0..=width).contains(&x) && (0.0..=height).contains(&y), "{x}, {y} of {width}, {height}");
        }
    }
}

/// In the legend, a dashed line has gaps beside its dot, and a solid line has none.
#[test]
fn the_legend_tells_dashed_from_solid() {
    let curve = |dashed| Curve { name: "a".into(), colour: 0, dashed, points: vec![(1.0, 0.5), (2.0, 0.4)] };
    for dashed in [false, true] {
        let svg = draw_curves("t", "q", &[curve(dashed)]).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let number = |node: roxmltree::Node<'_, '_>, name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
        let dots = document.descendants().filter(|node| node.tag_name().name() == "circle");
        let dot = dots.max_by(|a, b| number(*a, "cy").total_cmp(&number(*b, "cy"))).unwrap();
        let (x, y, radius) = (number(dot, "cx"), number(dot, "cy"), number(dot, "r"));
        let lines = document.descendants().filter(|node| node.tag_name().name() == "polyline");
        let mut nearest = f64::INFINITY;
        for line in lines {
            let points: Vec<f64> =
                line.attribute("points").unwrap().split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
            if points.chunks(2).all(|point| point[1] == y) {
                let (from, to) = (points[0].min(points[2]), points[0].max(points[2]));
                nearest = nearest.min(if from <= x && x <= to { 0.0 } else { (from - x).abs().min((to - x).abs()) });
            }
        }
        assert!(if dashed { nearest >= radius + 4.0 } else { nearest == 0.0 }, "dashed {dashed}: {nearest}, {radius}");
    }
}

/// A known filter is visible in its tile, and so are the outputs of the layers for a known image.
#[test]
fn filters_and_feature_maps_show_what_is_there() {
    let model = Model::cnn();
    let mut parameters = initial_parameters(&model.parameters().unwrap(), 1);
    parameters[0].fill(0.0);
    // The first filter: 1 in the centre, -1 above it.
    parameters[0][4 * 32] = 1.0;
    parameters[0][32] = -1.0;
    let drawn = filters(&model, &parameters).unwrap().unwrap();
    assert_eq!(drawn.layer, "conv2d_1");
    assert!(drawn.title.contains("32 filters, 3 x 3") && drawn.description.contains("-1.000"), "{drawn:?}");
    let colours: HashSet<&[u8]> = drawn.picture.rgb.chunks(3).collect();
    for colour in [[5, 48, 97], [150, 10, 31], [255, 255, 255]] {
        assert!(colours.contains(&colour[..]), "{colour:?}");
    }
    let (split, _) = synthetic::generate(1, 0, 3);
    let maps = feature_maps(&model, &parameters, split.image(0), &FASHION_MNIST).unwrap();
    let layers: Vec<&str> = maps.iter().map(|m| m.layer.as_str()).collect();
    assert_eq!(layers, ["input", "conv2d_1", "maxpool2d_1", "conv2d_2", "maxpool2d_2", "dense_1", "dense_2"]);
    assert_eq!(
        (maps[1].title.as_str(), maps[5].title.as_str()),
        ("conv2d_1: 32 maps of 28 x 28", "dense_1: 128 units")
    );
    assert!(FASHION_MNIST.class_names.iter().all(|name| maps[6].description.contains(name)));
    assert!(feature_maps(&model, &parameters, &[0; 3], &FASHION_MNIST).is_err());
    let mlp = Model::mlp();
    let parameters = initial_parameters(&mlp.parameters().unwrap(), 1);
    assert!(filters(&mlp, &parameters).unwrap().unwrap().title.contains("weights of its 128 units, 28 x 28"));
    let broken: Vec<Vec<f32>> = parameters.iter().map(|p| vec![f32::NAN; p.len()]).collect();
    assert!(filters(&mlp, &broken).unwrap().is_some());
    assert_eq!(feature_maps(&mlp, &broken, split.image(0), &FASHION_MNIST).unwrap().len(), 3);
}

/// Every layer of a graph has its maps; the filters are those of the first layer that reads the image.
#[test]
fn graphs_have_filters_and_feature_maps() {
    let (split, _) = synthetic::generate(1, 0, 3);
    let model = crate::export::residual();
    let parameters = crate::export::trained_size(&model);
    let maps = feature_maps(&model, &parameters, split.image(0), &FASHION_MNIST).unwrap();
    let drawn: Vec<&str> = maps.iter().map(|map| map.layer.as_str()).collect();
    let shapes = model.shapes().unwrap();
    let names = shapes.iter().filter(|shape| shape.layer != Layer::Flatten {}).map(|shape| shape.name.as_str());
    assert_eq!(drawn, std::iter::once("input").chain(names).collect::<Vec<_>>());
    let add = maps.iter().find(|map| map.layer == "add_1").unwrap();
    assert_eq!(add.title, "add_1: 6 maps of 14 x 14");
    // The second layer reads the image too, and is the first with filters.
    let model = crate::export::mixed();
    let parameters = crate::export::trained_size(&model);
    assert_eq!(filters(&model, &parameters).unwrap().unwrap().title, "F: 4 filters, 4 x 4");
    let hidden: Model = toml::from_str(
        "name = \"hidden\"\nlayer = [{ type = \"batchnorm\" }, { type = \"flatten\" }, { type = \"dense\", units = 10 }]",
    )
    .unwrap();
    assert_eq!(filters(&hidden, &crate::export::trained_size(&hidden)).unwrap(), None);
    // Parameters before those of the first filters.
    let second: Model = toml::from_str(
        "name = \"second\"\nlayer = [{ type = \"batchnorm\" }, \
         { type = \"conv2d\", filters = 3, kernel_size = 5, input = \"input\" }, \
         { type = \"conv2d\", filters = 3, kernel_size = 5, input = \"batchnorm_1\" }, \
         { type = \"add\", inputs = [\"conv2d_1\", \"conv2d_2\"] }, { type = \"flatten\" }, { type = \"dense\", units = 10 }]",
    )
    .unwrap();
    let drawn = filters(&second, &crate::export::trained_size(&second)).unwrap().unwrap();
    assert_eq!(drawn.title, "conv2d_1: 3 filters, 5 x 5");
}

#[test]
fn sheets_refuse_what_they_cannot_draw() {
    assert!(draw_tiles(&[], 2, [20, 20]).is_err());
    assert!(draw_tiles(&[Tile::ink(&[0; 4], 2, "")], 0, [20, 20]).is_err());
    let bad = Tile { width: 3, height: 1, rgb: vec![0; 4], caption: String::new(), outline: None };
    assert!(draw_tiles(&[bad], 2, [20, 20]).is_err());
    // Large tiles are averaged, small ones enlarged; a caption takes space.
    let half =
        Tile { width: 2, height: 1000, rgb: [0, 0, 0, 200, 200, 200].repeat(1000), caption: "a".into(), outline: None };
    let picture = draw_tiles(&[half], 2, [20, 20]).unwrap();
    assert!(picture.rgb.chunks(3).any(|c| c == [100; 3]));
}

const TRAIN: &str = "train --dataset synthetic --train-limit 640 --epochs 2 --validation-split 0.25 --quiet";

/// The page is valid XML without network links; every figure has a text alternative, headings are in order and ids are unique.
#[test]
fn the_report_stands_alone_and_is_accessible() {
    gpu();
    let place = Place::new();
    place.run(&format!("{TRAIN} --model mlp --out mlp")).exits(0);
    place.run(&format!("{TRAIN} --model cnn --out cnn --no-report")).exits(0);
    assert!(!place.path("cnn/report.html").exists());
    for name in
        ["report.html", "report.json", "loss.svg", "accuracy.svg", "confusion.svg", "calibration.svg", "filters.png"]
    {
        assert!(place.path("mlp").join(name).exists(), "train wrote no {name}");
    }
    let page = fs::read_to_string(place.path("mlp/report.html")).unwrap();
    check_page(&page);
    assert!(page.contains("Generated images, not Fashion-MNIST") && page.contains("validation"));
    // Both curves and the calibration shrink to fit a phone; the confusion matrix and the times scroll horizontally.
    assert_eq!(page.matches("<div class=\"plot fits\">").count(), 3);
    assert_eq!(page.matches("<div class=\"scroll plot\"").count(), 2);
    let command = "fmnist-gpu train --model mlp --dataset synthetic --epochs 2 --batch-size 32 --optimizer adam \
                   --learning-rate 0.001 --seed 0 --train-limit 640 --validation-split 0.25";
    assert!(page.contains(command), "the command that reproduces the run is not `{command}`");
    // That command produces the same weights.
    let repeated = format!("{} --quiet --no-report --out again", command.trim_start_matches("fmnist-gpu "));
    place.run(&repeated).exits(0);
    assert!(
        fs::read(place.path("again/model.safetensors")).unwrap()
            == fs::read(place.path("mlp/model.safetensors")).unwrap()
    );

    // Where training has another loss, the page says so.
    assert!(!page.contains("Training uses"));
    place.run(&format!("{TRAIN} --model mlp --label-smoothing 0.1 --augment-flip random --out soft")).exits(0);
    let soft = fs::read_to_string(place.path("soft/report.html")).unwrap();
    assert!(soft.contains("Training uses augmented images and smoothed labels; validation and test do not"));

    place.run("report mlp").exits(2).says(&["exists", "--force"]);
    let figures = place.run("report cnn --json --image 3").exits(0).json();
    assert_eq!(figures["classes"].as_array().unwrap().len(), 10);
    let summary = place.path("cnn/summary.json");
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    assert_eq!(figures["accuracy"], summary["test_accuracy"]);
    assert!(place.path("cnn/feature_maps_conv2d_2.png").exists());
    place.run("report cnn --image 10000 --force").exits(2).says(&["--image 10000", "9999"]);
    place.run("report mlp --out elsewhere --quiet --device reference").exits(0);
    check_page(&fs::read_to_string(place.path("elsewhere/report.html")).unwrap());

    let ran = place.run("compare mlp cnn --out page.html").exits(0);
    for part in ["test accuracy", "101,770", "421,642", "A: mlp", "McNemar"] {
        assert!(ran.out.contains(part), "no `{part}` in\n{}", ran.out);
    }
    assert!(ran.out.lines().all(|line| line.chars().count() <= 100), "{}", ran.out);
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    check_page(&page);
    assert!(page.contains("mlp, validation") && page.contains("Recall per class"));
    assert!(page.contains("Best by validation: "), "{page}");
    let json = place.run("compare mlp cnn --json").exits(0).json();
    assert_eq!(json["runs"][1]["summary"]["model"], "cnn");
    // Interrupted training does not evaluate; a later report does.
    let file = place.path("cnn/summary.json");
    let mut interrupted: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let accuracy = format!("{:.4}", interrupted["test_accuracy"].as_f64().unwrap());
    interrupted["test_accuracy"] = serde_json::Value::Null;
    interrupted["test_loss"] = serde_json::Value::Null;
    fs::write(&file, interrupted.to_string()).unwrap();
    let again = place.run("compare mlp cnn").exits(0).out;
    let row = again.lines().find(|line| line.starts_with("test accuracy")).unwrap();
    assert!(row.ends_with(&accuracy), "{row}");
    place.run("compare mlp").exits(2).says(&["2 values required"]);
    fs::create_dir(place.path("bare")).unwrap();
    fs::copy(place.path("mlp/model.safetensors"), place.path("bare/model.safetensors")).unwrap();
    place.run("compare mlp bare").exits(2).says(&["bare", "summary.json"]);
    place.run("compare mlp cnn --out page.html").exits(2).says(&["page.html exists"]);
    in_chromium(&[&place.path("mlp/report.html"), &place.path("page.html")]);
}

pub fn check_page(page: &str) {
    let document = roxmltree::Document::parse_with_options(
        page,
        roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() },
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let mut ids = HashSet::new();
    let mut level = 0;
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let name = node.tag_name().name();
        for attribute in node.attributes() {
            if ["src", "href"].contains(&attribute.name()) {
                let value = attribute.value();
                assert!(value.starts_with('#') || value.starts_with("data:"), "{name} loads {value}");
            }
            if attribute.name() == "id" {
                assert!(ids.insert(attribute.value()), "two elements have the id {}", attribute.value());
            }
        }
        match name {
            "html" => assert_eq!(node.attribute("lang"), Some("en")),
            "img" => assert!(node.attribute("alt").is_some_and(|alt| alt.len() > 10)),
            "svg" => assert!(node.attribute("aria-label").is_some()),
            "script" => panic!("the page has a script"),
            "h1" | "h2" | "h3" => {
                let next: usize = name[1..].parse().unwrap();
                assert!(next <= level + 1, "<{name}> after <h{level}>");
                level = next;
            }
            "table" => assert!(node.children().any(|n| n.has_tag_name("caption"))),
            _ => {}
        }
    }
    let linked = document.descendants().filter_map(|n| n.attribute("href")).filter_map(|href| href.strip_prefix('#'));
    linked.for_each(|id| assert!(ids.contains(id), "a link to #{id}, which does not exist"));
    assert!(!page.contains("url(") && !page.contains("@import") && !page.contains("http-equiv"));
}

/// Opens pages in headless Chromium: no console messages, nothing loaded, no horizontal scrolling at two widths, and the themes differ.
pub fn in_chromium(pages: &[&Path]) {
    let chromium = std::env::var("FMNIST_TEST_CHROMIUM").unwrap_or_else(|_| "chromium".to_string());
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[String]| {
        let mut command = Command::new(&chromium);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--hide-scrollbars",
        ]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        // No name is resolved, so any network request of a page fails with a console message.
        command.args([
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            "--virtual-time-budget=10000",
        ]);
        command.arg(format!("--user-data-dir={}", folder.path().join("profile").display())).args(arguments);
        command.output()
    };
    match run(&["--version".to_string()]) {
        Ok(output) if output.status.success() => {}
        Ok(output) => return not_run("chromium", &String::from_utf8_lossy(&output.stderr), "FMNIST_EXPECT_CHROMIUM"),
        Err(error) => return not_run("chromium", &format!("{chromium}: {error}"), "FMNIST_EXPECT_CHROMIUM"),
    }
    let axe = axe();
    for page in pages {
        for (width, theme) in [(390, 0), (390, 1), (1280, 0), (1280, 1)] {
            // The page is in a frame of that width, because headless windows have a minimum width; it posts its results to the frame.
            let text = fs::read_to_string(page).unwrap();
            let mut probe = "<script>addEventListener('load', () => parent.postMessage('MEASURED ' + \
                             document.documentElement.scrollWidth + ' of ' + innerWidth + ' ', '*'));</script>"
                .to_string();
            if let Some(axe) = &axe {
                fs::copy(axe, folder.path().join("axe.min.js")).unwrap();
                probe.push_str(
                    "<script src=\"axe.min.js\"></script><script>addEventListener('load', () => axe.run().then(\
                     found => parent.postMessage('AXE ' + JSON.stringify(found.violations.map(rule => \
                     [rule.id, rule.nodes.map(node => node.target)])) + ' by ' + found.passes.length + ' rules ', '*')));</script>",
                );
            }
            fs::write(folder.path().join("probed.html"), text.replace("</body>", &(probe + "</body>"))).unwrap();
            let frame = folder.path().join("frame.html");
            let html = format!(
                "<body><script>addEventListener('message', e => document.body.append(e.data))</script>\
                 <iframe src=\"probed.html\" style=\"width:{width}px;height:900px;border:0\"></iframe></body>"
            );
            fs::write(&frame, html).unwrap();
            let output = run(&[
                "--dump-dom".to_string(),
                format!("--blink-settings=preferredColorScheme={theme}"),
                format!("file://{}", frame.display()),
            ])
            .unwrap();
            let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let measured = dom.split("MEASURED ").nth(1).unwrap_or_else(|| panic!("not measured:\n{dom}\n{log}"));
            let numbers: Vec<u32> = measured.split([' ', '<']).filter_map(|word| word.parse().ok()).take(2).collect();
            assert_eq!(numbers[1], width, "the frame's width");
            assert!(numbers[0] <= numbers[1], "{}: {} pixels wide at {width}", page.display(), numbers[0]);
            if axe.is_some() {
                let found = dom.split("AXE ").nth(1).unwrap_or_else(|| panic!("axe did not end:\n{log}"));
                let (violations, rest) = found.split_once(" by ").unwrap();
                assert_eq!(violations, "[]", "{} at {width}, theme {theme}", page.display());
                let passed: usize = rest.split(' ').next().unwrap().parse().unwrap();
                assert!(passed > 10, "axe checked {passed} rules");
            }
        }
        let mut shots = Vec::new();
        for theme in [0, 1] {
            let shot = folder.path().join(format!("shot-{theme}.png"));
            let output = run(&[
                format!("--screenshot={}", shot.display()),
                format!("--blink-settings=preferredColorScheme={theme}"),
                "--window-size=1280,1600".to_string(),
                format!("file://{}", page.display()),
            ])
            .unwrap();
            let log = String::from_utf8_lossy(&output.stderr);
            let said: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
            assert!(said.is_empty(), "{}: {said:?}", page.display());
            let picture = image::open(&shot).unwrap_or_else(|error| panic!("{error}\n{log}")).to_luma8();
            shots.push(picture.get_pixel(5, 5).0[0]);
        }
        assert!(shots[0] < 60 && shots[1] > 200, "dark and light backgrounds are {shots:?}");
    }
    eprintln!("chromium: {} pages, two widths, two themes", pages.len());
}

/// The accessibility checker, fetched by `tests/axe.sh`; reports if it is missing.
fn axe() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("FMNIST_TEST_AXE").unwrap_or_else(|| "target/axe/axe.min.js".into()));
    if !path.exists() {
        not_run("axe", &format!("{} does not exist; see tests/axe.sh", path.display()), "FMNIST_EXPECT_AXE");
        return None;
    }
    Some(path)
}
