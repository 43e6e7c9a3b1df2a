// relu: the rectified linear unit.
//
//   y = max(x, 0)          dx = dy where y > 0, else 0
//
// Any shape, LEN elements. Source: tf.nn.relu; the gradient at 0 is 0, as in TensorFlow.
// Host: src/ops/relu.rs   Mirror: src/cpu/relu.rs   Test: tests/relu.rs
// After conv2d and dense it is part of their kernels; this is the same computation as a separate operation.

override LEN: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [LEN]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [LEN]
@group(0) @binding(2) var<storage, read> y_in: array<f32>;      // [LEN]: y, read
@group(0) @binding(3) var<storage, read> dy: array<f32>;        // [LEN]
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;  // [LEN]

@compute @workgroup_size(64)
fn relu_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    y[index] = max(x[index], 0.0);
}

@compute @workgroup_size(64)
fn relu_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    dx[index] = select(0.0, dy[index], y_in[index] > 0.0);
}
