// dense: a fully connected layer and its two gradients: the matrix product in its three transpositions.
//
//   y[n,o] = b[o] + sum over i of x[n,i] * w[i,o]           x  w
//   dx[n,i] = sum over o of dy[n,o] * w[i,o]                dy w^T
//   dw[i,o] = sum over n of x[n,i] * dy[n,o]                x^T dy          db[o] = sum over n of dy[n,o]
//
// Layout: row-major. Source: keras.layers.Dense.
// Host: src/ops/dense.rs   Mirror: src/cpu/dense.rs   Test: tests/dense.rs
// The other forms of each pass, _shared and _subgroup, are in separate files; conv2d.wgsl explains the three forms.
//
// The passes `_by_4`, for I and O that are multiples of four, compute four rows of four columns per invocation: each value
// loaded serves four products. Loads are what costs on a software adapter: training of the MLP is 4.5 times as fast on
// Chromium's SwiftShader.

override N: u32 = 1u;               // rows, the batch
override I: u32 = 4u;               // inputs
override O: u32 = 4u;               // outputs
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override PARTS: u32 = 1u;           // forward_sum: number of parts

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, I]
@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;   // the same, four at once; likewise below
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [I, O]
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, I]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> dw: array<f32>;       // [I, O]
@group(0) @binding(6) var<storage, read_write> dw_by_4: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> db: array<f32>;       // [O]
@group(0) @binding(7) var<storage, read_write> db_by_4: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> parts: array<f32>;          // [parts, N, O]: y_parts of dense_shared.wgsl

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

// Sums the parts of y, in the order of the inputs.
@compute @workgroup_size(64)
fn dense_forward_sum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * O) { return; }
    var sum = b[index % O];
    for (var part = 0u; part < PARTS; part++) {
        sum += parts[part * (N * O) + index];
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

// Rows past the end repeat the last one, and are not stored.
fn row(n: u32) -> u32 {
    return min(n, N - 1u);
}

@compute @workgroup_size(64)
fn dense_forward_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = O / 4u;
    let quad = index % quads;
    let n = index / quads * 4u;
    if (n >= N) { return; }
    let x_0 = row(n + 0u) * (I / 4u);
    let x_1 = row(n + 1u) * (I / 4u);
    let x_2 = row(n + 2u) * (I / 4u);
    let x_3 = row(n + 3u) * (I / 4u);
    var sum_0 = b_by_4[quad];
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    for (var i = 0u; i < I / 4u; i++) {
        // Four outputs of each of four inputs: the columns of a matrix.
        let w = mat4x4(
            w_by_4[(i * 4u + 0u) * quads + quad], w_by_4[(i * 4u + 1u) * quads + quad],
            w_by_4[(i * 4u + 2u) * quads + quad], w_by_4[(i * 4u + 3u) * quads + quad]
        );
        sum_0 += w * x_by_4[x_0 + i];
        sum_1 += w * x_by_4[x_1 + i];
        sum_2 += w * x_by_4[x_2 + i];
        sum_3 += w * x_by_4[x_3 + i];
    }
    store_y(n + 0u, quad, sum_0);
    store_y(n + 1u, quad, sum_1);
    store_y(n + 2u, quad, sum_2);
    store_y(n + 3u, quad, sum_3);
}

fn store_y(n: u32, quad: u32, sum: vec4<f32>) {
    if (n < N) { y_by_4[n * (O / 4u) + quad] = select(sum, max(sum, vec4(0.0)), RELU); }
}

@compute @workgroup_size(64)
fn dense_backward_x_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = I / 4u;
    let quad = index % quads;
    let n = index / quads * 4u;
    if (n >= N) { return; }
    let w_0 = (quad * 4u + 0u) * (O / 4u);
    let w_1 = (quad * 4u + 1u) * (O / 4u);
    let w_2 = (quad * 4u + 2u) * (O / 4u);
    let w_3 = (quad * 4u + 3u) * (O / 4u);
    let dy_0 = row(n + 0u) * (O / 4u);
    let dy_1 = row(n + 1u) * (O / 4u);
    let dy_2 = row(n + 2u) * (O / 4u);
    let dy_3 = row(n + 3u) * (O / 4u);
    var sum_0 = vec4(0.0);
    var sum_1 = vec4(0.0);
    var sum_2 = vec4(0.0);
    var sum_3 = vec4(0.0);
    for (var o = 0u; o < O / 4u; o++) {
        // Four outputs of each of four inputs: the columns of a matrix, which a vector on the left multiplies one by one.
        let w = mat4x4(w_by_4[w_0 + o], w_by_4[w_1 + o], w_by_4[w_2 + o], w_by_4[w_3 + o]);
        sum_0 += dy_by_4[dy_0 + o] * w;
        sum_1 += dy_by_4[dy_1 + o] * w;
        sum_2 += dy_by_4[dy_2 + o] * w;
        sum_3 += dy_by_4[dy_3 + o] * w;
    }
    store_dx(n + 0u, quad, sum_0);
    store_dx(n + 1u, quad, sum_1);
    store_dx(n + 2u, quad, sum_2);
    store_dx(n + 3u, quad, sum_3);
}

fn store_dx(n: u32, quad: u32, sum: vec4<f32>) {
    if (n >= N) { return; }
    let at = n * (I / 4u) + quad;
    var value = sum;
    if (X_IS_RELU) { value = select(vec4(0.0), sum, x_by_4[at] > vec4(0.0)); }
    dx_by_4[at] = value;
}

// Rows are inputs. The gradient of the bias is the sum of what all rows read; those of the first quad store it.
@compute @workgroup_size(64)
fn dense_backward_w_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = O / 4u;
    let quad = index % quads;
    let i = index / quads;
    if (i >= I / 4u) { return; }
    var sum_0 = vec4(0.0);
    var sum_1 = vec4(0.0);
    var sum_2 = vec4(0.0);
    var sum_3 = vec4(0.0);
    var sum_bias = vec4(0.0);
    for (var n = 0u; n < N; n++) {
        let inputs = x_by_4[n * (I / 4u) + i];
        let gradients = dy_by_4[n * quads + quad];
        sum_0 += inputs.x * gradients;
        sum_1 += inputs.y * gradients;
        sum_2 += inputs.z * gradients;
        sum_3 += inputs.w * gradients;
        sum_bias += gradients;
    }
    dw_by_4[(i * 4u + 0u) * quads + quad] = sum_0;
    dw_by_4[(i * 4u + 1u) * quads + quad] = sum_1;
    dw_by_4[(i * 4u + 2u) * quads + quad] = sum_2;
    dw_by_4[(i * 4u + 3u) * quads + quad] = sum_3;
    if (i == 0u) { db_by_4[quad] = sum_bias; }
}
