// conv2d: 2-D cross-correlation with bias, any window, any stride, zero padding at the edges.
//
//   y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, c] * w[p,q,c,o]        (x outside its bounds is 0)
//   dx[n,h,w,c] = sum over p,q,o of dy[n,i,j,o] * w[p,q,c,o]      where i*SH+p-PT = h and j*SW+q-PL = w
//   dw[p,q,c,o] = sum over n,i,j of x[n, i*SH+p-PT, j*SW+q-PL, c] * dy[n,i,j,o]            db[o] = sum over n,i,j of dy
//
// Layout: row-major, last index fastest; pictures NHWC, filters HWIO. Source: tf.nn.conv2d and its gradients (Keras Conv2D).
// Host: src/ops/conv2d.rs   Mirror: src/cpu/conv2d.rs   Test: tests/conv2d.rs
//
// Each pass exists three times, and all three compute the same sums:
//   <name>            plain: one output an invocation; any shape; the one to read first
//   <name>_registers  for adapters that are processors: 8 rows x 16 columns of outputs an invocation, no barriers
//   <name>_shared     for GPUs: 64x64 outputs a workgroup, operands staged in workgroup memory, 4x4 an invocation
// The fast forms see the convolution as a matrix product: rows are output positions (for dw: filter cells), columns are channels.

override N: u32 = 1u;      // pictures
override H: u32 = 1u;      // input rows
override W: u32 = 1u;      // input columns
override C: u32 = 1u;      // input channels
override KH: u32 = 1u;     // filter rows
override KW: u32 = 1u;     // filter columns
override O: u32 = 4u;      // output channels
override SH: u32 = 1u;     // stride down
override SW: u32 = 1u;     // stride across
override PT: u32 = 0u;     // padding above
override PL: u32 = 0u;     // padding to the left
override HO: u32 = 1u;     // output rows
override WO: u32 = 1u;     // output columns
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x came out of a ReLU, so dx is 0 where x is 0
override IMAGES_PER_PART: u32 = 1u; // backward_w: pictures summed in one part

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, H, W, C]
@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;   // the same, four channels at once
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [KH, KW, C, O]
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;   // the same, four output channels at once
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, HO, WO, O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, HO, WO, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, H, W, C]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> dw_parts: array<f32>; // [parts, KH*KW*C + 1, O]; the last row is db
@group(0) @binding(6) var<storage, read_write> dw_parts_by_4: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> parts: array<f32>;          // dw_parts, read
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;       // [KH, KW, C, O]
@group(0) @binding(9) var<storage, read_write> db: array<f32>;       // [O]

// ---------------------------------------------------------------------------------------------------------- plain

@compute @workgroup_size(64)
fn conv2d_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * HO * WO * O) { return; }
    let o = index % O;
    let j = index / O % WO;
    let i = index / (O * WO) % HO;
    let n = index / (O * WO * HO);
    var sum = b[o];
    for (var p = 0u; p < KH; p++) {
        // Unsigned: a position above or left of the picture wraps to a huge number and fails the same test.
        let row = i * SH + p - PT;
        if (row >= H) { continue; }
        for (var q = 0u; q < KW; q++) {
            let column = j * SW + q - PL;
            if (column >= W) { continue; }
            for (var c = 0u; c < C; c++) {
                sum += x[((n * H + row) * W + column) * C + c] * w[((p * KW + q) * C + c) * O + o];
            }
        }
    }
    y[index] = select(sum, max(sum, 0.0), RELU);
}

@compute @workgroup_size(64)
fn conv2d_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * H * W * C) { return; }
    let c = index % C;
    let column = index / C % W;
    let row = index / (C * W) % H;
    let n = index / (C * W * H);
    var sum = 0.0;
    for (var p = 0u; p < KH; p++) {
        let i = (row + PT - p) / SH;
        if (row + PT < p || (row + PT - p) % SH != 0u || i >= HO) { continue; }
        for (var q = 0u; q < KW; q++) {
            let j = (column + PL - q) / SW;
            if (column + PL < q || (column + PL - q) % SW != 0u || j >= WO) { continue; }
            for (var o = 0u; o < O; o++) {
                sum += dy[((n * HO + i) * WO + j) * O + o] * w[((p * KW + q) * C + c) * O + o];
            }
        }
    }
    if (X_IS_RELU) { sum = select(0.0, sum, x[index] > 0.0); }
    dx[index] = sum;
}

