// sgd: one step of stochastic gradient descent with momentum over all parameters, as in Keras.
//
//   w -= decay * w, weights only                                g = clip * gradient
//   velocity = momentum * velocity - learning_rate * g          w += velocity
//   with Nesterov's momentum, instead of the last:              w += momentum * velocity - learning_rate * g
//
// The padding between the tensors of an arena stays 0: so are its gradients.
// Source: keras.optimizers.SGD.
// Host: src/ops/sgd.rs   Mirror: src/cpu/sgd.rs   Test: tests/sgd.rs

override LEN: u32 = 1u;
override MOMENTUM: f32 = 0.0;
override NESTEROV: bool = false;
override DECAYED: u32 = 0u;          // the first elements, which decay: all weights, or none
override FIRST_BIAS: u32 = 1u;       // the elements after the weights: biases, scales, shifts; LEN if the learning rate is the same everywhere
override FIRST_SCALE: u32 = 1u;
override FIRST_SHIFT: u32 = 1u;
override BIAS_FACTOR: f32 = 1.0;     // of their learning rates
override SCALE_FACTOR: f32 = 1.0;
override SHIFT_FACTOR: f32 = 1.0;
override CLIP: bool = false;         // whether the gradients are multiplied by clip[0]

@group(0) @binding(0) var<storage, read> g: array<f32>;               // [LEN] gradients of all parameters
@group(0) @binding(1) var<storage, read_write> w: array<f32>;         // [LEN] the parameters
@group(0) @binding(2) var<storage, read_write> velocity: array<f32>;  // [LEN]
@group(0) @binding(3) var<storage, read> rates: array<vec4<f32>>;     // [batches of the epoch] learning rate, decay, and numbers of others
@group(0) @binding(4) var<storage, read> progress: array<u32>;        // [2]: batches of this epoch whose loss is known, including this one; samples
@group(0) @binding(5) var<storage, read> clip: array<f32>;            // [1] factor of the gradients

// Returns the learning rate of element `i`, for which `size` is that of a weight.
fn step_size(i: u32, size: f32) -> f32 {
    if (FIRST_BIAS >= LEN || i < FIRST_BIAS) { return size; }
    if (i < FIRST_SCALE) { return size * BIAS_FACTOR; }
    if (i < FIRST_SHIFT) { return size * SCALE_FACTOR; }
    return size * SHIFT_FACTOR;
}

@compute @workgroup_size(64)
fn sgd_step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    let rate = rates[progress[0] - 1u];
    var gradient = g[index];
    if (CLIP) { gradient *= clip[0]; }
    let downhill = step_size(index, rate.x) * gradient;
    var change = MOMENTUM * velocity[index] - downhill;
    velocity[index] = change;
    if (NESTEROV) { change = MOMENTUM * change - downhill; }
    var weight = w[index];
    if (index < DECAYED) { weight -= rate.y * weight; }
    w[index] = weight + change;
}
