// dense, in tiles of workgroup memory, four values per load: the passes of dense_shared.wgsl if I and O are multiples of
// four. The same sums in the same order.
//
//   y[n,o] = b[o] + sum over i of x[n,i] * w[i,o]
//
// Host: src/ops/dense.rs   Mirror: src/cpu/dense.rs   Test: tests/dense.rs
//
// parts/tiles.wgsl and parts/blocks.wgsl explain tiles and blocks, dense_shared.wgsl the `_parts`. `_gathered_parts` is
// batch_gather.wgsl in the same dispatch: x is the next batch, which it also writes.

override N: u32 = 1u;               // rows, the batch
override I: u32 = 4u;               // inputs, a multiple of four
override O: u32 = 4u;               // outputs, a multiple of four
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override INPUTS_PER_PART: u32 = 4u; // forward_shared_parts: inputs summed in one part, a multiple of four

@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;              // [N, I]
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;              // [I, O]
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;              // [O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;        // [N, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;             // [N, O]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;       // [N, I]
@group(0) @binding(6) var<storage, read_write> dw_by_4: array<vec4<f32>>;       // [I, O]
@group(0) @binding(7) var<storage, read_write> db_by_4: array<vec4<f32>>;       // [O]
@group(0) @binding(8) var<storage, read_write> y_parts_by_4: array<vec4<f32>>;  // [parts, N, O]
@group(0) @binding(9) var<storage, read> images: array<u32>;                    // [samples, I / 4] packed bytes
@group(0) @binding(10) var<storage, read> labels: array<u32>;                   // [samples / 4] packed bytes
@group(0) @binding(11) var<storage, read> order: array<u32>;                    // [samples of the epoch]
@group(0) @binding(12) var<storage, read> progress: array<u32>;                 // [2]: batches done in this epoch, samples of the epoch
@group(0) @binding(13) var<storage, read_write> x_out_by_4: array<vec4<f32>>;   // [N, I]
@group(0) @binding(14) var<storage, read_write> batch_labels: array<u32>;       // [N]

// x for inputs before `end`, a multiple of four.
fn x_values(n: u32, i: u32, end: u32) -> vec4<f32> {
    if (n >= N || i >= end) { return vec4(0.0); }
    return x_by_4[(n * I + i) / 4u];
}

fn w_values(i: u32, o: u32) -> vec4<f32> {
    if (i >= I || o >= O) { return vec4(0.0); }
    return w_by_4[(i * O + o) / 4u];
}

fn dy_values(n: u32, o: u32) -> vec4<f32> {
    if (n >= N || o >= O) { return vec4(0.0); }
    return dy_by_4[(n * O + o) / 4u];
}

// -------------------------------------------------------------------------------------------------------- forward

fn forward_fetch(first_row: u32, first_column: u32, i: u32, end: u32, block: Block) -> mat4x4<f32> {
    if (!is_in_tile(block)) { return mat4x4<f32>(); }
    let step = i + block.step;
    if (block.is_left) {
        let n = first_row + block.quad * 4u;
        return transpose(mat4x4(x_values(n, step, end), x_values(n + 1u, step, end), x_values(n + 2u, step, end), x_values(n + 3u, step, end)));
    }
    return weights(step, first_column + block.quad * 4u);
}

// Four outputs of each of four inputs.
fn weights(step: u32, o: u32) -> mat4x4<f32> {
    return mat4x4(w_values(step, o), w_values(step + 1u, o), w_values(step + 2u, o), w_values(step + 3u, o));
}

// Computes the sums over the inputs from `first` up to, but not including, `end`.
fn forward_sums(first_row: u32, first_column: u32, first: u32, end: u32, lane: u32, sums: ptr<function, Sums>) {
    let block = block_of(lane);
    var next = forward_fetch(first_row, first_column, first, end, block);
    for (var i = first; i < end; i += STEPS) {
        stage(block, next);
        workgroupBarrier();
        next = forward_fetch(first_row, first_column, i + STEPS, end, block);
        multiply_tiles(lane / COLUMN_QUADS, lane % COLUMN_QUADS, sums);
        workgroupBarrier();
    }
}