@compute @workgroup_size(64)
fn conv2d_backward_w(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let n_rows = KH * KW * C + 1u;
    let part = index / (n_rows * O);
    let first = part * IMAGES_PER_PART;
    if (first >= N) { return; }
    let o = index % O;
    let cell = index / O % n_rows;
    let c = cell % C;
    let q = cell / C % KW;
    let p = cell / (C * KW);
    let is_bias = cell == n_rows - 1u;
    var sum = 0.0;
    for (var n = first; n < min(first + IMAGES_PER_PART, N); n++) {
        for (var i = 0u; i < HO; i++) {
            for (var j = 0u; j < WO; j++) {
                let row = i * SH + p - PT;
                let column = j * SW + q - PL;
                let dy_value = dy[((n * HO + i) * WO + j) * O + o];
                if (is_bias) {
                    sum += dy_value;
                } else if (row < H && column < W) {
                    sum += x[((n * H + row) * W + column) * C + c] * dy_value;
                }
            }
        }
    }
    dw_parts[index] = sum;
}

// The sum of the parts of dw and db, in the order of the pictures.
@compute @workgroup_size(64)
fn conv2d_backward_w_sum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let n_weights = KH * KW * C * O;
    let n_parts = (N + IMAGES_PER_PART - 1u) / IMAGES_PER_PART;
    if (index >= n_weights + O) { return; }
    var sum = 0.0;
    for (var part = 0u; part < n_parts; part++) {
        sum += parts[part * (n_weights + O) + index];
    }
    if (index < n_weights) { dw[index] = sum; } else { db[index - n_weights] = sum; }
}

// ------------------------------------------------------------------------------------------------------ registers
//
// For lavapipe, where neighbouring invocations are the lanes of one vector: a load whose address differs between lanes
// costs as much as some sixty multiply-adds, a load that is uniform over the lanes little. So the lanes hold different
// rows, each loads one x for 16 columns, and the filter's row is uniform. Needs O (for backward_x: C) to be a multiple of 4.
//
// The eight rows of an invocation are written out: a driver unrolls a small loop over columns, but not two loops within each
// other, and then the sums would live in memory (7 GFLOP/s instead of 20, Mesa 22.3). Eight rows by 16 columns is a compromise:
// by 32 columns Mesa 22.3 is 10 % faster and Mesa 25.0 a third slower, and both compile for two to four times as long.

const LANES = 8u;
const QUADS = 4u;                           // groups of four columns an invocation
alias Sums = array<vec4<f32>, QUADS>;       // 16 columns of one row

// Columns past the end are the last ones once more: computed again, and the same values stored again by the same invocation.
// Branches around the stores instead would make Mesa 25.0 compile for seconds. Where tiles fit exactly, this costs nothing.
fn clamp_quad(quad: u32, count: u32) -> u32 {
    if (count % QUADS == 0u) { return quad; }
    return min(quad, count - 1u);
}

// The first of the eight rows of an invocation; they are LANES apart.
fn invocation_row(group: vec3<u32>, groups: vec3<u32>, lane: u32) -> u32 {
    return (group.z * groups.x + group.x) * LANES * 8u + lane;
}

// One row of the left operand: where its values start, and whether they count (else they are 0, or 1 for the bias).
struct Source { inside: bool, base: u32 }

