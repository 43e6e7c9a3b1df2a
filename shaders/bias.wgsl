// bias: adds one number per column.
//
//   y[n,o] = x[n,o] + b[o]          db[o] = sum over n of dy[n,o]          (dx is dy)
//
// Layout: row-major; N counts every row, so an image in NHWC has N*H*W of them. Source: tf.nn.bias_add.
// Host: src/ops/bias.rs   Mirror: src/cpu/bias.rs   Test: tests/bias.rs
// conv2d and dense include the bias, forward and backward; this is the same computation as a separate operation.

override N: u32 = 1u;   // rows
override O: u32 = 1u;   // columns

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [N, O]
@group(0) @binding(1) var<storage, read> b: array<f32>;         // [O]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [N, O]
@group(0) @binding(3) var<storage, read> dy: array<f32>;        // [N, O]
@group(0) @binding(4) var<storage, read_write> db: array<f32>;  // [O]

@compute @workgroup_size(64)
fn bias_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * O) { return; }
    y[index] = x[index] + b[index % O];
}

@compute @workgroup_size(64)
fn bias_backward_b(@builtin(global_invocation_id) id: vec3<u32>) {
    let o = id.x;
    if (o >= O) { return; }
    var sum = 0.0;
    for (var n = 0u; n < N; n++) { sum += dy[n * O + o]; }
    db[o] = sum;
}
