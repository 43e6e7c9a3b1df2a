// dropout: each element is zero with a probability, and otherwise larger by as much as keeps its mean.
//
//   y[i] = x[i] * SCALE if word[i] >= THRESHOLD, else 0        SCALE = 1 / (1 - rate), THRESHOLD = 2^32 rate
//   dx[i] = dy[i] * SCALE if word[i] >= THRESHOLD, else 0
//
// word[i] is drawn from seed, epoch and step of the training, the layer (STREAM), and the index i in the batch; the backward pass
// draws it once more. By then the loss has advanced the batch counter. Four elements share a draw, and an invocation computes them.
// Any shape, LEN elements. Source: Srivastava et al., Dropout, 2014; keras.layers.Dropout.
// Host: src/ops/dropout.rs   Mirror: src/cpu/dropout.rs   Test: tests/dropout.rs

override LEN: u32 = 1u;
override THRESHOLD: u32 = 0u;
override SCALE: f32 = 1.0;
override STREAM: u32 = 0u;

@group(0) @binding(0) var<storage, read> x: array<f32>;          // [LEN]
@group(0) @binding(1) var<storage, read_write> y: array<f32>;    // [LEN]
@group(0) @binding(2) var<storage, read> dy: array<f32>;         // [LEN]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;   // [LEN]
@group(0) @binding(4) var<storage, read> progress: array<u32>;   // [2]: batches of this epoch whose loss is known; samples
@group(0) @binding(5) var<storage, read> random: array<u32>;     // [3]: lower and upper word of the seed, epoch

// Returns a bit for each of four elements: 1 if it is kept.
fn kept(block: u32, step: u32) -> u32 {
    let words = philox(vec4(block, step, random[2], STREAM), vec2(random[0], random[1]));
    let bits = select(vec4(0u), vec4(1u, 2u, 4u, 8u), words >= vec4(THRESHOLD));
    return bits.x | bits.y | bits.z | bits.w;
}

@compute @workgroup_size(64)
fn dropout_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let block = id.y * groups.x * 64u + id.x;
    let bits = kept(block, progress[0]);
    for (var i = 0u; i < 4u; i++) {
        let index = block * 4u + i;
        if (index >= LEN) { return; }
        y[index] = select(0.0, x[index] * SCALE, ((bits >> i) & 1u) == 1u);
    }
}

@compute @workgroup_size(64)
fn dropout_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let block = id.y * groups.x * 64u + id.x;
    let bits = kept(block, progress[0] - 1u);
    for (var i = 0u; i < 4u; i++) {
        let index = block * 4u + i;
        if (index >= LEN) { return; }
        dx[index] = select(0.0, dy[index] * SCALE, ((bits >> i) & 1u) == 1u);
    }
}
