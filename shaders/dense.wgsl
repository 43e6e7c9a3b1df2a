// dense: a fully connected layer and its two gradients: the matrix product in its three transpositions.
//
//   y[n,o] = b[o] + sum over i of x[n,i] * w[i,o]           x  w
//   dx[n,i] = sum over o of dy[n,o] * w[i,o]                dy w^T
//   dw[i,o] = sum over n of x[n,i] * dy[n,o]                x^T dy          db[o] = sum over n of dy[n,o]
//
// Layout: row-major. Source: keras.layers.Dense.
// Host: src/ops/dense.rs   Mirror: src/cpu/dense.rs   Test: tests/dense.rs
// The other forms of each pass, _shared and _subgroup, are in separate files; conv2d.wgsl explains the three forms.

override N: u32 = 1u;               // rows, the batch
override I: u32 = 1u;               // inputs
override O: u32 = 4u;               // outputs
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override PARTS: u32 = 1u;           // forward_sum: number of parts

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, I]
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [I, O]
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, O]
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, O]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, I]
@group(0) @binding(6) var<storage, read_write> dw: array<f32>;       // [I, O]
@group(0) @binding(7) var<storage, read_write> db: array<f32>;       // [O]
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
