//! `fmnist-gpu filter`

use super::device::DeviceArgs;
use super::source::SourceArgs;
use super::{Global, counted, interrupt_flag, print, print_result, write_png};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::cpu::conv2d::{Conv2dDims, Padding};
use fmnist_gpu::cpu::pool2d::{self, Pool2dDims};
use fmnist_gpu::files::{ShownPath, read_bounded};
use fmnist_gpu::gpu::{Element, Gpu, PlanBuilder};
use fmnist_gpu::ops::pool2d::{Reduction, record_max_forward, record_mean_forward};
use fmnist_gpu::photo::{ImageFilter, Photo, Shown};
use fmnist_gpu::report::{Tile, draw_filter, short};
use fmnist_gpu::session::Device;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

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
pub async fn run(args: FilterArgs, global: &Global) -> Result<()> {
    let filter = filter(args.kernel.as_deref().unwrap_or(if args.show_steps { "sobel-x" } else { "edge" }))?;
    let padding = match args.padding {
        PaddingChoice::Same => Padding::Same,
        PaddingChoice::Valid => Padding::Valid,
    };
    if args.show_steps {
        let device = args.device.open(global).await?;
        print(&steps(&filter, args.stride as usize, padding, &device).await?);
        return Ok(());
    }
    if args.image.is_none() && args.test_index.is_none() {
        bail!("nothing to filter; pass an IMAGE, --test-index N, or --show-steps");
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("filter-{}.png", filter.name)));
    if !args.force && out.symlink_metadata().is_ok() {
        bail!("{} exists; pass --force to overwrite it", out.shown());
    }
    let source = source(&args, global)?;
    let dims = filter.dims(source.size, args.stride as usize, padding)?;
    let Conv2dDims { h, w, ho, wo, .. } = dims;
    let device = args.device.open(global).await?;
    let results = match &device {
        Device::Gpu(gpu) => filter.apply(gpu, &dims, &source.values).await?,
        Device::Native(_) => filter.apply_natively(&dims, &source.values),
        Device::Reference => filter.apply_by_loops(&dims, &source.values),
    };
    let tile = |grey: &[u8], width: usize, caption: String| {
        if source.is_ink {
            return Tile::ink(grey, width, caption);
        }
        let rgb = grey.iter().flat_map(|&value| [value; 3]).collect();
        Tile { width, height: grey.len() / width, rgb, caption, outline: None }
    };
    let grey: Vec<u8> = source.values.iter().map(|value| value.round() as u8).collect();
    let before = tile(&grey, w, format!("{}, {w} x {h}", source.name));
    let shown = filter.shown();
    let after = shown.grey(&dims, &results);
    let (shown, how) = match shown {
        Shown::Clamped => ("clamped", "values clamped to 0..255"),
        Shown::Magnitude => ("magnitude", "absolute values, scaled to the largest"),
    };
    let caption = format!("{wo} x {ho}, stride {}, {padding} padding; {how}", args.stride);
    let drawn = draw_filter(before, &filter, tile(&after, wo, caption)).context("drawing the result")?;
    write_png(&out, &drawn.encode_png()?, args.force)?;
    let (min, max) = results.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let filtered = Filtered {
        kernel: filter.name,
        weights: filter.weights.chunks(filter.size[1]).map(<[f32]>::to_vec).collect(),
        stride: args.stride,
        padding,
        input: [h, w],
        output: [ho, wo],
        min,
        max,
        shown,
        device: device.describe()[0].clone(),
        picture: out,
    };
    print_result(args.json, &filtered, |_| {
        let (kernel, picture, min, max) = (&filtered.kernel, filtered.picture.shown(), short(min), short(max));
        format!("{kernel}: {w} x {h} to {wo} x {ho}, values {min} to {max} ({how}); written to {picture}")
    })
}

fn filter(name: &str) -> Result<ImageFilter> {
    if let Some(filter) = ImageFilter::built_in(name) {
        return Ok(filter);
    }
    let path = Path::new(name);
    let fail = || format!("--kernel {name} is neither a readable file nor one of {}", ImageFilter::NAMES.join(", "));
    let bytes = match read_bounded(path, MAX_FILTER_BYTES) {
        Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
            bail!("--kernel {name}: {error}; a filter is only a few rows of numbers")
        }
        bytes => bytes.with_context(fail)?,
    };
    let text = String::from_utf8(bytes).with_context(fail)?;
    let stem = path.file_stem().map_or_else(|| "own".to_string(), |stem| stem.to_string_lossy().into_owned());
    ImageFilter::parse(&stem, &text).with_context(|| format!("--kernel {name}"))
}

