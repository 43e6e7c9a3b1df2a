// conv2d, in tiles of workgroup memory, four values per load: the passes of conv2d_shared.wgsl if C and O are multiples
// of four. The same sums in the same order.
//
//   y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, c] * w[p,q,c,o]        (x outside its bounds is 0)
//
// Host: src/ops/conv2d.rs   Mirror: src/cpu/conv2d.rs   Test: tests/conv2d.rs
//
// A load with its index takes longer than the multiply-adds that use it, unless it brings four values. Four channels are
// adjacent in memory. Where they are the steps of a sum, four loads make a block that is transposed before it is staged.
// parts/tiles.wgsl and parts/blocks.wgsl explain tiles and blocks.

override N: u32 = 1u;      // images
override H: u32 = 1u;      // input rows
override W: u32 = 1u;      // input columns
override C: u32 = 4u;      // input channels, a multiple of four
override KH: u32 = 1u;     // filter rows
override KW: u32 = 1u;     // filter columns
override O: u32 = 4u;      // output channels, a multiple of four
override SH: u32 = 1u;     // vertical stride
override SW: u32 = 1u;     // horizontal stride
override PT: u32 = 0u;     // padding above
override PL: u32 = 0u;     // padding to the left
override HO: u32 = 1u;     // output rows
override WO: u32 = 1u;     // output columns
override RELU: bool = false;          // forward: y = max(y, 0)
override X_IS_RELU: bool = false;     // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override POOLED: bool = false;        // backward: dy is the gradient after 2x2 max pooling, argmax says where it goes
override POSITIONS_PER_PART: u32 = 1u; // backward_w: output positions summed in one part

@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;              // [N, H, W, C]
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;              // [KH, KW, C, O]
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;              // [O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;        // [N, HO, WO, O]; with pooling [N, HO/2, WO/2, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;             // [N, HO, WO, O]; if POOLED [N, HO/2, WO/2, O]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;       // [N, H, W, C]
@group(0) @binding(6) var<storage, read_write> dw_parts_by_4: array<vec4<f32>>; // [parts, KH*KW*C + 1, O]; the last row is db
@group(0) @binding(7) var<storage, read> argmax_by_4: array<vec4<u32>>;         // [N, HO/2, WO/2, O] if POOLED, else four elements that are not read
@group(0) @binding(8) var<storage, read_write> argmax_out_by_4: array<vec4<u32>>; // [N, HO/2, WO/2, O]; see pool2d.wgsl

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

// x under the filter cells from `k` = (p, q, c) on, for an output position.
fn x_cells(position: u32, k: u32) -> vec4<f32> {
    // Unsigned: a pixel above or left of the image wraps to a huge number and fails the same test.
    let n = position / (HO * WO);
    let top = position / WO % HO * SH + k / (C * KW) - PT;
    let left = position % WO * SW + k / C % KW - PL;
    if (position >= N * HO * WO || k >= KH * KW * C || top >= H || left >= W) { return vec4(0.0); }
    return x_by_4[(((n * H + top) * W + left) * C + k % C) / 4u];
}

// The gradient at an output position, from channel `o` on; after a pooling it is that of the window where this position
// was its maximum.
fn dy_values(n: u32, i: u32, j: u32, o: u32) -> vec4<f32> {
    if (!POOLED) { return dy_by_4[(((n * HO + i) * WO + j) * O + o) / 4u]; }
    let window = (((n * half(HO) + i / 2u) * half(WO) + j / 2u) * O + o) / 4u;
    return select(vec4(0.0), dy_by_4[window], argmax_by_4[window] == vec4(i * WO + j));
}

// dy as the left operand of backward_x: input position `row`, four steps from `k` = (p, q, o).
fn dy_steps(row: u32, k: u32) -> vec4<f32> {
    let bottom = row / W % H + PT - k / (O * KW);
    let right = row % W + PL - k / O % KW;
    // Above or left of the first output the difference wraps; the quotient is then past the last output.
    let i = bottom / SH;
    let j = right / SW;
    if (row >= N * H * W || k >= KH * KW * O || i * SH != bottom || j * SW != right || i >= HO || j >= WO) { return vec4(0.0); }
    return dy_values(row / (H * W), i, j, k % O);
}

