//! `fmnist-gpu bench`

use super::device::{DeviceArgs, TuneArgs};
use super::{Global, print, print_json};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::{N_CLASSES, PIXELS, Split};
use fmnist_gpu::gpu::Gpu;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::model::{Model, initial_parameters, training_mflop};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::train::{Engine, Epoch, GpuEngine, Optimizer, Totals};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Flags of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// mlp, cnn, or a .toml file that lists layers
    #[arg(long, default_value = "cnn", value_name = "mlp|cnn|FILE.toml")]
    model: String,
    /// Images a step; several with commas between
    #[arg(long, value_delimiter = ',', default_value = "32,256,1024", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    batch_size: Vec<u32>,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// How long to measure each, in seconds, after a warm-up of a fifth of it
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
    /// Measure each setting without and with wgpu's run-time checks (--safe), in turn
    #[arg(long, conflicts_with = "safe")]
    ab_checks: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Training steps: forward, backward, Adam
    Train,
    /// Forward passes with loss and accuracy
    Inference,
    /// One after the other
    Both,
}

/// What `bench --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    driver: String,
    /// Multiply-adds without memory, measured in the same run.
    peak_gflops: f64,
    /// Bytes read and written by a copy, measured in the same run.
    peak_gb_per_second: f64,
    /// From the start of the program to the end of the first step.
    startup_ms: f64,
    startup: Startup,
    /// The most memory that the process had at once; none where the system does not tell.
    peak_memory_mb: Option<f64>,
    results: Vec<Measured>,
}

/// The parts of `startup_ms`. Making the images is not among them.
#[derive(Debug, Default, Serialize)]
struct Startup {
    device_ms: f64,
    upload_and_pipelines_ms: f64,
    first_step_ms: f64,
}

#[derive(Debug, Serialize)]
struct Measured {
    model: String,
    batch_size: usize,
    mode: &'static str,
    /// Whether wgpu's run-time checks were in the shaders; only with `--ab-checks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_checks: Option<bool>,
    images_per_second: f64,
    images_per_second_min: f64,
    images_per_second_max: f64,
    step_ms: f64,
    gflops: f64,
    percent_of_peak: f64,
    dispatches_per_step: usize,
    host_us_per_step: f64,
}

/// Images on the adapter: as many as Fashion-MNIST has for training.
const IMAGES: usize = 60_000;
/// Measurements of each setting; the median of their speeds counts.
const WINDOWS: usize = 5;

/// Measures.
pub fn run(args: BenchArgs, global: &Global) -> Result<ExitCode> {
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        bail!("--seconds is {}; it must be above 0 and at most 3600", args.seconds);
    }
    let model = Model::load(&args.model)?;
    let begin = Instant::now();
    let gpu = args.device.open_gpu(global)?;
    let mut startup = Startup { device_ms: milliseconds(begin), ..Startup::default() };
    let split = noise(IMAGES);
    let window = Duration::from_secs_f64(args.seconds / WINDOWS as f64);
    let checked = if args.ab_checks { Some(args.device.open_checked()?) } else { None };
    let mut bench = Bench {
        tune: &args.tune,
        gpu: &gpu,
        model: &model,
        split: &split,
        window,
        runtime_checks: None,
        startup: &mut startup,
        results: Vec::new(),
    };
    for &batch_size in &args.batch_size {
        for mode in [Mode::Train, Mode::Inference] {
            if args.mode != mode && args.mode != Mode::Both {
                continue;
            }
            let what = if mode == Mode::Train { "Training" } else { "Inference" };
            global.say(format!("{what} at batch size {batch_size}"));
            bench.runtime_checks = checked.as_ref().map(|_| false);
            bench.gpu = &gpu;
            bench.measure(mode, batch_size as usize)?;
            if let Some(checked) = &checked {
                bench.runtime_checks = Some(true);
                bench.gpu = checked;
                bench.measure(mode, batch_size as usize)?;
            }
        }
    }
    let mut results = bench.results;
    // Before the peaks, whose buffers are larger than those of training.
    let peak_memory_mb = peak_memory_mb();
    let peak = Peak::measure(&gpu)?;
    for result in &mut results {
        result.percent_of_peak = 100.0 * result.gflops / peak.gflops;
    }
    let report = Report {
        device: gpu.info().name.clone(),
        driver: gpu.info().driver.clone(),
        peak_gflops: peak.gflops,
        peak_gb_per_second: peak.gb_per_second,
        startup_ms: startup.device_ms + startup.upload_and_pipelines_ms + startup.first_step_ms,
        startup,
        peak_memory_mb,
        results,
    };
    if args.json {
        print_json(&report)?
    } else {
        print(&table(&report))?
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench<'a> {
    tune: &'a TuneArgs,
    gpu: &'a Gpu,
    model: &'a Model,
    split: &'a Split,
    window: Duration,
    runtime_checks: Option<bool>,
    startup: &'a mut Startup,
    results: Vec<Measured>,
}

