//! `fmnist-gpu filter`

use super::device::{Device, DeviceArgs};
use super::source::SourceArgs;
use super::{Global, counted, interrupt_flag, picture, print, print_json};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::cpu::conv2d::{Conv2dDims, Padding};
use fmnist_gpu::cpu::pool2d::{self, Pool2dDims};
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::files::read_bounded;
use fmnist_gpu::gpu::{Element, Gpu, PlanBuilder};
use fmnist_gpu::ops::pool2d::{Reduction, record_max_forward, record_mean_forward};
use fmnist_gpu::photo::{Filter, Photo, Shown};
use fmnist_gpu::report::{Tile, draw_filter, short};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Longest side of a filtered image; larger images are scaled down.
const MAX_SIDE: usize = 2048;
/// Largest filter file, in bytes.
const MAX_FILTER_BYTES: u64 = 64 << 10;

/// Flags of `filter`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct FilterArgs {
    /// Image to filter: PNG, JPEG, WebP or BMP; it is converted to greyscale
    #[arg(conflicts_with = "test_index")]
    image: Option<PathBuf>,
    /// Filter this image of the test set instead, counted from 0
    #[arg(long, value_name = "N")]
    test_index: Option<usize>,
    /// Built-in filter, or a text file with one row of numbers per line [default: edge; with --show-steps, sobel-x]
    #[arg(long, value_name = "edge|sharpen|blur|emboss|sobel-x|sobel-y|FILE")]
    kernel: Option<String>,
    /// Pixels that the filter moves between two positions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    stride: u32,
    /// At the edges, add zeros (same), or skip positions where the filter does not fit (valid)
    #[arg(long, value_enum, default_value_t = PaddingChoice::Same)]
    padding: PaddingChoice,
    /// File to write: the image, the filter and the result side by side [default: filter-NAME.png]
    #[arg(long, value_name = "FILE.png", value_parser = super::output_path())]
    out: Option<PathBuf>,
    /// Instead of filtering an image, print a 4 x 4 example of convolution and pooling with every number
    #[arg(long, conflicts_with_all = ["image", "test_index", "out", "json"])]
    show_steps: bool,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Overwrite an existing file
    #[arg(long)]
    force: bool,
    /// Print sizes and value range as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PaddingChoice {
    /// Add zeros around the image
    Same,
    /// Only positions where the filter fits
    Valid,
}

impl From<PaddingChoice> for Padding {
    fn from(choice: PaddingChoice) -> Self {
        match choice {
            PaddingChoice::Same => Padding::Same,
            PaddingChoice::Valid => Padding::Valid,
        }
    }
}

/// What `filter --json` prints.
#[derive(Debug, Serialize)]
struct Filtered {
    kernel: String,
    weights: Vec<Vec<f32>>,
    stride: u32,
    padding: Padding,
    input: [usize; 2],
    output: [usize; 2],
    /// The smallest and the largest result, before conversion to grey values.
    min: f32,
    max: f32,
    /// `clamped` or `magnitude`.
    shown: &'static str,
    device: String,
    picture: PathBuf,
}

/// The image to filter.
struct Source {
    /// `[H, W]`, 0 to 255.
    values: Vec<f32>,
    size: [usize; 2],
    name: String,
    /// Whether 255 is drawn black, as in images of the data set.
    is_ink: bool,
}

