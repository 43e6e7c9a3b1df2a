// adam: one step of Adam over all parameters, as in Keras.
//
//   w -= decay * w, weights only         g = clip * gradient
//   m += (g - m) * (1 - beta_1)          v += (g*g - v) * (1 - beta_2)          w -= alpha * m / (sqrt(v) + epsilon)
//   alpha = learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)
//
// alpha and decay depend only on the step. The host computes them in double precision for every step of an epoch (rates):
// in single precision, a power of 0.999 would leave 1 - beta_2^t with few digits in the first steps. A schedule needs no
// other code. The padding between the tensors of an arena stays 0: so are its gradients.
// Source: Kingma and Ba, Adam, 2015, end of section 2; Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019;
// keras.optimizers.Adam and AdamW.
// Host: src/ops/adam.rs   Mirror: src/cpu/adam.rs   Test: tests/adam.rs

override LEN: u32 = 4u;   // a multiple of four: four parameters per invocation
override ONE_MINUS_BETA_1: f32 = 0.1;     // computed in double precision: 1 - 0.999 in single precision has a relative error of 1e-5
override ONE_MINUS_BETA_2: f32 = 0.001;
override EPSILON: f32 = 1e-7;
override DECAYED: u32 = 0u;          // the first elements, which decay: all weights, or none; a multiple of four, as the following
override FIRST_BIAS: u32 = 4u;       // the elements after the weights: biases, scales, shifts; LEN if the learning rate is the same everywhere
override FIRST_SCALE: u32 = 4u;
override FIRST_SHIFT: u32 = 4u;
override BIAS_FACTOR: f32 = 1.0;     // of their learning rates
override SCALE_FACTOR: f32 = 1.0;
override SHIFT_FACTOR: f32 = 1.0;
override CLIP: bool = false;         // whether the gradients are multiplied by clip[0]

@group(0) @binding(0) var<storage, read> g: array<vec4<f32>>;              // [LEN] gradients of all parameters
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;        // [LEN] the parameters
@group(0) @binding(2) var<storage, read_write> m: array<vec4<f32>>;        // [LEN] first moments
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;        // [LEN] second moments
@group(0) @binding(4) var<storage, read> rates: array<vec4<f32>>;    // [batches of the epoch] alpha, decay, and numbers of others
@group(0) @binding(5) var<storage, read> progress: array<u32>;       // [2]: batches of this epoch whose loss is known, including this one; samples
@group(0) @binding(6) var<storage, read> clip: array<f32>;           // [1] factor of the gradients

// Returns the factor of the update of element `i`, for which `size` is that of a weight.
fn step_size(i: u32, size: f32) -> f32 {
    if (FIRST_BIAS >= LEN || i < FIRST_BIAS) { return size; }
    if (i < FIRST_SCALE) { return size * BIAS_FACTOR; }
    if (i < FIRST_SHIFT) { return size * SCALE_FACTOR; }
    return size * SHIFT_FACTOR;
}

@compute @workgroup_size(64)
fn adam_step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN / 4u) { return; }
    let rate = rates[progress[0] - 1u];
    let alpha = step_size(4u * index, rate.x);
    var gradient = g[index];
    if (CLIP) { gradient *= clip[0]; }
    let first = m[index] + (gradient - m[index]) * ONE_MINUS_BETA_1;
    let second = v[index] + (gradient * gradient - v[index]) * ONE_MINUS_BETA_2;
    m[index] = first;
    v[index] = second;
    var weight = w[index];
    if (index < DECAYED / 4u) { weight -= rate.y * weight; }
    w[index] = weight - alpha * first / (sqrt(second) + vec4(EPSILON));
}
