// conv2d, in subgroup tiles: the passes of conv2d.wgsl for software adapters. Same formulas and layout; the entry
// points `_pool` also compute the max pooling of pool2d.wgsl.
//
//   y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, c] * w[p,q,c,o]        (x outside its bounds is 0)
//
// Host: src/ops/conv2d.rs   Mirror: src/cpu/conv2d.rs   Test: tests/conv2d.rs
// Above 500 lines: all passes over the same tiles; forward and backward_w also where C is not a multiple of four.
//
// On such an adapter (lavapipe), the invocations of a subgroup are the lanes of one vector register. A load processes
// the lanes one by one, and costs as much as ninety multiply-adds whether the lanes read the same address or not (27 ns
// for a vec4 on Mesa 22.3; 20 to 30 on 25.0). Broadcasting a value from one lane to all others is one instruction. So
// nothing is loaded twice: a workgroup is one subgroup, each lane loads its own rows of the left operand and its own
// columns of the right one, four values at a time, and the lanes broadcast their rows to each other. 18 GFLOP/s without
// this, 43 with it (second layer of the CNN, batch 32, two cores, Mesa 22.3).
//
// As a matrix product: rows are positions (backward_w: filter cells), columns are channels. A workgroup computes 4
// LANES rows (of cells: 8 LANES) by 4 LANES columns; twice as many rows would halve the loads of w, but lose more
// because the sums would no longer fit into registers. The loads of a round come before its sums, weights first: 4.5
// instead of 7.7 ms on Mesa 25.0.
//
// Rows and columns past the end repeat the last ones. Such columns are not stored; such rows are stored again with the
// same values, because a branch around each store costs seconds of compile time. C and O must be multiples of 4; for
// the entry points `_any`, only O. This is a separate file because a device without subgroup operations must not even
// parse it.

override N: u32 = 1u;      // images
override H: u32 = 1u;      // input rows
override W: u32 = 1u;      // input columns
override C: u32 = 4u;      // input channels
override KH: u32 = 1u;     // filter rows
override KW: u32 = 1u;     // filter columns
override O: u32 = 4u;      // output channels
override SH: u32 = 1u;     // vertical stride
override SW: u32 = 1u;     // horizontal stride
override PT: u32 = 0u;     // padding above
override PL: u32 = 0u;     // padding to the left
override HO: u32 = 1u;     // output rows
override WO: u32 = 1u;     // output columns
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override IMAGES_PER_PART: u32 = 1u; // backward_w: images summed in one part
override LANES: u32 = 8u;           // 8 or 4: invocations per workgroup, at most the size of a subgroup

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, H, W, C]
@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;   // the same, four channels at once
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;   // [KH, KW, C, O] four output channels at once
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;   // [O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;        // [N, HO, WO, O]; with pooling [N, HO/2, WO/2, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;  // [N, HO, WO, O]; after a pooling [N, HO/2, WO/2, O]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;       // [N, H, W, C]
@group(0) @binding(6) var<storage, read_write> dw_parts_by_4: array<vec4<f32>>; // [parts, KH*KW*C + 1, O]; the last row is db
@group(0) @binding(7) var<storage, read> argmax_by_4: array<vec4<u32>>;         // [N, HO/2, WO/2, O]; see pool2d.wgsl
@group(0) @binding(8) var<storage, read_write> argmax_out_by_4: array<vec4<u32>>; // [N, HO/2, WO/2, O]

// LANES rows by four columns per lane.
alias Sums = array<vec4<f32>, 8>;

// sums += (x of every lane) times (w of this lane). Unrolled, so that the sums are in registers.
fn add(sums: ptr<function, Sums>, x: f32, w: vec4<f32>) {
    (*sums)[0] += subgroupBroadcast(x, 0u) * w;
    (*sums)[1] += subgroupBroadcast(x, 1u) * w;
    (*sums)[2] += subgroupBroadcast(x, 2u) * w;
    (*sums)[3] += subgroupBroadcast(x, 3u) * w;
    if (LANES > 4u) {
        (*sums)[4] += subgroupBroadcast(x, 4u) * w;
        (*sums)[5] += subgroupBroadcast(x, 5u) * w;
        (*sums)[6] += subgroupBroadcast(x, 6u) * w;
        (*sums)[7] += subgroupBroadcast(x, 7u) * w;
    }
}

