//! `fmnist-gpu predict`

use super::device::DeviceArgs;
use super::source::SourceArgs;
use super::views::{ViewsArgs, by_views};
use super::{
    Global, Interrupted, counted, evaluate, interrupt_flag, output_path, print_result, terminal, with_causes, write_png,
};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::Description;
use fmnist_gpu::files::{ShownPath, check_target};
use fmnist_gpu::model::{Model, Views};
use fmnist_gpu::photo::{Doubt, Garment, Invert, Photo, prepare};
use fmnist_gpu::report::metrics::argmax;
use fmnist_gpu::report::{GridItem, Tile, Tone, columns_for, draw_tiles, grid_png, predictions_png};
use fmnist_gpu::run::{CONFIG_FILE, MODEL_FILE, Run};
use serde::Serialize;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Most test images that are predicted at once: the table and the probabilities of more would fill memory.
const MAX_INDICES: usize = 100_000;

/// The test images that are predicted unless others are named.
const FIRST_IMAGES: Range<usize> = 0..25;

/// Flags of `predict`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct PredictArgs {
    /// Run folder, or the model.safetensors in it [default: the trained model `tiny`, which comes with the program]
    run: Option<PathBuf>,
    /// Your own photos: PNG, JPEG, WebP or BMP, folders of them, or - for standard input; test images if omitted
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Test images: an index, a range that excludes its end, or a list of them, such as 7 or 0..25 or 3,10..12 [default: 0..25]
    #[arg(long, value_name = "INDICES", value_parser = index_list)]
    test_index: Option<IndexList>,
    /// Photos: swap light and dark; auto does so if the background is light [default: auto]
    #[arg(long, value_enum)]
    invert: Option<InvertChoice>,
    /// Photos: how many classes to list for each
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=10))]
    top: u8,
    /// Photos: draw each one with the part that was used, beside what the network saw
    #[arg(long, value_name = "FILE.png", value_parser = output_path())]
    show_input: Option<PathBuf>,
    /// Draw the images with their predictions; for test images also the original class, blue if correct, red if wrong
    #[arg(long, value_name = "FILE.png", value_parser = output_path())]
    grid: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    views: ViewsArgs,
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

/// A list of indices as typed.
type IndexList = Vec<Range<usize>>;

fn index_list(text: &str) -> Result<IndexList, String> {
    let number =
        |word: &str| word.trim().parse::<usize>().map_err(|_| format!("`{word}` is not an index such as 7 or 0..25"));
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
    Ok(ranges)
}

/// Predicts photos or test images.
pub async fn run(args: PredictArgs, global: &Global) -> Result<ExitCode> {
    let mut args = args;
    // `predict photo.jpg`: no run is named.
    if let Some(path) = args.run.take_if(|path| is_photo(path)) {
        if args.files.iter().any(|file| Run::open(file).is_ok()) {
            bail!("{} is not a run; the run comes first, then the photos: predict RUN {0}", path.shown());
        }
        args.files.insert(0, path);
    }
    if args.files.is_empty() {
        let photos_only = [("--invert", args.invert.is_some()), ("--show-input", args.show_input.is_some())];
        if let Some((flag, _)) = photos_only.iter().find(|(_, is_given)| *is_given) {
            bail!("{flag} is for photos, and none is named; name them after the run, or leave {flag} out");
        }
    } else if args.test_index.is_some() {
        bail!("--test-index names test images, and photos are named too; leave out the one or the other");
    }
    let run = match &args.run {
        Some(path) => Run::open(path)?,
        None => {
            let run = Run::built_in();
            global.say(format!(
                "Model: {}, which comes with the program; to use another: predict RUN FILE",
                run.model.name
            ));
            run
        }
    };
    // Before any work: of several images, none is written if one is refused.
    for path in [&args.grid, &args.show_input].into_iter().flatten() {
        check_target(path, args.force)?;
    }
    match args.files.is_empty() {
        true => test_images(&args, &run, global).await,
        false => photos(&args, &run, global).await,
    }
}

