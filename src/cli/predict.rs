//! `fmnist-gpu predict`

use super::device::DeviceArgs;
use super::source::SourceArgs;
use super::{Global, evaluate, interrupt_flag, picture, print, print_json, with_causes};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::{CLASS_NAMES, N_CLASSES};
use fmnist_gpu::photo::{Doubt, Garment, Invert, Photo, prepare};
use fmnist_gpu::report::{GridItem, Sheet, Tile, Tone, columns_for, draw_grid, draw_tiles};
use fmnist_gpu::train::run::Run;
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

/// Flags of `predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Run folder, or the model.safetensors in it
    run: PathBuf,
    /// Photos of your own: PNG, JPEG, WebP or BMP, folders of them, or - for standard input; without any, test images
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Test images: an index, a range whose end is not included, or several of them, such as 7 or 0..25 or 3,10..12
    /// [default: 0..25]
    #[arg(long, value_name = "INDICES", conflicts_with = "files")]
    test_index: Option<IndexList>,
    /// Photos: turn light and dark round; auto does where the ground is light
    #[arg(long, value_enum, default_value_t = InvertChoice::Auto, requires = "files")]
    invert: InvertChoice,
    /// Photos: how many classes to list for each
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=10))]
    top: u8,
    /// Photos: draw each one with the part that was taken, beside what the network saw
    #[arg(long, value_name = "FILE.png", requires = "files")]
    show_input: Option<PathBuf>,
    /// Draw the images with the prediction under each; for test images also the original, blue where right, red where wrong
    #[arg(long, value_name = "FILE.png")]
    grid: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Replace an existing picture
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InvertChoice {
    /// Where the ground is light
    Auto,
    /// Always
    Yes,
    /// Never
    No,
}

impl From<InvertChoice> for Invert {
    fn from(choice: InvertChoice) -> Self {
        match choice {
            InvertChoice::Auto => Invert::Auto,
            InvertChoice::Yes => Invert::Yes,
            InvertChoice::No => Invert::No,
        }
    }
}

/// A list of indices as typed.
#[derive(Clone, Debug, PartialEq)]
struct IndexList(Vec<std::ops::Range<usize>>);

impl FromStr for IndexList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |word: &str| {
            word.trim().parse::<usize>().map_err(|_| format!("`{word}` is not an index such as 7 or 0..25"))
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let range = match part.split_once("..") {
                Some((first, end)) => number(first)?..number(end)?,
                None => {
                    let index = number(part)?;
                    index..index.checked_add(1).ok_or_else(|| format!("`{part}` is too large"))?
                }
            };
            if range.is_empty() {
                return Err(format!("the range `{part}` is empty: its end is not included, as in 0..25"));
            }
            ranges.push(range);
        }
        Ok(IndexList(ranges))
    }
}

/// Predicts photos or test images.
pub fn run(args: PredictArgs, global: &Global) -> Result<ExitCode> {
    let run = Run::open(&args.run)?;
    if args.files.is_empty() { test_images(&args, &run, global) } else { photos(&args, &run, global) }
}

/// One element of `predict --json` for test images.
#[derive(Debug, Serialize)]
struct Prediction {
    index: usize,
    label: u8,
    predicted: usize,
    class: &'static str,
    probability: f32,
    probabilities: Vec<f32>,
}

