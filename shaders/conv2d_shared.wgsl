// conv2d, in tiles of workgroup memory: the passes of conv2d.wgsl for GPUs. Same formulas and layout; any shape.
// `_pool` also computes the max pooling of pool2d.wgsl; with POOLED, the backward pass undoes it.
//
//   y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, c] * w[p,q,c,o]        (x outside its bounds is 0)
//
// Host: src/ops/conv2d.rs   Mirror: src/cpu/conv2d.rs   Test: tests/conv2d.rs
//
// As a matrix product: rows are positions (backward_w: filter cells), columns are channels. parts/tiles.wgsl explains the
// tiles. Cells outside the operands are staged as zeros; outputs outside are not stored.

override N: u32 = 1u;      // images
override H: u32 = 1u;      // input rows
override W: u32 = 1u;      // input columns
override C: u32 = 1u;      // input channels
override KH: u32 = 1u;     // filter rows
override KW: u32 = 1u;     // filter columns
override O: u32 = 1u;      // output channels
override SH: u32 = 1u;     // vertical stride
override SW: u32 = 1u;     // horizontal stride
override PT: u32 = 0u;     // padding above
override PL: u32 = 0u;     // padding to the left
override HO: u32 = 1u;     // output rows
override WO: u32 = 1u;     // output columns
override RELU: bool = false;          // forward: y = max(y, 0)
override X_IS_RELU: bool = false;     // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override POOLED: bool = false;        // backward: dy is the gradient after 2x2 max pooling, argmax says where it goes
override POSITIONS_PER_PART: u32 = 1u; // backward_w: output positions summed in one part; `_small`: windows, if POOLED

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, H, W, C]
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [KH, KW, C, O]
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, HO, WO, O]; with pooling [N, HO/2, WO/2, O]
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, HO, WO, O]; if POOLED [N, HO/2, WO/2, O]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, H, W, C]
@group(0) @binding(6) var<storage, read_write> dw_parts: array<f32>; // [parts, KH*KW*C + 1, O]; the last row is db
@group(0) @binding(7) var<storage, read> argmax: array<u32>;         // [N, HO/2, WO/2, O] if POOLED, else one element that is not read
@group(0) @binding(8) var<storage, read_write> argmax_out: array<u32>; // [N, HO/2, WO/2, O]; see pool2d.wgsl

// `_small`: the most filter cells, and the sums of one cell.
const MOST_CELLS = 27u;
var<workgroup> sums_of_lanes: array<f32, 256>;

// What an invocation fetches for a round: four or eight rows of one step, and four columns of one step.
struct Fetched { a_0: vec4<f32>, a_1: vec4<f32>, b: vec4<f32> }

// Half of an even size; never 0, so that everything compiles for any size.
fn half(size: u32) -> u32 {
    return max(size / 2u, 1u);
}

// Returns the output position of a row. With pooling, four rows are the four cells of a 2x2 window, so that one
// invocation has the whole window.
fn output_position(row: u32, pooled: bool) -> u32 {
    if (!pooled) { return row; }
    let window = row / 4u;
    let cell = row % 4u;
    let i = window / half(WO) * 2u + cell / 2u;    // counted over all images: HO is even
    let j = window % half(WO) * 2u + cell % 2u;
    return i * WO + j;
}

// x as the left operand of forward: output position, filter cell `k` = (p, q, c).
fn x_cell(position: u32, k: u32) -> f32 {
    // Unsigned: a pixel above or left of the image wraps to a huge number and fails the same test.
    let n = position / (HO * WO);
    let top = position / WO % HO * SH + k / (C * KW) - PT;
    let left = position % WO * SW + k / C % KW - PL;
    if (position >= N * HO * WO || k >= KH * KW * C || top >= H || left >= W) { return 0.0; }
    return x[((n * H + top) * W + left) * C + k % C];
}

// The gradient at an output position; after a pooling it is that of the window, if this position was its maximum.
fn dy_value(n: u32, i: u32, j: u32, o: u32) -> f32 {
    if (!POOLED) { return dy[((n * HO + i) * WO + j) * O + o]; }
    let window = ((n * half(HO) + i / 2u) * half(WO) + j / 2u) * O + o;
    return select(0.0, dy[window], argmax[window] == i * WO + j);
}

