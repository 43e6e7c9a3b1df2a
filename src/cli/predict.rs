//! `fmnist-gpu predict`

use super::device::DeviceArgs;
use super::source::SourceArgs;
use super::{
    Global, Interrupted, counted, evaluate, interrupt_flag, output_path, picture, print_json, terminal, with_causes,
};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::Description;
use fmnist_gpu::files::{ShownPath, check_target};
use fmnist_gpu::photo::{Doubt, Garment, Invert, Photo, prepare};
use fmnist_gpu::report::{GridItem, Tile, Tone, columns_for, draw_grid, draw_tiles};
use fmnist_gpu::run::Run;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::Ordering;

/// Most test images that are predicted at once: the table and the probabilities of more would fill memory.
const MAX_INDICES: usize = 100_000;

/// Flags of `predict`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct PredictArgs {
    /// Run folder, or the model.safetensors in it
    run: PathBuf,
    /// Your own photos: PNG, JPEG, WebP or BMP, folders of them, or - for standard input; test images if omitted
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Test images: an index, a range that excludes its end, or a list of them, such as 7 or 0..25 or 3,10..12 [default: 0..25]
    #[arg(long, value_name = "INDICES", conflicts_with = "files")]
    test_index: Option<IndexList>,
    /// Photos: swap light and dark; auto does so if the background is light
    #[arg(long, value_enum, default_value_t = InvertChoice::Auto, requires = "files")]
    invert: InvertChoice,
    /// Photos: how many classes to list for each
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=10))]
    top: u8,
    /// Photos: draw each one with the part that was used, beside what the network saw
    #[arg(long, value_name = "FILE.png", requires = "files", value_parser = output_path())]
    show_input: Option<PathBuf>,
    /// Draw the images with their predictions; for test images also the original class, blue if correct, red if wrong
    #[arg(long, value_name = "FILE.png", value_parser = output_path())]
    grid: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Overwrite existing images
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum InvertChoice {
    /// If the background is light
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
    let run = match Run::open(&args.run) {
        // `predict photo.jpg RUN`: the arguments were swapped.
        Err(_) if args.files.iter().any(|file| Run::open(file).is_ok()) && !args.run.is_dir() => {
            bail!("{} is not a run; the run comes first, then the photos: predict RUN {0}", args.run.shown())
        }
        run => run?,
    };
    // Before any work: of several images, none is written if one is refused.
    for path in [&args.grid, &args.show_input].into_iter().flatten() {
        check_target(path, args.force)?;
    }
    if args.files.is_empty() { test_images(&args, &run, global) } else { photos(&args, &run, global) }
}

/// One element of `predict --json` for test images.
#[derive(Debug, Serialize)]
struct Prediction<'a> {
    index: usize,
    label: u8,
    predicted: usize,
    class: &'a str,
    probability: f32,
    probabilities: Vec<f32>,
}

