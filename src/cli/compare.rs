//! `fmnist-gpu compare`

use super::settings::as_json;
use super::{Global, evaluate, print, print_json, shell_quoted};
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::data::Description;
use fmnist_gpu::files::{ShownPath, read_bounded, write_whole};
use fmnist_gpu::report::comparison::{
    Compared, comparison_curves, comparison_page, comparison_rows, comparison_verdicts, comparison_warnings,
};
use fmnist_gpu::report::metrics::Metrics;
use fmnist_gpu::report::plots::Curve;
use fmnist_gpu::report::ranking::{
    Differing, FEW, best_by_validation, differing_settings, ranking, sort_by_validation, validation_remarks,
};
use fmnist_gpu::run::{CONFIG_FILE, MAX_JSON_BYTES, REPORT_FILE, Run, RunError, Summary, run_name};
use fmnist_gpu::train::EpochRecord;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Flags of `compare`.
#[derive(Debug, Args)]
#[command(
    after_help = "Three runs or more are sorted by the accuracy of their final weights on the images that --validation-split held out; \
                  runs without come last. The test set never decides the order."
)]
pub struct CompareArgs {
    /// Two or more run folders, for example one "without CNN" and one "with CNN", or all runs of a sweep
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Also write the comparison as an HTML page: curves, and for three runs or more the settings that differ as parallel coordinates
    #[arg(long, value_name = "FILE.html", value_parser = super::output_path())]
    out: Option<PathBuf>,
    /// Overwrite an existing page
    #[arg(long)]
    force: bool,
    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
}