// The same for four steps of the inner dimension: x has one of each, w has a row of each.
fn add_4(sums: ptr<function, Sums>, x: vec4<f32>, w_0: vec4<f32>, w_1: vec4<f32>, w_2: vec4<f32>, w_3: vec4<f32>) {
    add(sums, x.x, w_0);
    add(sums, x.y, w_1);
    add(sums, x.z, w_2);
    add(sums, x.w, w_3);
}

// A row of the left operand: where its values start, and whether they count (otherwise they are 0).
struct Source { inside: bool, base: u32 }

// Returns the output position of a row. With pooling, four rows are the four cells of a 2x2 window, so that a window is
// in one tile.
fn output_position(row: u32, pooled: bool) -> u32 {
    if (!pooled) { return min(row, N * HO * WO - 1u); }
    let window = min(row / 4u, N * HO * WO / 4u - 1u);
    let cell = row % 4u;
    let i = window / half(WO) * 2u + cell / 2u;    // counted over all images: HO is even
    let j = window % half(WO) * 2u + cell % 2u;
    return i * WO + j;
}

// Half of an even size; never 0, so that the entry points without pooling compile for any size.
fn half(size: u32) -> u32 {
    return max(size / 2u, 1u);
}

// An output position under filter cell (p, q): the pixel of x.
fn x_source(position: u32, p: u32, q: u32) -> Source {
    // Unsigned: a pixel above or left of the image wraps to a huge number and fails the same test.
    let top = position / WO % HO * SH + p - PT;
    let left = position % WO * SW + q - PL;
    let inside = top < H && left < W;
    return Source(inside, select(0u, ((position / (HO * WO) * H + top) * W + left) * C, inside));
}

// Input position `row` under filter cell (p, q): the output that used it.
fn dy_source(row: u32, p: u32, q: u32) -> Source {
    let position = min(row, N * H * W - 1u);
    let bottom = position / W % H + PT - p;
    let right = position % W + PL - q;
    // Above or left of the first output the difference wraps; the quotient is then past the last output.
    let i = bottom / SH;
    let j = right / SW;
    let inside = i * SH == bottom && j * SW == right && i < HO && j < WO;
    return Source(inside, select(0u, ((position / (H * W) * HO + i) * WO + j) * O, inside));
}

fn x_value(source: Source, c: u32) -> f32 {
    return select(0.0, x[source.base + c], source.inside);
}

fn x_value_by_4(source: Source, c: u32) -> vec4<f32> {
    return select(vec4(0.0), x_by_4[source.base / 4u + c], source.inside);
}

fn dy_value_by_4(source: Source, o: u32) -> vec4<f32> {
    return select(vec4(0.0), dy_by_4[source.base / 4u + o], source.inside);
}

// Adds the products of four blocks of LANES rows to their sums.
fn forward_sums(
    row: u32, lane: u32, quad: u32, pooled: bool,
    sum_0: ptr<function, Sums>, sum_1: ptr<function, Sums>, sum_2: ptr<function, Sums>, sum_3: ptr<function, Sums>
) {
    let position_0 = output_position(row + 0u * LANES + lane, pooled);
    let position_1 = output_position(row + 1u * LANES + lane, pooled);
    let position_2 = output_position(row + 2u * LANES + lane, pooled);
    let position_3 = output_position(row + 3u * LANES + lane, pooled);
    for (var p = 0u; p < KH; p++) {
        for (var q = 0u; q < KW; q++) {
            let x_0 = x_source(position_0, p, q);
            let x_1 = x_source(position_1, p, q);
            let x_2 = x_source(position_2, p, q);
            let x_3 = x_source(position_3, p, q);
            let w_row = (p * KW + q) * C;
            for (var c = 0u; c < C / 4u; c++) {
                let w_0 = w_by_4[(w_row + c * 4u + 0u) * (O / 4u) + quad];
                let w_1 = w_by_4[(w_row + c * 4u + 1u) * (O / 4u) + quad];
                let w_2 = w_by_4[(w_row + c * 4u + 2u) * (O / 4u) + quad];
                let w_3 = w_by_4[(w_row + c * 4u + 3u) * (O / 4u) + quad];
                let value_0 = x_value_by_4(x_0, c);
                let value_1 = x_value_by_4(x_1, c);
                let value_2 = x_value_by_4(x_2, c);
                let value_3 = x_value_by_4(x_3, c);
                add_4(sum_0, value_0, w_0, w_1, w_2, w_3);
                add_4(sum_1, value_1, w_0, w_1, w_2, w_3);
                add_4(sum_2, value_2, w_0, w_1, w_2, w_3);
                add_4(sum_3, value_3, w_0, w_1, w_2, w_3);
            }
        }
    }
}