// dy as the left operand of backward_x: input position `row`, step `k` = (p, q, o).
fn dy_cell(row: u32, k: u32) -> f32 {
    let bottom = row / W % H + PT - k / (O * KW);
    let right = row % W + PL - k / O % KW;
    // Above or left of the first output the difference wraps; the quotient is then past the last output.
    let i = bottom / SH;
    let j = right / SW;
    if (row >= N * H * W || k >= KH * KW * O || i * SH != bottom || j * SW != right || i >= HO || j >= WO) { return 0.0; }
    return dy_value(row / (H * W), i, j, k % O);
}

// dy as the right operand of backward_w: output position, channel.
fn dy_column(position: u32, o: u32) -> f32 {
    if (o >= O) { return 0.0; }
    return dy_value(position / (HO * WO), position / WO % HO, position % WO, o);
}

// w as the right operand of forward: [KH*KW*C, O] as stored.
fn w_cell(k: u32, o: u32) -> f32 {
    if (k >= KH * KW * C || o >= O) { return 0.0; }
    return w[k * O + o];
}

// w as the right operand of backward_x: step `k` = (p, q, o), column c.
fn w_cell_transposed(k: u32, c: u32) -> f32 {
    if (k >= KH * KW * O || c >= C) { return 0.0; }
    return w[(k / O * C + c) * O + k % O];
}

// -------------------------------------------------------------------------------------------------------- forward

fn x_rows(row: u32, k: u32, pooled: bool) -> vec4<f32> {
    return vec4(
        x_cell(output_position(row, pooled), k), x_cell(output_position(row + 1u, pooled), k),
        x_cell(output_position(row + 2u, pooled), k), x_cell(output_position(row + 3u, pooled), k));
}

fn forward_fetch(first_row: u32, first_column: u32, k: u32, lane: u32, pooled: bool) -> Fetched {
    var next: Fetched;
    // Adjacent invocations take adjacent steps of x and adjacent channels of w, in the order in which they are stored.
    let a_k = k + lane % STEPS;
    let row = first_row + lane / STEPS * 4u;
    next.a_0 = x_rows(row, a_k, pooled);
    if (ROW_QUADS > 16u) { next.a_1 = x_rows(row + 64u, a_k, pooled); }
    let o = first_column + lane % COLUMN_QUADS * 4u;
    let b_k = k + lane / COLUMN_QUADS;
    next.b = vec4(w_cell(b_k, o), w_cell(b_k, o + 1u), w_cell(b_k, o + 2u), w_cell(b_k, o + 3u));
    return next;
}

// Computes the sums of the tile at `first_row` and `first_column`.
fn forward_sums(first_row: u32, first_column: u32, lane: u32, pooled: bool, sums: ptr<function, Sums>) {
    let row_quad = lane / COLUMN_QUADS;
    let column_quad = lane % COLUMN_QUADS;
    var next = forward_fetch(first_row, first_column, 0u, lane, pooled);
    for (var k = 0u; k < KH * KW * C; k += STEPS) {
        tile_a[lane % STEPS * (ROW_QUADS + 1u) + lane / STEPS] = next.a_0;
        if (ROW_QUADS > 16u) { tile_a[lane % STEPS * (ROW_QUADS + 1u) + lane / STEPS + 16u] = next.a_1; }
        if (lane < STEPS * COLUMN_QUADS) { tile_b[row_quad * (COLUMN_QUADS + 1u) + column_quad] = next.b; }
        workgroupBarrier();
        next = forward_fetch(first_row, first_column, k + STEPS, lane, pooled);
        multiply_tiles(row_quad, column_quad, sums);
        workgroupBarrier();
    }
}

fn activated(sum: f32) -> f32 {
    return select(sum, max(sum, 0.0), RELU);
}

@compute @workgroup_size(256)
fn conv2d_forward_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let first_row = tile / tiles(O, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    var sums: Sums;
    forward_sums(first_row, first_column, lane, false, &sums);
    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = first_row + sum_row(lane / COLUMN_QUADS, r);
        for (var c = 0u; c < 4u; c++) {
            let o = first_column + lane % COLUMN_QUADS * 4u + c;
            if (row < N * HO * WO && o < O) { y[row * O + o] = activated(sums[r][c] + b[o]); }
        }
    }
}