/// Whether the first path names photos, and no run: by its ending, or as a folder that holds images and nothing of a run.
fn is_photo(path: &Path) -> bool {
    if !path.is_dir() {
        return path == Path::new("-") || has_image_ending(path);
    }
    let is_run = [CONFIG_FILE, MODEL_FILE].iter().any(|file| path.join(file).symlink_metadata().is_ok());
    !is_run && images_in(path).is_ok_and(|images| !images.is_empty())
}

/// What the model makes of an image.
#[derive(Debug, Serialize)]
struct Guess<'a> {
    model: &'a str,
    predicted: usize,
    class: &'a str,
    probability: f32,
    probabilities: Vec<f32>,
    /// Of the image, if there were several.
    #[serde(skip_serializing_if = "Option::is_none")]
    views: Option<usize>,
}

impl<'a> Guess<'a> {
    fn new(row: &[f32], model: &'a Model, views: Views, description: &'a Description) -> Self {
        let predicted = argmax(row);
        let class = description.class_name(predicted);
        let views = Some(views.list().len()).filter(|&views| views > 1);
        Guess { model: &model.name, predicted, class, probability: row[predicted], probabilities: row.to_vec(), views }
    }

    fn caption(&self) -> String {
        percent(self.class, self.probability)
    }
}

fn percent(class: &str, probability: f32) -> String {
    format!("{class} {:.0} %", probability * 100.0)
}

/// One element of `predict --json` for test images.
#[derive(Debug, Serialize)]
struct Prediction<'a> {
    index: usize,
    label: u8,
    #[serde(flatten)]
    guess: Guess<'a>,
}

async fn test_images(args: &PredictArgs, run: &Run, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag();
    let device = args.device.open(global).await?;
    let dataset = evaluate::load_data(run, &args.source, global, &interrupt)?;
    let (available, description) = (dataset.test.len(), &dataset.description);
    // Checked before the list is spelled out: 0..18446744073709551615 is a short text.
    let test_index = args.test_index.clone().unwrap_or_else(|| vec![FIRST_IMAGES]);
    if let Some(range) = test_index.iter().find(|range| range.end > available) {
        let last = available - 1;
        bail!("--test-index {range:?} reaches past the test set, which has {available} images (0 to {last})");
    }
    let count = test_index.iter().map(|range| range.len()).fold(0, usize::saturating_add);
    if count > MAX_INDICES {
        bail!("--test-index lists {count} images, and at most {MAX_INDICES} are predicted at once; list fewer");
    }
    let indices: Vec<usize> = test_index.iter().cloned().flatten().collect();
    let images: Vec<u8> = indices.iter().flat_map(|&i| dataset.test.image(i)).copied().collect();
    let mut engine = device.evaluator(&run.model, &run.parameters)?;
    let views = args.views.of(&run.model);
    let probabilities = evaluate::predict(&mut *engine, &images, views, &interrupt).await?;
    if let Some(path) = &args.grid {
        let png = predictions_png(&dataset.test, &indices, &probabilities, description).context("drawing the grid")?;
        write_png(path, &png, args.force)?;
        global.say(format!("Image: {}", path.shown()));
    }
    let mut predictions = Vec::new();
    for (index, row) in indices.into_iter().zip(probabilities.chunks(description.classes())) {
        let label = dataset.test.labels[index];
        predictions.push(Prediction { index, label, guess: Guess::new(row, &run.model, views, description) });
    }
    print_result(args.json, &predictions, |list| table(list, views, description))?;
    Ok(ExitCode::SUCCESS)
}