@compute @workgroup_size(LANES)
fn conv2d_forward_subgroup(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32
) {
    let row = (group.z * groups.x + group.x) * 4u * LANES;
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    var sum_0 = filled(b_by_4[quad]);
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    forward_sums(row, lane, quad, false, &sum_0, &sum_1, &sum_2, &sum_3);
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_y(row + 0u * LANES, quad, &sum_0);
    store_y(row + 1u * LANES, quad, &sum_1);
    store_y(row + 2u * LANES, quad, &sum_2);
    store_y(row + 3u * LANES, quad, &sum_3);
}

// The same, followed by ReLU and max pooling in 2x2 windows with stride 2: four times fewer stores. HO and WO are even.
@compute @workgroup_size(LANES)
fn conv2d_forward_subgroup_pool(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32
) {
    let row = (group.z * groups.x + group.x) * 4u * LANES;
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    var sum_0 = filled(b_by_4[quad]);
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    forward_sums(row, lane, quad, true, &sum_0, &sum_1, &sum_2, &sum_3);
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_pooled(row + 0u * LANES, quad, &sum_0);
    store_pooled(row + 1u * LANES, quad, &sum_1);
    store_pooled(row + 2u * LANES, quad, &sum_2);
    store_pooled(row + 3u * LANES, quad, &sum_3);
}

// The same, if C is not a multiple of 4.
fn forward_sums_any(
    row: u32, lane: u32, quad: u32, pooled: bool,
    sum_0: ptr<function, Sums>, sum_1: ptr<function, Sums>, sum_2: ptr<function, Sums>, sum_3: ptr<function, Sums>
) {
    let position_0 = output_position(row + 0u * LANES + lane, pooled);
    let position_1 = output_position(row + 1u * LANES + lane, pooled);
    let position_2 = output_position(row + 2u * LANES + lane, pooled);
    let position_3 = output_position(row + 3u * LANES + lane, pooled);
    for (var p = 0u; p < KH; p++) {
        for (var q = 0u; q < KW; q++) {
            let x_0 = x_source(position_0, p, q);
            let x_1 = x_source(position_1, p, q);
            let x_2 = x_source(position_2, p, q);
            let x_3 = x_source(position_3, p, q);
            let w_row = (p * KW + q) * C;
            for (var c = 0u; c < C; c++) {
                let w_0 = w_by_4[(w_row + c) * (O / 4u) + quad];
                let value_0 = x_value(x_0, c);
                let value_1 = x_value(x_1, c);
                let value_2 = x_value(x_2, c);
                let value_3 = x_value(x_3, c);
                add(sum_0, value_0, w_0);
                add(sum_1, value_1, w_0);
                add(sum_2, value_2, w_0);
                add(sum_3, value_3, w_0);
            }
        }
    }
}

@compute @workgroup_size(LANES)
fn conv2d_forward_subgroup_any(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32
) {
    let row = (group.z * groups.x + group.x) * 4u * LANES;
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    var sum_0 = filled(b_by_4[quad]);
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    forward_sums_any(row, lane, quad, false, &sum_0, &sum_1, &sum_2, &sum_3);
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_y(row + 0u * LANES, quad, &sum_0);
    store_y(row + 1u * LANES, quad, &sum_1);
    store_y(row + 2u * LANES, quad, &sum_2);
    store_y(row + 3u * LANES, quad, &sum_3);
}

// The same, followed by ReLU and max pooling in 2x2 windows with stride 2: four times fewer stores. HO and WO are even.
@compute @workgroup_size(LANES)
fn conv2d_forward_subgroup_any_pool(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32
) {
    let row = (group.z * groups.x + group.x) * 4u * LANES;
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    var sum_0 = filled(b_by_4[quad]);
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    forward_sums_any(row, lane, quad, true, &sum_0, &sum_1, &sum_2, &sum_3);
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_pooled(row + 0u * LANES, quad, &sum_0);
    store_pooled(row + 1u * LANES, quad, &sum_1);
    store_pooled(row + 2u * LANES, quad, &sum_2);
    store_pooled(row + 3u * LANES, quad, &sum_3);
}