fn test_images(args: &PredictArgs, run: &Run, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag()?;
    let device = args.device.open(global)?;
    let dataset = args.source.load(global, run.config.as_ref().map(|c| c.dataset), Some(interrupt))?;
    let available = dataset.test.len();
    let ranges = args.test_index.clone().map_or_else(|| std::iter::once(0..25).collect(), |list| list.0);
    // Checked before the list is spelled out: 0..18446744073709551615 is a short text.
    if let Some(range) = ranges.iter().find(|range| range.end > available) {
        bail!(
            "--test-index {}..{} reaches past the test set, which has {available} images (0 to {})",
            range.start,
            range.end,
            available - 1
        );
    }
    let indices: Vec<usize> = ranges.into_iter().flatten().collect();
    let images: Vec<u8> = indices.iter().flat_map(|&i| dataset.test.image(i)).copied().collect();
    let probabilities = evaluate::engine(run, &device)?.predict(&images, &mut |_| ControlFlow::Continue(()))?;
    if let Some(path) = &args.grid {
        picture::write_png(path, &picture::predictions_png(&dataset.test, &indices, &probabilities)?, args.force)?;
        global.say(format!("Picture: {}", path.display()));
    }
    let predictions: Vec<Prediction> = indices
        .iter()
        .zip(probabilities.chunks(N_CLASSES))
        .map(|(&index, row)| {
            let predicted = picture::argmax(row);
            Prediction {
                index,
                label: dataset.test.labels[index],
                predicted,
                class: CLASS_NAMES[predicted],
                probability: row[predicted],
                probabilities: row.to_vec(),
            }
        })
        .collect();
    if args.json {
        print_json(&predictions)?;
    } else {
        print(&table(&predictions))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(predictions: &[Prediction]) -> String {
    let mut lines = vec![format!("{:>6}  {:<12} {:>6}  {:<12}", "index", "predicted", "", "original")];
    for p in predictions {
        let mark = if p.predicted == usize::from(p.label) { "" } else { "wrong" };
        let percent = format!("{:.0} %", p.probability * 100.0);
        let original = CLASS_NAMES[usize::from(p.label)];
        lines.push(
            format!("{:>6}  {:<12} {percent:>6}  {original:<12} {mark}", p.index, p.class).trim_end().to_string(),
        );
    }
    let right = predictions.iter().filter(|p| p.predicted == usize::from(p.label)).count();
    lines.push(format!("{right} of {} right", predictions.len()));
    lines.join("\n")
}

/// A photo with what became of it.
struct Prepared {
    name: String,
    photo: Photo,
    garment: Garment,
    /// Size of `photo` as a share of the original's, across and down.
    scale: [f64; 2],
}

/// One element of `predict --json` for photos.
#[derive(Debug, Serialize)]
struct PhotoPrediction {
    file: String,
    predicted: usize,
    class: &'static str,
    probability: f32,
    probabilities: Vec<f32>,
    /// Whether light and dark were turned round.
    inverted: bool,
    /// The part of the upright photo that was taken: left, top, width, height.
    crop: [usize; 4],
    /// Why the prediction may mean nothing.
    warning: Option<String>,
}

/// Predicts every photo that can be read. One that cannot is named, and makes the exit code 2 at the end.
fn photos(args: &PredictArgs, run: &Run, global: &Global) -> Result<ExitCode> {
    let mut failures = 0;
    let mut prepared = Vec::new();
    for path in listed(&args.files)? {
        match open(&path) {
            Ok((name, photo)) => {
                let garment = prepare(&photo, args.invert.into());
                // Nothing larger than a thumbnail is needed any more, and there may be thousands.
                let size = [photo.width as f64, photo.height as f64];
                let photo = thumbnail(photo, args.show_input.is_some());
                let scale = [photo.width as f64 / size[0], photo.height as f64 / size[1]];
                prepared.push(Prepared { name, photo, garment, scale });
            }
            Err(error) => {
                eprintln!("fmnist-gpu: {}", with_causes(&error));
                failures += 1;
            }
        }
    }
    if prepared.is_empty() {
        bail!("none of the {failures} pictures could be read; nothing was predicted");
    }
    let device = args.device.open(global)?;
    let images: Vec<u8> = prepared.iter().flat_map(|p| &p.garment.image).copied().collect();
    let probabilities = evaluate::engine(run, &device)?.predict(&images, &mut |_| ControlFlow::Continue(()))?;
    let predictions: Vec<PhotoPrediction> =
        prepared.iter().zip(probabilities.chunks(N_CLASSES)).map(predicted).collect();
    if let Some(path) = &args.grid {
        let items: Vec<GridItem<'_>> = prepared
            .iter()
            .zip(&predictions)
            .map(|(p, prediction)| GridItem {
                image: &p.garment.image,
                caption: format!("{}\n{}", short(&p.name), percent(prediction.predicted, prediction.probability)),
                tone: if prediction.warning.is_some() { Tone::Wrong } else { Tone::Neutral },
            })
            .collect();
        let drawn = draw_grid(&items, columns_for(items.len()), None).context("drawing the grid")?;
        picture::write_png(path, &drawn.encode_png()?, args.force)?;
        global.say(format!("Picture: {}", path.display()));
    }
    if let Some(path) = &args.show_input {
        picture::write_png(path, &inputs_png(&prepared, &predictions)?, args.force)?;
        global.say(format!("Picture: {}", path.display()));
    }
    if args.json {
        print_json(&predictions)?;
    } else {
        print(&photo_table(&predictions, usize::from(args.top)))?;
    }
    if failures > 0 {
        eprintln!("fmnist-gpu: {failures} pictures could not be read; the others are above");
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

/// The files named, with those of the folders named in alphabetical order.
fn listed(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("the folder {}", path.display()))?;
        let mut inside = Vec::new();
        for entry in entries {
            let file = entry.with_context(|| format!("the folder {}", path.display()))?.path();
            let ending = file.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
            if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) && file.is_file() {
                inside.push(file);
            }
        }
        if inside.is_empty() {
            bail!("the folder {} holds no pictures (files that end in {})", path.display(), ENDINGS.join(", "));
        }
        inside.sort_unstable();
        files.extend(inside);
    }
    Ok(files)
}

fn open(path: &Path) -> Result<(String, Photo)> {
    if path == Path::new("-") {
        return Ok(("standard input".to_string(), Photo::read(std::io::stdin().lock(), "standard input")?));
    }
    Ok((path.display().to_string(), Photo::open(path)?))
}

/// The photo in the size in which it is drawn; nothing of it where it is not.
fn thumbnail(photo: Photo, is_drawn: bool) -> Photo {
    const SIDE: usize = 512;
    let longer = photo.width.max(photo.height);
    if !is_drawn {
        return Photo { rgba: Vec::new(), ..photo };
    }
    if longer <= SIDE {
        return photo;
    }
    let [width, height] = [photo.width, photo.height].map(|side| (side * SIDE / longer).max(1));
    let mut rgba = Vec::with_capacity(4 * width * height);
    for y in 0..height {
        for x in 0..width {
            let at = 4 * (y * photo.height / height * photo.width + x * photo.width / width);
            rgba.extend_from_slice(&photo.rgba[at..at + 4]);
        }
    }
    Photo { width, height, rgba }
}

fn predicted((prepared, row): (&Prepared, &[f32])) -> PhotoPrediction {
    let best = picture::argmax(row);
    let mut doubts = prepared.garment.doubts.clone();
    if doubts.is_empty() && row[best] < 0.5 {
        doubts.push(Doubt::Unsure { probability: row[best] });
    }
    let warning = doubts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    PhotoPrediction {
        file: prepared.name.clone(),
        predicted: best,
        class: CLASS_NAMES[best],
        probability: row[best],
        probabilities: row.to_vec(),
        inverted: prepared.garment.inverted,
        crop: prepared.garment.crop,
        warning: (!warning.is_empty()).then_some(warning),
    }
}

fn percent(class: usize, probability: f32) -> String {
    format!("{} {:.0} %", CLASS_NAMES[class], probability * 100.0)
}

/// A file's name without its folders.
fn short(name: &str) -> String {
    Path::new(name).file_name().map_or(name.to_string(), |name| name.to_string_lossy().into_owned())
}

fn photo_table(predictions: &[PhotoPrediction], top: usize) -> String {
    let width = predictions.iter().map(|p| p.file.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for p in predictions {
        let mut order: Vec<usize> = (0..N_CLASSES).collect();
        // Stable: of equal ones the first class leads, as in `argmax`.
        order.sort_by(|&a, &b| p.probabilities[b].total_cmp(&p.probabilities[a]));
        let classes: Vec<String> =
            order.iter().take(top).map(|&class| percent(class, p.probabilities[class])).collect();
        lines.push(format!("{:<width$}  {}", p.file, classes.join(", ")));
        lines.extend(p.warning.as_ref().map(|warning| format!("{:<width$}  Doubtful: {warning}", "")));
    }
    lines.join("\n")
}

/// Each photo with the part that was taken, and beside it what the network saw.
fn inputs_png(prepared: &[Prepared], predictions: &[PhotoPrediction]) -> Result<Vec<u8>> {
    let tiles: Vec<Tile> = prepared
        .iter()
        .zip(predictions)
        .flat_map(|(p, prediction)| {
            let Photo { width, height, rgba } = &p.photo;
            // Transparent parts are drawn white.
            let over_white = |pixel: &[u8; 4]| {
                let alpha = u16::from(pixel[3]);
                [0, 1, 2].map(|c| ((u16::from(pixel[c]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
            };
            let rgb = rgba.as_chunks::<4>().0.iter().flat_map(over_white).collect();
            let outline = Some(p.in_thumbnail());
            let photo = Tile { width: *width, height: *height, rgb, caption: short(&p.name), outline };
            let seen = percent(prediction.predicted, prediction.probability);
            [photo, Tile::ink(&p.garment.image, fmnist_gpu::data::IMAGE_SIDE, seen)]
        })
        .collect();
    let columns = 2 * columns_for(prepared.len()).min(3);
    let drawn = draw_tiles(&tiles, Sheet { columns, tile: [225, 225], title: "" }).context("drawing the inputs")?;
    drawn.encode_png().context("encoding the picture")
}

impl Prepared {
    /// The crop in the pixels of the thumbnail.
    fn in_thumbnail(&self) -> [usize; 4] {
        let [left, top, width, height] = self.garment.crop;
        let [across, down] = self.scale;
        let scaled = |value: usize, scale: f64| (value as f64 * scale) as usize;
        [scaled(left, across), scaled(top, down), scaled(width, across), scaled(height, down)]
    }
}
