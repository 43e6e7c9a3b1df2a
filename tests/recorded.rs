//! What is drawn, written and allowed stays what it is, in every version and on every system, unless somebody means to change it.
//!
//! Each test makes things from fixed inputs, without a device, and compares their digests with those in `tests/fixtures/recorded.json`. After a
//! change that is meant to change some of them, `FMNIST_RECORD=1 cargo test --release recorded` writes the digests again. What differs is in
//! `target/tmp/recorded`, to be looked at first.

use crate::quick::SMALL;
use crate::support::program::Place;
use fmnist_gpu::cpu::batch_gather::{Augment, Flip};
use fmnist_gpu::cpu::philox::Random;
use fmnist_gpu::data::{FASHION_MNIST, Split};
use fmnist_gpu::engine::{KernelTime, KernelTimes};
use fmnist_gpu::model::{Model, initial_parameters, summary, weights};
use fmnist_gpu::photo::{ImageFilter, Invert, Photo, distance, features, prepare};
use fmnist_gpu::report::comparison::{
    Compared, comparison_curves, comparison_page, comparison_rows, comparison_verdicts, comparison_warnings,
};
use fmnist_gpu::report::maps::{feature_maps, filters};
use fmnist_gpu::report::metrics::Metrics;
use fmnist_gpu::report::plots::{Curve, draw_bars, draw_calibration, draw_confusion, draw_curves};
use fmnist_gpu::report::ranking::{draw_settings, ranking, validation_remarks};
use fmnist_gpu::report::run_page::{Report, report_files};
use fmnist_gpu::report::{
    GridItem, Picture, Roofline, RooflinePoint, Tile, Tone, draw_filter, draw_grid, draw_roofline, draw_tiles,
    samples_png,
};
use fmnist_gpu::run::{RunConfig, Summary, parse_history};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The file of digests is read and written by several tests at once.
static FILE: Mutex<()> = Mutex::new(());

/// Returns what the digest of a file is of: the pixels of a picture, which encoders of another version compress in another way.
fn content(bytes: &[u8]) -> Vec<u8> {
    match image::load_from_memory_with_format(bytes, image::ImageFormat::Png) {
        Ok(image) => [image.width().to_le_bytes().as_slice(), &image.to_rgb8()].concat(),
        Err(_) => bytes.to_vec(),
    }
}

/// Compares what was made with what is recorded under this name.
fn compare(name: &str, made: Vec<(String, Vec<u8>)>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recorded.json");
    let digest = |bytes: &[u8]| {
        Sha256::digest(content(bytes)).iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let digests: BTreeMap<&str, String> = made.iter().map(|(name, bytes)| (name.as_str(), digest(bytes))).collect();
    assert_eq!(digests.len(), made.len(), "two have one name");
    let _alone = FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut all: BTreeMap<String, Value> = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    if std::env::var_os("FMNIST_RECORD").is_some() {
        all.insert(name.to_string(), json!(digests));
        fs::write(&path, serde_json::to_string_pretty(&all).unwrap() + "\n").unwrap();
    }
    let differs = |(what, digest): &(&&str, &String)| all[name].get(**what) != Some(&json!(digest));
    let different: Vec<&str> = digests.iter().filter(differs).map(|(what, _)| *what).collect();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("recorded");
    for (what, bytes) in made.iter().filter(|(what, _)| different.contains(&what.as_str())) {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}-{what}")), bytes).unwrap();
    }
    assert!(different.is_empty(), "not as recorded, and now in {}: {different:?}", folder.display());
    assert_eq!(all[name].as_object().unwrap().len(), digests.len(), "more is recorded than was made");
}

/// Numbers in 0..1 that look random.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    (0..len as u32)
        .map(|i| {
            let mixed = (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)).wrapping_mul(2_246_822_519);
            ((mixed ^ (mixed >> 15)) >> 8) as f32 / (1 << 24) as f32
        })
        .collect()
}