fn filled(value: vec4<f32>) -> Sums {
    return Sums(value, value, value, value, value, value, value, value);
}

fn store_y(row: u32, quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < LANES; k++) {
        y_by_4[min(row + k, N * HO * WO - 1u) * (O / 4u) + quad] = rectified((*sums)[k]);
    }
}

// Stores the largest of each four rows and its position in the image, the first one on ties.
fn store_pooled(row: u32, quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < LANES / 4u; k++) {
        let window = min(row / 4u + k, N * HO * WO / 4u - 1u);
        // With `>` instead of max(), which may lose a NaN.
        var best = rectified((*sums)[4u * k]);
        var cell = vec4(0u);
        let value_1 = rectified((*sums)[4u * k + 1u]);
        let better_1 = value_1 > best;
        best = select(best, value_1, better_1);
        cell = select(cell, vec4(1u), better_1);
        let value_2 = rectified((*sums)[4u * k + 2u]);
        let better_2 = value_2 > best;
        best = select(best, value_2, better_2);
        cell = select(cell, vec4(2u), better_2);
        let value_3 = rectified((*sums)[4u * k + 3u]);
        let better_3 = value_3 > best;
        best = select(best, value_3, better_3);
        cell = select(cell, vec4(3u), better_3);
        let i = window / half(WO) % half(HO) * 2u;
        let j = window % half(WO) * 2u;
        y_by_4[window * (O / 4u) + quad] = best;
        argmax_out_by_4[window * (O / 4u) + quad] = (i + cell / 2u) * WO + j + cell % 2u;
    }
}

fn rectified(value: vec4<f32>) -> vec4<f32> {
    return select(value, max(value, vec4(0.0)), RELU);
}

@compute @workgroup_size(LANES)
fn conv2d_backward_x_subgroup(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32
) {
    let row = (group.z * groups.x + group.x) * 4u * LANES;
    let quad = min(group.y * LANES + lane, C / 4u - 1u);
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    for (var p = 0u; p < KH; p++) {
        for (var q = 0u; q < KW; q++) {
            let dy_0 = dy_source(row + 0u * LANES + lane, p, q);
            let dy_1 = dy_source(row + 1u * LANES + lane, p, q);
            let dy_2 = dy_source(row + 2u * LANES + lane, p, q);
            let dy_3 = dy_source(row + 3u * LANES + lane, p, q);
            let w_row = (p * KW + q) * C + quad * 4u;
            for (var o = 0u; o < O / 4u; o++) {
                // Four input channels by four output channels, transposed so that w_0 is four inputs of the first
                // output.
                let w = transpose(mat4x4(
                    w_by_4[(w_row + 0u) * (O / 4u) + o], w_by_4[(w_row + 1u) * (O / 4u) + o],
                    w_by_4[(w_row + 2u) * (O / 4u) + o], w_by_4[(w_row + 3u) * (O / 4u) + o]
                ));
                let value_0 = dy_value_by_4(dy_0, o);
                let value_1 = dy_value_by_4(dy_1, o);
                let value_2 = dy_value_by_4(dy_2, o);
                let value_3 = dy_value_by_4(dy_3, o);
                add_4(&sum_0, value_0, w[0], w[1], w[2], w[3]);
                add_4(&sum_1, value_1, w[0], w[1], w[2], w[3]);
                add_4(&sum_2, value_2, w[0], w[1], w[2], w[3]);
                add_4(&sum_3, value_3, w[0], w[1], w[2], w[3]);
            }
        }
    }
    if (group.y * LANES + lane >= C / 4u) { return; }
    store_dx(row + 0u * LANES, quad, &sum_0);
    store_dx(row + 1u * LANES, quad, &sum_1);
    store_dx(row + 2u * LANES, quad, &sum_2);
    store_dx(row + 3u * LANES, quad, &sum_3);
}

fn store_dx(row: u32, quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < LANES; k++) {
        let at = min(row + k, N * H * W - 1u) * (C / 4u) + quad;
        var value = (*sums)[k];
        if (X_IS_RELU) { value = select(vec4(0.0), value, x_by_4[at] > vec4(0.0)); }
        dx_by_4[at] = value;
    }
}

