//! Rectified linear unit as a separate operation: kernels in `shaders/relu.wgsl`, mirror in [`crate::cpu::relu`].

use crate::cpu::relu as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::verify::{Verifier, widen};

const SOURCE: &str = include_str!("../../shaders/relu.wgsl");

/// `y = max(x, 0)`.
pub static FORWARD: KernelSpec =
    KernelSpec { op: "relu", entry: "relu_forward", source: SOURCE, bindings: &[read(0, "x"), write(1, "y")] };

/// `dx = dy` where y is above zero.
pub static BACKWARD_X: KernelSpec = KernelSpec {
    op: "relu",
    entry: "relu_backward_x",
    source: SOURCE,
    bindings: &[read(2, "y_in"), read(3, "dy"), write(4, "dx")],
};

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[&FORWARD, &BACKWARD_X];

/// Records `y = max(x, 0)`; x and y have `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_forward(plan: &mut PlanBuilder<'_>, len: usize, x: &Tensor, y: &Tensor) -> Result<(), GpuError> {
    plan.push(&FORWARD, &[("LEN", len as f64)], workgroups_linear(len, 64), &[bind("x", x, len), bind("y", y, len)])
}

/// Records `dx = dy` where the output y is above zero, else 0; all have `len` elements.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    len: usize,
    y: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &BACKWARD_X,
        &[("LEN", len as f64)],
        workgroups_linear(len, 64),
        &[bind("y_in", y, len), bind("dy", dy, len), bind("dx", dx, len)],
    )
}

/// Compares both kernels with the mirror; every fourth value is exactly zero.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, len: usize) -> Result<(), GpuError> {
    let case = format!("{len}");
    let x: Vec<f32> = v.random(len).into_iter().enumerate().map(|(i, x)| if i % 4 == 3 { 0.0 } else { x }).collect();
    let dy = v.random(len);
    let exact = vec![0.0; len];
    let mut y64 = vec![0.0; len];
    cpu::relu_forward(&widen(&x), &mut y64);
    let mut run = v.run();
    let (tx, ty) = (run.input(&x)?, run.output(len)?);
    record_forward(&mut run.plan, len, &tx, &ty)?;
    run.check(FORWARD.entry, &case, &[(&ty, &y64, &exact)], &[])?;

    let mut dx64 = vec![0.0; len];
    cpu::relu_backward_x(&y64, &widen(&dy), &mut dx64);
    let y: Vec<f32> = x.iter().map(|x| x.max(0.0)).collect();
    let mut run = v.run();
    let (ty, tdy, tdx) = (run.input(&y)?, run.input(&dy)?, run.output(len)?);
    record_backward_x(&mut run.plan, len, &ty, &tdy, &tdx)?;
    run.check(BACKWARD_X.entry, &case, &[(&tdx, &dx64, &exact)], &[])
}

/// Checks the shapes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for len in [1, 63, 64, 65, 10_007] {
        verify(v, len)?;
    }
    Ok(())
}
