//! Proof that the proofs of the kernels can fail: every entry point with a mistake that people make, which its proof must find.

use crate::support::gpu;
use fmnist_gpu::gpu::{Gpu, GpuOptions, KernelSpec};
use fmnist_gpu::verify::{OPS, Op, Verifier};
use pollster::FutureExt;
use std::collections::BTreeSet;

/// A mistake.
struct Mutant {
    /// The entry point.
    entry: &'static str,
    /// The entry point under which the comparison is listed, if it is another.
    compared: Option<&'static str>,
    /// What is wrong.
    mistake: &'static str,
    /// The text in the body of the entry point or, if that does not have it, once in the rest of the file.
    from: &'static str,
    /// What replaces it.
    to: &'static str,
}

const fn mutant(entry: &'static str, mistake: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { entry, compared: None, mistake, from, to }
}

/// A mistake in an entry point that is compared along with another.
const fn part(
    entry: &'static str,
    compared: &'static str,
    mistake: &'static str,
    [from, to]: [&'static str; 2],
) -> Mutant {
    Mutant { entry, compared: Some(compared), mistake, from, to }
}

/// At least one for each entry point: an index off by one, a wrong stride, a forgotten guard, a swapped operand.
const MUTANTS: &[Mutant] = &[
    mutant("conv2d_forward", "padding off by one", "j * SW + q - PL", "j * SW + q - PL + 1u"),
    mutant("conv2d_forward", "strides swapped", "i * SH + p - PT", "i * SW + p - PT"),
    mutant("conv2d_forward", "rows outside are not left out", "if (row >= H) { continue; }", ""),
    mutant("conv2d_forward_by_4", "a row is another", "x_value(x_5, c)", "x_value(x_4, c)"),
    mutant(
        "conv2d_forward_by_4",
        "padding above and left swapped",
        "let top = position / WO % HO * SH + p - PT",
        "let top = position / WO % HO * SH + p - PL",
    ),
    mutant("conv2d_forward_subgroup", "wrong stride of the filter", "(w_row + c * 4u + 1u)", "(w_row + c * 4u + 2u)"),
    mutant(
        "conv2d_forward_subgroup",
        "a block of rows is stored twice",
        "row + 3u * LANES, quad, &sum_3",
        "row + 3u * LANES, quad, &sum_2",
    ),
    mutant("conv2d_forward_subgroup_any", "no bias", "filled(b_by_4[quad])", "filled(vec4(0.0))"),
    mutant("conv2d_forward_subgroup_pool", "the last of equal cells", "value_2 > best", "value_2 >= best"),
    mutant("conv2d_forward_subgroup_pool", "not pooled", "quad, true,", "quad, false,"),
    mutant(
        "conv2d_forward_subgroup_any_pool",
        "rows and columns of argmax swapped",
        "(i + cell / 2u) * WO + j + cell % 2u",
        "(i + cell % 2u) * WO + j + cell / 2u",
    ),
    mutant("conv2d_forward_shared", "columns outside are stored", "row < N * HO * WO && o < O", "row < N * HO * WO"),
    mutant(
        "conv2d_forward_shared",
        "a round too few",
        "for (var k = 0u; k < KH * KW * C; k += STEPS)",
        "for (var k = STEPS; k < KH * KW * C; k += STEPS)",
    ),
    mutant("conv2d_forward_shared_pool", "a cell of the window left out", "r < 4u", "r < 3u"),
    mutant(
        "conv2d_forward_shared_by_4",
        "two of four steps swapped",
        "w_columns(step + 1u, o), w_columns(step + 2u, o)",
        "w_columns(step + 2u, o), w_columns(step + 1u, o)",
    ),
    mutant(
        "conv2d_forward_shared_by_4",
        "a quad too few",
        "select(COLUMN_QUADS, ROW_QUADS",
        "select(COLUMN_QUADS, ROW_QUADS - 1u",
    ),
    mutant(
        "conv2d_forward_shared_by_4_pool",
        "the last of equal cells",
        "select(cell, vec4(r), value > highest)",
        "select(cell, vec4(r), value >= highest)",
    ),
    mutant("conv2d_backward_x", "strides swapped", "(row + PT - p) % SH", "(row + PT - p) % SW"),
    mutant("conv2d_backward_x", "outputs past the end", "|| i >= HO", ""),
    mutant("conv2d_backward_x_by_4", "a pixel that no output used", "bottom % SH == 0u && ", ""),
    mutant(
        "conv2d_backward_x_subgroup",
        "the filter is not transposed",
        "value_0, w[0], w[1], w[2], w[3]",
        "value_0, w[0], w[2], w[1], w[3]",
    ),
    mutant(
        "conv2d_backward_x_subgroup",
        "the ReLU's mask is of dy",
        "vec4(0.0), value, x_by_4[at] > vec4(0.0)",
        "vec4(0.0), value, value > vec4(0.0)",
    ),
    mutant(
        "conv2d_backward_x_shared",
        "filter indices swapped",
        "(k / O * C + c) * O + k % O",
        "(k / O * C + c) * O + k / O",
    ),
    mutant("conv2d_backward_w", "a position too few", "i < HO", "i + 1u < HO"),
    part(
        "conv2d_backward_w_sum",
        "conv2d_backward_w",
        "the last part is left out",
        ["part < PARTS", "part + 1u < PARTS"],
    ),
    part(
        "conv2d_backward_w_sum",
        "conv2d_backward_w",
        "wrong stride of the parts",
        ["part * (n_weights + O)", "part * n_weights"],
    ),
    mutant("conv2d_backward_w_by_4", "no gradient of the bias", "if (row_quad == 0u)", "if (row_quad == row_quads)"),
    mutant(
        "conv2d_backward_w_subgroup",
        "operands swapped",
        "add(&sum_1, x_0.y, gradients)",
        "add(&sum_1, x_1.y, gradients)",
    ),
    mutant(
        "conv2d_backward_w_subgroup_any",
        "the bias without its last position",
        "sum_bias += gradients",
        "sum_bias = gradients",
    ),
    mutant(
        "conv2d_backward_w_subgroup_any_pool",
        "the wrong cell of a window",
        "Output(n, i + 1u, j), at_2",
        "Output(n, i, j + 1u), at_2",
    ),
    mutant(
        "conv2d_backward_x_shared_by_4",
        "two of four channels swapped",
        "w_steps(step, c + 1u), w_steps(step, c + 2u)",
        "w_steps(step, c + 2u), w_steps(step, c + 1u)",
    ),
    mutant("conv2d_backward_w_shared_by_4", "no row of ones", "vec4(1.0, 0.0, 0.0, 0.0)", "vec4(0.0)"),
    mutant(
        "conv2d_backward_w_shared_by_4",
        "every cell of a window",
        "argmax_by_4[window] == vec4(i * WO + j)",
        "vec4(true)",
    ),
    mutant(
        "conv2d_backward_x_and_w_shared_by_4",
        "the first tile of dx again",
        "tile - backward_w_tiles()",
        "0u * tile",
    ),
    mutant("conv2d_backward_w_shared", "no row of ones", "1.0, cell == KH * KW * C", "0.0, cell == KH * KW * C"),
    mutant("conv2d_backward_w_shared_small", "the position in another image", "* (HO * WO) + argmax", "* 0u + argmax"),
    mutant("conv2d_backward_w_shared_small", "half of the sums", "other < 256u", "other < 128u"),
    mutant("conv2d_backward_x_and_w_shared", "the first tile of dx again", "tile - backward_w_tiles()", "0u * tile"),
    mutant("groupedconv2d_forward", "the channels of another group", "at.c / OG * CG", "at.c / CG * OG"),
    mutant("groupedconv2d_forward", "strides swapped", "at.row * SH + p - PT", "at.row * SW + p - PT"),
    mutant("groupedconv2d_forward_by_4", "columns outside are not left out", "if (column >= W) { continue; }", ""),
    mutant("groupedconv2d_forward_by_4", "no bias", "var sum = b_by_4[at.c]", "var sum = vec4(0.0)"),
    mutant("groupedconv2d_backward_x", "the first channel of the group", "at.c % CG) * O", "0u) * O"),
    mutant("groupedconv2d_backward_x", "an output too few", "o < first + OG", "o + 1u < first + OG"),
    mutant("groupedconv2d_backward_x_by_4", "strides swapped", "p, PT, SH, HO", "p, PT, SW, HO"),
    mutant("groupedconv2d_backward_x_by_4", "no mask", "if (X_IS_RELU)", "if (false)"),
    mutant("groupedconv2d_backward_w", "the channels of another group", "o / OG * CG", "o / CG * OG"),
    mutant("groupedconv2d_backward_w", "rows of the next part", "min(first + ROWS_PER_PART, N * HO)", "N * HO"),
    mutant("groupedconv2d_backward_w_by_4", "the row of another image", "i % HO * SH", "i * SH"),
    mutant("groupedconv2d_backward_w_by_4", "no gradient of the bias", "sum += dy_value;", ""),
    part(
        "groupedconv2d_backward_w_sum",
        "groupedconv2d_backward_w",
        "the last part is left out",
        ["part < PARTS", "part + 1u < PARTS"],
    ),
    mutant("pool2d_max_forward", "the last of equal cells", "value > best", "value >= best"),
    mutant("pool2d_max_forward", "rows of another width", "best_at = row * W + column", "best_at = row * H + column"),
    mutant("pool2d_max_forward_by_4", "cells of the padding count", "& vec4(inside)", ""),
    mutant("pool2d_max_forward_by_4", "strides swapped", "at.row * SH + p - PT", "at.row * SW + p - PT"),
    mutant("pool2d_max_backward_x", "a window too few", "j < columns.end", "j + 1u < columns.end"),
    mutant(
        "pool2d_max_backward_x_by_4",
        "position off by one",
        "winner == vec4(row * W + column)",
        "winner == vec4(row * W + column + 1u)",
    ),
    mutant("pool2d_max_backward_x_by_4", "strides swapped", "select(at.row * SH - PT", "select(at.row * SW - PT"),
    mutant("pool2d_average_forward", "the padding is counted", "window_size(at.row, at.column)", "f32(KH * KW)"),
    mutant("pool2d_average_backward_x", "row and column swapped", "window_size(i, j)", "window_size(j, i)"),
    mutant(
        "pool2d_sum_forward",
        "a window shifted",
        "min(start + window - padding, size)",
        "min(start + window, size)",
    ),
    mutant(
        "pool2d_sum_backward_x",
        "a wrong stride",
        "((at.n * HO + i) * WO + j) * C",
        "((at.n * HO + i) * HO + j) * C",
    ),
    mutant("dense_forward", "an input too few", "i < I", "i + 1u < I"),
    mutant("dense_forward_by_4", "a row is another", "row(n + 2u) * (I / 4u)", "row(n + 1u) * (I / 4u)"),
    mutant("dense_forward_subgroup", "a wrong stride", "(i * 4u + 2u) * (O / 4u)", "(i * 4u + 2u) * (I / 4u)"),
    mutant("dense_forward_shared", "the first round again", "i + STEPS, end, lane", "first, end, lane"),
    mutant("dense_forward_shared", "no bias", "sums[r][c] + b[o]", "sums[r][c]"),
    mutant("dense_forward_shared_parts", "inputs of the next part", "min(first + INPUTS_PER_PART, I)", "I"),
    mutant(
        "dense_forward_shared_by_4",
        "the first round again",
        "forward_fetch(first_row, first_column, i + STEPS, end",
        "forward_fetch(first_row, first_column, first, end",
    ),
    mutant("dense_forward_shared_by_4_parts", "inputs of the next part", "min(first + INPUTS_PER_PART, I)", "I"),
    part(
        "dense_forward_sum",
        "dense_forward_shared_parts",
        "the first part is left out",
        ["var part = 0u", "var part = 1u"],
    ),
    mutant("dense_backward_x", "the filter is transposed", "w[i * O + o]", "w[o * O + i]"),
    mutant("dense_backward_x_by_4", "the filter is transposed", "dy_by_4[dy_1 + o] * w", "w * dy_by_4[dy_1 + o]"),
    mutant(
        "dense_backward_x_subgroup",
        "two of four inputs swapped",
        "w_by_4[w_1 + o], w_by_4[w_2 + o]",
        "w_by_4[w_2 + o], w_by_4[w_1 + o]",
    ),
    mutant("dense_backward_x_shared", "inputs and outputs swapped", "w_cell(i + 1u, o)", "w_cell(i, o + 1u)"),
    mutant(
        "dense_backward_x_shared_by_4",
        "two of four inputs swapped",
        "w_values(i + 1u, o), w_values(i + 2u, o)",
        "w_values(i + 2u, o), w_values(i + 1u, o)",
    ),
    mutant("dense_backward_w", "no gradient of the bias", "if (i == I) {", "if (i == I + 1u) {"),
    mutant("dense_backward_w_by_4", "the last quad of inputs is left out", "i >= I / 4u", "i + 1u >= I / 4u"),
    mutant(
        "dense_backward_w_subgroup",
        "the second quad of inputs is the first",
        "inputs + LANES + lane",
        "inputs + lane",
    ),
    mutant(
        "dense_backward_w_shared",
        "rows and columns swapped",
        "dw[i * O + o] = sums[r][c]",
        "dw[i * O + o] = sums[c][r]",
    ),
    mutant("dense_backward_w_shared_by_4", "no gradient of the bias", "vec4(1.0, 0.0, 0.0, 0.0)", "vec4(0.0)"),
    mutant(
        "dense_backward_x_and_w_shared_by_4",
        "a tile of dw left out",
        "tile < backward_w_tiles()",
        "tile + 1u < backward_w_tiles()",
    ),
    mutant(
        "dense_backward_x_and_w_shared",
        "a tile of dw left out",
        "tile < backward_w_tiles()",
        "tile + 1u < backward_w_tiles()",
    ),
    mutant("bias_forward", "row instead of column", "b[index % O]", "b[index / O]"),
    mutant("bias_backward_b", "a row too few", "n < N", "n + 1u < N"),
    mutant("relu_forward", "lowest instead of highest", "max(x[index], 0.0)", "min(x[index], 0.0)"),
    mutant("relu_backward_x", "a gradient at zero", "y_in[index] > 0.0", "y_in[index] >= 0.0"),
    mutant("gelu_forward", "the tail is not cut", "select(value * s, 0.0, value < -FAR)", "value * s"),
    mutant("gelu_backward_x", "a factor forgotten", "1.0 + 3.0 * CUBIC", "1.0 + CUBIC"),
    mutant("leakyrelu_forward", "positive numbers too", "select(SLOPE * value, value, value > 0.0)", "SLOPE * value"),
    mutant(
        "leakyrelu_backward_x",
        "the sides swapped",
        "select(SLOPE * gradient, gradient,",
        "select(gradient, SLOPE * gradient,",
    ),
    mutant("silu_forward", "the tail is not cut", "select(value * s, 0.0, value < -FAR)", "value * s"),
    mutant("silu_forward", "the sigmoid alone", "value * s", "s"),
    mutant("silu_backward_x", "the sigmoid is taken for a constant", "(1.0 + z * (e * s))", "1.0"),
    mutant("scale_forward", "the inverse", "FACTOR * x[index]", "x[index] / FACTOR"),
    mutant("scale_backward_x", "no factor", "FACTOR * dy[index]", "dy[index]"),
    mutant("dropout_forward", "what is kept is dropped", "((bits >> i) & 1u) == 1u", "((bits >> i) & 1u) == 0u"),
    mutant("dropout_forward", "not scaled", "x[index] * SCALE", "x[index]"),
    mutant("dropout_forward", "the same in every epoch", "random[2], STREAM", "1u, STREAM"),
    mutant("dropout_forward", "the same in every layer", "random[2], STREAM", "random[2], 16u"),
    mutant("dropout_forward", "half of the seed", "vec2(random[0], random[1])", "vec2(random[0], 0u)"),
    mutant("dropout_forward", "a round too few", "i < 10u", "i < 9u"),
    mutant("dropout_forward", "a carry is lost", "+ (middle >> 16u) + (other >> 16u)", "+ (middle >> 16u)"),
    mutant("dropout_backward_x", "drops what the next step drops", "progress[0] - 1u", "progress[0]"),
    mutant("add_forward", "an operand twice", "x1[index] + x2[index]", "x1[index] + x1[index]"),
    mutant("batchnorm_statistics", "padded images count", "min(progress[1] - progress[0] * N, N)", "N"),
    mutant("batchnorm_statistics", "parts have one mean", "+ n * (difference * difference)", ""),
    part(
        "batchnorm_statistics_parts",
        "batchnorm_statistics",
        "squares of the values",
        ["differences(row, end, c, x[c], mean)", "differences(row, end, c, x[c], 0.0)"],
    ),
    part(
        "batchnorm_statistics_parts",
        "batchnorm_statistics",
        "a row of the next part",
        ["min(first + ROWS_PER_PART, valid", "min(first + ROWS_PER_PART + 1u, valid"],
    ),
    part(
        "batchnorm_backward_w_parts",
        "batchnorm_backward_w",
        "the mean is not subtracted",
        ["differences(row, end, c, mean, 0.0)", "differences(row, end, c, 0.0, 0.0)"],
    ),
    mutant("batchnorm_statistics", "the variance is unbiased", "f32(max(rows, 1u))", "f32(max(rows, 2u) - 1u)"),
    mutant(
        "batchnorm_statistics",
        "shares of the running average swapped",
        "MOMENTUM * running_mean[c] + ONE_MINUS_MOMENTUM * (",
        "ONE_MINUS_MOMENTUM * running_mean[c] + MOMENTUM * (",
    ),
    mutant(
        "batchnorm_moments",
        "mean and variance swapped",
        "moments_out[c] = running_mean_in[c]",
        "moments_out[c] = running_var_in[c]",
    ),
    mutant(
        "batchnorm_forward",
        "scale and shift swapped",
        "normal * scale[c] + shift[c]",
        "normal * shift[c] + scale[c]",
    ),
    mutant(
        "batchnorm_backward_w",
        "not divided by the deviation",
        "scale_sum * inverseSqrt(moments[C + c] + EPSILON)",
        "scale_sum",
    ),
    mutant("batchnorm_backward_x", "the mean is taken for a constant", "- dshift[c] / m", ""),
    mutant("batchnorm_backward_x", "the variance is taken for a constant", "- normal * (dscale[c] / m)", ""),
    mutant(
        "batchnorm_backward_x",
        "padded images have a gradient",
        "if (index / C >= rows)",
        "if (index / C >= N * P)",
    ),
    mutant(
        "batchnorm_fold",
        "the shift is scaled",
        "(b[o] - running_mean_in[o]) * a + shift[o]",
        "(b[o] - running_mean_in[o] + shift[o]) * a",
    ),
    mutant("softmax_xent_forward", "the last row is left out", "n < N;", "n + 1u < N;"),
    mutant(
        "softmax_xent_forward",
        "the last of equal classes",
        "x[n * C + c] > row.highest)",
        "x[n * C + c] >= row.highest)",
    ),
    mutant("softmax_xent_backward_x", "divided by the whole batch", "/ f32(n_valid)", "/ f32(N)"),
    mutant("softmax_xent_backward_x", "padded rows have a gradient", "select(0.0, gradient, n < n_valid)", "gradient"),
    mutant("softmax_xent_backward_x", "the batch is not counted", "progress[0] = batch + 1u", "progress[0] = batch"),
    mutant(
        "softmax_xent_soft_backward_x",
        "the row before",
        "labels[(n + 1u) % n_valid]",
        "labels[(n + n_valid - 1u) % n_valid]",
    ),
    mutant(
        "softmax_xent_soft_backward_x",
        "a partner past the end",
        "labels[(n + 1u) % n_valid]",
        "labels[(n + 1u) % N]",
    ),
    mutant(
        "softmax_xent_soft_backward_x",
        "the share of the next batch",
        "rates[progress[0]].w",
        "rates[progress[0] + 1u].w",
    ),
    mutant(
        "softmax_xent_soft_backward_x",
        "the weight of the other class",
        "* class_weights[at.partner]",
        "* class_weights[label]",
    ),
    mutant(
        "softmax_xent_soft_backward_x",
        "the even part is of one class",
        "SMOOTHING / f32(C) * at.weight",
        "SMOOTHING * at.weight",
    ),
    mutant(
        "softmax_xent_soft_backward_x",
        "the gradient of an unweighted row",
        "at.weight * probability",
        "probability",
    ),
    mutant(
        "softmax_xent_soft_backward_x",
        "the loss of the label alone",
        "loss += value *",
        "loss += select(0.0, at.weight, c == at.label) *",
    ),
    mutant("adam_step_pending", "the last part is left out", "part < parts;", "part + 1u < parts;"),
    mutant(
        "adam_step_pending",
        "the last row is left out",
        "n < N; n++) {\n            let",
        "n + 1u < N; n++) {\n            let",
    ),
    mutant("adam_step_pending", "the bias of the classes has an input", "else { sum += gradient; }", ""),
    mutant(
        "adam_step_pending",
        "the bias of the hidden layer has an input",
        "select(inputs[n * K + k], 1.0, is_bias)",
        "inputs[n * K + k]",
    ),
    mutant("adam_step_pending", "gradients are not kept", "g_out[index] = gradient;", ""),
    mutant("adam_step_pending", "the numbers of another batch", "rates[batch]", "rates[batch + 1u]"),
    mutant("adam_step_pending", "the batch is not counted", "totals[0] = batch + 1u", "totals[0] = batch"),
    mutant(
        "dense_forward_shared_by_4_gathered_parts",
        "the order is ignored",
        "Picked(order[select(0u, at, valid)], valid)",
        "Picked(select(0u, at, valid), valid)",
    ),
    mutant(
        "dense_forward_shared_by_4_gathered_parts",
        "padded rows are gathered",
        "let valid = at < progress[1];",
        "let valid = true;",
    ),
    mutant("dense_forward_shared_by_4_gathered_parts", "nothing is kept", "if (writes)", "if (false)"),
    mutant("head_rows", "the first part is left out", "var part = 0u;", "var part = 1u;"),
    mutant("head_rows", "the last slice of the hidden units is left out", "s < slices;", "s + 1u < slices;"),
    mutant("head_rows", "divided by the whole batch", "/ f32(n_valid)", "/ f32(N)"),
    mutant("head_rows", "padded rows have a gradient", "select(0.0, gradient, n < n_valid)", "gradient"),
    mutant("head_rows", "padded rows are predicted", "n < n_valid && highest_at", "highest_at"),
    mutant("head_rows", "the mask is missing", "select(0.0, sum, hidden[i] > 0.0)", "sum"),
    mutant("head_backward_w", "the last row is left out", "n < N; n += LANES / SUMS", "n + 1u < N; n += LANES / SUMS"),
    mutant("head_backward_w", "a wrong stride", "rows[n * I + i]", "rows[n * C + i]"),
    mutant("head_backward_w", "the last loss is left out", "n < N; n += LANES)", "n + 1u < N; n += LANES)"),
    mutant("head_backward_w", "the batch is not counted", "progress_out[0] = batch + 1u", "progress_out[0] = batch"),
    mutant("batch_gather", "the order is not used", "order[select(0u, i, valid)]", "select(0u, i, valid)"),
    mutant("batch_gather", "bytes in the other order", "vec4(0u, 8u, 16u, 24u)", "vec4(24u, 16u, 8u, 0u)"),
    mutant(
        "batch_gather",
        "rows past the end are not zero",
        "select(0u, images[sample * words + word], valid)",
        "images[sample * words + word]",
    ),
    mutant("batch_gather_augmented", "moved the wrong way", "i + drawn.down - SHIFT", "i + SHIFT - drawn.down"),
    mutant(
        "batch_gather_augmented",
        "mirrored after the shift",
        "select(j, W - 1u - j, drawn.flipped) + drawn.right - SHIFT",
        "select(j + drawn.right - SHIFT, W - 1u - (j + drawn.right - SHIFT), drawn.flipped)",
    ),
    mutant(
        "batch_gather_augmented",
        "a range too short",
        "below(words.x, 2u * SHIFT + 1u)",
        "below(words.x, 2u * SHIFT)",
    ),
    mutant(
        "batch_gather_augmented",
        "columns past the end",
        "row >= H || column >= W || in_hole",
        "row >= H || in_hole",
    ),
    mutant("batch_gather_augmented", "the side does not change", "(side + epoch) % 2u", "side % 2u"),
    mutant("batch_gather_augmented", "no hole", "|| in_hole", ""),
    mutant("batch_gather_augmented", "the hole is where the image moves", "0u, epoch, HOLE", "0u, epoch, AUGMENT"),
    mutant(
        "batch_gather_augmented",
        "channels swapped",
        "(row * W + column) * C + channel",
        "channel * H * W + row * W + column",
    ),
    mutant("batch_gather_augmented", "mixed with the row before", "(r + 1u) % n_valid", "(r + n_valid - 1u) % n_valid"),
    mutant(
        "batch_gather_augmented",
        "the shares swapped",
        "kept * value + (1.0 - kept)",
        "(1.0 - kept) * value + kept",
    ),
    mutant("batch_gather_augmented", "the mixture of another step", "let mix = progress[0] * 5u", "let mix = 0u"),
    mutant(
        "batch_gather_augmented",
        "the rectangle is one column wider",
        "j < mixes[mix + 3u]",
        "j <= mixes[mix + 3u]",
    ),
    mutant("batch_gather_augmented", "rows past the end are not zero", "x[index] = vec4(0.0)", "x[index] = vec4(1.0)"),
    mutant("adam_step", "the next step's size", "progress[0] - 1u", "progress[0]"),
    mutant("adam_step", "epsilon below the root", "(sqrt(second) + vec4(EPSILON))", "sqrt(second + vec4(EPSILON))"),
    mutant(
        "adam_step",
        "the decays swapped",
        "(gradient - m[index]) * ONE_MINUS_BETA_1",
        "(gradient - m[index]) * ONE_MINUS_BETA_2",
    ),
    mutant("adam_step", "biases decay too", "index < DECAYED / 4u", "DECAYED > 0u"),
    mutant("adam_step", "weights do not decay", "index < DECAYED / 4u", "index < 0u"),
    mutant("adam_step", "decay with the size of the step", "rate.y * weight", "rate.x * weight"),
    mutant("adam_step", "the factor of the neighbours", "step_size(4u * index, rate.x)", "step_size(index, rate.x)"),
    mutant("adam_step", "gradients are not clipped", "gradient *= clip[0]", "gradient *= 1.0"),
    mutant("sgd_step", "uphill", "velocity[index] - downhill", "velocity[index] + downhill"),
    mutant("sgd_step", "Nesterov's step without the gradient", "MOMENTUM * change - downhill", "MOMENTUM * change"),
    mutant("sgd_step", "decay of the change", "rate.y * weight", "rate.y * change"),
    mutant("sgd_step", "biases decay too", "index < DECAYED)", "DECAYED > 0u)"),
    mutant("sgd_step", "scales with the factor of shifts", "size * SCALE_FACTOR", "size * SHIFT_FACTOR"),
    mutant("sgd_step", "gradients are not clipped", "gradient *= clip[0]", "gradient *= 1.0"),
    part("clip_factor_parts", "clip_factor", "a wrong stride", ["i += PARTS * LANES", "i += LANES"]),
    part("clip_factor_parts", "clip_factor", "the sum of the gradients", ["sum += g[i] * g[i]", "sum += g[i]"]),
    mutant("clip_factor", "the last part is left out", "lane < PARTS", "lane + 1u < PARTS"),
    mutant(
        "clip_factor",
        "short gradients are lengthened",
        "select(1.0, CLIP_NORM / norm, norm > CLIP_NORM)",
        "CLIP_NORM / norm",
    ),
    mutant("clip_factor", "the square of the norm", "sqrt(sum_of_lanes(part, lane))", "sum_of_lanes(part, lane)"),
    mutant("average_step", "the size of the step", "progress[0] - 1u].z", "progress[0] - 1u].x"),
    mutant("average_step", "the next step's rate", "progress[0] - 1u", "progress[0]"),
    mutant(
        "average_step",
        "the shares swapped",
        "average[index] + rate * (w[index] - average[index])",
        "w[index] + rate * (average[index] - w[index])",
    ),
    mutant("average_step", "jumps without a move", "|| rate == 0.0", ""),
    mutant("average_step", "never jumps", "if (PULLS) { w[index] = moved; }", ""),
    mutant(
        "non_finite",
        "infinities are not found",
        "(x[index] & EXPONENT) == EXPONENT",
        "(x[index] & EXPONENT) == EXPONENT && (x[index] & 0x007fffffu) != 0u",
    ),
    mutant("non_finite", "the last instead of the first", "atomicMin(&found[1], index)", "atomicMax(&found[1], index)"),
];

/// Returns the text of the shader with the mistake, if what it replaces is where it should be.
fn mutated(mutant: &Mutant, spec: &KernelSpec) -> Option<String> {
    let start = spec.source.find(&format!("fn {}(", mutant.entry))?;
    let end = start + spec.source[start..].find("\n}\n")?;
    let [before, body, after] = [&spec.source[..start], &spec.source[start..end], &spec.source[end..]];
    match body.matches(mutant.from).count() {
        0 if spec.source.matches(mutant.from).count() == 1 => Some(spec.source.replace(mutant.from, mutant.to)),
        1 => Some(format!("{before}{}{after}", body.replace(mutant.from, mutant.to))),
        _ => None,
    }
}

fn spec(entry: &str) -> Option<(&'static Op, &'static KernelSpec)> {
    OPS.iter()
        .find_map(|op| op.kernels.iter().find(|kernel| kernel.spec.entry == entry).map(|kernel| (op, kernel.spec)))
}

#[test]
fn every_entry_point_has_a_mutant() {
    let mutated_entries: BTreeSet<&str> = MUTANTS.iter().map(|mutant| mutant.entry).collect();
    let entries: BTreeSet<&str> = OPS.iter().flat_map(|op| op.kernels).map(|kernel| kernel.spec.entry).collect();
    assert_eq!(mutated_entries, entries, "entry points with a mutant, and entry points");
    for mutant in MUTANTS {
        let (_, spec) = spec(mutant.entry).unwrap();
        assert!(mutated(mutant, spec).is_some(), "{}: {}: `{}`", spec.file(), mutant.mistake, mutant.from);
    }
}

/// Runs the proof of each mutant's operation, as the self-test does, and returns those that it does not find.
fn survivors(ops: impl Fn(&str) -> bool) -> Vec<String> {
    gpu();
    let mut survivors = Vec::new();
    for mutant in MUTANTS {
        let (op, spec) = spec(mutant.entry).unwrap();
        if !ops(op.name) {
            continue;
        }
        let text = mutated(mutant, spec).unwrap();
        let gpu =
            Gpu::open(&GpuOptions { mutant: Some((spec.source, text)), ..GpuOptions::default() }).block_on().unwrap();
        let compared = mutant.compared.unwrap_or(mutant.entry);
        let mut verifier = Verifier::new(&gpu, 21).only(compared);
        (op.proof)(&mut verifier).unwrap();
        let found = verifier.verdicts().block_on().unwrap().iter().find(|verdict| verdict.kernel == compared);
        let found = found.unwrap_or_else(|| panic!("`{compared}` is not compared"));
        if found.passed() {
            survivors.push(format!("{}: {}", mutant.entry, mutant.mistake));
        }
    }
    survivors
}

#[test]
fn mutants_of_the_convolution_are_found() {
    assert_eq!(survivors(|op| op == "conv2d"), Vec::<String>::new());
}

#[test]
fn mutants_of_all_other_operations_are_found() {
    assert_eq!(survivors(|op| op != "conv2d"), Vec::<String>::new());
}
