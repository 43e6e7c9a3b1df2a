// sgd: one step of stochastic gradient descent with momentum over all parameters, as in Keras.
//
//   velocity = momentum * velocity - learning_rate * g          w += velocity
//
// Source: keras.optimizers.SGD without Nesterov.
// Host: src/ops/sgd.rs   Mirror: src/cpu/sgd.rs   Test: tests/sgd.rs

override LEN: u32 = 1u;
override MOMENTUM: f32 = 0.0;

@group(0) @binding(0) var<storage, read> g: array<f32>;               // [LEN] gradients of all parameters
@group(0) @binding(1) var<storage, read_write> w: array<f32>;         // [LEN] the parameters
@group(0) @binding(2) var<storage, read_write> velocity: array<f32>;  // [LEN]
@group(0) @binding(3) var<storage, read> rates: array<vec4<f32>>;     // [batches of the epoch] learning rate, and numbers of others
@group(0) @binding(4) var<storage, read> progress: array<u32>;        // [2]: batches of this epoch whose loss is known, including this one; samples

@compute @workgroup_size(64)
fn sgd_step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN) { return; }
    let change = MOMENTUM * velocity[index] - rates[progress[0] - 1u].x * g[index];
    velocity[index] = change;
    w[index] += change;
}
