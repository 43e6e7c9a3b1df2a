//! Batch normalization: kernels in `shaders/batchnorm.wgsl`, mirror in [`crate::cpu::batchnorm`].

use super::{Shader, push};
use crate::gpu::{Constant, GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};
use crate::text::count;

pub use crate::cpu::batchnorm::BatchNormDims;

const SHADER: Shader = Shader { op: "batchnorm", source: shader_text!("batchnorm.wgsl") };

/// Sums and squares of parts of the rows of each channel.
pub static STATISTICS_PARTS: KernelSpec =
    SHADER.kernel("batchnorm_statistics_parts", &[read(0, "x"), read(1, "progress"), write(21, "parts_out")]);

/// Mean and variance of the valid images of a batch, and the running averages, from the parts.
pub static STATISTICS: KernelSpec = SHADER.kernel(
    "batchnorm_statistics",
    &[
        read(0, "x"),
        read(1, "progress"),
        read(22, "parts"),
        write(2, "moments_out"),
        write(3, "running_mean"),
        write(4, "running_var"),
    ],
);

/// The moments for inference: the running averages.
pub static MOMENTS: KernelSpec = SHADER
    .kernel("batchnorm_moments", &[read(5, "running_mean_in"), read(6, "running_var_in"), write(2, "moments_out")]);

/// `y = (x - mean) / sqrt(variance + epsilon) * scale + shift`.
pub static FORWARD: KernelSpec = SHADER.kernel(
    "batchnorm_forward",
    &[read(0, "x"), read(7, "moments"), read(8, "scale"), read(9, "shift"), write(10, "y")],
);

/// What parts of the rows add to the gradients of scale and shift.
pub static BACKWARD_W_PARTS: KernelSpec = SHADER
    .kernel("batchnorm_backward_w_parts", &[read(0, "x"), read(7, "moments"), read(11, "dy"), write(21, "parts_out")]);

/// The gradients of scale and shift, from the parts.
pub static BACKWARD_W: KernelSpec = SHADER.kernel(
    "batchnorm_backward_w",
    &[read(7, "moments"), read(22, "parts"), write(12, "dscale_out"), write(13, "dshift_out")],
);

/// The gradient of the input, from those of scale and shift.
pub static BACKWARD_X: KernelSpec = SHADER.kernel(
    "batchnorm_backward_x",
    &[
        read(0, "x"),
        read(7, "moments"),
        read(8, "scale"),
        read(14, "dscale"),
        read(15, "dshift"),
        read(11, "dy"),
        write(16, "dx"),
    ],
);

/// Weights and biases that include the normalization after them.
pub static FOLD: KernelSpec = SHADER.kernel(
    "batchnorm_fold",
    &[
        read(17, "w"),
        read(18, "b"),
        read(8, "scale"),
        read(9, "shift"),
        read(5, "running_mean_in"),
        read(6, "running_var_in"),
        write(19, "w_out"),
        write(20, "b_out"),
    ],
);

/// Invocations that add up the parts of a channel: `LANES` in the shader.
const LANES: usize = 64;

/// Rows per iteration of the loop of an invocation.
const ROWS_EACH: usize = 4;

/// Fewest rows of a part, but for the last one: enough that its own sums are most of the work.
const LEAST_ROWS: usize = 32;

/// Most parts of a channel: with 32 channels, as many invocations as a large GPU keeps busy.
const MOST_PARTS: usize = 1024;

/// Returns the number of rows per part and the number of parts of a channel. They depend on the shape alone, so results are reproducible.
pub fn parts(d: &BatchNormDims) -> [usize; 2] {
    let rows = d.n * d.positions;
    let each = rows.div_ceil(MOST_PARTS).next_multiple_of(ROWS_EACH).max(LEAST_ROWS);
    [each, rows.div_ceil(each)]
}

/// Returns the largest number of additions that a row of a channel is part of: four rows, the iterations over a part, the parts of a lane,
/// the lanes.
pub fn additions(d: &BatchNormDims) -> usize {
    let [rows, parts] = parts(d);
    2 + rows.div_ceil(ROWS_EACH) + parts.div_ceil(LANES) + LANES.ilog2() as usize
}

/// Largest number of rows (images times positions) that are summed: those of one channel in a buffer of 128 MiB, the most that WebGPU
/// guarantees.
///
/// lavapipe silently ends the loops of an invocation after 65,535 iterations in total; a part of so many rows takes a quarter of them.
pub const MOST_ROWS: usize = 1 << 25;

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
    super::constants(&[("N", d.n), ("P", d.positions), ("C", d.c)], more)
}

fn of_parts(d: &BatchNormDims) -> [Constant; 2] {
    let [rows, parts] = parts(d);
    [("ROWS_PER_PART", rows as f64), ("PARTS", parts as f64)]
}

