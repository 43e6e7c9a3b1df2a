// clip: the factor that limits the norm of all gradients together.
//
//   factor = CLIP_NORM / norm if norm > CLIP_NORM, otherwise 1          norm = sqrt(sum of g[i]^2)
//
// The sum has two levels, each in a fixed order: a workgroup sums one of PARTS parts, and one workgroup sums these. The
// optimizer multiplies the gradients, which stay as they are.
// Source: Pascanu et al., On the difficulty of training recurrent neural networks, 2013; global_clipnorm of Keras.
// Host: src/ops/clip.rs   Mirror: src/cpu/clip.rs   Test: tests/clip.rs

override LEN: u32 = 1u;
override PARTS: u32 = 1u;             // at most LANES
override CLIP_NORM: f32 = 1.0;

@group(0) @binding(0) var<storage, read> g: array<f32>;                 // [LEN] gradients of all parameters
@group(0) @binding(1) var<storage, read_write> parts_out: array<f32>;   // [PARTS] sums of squares
@group(0) @binding(2) var<storage, read> parts: array<f32>;             // [PARTS]: parts_out, read
@group(0) @binding(3) var<storage, read_write> factor: array<f32>;      // [1]

const LANES = 256u;
var<workgroup> tile: array<f32, LANES>;

// Returns the sum of `value` over the lanes of a workgroup, in lane 0.
fn sum_of_lanes(value: f32, lane: u32) -> f32 {
    tile[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) { tile[lane] += tile[lane + half]; }
        workgroupBarrier();
    }
    return tile[0];
}

// Lane l of part p sums the elements p * LANES + l, and those PARTS * LANES further on.
@compute @workgroup_size(LANES)
fn clip_factor_parts(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = group.x * LANES + lane; i < LEN; i += PARTS * LANES) { sum += g[i] * g[i]; }
    let part = sum_of_lanes(sum, lane);
    if (lane == 0u) { parts_out[group.x] = part; }
}

@compute @workgroup_size(LANES)
fn clip_factor(@builtin(local_invocation_index) lane: u32) {
    var part = 0.0;
    if (lane < PARTS) { part = parts[lane]; }
    let norm = sqrt(sum_of_lanes(part, lane));
    if (lane == 0u) { factor[0] = select(1.0, CLIP_NORM / norm, norm > CLIP_NORM); }
}
