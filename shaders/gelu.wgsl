// gelu: the Gaussian error linear unit, in its tanh form.
//
//   y = 0.5 x (1 + tanh(u)) = x s          u = sqrt(2/pi) (x + 0.044715 x^3)          s = 1 / (1 + exp(-2u))
//   dx = dy (s + x s (1 - s) d(2u)/dx)     d(2u)/dx = 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2)
//
// Any shape, LEN elements. Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016; keras.ops.gelu with
// approximate=True.
// Host: src/ops/gelu.rs   Mirror: src/cpu/gelu.rs   Test: tests/gelu.rs
// Beyond 10 and -10, s is 1 or 0 to 37 digits, and the derivative to 35. They are computed no farther out: exp(-2u) is just
// below 2^126 there, up to which WGSL guarantees the accuracy of a division. Compilers may assume that nothing is infinite.

override LEN: u32 = 1u;

@group(0) @binding(0) var<storage, read> x: array<f32>;         // [LEN]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;   // [LEN]
@group(0) @binding(2) var<storage, read> dy: array<f32>;        // [LEN]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;  // [LEN]

const FAR = 10.0;
const TWICE_ROOT = 1.5957691216057308;   // 2 sqrt(2/pi)
const CUBIC = 0.044715;

// Returns exp(-2u); `z` is x in -FAR..FAR.
fn exponential(z: f32) -> f32 {
    return exp(-(TWICE_ROOT * z * (1.0 + CUBIC * (z * z))));
}

@compute @workgroup_size(64)
fn gelu_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    let value = x[index];
    let s = 1.0 / (1.0 + exponential(clamp(value, -FAR, FAR)));
    y[index] = select(value * s, 0.0, value < -FAR);
}

@compute @workgroup_size(64)
fn gelu_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    let z = clamp(x[index], -FAR, FAR);
    let e = exponential(z);
    let s = 1.0 / (1.0 + e);
    let slope = TWICE_ROOT * (1.0 + 3.0 * CUBIC * (z * z));
    // e s is 1 - s, without cancellation.
    dx[index] = dy[index] * (s * (1.0 + z * (e * s) * slope));
}