/// Probabilities of ten classes for each label: mostly right, some ties.
fn probabilities(labels: &[u8], seed: u32) -> Vec<f32> {
    let random = numbers(labels.len(), seed);
    let of_image = |(&label, &random): (&u8, &f32)| {
        let class = if random < 0.8 { label } else { (label + 1 + (random * 50.0) as u8 % 3) % 10 };
        let first = (0.15 + 0.8 * random) * 0.9;
        (0..10).map(move |i| if i == class { first } else { (1.0 - first) / 9.0 })
    };
    labels.iter().zip(&random).flat_map(of_image).collect()
}

fn images(n: usize) -> Split {
    let pixels = numbers(784 * n, 9).iter().map(|&x| if x < 0.4 { 0 } else { (x * 255.0) as u8 }).collect();
    Split { images: pixels, labels: (0..n).map(|i| (i % 10) as u8).collect() }
}

/// A run with a validation; `seed` changes what it learnt, `rate` its learning rate.
fn run(name: &str, seed: u64, rate: f64, epochs: u64) -> Compared {
    let model: Model = toml::from_str(SMALL).unwrap();
    let config = json!({
        "version": "1.2.3", "model": model, "model_file": "small.toml", "dataset": "synthetic", "data_source": "generated with seed 0",
        "train_images": 30, "validation_images": 10, "validation_split": 0.25, "seed": seed, "epochs": epochs, "batch_size": 32,
        "optimizer": {"name": "adam", "learning_rate": rate, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        "device": "a card", "driver": "a driver 4", "backend": "vulkan", "safe": false,
    });
    let accuracy = 0.71 + 0.004 * seed as f64;
    let summary = json!({
        "model": "small", "dataset": "synthetic", "device": "a card", "driver": "a driver 4", "seed": seed, "epochs": epochs,
        "epochs_completed": epochs, "status": "complete", "batch_size": 32, "parameters": 754, "test_loss": 0.9 / (seed + 1) as f64,
        "test_accuracy": accuracy, "train_seconds": 12.345 * rate * 1e3, "images_per_second": 36_389.7, "version": "1.2.3",
    });
    let history: String = (1..=epochs)
        .map(|epoch| {
            let share = epoch as f64 / epochs as f64;
            let record = json!({
                "epoch": epoch, "loss": 2.3 - share * (1.0 + 100.0 * rate), "accuracy": 0.1 + 0.6 * share, "val_loss": 2.4 - 1.1 * share,
                "val_accuracy": 0.1 + (0.5 + 0.01 * seed as f64) * share, "seconds": 0.5, "images_per_second": 31_842.03,
            });
            record.to_string() + "\n"
        })
        .collect();
    let labels: Vec<u8> = (0..200).map(|i| (i % 10) as u8).collect();
    let answers = probabilities(&labels, seed as u32);
    let split = Split { images: vec![0; 784 * labels.len()], labels };
    Compared {
        name: name.to_string(),
        description: FASHION_MNIST,
        config: Some(RunConfig::parse(config.to_string().as_bytes()).unwrap()),
        summary: Summary::parse(summary.to_string().as_bytes()).unwrap(),
        history: parse_history(history.as_bytes()).unwrap(),
        metrics: Some(Metrics::new(&split, &answers, &FASHION_MNIST)),
    }
}

fn text(name: &str, text: String) -> (String, Vec<u8>) {
    (name.to_string(), text.into_bytes())
}

fn pixels(name: &str, picture: &Picture) -> (String, Vec<u8>) {
    (name.to_string(), picture.encode_png().unwrap())
}

fn lines(rows: &[Vec<String>]) -> String {
    rows.iter().map(|row| row.join(" | ") + "\n").collect()
}

#[test]
fn plots_stay_what_they_are() {
    let curve =
        |name: &str, colour, dashed, points: Vec<(f64, f64)>| Curve { name: name.into(), colour, dashed, points };
    let falling = |n: u32, scale: f64| (1..=n).map(|i| (f64::from(i), scale / f64::from(i))).collect::<Vec<_>>();
    let metrics = run("a", 3, 1e-3, 5).metrics.unwrap();
    let bar = |name: &str, value: f64| (name.to_string(), value);
    let point = |name: &str, gflops, gb_per_second, percent_of_step| RooflinePoint {
        name: name.into(),
        gflops,
        gb_per_second,
        percent_of_step,
    };
    let roofline = Roofline {
        title: "cnn, batch size 32".into(),
        subtitle: "a card, a driver".into(),
        peak_gflops: 5_432.1,
        peak_gb_per_second: 98.7,
        points: vec![
            point("conv2d_forward", 1_000.0, 10.0, 50.0),
            point("dense_forward", 100.0, 40.0, 30.0),
            point("adam_step", 0.0, 60.0, 15.5),
            point("relu_backward_x", 0.001, 20.0, 0.5),
            point("with_a_name_that_is_far_too_long_for_its_column_in_the_list", 4_000.0, 1.0, 3.9),
            point("conv2d_backward_w", 1_010.0, 10.1, 0.1),
        ],
    };
    // Labels have to go round each other, and some far away.
    let near = |i: u32| {
        let (gflops, gb_per_second) = match i {
            // Below the notes at the roof.
            0..4 => (5_400.0 - 40.0 * f64::from(i), 0.6),
            4..6 => (0.2, 90.0 - f64::from(i)),
            _ => (900.0 + 13.0 * f64::from(i % 4), 9.0 + 0.2 * f64::from(i)),
        };
        point(&format!("kernel_{i}"), gflops, gb_per_second, 20.0 - f64::from(i))
    };
    let crowded = Roofline { points: (0..16).map(near).collect(), ..roofline.clone() };
    let plots = [
        ("one_epoch.svg", draw_curves("Loss", "loss", &[curve("training", 0, false, vec![(1.0, 0.7)])])),
        (
            "losses.svg",
            draw_curves(
                "Loss of two runs",
                "loss",
                &[
                    curve("training", 0, false, falling(5, 2.3)),
                    curve("validation", 1, true, falling(5, 2.9)),
                    curve("another", 2, false, vec![(1.0, 0.4), (2.0, f64::NAN), (4.0, 0.2)]),
                ],
            ),
        ),
        (
            "accuracies.svg",
            draw_curves(
                "Accuracy",
                "accuracy",
                &[curve("training", 3, true, (1..=60).map(|i| (f64::from(i), 0.9 - 0.5 / f64::from(i))).collect())],
            ),
        ),
        ("large.svg", draw_curves("Large", "loss", &[curve("a", 0, false, vec![(1.0, 12_345.0), (3.0, 70.0)])])),
        ("confusion.svg", draw_confusion(&metrics.confusion, &FASHION_MNIST)),
        ("calibration.svg", draw_calibration(&metrics.bins, metrics.ece)),
        (
            "bars.svg",
            draw_bars("Kernels", "us", &[bar("conv2d_forward", 1234.5), bar("adam_step", 61.25), bar("a < b", 0.04)]),
        ),
        ("roofline.svg", draw_roofline(&roofline)),
        ("crowded_roofline.svg", draw_roofline(&crowded)),
    ];
    compare("plots", plots.into_iter().map(|(name, svg)| text(name, svg.unwrap())).collect());
}

#[test]
fn grids_and_maps_stay_what_they_are() {
    let split = images(12);
    let item = |i: usize, caption: &str, tone| GridItem { image: split.image(i), caption: caption.to_string(), tone };
    let items = [
        item(0, "Ankle boot: 99.9 % (Ankle boot)", Tone::Right),
        item(1, "Shirt: 51.0 % (Pullover)", Tone::Wrong),
        item(2, "T-shirt/top", Tone::Neutral),
        item(3, "a caption that is so long that it needs more than one line", Tone::Neutral),
        item(4, "", Tone::Right),
    ];
    let tile = |width: usize, height: usize, caption: &str, outline| Tile {
        width,
        height,
        rgb: numbers(3 * width * height, 5).iter().map(|x| (x * 255.0) as u8).collect(),
        caption: caption.into(),
        outline,
    };
    let tiles = [tile(7, 5, "7 x 5", None), tile(60, 90, "60 x 90", Some([10, 20, 30, 40])), tile(1, 1, "", None)];
    let mut made = vec![
        pixels("grid.png", &draw_grid(&items, 3, &FASHION_MNIST).unwrap()),
        pixels("tiles.png", &draw_tiles(&tiles, 2, [40, 30]).unwrap()),
        ("samples.png".to_string(), samples_png(&split, 12, &FASHION_MNIST).unwrap()),
    ];
    for name in ["sobel-x", "blur"] {
        let filter = ImageFilter::built_in(name).unwrap();
        let sheet = draw_filter(tile(30, 20, "before", None), &filter, tile(28, 18, "after", None)).unwrap();
        made.push(pixels(&format!("{name}.png"), &sheet));
    }
    let wide = "name = \"wide\"\nlayer = [{ type = \"conv2d\", filters = 2, kernel_size = 12 }, { type = \"flatten\" }, { type = \"dense\", units = 10 }]";
    for model in [Model::mlp(), Model::cnn(), toml::from_str(SMALL).unwrap(), toml::from_str(wide).unwrap()] {
        let parameters = initial_parameters(&model.parameters().unwrap(), 1);
        let first = filters(&model, &parameters).unwrap().unwrap();
        made.push(text(&format!("{}-filters.txt", model.name), format!("{}\n{}\n", first.title, first.description)));
        made.push(pixels(&format!("{}-filters.png", model.name), &first.picture));
        for map in feature_maps(&model, &parameters, split.image(3), &FASHION_MNIST).unwrap() {
            let size = format!("{} x {}", map.picture.width, map.picture.height);
            made.push(text(
                &format!("{}-{}.txt", model.name, map.layer),
                format!("{}\n{}\n{size}\n", map.title, map.description),
            ));
        }
    }
    compare("grids and maps", made);
}

#[test]
fn comparisons_stay_what_they_are() {
    let runs = [run("first", 0, 1e-3, 5), run("second", 4, 2e-3, 5), run("third", 2, 1e-3, 7)];
    let (head, rows) = ranking(&runs);
    let curves = comparison_curves(&runs, true).into_iter().chain(comparison_curves(&runs, false));
    let mut curves_text = String::new();
    for curve in curves {
        curves_text += &format!("{} {} {} {:?}\n", curve.name, curve.colour, curve.dashed, curve.points);
    }
    let made = vec![
        text("rows", lines(&comparison_rows(&runs))),
        text("warnings", comparison_warnings(&runs).join("\n")),
        text("verdicts", comparison_verdicts(&runs).join("\n")),
        text("curves", curves_text),
        text("ranking", format!("{}\n{}", head.join(" | "), lines(&rows))),
        text("remarks", validation_remarks(&runs).join("\n")),
        text("settings.svg", draw_settings(&runs).unwrap().unwrap()),
        text("page.html", comparison_page(&runs).unwrap()),
        text("page_of_two.html", comparison_page(&runs[..2]).unwrap()),
    ];
    compare("comparisons", made);
}

/// The pictures of layers depend on the last bits of sums, so of the page itself only what is around them is compared.
#[test]
fn reports_stay_what_they_are() {
    let test = images(60);
    let answers = probabilities(&test.labels, 7);
    let trained = run("a run", 1, 1e-3, 4);
    let model: Model = toml::from_str(SMALL).unwrap();
    let parameters = initial_parameters(&model.parameters().unwrap(), 1);
    let kernel = |kernel: &str, calls, median_us, percent_of_step| KernelTime {
        kernel: kernel.into(),
        calls,
        median_us,
        percent_of_step,
    };
    let times = KernelTimes {
        device: "a card".into(),
        batch_size: 32,
        clock: "timestamps".into(),
        kernels: vec![kernel("conv2d_forward", 2, 123.4, 80.0), kernel("adam_step", 8, 30.9, 20.0)],
    };
    let report = Report {
        name: "a run".into(),
        model: &model,
        parameters: &parameters,
        config: trained.config.as_ref(),
        repeat: Some("fmnist-gpu train --model small.toml".into()),
        summary: Some(&trained.summary),
        history: &trained.history,
        dataset: trained.summary.dataset,
        description: &FASHION_MNIST,
        test: &test,
        probabilities: &answers,
        image: 0,
        model_file: b"the weights",
    };
    let (metrics, files) = report_files(&report, Some(&times)).unwrap();
    let mut made = vec![text("metrics", format!("{metrics:#?}"))];
    for file in files {
        if file.name.starts_with("feature_maps") {
            continue;
        }
        let bytes = if file.name == "report.html" { without_pictures(&file.bytes) } else { file.bytes };
        made.push((file.name, bytes));
    }
    compare("reports", made);
}

/// Replaces pictures in base64 by nothing.
fn without_pictures(html: &[u8]) -> Vec<u8> {
    let html = std::str::from_utf8(html).unwrap();
    let mut parts = html.split("base64,");
    let mut kept = parts.next().unwrap().to_string();
    for part in parts {
        kept += part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "+/=".contains(c));
    }
    kept.into_bytes()
}