/// Records mean and variance of the valid images of a batch, and `running = momentum * running + (1 - momentum) * batch`.
///
/// `progress` is `[batches done, samples of the epoch]`, and this batch is not done: its loss, which advances the number,
/// is recorded later in the plan. Shapes: x `[N, P, C]`, moments `[3, C]`, running mean and variance `[C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a channel has more values than the kernel can sum.
pub fn record_statistics(
    plan: &mut PlanBuilder,
    d: &BatchNormDims,
    momentum: f64,
    [x, progress, moments, running_mean, running_var]: [&Tensor; 5],
) -> Result<(), GpuError> {
    check_rows(&STATISTICS, d)?;
    let [_, n_parts] = parts(d);
    let parts = plan.scratch("statistics_parts", &[2, n_parts, d.c])?;
    let tensors = [(x, d.x_len()), (progress, 2), (&parts, parts.len())];
    push(plan, &STATISTICS_PARTS, &constants(d, &of_parts(d)), workgroups_linear(n_parts * d.c, 64), &tensors)?;
    let momenta = [("MOMENTUM", momentum), ("ONE_MINUS_MOMENTUM", 1.0 - momentum)];
    let constants = constants(d, &[&of_parts(d)[..], &momenta].concat());
    let averages = [(moments, 3 * d.c), (running_mean, d.c), (running_var, d.c)];
    let tensors = [&tensors[..], &averages].concat();
    push(plan, &STATISTICS, &constants, workgroups_linear(d.c, 1), &tensors)
}

/// Records the moments for inference, from the running averages of `c` channels. Shapes: running mean and variance `[C]`,
/// moments `[3, C]`.
///
/// # Errors
/// A tensor's size does not fit.
pub fn record_moments(
    plan: &mut PlanBuilder,
    c: usize,
    [running_mean, running_var, moments]: [&Tensor; 3],
) -> Result<(), GpuError> {
    let tensors = [(running_mean, c), (running_var, c), (moments, 3 * c)];
    push(plan, &MOMENTS, &[("C", c as f64)], workgroups_linear(c, 64), &tensors)
}

/// Records `y = (x - mean) / sqrt(variance + epsilon) * scale + shift` for all images.
///
/// Shapes: x and y `[N, P, C]`, moments `[3, C]`, scale and shift `[C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_forward(
    plan: &mut PlanBuilder,
    d: &BatchNormDims,
    epsilon: f64,
    [x, moments, scale, shift, y]: [&Tensor; 5],
) -> Result<(), GpuError> {
    let tensors = [(x, d.x_len()), (moments, 3 * d.c), (scale, d.c), (shift, d.c), (y, d.x_len())];
    push(plan, &FORWARD, &constants(d, &[("EPSILON", epsilon)]), workgroups_linear(d.x_len(), 64), &tensors)
}

/// Records the gradients of scale and shift, over the images that moments are of.
///
/// Shapes: x and dy `[N, P, C]`, moments `[3, C]`, dscale and dshift `[C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions, or a channel has more values than the kernel can sum.
pub fn record_backward_w(
    plan: &mut PlanBuilder,
    d: &BatchNormDims,
    epsilon: f64,
    [x, moments, dy, dscale, dshift]: [&Tensor; 5],
) -> Result<(), GpuError> {
    check_rows(&BACKWARD_W, d)?;
    let [_, n_parts] = parts(d);
    let parts = plan.scratch("gradient_parts", &[2, n_parts, d.c])?;
    let tensors = [(x, d.x_len()), (moments, 3 * d.c), (dy, d.x_len()), (&parts, parts.len())];
    push(plan, &BACKWARD_W_PARTS, &constants(d, &of_parts(d)), workgroups_linear(n_parts * d.c, 64), &tensors)?;
    let constants = constants(d, &[&of_parts(d)[..], &[("EPSILON", epsilon)]].concat());
    let tensors = [(moments, 3 * d.c), (&parts, parts.len()), (dscale, d.c), (dshift, d.c)];
    push(plan, &BACKWARD_W, &constants, workgroups_linear(d.c, 1), &tensors)
}

/// Records the gradient of the input, through mean and variance of the batch; it is 0 in images that moments are not of.
///
/// Shapes: x, dy and dx `[N, P, C]`, moments `[3, C]`, scale, dscale and dshift `[C]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_backward_x(
    plan: &mut PlanBuilder,
    d: &BatchNormDims,
    epsilon: f64,
    [x, moments, scale, dscale, dshift, dy, dx]: [&Tensor; 7],
) -> Result<(), GpuError> {
    let len = d.x_len();
    let of_channels = [(moments, 3 * d.c), (scale, d.c), (dscale, d.c), (dshift, d.c)];
    let tensors = [&[(x, len)], &of_channels[..], &[(dy, len), (dx, len)]].concat();
    push(plan, &BACKWARD_X, &constants(d, &[("EPSILON", epsilon)]), workgroups_linear(len, 64), &tensors)
}

/// Records the folding of a normalization into the convolution or the dense layer before it, for inference.
///
/// Shapes: w and w_out `[K, O]`; b, scale, shift, running mean and variance, and b_out `[O]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_fold(
    plan: &mut PlanBuilder,
    [k, o]: [usize; 2],
    epsilon: f64,
    [w, b, scale, shift, running_mean, running_var, w_out, b_out]: [&Tensor; 8],
) -> Result<(), GpuError> {
    let of_channels = [b, scale, shift, running_mean, running_var].map(|tensor| (tensor, o));
    let tensors = [&[(w, k * o)], &of_channels[..], &[(w_out, k * o), (b_out, o)]].concat();
    let constants = [("K", k as f64), ("O", o as f64), ("EPSILON", epsilon)];
    push(plan, &FOLD, &constants, workgroups_linear(k * o, 64), &tensors)
}
