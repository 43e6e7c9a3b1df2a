use crate::support::gpu;
use crate::support::program::Place;
use fmnist_gpu::cpu::conv2d::Padding;
use fmnist_gpu::photo::{FilterError, ImageFilter, MAX_FILTER_SIDE, Photo, Shown};
use fmnist_gpu::verify::{absolute, compare, sum_bound, widen};
use pollster::FutureExt as _;
use std::fs;

fn test_image(height: usize, width: usize) -> Vec<f32> {
    (0..height * width).map(|i| ((i * 37 + i / width * 11) % 256) as f32).collect()
}

/// The kernel on the device agrees with the plain loops within the project's bound, for every filter, stride and padding.
#[test]
fn filters_on_the_device_match_the_plain_loops() {
    let own = ImageFilter::parse("own", "1 2 3 4\n-1 0.5 0 2\n").unwrap();
    for filter in ImageFilter::NAMES.iter().map(|name| ImageFilter::built_in(name).unwrap()).chain([own]) {
        for (size, stride, padding) in [
            ([28, 28], 1, Padding::Same),
            ([28, 28], 2, Padding::Valid),
            ([61, 47], 3, Padding::Same),
            ([4, 5], 1, Padding::Valid),
        ] {
            let x = test_image(size[0], size[1]);
            let d = filter.dims(size, stride, padding).unwrap();
            let found = filter.apply(gpu(), &d, &x).block_on().unwrap();
            let run = |x: &[f64], w: &[f64]| {
                let mut y = vec![0.0; d.y_len()];
                fmnist_gpu::cpu::conv2d::conv2d_forward(&d, x, w, &[0.0], &mut y);
                y
            };
            let (x, w) = (widen(&x), widen(&filter.weights));
            let bound: Vec<f64> =
                run(&absolute(&x), &absolute(&w)).into_iter().map(|s| sum_bound(w.len() + 1, s)).collect();
            let result = compare(&found, &run(&x, &w), &bound);
            assert!(result.passed(), "{}, {size:?}, stride {stride}, {padding}: {result}", filter.name);
        }
    }
}

#[test]
fn known_images_give_known_results() {
    let apply = |filter: &ImageFilter, x: &[f32], size: [usize; 2], padding| {
        let d = filter.dims(size, 1, padding).unwrap();
        filter.apply(gpu(), &d, x).block_on().unwrap()
    };
    // Only the centre weight: the image is unchanged.
    let identity = ImageFilter::parse("identity", "0 0 0; 0 1 0\n0,0,0".replace("; ", "\n").as_str()).unwrap();
    let x = test_image(7, 9);
    assert_eq!(apply(&identity, &x, [7, 9], Padding::Same), x);
    // Blurring uniform grey does not change it, and it has no edges.
    let flat = vec![96.0; 30];
    assert_eq!(apply(&ImageFilter::built_in("blur").unwrap(), &flat, [5, 6], Padding::Valid), vec![96.0; 12]);
    assert_eq!(apply(&ImageFilter::built_in("edge").unwrap(), &flat, [5, 6], Padding::Valid), vec![0.0; 12]);
    // A step from 0 to 10 between the third and fourth column.
    let step: Vec<f32> = (0..5 * 6).map(|i| if i % 6 < 3 { 0.0 } else { 10.0 }).collect();
    let row = [0.0, 40.0, 40.0, 0.0];
    assert_eq!(apply(&ImageFilter::built_in("sobel-x").unwrap(), &step, [5, 6], Padding::Valid), row.repeat(3));
    assert_eq!(apply(&ImageFilter::built_in("sobel-y").unwrap(), &step, [5, 6], Padding::Valid), vec![0.0; 12]);
    let shown = |name: &str| ImageFilter::built_in(name).unwrap().shown();
    assert_eq!((shown("sobel-x"), shown("edge"), shown("blur")), (Shown::Magnitude, Shown::Magnitude, Shown::Clamped));
    let d = identity.dims([3, 6], 1, Padding::Valid).unwrap();
    assert_eq!(Shown::Magnitude.grey(&d, &[-510.0, -8.0, 0.0, 100.0]), [255, 4, 0, 50]);
    assert_eq!(Shown::Magnitude.grey(&d, &[0.0; 4]), [0; 4]);
    assert_eq!(Shown::Clamped.grey(&d, &[-300.0, -7.4, 0.0, 300.0]), [0, 0, 0, 255]);
    // Zero padding around a bright image does not outshine its own edges: of 3 x 3 results, only the central one overlaps no padding.
    let d = identity.dims([3, 3], 1, Padding::Same).unwrap();
    let results = [900.0, 600.0, 900.0, 600.0, -40.0, 10.0, 900.0, 600.0, 900.0];
    assert_eq!(Shown::Magnitude.grey(&d, &results), [255, 255, 255, 255, 255, 64, 255, 255, 255]);
    // If every result overlaps padding, all of them count.
    let d = identity.dims([1, 2], 1, Padding::Same).unwrap();
    assert_eq!(Shown::Magnitude.grey(&d, &[100.0, 50.0]), [255, 128]);
}