/// What `compare --json` prints.
#[derive(Debug, Serialize)]
struct Comparison {
    /// Two runs as they were given; more of them sorted, the best by validation first.
    runs: Vec<RunJson>,
    /// The name of the best run by validation accuracy; `None` if no run held out images.
    best_by_validation: Option<String>,
    /// The settings that are not the same in all runs.
    differing_settings: Vec<&'static str>,
    remarks: Vec<String>,
    warnings: Vec<String>,
    verdicts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct RunJson {
    name: String,
    /// Of the final weights.
    validation_accuracy: Option<f64>,
    validation_loss: Option<f64>,
    /// Empty if the run has no configuration.
    settings: Map<String, Value>,
    summary: Summary,
    history: Vec<EpochRecord>,
}

impl From<Compared> for RunJson {
    fn from(run: Compared) -> Self {
        let recipe = run.config.as_ref().and_then(|config| config.recipe().ok());
        RunJson {
            validation_accuracy: run.validation_accuracy(),
            validation_loss: run.validation_loss(),
            settings: recipe.map(|recipe| as_json(&recipe)).unwrap_or_default(),
            name: run.name,
            summary: run.summary,
            history: run.history,
        }
    }
}

/// Runs the command: compares runs by the files in their folders.
pub fn run(args: CompareArgs, global: &Global) -> Result<()> {
    let runs = args.runs.iter().map(|path| open(path)).collect::<Result<Vec<_>>>()?;
    check(&runs, &args.runs)?;
    let runs = runs.into_iter().map(|(_, run)| run).collect();
    let mut runs = named_apart(runs, &args.runs);
    if runs.len() > 2 {
        sort_by_validation(&mut runs);
    }
    if let Some(path) = &args.out {
        let page = comparison_page(&runs).context("drawing the comparison")?;
        write_whole(path, page.as_bytes(), args.force).context("writing the page")?;
    }
    let warnings = comparison_warnings(&runs);
    if args.json {
        print_json(&Comparison {
            best_by_validation: best_by_validation(&runs).map(|best| best.name.clone()),
            differing_settings: differing_settings(&runs).iter().map(|setting| setting.name).collect(),
            remarks: validation_remarks(&runs),
            verdicts: comparison_verdicts(&runs),
            runs: runs.into_iter().map(RunJson::from).collect(),
            warnings,
        })?;
    } else {
        print(&text(&runs));
        for warning in &warnings {
            global.say(format!("Note: {warning}"));
        }
    }
    if let Some(path) = &args.out {
        global.say(format!("Page: {}", path.shown()));
    }
    Ok(())
}

/// The comparison as text.
fn text(runs: &[Compared]) -> String {
    let rows = if runs.len() > 2 {
        let (head, rows) = ranking(runs);
        std::iter::once(std::iter::once(String::new()).chain(head).collect()).chain(rows).collect()
    } else {
        let head = std::iter::once(String::new()).chain(runs.iter().map(|run| run.name.clone()));
        std::iter::once(head.collect()).chain(comparison_rows(runs)).collect()
    };
    let mut parts = vec![table(rows)];
    let differing: Vec<String> = differing_settings(runs).iter().map(Differing::label).collect();
    let differing = if differing.is_empty() { "none".to_string() } else { differing.join(", ") };
    let remarks = std::iter::once(format!("Settings that differ: {differing}.")).chain(validation_remarks(runs));
    parts.push(remarks.collect::<Vec<_>>().join("\n"));
    if runs.len() > FEW {
        return parts.join("\n\n");
    }
    for (what, loss) in [("Training loss (v: validation)", true), ("Training accuracy (v: validation)", false)] {
        parts.push(format!("{what}\n{}", text_plot(&comparison_curves(runs, loss), terminal_width())));
    }
    parts.extend(comparison_verdicts(runs));
    if runs.iter().any(|run| run.metrics.is_none()) {
        let advice = "To compare the predictions image by image, run `fmnist-gpu report RUN` for each run first.";
        parts.push(advice.to_string());
    }
    parts.join("\n\n")
}

/// Opens a run, and returns it with its folder.
fn open(path: &Path) -> Result<(PathBuf, Compared)> {
    let unfinished = || match path.join(CONFIG_FILE).exists() {
        true => format!(
            "{}: the training has not ended; end it with `fmnist-gpu train --resume {}`, or leave the run out",
            path.shown(),
            shell_quoted(path)
        ),
        false => format!(
            "{} has no summary.json, so there is nothing to compare; pass a folder created by `fmnist-gpu train`",
            path.shown()
        ),
    };
    let run = match Run::open(path) {
        Err(RunError::NoRun { .. }) if path.join(CONFIG_FILE).exists() => bail!(unfinished()),
        run => run?,
    };
    let Some(summary) = run.summary()? else { bail!(unfinished()) };
    let description = *evaluate::description(&run);
    let metrics = metrics(&run.path, &description)?;
    let (name, history) = (run_name(&run.path), run.history()?);
    Ok((run.path, Compared { name, description, config: run.config, summary, history, metrics }))
}

/// Checks that no run is named twice, and that all were trained on the same data set.
fn check(runs: &[(PathBuf, Compared)], paths: &[PathBuf]) -> Result<()> {
    let folders: Vec<PathBuf> =
        runs.iter().map(|(path, _)| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
    for (i, (_, run)) in runs.iter().enumerate() {
        if let Some(j) = folders[..i].iter().position(|folder| *folder == folders[i]) {
            bail!("{} and {} are the same run; name each run once", paths[j].shown(), paths[i].shown());
        }
        let (data, first) = (run.summary.dataset, runs[0].1.summary.dataset);
        if data != first {
            bail!(
                "{} was trained on {data}, but {} on {first}; compare runs on the same data set",
                paths[i].shown(),
                paths[0].shown()
            );
        }
    }
    Ok(())
}

/// Reads the metrics of a run's report, if it has one.
fn metrics(folder: &Path, description: &Description) -> Result<Option<Metrics>> {
    let path = folder.join(REPORT_FILE);
    let bytes = match read_bounded(&path, MAX_JSON_BYTES) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.with_context(|| format!("reading {}", path.shown()))?,
    };
    Metrics::parse(&bytes, description).map(Some).map_err(anyhow::Error::msg).with_context(|| {
        format!(
            "{} does not contain the metrics of a report; write it again with `fmnist-gpu report RUN --force`",
            path.shown()
        )
    })
}

/// Names runs by their paths if several have the same name.
fn named_apart(mut runs: Vec<Compared>, paths: &[PathBuf]) -> Vec<Compared> {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (i, run) in runs.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = format!("{} ({})", paths[i].shown(), i + 1);
        }
    }
    runs
}

/// Rows in columns, the first on the left.
fn table(rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line += &format!("  {cell:>width$}");
        }
        line.trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The width of the terminal in columns; 80 if there is none.
fn terminal_width() -> usize {
    let columns = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
    columns.clamp(40, 120)
}