fn test_images(args: &PredictArgs, run: &Run, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag();
    let device = args.device.open(global)?;
    let dataset = evaluate::load_data(run, &args.source, global, &interrupt)?;
    let (available, description) = (dataset.test.len(), &dataset.description);
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
    let count = ranges.iter().map(|range| range.len()).fold(0, usize::saturating_add);
    if count > MAX_INDICES {
        bail!("--test-index lists {count} images, and at most {MAX_INDICES} are predicted at once; list fewer");
    }
    let indices: Vec<usize> = ranges.into_iter().flatten().collect();
    let images: Vec<u8> = indices.iter().flat_map(|&i| dataset.test.image(i)).copied().collect();
    let probabilities = evaluate::predict(&mut *evaluate::engine(run, &device)?, &images, &interrupt)?;
    if let Some(path) = &args.grid {
        let png = picture::predictions_png(&dataset.test, &indices, &probabilities, description)?;
        picture::write_png(path, &png, args.force)?;
        global.say(format!("Image: {}", path.shown()));
    }
    let predictions: Vec<Prediction<'_>> = indices
        .iter()
        .zip(probabilities.chunks(description.classes()))
        .map(|(&index, row)| {
            let predicted = picture::argmax(row);
            Prediction {
                index,
                label: dataset.test.labels[index],
                predicted,
                class: description.class_name(predicted),
                probability: row[predicted],
                probabilities: row.to_vec(),
            }
        })
        .collect();
    if args.json {
        print_json(&predictions)?;
    } else {
        terminal::print(&table(&predictions, description));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(predictions: &[Prediction<'_>], description: &Description) -> String {
    let mut lines = vec![format!("{:>6}  {:<12} {:>6}  {:<12}", "index", "predicted", "", "original")];
    for p in predictions {
        let mark = if p.predicted == usize::from(p.label) { "" } else { "wrong" };
        let percent = format!("{:.0} %", p.probability * 100.0);
        let original = description.class_name(p.label.into());
        lines.push(
            format!("{:>6}  {:<12} {percent:>6}  {original:<12} {mark}", p.index, p.class).trim_end().to_string(),
        );
    }
    let right = predictions.iter().filter(|p| p.predicted == usize::from(p.label)).count();
    lines.push(format!("{right} of {} correct", predictions.len()));
    lines.join("\n")
}

/// A photo and what was made of it.
struct Prepared {
    name: String,
    photo: Photo,
    garment: Garment,
    /// Size of `photo` as a share of the original's, across and down.
    scale: [f64; 2],
}

/// One element of `predict --json` for photos.
#[derive(Debug, Serialize)]
struct PhotoPrediction<'a> {
    file: String,
    predicted: usize,
    class: &'a str,
    probability: f32,
    probabilities: Vec<f32>,
    /// Whether light and dark were swapped.
    inverted: bool,
    /// The part of the upright photo that was used: left, top, width, height.
    crop: [usize; 4],
    /// Why the prediction may be meaningless.
    warning: Option<String>,
}

/// Predicts every photo that can be read. One that cannot be read is named, and the exit code is 2.
fn photos(args: &PredictArgs, run: &Run, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag();
    let mut failures = 0;
    let mut prepared = Vec::new();
    for path in listed(&args.files)? {
        if interrupt.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
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
                terminal::complain(with_causes(&error));
                failures += 1;
            }
        }
    }
    if prepared.is_empty() {
        let images = if failures == 1 { "the image" } else { "none of the images" };
        bail!("{images} could{} be read; nothing was predicted", if failures == 1 { " not" } else { "" });
    }
    let device = args.device.open(global)?;
    let images: Vec<u8> = prepared.iter().flat_map(|p| &p.garment.image).copied().collect();
    let probabilities = evaluate::predict(&mut *evaluate::engine(run, &device)?, &images, &interrupt)?;
    let description = evaluate::description(run);
    let rows = probabilities.chunks(description.classes());
    let predictions: Vec<PhotoPrediction<'_>> =
        prepared.iter().zip(rows).map(|(prepared, row)| predicted(prepared, row, description)).collect();
    if let Some(path) = &args.grid {
        let items: Vec<GridItem<'_>> = prepared
            .iter()
            .zip(&predictions)
            .map(|(p, prediction)| GridItem {
                image: &p.garment.image,
                caption: format!("{}\n{}", short(&p.name), percent(prediction.class, prediction.probability)),
                tone: if prediction.warning.is_some() { Tone::Wrong } else { Tone::Neutral },
            })
            .collect();
        let drawn = draw_grid(&items, columns_for(items.len()), description).context("drawing the grid")?;
        picture::write_png(path, &drawn.encode_png()?, args.force)?;
        global.say(format!("Image: {}", path.shown()));
    }
    if let Some(path) = &args.show_input {
        picture::write_png(path, &inputs_png(&prepared, &predictions, description)?, args.force)?;
        global.say(format!("Image: {}", path.shown()));
    }
    if args.json {
        print_json(&predictions)?;
    } else {
        terminal::print(&photo_table(&predictions, usize::from(args.top), description));
    }
    if failures > 0 {
        let images = counted(failures, "image");
        terminal::complain(format_args!("{images} could not be read; the predictions of the others are above"));
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

/// The named files, and those in the named folders in alphabetical order.
fn listed(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).with_context(|| format!("reading the folder {}", path.shown()))?;
        let mut inside = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("reading the folder {}", path.shown()))?;
            let file = entry.path();
            let ending = file.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
            // macOS puts a file `._photo.png` beside each photo on foreign disks, which holds attributes.
            let is_attributes = entry.file_name().to_string_lossy().starts_with("._");
            // A broken link is taken too, to be named with the files that cannot be read; a pipe would block.
            let is_taken = file.is_file() || !file.exists();
            if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) && !is_attributes && is_taken {
                inside.push(file);
            }
        }
        if inside.is_empty() {
            bail!("the folder {} contains no images (files that end in {})", path.shown(), ENDINGS.join(", "));
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
    Ok((path.shown(), Photo::open(path)?))
}

/// The photo at the size at which it is drawn; no pixels if it is not drawn.
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

fn predicted<'a>(prepared: &Prepared, row: &[f32], description: &'a Description) -> PhotoPrediction<'a> {
    let best = picture::argmax(row);
    let mut doubts = prepared.garment.doubts.clone();
    if doubts.is_empty() && row[best] < 0.5 {
        doubts.push(Doubt::Unsure { probability: row[best] });
    }
    let warning = doubts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    PhotoPrediction {
        file: prepared.name.clone(),
        predicted: best,
        class: description.class_name(best),
        probability: row[best],
        probabilities: row.to_vec(),
        inverted: prepared.garment.inverted,
        crop: prepared.garment.crop,
        warning: (!warning.is_empty()).then_some(warning),
    }
}

fn percent(class: &str, probability: f32) -> String {
    format!("{class} {:.0} %", probability * 100.0)
}

/// A file's name without its folders.
fn short(name: &str) -> String {
    Path::new(name).file_name().map_or(name.to_string(), |name| name.to_string_lossy().into_owned())
}

fn photo_table(predictions: &[PhotoPrediction<'_>], top: usize, description: &Description) -> String {
    let width = predictions.iter().map(|p| p.file.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for p in predictions {
        let mut order: Vec<usize> = (0..p.probabilities.len()).collect();
        // Stable: of equal ones the first class leads, as in `argmax`.
        order.sort_by(|&a, &b| p.probabilities[b].total_cmp(&p.probabilities[a]));
        let shown = |&class: &usize| percent(description.class_name(class), p.probabilities[class]);
        let classes: Vec<String> = order.iter().take(top).map(shown).collect();
        lines.push(format!("{:<width$}  {}", p.file, classes.join(", ")));
        lines.extend(p.warning.as_ref().map(|warning| format!("{:<width$}  Doubtful: {warning}", "")));
    }
    lines.join("\n")
}

/// Each photo with the part that was used, and beside it what the network saw.
fn inputs_png(
    prepared: &[Prepared],
    predictions: &[PhotoPrediction<'_>],
    description: &Description,
) -> Result<Vec<u8>> {
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
            let seen = percent(prediction.class, prediction.probability);
            [photo, Tile::ink(&p.garment.image, description.width(), seen)]
        })
        .collect();
    let columns = 2 * columns_for(prepared.len()).min(3);
    let drawn = draw_tiles(&tiles, columns, [225, 225]).context("drawing the inputs")?;
    drawn.encode_png().context("encoding the image")
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
