// silu: the sigmoid linear unit (swish).
//
//   y = x s                        s = 1 / (1 + exp(-x))
//   dx = dy (s + x s (1 - s))
//
// Any shape, LEN elements. Source: Elfwing, Uchibe and Doya, Sigmoid-Weighted Linear Units, 2017; keras.ops.silu.
// Host: src/ops/silu.rs   Mirror: src/cpu/silu.rs   Test: tests/silu.rs
// Beyond 87 and -87, s is 1 or 0 to 37 digits. It is computed no farther out: exp(-x) is just below 2^126 there, up to which
// WGSL guarantees the accuracy of a division. Compilers may assume that nothing is infinite.

override LEN: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [LEN]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [LEN]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [LEN]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;  // [LEN]

const FAR = 87.0;

@compute @workgroup_size(64)
fn silu_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    let value = x[index];
    let s = 1.0 / (1.0 + exp(-clamp(value, -FAR, FAR)));
    y[index] = select(value * s, 0.0, value < -FAR);
}

@compute @workgroup_size(64)
fn silu_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    let z = clamp(x[index], -FAR, FAR);
    let e = exp(-z);
    let s = 1.0 / (1.0 + e);
    // e s is 1 - s, without cancellation.
    dx[index] = dy[index] * (s * (1.0 + z * (e * s)));
}
