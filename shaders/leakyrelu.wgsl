// leakyrelu: the leaky rectified linear unit.
//
//   y = x where x > 0, else SLOPE x          dx = dy where y > 0, else SLOPE dy
//
// Any shape, LEN elements; SLOPE is not negative, so y > 0 exactly where x > 0. Source: Maas, Hannun and Ng, Rectifier
// Nonlinearities Improve Neural Network Acoustic Models, 2013; tf.nn.leaky_relu, whose gradient at 0 is the slope.
// Host: src/ops/leakyrelu.rs   Mirror: src/cpu/leakyrelu.rs   Test: tests/leakyrelu.rs

override LEN: u32 = 1u;
override SLOPE: f32 = 0.01;   // the factor of negative inputs

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [LEN]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [LEN]
@group(0) @binding(2) var<storage, read> y_in: array<f32>;      // [LEN]: y, read
@group(0) @binding(3) var<storage, read> dy: array<f32>;        // [LEN]
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;  // [LEN]

@compute @workgroup_size(64)
fn leakyrelu_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    let value = x[index];
    y[index] = select(SLOPE * value, value, value > 0.0);
}

@compute @workgroup_size(64)
fn leakyrelu_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    let gradient = dy[index];
    dx[index] = select(SLOPE * gradient, gradient, y_in[index] > 0.0);
}
