// dense: a fully connected layer, and its two gradients: the matrix product in its three transpositions.
//
//   y[n,o] = b[o] + sum over i of x[n,i] * w[i,o]           x  w
//   dx[n,i] = sum over o of dy[n,o] * w[i,o]                dy w^T
//   dw[i,o] = sum over n of x[n,i] * dy[n,o]                x^T dy          db[o] = sum over n of dy[n,o]
//
// Layout: row-major. Source: keras.layers.Dense.
// Host: src/ops/dense.rs   Mirror: src/cpu/dense.rs   Test: tests/dense.rs
// The three forms of each pass (plain, _shared, and _subgroup in dense_subgroup.wgsl) are explained in conv2d.wgsl.

override N: u32 = 1u;               // rows, the batch
override I: u32 = 1u;               // inputs
override O: u32 = 4u;               // outputs
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x came out of a ReLU, so dx is 0 where x is 0

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, I]
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [I, O]
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, O]
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, O]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, I]
@group(0) @binding(6) var<storage, read_write> dw: array<f32>;       // [I, O]
@group(0) @binding(7) var<storage, read_write> db: array<f32>;       // [O]

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
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let first_row = (group.z * groups.x + group.x) * TILE;
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
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let first_row = (group.z * groups.x + group.x) * TILE;
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
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let first_row = (group.z * groups.x + group.x) * TILE;
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
