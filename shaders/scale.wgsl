// scale: a fixed factor.
//
//   y = FACTOR x          dx = FACTOR dy
//
// Any shape, LEN elements. Source: keras.layers.Rescaling.
// Host: src/ops/scale.rs   Mirror: src/cpu/scale.rs   Test: tests/scale.rs

override LEN: u32 = 1u;
override FACTOR: f32 = 1.0;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [LEN]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [LEN]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [LEN]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;  // [LEN]

@compute @workgroup_size(64)
fn scale_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    y[index] = FACTOR * x[index];
}

@compute @workgroup_size(64)
fn scale_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    dx[index] = FACTOR * dy[index];
}
