// dense: a fully connected layer, and its two gradients: the matrix product in its three transpositions.
//
//   y[n,o] = b[o] + sum over i of x[n,i] * w[i,o]           x  w
//   dx[n,i] = sum over o of dy[n,o] * w[i,o]                dy w^T
//   dw[i,o] = sum over n of x[n,i] * dy[n,o]                x^T dy          db[o] = sum over n of dy[n,o]
//
// Layout: row-major. Source: keras.layers.Dense.
// Host: src/ops/dense.rs   Mirror: src/cpu/dense.rs   Test: tests/dense.rs
// The three forms of each pass (plain, _registers, _shared) are explained in conv2d.wgsl.

override N: u32 = 1u;               // rows, the batch
override I: u32 = 1u;               // inputs
override O: u32 = 4u;               // outputs
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x came out of a ReLU, so dx is 0 where x is 0

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, I]
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [I, O]
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;   // the same, four outputs at once
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, I]
@group(0) @binding(6) var<storage, read_write> dw: array<f32>;       // [I, O]
@group(0) @binding(6) var<storage, read_write> dw_by_4: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> db: array<f32>;       // [O]
@group(0) @binding(7) var<storage, read_write> db_by_4: array<vec4<f32>>;

// ---------------------------------------------------------------------------------------------------------- plain

@compute @workgroup_size(64)
fn dense_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * O) { return; }
    let o = index % O;
    let n = index / O;
    var sum = b[o];
    for (var i = 0u; i < I; i++) {
        sum += x[n * I + i] * w[i * O + o];
    }
    y[index] = select(sum, max(sum, 0.0), RELU);
}

@compute @workgroup_size(64)
fn dense_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * I) { return; }
    let i = index % I;
    let n = index / I;
    var sum = 0.0;
    for (var o = 0u; o < O; o++) {
        sum += dy[n * O + o] * w[i * O + o];
    }
    if (X_IS_RELU) { sum = select(0.0, sum, x[index] > 0.0); }
    dx[index] = sum;
}

@compute @workgroup_size(64)
fn dense_backward_w(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= (I + 1u) * O) { return; }
    let o = index % O;
    let i = index / O;
    var sum = 0.0;
    if (i == I) {
        // The row after the last input is the bias, whose input is 1.
        for (var n = 0u; n < N; n++) { sum += dy[n * O + o]; }
        db[o] = sum;
    } else {
        for (var n = 0u; n < N; n++) { sum += x[n * I + i] * dy[n * O + o]; }
        dw[index] = sum;
    }
}

// ------------------------------------------------------------------------------------------------------ registers
//
// Rows on the lanes of a vector, 16 columns uniform over them; see conv2d.wgsl. Forward and backward_w need O to be a
// multiple of 4. Forward and backward_x hold four rows and not eight: a batch has few, and the input's gradient compiles five times
// as fast for it on Mesa 25.0.

const LANES = 8u;
const QUADS = 4u;                           // groups of four columns an invocation
alias Sums = array<vec4<f32>, QUADS>;       // 16 columns of one row

// Columns past the end are the last ones once more: computed again, and the same values stored again by the same invocation.
// A branch around each store instead makes Mesa 25.0 compile for up to 17 s. Where tiles fit exactly, this costs nothing.
fn clamp_quad(quad: u32) -> u32 {
    if (O / 4u % QUADS == 0u) { return quad; }
    return min(quad, O / 4u - 1u);
}

// The same where samples are the columns.
fn clamp_sample(n: u32) -> u32 {
    if (N % (QUADS * 4u) == 0u) { return n; }
    return min(n, N - 1u);
}

@compute @workgroup_size(8)
fn dense_forward_registers(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = group.x * LANES * 4u + lane;
    let quad = group.y * QUADS;
    // Rows past the end compute the last row again and are not stored.
    let x_0 = min(n + 0u * LANES, N - 1u) * I;
    let x_1 = min(n + 1u * LANES, N - 1u) * I;
    let x_2 = min(n + 2u * LANES, N - 1u) * I;
    let x_3 = min(n + 3u * LANES, N - 1u) * I;
    var sum_0: Sums;
    for (var k = 0u; k < QUADS; k++) { sum_0[k] = b_by_4[clamp_quad(quad + k)]; }
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    for (var i = 0u; i < I; i++) {
        let value_0 = x[x_0 + i];
        let value_1 = x[x_1 + i];
        let value_2 = x[x_2 + i];
        let value_3 = x[x_3 + i];
        for (var k = 0u; k < QUADS; k++) {
            let weights = w_by_4[i * (O / 4u) + clamp_quad(quad + k)];
            sum_0[k] += value_0 * weights;
            sum_1[k] += value_1 * weights;
            sum_2[k] += value_2 * weights;
            sum_3[k] += value_3 * weights;
        }
    }
    store_y(n + 0u * LANES, quad, sum_0);
    store_y(n + 1u * LANES, quad, sum_1);
    store_y(n + 2u * LANES, quad, sum_2);
    store_y(n + 3u * LANES, quad, sum_3);
}

