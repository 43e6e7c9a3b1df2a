//! `fmnist-gpu bench`

use super::device::{DeviceArgs, TuneArgs};
use super::terminal::print_result;
use super::{Global, counted};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use fmnist_gpu::data::Split;
use fmnist_gpu::engine::{Engine, Epoch, GpuEngine, NativeEngine, OnProgress, StepConfig, Totals};
use fmnist_gpu::gpu::Gpu;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::model::{Model, initial_parameters, training_mflop};
use fmnist_gpu::session::Device;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Flags of `bench`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct BenchArgs {
    /// Model: mlp, cnn, tiny, fast, best, or a .toml file that lists the layers
    #[arg(long, default_value = "cnn", value_name = "MODEL")]
    model: String,
    /// Images per step; separate several values with commas
    #[arg(long, value_delimiter = ',', default_value = "32,256,1024", value_parser = clap::value_parser!(u32).range(1..=16_384))]
    batch_size: Vec<u32>,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// Seconds to measure each setting, after a warm-up of one fifth of that
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    tune: TuneArgs,
    /// Measure each setting twice, without and with wgpu's run-time checks (--safe)
    #[arg(long, conflicts_with = "safe")]
    ab_checks: bool,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Training steps: forward pass, backward pass, Adam
    Train,
    /// Forward passes with loss and accuracy
    Inference,
    /// Training, then inference
    Both,
}

/// What `bench --json` prints.
#[derive(Debug, Serialize)]
struct BenchOutput {
    device: String,
    driver: String,
    /// Number of threads; only for the native engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    /// Multiply-adds without memory access, measured in the same run.
    peak_gflops: f64,
    /// Bytes read and written by a copy, measured in the same run.
    peak_gb_per_second: f64,
    /// From the start of the program to the end of the first step.
    startup_ms: f64,
    startup: Startup,
    /// Peak memory of the process; `None` if the system does not report it.
    peak_memory_mb: Option<f64>,
    results: Vec<Measured>,
}

/// The parts of `startup_ms`. Generating the images is not included.
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
    /// Whether wgpu's run-time checks were compiled into the shaders; only with `--ab-checks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_checks: Option<bool>,
    images_per_second: f64,
    images_per_second_min: f64,
    images_per_second_max: f64,
    step_ms: f64,
    gflops: f64,
    percent_of_peak: f64,
    /// 0 for the native engine, which has no dispatches.
    dispatches_per_step: usize,
    /// Host time to record a step; 0 for the native engine.
    host_us_per_step: f64,
}

/// Number of images on the adapter: the size of the training set of Fashion-MNIST.
const IMAGES: usize = 60_000;
/// Measurements per setting; the result is the median of their speeds.
const WINDOWS: usize = 5;

/// Runs the command.
pub async fn run(args: BenchArgs, global: &Global) -> Result<ExitCode> {
    if !(args.seconds > 0.0 && args.seconds <= 3600.0) {
        bail!("--seconds is {}; it must be above 0 and at most 3600", args.seconds);
    }
    let model = Model::load(&args.model)?;
    let begin = Instant::now();
    let device = args.device.open(global).await?;
    let target = match &device {
        Device::Gpu(gpu) => Target::Gpu(gpu),
        Device::Native(_) if args.ab_checks => {
            bail!("--ab-checks compares run-time checks in shaders; select an adapter with --device")
        }
        Device::Native(threads) => Target::Native(*threads),
        Device::Reference => bail!("the reference engine is for correctness, not for speed; select another --device"),
    };
    let startup = Startup { device_ms: milliseconds(begin), ..Startup::default() };
    let split = noise(&model, IMAGES)?;
    let window = Duration::from_secs_f64(args.seconds / WINDOWS as f64);
    let checked = if args.ab_checks { Some(args.device.open_again(true).await?) } else { None };
    let mut bench = Bench { tune: &args.tune, model: &model, split: &split, window, startup, results: Vec::new() };
    for &batch_size in &args.batch_size {
        for mode in [Mode::Train, Mode::Inference] {
            if args.mode != mode && args.mode != Mode::Both {
                continue;
            }
            let what = if mode == Mode::Train { "Training" } else { "Inference" };
            global.say(format!("{what} at batch size {batch_size}"));
            bench.measure(target, checked.as_ref().map(|_| false), mode, batch_size as usize).await?;
            if let Some(checked) = &checked {
                bench.measure(Target::Gpu(checked), Some(true), mode, batch_size as usize).await?;
            }
        }
    }
    let Bench { startup, mut results, .. } = bench;
    // Before the peaks are measured, whose buffers are larger than those of training.
    let peak_memory_mb = peak_memory_mb();
    let peak = match target {
        Target::Gpu(gpu) => Peak::measure(gpu).await?,
        Target::Native(threads) => {
            NativeEngine::new(&model, &initial_parameters(&model.parameters()?, 0), threads)?.peak()
        }
    };
    for result in &mut results {
        result.percent_of_peak = 100.0 * result.gflops / peak.gflops;
    }
    let [device, driver, _] = device.describe();
    let report = BenchOutput {
        device,
        driver,
        threads: if let Target::Native(threads) = target { Some(threads) } else { None },
        peak_gflops: peak.gflops,
        peak_gb_per_second: peak.gb_per_second,
        startup_ms: startup.device_ms + startup.upload_and_pipelines_ms + startup.first_step_ms,
        startup,
        peak_memory_mb,
        results,
    };
    print_result(args.json, &report, table)?;
    Ok(ExitCode::SUCCESS)
}