fn table(predictions: &[Prediction<'_>], views: Views, description: &Description) -> String {
    let mut lines = vec![format!("{:>6}  {:<12} {:>6}  {:<12}", "index", "predicted", "", "original")];
    let mut right = 0;
    for Prediction { index, label, guess } in predictions {
        let is_right = guess.predicted == usize::from(*label);
        right += usize::from(is_right);
        let mark = if is_right { "" } else { "wrong" };
        let percent = format!("{:.0} %", guess.probability * 100.0);
        let original = description.class_name(usize::from(*label));
        let line = format!("{index:>6}  {:<12} {percent:>6}  {original:<12} {mark}", guess.class);
        lines.push(line.trim_end().to_string());
    }
    lines.push(format!("{right} of {} correct{}", predictions.len(), by_views(views, None)));
    lines.join("\n")
}

/// A photo and what was made of it.
struct Prepared {
    name: String,
    garment: Garment,
    /// The photo as `--show-input` draws it.
    shown: Option<Tile>,
}

/// One element of `predict --json` for photos.
#[derive(Debug, Serialize)]
struct PhotoPrediction<'a> {
    file: String,
    #[serde(flatten)]
    guess: Guess<'a>,
    /// Whether light and dark were swapped.
    inverted: bool,
    /// The part of the upright photo that was used: left, top, width, height.
    crop: [usize; 4],
    /// Why the prediction may be meaningless.
    warning: Option<String>,
}

/// Predicts every photo that can be read. One that cannot be read is named, and the exit code is 2.
async fn photos(args: &PredictArgs, run: &Run, global: &Global) -> Result<ExitCode> {
    let interrupt = interrupt_flag();
    let invert = match args.invert {
        None | Some(InvertChoice::Auto) => Invert::Auto,
        Some(InvertChoice::Yes) => Invert::Yes,
        Some(InvertChoice::No) => Invert::No,
    };
    let mut failures = 0;
    let mut prepared = Vec::new();
    for path in listed(&args.files)? {
        if interrupt.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        match open(&path) {
            Ok((name, photo)) => {
                let garment = prepare(&photo, invert);
                // Nothing larger than a thumbnail is needed any more, and there may be thousands.
                let shown = args.show_input.as_ref().map(|_| thumbnail(&photo, garment.crop, short(&name)));
                prepared.push(Prepared { name, garment, shown });
            }
            Err(error) => {
                terminal::complain(with_causes(error.as_ref()));
                failures += 1;
            }
        }
    }
    if prepared.is_empty() {
        let images = if failures == 1 { "the image could not" } else { "none of the images could" };
        bail!("{images} be read; nothing was predicted");
    }
    let device = args.device.open(global).await?;
    let images: Vec<u8> = prepared.iter().flat_map(|p| &p.garment.image).copied().collect();
    let mut engine = device.evaluator(&run.model, &run.parameters)?;
    let views = args.views.of(&run.model);
    let probabilities = evaluate::predict(&mut *engine, &images, views, &interrupt).await?;
    let description = evaluate::description(run);
    let rows = probabilities.chunks(description.classes());
    let predictions: Vec<PhotoPrediction<'_>> = prepared
        .iter()
        .zip(rows)
        .map(|(prepared, row)| predicted(prepared, row, &run.model, views, description))
        .collect();
    if let Some(path) = &args.grid {
        let mut items = Vec::new();
        for (p, prediction) in prepared.iter().zip(&predictions) {
            let caption = format!("{}\n{}", short(&p.name), prediction.guess.caption());
            let tone = if prediction.warning.is_some() { Tone::Wrong } else { Tone::Neutral };
            items.push(GridItem { image: &p.garment.image, caption, tone });
        }
        let png = grid_png(&items, description).context("drawing the grid")?;
        write_png(path, &png, args.force)?;
        global.say(format!("Image: {}", path.shown()));
    }
    if let Some(path) = &args.show_input {
        write_png(path, &inputs_png(prepared, &predictions, description)?, args.force)?;
        global.say(format!("Image: {}", path.shown()));
    }
    print_result(args.json, &predictions, |list| photo_table(list, usize::from(args.top), description))?;
    if failures > 0 {
        let images = counted(failures, "image");
        terminal::complain(format_args!("{images} could not be read; the predictions of the others are above"));
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::SUCCESS)
}

/// The endings of the files that are taken from folders.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

fn has_image_ending(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// The named files, and those in the named folders in alphabetical order.
fn listed(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let inside = images_in(path).with_context(|| format!("reading the folder {}", path.shown()))?;
        if inside.is_empty() {
            bail!("the folder {} contains no images (files that end in {})", path.shown(), ENDINGS.join(", "));
        }
        files.extend(inside);
    }
    Ok(files)
}