impl Bench<'_> {
    fn measure(&mut self, mode: Mode, batch_size: usize) -> Result<()> {
        if mode == Mode::Train { self.train(batch_size) } else { self.infer(batch_size) }
    }

    fn train(&mut self, batch_size: usize) -> Result<()> {
        let optimizer = Optimizer::Adam(AdamConfig::default());
        // Done once and kept, so no part of the start.
        let tiles = self.tune.tiles(self.gpu, self.model, batch_size, &optimizer);
        let begin = Instant::now();
        let parameters = initial_parameters(&self.model.parameters()?, 0);
        let mut engine =
            GpuEngine::with_tiles(self.gpu, self.model, &parameters, self.split, batch_size, &optimizer, tiles)?;
        let made = milliseconds(begin);
        let epoch = |samples: usize| Epoch {
            done: Totals::default(),
            order: (0..samples as u32).collect(),
            step_sizes: (0..samples.div_ceil(batch_size) as u64).map(|i| optimizer.step_size(i + 1)).collect(),
        };
        let first = Instant::now();
        engine.train_epoch(&epoch(batch_size.min(IMAGES)), &mut |_| ControlFlow::Continue(()))?;
        self.started(made, milliseconds(first));
        let whole = epoch(IMAGES);
        let speeds = self.speeds(|stop| Ok(engine.train_epoch(&whole, stop)?))?;
        let mflop = training_mflop(&self.model.shapes()?);
        let dispatches = engine.step_dispatches().len();
        self.note("train", batch_size, speeds, mflop, dispatches, engine.host_seconds_per_step());
        Ok(())
    }

    fn infer(&mut self, batch_size: usize) -> Result<()> {
        let begin = Instant::now();
        let parameters = initial_parameters(&self.model.parameters()?, 0);
        let engine = GpuEngine::new(self.gpu, self.model, &parameters)?;
        let mut evaluator = engine.evaluator(self.split, batch_size)?;
        let made = milliseconds(begin);
        let first = Instant::now();
        evaluator.run(&mut |_| ControlFlow::Break(()))?;
        self.started(made, milliseconds(first));
        let speeds = self.speeds(|stop| Ok(evaluator.run(stop)?))?;
        let mflop = 2e-6 * self.model.shapes()?.iter().map(|shape| shape.multiply_adds).sum::<usize>() as f64;
        let (dispatches, host) = (evaluator.dispatches().len(), evaluator.host_seconds_per_step());
        self.note("inference", batch_size, speeds, mflop, dispatches, host);
        Ok(())
    }

    /// The first setting is what a start costs; later ones find kernels compiled.
    fn started(&mut self, made_ms: f64, first_step_ms: f64) {
        if self.results.is_empty() {
            self.startup.upload_and_pipelines_ms = made_ms;
            self.startup.first_step_ms = first_step_ms;
        }
    }

    /// Images a second in each window, after one that does not count.
    fn speeds(
        &self,
        mut work: impl FnMut(&mut dyn FnMut(&Totals) -> ControlFlow<()>) -> Result<Totals>,
    ) -> Result<Vec<f64>> {
        let mut speeds = Vec::new();
        for _ in 0..=WINDOWS {
            let (mut images, start) = (0, Instant::now());
            while start.elapsed() < self.window {
                let totals = work(&mut |_| {
                    if start.elapsed() < self.window { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
                images += totals.samples;
            }
            speeds.push(images as f64 / start.elapsed().as_secs_f64());
        }
        speeds.remove(0);
        speeds.sort_by(f64::total_cmp);
        Ok(speeds)
    }

    fn note(
        &mut self,
        mode: &'static str,
        batch_size: usize,
        speeds: Vec<f64>,
        mflop: f64,
        dispatches: usize,
        host_seconds: f64,
    ) {
        let median = speeds[speeds.len() / 2];
        self.results.push(Measured {
            model: self.model.name.clone(),
            batch_size,
            mode,
            runtime_checks: self.runtime_checks,
            images_per_second: median,
            images_per_second_min: speeds[0],
            images_per_second_max: speeds[speeds.len() - 1],
            step_ms: 1e3 * batch_size as f64 / median,
            gflops: median * mflop * 1e-3,
            percent_of_peak: 0.0,
            dispatches_per_step: dispatches,
            host_us_per_step: 1e6 * host_seconds,
        });
    }
}

fn milliseconds(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

/// Images of noise: speed does not depend on what is on them.
pub(super) fn noise(n: usize) -> Split {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut images = vec![0; n * PIXELS];
    random.fill_bytes(&mut images);
    Split { images, labels: (0..n).map(|i| (i % N_CLASSES) as u8).collect() }
}

/// From Linux's account of the process.
fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024e-6)
}

fn table(report: &Report) -> String {
    let mut lines = vec![
        format!("{} ({})", report.device, report.driver),
        format!(
            "Measured limits: {:.1} GFLOP/s multiply-adds, {:.1} GB/s copying",
            report.peak_gflops, report.peak_gb_per_second
        ),
        format!(
            "Time to first step: {:.0} ms (device {:.0}, upload and pipelines {:.0}, first step {:.0})",
            report.startup_ms,
            report.startup.device_ms,
            report.startup.upload_and_pipelines_ms,
            report.startup.first_step_ms
        ),
    ];
    if let Some(megabytes) = report.peak_memory_mb {
        lines.push(format!("Peak memory: {megabytes:.0} MB"));
    }
    lines.push(format!(
        "{:<8} {:<15} {:>6} {:>10} {:>21} {:>9} {:>8} {:>7} {:>10} {:>8}",
        "model", "mode", "batch", "images/s", "least to most", "step ms", "GFLOP/s", "% peak", "dispatches", "host us"
    ));
    for r in &report.results {
        lines.push(format!(
            "{:<8} {:<15} {:>6} {:>10.0} {:>21} {:>9.2} {:>8.1} {:>7.1} {:>10} {:>8.1}",
            r.model,
            match r.runtime_checks {
                Some(true) => format!("{}, safe", r.mode),
                _ => r.mode.to_string(),
            },
            r.batch_size,
            r.images_per_second,
            format!("{:.0} to {:.0}", r.images_per_second_min, r.images_per_second_max),
            r.step_ms,
            r.gflops,
            r.percent_of_peak,
            r.dispatches_per_step,
            r.host_us_per_step
        ));
    }
    lines.join("\n")
}
