// adam: one step of Adam over all parameters, as in Keras.
//
//   m += (g - m) * (1 - beta_1)          v += (g*g - v) * (1 - beta_2)          w -= alpha * m / (sqrt(v) + epsilon)
//   alpha = learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)
//
// alpha depends only on the step. The host computes it in double precision for every step of an epoch (rates): in
// single precision, a power of 0.999 would leave 1 - beta_2^t with few digits in the first steps. A schedule needs no
// other code.
// Source: Kingma and Ba, Adam, 2015, end of section 2; keras.optimizers.Adam.
// Host: src/ops/adam.rs   Mirror: src/cpu/adam.rs   Test: tests/adam.rs

override LEN: u32 = 4u;   // a multiple of four: four parameters per invocation
override ONE_MINUS_BETA_1: f32 = 0.1;     // computed in double precision: 1 - 0.999 in single precision has a relative error of 1e-5
override ONE_MINUS_BETA_2: f32 = 0.001;
override EPSILON: f32 = 1e-7;

@group(0) @binding(0) var<storage, read> g: array<vec4<f32>>;              // [LEN] gradients of all parameters
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;        // [LEN] the parameters
@group(0) @binding(2) var<storage, read_write> m: array<vec4<f32>>;        // [LEN] first moments
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;        // [LEN] second moments
@group(0) @binding(4) var<storage, read> rates: array<vec4<f32>>;    // [batches of the epoch] alpha, and numbers of others
@group(0) @binding(5) var<storage, read> progress: array<u32>;       // [2]: batches of this epoch whose loss is known, including this one; samples

@compute @workgroup_size(64)
fn adam_step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN / 4u) { return; }
    let alpha = rates[progress[0] - 1u].x;
    let gradient = g[index];
    let first = m[index] + (gradient - m[index]) * ONE_MINUS_BETA_1;
    let second = v[index] + (gradient * gradient - v[index]) * ONE_MINUS_BETA_2;
    m[index] = first;
    v[index] = second;
    w[index] -= alpha * first / (sqrt(second) + vec4(EPSILON));
}