#[test]
fn filter_files_are_read_and_refused_with_line_and_column() {
    let own = ImageFilter::parse("own", "# a comment\n1, -2.5e0 3\n\n4;5;6 # more\n").unwrap();
    assert_eq!((own.size, own.weights), ([2, 3], vec![1.0, -2.5, 3.0, 4.0, 5.0, 6.0]));
    let fails = |text: &str, part: &str| {
        let error = ImageFilter::parse("own", text).unwrap_err().to_string();
        assert!(error.contains(part), "no `{part}` in: {error}");
    };
    fails("1 2\n3 x", "line 2, number 2: `x`");
    fails("1 NaN", "line 1, number 2");
    // Bytes of a file are escaped and shortened before they reach a terminal.
    fails("1 \u{1b}[31mx", r"line 1, number 2: `\u{1b}[31mx`");
    fails(&"z".repeat(100), &format!("`{}…`", "z".repeat(40)));
    fails("1 2\n3", "line 2 has 1 numbers, and the first row has 2");
    fails("# nothing", "0 x 0");
    let largest = "1 ".repeat(MAX_FILTER_SIDE) + "\n";
    let size = ImageFilter::parse("f", &largest.repeat(MAX_FILTER_SIDE)).unwrap().size;
    assert_eq!(size, [MAX_FILTER_SIDE; 2]);
    fails(&largest.repeat(MAX_FILTER_SIDE + 1), "31 x 31");
    fails(&"1 ".repeat(MAX_FILTER_SIDE + 1), "31 x 31");
    fails(&"1\n".repeat(MAX_FILTER_SIDE + 1), "31 x 31");
    assert!(matches!(own_dims([1, 9]), Err(FilterError::Dims(_))));
}

fn own_dims(size: [usize; 2]) -> Result<fmnist_gpu::cpu::conv2d::Conv2dDims, FilterError> {
    ImageFilter::parse("own", "1\n1").unwrap().dims(size, 1, Padding::Valid)
}

#[test]
fn photos_are_converted_to_grey_and_reduced() {
    let photo = Photo { width: 2, height: 1, rgba: vec![255, 0, 0, 255, 0, 255, 0, 128] };
    let (grey, size) = photo.grey(100);
    assert_eq!(size, [1, 2]);
    assert!((grey[0] - 76.245).abs() < 1e-3 && (grey[1] - (149.685 * 128.0 / 255.0 + 127.0)).abs() < 1e-3, "{grey:?}");
    let large = Photo { width: 300, height: 100, rgba: [[0, 0, 0, 255], [200, 200, 200, 255]].concat().repeat(15_000) };
    let (grey, size) = large.grey(150);
    assert_eq!(size, [50, 150]);
    assert!(grey.iter().all(|&v| (v - 100.0).abs() < 1e-3));
}