// Rows are filter cells, columns output channels; the inner dimension is every position of the images of one part. The
// gradient of the bias is computed along with them: it is the sum of the right operand.
@compute @workgroup_size(LANES)
fn conv2d_backward_w_subgroup(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    let first = group.z * IMAGES_PER_PART;
    let last = min(first + IMAGES_PER_PART, N);
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    var sum_4 = Sums();
    var sum_5 = Sums();
    var sum_6 = Sums();
    var sum_7 = Sums();
    var sum_bias = vec4(0.0);
    // Each lane has two quads of cells, each four channels under one cell of the window: eight rows.
    let cells = group.x * 2u * LANES;
    let cell_0 = window_cell((cells + lane) * 4u);
    let cell_1 = window_cell((cells + LANES + lane) * 4u);
    for (var n = first; n < last; n++) {
        for (var i = 0u; i < HO; i++) {
            for (var j = 0u; j < WO; j++) {
                let x_0 = x_value_by_4(cell_source(cell_0, n, i, j), 0u);
                let x_1 = x_value_by_4(cell_source(cell_1, n, i, j), 0u);
                let gradients = dy_by_4[((n * HO + i) * WO + j) * (O / 4u) + quad];
                add(&sum_0, x_0.x, gradients);
                add(&sum_1, x_0.y, gradients);
                add(&sum_2, x_0.z, gradients);
                add(&sum_3, x_0.w, gradients);
                add(&sum_4, x_1.x, gradients);
                add(&sum_5, x_1.y, gradients);
                add(&sum_6, x_1.z, gradients);
                add(&sum_7, x_1.w, gradients);
                sum_bias += gradients;
            }
        }
    }
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_dw(group.z, cells, 4u, 0u, quad, &sum_0);
    store_dw(group.z, cells, 4u, 1u, quad, &sum_1);
    store_dw(group.z, cells, 4u, 2u, quad, &sum_2);
    store_dw(group.z, cells, 4u, 3u, quad, &sum_3);
    store_dw(group.z, cells + LANES, 4u, 0u, quad, &sum_4);
    store_dw(group.z, cells + LANES, 4u, 1u, quad, &sum_5);
    store_dw(group.z, cells + LANES, 4u, 2u, quad, &sum_6);
    store_dw(group.z, cells + LANES, 4u, 3u, quad, &sum_7);
    if (group.x == 0u) { dw_parts_by_4[(group.z * (KH * KW * C + 1u) + KH * KW * C) * (O / 4u) + quad] = sum_bias; }
}

// For C that is not a multiple of 4.
@compute @workgroup_size(LANES)
fn conv2d_backward_w_subgroup_any(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    let first = group.z * IMAGES_PER_PART;
    let last = min(first + IMAGES_PER_PART, N);
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    var sum_4 = Sums();
    var sum_5 = Sums();
    var sum_6 = Sums();
    var sum_7 = Sums();
    var sum_bias = vec4(0.0);
    let first_cell = group.x * 8u * LANES;
    var cells = lane_cells(first_cell + lane);
    for (var n = first; n < last; n++) {
        for (var i = 0u; i < HO; i++) {
            for (var j = 0u; j < WO; j++) {
                let gradients = dy_by_4[((n * HO + i) * WO + j) * (O / 4u) + quad];
                add_cells(Output(n, i, j), gradients, &cells, &sum_0, &sum_1, &sum_2, &sum_3, &sum_4, &sum_5, &sum_6, &sum_7);
                sum_bias += gradients;
            }
        }
    }
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_cells(group.z, first_cell, 0u, quad, &sum_0);
    store_cells(group.z, first_cell, 1u, quad, &sum_1);
    store_cells(group.z, first_cell, 2u, quad, &sum_2);
    store_cells(group.z, first_cell, 3u, quad, &sum_3);
    store_cells(group.z, first_cell, 4u, quad, &sum_4);
    store_cells(group.z, first_cell, 5u, quad, &sum_5);
    store_cells(group.z, first_cell, 6u, quad, &sum_6);
    store_cells(group.z, first_cell, 7u, quad, &sum_7);
    if (group.x == 0u) { dw_parts_by_4[(group.z * (KH * KW * C + 1u) + KH * KW * C) * (O / 4u) + quad] = sum_bias; }
}

