// conv2d: 2-D cross-correlation with bias, any window, any stride, zero padding at the edges.
//
//   y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, c] * w[p,q,c,o]        (x outside its bounds is 0)
//   dx[n,h,w,c] = sum over p,q,o of dy[n,i,j,o] * w[p,q,c,o]      where i*SH+p-PT = h and j*SW+q-PL = w
//   dw[p,q,c,o] = sum over n,i,j of x[n, i*SH+p-PT, j*SW+q-PL, c] * dy[n,i,j,o]            db[o] = sum over n,i,j of dy
//
// Layout: row-major, last index fastest; pictures NHWC, filters HWIO. Source: tf.nn.conv2d and its gradients (Keras Conv2D).
// Host: src/ops/conv2d.rs   Mirror: src/cpu/conv2d.rs   Test: tests/conv2d.rs
//
// Each pass exists in three forms, and all compute the same sums:
//   <name>            plain: one output an invocation; any shape; the one to read first
//   <name>_shared     for GPUs: 64x64 outputs a workgroup, operands staged in workgroup memory, 4x4 an invocation
//   <name>_subgroup   for adapters that are processors: 32x32 outputs or more a subgroup of 8, no barriers; in conv2d_subgroup.wgsl
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
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [KH, KW, C, O]
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, HO, WO, O]
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, HO, WO, O]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, H, W, C]
@group(0) @binding(6) var<storage, read_write> dw_parts: array<f32>; // [parts, KH*KW*C + 1, O]; the last row is db
@group(0) @binding(7) var<storage, read> parts: array<f32>;          // [parts, KH*KW*C + 1, O]: dw_parts, read
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