// w as the right operand of backward_x: column c, four steps from `k` = (p, q, o).
fn w_steps(k: u32, c: u32) -> vec4<f32> {
    if (k >= KH * KW * O || c >= C) { return vec4(0.0); }
    return w_by_4[((k / O * C + c) * O + k % O) / 4u];
}

// w as the right operand of forward: step k, four columns.
fn w_columns(k: u32, o: u32) -> vec4<f32> {
    if (k >= KH * KW * C || o >= O) { return vec4(0.0); }
    return w_by_4[(k * O + o) / 4u];
}

// -------------------------------------------------------------------------------------------------------- forward

fn forward_fetch(first_row: u32, first_column: u32, k: u32, block: Block, pooled: bool) -> mat4x4<f32> {
    if (!is_in_tile(block)) { return mat4x4<f32>(); }
    let step = k + block.step;
    if (block.is_left) {
        let row = first_row + block.quad * 4u;
        return transpose(mat4x4(
            x_cells(output_position(row, pooled), step), x_cells(output_position(row + 1u, pooled), step),
            x_cells(output_position(row + 2u, pooled), step), x_cells(output_position(row + 3u, pooled), step)));
    }
    let o = first_column + block.quad * 4u;
    return mat4x4(w_columns(step, o), w_columns(step + 1u, o), w_columns(step + 2u, o), w_columns(step + 3u, o));
}

// Computes the sums of the tile at `first_row` and `first_column`.
fn forward_sums(first_row: u32, first_column: u32, lane: u32, pooled: bool, sums: ptr<function, Sums>) {
    let block = block_of(lane);
    var next = forward_fetch(first_row, first_column, 0u, block, pooled);
    for (var k = 0u; k < KH * KW * C; k += STEPS) {
        stage(block, next);
        workgroupBarrier();
        next = forward_fetch(first_row, first_column, k + STEPS, block, pooled);
        multiply_tiles(lane / COLUMN_QUADS, lane % COLUMN_QUADS, sums);
        workgroupBarrier();
    }
}

fn activated(sum: vec4<f32>) -> vec4<f32> {
    return select(sum, max(sum, vec4(0.0)), RELU);
}

@compute @workgroup_size(256)
fn conv2d_forward_shared_by_4(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let first_row = tile / tiles(O, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    var sums: Sums;
    forward_sums(first_row, first_column, lane, false, &sums);
    let o = first_column + lane % COLUMN_QUADS * 4u;
    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = first_row + sum_row(lane / COLUMN_QUADS, r);
        if (row < N * HO * WO && o < O) { y_by_4[(row * O + o) / 4u] = activated(sums[r] + b_by_4[o / 4u]); }
    }
}

@compute @workgroup_size(256)
fn conv2d_forward_shared_by_4_pool(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    let first_row = tile / tiles(O, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(O, TILE_COLUMNS) * TILE_COLUMNS;
    var sums: Sums;
    forward_sums(first_row, first_column, lane, true, &sums);
    let o = first_column + lane % COLUMN_QUADS * 4u;
    for (var first = 0u; first < ROWS_EACH; first += 4u) {
        let row = first_row + sum_row(lane / COLUMN_QUADS, first);
        if (row >= N * HO * WO || o >= O) { continue; }
        let bias = b_by_4[o / 4u];
        // The first of equal cells is the maximum.
        var highest = activated(sums[first] + bias);
        var cell = vec4(0u);
        for (var r = 1u; r < 4u; r++) {
            let value = activated(sums[first + r] + bias);
            cell = select(cell, vec4(r), value > highest);
            highest = select(highest, value, value > highest);
        }
        y_by_4[(row / 4u * O + o) / 4u] = highest;
        let top_left = output_position(row, true) % (HO * WO);
        argmax_out_by_4[(row / 4u * O + o) / 4u] = top_left + cell / 2u * WO + cell % 2u;
    }
}

// ------------------------------------------------------------------------------------------------------- backward

fn backward_x_fetch(first_row: u32, first_column: u32, k: u32, block: Block) -> mat4x4<f32> {
    if (!is_in_tile(block)) { return mat4x4<f32>(); }
    let step = k + block.step;
    if (block.is_left) {
        let row = first_row + block.quad * 4u;
        return transpose(mat4x4(dy_steps(row, step), dy_steps(row + 1u, step), dy_steps(row + 2u, step), dy_steps(row + 3u, step)));
    }
    let c = first_column + block.quad * 4u;
    return transpose(mat4x4(w_steps(step, c), w_steps(step, c + 1u), w_steps(step, c + 2u), w_steps(step, c + 3u)));
}

// Computes tile number `tile` of dx.
fn backward_x_tile(tile: u32, lane: u32) {
    let first_row = tile / tiles(C, TILE_COLUMNS) * tile_rows();
    let first_column = tile % tiles(C, TILE_COLUMNS) * TILE_COLUMNS;
    let block = block_of(lane);
    var sums: Sums;
    var next = backward_x_fetch(first_row, first_column, 0u, block);
    for (var k = 0u; k < KH * KW * O; k += STEPS) {
        stage(block, next);
        workgroupBarrier();
        next = backward_x_fetch(first_row, first_column, k + STEPS, block);
        multiply_tiles(lane / COLUMN_QUADS, lane % COLUMN_QUADS, &sums);
        workgroupBarrier();
    }
    let c = first_column + lane % COLUMN_QUADS * 4u;
    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = first_row + sum_row(lane / COLUMN_QUADS, r);
        if (row >= N * H * W || c >= C) { continue; }
        let at = (row * C + c) / 4u;
        var value = sums[r];
        if (X_IS_RELU) { value = select(vec4(0.0), value, x_by_4[at] > vec4(0.0)); }
        dx_by_4[at] = value;
    }
}

