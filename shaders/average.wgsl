// average: one step of the moving average of all parameters, after the step of the optimizer.
//
//   average += rate * (w - average)          and, for lookahead, w = average;  nothing if rate = 0
//
// rate depends only on the step. The host computes it for every step of an epoch (rates): small and constant for an exponential moving
// average, except that it starts larger; zero but for every fifth step for lookahead.
// Source: Polyak and Juditsky, 1992; tf.train.ExponentialMovingAverage; Zhang and others, Lookahead optimizer, 2019.
// Host: src/ops/average.rs   Mirror: src/cpu/average.rs   Test: tests/average.rs

override LEN: u32 = 4u;          // a multiple of four: four parameters per invocation
override PULLS: bool = false;    // whether the parameters jump to the average

@group(0) @binding(0) var<storage, read_write> w: array<vec4<f32>>;         // [LEN] the parameters
@group(0) @binding(1) var<storage, read_write> average: array<vec4<f32>>;   // [LEN]
@group(0) @binding(2) var<storage, read> rates: array<vec4<f32>>;     // [batches of the epoch] the third: rate
@group(0) @binding(3) var<storage, read> progress: array<u32>;        // [2]: batches of this epoch whose loss is known, including this one; samples

@compute @workgroup_size(64)
fn average_step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let rate = rates[progress[0] - 1u].z;
    if (index >= LEN / 4u || rate == 0.0) { return; }
    let moved = average[index] + rate * (w[index] - average[index]);
    average[index] = moved;
    if (PULLS) { w[index] = moved; }
}
