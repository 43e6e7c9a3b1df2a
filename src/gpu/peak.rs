//! The peak rates of an adapter, for arithmetic and for memory, measured by the tiny kernels of
//! `shaders/measure/peak.wgsl`.

use super::plan::workgroups_linear;
use super::{Constant, Element, Gpu, GpuError, KernelSpec, Plan, PlanBuilder, bind, read, write};
use std::time::{Duration, Instant};

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

/// The two limits that every kernel has on an adapter, and every loop on a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Multiply-adds without memory access, in 10^9 floating-point operations per second.
    pub gflops: f64,
    /// Copying, bytes read plus bytes written, in 10^9 per second.
    pub gb_per_second: f64,
}

/// Bytes copied: more than the caches of a GPU hold, and a CPU copies them in a few milliseconds.
const COPY_BYTES: usize = 64 << 20;
/// Multiply-adds per chain.
const ROUNDS: u32 = 1024;
/// Maximum number of workgroups.
const MAX_GROUPS: u32 = 32_768;
/// A dispatch this long hides the cost of its submission, and is far shorter than what a watchdog allows.
const LONG_ENOUGH: Duration = Duration::from_millis(2);
/// How long each form is measured.
const WINDOW: Duration = Duration::from_millis(300);

impl Peak {
    /// Measures both limits, in about a second: the best of several forms and rounds.
    ///
    /// # Errors
    /// The device failed.
    pub fn measure(gpu: &Gpu) -> Result<Peak, GpuError> {
        let x = gpu.tensor("peak x", &[COPY_BYTES / 4], Element::F32)?;
        let y = gpu.tensor("peak y", &[COPY_BYTES / 4], Element::F32)?;
        // Close to 1 and 0, so that the chains stay finite.
        gpu.write(&x.slice("peak factors", 0, &[8]), &[0.999, 0.001, 0.999, 0.999, 0.001, 0.001, 0.001, 0.001]);
        let plan = |spec, constants: &[Constant], workgroups| {
            let mut plan = PlanBuilder::new(gpu);
            plan.push(spec, constants, workgroups, &[bind("x", &x, COPY_BYTES / 4), bind("y", &y, COPY_BYTES / 4)])?;
            plan.finish()
        };
        let mut gflops: f64 = 0.0;
        for (spec, chains) in [(&SCALARS, 12), (&VECTORS, 24)] {
            // Few workgroups keep a CPU busy, a GPU needs many; on a slow adapter, the number that a fast one needs
            // would take too long.
            let mut groups = 64;
            let rounds = [("ROUNDS", f64::from(ROUNDS))];
            let mut dispatch = plan(spec, &rounds, [groups, 1, 1])?;
            gpu.run(&dispatch)?;
            while groups < MAX_GROUPS && seconds(gpu, &dispatch)? < LONG_ENOUGH.as_secs_f64() {
                groups *= 2;
                dispatch = plan(spec, &rounds, [groups, 1, 1])?;
            }
            let flop = 2.0 * f64::from(groups) * 64.0 * f64::from(ROUNDS) * f64::from(chains);
            gflops = gflops.max(flop / fastest(gpu, &dispatch)? / 1e9);
        }
        let copy = plan(&COPY, &[], workgroups_linear(COPY_BYTES / 16, 64))?;
        let gb_per_second = 2.0 * COPY_BYTES as f64 / fastest(gpu, &copy)? / 1e9;
        Ok(Peak { gflops, gb_per_second })
    }
}

/// Returns the time of the fastest run, in seconds, among those that fit into the window. The first run, which may
/// compile, does not count.
fn fastest(gpu: &Gpu, plan: &Plan) -> Result<f64, GpuError> {
    gpu.run(plan)?;
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < WINDOW {
        best = best.min(seconds(gpu, plan)?);
    }
    Ok(best)
}

/// Returns how long one run takes, by the host's clock.
fn seconds(gpu: &Gpu, plan: &Plan) -> Result<f64, GpuError> {
    let start = Instant::now();
    gpu.run(plan)?;
    Ok(start.elapsed().as_secs_f64())
}