// The same if the outputs went through max pooling in 2x2 windows: the gradient of a window belongs to its maximum. One
// load of the gradient and one of argmax serve four positions, and the pooling needs no backward pass. HO and WO are
// even.
@compute @workgroup_size(LANES)
fn conv2d_backward_w_subgroup_any_pool(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    let first = group.z * IMAGES_PER_PART;
    let last = min(first + IMAGES_PER_PART, N);
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    var sum_4 = Sums();
    var sum_5 = Sums();
    var sum_6 = Sums();
    var sum_7 = Sums();
    var sum_bias = vec4(0.0);
    let first_cell = group.x * 8u * LANES;
    var cells = lane_cells(first_cell + lane);
    for (var n = first; n < last; n++) {
        for (var i = 0u; i < HO; i += 2u) {
            for (var j = 0u; j < WO; j += 2u) {
                let window = ((n * half(HO) + i / 2u) * half(WO) + j / 2u) * (O / 4u) + quad;
                let gradients = dy_by_4[window];
                let largest = argmax_by_4[window];
                let at_0 = select(vec4(0.0), gradients, largest == vec4(i * WO + j));
                add_cells(Output(n, i, j), at_0, &cells, &sum_0, &sum_1, &sum_2, &sum_3, &sum_4, &sum_5, &sum_6, &sum_7);
                let at_1 = select(vec4(0.0), gradients, largest == vec4(i * WO + j + 1u));
                add_cells(Output(n, i, j + 1u), at_1, &cells, &sum_0, &sum_1, &sum_2, &sum_3, &sum_4, &sum_5, &sum_6, &sum_7);
                let at_2 = select(vec4(0.0), gradients, largest == vec4((i + 1u) * WO + j));
                add_cells(Output(n, i + 1u, j), at_2, &cells, &sum_0, &sum_1, &sum_2, &sum_3, &sum_4, &sum_5, &sum_6, &sum_7);
                let at_3 = select(vec4(0.0), gradients, largest == vec4((i + 1u) * WO + j + 1u));
                add_cells(Output(n, i + 1u, j + 1u), at_3, &cells, &sum_0, &sum_1, &sum_2, &sum_3, &sum_4, &sum_5, &sum_6, &sum_7);
                sum_bias += gradients;
            }
        }
    }
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_cells(group.z, first_cell, 0u, quad, &sum_0);
    store_cells(group.z, first_cell, 1u, quad, &sum_1);
    store_cells(group.z, first_cell, 2u, quad, &sum_2);
    store_cells(group.z, first_cell, 3u, quad, &sum_3);
    store_cells(group.z, first_cell, 4u, quad, &sum_4);
    store_cells(group.z, first_cell, 5u, quad, &sum_5);
    store_cells(group.z, first_cell, 6u, quad, &sum_6);
    store_cells(group.z, first_cell, 7u, quad, &sum_7);
    if (group.x == 0u) { dw_parts_by_4[(group.z * (KH * KW * C + 1u) + KH * KW * C) * (O / 4u) + quad] = sum_bias; }
}

// An output position: image, row, column.
struct Output { n: u32, i: u32, j: u32 }

// Up to eight single cells per lane, LANES apart.
alias Cells = array<WindowCell, 8>;

fn lane_cells(first: u32) -> Cells {
    return Cells(
        window_cell(first + 0u * LANES), window_cell(first + 1u * LANES), window_cell(first + 2u * LANES), window_cell(first + 3u * LANES),
        window_cell(first + 4u * LANES), window_cell(first + 5u * LANES), window_cell(first + 6u * LANES), window_cell(first + 7u * LANES));
}

// Returns how many of the LANES cells of a block exist. A filter on one channel has few, which is known when the shader
// is compiled: missing cells cost nothing.
fn cells_of(block: u32) -> u32 {
    let n_cells = KH * KW * C;
    if (n_cells > 8u * LANES) { return LANES; }
    return min(n_cells - min(n_cells, block * LANES), LANES);
}