/// The images in a folder in alphabetical order.
fn images_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut inside = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.path();
        // macOS puts a file `._photo.png` beside each photo on foreign disks, which holds attributes.
        let is_attributes = entry.file_name().to_string_lossy().starts_with("._");
        // A broken link is taken too, to be named with the files that cannot be read; a pipe would block.
        let is_taken = file.is_file() || !file.exists();
        if has_image_ending(&file) && !is_attributes && is_taken {
            inside.push(file);
        }
    }
    inside.sort_unstable();
    Ok(inside)
}

fn open(path: &Path) -> Result<(String, Photo)> {
    if path == Path::new("-") {
        return Ok(("standard input".to_string(), Photo::read(std::io::stdin().lock(), "standard input")?));
    }
    Ok((path.shown(), Photo::open(path)?))
}

/// The photo at the size at which it is drawn, on white where it is transparent, with the part that was used.
fn thumbnail(photo: &Photo, crop: [usize; 4], caption: String) -> Tile {
    const SIDE: usize = 512;
    let longer = photo.width.max(photo.height).max(SIDE);
    let [width, height] = [photo.width, photo.height].map(|side| (side * SIDE / longer).max(1));
    let mut rgb = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            let at = 4 * (y * photo.height / height * photo.width + x * photo.width / width);
            let [r, g, b, alpha] = [0, 1, 2, 3].map(|channel| u16::from(photo.rgba[at + channel]));
            rgb.extend([r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
        }
    }
    let scale = [width as f64 / photo.width as f64, height as f64 / photo.height as f64];
    // Left, top, width and height.
    let outline = [0, 1, 2, 3].map(|i| (crop[i] as f64 * scale[i % 2]) as usize);
    Tile { width, height, rgb, caption, outline: Some(outline) }
}

fn predicted<'a>(
    prepared: &Prepared,
    row: &[f32],
    model: &'a Model,
    views: Views,
    description: &'a Description,
) -> PhotoPrediction<'a> {
    let guess = Guess::new(row, model, views, description);
    let mut doubts = prepared.garment.doubts.clone();
    if doubts.is_empty() && guess.probability < 0.5 {
        doubts.push(Doubt::Unsure { probability: guess.probability });
    }
    let warning = doubts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let warning = (!warning.is_empty()).then_some(warning);
    let Garment { inverted, crop, .. } = prepared.garment;
    PhotoPrediction { file: prepared.name.clone(), guess, inverted, crop, warning }
}

/// A file's name without its folders.
fn short(name: &str) -> String {
    Path::new(name).file_name().map_or(name.to_string(), |name| name.to_string_lossy().into_owned())
}

fn photo_table(predictions: &[PhotoPrediction<'_>], top: usize, description: &Description) -> String {
    let width = predictions.iter().map(|p| p.file.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for p in predictions {
        let probabilities = &p.guess.probabilities;
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        // Stable: of equal ones the first class leads, as in `argmax`.
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let shown = |&class: &usize| percent(description.class_name(class), probabilities[class]);
        let classes: Vec<String> = order.iter().take(top).map(shown).collect();
        lines.push(format!("{:<width$}  {}", p.file, classes.join(", ")));
        lines.extend(p.warning.as_ref().map(|warning| format!("{:<width$}  Doubtful: {warning}", "")));
    }
    lines.join("\n")
}

/// Each photo with the part that was used, and beside it what the network saw.
fn inputs_png(
    prepared: Vec<Prepared>,
    predictions: &[PhotoPrediction<'_>],
    description: &Description,
) -> Result<Vec<u8>> {
    let columns = 2 * columns_for(prepared.len()).min(3);
    let mut tiles = Vec::new();
    for (photo, prediction) in prepared.into_iter().zip(predictions) {
        tiles.extend(photo.shown);
        tiles.push(Tile::ink(&photo.garment.image, description.width(), prediction.guess.caption()));
    }
    let drawn = draw_tiles(&tiles, columns, [225, 225]).context("drawing the inputs")?;
    drawn.encode_png().context("encoding the image")
}
