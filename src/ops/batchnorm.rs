//! Batch normalization: kernels in `shaders/batchnorm.wgsl`, mirror in [`crate::cpu::batchnorm`].

use crate::gpu::{Constant, GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::text::count;

pub use crate::cpu::batchnorm::BatchNormDims;

const SOURCE: &str = include_str!("../../shaders/batchnorm.wgsl");

/// Mean and variance of the valid images of a batch, and the running averages.
pub static STATISTICS: KernelSpec = KernelSpec {
    op: "batchnorm",
    entry: "batchnorm_statistics",
    source: SOURCE,
    bindings: &[
        read(0, "x"),
        read(1, "progress"),
        write(2, "moments_out"),
        write(3, "running_mean"),
        write(4, "running_var"),
    ],
};

/// The moments for inference: the running averages.
pub static MOMENTS: KernelSpec = KernelSpec {
    op: "batchnorm",
    entry: "batchnorm_moments",
    source: SOURCE,
    bindings: &[read(5, "running_mean_in"), read(6, "running_var_in"), write(2, "moments_out")],
};

/// `y = (x - mean) / sqrt(variance + epsilon) * scale + shift`.
pub static FORWARD: KernelSpec = KernelSpec {
    op: "batchnorm",
    entry: "batchnorm_forward",
    source: SOURCE,
    bindings: &[read(0, "x"), read(7, "moments"), read(8, "scale"), read(9, "shift"), write(10, "y")],
};

/// The gradients of scale and shift.
pub static BACKWARD_W: KernelSpec = KernelSpec {
    op: "batchnorm",
    entry: "batchnorm_backward_w",
    source: SOURCE,
    bindings: &[read(0, "x"), read(7, "moments"), read(11, "dy"), write(12, "dscale_out"), write(13, "dshift_out")],
};

/// The gradient of the input, from those of scale and shift.
pub static BACKWARD_X: KernelSpec = KernelSpec {
    op: "batchnorm",
    entry: "batchnorm_backward_x",
    source: SOURCE,
    bindings: &[
        read(0, "x"),
        read(7, "moments"),
        read(8, "scale"),
        read(14, "dscale"),
        read(15, "dshift"),
        read(11, "dy"),
        write(16, "dx"),
    ],
};

/// Weights and biases that include the normalization after them.
pub static FOLD: KernelSpec = KernelSpec {
    op: "batchnorm",
    entry: "batchnorm_fold",
    source: SOURCE,
    bindings: &[
        read(17, "w"),
        read(18, "b"),
        read(8, "scale"),
        read(9, "shift"),
        read(5, "running_mean_in"),
        read(6, "running_var_in"),
        write(19, "w_out"),
        write(20, "b_out"),
    ],
};

/// Invocations that sum a channel: `LANES` in the shader.
const LANES: usize = 256;

/// Rows per iteration of the loop of an invocation.
const ROWS_EACH: usize = 4;

/// Iterations that add up the sums of the invocations.
const REDUCTION: usize = LANES.ilog2() as usize;

/// Returns the largest number of additions that a row of a channel is part of, for a channel of `rows` rows: four rows,
/// the iterations of an invocation, the invocations.
pub fn additions(rows: usize) -> usize {
    2 + rows.div_ceil(ROWS_EACH * LANES) + REDUCTION
}

/// Returns the largest number of rows (images times positions) that a kernel which sums every channel twice can sum.
///
/// lavapipe silently ends the loops of an invocation after 65,535 iterations in total, including the last one of each loop,
/// which only finds that its condition is false. Each of the two sums has two loops.
pub const MOST_ROWS: usize = (65_535 / 2 - (REDUCTION + 2)) * ROWS_EACH * LANES;

/// Rejects sizes whose sums would be incomplete.
fn check_rows(spec: &KernelSpec, d: &BatchNormDims) -> Result<(), GpuError> {
    if d.n.checked_mul(d.positions).is_some_and(|rows| rows <= MOST_ROWS) {
        return Ok(());
    }
    let most = MOST_ROWS / d.positions;
    let advice =
        if most == 0 { "use smaller images".to_string() } else { format!("use at most {}", count(most, "image")) };
    let message = format!(
        "a batch of {} with {} each has too many values per channel, of which the kernel sums at most {MOST_ROWS}; {advice}",
        count(d.n, "image"),
        count(d.positions, "position"),
    );
    Err(GpuError::Record { entry: spec.entry, message })
}

fn constants(d: &BatchNormDims, more: &[Constant]) -> Vec<Constant> {
    let mut constants = [("N", d.n), ("P", d.positions), ("C", d.c)].map(|(name, value)| (name, value as f64)).to_vec();
    constants.extend(more);
    constants
}

/// Records mean and variance of the valid images of a batch, and `running = momentum * running + (1 - momentum) * batch`.
///
/// `progress` is `[batches done, samples of the epoch]`, and this batch is not done: its loss, which advances the number,
/// is recorded later in the plan. Shapes: x `[N, P, C]`, moments `[3, C]`, running mean and variance `[C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a channel has more values than the kernel can sum.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_statistics(
    plan: &mut PlanBuilder<'_>,
    d: &BatchNormDims,
    momentum: f64,
    x: &Tensor,
    progress: &Tensor,
    moments: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
) -> Result<(), GpuError> {
    check_rows(&STATISTICS, d)?;
    plan.push(
        &STATISTICS,
        &constants(d, &[("MOMENTUM", momentum), ("ONE_MINUS_MOMENTUM", 1.0 - momentum)]),
        workgroups_linear(d.c, 1),
        &[
            bind("x", x, d.x_len()),
            bind("progress", progress, 2),
            bind("moments_out", moments, 3 * d.c),
            bind("running_mean", running_mean, d.c),
            bind("running_var", running_var, d.c),
        ],
    )
}