/// Runs the command: filters an image, or prints the example.
pub fn run(args: FilterArgs, global: &Global) -> Result<ExitCode> {
    let name = args.kernel.clone().unwrap_or_else(|| if args.show_steps { "sobel-x" } else { "edge" }.to_string());
    let filter = filter(&name)?;
    if args.show_steps {
        let device = args.device.open(global)?;
        print(&steps(&filter, args.stride as usize, args.padding.into(), &device)?);
        return Ok(ExitCode::SUCCESS);
    }
    if args.image.is_none() && args.test_index.is_none() {
        bail!("nothing to filter; pass an IMAGE, --test-index N, or --show-steps");
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("filter-{}.png", filter.name)));
    if !args.force && out.symlink_metadata().is_ok() {
        bail!("{} exists; pass --force to overwrite it", out.shown());
    }
    let source = source(&args, global)?;
    let dims = filter.dims(source.size, args.stride as usize, args.padding.into())?;
    let device = args.device.open(global)?;
    let results = match &device {
        Device::Gpu(gpu) => filter.apply(gpu, &dims, &source.values)?,
        Device::Native(_) => filter.apply_natively(&dims, &source.values),
        Device::Reference => filter.apply_by_loops(&dims, &source.values),
    };
    let shown = filter.shown();
    let tile = |grey: &[u8], width: usize, caption: String| {
        if source.is_ink {
            return Tile::ink(grey, width, caption);
        }
        let rgb = grey.iter().flat_map(|&value| [value; 3]).collect();
        Tile { width, height: grey.len() / width, rgb, caption, outline: None }
    };
    let grey: Vec<u8> = source.values.iter().map(|value| value.round() as u8).collect();
    let before = tile(&grey, dims.w, format!("{}, {} x {}", source.name, dims.w, dims.h));
    let how = match shown {
        Shown::Clamped => "values clamped to 0..255",
        Shown::Magnitude => "absolute values, scaled to the largest",
    };
    let caption =
        format!("{} x {}, stride {}, {} padding; {how}", dims.wo, dims.ho, args.stride, Padding::from(args.padding));
    let drawn = draw_filter(before, &filter, tile(&shown.grey(&dims, &results), dims.wo, caption))
        .context("drawing the result")?;
    picture::write_png(&out, &drawn.encode_png()?, args.force)?;
    let (min, max) = results.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    if args.json {
        print_json(&Filtered {
            kernel: filter.name.clone(),
            weights: filter.weights.chunks(filter.size[1]).map(<[f32]>::to_vec).collect(),
            stride: args.stride,
            padding: args.padding.into(),
            input: [dims.h, dims.w],
            output: [dims.ho, dims.wo],
            min,
            max,
            shown: if shown == Shown::Clamped { "clamped" } else { "magnitude" },
            device: device.describe()[0].clone(),
            picture: out,
        })?;
    } else {
        print(&format!(
            "{}: {} x {} to {} x {}, values {} to {} ({how}); written to {}",
            filter.name,
            dims.w,
            dims.h,
            dims.wo,
            dims.ho,
            short(min),
            short(max),
            out.shown()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn filter(name: &str) -> Result<Filter> {
    if let Some(filter) = Filter::built_in(name) {
        return Ok(filter);
    }
    let path = Path::new(name);
    let fail = || format!("--kernel {name} is neither a readable file nor one of {}", Filter::NAMES.join(", "));
    let bytes = match read_bounded(path, MAX_FILTER_BYTES) {
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            bail!("--kernel {name}: {error}; a filter is only a few rows of numbers")
        }
        bytes => bytes.with_context(fail)?,
    };
    let text = String::from_utf8(bytes).with_context(fail)?;
    let stem = path.file_stem().map_or_else(|| "own".to_string(), |stem| stem.to_string_lossy().into_owned());
    Filter::parse(&stem, &text).with_context(|| format!("--kernel {name}"))
}

fn source(args: &FilterArgs, global: &Global) -> Result<Source> {
    if let Some(path) = &args.image {
        let photo = Photo::open(path)?;
        let (values, size) = photo.grey(MAX_SIDE);
        if size != [photo.height, photo.width] {
            global.say(format!(
                "{}: scaled down from {} x {} to {} x {}",
                path.shown(),
                photo.width,
                photo.height,
                size[1],
                size[0]
            ));
        }
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        return Ok(Source { values, size, name, is_ink: false });
    }
    let index = args.test_index.unwrap_or_default();
    let dataset = args.source.load(global, None, interrupt_flag(), 0)?;
    if index >= dataset.test.len() {
        let n = dataset.test.len();
        bail!("--test-index {index}: the test set has {} (0 to {})", counted(n, "image"), n.saturating_sub(1));
    }
    let description = &dataset.description;
    let class = description.class_name(dataset.test.labels[index].into());
    Ok(Source {
        values: dataset.test.image(index).iter().map(|&value| f32::from(value)).collect(),
        size: [description.height(), description.width()],
        name: format!("test image {index} ({class})"),
        is_ink: true,
    })
}

/// The image of the example.
const EXAMPLE: [f32; 16] = [1.0, 3.0, 2.0, 1.0, 4.0, 6.0, 5.0, 2.0, 3.0, 1.0, 8.0, 4.0, 2.0, 0.0, 1.0, 7.0];
const SIDE: usize = 4;

/// Shows convolution and pooling of a 4 x 4 image, number by number, and checks them on the device.
fn steps(filter: &Filter, stride: usize, padding: Padding, device: &Device) -> Result<String> {
    let d = filter.dims([SIDE, SIDE], stride, padding).context("--show-steps uses an image of 4 x 4")?;
    let results = filter.apply_by_loops(&d, &EXAMPLE);
    let mut text = format!("Input, {SIDE} x {SIDE}:\n{}\n", matrix(&EXAMPLE, SIDE));
    // Writing to a string cannot fail.
    let _ = writeln!(text, "Filter {}, {} x {}:\n{}", filter.name, d.kh, d.kw, matrix(&filter.weights, d.kw));
    let padded = match padding {
        Padding::Valid => format!("only where it fits: ({SIDE} - {}) / {stride} + 1 = {} rows", d.kh, d.ho),
        Padding::Same => format!("zeros around: {SIDE} / {stride}, rounded up, = {} rows", d.ho),
    };
    let _ = writeln!(text, "Convolution, stride {stride}, {padding} padding ({padded}).");
    let _ = writeln!(text, "Each output is a patch of the input times the filter, number by number, summed up:\n");
    for i in 0..d.ho {
        for j in 0..d.wo {
            text.push_str(&one_output(filter, &d, [i, j], results[i * d.wo + j]));
        }
    }
    let _ = writeln!(text, "Output, {} x {}:\n{}", d.ho, d.wo, matrix(&results, d.wo));
    let (pool, max, average) = pooled(&mut text)?;
    match device {
        Device::Gpu(gpu) => {
            agree_on_device(gpu, filter, &d, &results, &pool, &max, &average)?;
            let _ = write!(text, "The kernels on {} give the same numbers.", gpu.info().name);
        }
        Device::Native(_) => {
            agree("the native engine", &filter.apply_natively(&d, &EXAMPLE), &results)?;
            let _ = write!(text, "Computed by the native engine.");
        }
        Device::Reference => {
            let _ = write!(text, "Computed by the plain loops.");
        }
    }
    Ok(text)
}

/// Shows one output of the convolution: patch, filter and products side by side.
fn one_output(filter: &Filter, d: &Conv2dDims, [i, j]: [usize; 2], result: f32) -> String {
    let at = |p: usize, q: usize| {
        let (row, column) = ((i * d.stride_h + p).checked_sub(d.pad_top), (j * d.stride_w + q).checked_sub(d.pad_left));
        match (row, column) {
            (Some(row), Some(column)) if row < SIDE && column < SIDE => EXAMPLE[row * SIDE + column],
            _ => 0.0,
        }
    };
    let mut text = format!("  output row {}, column {}:\n", i + 1, j + 1);
    let taps = || (0..d.kh).flat_map(|p| (0..d.kw).map(move |q| (p, q)));
    let values = taps().flat_map(|(p, q)| {
        let (x, w) = (at(p, q), filter.weights[p * d.kw + q]);
        [x, w, x * w]
    });
    let width = column(values, 6);
    for p in 0..d.kh {
        let row = |value: &dyn Fn(usize) -> f32| {
            (0..d.kw).map(|q| format!("{:>width$}", short(value(q)))).collect::<String>()
        };
        let weight = |q: usize| filter.weights[p * d.kw + q];
        let (times, equals) = if p == d.kh / 2 { ("x", "=") } else { (" ", " ") };
        let _ = writeln!(
            text,
            "  {}   {times} {}   {equals} {}",
            row(&|q| at(p, q)),
            row(&weight),
            row(&|q| at(p, q) * weight(q))
        );
    }
    let _ = writeln!(text, "  sum: {}\n", short(result));
    text
}

/// Shows max and average pooling of the example, 2 x 2 with stride 2.
fn pooled(text: &mut String) -> Result<(Pool2dDims, Vec<f32>, Vec<f32>)> {
    let d = Pool2dDims::new(1, [SIDE, SIDE, 1], [2, 2], [2, 2], Padding::Valid)?;
    let (mut max, mut average, mut argmax) = (vec![0.0; 4], vec![0.0; 4], vec![0; 4]);
    pool2d::pool2d_max_forward(&d, &EXAMPLE, &mut max, &mut argmax);
    pool2d::pool2d_average_forward(&d, &EXAMPLE, &mut average);
    let _ = writeln!(text, "Pooling of the input, 2 x 2 with stride 2: each block of four becomes one number.\n");
    for (block, (largest, mean)) in max.iter().zip(&average).enumerate() {
        let (row, column) = (block / 2 * 2, block % 2 * 2);
        let four = [0, 1, SIDE, SIDE + 1].map(|offset| EXAMPLE[row * SIDE + column + offset]);
        let four = four.map(|value| format!("{:>3}", short(value))).concat();
        let _ = writeln!(text, "  {four}   largest {:>3}   mean {:>5}", short(*largest), short(*mean));
    }
    let _ = writeln!(text, "\nMax pooling:\n{}\nAverage pooling:\n{}", matrix(&max, 2), matrix(&average, 2));
    Ok((d, max, average))
}

fn matrix(values: &[f32], columns: usize) -> String {
    let width = column(values.iter().copied(), 8);
    let row = |row: &[f32]| row.iter().map(|&value| format!("{:>width$}", short(value))).collect::<String>() + "\n";
    values.chunks(columns).map(row).collect()
}

/// Returns the width of a column: `least`, or what the longest number needs, with a space before it.
fn column(values: impl Iterator<Item = f32>, least: usize) -> usize {
    values.map(|value| short(value).len() + 1).fold(least, usize::max)
}

/// Repeats the example on the device, and checks its results.
fn agree_on_device(
    gpu: &Gpu,
    filter: &Filter,
    d: &Conv2dDims,
    results: &[f32],
    pool: &Pool2dDims,
    max: &[f32],
    average: &[f32],
) -> Result<()> {
    let x = gpu.tensor_from("image", &[SIDE * SIDE], &EXAMPLE)?;
    let y = gpu.tensor("max", &[4], Element::F32)?;
    let mean = gpu.tensor("average", &[4], Element::F32)?;
    let argmax = gpu.tensor("argmax", &[4], Element::U32)?;
    let mut plan = PlanBuilder::new(gpu);
    record_max_forward(&mut plan, pool, [&x, &y, &argmax])?;
    record_mean_forward(&mut plan, Reduction::Average, pool, [&x, &mean])?;
    gpu.run(&plan.finish()?)?;
    let found = [filter.apply(gpu, d, &EXAMPLE)?, gpu.read(&y)?, gpu.read(&mean)?];
    for (found, expected) in found.iter().zip([results, max, average]) {
        agree(&format!("the device {}", gpu.info().name), found, expected)?;
    }
    Ok(())
}

/// Checks that the results of `who` are those of the plain loops.
fn agree(who: &str, found: &[f32], expected: &[f32]) -> Result<()> {
    let differs = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-4 * b.abs().max(1.0);
    if found.len() != expected.len() || found.iter().zip(expected).any(differs) {
        bail!("{who} computed {found:?}, but the plain loops {expected:?}; run `fmnist-gpu selftest` for details");
    }
    Ok(())
}