fn store_y(n: u32, quad: u32, sums: Sums) {
    if (n >= N) { return; }
    var values = sums;
    for (var k = 0u; k < QUADS; k++) {
        y_by_4[n * (O / 4u) + clamp_quad(quad + k)] = select(values[k], max(values[k], vec4(0.0)), RELU);
    }
}

// Rows are inputs and columns are the samples of the batch: w is what differs between lanes, dy is uniform.
@compute @workgroup_size(8)
fn dense_backward_x_registers(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * LANES * 4u + lane;
    let first_n = group.y * QUADS * 4u;
    let w_0 = min(i + 0u * LANES, I - 1u) * O;
    let w_1 = min(i + 1u * LANES, I - 1u) * O;
    let w_2 = min(i + 2u * LANES, I - 1u) * O;
    let w_3 = min(i + 3u * LANES, I - 1u) * O;
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    for (var o = 0u; o < O; o++) {
        let value_0 = w[w_0 + o];
        let value_1 = w[w_1 + o];
        let value_2 = w[w_2 + o];
        let value_3 = w[w_3 + o];
        for (var k = 0u; k < QUADS; k++) {
            let n = first_n + k * 4u;
            let gradients = vec4(dy[clamp_sample(n) * O + o], dy[clamp_sample(n + 1u) * O + o],
                                 dy[clamp_sample(n + 2u) * O + o], dy[clamp_sample(n + 3u) * O + o]);
            sum_0[k] += value_0 * gradients;
            sum_1[k] += value_1 * gradients;
            sum_2[k] += value_2 * gradients;
            sum_3[k] += value_3 * gradients;
        }
    }
    store_dx(i + 0u * LANES, first_n, sum_0);
    store_dx(i + 1u * LANES, first_n, sum_1);
    store_dx(i + 2u * LANES, first_n, sum_2);
    store_dx(i + 3u * LANES, first_n, sum_3);
}

// One input of 16 samples.
fn store_dx(i: u32, first_n: u32, sums: Sums) {
    if (i >= I) { return; }
    var values = sums;
    for (var k = 0u; k < QUADS; k++) {
        store_dx_cell(first_n + k * 4u, i, values[k].x);
        store_dx_cell(first_n + k * 4u + 1u, i, values[k].y);
        store_dx_cell(first_n + k * 4u + 2u, i, values[k].z);
        store_dx_cell(first_n + k * 4u + 3u, i, values[k].w);
    }
}

fn store_dx_cell(n: u32, i: u32, value: f32) {
    let at = clamp_sample(n) * I + i;
    if (X_IS_RELU) {
        dx[at] = select(0.0, value, x[at] > 0.0);
    } else {
        dx[at] = value;
    }
}