/// Records the moments for inference, from the running averages of `c` channels. Shapes: running mean and variance `[C]`,
/// moments `[3, C]`.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_moments(
    plan: &mut PlanBuilder<'_>,
    c: usize,
    running_mean: &Tensor,
    running_var: &Tensor,
    moments: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &MOMENTS,
        &[("C", c as f64)],
        workgroups_linear(c, 64),
        &[
            bind("running_mean_in", running_mean, c),
            bind("running_var_in", running_var, c),
            bind("moments_out", moments, 3 * c),
        ],
    )
}

/// Records `y = (x - mean) / sqrt(variance + epsilon) * scale + shift` for all images.
///
/// Shapes: x and y `[N, P, C]`, moments `[3, C]`, scale and shift `[C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_forward(
    plan: &mut PlanBuilder<'_>,
    d: &BatchNormDims,
    epsilon: f64,
    x: &Tensor,
    moments: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    y: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &FORWARD,
        &constants(d, &[("EPSILON", epsilon)]),
        workgroups_linear(d.x_len(), 64),
        &[
            bind("x", x, d.x_len()),
            bind("moments", moments, 3 * d.c),
            bind("scale", scale, d.c),
            bind("shift", shift, d.c),
            bind("y", y, d.x_len()),
        ],
    )
}

/// Records the gradients of scale and shift, over the images that moments are of.
///
/// Shapes: x and dy `[N, P, C]`, moments `[3, C]`, dscale and dshift `[C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a channel has more values than the kernel can sum.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_backward_w(
    plan: &mut PlanBuilder<'_>,
    d: &BatchNormDims,
    epsilon: f64,
    x: &Tensor,
    moments: &Tensor,
    dy: &Tensor,
    dscale: &Tensor,
    dshift: &Tensor,
) -> Result<(), GpuError> {
    check_rows(&BACKWARD_W, d)?;
    plan.push(
        &BACKWARD_W,
        &constants(d, &[("EPSILON", epsilon)]),
        workgroups_linear(d.c, 1),
        &[
            bind("x", x, d.x_len()),
            bind("moments", moments, 3 * d.c),
            bind("dy", dy, d.x_len()),
            bind("dscale_out", dscale, d.c),
            bind("dshift_out", dshift, d.c),
        ],
    )
}

/// Records the gradient of the input, through mean and variance of the batch; it is 0 in images that moments are not of.
///
/// Shapes: x, dy and dx `[N, P, C]`, moments `[3, C]`, scale, dscale and dshift `[C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_backward_x(
    plan: &mut PlanBuilder<'_>,
    d: &BatchNormDims,
    epsilon: f64,
    x: &Tensor,
    moments: &Tensor,
    scale: &Tensor,
    dscale: &Tensor,
    dshift: &Tensor,
    dy: &Tensor,
    dx: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &BACKWARD_X,
        &constants(d, &[("EPSILON", epsilon)]),
        workgroups_linear(d.x_len(), 64),
        &[
            bind("x", x, d.x_len()),
            bind("moments", moments, 3 * d.c),
            bind("scale", scale, d.c),
            bind("dscale", dscale, d.c),
            bind("dshift", dshift, d.c),
            bind("dy", dy, d.x_len()),
            bind("dx", dx, d.x_len()),
        ],
    )
}

/// Records the folding of a normalization into the convolution or the dense layer before it, for inference.
///
/// Shapes: w and w_out `[K, O]`; b, scale, shift, running mean and variance, and b_out `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
pub fn record_fold(
    plan: &mut PlanBuilder<'_>,
    k: usize,
    o: usize,
    epsilon: f64,
    w: &Tensor,
    b: &Tensor,
    scale: &Tensor,
    shift: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    w_out: &Tensor,
    b_out: &Tensor,
) -> Result<(), GpuError> {
    plan.push(
        &FOLD,
        &[("K", k as f64), ("O", o as f64), ("EPSILON", epsilon)],
        workgroups_linear(k * o, 64),
        &[
            bind("w", w, k * o),
            bind("b", b, o),
            bind("scale", scale, o),
            bind("shift", shift, o),
            bind("running_mean_in", running_mean, o),
            bind("running_var_in", running_var, o),
            bind("w_out", w_out, k * o),
            bind("b_out", b_out, o),
        ],
    )
}