#[test]
fn the_command_draws_and_refuses() {
    gpu();
    let place = Place::new();
    let line = "filter --test-index 3 --dataset synthetic";
    let ran = place.run(&format!("{line} --kernel sobel-x --json")).exits(0).json();
    assert_eq!((&ran["input"], &ran["output"]), (&serde_json::json!([28, 28]), &serde_json::json!([28, 28])));
    assert_eq!((&ran["picture"], &ran["shown"]), (&"filter-sobel-x.png".into(), &"magnitude".into()));
    let drawn = image::open(place.path("filter-sobel-x.png")).unwrap();
    assert!(drawn.width() > 1200 && drawn.height() > 400);
    place.run(&format!("{line} --kernel sobel-x")).exits(2).says(&["filter-sobel-x.png exists", "--force"]);
    let ran = place.run(&format!("{line} --kernel blur --stride 2 --padding valid --out b.png")).exits(0);
    assert!(ran.out.contains("28 x 28 to 13 x 13"), "{}", ran.out);
    // The plain loops yield the same numbers.
    let by = |device: &str| {
        let ran = place.run(&format!("{line} --kernel emboss --force --json --device {device}")).exits(0).json();
        (ran["min"].as_f64().unwrap(), ran["max"].as_f64().unwrap())
    };
    assert_eq!(by("auto"), by("reference"));
    fs::write(place.path("own.txt"), "0 1 0\n1 -4 1\n0 1 0\n").unwrap();
    place.run("filter b.png --kernel own.txt --quiet").exits(0);
    assert!(place.path("filter-own.png").exists());
    // A photo is scaled down to what can be drawn, and only a larger one.
    image::GrayImage::from_pixel(4096, 16, image::Luma([200])).save(place.path("wide.png")).unwrap();
    let ran = place.run("filter wide.png --kernel blur").exits(0);
    assert!(ran.err.contains("wide.png: scaled down from 4096 x 16 to 2048 x 8"), "{}", ran.err);
    assert!(!place.run("filter b.png --kernel blur --force").exits(0).err.contains("scaled down"));
    fs::write(place.path("bad.txt"), "1 2\n3 four\n").unwrap();
    place.run("filter b.png --kernel bad.txt").exits(2).says(&["bad.txt", "line 2, number 2: `four`"]);
    place.run("filter b.png --kernel unknown").exits(2).says(&["unknown", "sharpen"]);
    place.run("filter missing.png").exits(2).says(&["missing.png"]);
    place.run("filter own.txt").exits(2).says(&["own.txt", "PNG"]);
    place.run("filter").exits(2).says(&["IMAGE", "--test-index", "--show-steps"]);
    place.run("filter b.png --test-index 1").exits(2).says(&["--test-index"]);
    place.run("filter --test-index 10000 --dataset synthetic").exits(2).says(&["10000", "9999"]);
}

/// The example's numbers, calculated by hand.
#[test]
fn the_steps_have_the_right_numbers() {
    gpu();
    let place = Place::new();
    let out = place.run("filter --show-steps --padding valid").exits(0).out;
    let words: String = out.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        // Top left: -1 + 2, -8 + 10, -3 + 8.
        "1 3 2 -1 0 1 -1 0 2",
        "4 6 5 x -2 0 2 = -8 0 10",
        "sum: 8",
        "(4 - 3) / 1 + 1 = 2 rows",
        // Top right: -2 - 8 + 3. Below: 1 + 10 - 1 and -4 + 6 + 7.
        "Output, 2 x 2: 8 -7 10 9",
        "largest 6 mean 3.5",
        "Max pooling: 6 5 3 8",
        "Average pooling: 3.5 2.5 1.5 5",
        "give the same numbers",
    ] {
        assert!(words.contains(part), "no `{part}` in\n{out}");
    }
    let same = place.run("filter --show-steps --kernel blur --stride 2 --device reference").exits(0).out;
    assert!(same.contains("4 / 2, rounded up, = 2 rows") && same.contains("plain loops"), "{same}");
    // Numbers are separated, however long they are.
    let words: String = same.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("x 0.125 0.25 0.125 = 0.5 1.5 0.625") && !words.contains("0.1250.0625"), "{same}");
    fs::write(place.path("long.txt"), "-123.4567 -123.4567").unwrap();
    let long = place.run("filter --show-steps --kernel long.txt --device reference").exits(0).out;
    assert!(long.contains("-123.4567 -123.4567") && long.matches("7-").count() == 0, "{long}");
    fs::write(place.path("wide.txt"), "1 1 1 1 1").unwrap();
    place.run("filter --show-steps --kernel wide.txt --padding valid").exits(2).says(&["4 x 4"]);
}
