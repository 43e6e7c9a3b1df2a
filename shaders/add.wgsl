// add: the sum of two tensors.
//
//   y = x1 + x2          (dx1 and dx2 are dy)
//
// Any shape, LEN elements; x1 and x2 may be the same tensor. Source: keras.layers.Add.
// Host: src/ops/add.rs   Mirror: src/cpu/add.rs   Test: tests/add.rs
// If several layers read a tensor, its gradient is the sum of theirs, which this kernel also computes.

override LEN: u32 = 1u;

@group(0) @binding(0) var<storage, read> x1: array<f32>;        // [LEN]
@group(0) @binding(1) var<storage, read> x2: array<f32>;        // [LEN]
@group(0) @binding(2) var<storage, read_write> y: array<f32>;   // [LEN]

@compute @workgroup_size(64)
fn add_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    y[index] = x1[index] + x2[index];
}
