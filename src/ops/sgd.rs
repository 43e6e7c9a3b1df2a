//! Gradient descent with momentum: kernel in `shaders/sgd.wgsl`, mirror in [`crate::cpu::sgd`].

use crate::cpu::sgd as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::verify::{UNIT_ROUNDOFF, Verifier, widen};

pub use crate::cpu::sgd::SgdConfig;

const SOURCE: &str = include_str!("../../shaders/sgd.wgsl");

/// Updates all parameters by one step.
pub static STEP: KernelSpec = KernelSpec {
    op: "sgd",
    entry: "sgd_step",
    source: SOURCE,
    bindings: &[read(0, "g"), write(1, "w"), write(2, "velocity"), read(3, "step_sizes"), read(4, "progress")],
};

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[&STEP];

/// Records one step. Gradients g, parameters w and velocity have the same length; `step_sizes` has one learning rate
/// per batch of the epoch; progress is `[batches of the epoch whose loss is known, including this one; samples of the
/// epoch]`.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record(
    plan: &mut PlanBuilder<'_>,
    config: &SgdConfig,
    g: &Tensor,
    w: &Tensor,
    velocity: &Tensor,
    step_sizes: &Tensor,
    progress: &Tensor,
) -> Result<(), GpuError> {
    let len = w.len();
    plan.push(
        &STEP,
        &[("LEN", len as f64), ("MOMENTUM", config.momentum)],
        workgroups_linear(len, 64),
        &[
            bind("g", g, len),
            bind("w", w, len),
            bind("velocity", velocity, len),
            bind("step_sizes", step_sizes, step_sizes.len()),
            bind("progress", progress, 2),
        ],
    )
}

/// Compares one step with the mirror on `len` parameters.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, len: usize, momentum: f64) -> Result<(), GpuError> {
    let case = format!("{len}, momentum {momentum}");
    let config = SgdConfig { momentum, ..SgdConfig::default() };
    let (g, w, velocity) = (v.random(len), v.random(len), v.random(len));
    let alpha = config.learning_rate as f32;
    let (g64, mut w64, mut velocity64) = (widen(&g), widen(&w), widen(&velocity));
    // The kernel's momentum is a single-precision constant.
    let momentum = f64::from(momentum as f32);
    cpu::sgd_step(momentum, f64::from(alpha), &g64, &mut w64, &mut velocity64);
    let velocity_bound: Vec<f64> = (0..len)
        .map(|i| 3.0 * UNIT_ROUNDOFF * (momentum * f64::from(velocity[i]).abs() + f64::from(alpha) * g64[i].abs()))
        .collect();
    let w_bound: Vec<f64> = (0..len)
        .map(|i| velocity_bound[i] + 2.0 * UNIT_ROUNDOFF * (f64::from(w[i]).abs() + velocity64[i].abs()))
        .collect();
    let mut run = v.run();
    let tg = run.input(&g)?;
    let (tw, tvelocity) = (run.in_place(&w)?, run.in_place(&velocity)?);
    let (step_sizes, progress) = (run.input(&[9.0, alpha, 9.0])?, run.input_u32(&[2, 3])?);
    record(&mut run.plan, &config, &tg, &tw, &tvelocity, &step_sizes, &progress)?;
    run.check(STEP.entry, &case, &[(&tw, &w64, &w_bound), (&tvelocity, &velocity64, &velocity_bound)], &[])
}

/// Checks the sizes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    verify(v, 1, 0.0)?;
    verify(v, 64, 0.9)?;
    verify(v, 10_007, 0.5)
}
