//! `fmnist-gpu profile`

use super::bench::noise;
use super::device::{DeviceArgs, TuneArgs};
use super::{Global, print, print_json};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::engine::{Engine, Epoch, GpuEngine, Optimizer, Totals};
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::files::write_whole;
use fmnist_gpu::gpu::DispatchInfo;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::gpu::timing::Clock;
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::report::{Roofline, RooflinePoint, draw_roofline};
use serde::Serialize;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Flags of `profile`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct ProfileArgs {
    /// Model: mlp, cnn, or a .toml file that lists the layers
    #[arg(long, default_value = "cnn", value_name = "mlp|cnn|FILE.toml")]
    model: String,
    /// Images per step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    batch_size: u32,
    /// What to profile
    #[arg(long, value_enum, default_value_t = Mode::Train)]
    mode: Mode,
    /// Number of timed steps; the result is the median of each kernel
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
    /// Draw a roofline plot: each kernel against the adapter's limits, as SVG
    #[arg(long, value_name = "FILE.svg")]
    roofline: Option<PathBuf>,
    /// Overwrite an existing file
    #[arg(long, requires = "roofline")]
    force: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// A training step: forward pass, backward pass, Adam
    Train,
    /// A forward pass with loss and accuracy
    Inference,
}

/// What `profile --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    driver: String,
    model: String,
    batch_size: usize,
    /// `train` or `inference`.
    mode: &'static str,
    /// `timestamps` (the adapter's clock) or `submissions` (the host's clock, each dispatch submitted alone).
    clock: &'static str,
    peak_gflops: f64,
    peak_gb_per_second: f64,
    /// A step in normal operation, with many steps per submission.
    step_us: f64,
    /// The sum over the kernels of a step, timed one by one.
    kernels_us: f64,
    host_us_per_step: f64,
    dispatches_per_step: usize,
    barriers_per_step: usize,
    kernels: Vec<Row>,
}

/// The dispatches of one kernel with one number of workgroups.
#[derive(Debug, Serialize)]
struct Row {
    kernel: &'static str,
    workgroups: [u32; 3],
    calls: usize,
    /// Sum over all calls of a step.
    median_us: f64,
    percent_of_step: f64,
    gflops: f64,
    gb_per_second: f64,
    percent_of_peak_gflops: f64,
    percent_of_peak_gb_per_second: f64,
}

impl Row {
    fn new(kernel: &'static str, workgroups: [u32; 3]) -> Self {
        Row {
            kernel,
            workgroups,
            calls: 0,
            median_us: 0.0,
            percent_of_step: 0.0,
            gflops: 0.0,
            gb_per_second: 0.0,
            percent_of_peak_gflops: 0.0,
            percent_of_peak_gb_per_second: 0.0,
        }
    }
}

/// Returns a row for each kernel with its number of workgroups, the slowest first; `medians` are the seconds of each dispatch.
fn rows(dispatches: &[DispatchInfo], medians: &[f64], peak: &Peak) -> Vec<Row> {
    let total: f64 = medians.iter().sum();
    // Sums of flop and bytes over the calls, whose work may differ.
    let mut kernels: Vec<(Row, f64, f64)> = Vec::new();
    for (dispatch, &seconds) in dispatches.iter().zip(medians) {
        let of_kind = |row: &Row| row.kernel == dispatch.entry && row.workgroups == dispatch.workgroups;
        let at = kernels.iter().position(|(row, ..)| of_kind(row)).unwrap_or_else(|| {
            kernels.push((Row::new(dispatch.entry, dispatch.workgroups), 0.0, 0.0));
            kernels.len() - 1
        });
        let (row, flop, bytes) = &mut kernels[at];
        row.calls += 1;
        row.median_us += 1e6 * seconds;
        *flop += dispatch.flop;
        *bytes += dispatch.bytes as f64;
    }
    let mut kernels: Vec<Row> = kernels
        .into_iter()
        .map(|(row, flop, bytes)| {
            let (gflops, gb) = (flop / row.median_us * 1e-3, bytes / row.median_us * 1e-3);
            Row {
                percent_of_step: 1e-4 * row.median_us / total,
                gflops,
                gb_per_second: gb,
                percent_of_peak_gflops: 100.0 * gflops / peak.gflops,
                percent_of_peak_gb_per_second: 100.0 * gb / peak.gb_per_second,
                ..row
            }
        })
        .collect();
    kernels.sort_by(|a, b| b.median_us.total_cmp(&a.median_us));
    kernels
}

