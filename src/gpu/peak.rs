//! What an adapter can do at most, measured by tiny kernels of `shaders/measure/peak.wgsl`: arithmetic and bytes.

use super::plan::workgroups_linear;
use super::{Element, Gpu, GpuError, KernelSpec, Plan, PlanBuilder, Tensor, bind, read, write};
use std::time::{Duration, Instant};

const SOURCE: &str = include_str!("../../shaders/measure/peak.wgsl");
const BINDINGS: &[super::Binding] = &[read(0, "x"), write(1, "y")];

/// Twelve chains of multiply-adds an invocation.
pub static SCALARS: KernelSpec =
    KernelSpec { op: "measure/peak", entry: "peak_scalars", source: SOURCE, bindings: BINDINGS };
/// Six chains of four multiply-adds an invocation.
pub static VECTORS: KernelSpec =
    KernelSpec { op: "measure/peak", entry: "peak_vectors", source: SOURCE, bindings: BINDINGS };
/// A copy.
pub static COPY: KernelSpec = KernelSpec { op: "measure/peak", entry: "peak_copy", source: SOURCE, bindings: BINDINGS };

/// All of them.
pub static KERNELS: &[&KernelSpec] = &[&SCALARS, &VECTORS, &COPY];

/// The two limits that every kernel has on an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    /// Multiply-adds without memory, 10^9 floating-point operations a second.
    pub gflops: f64,
    /// Copying, bytes read and written, 10^9 a second.
    pub gb_per_second: f64,
}

/// Bytes that are copied: more than the caches of a GPU hold, and a processor is through with them in some milliseconds.
const COPY_BYTES: usize = 64 << 20;
/// Multiply-adds of each chain.
const ROUNDS: u32 = 1024;
/// Workgroups at most.
const MAX_GROUPS: u32 = 32_768;
/// A dispatch this long hides what its submission costs, and is far below what a watchdog allows.
const LONG_ENOUGH: Duration = Duration::from_millis(2);
/// How long one form is measured.
const WINDOW: Duration = Duration::from_millis(300);

impl Peak {
    /// Measures both limits: the best of several forms and rounds, in about a second.
    ///
    /// # Errors
    /// The device failed.
    pub fn measure(gpu: &Gpu) -> Result<Peak, GpuError> {
        let x = gpu.tensor("peak x", &[COPY_BYTES / 4], Element::F32)?;
        let y = gpu.tensor("peak y", &[COPY_BYTES / 4], Element::F32)?;
        // Close to 1 and 0: the chains stay finite.
        gpu.write(&x.slice("peak factors", 0, &[8]), &[0.999, 0.001, 0.999, 0.999, 0.001, 0.001, 0.001, 0.001]);
        let mut gflops: f64 = 0.0;
        for (spec, chains) in [(&SCALARS, 12), (&VECTORS, 24)] {
            // A processor is busy with few workgroups, a GPU needs many; a slow one would be too long at as many as a fast one needs.
            let mut groups = 64;
            let mut dispatch = plan(gpu, spec, Some(ROUNDS), [groups, 1, 1], &x, &y)?;
            gpu.run(&dispatch)?;
            while groups < MAX_GROUPS && seconds(gpu, &dispatch)? < LONG_ENOUGH.as_secs_f64() {
                groups *= 2;
                dispatch = plan(gpu, spec, Some(ROUNDS), [groups, 1, 1], &x, &y)?;
            }
            let flop = 2.0 * f64::from(groups) * 64.0 * f64::from(ROUNDS) * f64::from(chains);
            gflops = gflops.max(flop / fastest(gpu, &dispatch)? / 1e9);
        }
        let plan = plan(gpu, &COPY, None, workgroups_linear(COPY_BYTES / 16, 64), &x, &y)?;
        let gb_per_second = 2.0 * COPY_BYTES as f64 / fastest(gpu, &plan)? / 1e9;
        Ok(Peak { gflops, gb_per_second })
    }
}

fn plan(
    gpu: &Gpu,
    spec: &'static KernelSpec,
    rounds: Option<u32>,
    workgroups: [u32; 3],
    x: &Tensor,
    y: &Tensor,
) -> Result<Plan, GpuError> {
    let constants: Vec<_> = rounds.map(|rounds| ("ROUNDS", f64::from(rounds))).into_iter().collect();
    let mut plan = PlanBuilder::new(gpu);
    plan.push(spec, &constants, workgroups, &[bind("x", x, COPY_BYTES / 4), bind("y", y, COPY_BYTES / 4)])?;
    plan.finish()
}

/// The shortest of as many runs as fit the window, in seconds; the first, which may compile, does not count.
fn fastest(gpu: &Gpu, plan: &Plan) -> Result<f64, GpuError> {
    gpu.run(plan)?;
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < WINDOW {
        best = best.min(seconds(gpu, plan)?);
    }
    Ok(best)
}

/// How long one run takes, by the host's clock.
fn seconds(gpu: &Gpu, plan: &Plan) -> Result<f64, GpuError> {
    let start = Instant::now();
    gpu.run(plan)?;
    Ok(start.elapsed().as_secs_f64())
}