@compute @workgroup_size(256)
fn conv2d_forward_shared_pool(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let first_row = tile / tiles(O, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    var sums: Sums;
    forward_sums(first_row, first_column, lane, true, &sums);
    for (var first = 0u; first < ROWS_EACH; first += 4u) {
        let row = first_row + sum_row(lane / COLUMN_QUADS, first);
        for (var c = 0u; c < 4u; c++) {
            let o = first_column + lane % COLUMN_QUADS * 4u + c;
            if (row >= N * HO * WO || o >= O) { continue; }
            // The first of equal cells is the maximum.
            var highest = activated(sums[first][c] + b[o]);
            var cell = 0u;
            for (var r = 1u; r < 4u; r++) {
                let value = activated(sums[first + r][c] + b[o]);
                if (value > highest) {
                    highest = value;
                    cell = r;
                }
            }
            y[row / 4u * O + o] = highest;
            argmax_out[row / 4u * O + o] = output_position(row + cell, true) % (HO * WO);
        }
    }
}

// ------------------------------------------------------------------------------------------------------- backward

fn dy_rows(row: u32, k: u32) -> vec4<f32> {
    return vec4(dy_cell(row, k), dy_cell(row + 1u, k), dy_cell(row + 2u, k), dy_cell(row + 3u, k));
}

fn backward_x_fetch(first_row: u32, first_column: u32, k: u32, lane: u32) -> Fetched {
    var next: Fetched;
    // Adjacent invocations take adjacent steps, in the order in which dy and w are stored.
    let step = k + lane % STEPS;
    let row = first_row + lane / STEPS * 4u;
    next.a_0 = dy_rows(row, step);
    if (ROW_QUADS > 16u) { next.a_1 = dy_rows(row + 64u, step); }
    let c = first_column + lane / STEPS * 4u;
    if (lane / STEPS < COLUMN_QUADS) {
        next.b = vec4(
            w_cell_transposed(step, c), w_cell_transposed(step, c + 1u),
            w_cell_transposed(step, c + 2u), w_cell_transposed(step, c + 3u));
    }
    return next;
}

// Computes tile number `tile` of dx.
fn backward_x_tile(tile: u32, lane: u32) {
    let first_row = tile / tiles(C, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(C, TILE_COLUMNS) * TILE_COLUMNS;
    let row_quad = lane / COLUMN_QUADS;
    let column_quad = lane % COLUMN_QUADS;
    var sums: Sums;
    var next = backward_x_fetch(first_row, first_column, 0u, lane);
    for (var k = 0u; k < KH * KW * O; k += STEPS) {
        tile_a[lane % STEPS * (ROW_QUADS + 1u) + lane / STEPS] = next.a_0;
        if (ROW_QUADS > 16u) { tile_a[lane % STEPS * (ROW_QUADS + 1u) + lane / STEPS + 16u] = next.a_1; }
        if (lane / STEPS < COLUMN_QUADS) { tile_b[lane % STEPS * (COLUMN_QUADS + 1u) + lane / STEPS] = next.b; }
        workgroupBarrier();
        next = backward_x_fetch(first_row, first_column, k + STEPS, lane);
        multiply_tiles(row_quad, column_quad, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = first_row + sum_row(row_quad, r);
        for (var column = 0u; column < 4u; column++) {
            let c = first_column + column_quad * 4u + column;
            if (row < N * H * W && c < C) {
                var value = sums[r][column];
                if (X_IS_RELU) { value = select(0.0, value, x[row * C + c] > 0.0); }
                dx[row * C + c] = value;
            }
        }
    }
}

// x as the left operand of backward_w: the row after the last filter cell sees ones instead of pixels and sums db.
fn x_or_one(position: u32, cell: u32) -> f32 {
    return select(x_cell(position, cell), 1.0, cell == KH * KW * C);
}

fn x_cells(position: u32, cell: u32, end: u32) -> vec4<f32> {
    if (position >= end) { return vec4(0.0); }
    return vec4(x_or_one(position, cell), x_or_one(position, cell + 1u), x_or_one(position, cell + 2u), x_or_one(position, cell + 3u));
}

fn backward_w_fetch(first_row: u32, first_column: u32, position: u32, end: u32, lane: u32) -> Fetched {
    var next: Fetched;
    let cell = first_row + lane % ROW_QUADS * 4u;
    let a_position = position + lane / ROW_QUADS;
    next.a_0 = x_cells(a_position, cell, end);
    if (ROW_QUADS > 16u) { next.a_1 = x_cells(a_position + 256u / ROW_QUADS, cell, end); }
    let o = first_column + lane % COLUMN_QUADS * 4u;
    let b_position = position + lane / COLUMN_QUADS;
    if (b_position < end) {
        next.b = vec4(dy_column(b_position, o), dy_column(b_position, o + 1u), dy_column(b_position, o + 2u), dy_column(b_position, o + 3u));
    }
    return next;
}

// Returns the number of tiles in the parts of dw.
fn backward_w_tiles() -> u32 {
    return tiles(KH * KW * C + 1u, tile_rows()) * tiles(O, TILE_COLUMNS) * tiles(N * HO * WO, POSITIONS_PER_PART);
}

// Computes tile number `tile` of dw_parts.
fn backward_w_tile(tile: u32, lane: u32) {
    let n_rows = KH * KW * C + 1u;
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    let first_row = tile / tiles(O, TILE_COLUMNS) % tiles(n_rows, tile_rows()) * tile_rows();
    let part = tile / (tiles(O, TILE_COLUMNS) * tiles(n_rows, tile_rows()));
    let first = part * POSITIONS_PER_PART;
    let end = min(first + POSITIONS_PER_PART, N * HO * WO);
    let row_quad = lane / COLUMN_QUADS;
    let column_quad = lane % COLUMN_QUADS;
    var sums: Sums;
    var next = backward_w_fetch(first_row, first_column, first, end, lane);
    for (var step = 0u; step < POSITIONS_PER_PART; step += STEPS) {
        tile_a[lane / ROW_QUADS * (ROW_QUADS + 1u) + lane % ROW_QUADS] = next.a_0;
        if (ROW_QUADS > 16u) { tile_a[(lane / ROW_QUADS + 256u / ROW_QUADS) * (ROW_QUADS + 1u) + lane % ROW_QUADS] = next.a_1; }
        if (lane < STEPS * COLUMN_QUADS) { tile_b[row_quad * (COLUMN_QUADS + 1u) + column_quad] = next.b; }
        workgroupBarrier();
        next = backward_w_fetch(first_row, first_column, first + step + STEPS, end, lane);
        multiply_tiles(row_quad, column_quad, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = first_row + sum_row(row_quad, r);
        for (var c = 0u; c < 4u; c++) {
            let o = first_column + column_quad * 4u + c;
            if (row < n_rows && o < O) { dw_parts[(part * n_rows + row) * O + o] = sums[r][c]; }
        }
    }
}

@compute @workgroup_size(256)
fn conv2d_backward_x_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    backward_x_tile(tile_number(group, groups), lane);
}

@compute @workgroup_size(256)
fn conv2d_backward_w_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    if (tile < backward_w_tiles()) { backward_w_tile(tile, lane); }
}

// The gradient of a filter with few cells, which would fill few rows of a tile. An invocation has one channel and sums all cells in registers, over
// some positions of its part; then the workgroup adds up the sums of those that share a channel. After a pooling, only the position in a window that
// was its maximum has a gradient, so there is one step per window.
@compute @workgroup_size(256)
fn conv2d_backward_w_shared_small(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let part = tile / tiles(O, TILE_COLUMNS);
    let o = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS + lane % TILE_COLUMNS;
    let all = N * select(HO * WO, half(HO) * half(WO), POOLED);
    let end = min((part + 1u) * POSITIONS_PER_PART, all);
    var sums: array<f32, MOST_CELLS + 1u>;
    for (var at = part * POSITIONS_PER_PART + lane / TILE_COLUMNS; o < O && at < end; at += 256u / TILE_COLUMNS) {
        let value = dy[at * O + o];
        var position = at;
        if (POOLED) { position = at / (half(HO) * half(WO)) * (HO * WO) + argmax[at * O + o]; }
        for (var cell = 0u; cell <= KH * KW * C; cell++) { sums[cell] += x_or_one(position, cell) * value; }
    }
    for (var cell = 0u; cell <= KH * KW * C; cell++) {
        sums_of_lanes[lane] = sums[cell];
        workgroupBarrier();
        if (lane < TILE_COLUMNS && o < O && part * POSITIONS_PER_PART < all) {
            var sum = 0.0;
            for (var other = lane; other < 256u; other += TILE_COLUMNS) { sum += sums_of_lanes[other]; }
            dw_parts[(part * (KH * KW * C + 1u) + cell) * O + o] = sum;
        }
        workgroupBarrier();
    }
}

// Both gradients: neither depends on the other, and one dispatch costs less than two.
@compute @workgroup_size(256)
fn conv2d_backward_x_and_w_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    if (tile < backward_w_tiles()) {
        backward_w_tile(tile, lane);
    } else {
        backward_x_tile(tile - backward_w_tiles(), lane);
    }
}
