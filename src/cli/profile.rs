//! `fmnist-gpu profile`

use super::Global;
use super::bench::{in_order, noise};
use super::device::{DeviceArgs, TuneArgs};
use super::terminal::print_result;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::engine::{Engine, GpuEngine, StepConfig, Totals};
use fmnist_gpu::files::{ShownPath, write_whole};
use fmnist_gpu::gpu::DispatchInfo;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::gpu::timing::Clock;
use fmnist_gpu::model::{Model, initial_parameters};
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
    /// Model: mlp, cnn, tiny, fast, best, or a .toml file that lists the layers
    #[arg(long, default_value = "cnn", value_name = "MODEL")]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// A training step: forward pass, backward pass, Adam
    Train,
    /// A forward pass with loss and accuracy
    Inference,
}

/// Batches of the epoch that is profiled.
const BATCHES: usize = 200;
/// How often a dispatch is repeated between two readings of a hardware adapter's clock, if there are batches for it: a reading takes some
/// microseconds. Kernels of software adapters take far longer.
const REPEATS: usize = 8;

/// What `profile --json` prints.
#[derive(Debug, Serialize)]
struct ProfileOutput {
    device: String,
    driver: String,
    model: String,
    batch_size: usize,
    mode: Mode,
    /// `timestamps` (the adapter's clock) or `submissions` (the host's clock, each dispatch submitted alone).
    clock: &'static str,
    /// How often a dispatch is repeated between two timestamps.
    repeats: usize,
    peak_gflops: f64,
    peak_gb_per_second: f64,
    /// From one dispatch to the next that waits for it.
    launch_us: f64,
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
#[derive(Debug, Default, Serialize)]
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

/// Returns a row for each kernel with its number of workgroups, the slowest first; `medians` are the seconds of each dispatch.
fn rows(dispatches: &[DispatchInfo], medians: &[f64], peak: &Peak) -> Vec<Row> {
    let total: f64 = medians.iter().sum();
    let mut rows: Vec<Row> = Vec::new();
    for (dispatch, &seconds) in dispatches.iter().zip(medians) {
        let DispatchInfo { entry, workgroups, bytes, flop, .. } = *dispatch;
        let known = rows.iter().position(|row| row.kernel == entry && row.workgroups == workgroups);
        let at = known.unwrap_or_else(|| {
            rows.push(Row { kernel: entry, workgroups, ..Row::default() });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.calls += 1;
        row.median_us += 1e6 * seconds;
        // Sums over the calls, whose work may differ; below they become rates.
        row.gflops += flop;
        row.gb_per_second += bytes as f64;
    }
    for row in &mut rows {
        row.percent_of_step = 1e-4 * row.median_us / total;
        row.gflops = row.gflops / row.median_us * 1e-3;
        row.gb_per_second = row.gb_per_second / row.median_us * 1e-3;
        row.percent_of_peak_gflops = 100.0 * row.gflops / peak.gflops;
        row.percent_of_peak_gb_per_second = 100.0 * row.gb_per_second / peak.gb_per_second;
    }
    rows.sort_by(|a, b| b.median_us.total_cmp(&a.median_us));
    rows
}

/// Runs the command.
pub async fn run(args: ProfileArgs, global: &Global) -> Result<ExitCode> {
    if let Some(path) = &args.roofline {
        if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
            bail!("--roofline {}: the plot is an SVG file; choose a name that ends in .svg", path.shown());
        }
        if !args.force && path.symlink_metadata().is_ok() {
            bail!("{} exists; pass --force to overwrite it", path.shown());
        }
    }
    let model = Model::load(&args.model)?;
    let gpu = args.device.open_gpu(global).await?;
    let (batch_size, steps) = (args.batch_size as usize, args.steps as usize);
    let is_short = gpu.has_timestamps() && !gpu.is_software();
    let repeats = if is_short { (BATCHES / steps).clamp(1, REPEATS) } else { 1 };
    let split = noise(&model, batch_size * (steps * repeats + 1).max(BATCHES))?;
    let parameters = initial_parameters(&model.parameters()?, 0);
    let step = StepConfig::default();
    let (timings, dispatches, step_us, host_us_per_step) = match args.mode {
        Mode::Train => {
            let tiles = args.tune.tiles(&gpu, &model, batch_size, &step).await;
            let engine = GpuEngine::new(&gpu, &model, &parameters)?.with_tiles(tiles);
            let mut engine = engine.and_training(&split, batch_size, &step).await?;
            let epoch = in_order(split.len(), batch_size, &step);
            let timings = engine.steps()?.time(steps, repeats).await?;
            let step_us =
                whole_step(async || Ok(engine.train_epoch(&epoch, &mut |_| ControlFlow::Continue(())).await?)).await?;
            let steps = engine.steps()?;
            (timings, steps.dispatches(), step_us, 1e6 * steps.host_seconds_per_step())
        }
        Mode::Inference => {
            let engine = GpuEngine::new(&gpu, &model, &parameters)?;
            let mut evaluator = engine.evaluator(&split, batch_size).await?;
            let timings = evaluator.time(steps, repeats).await?;
            let step_us = whole_step(async || Ok(evaluator.run_all(&mut |_| ControlFlow::Continue(())).await?)).await?;
            (timings, evaluator.dispatches(), step_us, 1e6 * evaluator.host_seconds_per_step())
        }
    };
    let peak = Peak::measure(&gpu).await?;

    let medians: Vec<f64> = timings.seconds.iter().map(|rounds| median(rounds)).collect();
    let total: f64 = medians.iter().sum();
    let kernels = rows(&dispatches, &medians, &peak);
    let report = ProfileOutput {
        device: gpu.info().name.clone(),
        driver: gpu.info().driver.clone(),
        model: model.name.clone(),
        batch_size,
        mode: args.mode,
        clock: match timings.clock {
            Clock::Timestamps => "timestamps",
            Clock::Submissions => "submissions",
        },
        repeats,
        peak_gflops: peak.gflops,
        peak_gb_per_second: peak.gb_per_second,
        launch_us: peak.launch_us,
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
    print_result(args.json, &report, table)?;
    Ok(ExitCode::SUCCESS)
}

/// What was profiled.
fn subject(report: &ProfileOutput) -> String {
    let step = if report.mode == Mode::Train { "training step" } else { "forward pass" };
    format!("{step} of {} at batch size {}", report.model, report.batch_size)
}

fn roofline(report: &ProfileOutput) -> Roofline {
    let point = |row: &Row| RooflinePoint {
        name: name(report, row),
        gflops: row.gflops,
        gb_per_second: row.gb_per_second,
        percent_of_step: row.percent_of_step,
    };
    Roofline {
        title: format!("Roofline of a {}", subject(report)),
        subtitle: format!("{}, {}", report.device, report.driver),
        peak_gflops: report.peak_gflops,
        peak_gb_per_second: report.peak_gb_per_second,
        points: report.kernels.iter().map(point).collect(),
    }
}

/// Returns the name of the kernel, with its workgroups if it also runs with another number of them.
fn name(report: &ProfileOutput, row: &Row) -> String {
    let [x, y, z] = row.workgroups;
    match report.kernels.iter().filter(|other| other.kernel == row.kernel).count() {
        1 => row.kernel.to_string(),
        _ => format!("{} {x}x{y}x{z}", row.kernel),
    }
}

/// Measures the microseconds per step over the epochs of about one second.
async fn whole_step(mut epoch: impl AsyncFnMut() -> Result<Totals>) -> Result<f64> {
    let (start, mut batches) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        batches += epoch().await?.batches;
    }
    Ok(1e6 * start.elapsed().as_secs_f64() / batches as f64)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn table(report: &ProfileOutput) -> String {
    let names: Vec<String> = report.kernels.iter().map(|row| name(report, row)).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let ProfileOutput { device, driver, clock, peak_gflops, peak_gb_per_second, step_us, kernels_us, .. } = report;
    let ProfileOutput { host_us_per_step, dispatches_per_step, barriers_per_step, launch_us, .. } = report;
    let mut lines = vec![
        format!("{device} ({driver})"),
        format!(
            "Measured limits: {peak_gflops:.1} GFLOP/s (multiply-add), {peak_gb_per_second:.1} GB/s (copy), \
             {launch_us:.1} us from one dispatch to the next"
        ),
        format!(
            "A {}: {step_us:.0} us, {dispatches_per_step} dispatches, {barriers_per_step} barriers, \
             {host_us_per_step:.1} us host time",
            subject(report)
        ),
        format!("Sum of its kernels, timed one by one ({clock}): {kernels_us:.0} us"),
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