// sums += (x of the first `count` lanes) times (w of this lane).
fn add_some(sums: ptr<function, Sums>, count: u32, x: f32, w: vec4<f32>) {
    (*sums)[0] += subgroupBroadcast(x, 0u) * w;
    if (count > 1u) { (*sums)[1] += subgroupBroadcast(x, 1u) * w; }
    if (count > 2u) { (*sums)[2] += subgroupBroadcast(x, 2u) * w; }
    if (count > 3u) { (*sums)[3] += subgroupBroadcast(x, 3u) * w; }
    if (count > 4u) { (*sums)[4] += subgroupBroadcast(x, 4u) * w; }
    if (count > 5u) { (*sums)[5] += subgroupBroadcast(x, 5u) * w; }
    if (count > 6u) { (*sums)[6] += subgroupBroadcast(x, 6u) * w; }
    if (count > 7u) { (*sums)[7] += subgroupBroadcast(x, 7u) * w; }
}

// Adds the products of all cells with the gradients at one position.
fn add_cells(
    at: Output, gradients: vec4<f32>, cells: ptr<function, Cells>,
    sum_0: ptr<function, Sums>, sum_1: ptr<function, Sums>, sum_2: ptr<function, Sums>, sum_3: ptr<function, Sums>,
    sum_4: ptr<function, Sums>, sum_5: ptr<function, Sums>, sum_6: ptr<function, Sums>, sum_7: ptr<function, Sums>
) {
    add_some(sum_0, cells_of(0u), x_value(cell_source((*cells)[0], at.n, at.i, at.j), 0u), gradients);
    if (cells_of(1u) > 0u) { add_some(sum_1, cells_of(1u), x_value(cell_source((*cells)[1], at.n, at.i, at.j), 0u), gradients); }
    if (cells_of(2u) > 0u) { add_some(sum_2, cells_of(2u), x_value(cell_source((*cells)[2], at.n, at.i, at.j), 0u), gradients); }
    if (cells_of(3u) > 0u) { add_some(sum_3, cells_of(3u), x_value(cell_source((*cells)[3], at.n, at.i, at.j), 0u), gradients); }
    if (cells_of(4u) > 0u) { add_some(sum_4, cells_of(4u), x_value(cell_source((*cells)[4], at.n, at.i, at.j), 0u), gradients); }
    if (cells_of(5u) > 0u) { add_some(sum_5, cells_of(5u), x_value(cell_source((*cells)[5], at.n, at.i, at.j), 0u), gradients); }
    if (cells_of(6u) > 0u) { add_some(sum_6, cells_of(6u), x_value(cell_source((*cells)[6], at.n, at.i, at.j), 0u), gradients); }
    if (cells_of(7u) > 0u) { add_some(sum_7, cells_of(7u), x_value(cell_source((*cells)[7], at.n, at.i, at.j), 0u), gradients); }
}

// Stores the rows of dw of one block.
fn store_cells(part: u32, first_cell: u32, block: u32, quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < cells_of(block); k++) {
        let cell = min(first_cell + block * LANES + k, KH * KW * C - 1u);
        dw_parts_by_4[(part * (KH * KW * C + 1u) + cell) * (O / 4u) + quad] = (*sums)[k];
    }
}

// Where a filter cell is in the window, and its channel.
struct WindowCell { p: u32, q: u32, c: u32 }

// Cells past the end repeat the last one; for quads, the last four, since loads of quads round down.
fn window_cell(cell: u32) -> WindowCell {
    let at = min(cell, KH * KW * C - 1u);
    return WindowCell(at / C / KW, at / C % KW, at % C);
}

// Returns the pixel and channel under a filter cell at output position (i, j).
fn cell_source(cell: WindowCell, n: u32, i: u32, j: u32) -> Source {
    let top = i * SH + cell.p - PT;
    let left = j * SW + cell.q - PL;
    let inside = top < H && left < W;
    return Source(inside, select(0u, ((n * H + top) * W + left) * C + cell.c, inside));
}

// Stores rows of dw: the cells starting at `first`, counted in units of 1 or 4 cells, of which `part_of_unit` is
// stored.
fn store_dw(part: u32, first: u32, unit: u32, part_of_unit: u32, quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < LANES; k++) {
        let cell = min(first + k, KH * KW * C / unit - 1u) * unit + part_of_unit;
        dw_parts_by_4[(part * (KH * KW * C + 1u) + cell) * (O / 4u) + quad] = (*sums)[k];
    }
}