/// Draws curves as text: one letter per run, `v` for validation, `*` where two meet. Plain characters, no colours.
fn text_plot(curves: &[Curve], width: usize) -> String {
    const HEIGHT: usize = 12;
    const LABEL: usize = 8;
    let points = || curves.iter().flat_map(|curve| &curve.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let (low, high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), (_, y)| (l.min(*y), h.max(*y)));
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    if low > high {
        return "  (no epochs)".to_string();
    }
    let columns = width - LABEL - 3;
    let mut cells = vec![vec![' '; columns]; HEIGHT];
    let column =
        |x: f64| if last > 1.0 { ((x - 1.0) / (last - 1.0) * (columns - 1) as f64).round() as usize } else { 0 };
    let row = |y: f64| {
        if high > low { ((high - y) / (high - low) * (HEIGHT - 1) as f64).round() as usize } else { HEIGHT / 2 }
    };
    let mut legend = Vec::new();
    for curve in curves {
        let letter = if curve.dashed { 'v' } else { char::from(b'A' + (curve.colour % 26) as u8) };
        if !curve.dashed {
            legend.push(format!("{letter}: {}", curve.name));
        }
        for pair in curve.points.windows(2) {
            let (first, end) = (column(pair[0].0), column(pair[1].0));
            let dots = (first + 1..end).map(|x| {
                let share = (x - first) as f64 / (end - first) as f64;
                (x, pair[0].1 + share * (pair[1].1 - pair[0].1))
            });
            for (x, y) in dots.filter(|(_, y)| y.is_finite()) {
                let cell = &mut cells[row(y)][x];
                if *cell == ' ' {
                    *cell = '.';
                }
            }
        }
        for &(x, y) in curve.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()) {
            let cell = &mut cells[row(y)][column(x)];
            *cell = if matches!(*cell, ' ' | '.') { letter } else { '*' };
        }
    }
    let mut lines: Vec<String> = Vec::new();
    for (i, cells) in cells.iter().enumerate() {
        let value = high - (high - low) * i as f64 / (HEIGHT - 1) as f64;
        let label = if i % 3 == 0 || i + 1 == HEIGHT { format!("{value:>LABEL$.4}") } else { " ".repeat(LABEL) };
        lines.push(format!("{label} |{}", cells.iter().collect::<String>().trim_end()));
    }
    lines.push(format!("{} +{}", " ".repeat(LABEL), "-".repeat(columns)));
    let end = format!("epoch {last:.0}");
    lines.push(format!("{}  1{end:>rest$}", " ".repeat(LABEL), rest = columns - 1));
    lines.push(format!("{}  {}", " ".repeat(LABEL), legend.join("   ")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(name: &str, colour: usize, dashed: bool, points: &[(f64, f64)]) -> Curve {
        Curve { name: name.to_string(), colour, dashed, points: points.to_vec() }
    }

    #[test]
    fn curves_are_drawn_with_their_points_and_the_lines_between_them() {
        let first = [(1.0, 0.5), (2.0, 0.75), (3.0, 0.875), (4.0, 1.0)];
        let validation = [(1.0, 0.5), (2.0, 0.625), (3.0, 0.75), (4.0, 0.625)];
        let second = [(2.0, 0.25), (4.0, 0.75)];
        let curves = [
            curve("first", 0, false, &first),
            curve("first", 0, true, &validation),
            curve("second", 1, false, &second),
        ];
        assert_eq!(
            text_plot(&curves, 40).lines().collect::<Vec<_>>(),
            [
                "  1.0000 |                          ..A",
                "         |                     .....",
                "         |                ...A.",
                "  0.7955 |          ......",
                "         |       ..A     ....v....  ..B",
                "         |     ..   .....         ....",
                "  0.5909 |   ......v           ...    v",
                "         |*....              ..",
                "         |                ...",
                "  0.3864 |             ...",
                "         |           ..",
                "  0.2500 |         B.",
                "         +-----------------------------",
                "          1                     epoch 4",
                "          A: first   B: second",
            ]
        );
    }

    #[test]
    fn a_curve_that_stays_level_is_in_the_middle() {
        let text = text_plot(&[curve("level", 0, false, &[(1.0, 0.5), (2.0, 0.5), (3.0, 0.5)])], 40);
        let drawn: Vec<usize> =
            text.lines().enumerate().filter(|(_, line)| line.contains('A')).map(|(i, _)| i).collect();
        // The second is the legend.
        assert_eq!(drawn, [6, 14], "{text}");
    }
}
