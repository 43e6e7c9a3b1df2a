// leaky_relu: a rectified linear unit with a small slope for negative inputs.
//
//   y = x if x > 0, else SLOPE * x
//
// Any shape, LEN elements. Source: Maas, Hannun, Ng, 2013.

override LEN: u32 = 1u;
override SLOPE: f32 = 0.01;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [LEN]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [LEN]

@compute @workgroup_size(64)
fn leaky_relu_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    y[index] = select(SLOPE * x[index], x[index], x[index] > 0.0);
}
