//! Adam in Keras's form: kernel of `shaders/adam.wgsl`, mirror in [`crate::cpu::adam`].

use crate::cpu::adam as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::verify::{UNIT_ROUNDOFF, Verifier, widen};

pub use crate::cpu::adam::AdamConfig;

const SOURCE: &str = include_str!("../../shaders/adam.wgsl");

/// Updates all parameters by one step.
pub static STEP: KernelSpec = KernelSpec {
    op: "adam",
    entry: "adam_step",
    source: SOURCE,
    bindings: &[read(0, "g"), write(1, "w"), write(2, "m"), write(3, "v"), read(4, "step_sizes"), read(5, "progress")],
};

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[&STEP];

/// The tensors of a step: gradients, parameters and both moments, all of the same length; and one step size per batch
/// of the epoch.
#[derive(Clone, Copy, Debug)]
pub struct AdamTensors<'a> {
    /// Gradients.
    pub g: &'a Tensor,
    /// Parameters, updated.
    pub w: &'a Tensor,
    /// First moments, updated.
    pub m: &'a Tensor,
    /// Second moments, updated.
    pub v: &'a Tensor,
    /// [`AdamConfig::step_size`] of each batch of the epoch.
    pub step_sizes: &'a Tensor,
    /// `[batches of the epoch whose loss is known, including this one; samples of the epoch]`.
    pub progress: &'a Tensor,
}

/// Records one step. The number of parameters must be a multiple of four, which an arena's ([`crate::gpu::Gpu::arena`])
/// is.
///
/// # Errors
/// A tensor's size does not fit, or is not a multiple of four.
pub fn record(plan: &mut PlanBuilder<'_>, config: &AdamConfig, tensors: &AdamTensors<'_>) -> Result<(), GpuError> {
    let len = tensors.w.len();
    if !len.is_multiple_of(4) {
        return Err(GpuError::Record {
            entry: STEP.entry,
            message: format!("the number of parameters is {len}, which is not a multiple of four"),
        });
    }
    plan.push(
        &STEP,
        &[
            ("LEN", len as f64),
            ("ONE_MINUS_BETA_1", 1.0 - config.beta_1),
            ("ONE_MINUS_BETA_2", 1.0 - config.beta_2),
            ("EPSILON", config.epsilon),
        ],
        workgroups_linear(len / 4, 64),
        &[
            bind("g", tensors.g, len),
            bind("w", tensors.w, len),
            bind("m", tensors.m, len),
            bind("v", tensors.v, len),
            bind("step_sizes", tensors.step_sizes, tensors.step_sizes.len()),
            bind("progress", tensors.progress, 2),
        ],
    )
}

/// Compares three steps on `len` parameters with the mirror.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(verifier: &mut Verifier<'_>, len: usize) -> Result<(), GpuError> {
    let config = AdamConfig::default();
    let mut w: Vec<f32> = verifier.random(len);
    let mut m: Vec<f32> = verifier.random(len).iter().map(|x| x * 1e-2).collect();
    let mut v: Vec<f32> = verifier.random(len).iter().map(|x| (x * x) * 1e-4).collect();
    for step in 1..=3u64 {
        let case = format!("{len}, step {step}");
        let g: Vec<f32> = verifier.random(len).iter().map(|x| x * 0.1).collect();
        let alpha = config.step_size(step) as f32;
        let (mut w64, mut m64, mut v64) = (widen(&w), widen(&m), widen(&v));
        let g64 = widen(&g);
        let alpha64 = f64::from(alpha);
        cpu::adam_step(config.beta_1, config.beta_2, config.epsilon, alpha64, &g64, &mut w64, &mut m64, &mut v64);
        let u = UNIT_ROUNDOFF;
        let m_bound: Vec<f64> = (0..len).map(|i| 4.0 * u * (f64::from(m[i]).abs() + g64[i].abs())).collect();
        let v_bound: Vec<f64> =
            (0..len).map(|i| 5.0 * u * (f64::from(v[i]) + g64[i] * g64[i]) + f64::from(f32::MIN_POSITIVE)).collect();
        let w_bound: Vec<f64> = (0..len)
            .map(|i| {
                let root = v64[i].sqrt() + config.epsilon;
                let update = alpha64 * (m64[i].abs() + m_bound[i]) / root;
                // The moment's own error, the error of v through the root, and a root and a division with the accuracy
                // of the WGSL specification (about ten roundoffs), then the rounding of the sum.
                alpha64 * m_bound[i] / root
                    + update * (v_bound[i] / (2.0 * v64[i]).max(f64::MIN_POSITIVE) + 12.0 * u)
                    + u * (f64::from(w[i]).abs() + update)
            })
            .collect();
        let mut run = verifier.run();
        let tg = run.input(&g)?;
        let (tw, tm, tv) = (run.in_place(&w)?, run.in_place(&m)?, run.in_place(&v)?);
        // The size of this step is in the batch's slot; using any other slot would change the result.
        let (step_sizes, progress) = (run.input(&[9.0, alpha, 9.0])?, run.input_u32(&[2, 3])?);
        let tensors = AdamTensors { g: &tg, w: &tw, m: &tm, v: &tv, step_sizes: &step_sizes, progress: &progress };
        record(&mut run.plan, &config, &tensors)?;
        run.check(STEP.entry, &case, &[(&tw, &w64, &w_bound), (&tm, &m64, &m_bound), (&tv, &v64, &v_bound)], &[])?;
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<_>>();
        (w, m, v) = (narrow(&w64), narrow(&m64), narrow(&v64));
    }
    Ok(())
}

/// Checks the sizes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for len in [4, 64, 10_004] {
        verify(v, len)?;
    }
    Ok(())
}