// x as the left operand of backward_w: one position, four filter cells. The row after the last cell sees ones instead of
// pixels and sums db.
fn x_or_ones(position: u32, cell: u32, end: u32) -> vec4<f32> {
    if (position >= end) { return vec4(0.0); }
    if (cell == KH * KW * C) { return vec4(1.0, 0.0, 0.0, 0.0); }
    return x_cells(position, cell);
}

// dy as the right operand of backward_w: one position, four columns.
fn dy_columns(position: u32, o: u32, end: u32) -> vec4<f32> {
    if (position >= end || o >= O) { return vec4(0.0); }
    return dy_values(position / (HO * WO), position / WO % HO, position % WO, o);
}

fn backward_w_fetch(first_row: u32, first_column: u32, position: u32, end: u32, block: Block) -> mat4x4<f32> {
    if (!is_in_tile(block)) { return mat4x4<f32>(); }
    let step = position + block.step;
    if (block.is_left) {
        let cell = first_row + block.quad * 4u;
        return mat4x4(x_or_ones(step, cell, end), x_or_ones(step + 1u, cell, end), x_or_ones(step + 2u, cell, end), x_or_ones(step + 3u, cell, end));
    }
    let o = first_column + block.quad * 4u;
    return mat4x4(dy_columns(step, o, end), dy_columns(step + 1u, o, end), dy_columns(step + 2u, o, end), dy_columns(step + 3u, o, end));
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
    let block = block_of(lane);
    var sums: Sums;
    var next = backward_w_fetch(first_row, first_column, first, end, block);
    for (var step = 0u; step < POSITIONS_PER_PART; step += STEPS) {
        stage(block, next);
        workgroupBarrier();
        next = backward_w_fetch(first_row, first_column, first + step + STEPS, end, block);
        multiply_tiles(lane / COLUMN_QUADS, lane % COLUMN_QUADS, &sums);
        workgroupBarrier();
    }
    let o = first_column + lane % COLUMN_QUADS * 4u;
    for (var r = 0u; r < ROWS_EACH; r++) {
        let row = first_row + sum_row(lane / COLUMN_QUADS, r);
        if (row < n_rows && o < O) { dw_parts_by_4[((part * n_rows + row) * O + o) / 4u] = sums[r]; }
    }
}

@compute @workgroup_size(256)
fn conv2d_backward_x_shared_by_4(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    backward_x_tile(tile_number(group, groups), lane);
}

@compute @workgroup_size(256)
fn conv2d_backward_w_shared_by_4(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    if (tile < backward_w_tiles()) { backward_w_tile(tile, lane); }
}

// Both gradients: neither depends on the other, and one dispatch costs less than two.
@compute @workgroup_size(256)
fn conv2d_backward_x_and_w_shared_by_4(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let tile = tile_number(group, groups);
    if (tile < backward_w_tiles()) {
        backward_w_tile(tile, lane);
    } else {
        backward_x_tile(tile - backward_w_tiles(), lane);
    }
}
