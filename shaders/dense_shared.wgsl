// dense, in tiles of workgroup memory: the passes of dense.wgsl for GPUs. Same formulas and layout; any shape.
//
//   y[n,o] = b[o] + sum over i of x[n,i] * w[i,o]
//
// Host: src/ops/dense.rs   Mirror: src/cpu/dense.rs   Test: tests/dense.rs
//
// parts/tiles.wgsl explains how such a tile works. A batch has few rows, and a first layer has many inputs: one tile
// would process all of them while the rest of the GPU waits. So in `_parts`, each workgroup sums a range of the inputs;
// dense_forward_sum adds up the parts.

override N: u32 = 1u;               // rows, the batch
override I: u32 = 1u;               // inputs
override O: u32 = 1u;               // outputs
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override INPUTS_PER_PART: u32 = 1u; // forward_shared_parts: inputs summed in one part

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, I]
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [I, O]
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, O]
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, O]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, I]
@group(0) @binding(6) var<storage, read_write> dw: array<f32>;       // [I, O]
@group(0) @binding(7) var<storage, read_write> db: array<f32>;       // [O]
@group(0) @binding(8) var<storage, read_write> y_parts: array<f32>;  // [parts, N, O]

// What an invocation fetches for a round: four or eight rows of one step, and four columns of one step.
struct Fetched { a_0: vec4<f32>, a_1: vec4<f32>, b: vec4<f32> }

fn w_cell(i: u32, o: u32) -> f32 {
    if (i >= I || o >= O) { return 0.0; }
    return w[i * O + o];
}

fn dy_cell(n: u32, o: u32) -> f32 {
    if (n >= N || o >= O) { return 0.0; }
    return dy[n * O + o];
}

// x as the left operand of forward, for inputs before `end`.
fn x_cell(n: u32, i: u32, end: u32) -> f32 {
    if (n >= N || i >= end) { return 0.0; }
    return x[n * I + i];
}

// x as the left operand of backward_w: the row after the last input is the bias, whose input is 1.
fn x_or_one(n: u32, i: u32) -> f32 {
    return select(x_cell(n, i, I), 1.0, i == I && n < N);
}

// -------------------------------------------------------------------------------------------------------- forward

fn x_rows(n: u32, i: u32, end: u32) -> vec4<f32> {
    return vec4(x_cell(n, i, end), x_cell(n + 1u, i, end), x_cell(n + 2u, i, end), x_cell(n + 3u, i, end));
}

fn forward_fetch(first_row: u32, first_column: u32, i: u32, end: u32, lane: u32) -> Fetched {
    var next: Fetched;
    // Adjacent invocations take adjacent inputs of x and adjacent outputs of w, in the order in which they are stored.
    let n = first_row + lane / STEPS * 4u;
    next.a_0 = x_rows(n, i + lane % STEPS, end);
    if (ROW_QUADS > 16u) { next.a_1 = x_rows(n + 64u, i + lane % STEPS, end); }
    let o = first_column + lane % COLUMN_QUADS * 4u;
    let b_i = i + lane / COLUMN_QUADS;
    next.b = vec4(w_cell(b_i, o), w_cell(b_i, o + 1u), w_cell(b_i, o + 2u), w_cell(b_i, o + 3u));
    return next;
}

// Computes the sums over the inputs from `first` up to, but not including, `end`.
fn forward_sums(first_row: u32, first_column: u32, first: u32, end: u32, lane: u32, sums: ptr<function, Sums>) {
    let row_quad = lane / COLUMN_QUADS;
    let column_quad = lane % COLUMN_QUADS;
    var next = forward_fetch(first_row, first_column, first, end, lane);
    for (var i = first; i < end; i += STEPS) {
        tile_a[lane % STEPS * (ROW_QUADS + 1u) + lane / STEPS] = next.a_0;
        if (ROW_QUADS > 16u) { tile_a[lane % STEPS * (ROW_QUADS + 1u) + lane / STEPS + 16u] = next.a_1; }
        if (lane < STEPS * COLUMN_QUADS) { tile_b[row_quad * (COLUMN_QUADS + 1u) + column_quad] = next.b; }
        workgroupBarrier();
        next = forward_fetch(first_row, first_column, i + STEPS, end, lane);
        multiply_tiles(row_quad, column_quad, sums);
        workgroupBarrier();
    }
}

@compute @workgroup_size(256)
fn dense_forward_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let first_row = tile / tiles(O, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    var sums: Sums;
    forward_sums(first_row, first_column, 0u, I, lane, &sums);
    for (var r = 0u; r < ROWS_EACH; r++) {
        let n = first_row + sum_row(lane / COLUMN_QUADS, r);
        for (var c = 0u; c < 4u; c++) {
            let o = first_column + lane % COLUMN_QUADS * 4u + c;
            if (n < N && o < O) {
                let value = sums[r][c] + b[o];
                y[n * O + o] = select(value, max(value, 0.0), RELU);
            }
        }
    }
}

@compute @workgroup_size(256)
fn dense_forward_shared_parts(
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
    for (var r = 0u; r < ROWS_EACH; r++) {
        let n = first_row + sum_row(lane / COLUMN_QUADS, r);
        for (var c = 0u; c < 4u; c++) {
            let o = first_column + lane % COLUMN_QUADS * 4u + c;
            if (n < N && o < O) { y_parts[(part * N + n) * O + o] = sums[r][c]; }
        }
    }
}

// ------------------------------------------------------------------------------------------------------- backward