/// Runs the command.
pub fn run(args: ProfileArgs, global: &Global) -> Result<ExitCode> {
    if let Some(path) = &args.roofline {
        if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
            bail!("--roofline {}: the plot is an SVG file; choose a name that ends in .svg", path.shown());
        }
        if !args.force && path.symlink_metadata().is_ok() {
            bail!("{} exists; pass --force to overwrite it", path.shown());
        }
    }
    let model = Model::load(&args.model)?;
    let gpu = args.device.open_gpu(global)?;
    let (batch_size, steps) = (args.batch_size as usize, args.steps as usize);
    let split = noise(&model, batch_size * (steps + 1).max(200))?;
    let parameters = initial_parameters(&model.parameters()?, 0);
    let optimizer = Optimizer::Adam(AdamConfig::default());
    let (timings, dispatches, step_us, host_us_per_step) = match args.mode {
        Mode::Train => {
            let tiles = args.tune.tiles(&gpu, &model, batch_size, &optimizer);
            let engine = GpuEngine::new(&gpu, &model, &parameters)?.with_tiles(tiles);
            let mut engine = engine.and_training(&split, batch_size, &optimizer)?;
            let epoch = Epoch {
                done: Totals::default(),
                order: (0..split.len() as u32).collect(),
                step_sizes: (0..(split.len() / batch_size) as u64).map(|i| optimizer.step_size(i + 1)).collect(),
            };
            let timings = engine.steps()?.time(steps)?;
            let step_us = whole_step(|| Ok(engine.train_epoch(&epoch, &mut |_| ControlFlow::Continue(()))?))?;
            let steps = engine.steps()?;
            (timings, steps.dispatches(), step_us, 1e6 * steps.host_seconds_per_step())
        }
        Mode::Inference => {
            let engine = GpuEngine::new(&gpu, &model, &parameters)?;
            let mut evaluator = engine.evaluator(&split, batch_size)?;
            let timings = evaluator.time(steps)?;
            let step_us = whole_step(|| Ok(evaluator.run_all(&mut |_| ControlFlow::Continue(()))?))?;
            (timings, evaluator.dispatches(), step_us, 1e6 * evaluator.host_seconds_per_step())
        }
    };
    let peak = Peak::measure(&gpu)?;

    let medians: Vec<f64> = timings.seconds.iter().map(|rounds| median(rounds)).collect();
    let total: f64 = medians.iter().sum();
    let kernels = rows(&dispatches, &medians, &peak);
    let report = Report {
        device: gpu.info().name.clone(),
        driver: gpu.info().driver.clone(),
        model: model.name.clone(),
        batch_size,
        mode: match args.mode {
            Mode::Train => "train",
            Mode::Inference => "inference",
        },
        clock: match timings.clock {
            Clock::Timestamps => "timestamps",
            Clock::Submissions => "submissions",
        },
        peak_gflops: peak.gflops,
        peak_gb_per_second: peak.gb_per_second,
        step_us,
        kernels_us: 1e6 * total,
        host_us_per_step,
        dispatches_per_step: dispatches.len(),
        barriers_per_step: dispatches.iter().filter(|dispatch| dispatch.barrier).count(),
        kernels,
    };
    if let Some(path) = &args.roofline {
        write_whole(path, draw_roofline(&roofline(&report))?.as_bytes(), args.force)?;
        global.say(format!("Plot: {}", path.shown()));
    }
    if args.json {
        print_json(&report)?
    } else {
        print(&table(&report))
    }
    Ok(ExitCode::SUCCESS)
}

fn roofline(report: &Report) -> Roofline {
    let step = match report.mode {
        "train" => "training step",
        _ => "forward pass",
    };
    Roofline {
        title: format!("Roofline of a {step} of {} at batch size {}", report.model, report.batch_size),
        subtitle: format!("{}, {}", report.device, report.driver),
        peak_gflops: report.peak_gflops,
        peak_gb_per_second: report.peak_gb_per_second,
        points: report
            .kernels
            .iter()
            .map(|row| RooflinePoint {
                name: name(report, row),
                gflops: row.gflops,
                gb_per_second: row.gb_per_second,
                percent_of_step: row.percent_of_step,
            })
            .collect(),
    }
}

/// Returns the name of the kernel, with its workgroups if it also runs with another number of them.
fn name(report: &Report, row: &Row) -> String {
    let [x, y, z] = row.workgroups;
    match report.kernels.iter().filter(|other| other.kernel == row.kernel).count() {
        1 => row.kernel.to_string(),
        _ => format!("{} {x}x{y}x{z}", row.kernel),
    }
}

/// Measures the microseconds per step over the epochs of about one second.
fn whole_step(mut epoch: impl FnMut() -> Result<Totals>) -> Result<f64> {
    let (start, mut batches) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        batches += epoch()?.batches;
    }
    Ok(1e6 * start.elapsed().as_secs_f64() / batches as f64)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn table(report: &Report) -> String {
    let names: Vec<String> = report.kernels.iter().map(|row| name(report, row)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let mut lines = vec![
        format!("{} ({})", report.device, report.driver),
        format!(
            "Measured limits: {:.1} GFLOP/s (multiply-add), {:.1} GB/s (copy)",
            report.peak_gflops, report.peak_gb_per_second
        ),
        format!(
            "A {} of {} at batch size {}: {:.0} us, {} dispatches, {} barriers, {:.1} us host time",
            if report.mode == "train" { "training step" } else { "forward pass" },
            report.model,
            report.batch_size,
            report.step_us,
            report.dispatches_per_step,
            report.barriers_per_step,
            report.host_us_per_step
        ),
        format!("Sum of its kernels, timed one by one ({}): {:.0} us", report.clock, report.kernels_us),
        format!(
            "{:<width$} {:>5} {:>10} {:>7} {:>9} {:>7} {:>8} {:>7}",
            "kernel", "calls", "median us", "share", "GFLOP/s", "% peak", "GB/s", "% peak"
        ),
    ];
    for (r, name) in report.kernels.iter().zip(&names) {
        let arithmetic = if r.gflops > 0.0 {
            format!("{:>9.1} {:>7.1}", r.gflops, r.percent_of_peak_gflops)
        } else {
            format!("{:>9} {:>7}", "-", "-")
        };
        lines.push(format!(
            "{name:<width$} {:>5} {:>10.1} {:>6.1}% {arithmetic} {:>8.2} {:>7.1}",
            r.calls, r.median_us, r.percent_of_step, r.gb_per_second, r.percent_of_peak_gb_per_second
        ));
    }
    lines.join("\n")
}
