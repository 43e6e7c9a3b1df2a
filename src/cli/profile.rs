//! `fmnist-gpu profile`

use super::bench::noise;
use super::device::DeviceArgs;
use super::{Global, print, print_json};
use anyhow::Result;
use clap::Args;
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::gpu::timing::Clock;
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::ops::adam::AdamConfig;
use fmnist_gpu::train::{Engine, Epoch, GpuEngine, Optimizer};
use serde::Serialize;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Flags of `profile`.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// mlp, cnn, or a .toml file that lists layers
    #[arg(long, default_value = "cnn", value_name = "mlp|cnn|FILE.toml")]
    model: String,
    /// Images a step
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    batch_size: u32,
    /// Steps that are timed; the median of each kernel counts
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// What `profile --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    driver: String,
    model: String,
    batch_size: usize,
    /// `timestamps` (the adapter's clock) or `submissions` (the host's, around each dispatch alone).
    clock: &'static str,
    peak_gflops: f64,
    peak_gb_per_second: f64,
    /// A step while training, many in a submission.
    step_us: f64,
    /// The kernels of a step, one by one.
    kernels_us: f64,
    host_us_per_step: f64,
    dispatches_per_step: usize,
    barriers_per_step: usize,
    kernels: Vec<Row>,
}

/// Dispatches of one kernel on one size.
#[derive(Debug, Serialize)]
struct Row {
    kernel: &'static str,
    workgroups: [u32; 3],
    calls: usize,
    /// Of all calls of a step together.
    median_us: f64,
    percent_of_step: f64,
    gflops: f64,
    gb_per_second: f64,
    percent_of_peak_gflops: f64,
    percent_of_peak_gb_per_second: f64,
}

/// Profiles a training step.
pub fn run(args: ProfileArgs, global: &Global) -> Result<ExitCode> {
    let model = Model::load(&args.model)?;
    let gpu = args.device.open_gpu(global)?;
    let (batch_size, steps) = (args.batch_size as usize, args.steps as usize);
    let split = noise(batch_size * (steps + 1).max(200));
    let parameters = initial_parameters(&model.parameters()?, 0);
    let optimizer = Optimizer::Adam(AdamConfig::default());
    let mut engine = GpuEngine::with_training(&gpu, &model, &parameters, &split, batch_size, &optimizer)?;
    let timings = engine.time_step(steps)?;
    let (step_us, host_us_per_step) = whole_step(&mut engine, split.len(), batch_size, &optimizer)?;
    let peak = Peak::measure(&gpu)?;

    let medians: Vec<f64> = timings.seconds.iter().map(|rounds| median(rounds)).collect();
    let total: f64 = medians.iter().sum();
    let dispatches = engine.step_dispatches();
    let mut kernels: Vec<Row> = Vec::new();
    for (dispatch, &seconds) in dispatches.iter().zip(&medians) {
        let (gflops, gb) = (dispatch.flop / seconds * 1e-9, dispatch.bytes as f64 / seconds * 1e-9);
        match kernels.iter_mut().find(|row| row.kernel == dispatch.entry && row.workgroups == dispatch.workgroups) {
            Some(row) => {
                row.calls += 1;
                row.median_us += 1e6 * seconds;
                row.percent_of_step += 100.0 * seconds / total;
            }
            None => kernels.push(Row {
                kernel: dispatch.entry,
                workgroups: dispatch.workgroups,
                calls: 1,
                median_us: 1e6 * seconds,
                percent_of_step: 100.0 * seconds / total,
                gflops,
                gb_per_second: gb,
                percent_of_peak_gflops: 100.0 * gflops / peak.gflops,
                percent_of_peak_gb_per_second: 100.0 * gb / peak.gb_per_second,
            }),
        }
    }
    kernels.sort_by(|a, b| b.median_us.total_cmp(&a.median_us));
    let report = Report {
        device: gpu.info().name.clone(),
        driver: gpu.info().driver.clone(),
        model: model.name.clone(),
        batch_size,
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
    if args.json {
        print_json(&report)?
    } else {
        print(&table(&report))?
    }
    Ok(ExitCode::SUCCESS)
}

/// Microseconds of a step while training for a second, and the host's part in it.
fn whole_step(
    engine: &mut GpuEngine<'_>,
    samples: usize,
    batch_size: usize,
    optimizer: &Optimizer,
) -> Result<(f64, f64)> {
    let epoch = Epoch {
        order: (0..samples as u32).collect(),
        step_sizes: (0..(samples / batch_size) as u64).map(|i| optimizer.step_size(i + 1)).collect(),
    };
    let (start, mut batches) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        batches += engine.train_epoch(&epoch, &mut |_| ControlFlow::Continue(()))?.batches;
    }
    Ok((1e6 * start.elapsed().as_secs_f64() / batches as f64, 1e6 * engine.host_seconds_per_step()))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn table(report: &Report) -> String {
    let mut lines = vec![
        format!("{} ({})", report.device, report.driver),
        format!(
            "Measured limits: {:.1} GFLOP/s multiply-adds, {:.1} GB/s copying",
            report.peak_gflops, report.peak_gb_per_second
        ),
        format!(
            "A training step of {} at batch size {}: {:.0} us, {} dispatches, {} barriers, {:.1} us of the host",
            report.model,
            report.batch_size,
            report.step_us,
            report.dispatches_per_step,
            report.barriers_per_step,
            report.host_us_per_step
        ),
        format!("Its kernels one by one, by {}: {:.0} us", report.clock, report.kernels_us),
        format!(
            "{:<32} {:>5} {:>10} {:>7} {:>9} {:>7} {:>8} {:>7}",
            "kernel", "calls", "median us", "share", "GFLOP/s", "% peak", "GB/s", "% peak"
        ),
    ];
    for r in &report.kernels {
        let arithmetic = if r.gflops > 0.0 {
            format!("{:>9.1} {:>7.1}", r.gflops, r.percent_of_peak_gflops)
        } else {
            format!("{:>9} {:>7}", "-", "-")
        };
        lines.push(format!(
            "{:<32} {:>5} {:>10.1} {:>6.1}% {arithmetic} {:>8.2} {:>7.1}",
            r.kernel, r.calls, r.median_us, r.percent_of_step, r.gb_per_second, r.percent_of_peak_gb_per_second
        ));
    }
    lines.join("\n")
}