/// A photo with a light background that is uneven, and a dark garment of a shape of its own.
fn drawn(width: usize, height: usize, shape: usize) -> Photo {
    let noise = numbers(width * height, shape as u32);
    let pixel = |at: usize| {
        let (x, y) = ((at % width) as f32 / width as f32, (at / width) as f32 / height as f32);
        let inside = match shape {
            0 => {
                (0.3..0.7).contains(&x) && (0.2..0.9).contains(&y) || (0.1..0.9).contains(&x) && (0.2..0.4).contains(&y)
            }
            1 => (0.2..0.8).contains(&x) && y > 0.75 - 0.5 * x && y < 0.8,
            2 => (x - 0.5).abs() + (y - 0.55).abs() < 0.3,
            _ => {
                (0.4..0.46).contains(&x) && (0.1..0.95).contains(&y)
                    || (0.54..0.6).contains(&x) && (0.1..0.95).contains(&y)
            }
        };
        let level = if inside { 60.0 + 60.0 * x + 8.0 * noise[at] } else { 235.0 - 30.0 * y + 6.0 * noise[at] };
        [level as u8, (level * 0.95) as u8, (level * 0.9) as u8, if shape == 2 && x < 0.1 { 0 } else { 255 }]
    };
    Photo { width, height, rgba: (0..width * height).flat_map(pixel).collect() }
}