/// What is measured.
#[derive(Clone, Copy)]
enum Target<'a> {
    Gpu(&'a Gpu),
    /// The native engine with this number of threads.
    Native(usize),
}

struct Bench<'a> {
    tune: &'a TuneArgs,
    model: &'a Model,
    split: &'a Split,
    window: Duration,
    startup: Startup,
    results: Vec<Measured>,
}

/// The speeds of the windows, sorted, and the dispatches and the seconds of host time per step.
type Speeds = (Vec<f64>, usize, f64);

impl Bench<'_> {
    /// Adds a result.
    async fn measure(
        &mut self,
        target: Target<'_>,
        runtime_checks: Option<bool>,
        mode: Mode,
        batch_size: usize,
    ) -> Result<()> {
        let shapes = self.model.shapes()?;
        let (name, mflop, (speeds, dispatches, host_seconds)) = match mode {
            Mode::Train => ("train", training_mflop(&shapes), self.train(target, batch_size).await?),
            _ => {
                let multiply_adds: usize = shapes.iter().map(|shape| shape.multiply_adds).sum();
                ("inference", 2e-6 * multiply_adds as f64, self.infer(target, batch_size).await?)
            }
        };
        let median = speeds[speeds.len() / 2];
        self.results.push(Measured {
            model: self.model.name.clone(),
            batch_size,
            mode: name,
            runtime_checks,
            images_per_second: median,
            images_per_second_min: speeds[0],
            images_per_second_max: speeds[speeds.len() - 1],
            step_ms: 1e3 * batch_size as f64 / median,
            gflops: median * mflop * 1e-3,
            percent_of_peak: 0.0,
            dispatches_per_step: dispatches,
            host_us_per_step: 1e6 * host_seconds,
        });
        Ok(())
    }

    async fn train(&mut self, target: Target<'_>, batch_size: usize) -> Result<Speeds> {
        let step = StepConfig::default();
        let (model, split) = (self.model, self.split);
        let parameters = initial_parameters(&model.parameters()?, 0);
        let first = in_order(batch_size.min(IMAGES), batch_size, &step);
        let whole = in_order(IMAGES, batch_size, &step);
        let epoch = |is_first: bool| if is_first { &first } else { &whole };
        match target {
            Target::Gpu(gpu) => {
                // Done once and saved, so it does not count as start-up.
                let tiles = self.tune.tiles(gpu, model, batch_size, &step).await;
                let begin = Instant::now();
                let engine = GpuEngine::new(gpu, model, &parameters)?.with_tiles(tiles);
                let mut engine = engine.and_training(split, batch_size, &step).await?;
                let speeds = self
                    .speeds(begin, async |is_first, stop| Ok(engine.train_epoch(epoch(is_first), stop).await?))
                    .await?;
                let steps = engine.steps()?;
                Ok((speeds, steps.dispatches().len(), steps.host_seconds_per_step()))
            }
            Target::Native(threads) => {
                let begin = Instant::now();
                let engine = NativeEngine::new(model, &parameters, threads)?;
                let mut engine = engine.and_training(split, batch_size, &step)?;
                Ok((
                    self.speeds(begin, async |is_first, stop| Ok(engine.train_epoch(epoch(is_first), stop).await?))
                        .await?,
                    0,
                    0.0,
                ))
            }
        }
    }

    async fn infer(&mut self, target: Target<'_>, batch_size: usize) -> Result<Speeds> {
        let begin = Instant::now();
        let (model, split) = (self.model, self.split);
        let parameters = initial_parameters(&model.parameters()?, 0);
        match target {
            Target::Gpu(gpu) => {
                let engine = GpuEngine::new(gpu, model, &parameters)?;
                let mut evaluator = engine.evaluator(split, batch_size).await?;
                let speeds = self.speeds(begin, async |_, stop| Ok(evaluator.run_all(stop).await?)).await?;
                Ok((speeds, evaluator.dispatches().len(), evaluator.host_seconds_per_step()))
            }
            Target::Native(threads) => {
                let mut engine = NativeEngine::new(model, &parameters, threads)?;
                Ok((self.speeds(begin, async |_, stop| Ok(engine.evaluate(split, stop).await?)).await?, 0, 0.0))
            }
        }
    }

    /// Measures the images per second in each window, after one to warm up; sorted. `run` makes steps until its argument
    /// breaks, at first only one. `begin` is when the engine began to be made.
    async fn speeds(
        &mut self,
        begin: Instant,
        mut run: impl AsyncFnMut(bool, OnProgress<'_>) -> Result<Totals>,
    ) -> Result<Vec<f64>> {
        let made_ms = milliseconds(begin);
        let first = Instant::now();
        run(true, &mut |_| ControlFlow::Break(())).await?;
        // For later settings, the kernels are already compiled.
        if self.results.is_empty() {
            self.startup.upload_and_pipelines_ms = made_ms;
            self.startup.first_step_ms = milliseconds(first);
        }
        let mut speeds = Vec::new();
        for _ in 0..=WINDOWS {
            let (mut images, start) = (0, Instant::now());
            while start.elapsed() < self.window {
                let totals = run(false, &mut |_| {
                    if start.elapsed() < self.window { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })
                .await?;
                images += totals.samples;
            }
            speeds.push(images as f64 / start.elapsed().as_secs_f64());
        }
        speeds.remove(0);
        speeds.sort_by(f64::total_cmp);
        Ok(speeds)
    }
}

/// An epoch that trains on the first samples in their order.
pub(super) fn in_order(samples: usize, batch_size: usize, step: &StepConfig) -> Epoch {
    let batches = samples.div_ceil(batch_size) as u64;
    let rates = (1..=batches).map(|i| step.rates(i, batches)).collect();
    Epoch { order: (0..samples as u32).collect(), rates, ..Epoch::default() }
}

fn milliseconds(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

/// Creates images of noise for a model: the speed does not depend on their content.
pub(super) fn noise(model: &Model, n: usize) -> Result<Split> {
    let classes = model.graph()?.last().map_or(1, |layer| layer.output.iter().product());
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut images = vec![0; n * model.input.iter().product::<usize>()];
    random.fill_bytes(&mut images);
    Ok(Split { images, labels: (0..n).map(|i| (i % classes) as u8).collect() })
}

/// Reads the peak memory of the process, on Linux.
fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024e-6)
}

fn table(report: &BenchOutput) -> String {
    let BenchOutput { device, driver, peak_gflops, peak_gb_per_second, startup_ms, .. } = report;
    let Startup { device_ms, upload_and_pipelines_ms, first_step_ms } = report.startup;
    let threads = report.threads.map_or(String::new(), |threads| format!(", {}", counted(threads, "thread")));
    let mut lines = vec![
        format!("{device} ({driver}){threads}"),
        format!("Measured limits: {peak_gflops:.1} GFLOP/s (multiply-add), {peak_gb_per_second:.1} GB/s (copy)"),
        format!(
            "Time to first step: {startup_ms:.0} ms (device {device_ms:.0}, upload and pipelines \
             {upload_and_pipelines_ms:.0}, first step {first_step_ms:.0})"
        ),
    ];
    if let Some(megabytes) = report.peak_memory_mb {
        lines.push(format!("Peak memory: {megabytes:.0} MB"));
    }
    lines.push(format!(
        "{:<8} {:<15} {:>6} {:>10} {:>21} {:>9} {:>8} {:>7} {:>10} {:>8}",
        "model", "mode", "batch", "images/s", "min to max", "step ms", "GFLOP/s", "% peak", "dispatches", "host us"
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