// Output position `row` under filter cell (p, q): the pixel of x.
fn x_source(row: u32, p: u32, q: u32) -> Source {
    // Rows past the end compute the last row again and are not stored.
    let position = min(row, N * HO * WO - 1u);
    // Unsigned: a pixel above or left of the picture wraps to a huge number and fails the same test.
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

@compute @workgroup_size(8)
fn conv2d_forward_registers(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let row = invocation_row(group, groups, lane);
    let quad = group.y * QUADS;
    var sum_0: Sums;
    for (var k = 0u; k < QUADS; k++) { sum_0[k] = b_by_4[clamp_quad(quad + k, O / 4u)]; }
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    var sum_4 = sum_0;
    var sum_5 = sum_0;
    var sum_6 = sum_0;
    var sum_7 = sum_0;
    for (var p = 0u; p < KH; p++) {
        for (var q = 0u; q < KW; q++) {
            let x_0 = x_source(row + 0u * LANES, p, q);
            let x_1 = x_source(row + 1u * LANES, p, q);
            let x_2 = x_source(row + 2u * LANES, p, q);
            let x_3 = x_source(row + 3u * LANES, p, q);
            let x_4 = x_source(row + 4u * LANES, p, q);
            let x_5 = x_source(row + 5u * LANES, p, q);
            let x_6 = x_source(row + 6u * LANES, p, q);
            let x_7 = x_source(row + 7u * LANES, p, q);
            for (var c = 0u; c < C; c++) {
                let value_0 = select(0.0, x[x_0.base + c], x_0.inside);
                let value_1 = select(0.0, x[x_1.base + c], x_1.inside);
                let value_2 = select(0.0, x[x_2.base + c], x_2.inside);
                let value_3 = select(0.0, x[x_3.base + c], x_3.inside);
                let value_4 = select(0.0, x[x_4.base + c], x_4.inside);
                let value_5 = select(0.0, x[x_5.base + c], x_5.inside);
                let value_6 = select(0.0, x[x_6.base + c], x_6.inside);
                let value_7 = select(0.0, x[x_7.base + c], x_7.inside);
                let w_row = ((p * KW + q) * C + c) * (O / 4u);
                for (var k = 0u; k < QUADS; k++) {
                    let weights = w_by_4[w_row + clamp_quad(quad + k, O / 4u)];
                    sum_0[k] += value_0 * weights;
                    sum_1[k] += value_1 * weights;
                    sum_2[k] += value_2 * weights;
                    sum_3[k] += value_3 * weights;
                    sum_4[k] += value_4 * weights;
                    sum_5[k] += value_5 * weights;
                    sum_6[k] += value_6 * weights;
                    sum_7[k] += value_7 * weights;
                }
            }
        }
    }
    store_y(row + 0u * LANES, quad, sum_0);
    store_y(row + 1u * LANES, quad, sum_1);
    store_y(row + 2u * LANES, quad, sum_2);
    store_y(row + 3u * LANES, quad, sum_3);
    store_y(row + 4u * LANES, quad, sum_4);
    store_y(row + 5u * LANES, quad, sum_5);
    store_y(row + 6u * LANES, quad, sum_6);
    store_y(row + 7u * LANES, quad, sum_7);
}

fn store_y(row: u32, quad: u32, sums: Sums) {
    if (row >= N * HO * WO) { return; }
    var values = sums;
    for (var k = 0u; k < QUADS; k++) {
        y_by_4[row * (O / 4u) + clamp_quad(quad + k, O / 4u)] = select(values[k], max(values[k], vec4(0.0)), RELU);
    }
}

@compute @workgroup_size(8)
fn conv2d_backward_x_registers(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let row = invocation_row(group, groups, lane);
    let quad = group.y * QUADS;
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    var sum_4 = Sums();
    var sum_5 = Sums();
    var sum_6 = Sums();
    var sum_7 = Sums();
    for (var p = 0u; p < KH; p++) {
        for (var q = 0u; q < KW; q++) {
            let dy_0 = dy_source(row + 0u * LANES, p, q);
            let dy_1 = dy_source(row + 1u * LANES, p, q);
            let dy_2 = dy_source(row + 2u * LANES, p, q);
            let dy_3 = dy_source(row + 3u * LANES, p, q);
            let dy_4 = dy_source(row + 4u * LANES, p, q);
            let dy_5 = dy_source(row + 5u * LANES, p, q);
            let dy_6 = dy_source(row + 6u * LANES, p, q);
            let dy_7 = dy_source(row + 7u * LANES, p, q);
            for (var o = 0u; o < O; o++) {
                let value_0 = select(0.0, dy[dy_0.base + o], dy_0.inside);
                let value_1 = select(0.0, dy[dy_1.base + o], dy_1.inside);
                let value_2 = select(0.0, dy[dy_2.base + o], dy_2.inside);
                let value_3 = select(0.0, dy[dy_3.base + o], dy_3.inside);
                let value_4 = select(0.0, dy[dy_4.base + o], dy_4.inside);
                let value_5 = select(0.0, dy[dy_5.base + o], dy_5.inside);
                let value_6 = select(0.0, dy[dy_6.base + o], dy_6.inside);
                let value_7 = select(0.0, dy[dy_7.base + o], dy_7.inside);
                for (var k = 0u; k < QUADS; k++) {
                    // Four input channels lie O apart.
                    let at = ((p * KW + q) * C + clamp_quad(quad + k, C / 4u) * 4u) * O + o;
                    let weights = vec4(w[at], w[at + O], w[at + 2u * O], w[at + 3u * O]);
                    sum_0[k] += value_0 * weights;
                    sum_1[k] += value_1 * weights;
                    sum_2[k] += value_2 * weights;
                    sum_3[k] += value_3 * weights;
                    sum_4[k] += value_4 * weights;
                    sum_5[k] += value_5 * weights;
                    sum_6[k] += value_6 * weights;
                    sum_7[k] += value_7 * weights;
                }
            }
        }
    }
    store_dx(row + 0u * LANES, quad, sum_0);
    store_dx(row + 1u * LANES, quad, sum_1);
    store_dx(row + 2u * LANES, quad, sum_2);
    store_dx(row + 3u * LANES, quad, sum_3);
    store_dx(row + 4u * LANES, quad, sum_4);
    store_dx(row + 5u * LANES, quad, sum_5);
    store_dx(row + 6u * LANES, quad, sum_6);
    store_dx(row + 7u * LANES, quad, sum_7);
}

fn store_dx(row: u32, quad: u32, sums: Sums) {
    if (row >= N * H * W) { return; }
    var values = sums;
    for (var k = 0u; k < QUADS; k++) {
        let at = row * (C / 4u) + clamp_quad(quad + k, C / 4u);
        if (X_IS_RELU) { values[k] = select(vec4(0.0), values[k], x_by_4[at] > vec4(0.0)); }
        dx_by_4[at] = values[k];
    }
}

// One filter cell `row` = (p, q, c) at output position (n, i, j): the pixel it saw. The row after the last filter cell sees
// ones instead of pixels: it collects db.
fn x_seen(row: u32, n: u32, i: u32, j: u32) -> f32 {
    let top = i * SH + row / (C * KW) - PT;
    let left = j * SW + row / C % KW - PL;
    let inside = row < KH * KW * C && top < H && left < W;
    let value = x[select(0u, ((n * H + top) * W + left) * C + row % C, inside)];
    return select(select(0.0, 1.0, row == KH * KW * C), value, inside);
}

@compute @workgroup_size(8)
fn conv2d_backward_w_registers(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.x * LANES * 8u + lane;
    let quad = group.y * QUADS;
    let first = group.z * IMAGES_PER_PART;
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    var sum_4 = Sums();
    var sum_5 = Sums();
    var sum_6 = Sums();
    var sum_7 = Sums();
    for (var n = first; n < min(first + IMAGES_PER_PART, N); n++) {
        for (var i = 0u; i < HO; i++) {
            for (var j = 0u; j < WO; j++) {
                let value_0 = x_seen(row + 0u * LANES, n, i, j);
                let value_1 = x_seen(row + 1u * LANES, n, i, j);
                let value_2 = x_seen(row + 2u * LANES, n, i, j);
                let value_3 = x_seen(row + 3u * LANES, n, i, j);
                let value_4 = x_seen(row + 4u * LANES, n, i, j);
                let value_5 = x_seen(row + 5u * LANES, n, i, j);
                let value_6 = x_seen(row + 6u * LANES, n, i, j);
                let value_7 = x_seen(row + 7u * LANES, n, i, j);
                let dy_row = ((n * HO + i) * WO + j) * (O / 4u);
                for (var k = 0u; k < QUADS; k++) {
                    let gradients = dy_by_4[dy_row + clamp_quad(quad + k, O / 4u)];
                    sum_0[k] += value_0 * gradients;
                    sum_1[k] += value_1 * gradients;
                    sum_2[k] += value_2 * gradients;
                    sum_3[k] += value_3 * gradients;
                    sum_4[k] += value_4 * gradients;
                    sum_5[k] += value_5 * gradients;
                    sum_6[k] += value_6 * gradients;
                    sum_7[k] += value_7 * gradients;
                }
            }
        }
    }
    store_dw(group.z, row + 0u * LANES, quad, sum_0);
    store_dw(group.z, row + 1u * LANES, quad, sum_1);
    store_dw(group.z, row + 2u * LANES, quad, sum_2);
    store_dw(group.z, row + 3u * LANES, quad, sum_3);
    store_dw(group.z, row + 4u * LANES, quad, sum_4);
    store_dw(group.z, row + 5u * LANES, quad, sum_5);
    store_dw(group.z, row + 6u * LANES, quad, sum_6);
    store_dw(group.z, row + 7u * LANES, quad, sum_7);
}

fn store_dw(part: u32, row: u32, quad: u32, sums: Sums) {
    if (row > KH * KW * C) { return; }
    var values = sums;
    for (var k = 0u; k < QUADS; k++) {
        dw_parts_by_4[(part * (KH * KW * C + 1u) + row) * (O / 4u) + clamp_quad(quad + k, O / 4u)] = values[k];
    }
}

// As above for windows of 3x3 with stride 1. An invocation holds all nine cells of one channel: while the window slides along a
// row of the picture, two of its three columns are still at hand, so three loads serve nine rows (second layer, batch 32: from 12
// to 8.4 ms on Mesa 25.0, from 14.4 to 13.0 on 22.3).
@compute @workgroup_size(8)
fn conv2d_backward_w_registers_3x3(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let c = group.x * LANES + lane;
    let quad = group.y * QUADS;
    let first = group.z * IMAGES_PER_PART;
    var sum_00 = Sums();
    var sum_01 = Sums();
    var sum_02 = Sums();
    var sum_10 = Sums();
    var sum_11 = Sums();
    var sum_12 = Sums();
    var sum_20 = Sums();
    var sum_21 = Sums();
    var sum_22 = Sums();
    var sum_bias = Sums();
    for (var n = first; n < min(first + IMAGES_PER_PART, N); n++) {
        for (var i = 0u; i < HO; i++) {
            // x_pq is the pixel under cell (p, q) of the window.
            var x_00 = x_at(n, i + 0u - PT, 0u - PL, c);
            var x_01 = x_at(n, i + 0u - PT, 1u - PL, c);
            var x_10 = x_at(n, i + 1u - PT, 0u - PL, c);
            var x_11 = x_at(n, i + 1u - PT, 1u - PL, c);
            var x_20 = x_at(n, i + 2u - PT, 0u - PL, c);
            var x_21 = x_at(n, i + 2u - PT, 1u - PL, c);
            for (var j = 0u; j < WO; j++) {
                let x_02 = x_at(n, i + 0u - PT, j + 2u - PL, c);
                let x_12 = x_at(n, i + 1u - PT, j + 2u - PL, c);
                let x_22 = x_at(n, i + 2u - PT, j + 2u - PL, c);
                let dy_row = ((n * HO + i) * WO + j) * (O / 4u);
                for (var k = 0u; k < QUADS; k++) {
                    let gradients = dy_by_4[dy_row + clamp_quad(quad + k, O / 4u)];
                    sum_00[k] += x_00 * gradients;
                    sum_01[k] += x_01 * gradients;
                    sum_02[k] += x_02 * gradients;
                    sum_10[k] += x_10 * gradients;
                    sum_11[k] += x_11 * gradients;
                    sum_12[k] += x_12 * gradients;
                    sum_20[k] += x_20 * gradients;
                    sum_21[k] += x_21 * gradients;
                    sum_22[k] += x_22 * gradients;
                    sum_bias[k] += gradients;
                }
                x_00 = x_01;
                x_01 = x_02;
                x_10 = x_11;
                x_11 = x_12;
                x_20 = x_21;
                x_21 = x_22;
            }
        }
    }
    if (c < C) {
        store_dw(group.z, 0u * C + c, quad, sum_00);
        store_dw(group.z, 1u * C + c, quad, sum_01);
        store_dw(group.z, 2u * C + c, quad, sum_02);
        store_dw(group.z, 3u * C + c, quad, sum_10);
        store_dw(group.z, 4u * C + c, quad, sum_11);
        store_dw(group.z, 5u * C + c, quad, sum_12);
        store_dw(group.z, 6u * C + c, quad, sum_20);
        store_dw(group.z, 7u * C + c, quad, sum_21);
        store_dw(group.z, 8u * C + c, quad, sum_22);
    }
    if (c == 0u) { store_dw(group.z, 9u * C, quad, sum_bias); }
}

// One pixel, 0 outside the picture.
fn x_at(n: u32, row: u32, column: u32, c: u32) -> f32 {
    let inside = row < H && column < W;
    return select(0.0, x[select(0u, ((n * H + row) * W + column) * C + min(c, C - 1u), inside)], inside);
}

// --------------------------------------------------------------------------------------------------------- shared
//
// 16x16 invocations make a tile of 64x64 outputs, 4x4 each. Per round, 16 steps of the inner dimension of both operands
// are staged in workgroup memory: a value read once from memory serves 64 multiply-adds. Any shape: cells outside the
// operands are staged as zeros, outputs outside are not stored.

const TILE = 64u;
const STEPS = 16u;
var<workgroup> tile_a: array<vec4<f32>, 256>; // [STEPS][TILE/4], rows
var<workgroup> tile_b: array<vec4<f32>, 256>; // [STEPS][TILE/4], columns

// x as the left operand of forward: output position `row`, filter cell `k` = (p, q, c).
fn x_cell(row: u32, k: u32) -> f32 {
    let n = row / (HO * WO);
    let top = row / WO % HO * SH + k / (C * KW) - PT;
    let left = row % WO * SW + k / C % KW - PL;
    if (row >= N * HO * WO || k >= KH * KW * C || top >= H || left >= W) { return 0.0; }
    return x[((n * H + top) * W + left) * C + k % C];
}

// dy as the left operand of backward_x: input position `row`, step `k` = (p, q, o).
fn dy_cell(row: u32, k: u32) -> f32 {
    let n = row / (H * W);
    let bottom = row / W % H + PT;
    let right = row % W + PL;
    let p = k / (O * KW);
    let q = k / O % KW;
    if (row >= N * H * W || k >= KH * KW * O || bottom < p || right < q) { return 0.0; }
    let i = (bottom - p) / SH;
    let j = (right - q) / SW;
    if (i * SH != bottom - p || j * SW != right - q || i >= HO || j >= WO) { return 0.0; }
    return dy[((n * HO + i) * WO + j) * O + k % O];
}

// w as the right operand of forward: [KH*KW*C, O] as it lies.
fn w_cell(k: u32, o: u32) -> f32 {
    if (k >= KH * KW * C || o >= O) { return 0.0; }
    return w[k * O + o];
}

// w as the right operand of backward_x: step `k` = (p, q, o), column c.
fn w_cell_transposed(k: u32, c: u32) -> f32 {
    if (k >= KH * KW * O || c >= C) { return 0.0; }
    return w[(k / O * C + c) * O + k % O];
}

// One round of multiply-adds over the staged tiles.
fn multiply_tiles(local: vec3<u32>, sums: ptr<function, array<vec4<f32>, 4>>) {
    for (var k = 0u; k < STEPS; k++) {
        let a = tile_a[k * 16u + local.y];
        let c = tile_b[k * 16u + local.x];
        (*sums)[0] += a.x * c;
        (*sums)[1] += a.y * c;
        (*sums)[2] += a.z * c;
        (*sums)[3] += a.w * c;
    }
}

@compute @workgroup_size(16, 16)
fn conv2d_forward_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let first_row = (group.z * groups.x + group.x) * TILE;
    let first_column = group.y * TILE;
    var sums: array<vec4<f32>, 4>;
    for (var k = 0u; k < KH * KW * C; k += STEPS) {
        // Each invocation stages four rows of one step, and four columns of one step.
        let a_k = k + lane % STEPS;
        let a_row = first_row + lane / STEPS * 4u;
        tile_a[lane % STEPS * 16u + lane / STEPS] =
            vec4(x_cell(a_row, a_k), x_cell(a_row + 1u, a_k), x_cell(a_row + 2u, a_k), x_cell(a_row + 3u, a_k));
        let b_k = k + lane / 16u;
        let b_column = first_column + lane % 16u * 4u;
        tile_b[lane] = vec4(w_cell(b_k, b_column), w_cell(b_k, b_column + 1u), w_cell(b_k, b_column + 2u), w_cell(b_k, b_column + 3u));
        workgroupBarrier();
        multiply_tiles(local, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < 4u; r++) {
        let row = first_row + local.y * 4u + r;
        for (var k = 0u; k < 4u; k++) {
            let o = first_column + local.x * 4u + k;
            if (row < N * HO * WO && o < O) {
                let value = sums[r][k] + b[o];
                y[row * O + o] = select(value, max(value, 0.0), RELU);
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn conv2d_backward_x_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let first_row = (group.z * groups.x + group.x) * TILE;
    let first_column = group.y * TILE;
    var sums: array<vec4<f32>, 4>;
    for (var k = 0u; k < KH * KW * O; k += STEPS) {
        let a_k = k + lane % STEPS;
        let a_row = first_row + lane / STEPS * 4u;
        tile_a[lane % STEPS * 16u + lane / STEPS] =
            vec4(dy_cell(a_row, a_k), dy_cell(a_row + 1u, a_k), dy_cell(a_row + 2u, a_k), dy_cell(a_row + 3u, a_k));
        // Neighbouring invocations take neighbouring k: that is how w lies.
        let b_k = k + lane % STEPS;
        let b_column = first_column + lane / STEPS * 4u;
        tile_b[lane % STEPS * 16u + lane / STEPS] = vec4(
            w_cell_transposed(b_k, b_column), w_cell_transposed(b_k, b_column + 1u),
            w_cell_transposed(b_k, b_column + 2u), w_cell_transposed(b_k, b_column + 3u));
        workgroupBarrier();
        multiply_tiles(local, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < 4u; r++) {
        let row = first_row + local.y * 4u + r;
        for (var k = 0u; k < 4u; k++) {
            let c = first_column + local.x * 4u + k;
            if (row < N * H * W && c < C) {
                let at = row * C + c;
                var value = sums[r][k];
                if (X_IS_RELU) { value = select(0.0, value, x[at] > 0.0); }
                dx[at] = value;
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn conv2d_backward_w_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let n_rows = KH * KW * C + 1u;
    let first_row = group.x * TILE;
    let first_column = group.y * TILE;
    let first = group.z * IMAGES_PER_PART * HO * WO;
    let end = min(first + IMAGES_PER_PART * HO * WO, N * HO * WO);
    var sums: array<vec4<f32>, 4>;
    for (var step = 0u; step < IMAGES_PER_PART * HO * WO; step += STEPS) {
        let position = first + step + lane / 16u;
        let a_row = first_row + lane % 16u * 4u;
        var a = vec4(0.0);
        var d = vec4(0.0);
        if (position < end) {
            for (var k = 0u; k < 4u; k++) {
                // The row after the last filter cell sees ones instead of pixels: it collects db.
                a[k] = select(x_cell(position, a_row + k), 1.0, a_row + k == n_rows - 1u);
                let o = first_column + lane % 16u * 4u + k;
                if (o < O) { d[k] = dy[position * O + o]; }
            }
        }
        tile_a[lane] = a;
        tile_b[lane] = d;
        workgroupBarrier();
        multiply_tiles(local, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < 4u; r++) {
        let row = first_row + local.y * 4u + r;
        for (var k = 0u; k < 4u; k++) {
            let o = first_column + local.x * 4u + k;
            if (row < n_rows && o < O) { dw_parts[(group.z * n_rows + row) * O + o] = sums[r][k]; }
        }
    }
}