/// Levels are compared in steps of four, since a system may round a root another way.
#[test]
fn garments_stay_what_they_are() {
    let mut made = Vec::new();
    for (shape, (width, height)) in [(300, 200), (160, 240), (90, 90), (257, 401)].into_iter().enumerate() {
        let mut photo = drawn(width, height, shape);
        for (name, invert) in [("auto", Invert::Auto), ("yes", Invert::Yes), ("no", Invert::No)] {
            let garment = prepare(&photo, invert);
            let coarse: Vec<u8> = garment.image.iter().map(|level| level / 4).collect();
            let numbers = features(&garment.image).map(|feature| format!("{feature:.3}")).join(", ");
            let description = format!("{:?}\n{:.3}\n{numbers}\n{coarse:?}\n", garment.doubts, distance(&garment.image));
            made.push(text(&format!("{shape}-{name}"), description));
        }
        photo.rgba.chunks_exact_mut(4).for_each(|pixel| pixel[..3].iter_mut().for_each(|level| *level = 255 - *level));
        made.push(text(&format!("{shape}-negative"), format!("{:?}", prepare(&photo, Invert::Auto).doubts)));
        let (grey, size) = photo.grey(64);
        let coarse: Vec<i32> = grey.iter().map(|level| (level * 64.0) as i32).collect();
        made.push(text(&format!("{shape}-grey"), format!("{size:?} {coarse:?}")));
    }
    compare("garments", made);
}

