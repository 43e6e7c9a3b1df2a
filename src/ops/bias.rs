//! Bias as a separate operation: kernels in `shaders/bias.wgsl`, mirror in [`crate::cpu::bias`].

use crate::cpu::bias as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::verify::{Verifier, absolute, widen};

pub use crate::cpu::bias::BiasDims;

const SOURCE: &str = include_str!("../../shaders/bias.wgsl");

/// `y = x + b`.
pub static FORWARD: KernelSpec = KernelSpec {
    op: "bias",
    entry: "bias_forward",
    source: SOURCE,
    bindings: &[read(0, "x"), read(1, "b"), write(2, "y")],
};

/// `db`: the column sums of dy.
pub static BACKWARD_B: KernelSpec =
    KernelSpec { op: "bias", entry: "bias_backward_b", source: SOURCE, bindings: &[read(3, "dy"), write(4, "db")] };

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[&FORWARD, &BACKWARD_B];

/// Records `y = x + b` for each row. Shapes: x and y `[N, O]`, b `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_forward(
    plan: &mut PlanBuilder<'_>,
    d: &BiasDims,
    x: &Tensor,
    b: &Tensor,
    y: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &FORWARD,
        &[("N", d.n as f64), ("O", d.o as f64)],
        workgroups_linear(d.n * d.o, 64),
        &[bind("x", x, d.n * d.o), bind("b", b, d.o), bind("y", y, d.n * d.o)],
    )
}

/// Records the gradient of the bias. Shapes: dy `[N, O]`, db `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_b(plan: &mut PlanBuilder<'_>, d: &BiasDims, dy: &Tensor, db: &Tensor) -> Result<(), GpuError> {
    plan.push(
        &BACKWARD_B,
        &[("N", d.n as f64), ("O", d.o as f64)],
        workgroups_linear(d.o, 64),
        &[bind("dy", dy, d.n * d.o), bind("db", db, d.o)],
    )
}

/// Compares both kernels with the mirror on one shape.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, d: &BiasDims) -> Result<(), GpuError> {
    let case = format!("{}x{}", d.n, d.o);
    let (x, b, dy) = (v.random(d.n * d.o), v.random(d.o), v.random(d.n * d.o));
    let (x64, b64, dy64) = (widen(&x), widen(&b), widen(&dy));

    let (mut y64, mut y_scale) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    cpu::bias_forward(d, &x64, &b64, &mut y64);
    cpu::bias_forward(d, &absolute(&x64), &absolute(&b64), &mut y_scale);
    let mut run = v.run();
    let (tx, tb, ty) = (run.input(&x)?, run.input(&b)?, run.output(x.len())?);
    record_forward(&mut run.plan, d, &tx, &tb, &ty)?;
    run.check_sums(FORWARD.entry, &case, &[(&ty, &y64, &y_scale, 1)])?;

    let (mut db64, mut db_scale) = (vec![0.0; d.o], vec![0.0; d.o]);
    cpu::bias_backward_b(d, &dy64, &mut db64);
    cpu::bias_backward_b(d, &absolute(&dy64), &mut db_scale);
    let mut run = v.run();
    let (tdy, tdb) = (run.input(&dy)?, run.output(d.o)?);
    record_backward_b(&mut run.plan, d, &tdy, &tdb)?;
    run.check_sums(BACKWARD_B.entry, &case, &[(&tdb, &db64, &db_scale, d.n)])
}

/// Checks the shapes of `fmnist-gpu selftest`.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    for (n, o) in [(196, 64), (7, 13), (1, 1)] {
        verify(v, &BiasDims { n, o })?;
    }
    Ok(())
}