fn source(args: &FilterArgs, global: &Global) -> Result<Source> {
    if let Some(path) = &args.image {
        let photo = Photo::open(path)?;
        let (values, size @ [rows, columns]) = photo.grey(MAX_SIDE);
        if size != [photo.height, photo.width] {
            let from = format!("{} x {}", photo.width, photo.height);
            global.say(format!("{}: scaled down from {from} to {columns} x {rows}", path.shown()));
        }
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        return Ok(Source { values, size, name, is_ink: false });
    }
    let index = args.test_index.unwrap_or_default();
    let dataset = args.source.load(global, interrupt_flag(), 0)?;
    let n = dataset.test.len();
    if index >= n {
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
async fn steps(filter: &ImageFilter, stride: usize, padding: Padding, device: &Device) -> Result<String> {
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
            agree_on_device(gpu, filter, &d, &pool, [&results, &max, &average]).await?;
            let _ = write!(text, "The kernels on {} give the same numbers.", gpu.info().name);
        }
        Device::Native(_) => {
            agree("the native engine", &filter.apply_natively(&d, &EXAMPLE), &results)?;
            text.push_str("Computed by the native engine.");
        }
        Device::Reference => text.push_str("Computed by the plain loops."),
    }
    Ok(text)
}

/// Shows one output of the convolution: patch, filter and products side by side.
fn one_output(filter: &ImageFilter, d: &Conv2dDims, [i, j]: [usize; 2], result: f32) -> String {
    let at = |p: usize, q: usize| {
        let (row, column) = ((i * d.stride_h + p).checked_sub(d.pad_top), (j * d.stride_w + q).checked_sub(d.pad_left));
        match (row, column) {
            (Some(row), Some(column)) if row < SIDE && column < SIDE => EXAMPLE[row * SIDE + column],
            _ => 0.0,
        }
    };
    let mut text = format!("  output row {}, column {}:\n", i + 1, j + 1);
    let patch: Vec<f32> = (0..d.kh * d.kw).map(|tap| at(tap / d.kw, tap % d.kw)).collect();
    let products: Vec<f32> = patch.iter().zip(&filter.weights).map(|(x, weight)| x * weight).collect();
    let matrices = [&patch, &filter.weights, &products];
    let width = column_width(matrices.into_iter().flatten(), 6);
    for p in 0..d.kh {
        let [x, weights, product] = matrices.map(|values| row(&values[p * d.kw..][..d.kw], width));
        let (times, equals) = if p == d.kh / 2 { ("x", "=") } else { (" ", " ") };
        let _ = writeln!(text, "  {x}   {times} {weights}   {equals} {product}");
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
        let (top, left) = (block / 2 * 2, block % 2 * 2);
        let four = [0, 1, SIDE, SIDE + 1].map(|offset| EXAMPLE[top * SIDE + left + offset]);
        let _ = writeln!(text, "  {}   largest {:>3}   mean {:>5}", row(&four, 3), short(*largest), short(*mean));
    }
    let _ = writeln!(text, "\nMax pooling:\n{}\nAverage pooling:\n{}", matrix(&max, 2), matrix(&average, 2));
    Ok((d, max, average))
}

fn matrix(values: &[f32], columns: usize) -> String {
    let width = column_width(values, 8);
    values.chunks(columns).map(|values| row(values, width) + "\n").collect()
}

fn row(values: &[f32], width: usize) -> String {
    values.iter().map(|&value| format!("{:>width$}", short(value))).collect()
}

/// Returns the width of a column: `least`, or what the longest number needs, with a space before it.
fn column_width<'a>(values: impl IntoIterator<Item = &'a f32>, least: usize) -> usize {
    values.into_iter().map(|&value| short(value).len() + 1).fold(least, usize::max)
}

/// Repeats the example on the device, and checks its results.
async fn agree_on_device(
    gpu: &Gpu,
    filter: &ImageFilter,
    d: &Conv2dDims,
    pool: &Pool2dDims,
    expected: [&[f32]; 3],
) -> Result<()> {
    let x = gpu.tensor_from("image", &[SIDE * SIDE], &EXAMPLE)?;
    let y = gpu.tensor("max", &[4], Element::F32)?;
    let mean = gpu.tensor("average", &[4], Element::F32)?;
    let argmax = gpu.tensor("argmax", &[4], Element::U32)?;
    let mut plan = PlanBuilder::new(gpu);
    record_max_forward(&mut plan, pool, [&x, &y, &argmax])?;
    record_mean_forward(&mut plan, Reduction::Average, pool, [&x, &mean])?;
    gpu.run(&plan.finish().await?).await?;
    let found = [filter.apply(gpu, d, &EXAMPLE).await?, gpu.read(&y).await?, gpu.read(&mean).await?];
    for (found, expected) in found.iter().zip(expected) {
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