/// Writes a run into a folder, with weights that were not trained.
fn write(compared: &Compared, folder: &Path) {
    let config = compared.config.as_ref().unwrap();
    let parameters = initial_parameters(&config.model.parameters().unwrap(), config.seed);
    let history: Vec<String> = compared.history.iter().map(|record| json!(record).to_string() + "\n").collect();
    fs::create_dir_all(folder).unwrap();
    for (name, bytes) in [
        ("config.json", json!(config).to_string().into_bytes()),
        ("summary.json", json!(compared.summary).to_string().into_bytes()),
        ("history.jsonl", history.concat().into_bytes()),
        ("report.json", json!(compared.metrics).to_string().into_bytes()),
        ("model.safetensors", weights::to_bytes(&config.model, &parameters).unwrap()),
    ] {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// What commands print and write that depends on no device and no time.
#[test]
fn commands_stay_what_they_are() {
    let place = Place::new();
    let mut made = Vec::new();
    for model in Model::built_in() {
        made.push(text(&format!("summary of {}", model.name), summary(&model).unwrap()));
    }
    for compared in [run("first", 0, 1e-3, 5), run("second", 4, 2e-3, 5), run("third", 2, 1e-3, 7)] {
        write(&compared, &place.path(&compared.name));
    }
    for shape in 0..4 {
        let Photo { width, height, rgba } = drawn(280, 340, shape);
        let image = image::RgbaImage::from_raw(width as u32, height as u32, rgba).unwrap();
        image.save(place.path(&format!("photo{shape}.png"))).unwrap();
    }
    let mut lines: Vec<String> = [
        "compare first second --out two.html",
        "compare first second third --out three.html",
        "compare first second third --json",
        "predict photo0.png photo1.png photo2.png photo3.png --device cpu --quiet --grid grid.png",
    ]
    .map(str::to_string)
    .into();
    for kernel in ImageFilter::NAMES {
        for options in ["", " --padding valid", " --stride 2"] {
            lines.push(format!("filter --show-steps --kernel {kernel}{options}"));
        }
        lines.push(format!("filter photo0.png --kernel {kernel} --device cpu --quiet --out {kernel}.png"));
    }
    for format in ["onnx", "torch", "keras", "npz", "half"] {
        lines.push(format!("export second --format {format} --out second.{format}"));
    }
    for line in lines {
        let ran = place.run(&line);
        made.push((line.clone(), format!("{:?}\n{}\n{}", ran.code(), ran.out, ran.err).into_bytes()));
    }
    for name in ["two.html", "three.html", "grid.png"] {
        made.push((name.to_string(), fs::read(place.path(name)).unwrap()));
    }
    for name in ImageFilter::NAMES {
        made.push((format!("{name}.png"), fs::read(place.path(&format!("{name}.png"))).unwrap()));
    }
    for format in ["onnx", "torch", "keras", "npz", "half"] {
        made.push((format!("second.{format}"), fs::read(place.path(&format!("second.{format}"))).unwrap()));
    }
    compare("commands", made);
}

/// What is drawn for images in training.
#[test]
fn augmentations_stay_what_they_are() {
    let mut all = String::new();
    for flip in [Flip::None, Flip::Random, Flip::Alternating] {
        for (shift, cutout) in [(0, 0), (2, 0), (0, 9), (3, 28), (1, 40)] {
            let augment = Augment { shift, flip, cutout };
            for epoch in 1..4 {
                let random = Random { seed: 5 << 33 | 77, epoch, step: 3 };
                let draws: Vec<_> = (0..12).map(|index| augment.draw([28, 30, 1], random, 1000 * index)).collect();
                all += &format!("{flip:?} {shift} {cutout} {epoch} {draws:?}\n");
            }
        }
    }
    compare("augmentations", vec![text("draws", all)]);
}
