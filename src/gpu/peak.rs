//! The limits of an adapter, for arithmetic, memory and launches, measured by the tiny kernels of
//! `shaders/measure/peak.wgsl`.

use super::plan::workgroups_linear;
use super::{Constant, Element, Gpu, GpuError, KernelSpec, Plan, PlanBuilder, bind, read, write};
use crate::clock::Instant;
use std::time::Duration;

const SOURCE: &str = include_str!("../../shaders/measure/peak.wgsl");
const BINDINGS: &[super::Binding] = &[read(0, "x"), write(1, "y")];

/// Twelve chains of multiply-adds per invocation.
pub static SCALARS: KernelSpec =
    KernelSpec { op: "measure/peak", entry: "peak_scalars", source: SOURCE, bindings: BINDINGS };
/// Six chains of four multiply-adds per invocation.
pub static VECTORS: KernelSpec =
    KernelSpec { op: "measure/peak", entry: "peak_vectors", source: SOURCE, bindings: BINDINGS };
/// A copy.
pub static COPY: KernelSpec = KernelSpec { op: "measure/peak", entry: "peak_copy", source: SOURCE, bindings: BINDINGS };

/// All of them.
pub static KERNELS: &[&KernelSpec] = &[&SCALARS, &VECTORS, &COPY];

/// The limits of every kernel on an adapter, and of every loop on a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Multiply-adds without memory access, in 10^9 floating-point operations per second.
    pub gflops: f64,
    /// Copying, bytes read plus bytes written, in 10^9 per second.
    pub gb_per_second: f64,
    /// Microseconds from the start of a dispatch to the start of the next one that waits for it, if both have next to nothing to do; 0 on a CPU.
    pub launch_us: f64,
}

/// Bytes copied: more than the caches of a GPU hold, and a CPU copies them in a few milliseconds.
const COPY_BYTES: usize = 64 << 20;
/// Multiply-adds per chain.
const ROUNDS: u32 = 1024;
/// Maximum number of workgroups.
const MAX_GROUPS: u32 = 32_768;
/// Dispatches that wait for each other, to time the launches.
const LAUNCHES: u32 = 1000;
/// A submission this long hides its own cost, and is far shorter than what a watchdog allows.
const LONG_ENOUGH: f64 = 2e-3;
/// How long each form is measured.
const WINDOW: Duration = Duration::from_millis(300);

impl Peak {
    /// Measures the limits, in about a second: the best of several forms and rounds.
    ///
    /// # Errors
    /// The device failed.
    pub async fn measure(gpu: &Gpu) -> Result<Peak, GpuError> {
        let x = gpu.tensor("peak x", &[COPY_BYTES / 4], Element::F32)?;
        let y = gpu.tensor("peak y", &[COPY_BYTES / 4], Element::F32)?;
        // Close to 1 and 0, so that the chains stay finite.
        gpu.write(&x.slice("peak factors", 0, &[8]), &[0.999, 0.001, 0.999, 0.999, 0.001, 0.001, 0.001, 0.001]);
        let plan = async |spec, constants: &[Constant], workgroups| {
            let mut plan = PlanBuilder::new(gpu);
            plan.push(spec, constants, workgroups, &[bind("x", &x, COPY_BYTES / 4), bind("y", &y, COPY_BYTES / 4)])?;
            plan.finish().await
        };
        let mut gflops: f64 = 0.0;
        for (spec, chains) in [(&SCALARS, 12), (&VECTORS, 24)] {
            // Few workgroups keep a CPU busy, a GPU needs many; on a slow adapter, the number that a fast one needs
            // would take too long.
            let mut groups = 64;
            let rounds = [("ROUNDS", f64::from(ROUNDS))];
            let mut dispatch = plan(spec, &rounds, [groups, 1, 1]).await?;
            gpu.run(&dispatch).await?;
            while groups < MAX_GROUPS && seconds(gpu, &dispatch, 1).await? < LONG_ENOUGH {
                groups *= 2;
                dispatch = plan(spec, &rounds, [groups, 1, 1]).await?;
            }
            let flop = 2.0 * f64::from(groups) * 64.0 * f64::from(ROUNDS) * f64::from(chains);
            gflops = gflops.max(flop / fastest(gpu, &dispatch, 1).await? / 1e9);
        }
        let copy = plan(&COPY, &[], workgroups_linear(COPY_BYTES / 16, 64)).await?;
        gpu.run(&copy).await?;
        // One copy takes a fast GPU less time than its submission.
        let times = enough(async |times| seconds(gpu, &copy, times).await).await?;
        let copied = f64::from(times) * COPY_BYTES as f64;
        let gb_per_second = 2.0 * copied / fastest(gpu, &copy, times).await? / 1e9;
        // Each writes what the one before wrote.
        let one = plan(&COPY, &[], [1, 1, 1]).await?;
        let launch_us = 1e6 * fastest(gpu, &one, LAUNCHES).await? / f64::from(LAUNCHES);
        Ok(Peak { gflops, gb_per_second, launch_us })
    }
}

/// Returns how often something must be done in one submission so that it is [`LONG_ENOUGH`]; `seconds` measures that.
async fn enough(seconds: impl AsyncFn(u32) -> Result<f64, GpuError>) -> Result<u32, GpuError> {
    let mut times = 1;
    while times < 1024 && seconds(times).await? < LONG_ENOUGH {
        times *= 2;
    }
    Ok(times)
}

/// Returns the least number of seconds of the submissions that fit into the window. The first, which may include compiling, does not count.
async fn fastest(gpu: &Gpu, plan: &Plan, times: u32) -> Result<f64, GpuError> {
    seconds(gpu, plan, times).await?;
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < WINDOW {
        best = best.min(seconds(gpu, plan, times).await?);
    }
    Ok(best)
}

/// Returns how long a submission of `times` runs takes, by the host's clock.
async fn seconds(gpu: &Gpu, plan: &Plan, times: u32) -> Result<f64, GpuError> {
    let start = Instant::now();
    let mut encoder = gpu.encoder("peak");
    gpu.encode(&mut encoder, "peak", plan, times as usize);
    let submission = gpu.submit(encoder.finish())?;
    gpu.wait(submission).await?;
    Ok(start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On adapters from slow to fast, whose submissions cost as long as several copies, the measured rate is close to the true one.
    #[test]
    fn copies_are_measured_long_enough() {
        for gb_per_second in [5.0, 100.0, 1000.0, 4800.0, 20_000.0] {
            let copy = 2.0 * COPY_BYTES as f64 / (gb_per_second * 1e9);
            let seconds = |times| 80e-6 + f64::from(times) * copy;
            let times = pollster::block_on(enough(async |times| Ok(seconds(times)))).unwrap();
            let measured = f64::from(times) * copy / seconds(times) * gb_per_second;
            assert!(measured > 0.95 * gb_per_second, "{measured} GB/s of {gb_per_second}");
        }
    }
}