fn dy_rows(n: u32, o: u32) -> vec4<f32> {
    return vec4(dy_cell(n, o), dy_cell(n + 1u, o), dy_cell(n + 2u, o), dy_cell(n + 3u, o));
}

fn backward_x_fetch(first_row: u32, first_column: u32, k: u32, lane: u32) -> Fetched {
    var next: Fetched;
    // Adjacent invocations take adjacent outputs, in the order in which dy and w are stored.
    let o = k + lane % STEPS;
    let n = first_row + lane / STEPS * 4u;
    next.a_0 = dy_rows(n, o);
    if (ROW_QUADS > 16u) { next.a_1 = dy_rows(n + 64u, o); }
    let i = first_column + lane / STEPS * 4u;
    if (lane / STEPS < COLUMN_QUADS) { next.b = vec4(w_cell(i, o), w_cell(i + 1u, o), w_cell(i + 2u, o), w_cell(i + 3u, o)); }
    return next;
}

// Computes tile number `tile` of dx.
fn backward_x_tile(tile: u32, lane: u32) {
    let first_row = tile / tiles(I, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(I, TILE_COLUMNS) * TILE_COLUMNS;
    let row_quad = lane / COLUMN_QUADS;
    let column_quad = lane % COLUMN_QUADS;
    var sums: Sums;
    var next = backward_x_fetch(first_row, first_column, 0u, lane);
    for (var k = 0u; k < O; k += STEPS) {
        tile_a[lane % STEPS * (ROW_QUADS + 1u) + lane / STEPS] = next.a_0;
        if (ROW_QUADS > 16u) { tile_a[lane % STEPS * (ROW_QUADS + 1u) + lane / STEPS + 16u] = next.a_1; }
        if (lane / STEPS < COLUMN_QUADS) { tile_b[lane % STEPS * (COLUMN_QUADS + 1u) + lane / STEPS] = next.b; }
        workgroupBarrier();
        next = backward_x_fetch(first_row, first_column, k + STEPS, lane);
        multiply_tiles(row_quad, column_quad, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS_EACH; r++) {
        let n = first_row + sum_row(row_quad, r);
        for (var c = 0u; c < 4u; c++) {
            let i = first_column + column_quad * 4u + c;
            if (n < N && i < I) {
                var value = sums[r][c];
                if (X_IS_RELU) { value = select(0.0, value, x[n * I + i] > 0.0); }
                dx[n * I + i] = value;
            }
        }
    }
}

fn inputs_or_one(n: u32, i: u32) -> vec4<f32> {
    return vec4(x_or_one(n, i), x_or_one(n, i + 1u), x_or_one(n, i + 2u), x_or_one(n, i + 3u));
}

fn backward_w_fetch(first_row: u32, first_column: u32, n: u32, lane: u32) -> Fetched {
    var next: Fetched;
    let i = first_row + lane % ROW_QUADS * 4u;
    next.a_0 = inputs_or_one(n + lane / ROW_QUADS, i);
    if (ROW_QUADS > 16u) { next.a_1 = inputs_or_one(n + lane / ROW_QUADS + 256u / ROW_QUADS, i); }
    let o = first_column + lane % COLUMN_QUADS * 4u;
    let b_n = n + lane / COLUMN_QUADS;
    next.b = vec4(dy_cell(b_n, o), dy_cell(b_n, o + 1u), dy_cell(b_n, o + 2u), dy_cell(b_n, o + 3u));
    return next;
}

// Returns the number of tiles of dw and db: db is the row after the last input.
fn backward_w_tiles() -> u32 {
    return tiles(I + 1u, tile_rows()) * tiles(O, TILE_COLUMNS);
}

// Computes tile number `tile` of dw.
fn backward_w_tile(tile: u32, lane: u32) {
    let first_row = tile / tiles(O, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    let row_quad = lane / COLUMN_QUADS;
    let column_quad = lane % COLUMN_QUADS;
    var sums: Sums;
    var next = backward_w_fetch(first_row, first_column, 0u, lane);
    for (var n = 0u; n < N; n += STEPS) {
        tile_a[lane / ROW_QUADS * (ROW_QUADS + 1u) + lane % ROW_QUADS] = next.a_0;
        if (ROW_QUADS > 16u) { tile_a[(lane / ROW_QUADS + 256u / ROW_QUADS) * (ROW_QUADS + 1u) + lane % ROW_QUADS] = next.a_1; }
        if (lane < STEPS * COLUMN_QUADS) { tile_b[row_quad * (COLUMN_QUADS + 1u) + column_quad] = next.b; }
        workgroupBarrier();
        next = backward_w_fetch(first_row, first_column, n + STEPS, lane);
        multiply_tiles(row_quad, column_quad, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS_EACH; r++) {
        let i = first_row + sum_row(row_quad, r);
        for (var c = 0u; c < 4u; c++) {
            let o = first_column + column_quad * 4u + c;
            if (o >= O) { continue; }
            if (i < I) { dw[i * O + o] = sums[r][c]; }
            if (i == I) { db[o] = sums[r][c]; }
        }
    }
}

@compute @workgroup_size(256)
fn dense_backward_x_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    backward_x_tile(tile_number(group, groups), lane);
}

@compute @workgroup_size(256)
fn dense_backward_w_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    backward_w_tile(tile_number(group, groups), lane);
}

// Both gradients: neither depends on the other, and one dispatch costs less than two.
@compute @workgroup_size(256)
fn dense_backward_x_and_w_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    if (tile < backward_w_tiles()) {
        backward_w_tile(tile, lane);
    } else {
        backward_x_tile(tile - backward_w_tiles(), lane);
    }
}