@compute @workgroup_size(8)
fn dense_backward_w_registers(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group.x * LANES * 8u + lane;
    let quad = group.y * QUADS;
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    var sum_4 = Sums();
    var sum_5 = Sums();
    var sum_6 = Sums();
    var sum_7 = Sums();
    for (var n = 0u; n < N; n++) {
        let value_0 = x_or_one(n, i + 0u * LANES);
        let value_1 = x_or_one(n, i + 1u * LANES);
        let value_2 = x_or_one(n, i + 2u * LANES);
        let value_3 = x_or_one(n, i + 3u * LANES);
        let value_4 = x_or_one(n, i + 4u * LANES);
        let value_5 = x_or_one(n, i + 5u * LANES);
        let value_6 = x_or_one(n, i + 6u * LANES);
        let value_7 = x_or_one(n, i + 7u * LANES);
        for (var k = 0u; k < QUADS; k++) {
            let gradients = dy_by_4[n * (O / 4u) + clamp_quad(quad + k)];
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
    store_dw(i + 0u * LANES, quad, sum_0);
    store_dw(i + 1u * LANES, quad, sum_1);
    store_dw(i + 2u * LANES, quad, sum_2);
    store_dw(i + 3u * LANES, quad, sum_3);
    store_dw(i + 4u * LANES, quad, sum_4);
    store_dw(i + 5u * LANES, quad, sum_5);
    store_dw(i + 6u * LANES, quad, sum_6);
    store_dw(i + 7u * LANES, quad, sum_7);
}

// The row after the last input is the bias, whose input is 1.
fn x_or_one(n: u32, i: u32) -> f32 {
    return select(1.0, x[n * I + min(i, I - 1u)], i < I);
}

fn store_dw(i: u32, quad: u32, sums: Sums) {
    var values = sums;
    if (i < I) {
        for (var k = 0u; k < QUADS; k++) { dw_by_4[i * (O / 4u) + clamp_quad(quad + k)] = values[k]; }
    }
    if (i == I) {
        for (var k = 0u; k < QUADS; k++) { db_by_4[clamp_quad(quad + k)] = values[k]; }
    }
}

// --------------------------------------------------------------------------------------------------------- shared
//
// 64x64 outputs a workgroup of 16x16 invocations, 4x4 each; see conv2d.wgsl.

const TILE = 64u;
const STEPS = 16u;
var<workgroup> tile_a: array<vec4<f32>, 256>; // [STEPS][TILE/4], rows
var<workgroup> tile_b: array<vec4<f32>, 256>; // [STEPS][TILE/4], columns

fn x_cell(n: u32, i: u32) -> f32 {
    if (n >= N || i >= I) { return 0.0; }
    return x[n * I + i];
}

fn w_cell(i: u32, o: u32) -> f32 {
    if (i >= I || o >= O) { return 0.0; }
    return w[i * O + o];
}

fn dy_cell(n: u32, o: u32) -> f32 {
    if (n >= N || o >= O) { return 0.0; }
    return dy[n * O + o];
}

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
fn dense_forward_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let first_row = group.x * TILE;
    let first_column = group.y * TILE;
    var sums: array<vec4<f32>, 4>;
    for (var k = 0u; k < I; k += STEPS) {
        // Neighbouring invocations take neighbouring inputs of x, and neighbouring outputs of w: that is how they lie.
        let i = k + lane % STEPS;
        let n = first_row + lane / STEPS * 4u;
        tile_a[lane % STEPS * 16u + lane / STEPS] = vec4(x_cell(n, i), x_cell(n + 1u, i), x_cell(n + 2u, i), x_cell(n + 3u, i));
        let o = first_column + lane % 16u * 4u;
        let j = k + lane / 16u;
        tile_b[lane] = vec4(w_cell(j, o), w_cell(j, o + 1u), w_cell(j, o + 2u), w_cell(j, o + 3u));
        workgroupBarrier();
        multiply_tiles(local, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < 4u; r++) {
        let n = first_row + local.y * 4u + r;
        for (var k = 0u; k < 4u; k++) {
            let o = first_column + local.x * 4u + k;
            if (n < N && o < O) {
                let value = sums[r][k] + b[o];
                y[n * O + o] = select(value, max(value, 0.0), RELU);
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn dense_backward_x_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let first_row = group.x * TILE;
    let first_column = group.y * TILE;
    var sums: array<vec4<f32>, 4>;
    for (var k = 0u; k < O; k += STEPS) {
        let o = k + lane % STEPS;
        let n = first_row + lane / STEPS * 4u;
        let i = first_column + lane / STEPS * 4u;
        let at = lane % STEPS * 16u + lane / STEPS;
        tile_a[at] = vec4(dy_cell(n, o), dy_cell(n + 1u, o), dy_cell(n + 2u, o), dy_cell(n + 3u, o));
        tile_b[at] = vec4(w_cell(i, o), w_cell(i + 1u, o), w_cell(i + 2u, o), w_cell(i + 3u, o));
        workgroupBarrier();
        multiply_tiles(local, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < 4u; r++) {
        let n = first_row + local.y * 4u + r;
        for (var k = 0u; k < 4u; k++) {
            let i = first_column + local.x * 4u + k;
            if (n < N && i < I) {
                var value = sums[r][k];
                if (X_IS_RELU) { value = select(0.0, value, x[n * I + i] > 0.0); }
                dx[n * I + i] = value;
            }
        }
    }
}

@compute @workgroup_size(16, 16)
fn dense_backward_w_shared(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let first_row = group.x * TILE;
    let first_column = group.y * TILE;
    var sums: array<vec4<f32>, 4>;
    for (var k = 0u; k < N; k += STEPS) {
        let n = k + lane / 16u;
        let i = first_row + lane % 16u * 4u;
        let o = first_column + lane % 16u * 4u;
        var a = vec4(x_cell(n, i), x_cell(n, i + 1u), x_cell(n, i + 2u), x_cell(n, i + 3u));
        // The row after the last input is the bias, whose input is 1.
        if (i <= I && I < i + 4u) { a[I - i] = 1.0; }
        tile_a[lane] = a;
        tile_b[lane] = vec4(dy_cell(n, o), dy_cell(n, o + 1u), dy_cell(n, o + 2u), dy_cell(n, o + 3u));
        workgroupBarrier();
        multiply_tiles(local, &sums);
        workgroupBarrier();
    }
    for (var r = 0u; r < 4u; r++) {
        let i = first_row + local.y * 4u + r;
        for (var k = 0u; k < 4u; k++) {
            let o = first_column + local.x * 4u + k;
            if (o >= O) { continue; }
            if (i < I) { dw[i * O + o] = sums[r][k]; }
            if (i == I) { db[o] = sums[r][k]; }
        }
    }
}