@compute @workgroup_size(256)
fn dense_forward_shared_by_4(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let first_row = tile / tiles(O, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    var sums: Sums;
    forward_sums(first_row, first_column, 0u, I, lane, &sums);
    let o = first_column + lane % COLUMN_QUADS * 4u;
    for (var r = 0u; r < ROWS_EACH; r++) {
        let n = first_row + sum_row(lane / COLUMN_QUADS, r);
        if (n >= N || o >= O) { continue; }
        let value = sums[r] + b_by_4[o / 4u];
        y_by_4[(n * O + o) / 4u] = select(value, max(value, vec4(0.0)), RELU);
    }
}

fn store_part(part: u32, first_row: u32, first_column: u32, lane: u32, sums: ptr<function, Sums>) {
    let o = first_column + lane % COLUMN_QUADS * 4u;
    for (var r = 0u; r < ROWS_EACH; r++) {
        let n = first_row + sum_row(lane / COLUMN_QUADS, r);
        if (n < N && o < O) { y_parts_by_4[((part * N + n) * O + o) / 4u] = (*sums)[r]; }
    }
}

@compute @workgroup_size(256)
fn dense_forward_shared_by_4_parts(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    let first_row = tile / tiles(O, TILE_COLUMNS) % tiles(N, tile_rows()) * tile_rows();
    let part = tile / (tiles(O, TILE_COLUMNS) * tiles(N, tile_rows()));
    let first = part * INPUTS_PER_PART;
    var sums: Sums;
    forward_sums(first_row, first_column, first, min(first + INPUTS_PER_PART, I), lane, &sums);
    if (first >= I) { return; }
    store_part(part, first_row, first_column, lane, &sums);
}

// A row of the batch: its sample, or no valid one past the end of the epoch.
struct Picked { sample: u32, valid: bool }

fn picked(n: u32) -> Picked {
    let at = progress[0] * N + n;
    let valid = at < progress[1];
    return Picked(order[select(0u, at, valid)], valid);
}

fn gathered_values(n: u32, i: u32, end: u32, writes: bool) -> vec4<f32> {
    if (n >= N || i >= end) { return vec4(0.0); }
    let row = picked(n);
    let packed = select(0u, images[(row.sample * I + i) / 4u], row.valid);
    let values = vec4<f32>((vec4(packed) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u)) / 255.0;
    if (writes) { x_out_by_4[(n * I + i) / 4u] = values; }
    return values;
}

// As forward_fetch. The tiles of the first columns write what they gather.
fn gathered_fetch(first_row: u32, first_column: u32, i: u32, end: u32, block: Block) -> mat4x4<f32> {
    if (!is_in_tile(block)) { return mat4x4<f32>(); }
    let step = i + block.step;
    if (!block.is_left) { return weights(step, first_column + block.quad * 4u); }
    let n = first_row + block.quad * 4u;
    let writes = first_column == 0u;
    return transpose(mat4x4(
        gathered_values(n, step, end, writes), gathered_values(n + 1u, step, end, writes),
        gathered_values(n + 2u, step, end, writes), gathered_values(n + 3u, step, end, writes)
    ));
}

@compute @workgroup_size(256)
fn dense_forward_shared_by_4_gathered_parts(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    let first_row = tile / tiles(O, TILE_COLUMNS) % tiles(N, tile_rows()) * tile_rows();
    let part = tile / (tiles(O, TILE_COLUMNS) * tiles(N, tile_rows()));
    let first = part * INPUTS_PER_PART;
    let end = min(first + INPUTS_PER_PART, I);
    let block = block_of(lane);
    var sums: Sums;
    var next = gathered_fetch(first_row, first_column, first, end, block);
    for (var i = first; i < end; i += STEPS) {
        stage(block, next);
        workgroupBarrier();
        next = gathered_fetch(first_row, first_column, i + STEPS, end, block);
        multiply_tiles(lane / COLUMN_QUADS, lane % COLUMN_QUADS, &sums);
        workgroupBarrier();
    }
    if (first >= I) { return; }
    store_part(part, first_row, first_column, lane, &sums);
    let n = first_row + lane;
    if (part > 0u || first_column > 0u || lane >= tile_rows() || n >= N) { return; }
    let row = picked(n);
    batch_labels[n] = select(0u, (labels[row.sample / 4u] >> (row.sample % 4u * 8u)) & 255u, row.valid);
}

// ------------------------------------------------------------------------------------------------------- backward

fn backward_x_fetch(first_row: u32, first_column: u32, k: u32, block: Block) -> mat4x4<f32> {
    if (!is_in_tile(block)) { return mat4x4<f32>(); }
    let o = k + block.step;
    if (block.is_left) {
        let n = first_row + block.quad * 4u;
        return transpose(mat4x4(dy_values(n, o), dy_values(n + 1u, o), dy_values(n + 2u, o), dy_values(n + 3u, o)));
    }
    let i = first_column + block.quad * 4u;
    return transpose(mat4x4(w_values(i, o), w_values(i + 1u, o), w_values(i + 2u, o), w_values(i + 3u, o)));
}

// Computes tile number `tile` of dx.
fn backward_x_tile(tile: u32, lane: u32) {
    let first_row = tile / tiles(I, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(I, TILE_COLUMNS) * TILE_COLUMNS;
    let block = block_of(lane);
    var sums: Sums;
    var next = backward_x_fetch(first_row, first_column, 0u, block);
    for (var k = 0u; k < O; k += STEPS) {
        stage(block, next);
        workgroupBarrier();
        next = backward_x_fetch(first_row, first_column, k + STEPS, block);
        multiply_tiles(lane / COLUMN_QUADS, lane % COLUMN_QUADS, &sums);
        workgroupBarrier();
    }
    let i = first_column + lane % COLUMN_QUADS * 4u;
    for (var r = 0u; r < ROWS_EACH; r++) {
        let n = first_row + sum_row(lane / COLUMN_QUADS, r);
        if (n >= N || i >= I) { continue; }
        let at = (n * I + i) / 4u;
        var value = sums[r];
        if (X_IS_RELU) { value = select(vec4(0.0), value, x_by_4[at] > vec4(0.0)); }
        dx_by_4[at] = value;
    }
}

// x as the left operand of backward_w: the row after the last input is the bias, whose input is 1.
fn x_or_ones(n: u32, i: u32) -> vec4<f32> {
    if (n < N && i == I) { return vec4(1.0, 0.0, 0.0, 0.0); }
    return x_values(n, i, I);
}

fn backward_w_fetch(first_row: u32, first_column: u32, k: u32, block: Block) -> mat4x4<f32> {
    if (!is_in_tile(block)) { return mat4x4<f32>(); }
    let n = k + block.step;
    if (block.is_left) {
        let i = first_row + block.quad * 4u;
        return mat4x4(x_or_ones(n, i), x_or_ones(n + 1u, i), x_or_ones(n + 2u, i), x_or_ones(n + 3u, i));
    }
    let o = first_column + block.quad * 4u;
    return mat4x4(dy_values(n, o), dy_values(n + 1u, o), dy_values(n + 2u, o), dy_values(n + 3u, o));
}

// Returns the number of tiles of dw and db: db is the row after the last input.
fn backward_w_tiles() -> u32 {
    return tiles(I + 1u, tile_rows()) * tiles(O, TILE_COLUMNS);
}

// Computes tile number `tile` of dw.
fn backward_w_tile(tile: u32, lane: u32) {
    let first_row = tile / tiles(O, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    let block = block_of(lane);
    var sums: Sums;
    var next = backward_w_fetch(first_row, first_column, 0u, block);
    for (var n = 0u; n < N; n += STEPS) {
        stage(block, next);
        workgroupBarrier();
        next = backward_w_fetch(first_row, first_column, n + STEPS, block);
        multiply_tiles(lane / COLUMN_QUADS, lane % COLUMN_QUADS, &sums);
        workgroupBarrier();
    }
    let o = first_column + lane % COLUMN_QUADS * 4u;
    for (var r = 0u; r < ROWS_EACH; r++) {
        let i = first_row + sum_row(lane / COLUMN_QUADS, r);
        if (o >= O) { continue; }
        if (i < I) { dw_by_4[(i * O + o) / 4u] = sums[r]; }
        if (i == I) { db_by_4[o / 4u] = sums[r]; }
    }
}

@compute @workgroup_size(256)
fn dense_backward_x_shared_by_4(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    backward_x_tile(tile_number(group, groups), lane);
}

@compute @workgroup_size(256)
fn dense_backward_w_shared_by_4(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    backward_w_tile(tile_number(group, groups), lane);
}

// Both gradients: neither depends on the other, and one dispatch costs less than two.
@compute @workgroup_size(256)
fn dense_backward_x_and_w_shared_by_4(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    if (tile < backward_w_tiles()) {
        backward_w_tile(tile, lane);
    } else {
        backward_x_tile(tile - backward_w_tiles(), lane);
    }
}
