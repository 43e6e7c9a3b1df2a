// batch_gather: the next batch of images and labels, in the order of the epoch's permutation.
//
//   row r of the batch is sample s = order[batch*N + r]:  x[r,:] = images[s,:] / 255,  batch_labels[r] = labels[s]
//   rows past the end of the epoch are zeros with label 0
//
// batch_gather_augmented, for training: with p, q, side and hole drawn for sample s from seed and epoch (random),
//
//   a[s,i,j,:] = images[s, i + p - SHIFT, (W - 1 - j or j) + q - SHIFT, :] / 255,  0 outside of the image and in the hole
//   x[r,i,j,:] = kept a[s,i,j,:] + (1 - kept) a[t,i,j,:] in the rectangle of the step (mixes),  a[s,i,j,:] elsewhere
//
// where t is the sample of the next row, and that of row 0 for the last row that counts. The draws of a step are made by the
// host, in double precision.
//
// The data set stays on the GPU as bytes, four per word (little-endian): 47 MB instead of 188 MB, and no upload in the
// training loop.
// Host: src/ops/batch_gather.rs   Mirror: src/cpu/batch_gather.rs   Test: tests/batch_gather.rs

override N: u32 = 1u;        // rows, the batch
override PIXELS: u32 = 4u;   // bytes of one image, a multiple of 4
override H: u32 = 1u;        // rows of an image
override W: u32 = 1u;        // columns
override C: u32 = 1u;        // channels
override SHIFT: u32 = 0u;    // pixels by which an image is moved at most
override FLIP: u32 = 0u;     // 0: never, 1: at random, 2: in every other epoch
override CUTOUT: u32 = 0u;   // side of the hole in pixels
override MIXES: u32 = 0u;    // whether images are mixed

@group(0) @binding(0) var<storage, read> images: array<u32>;                // [samples, PIXELS / 4] packed bytes
@group(0) @binding(1) var<storage, read> labels: array<u32>;                // [samples / 4] packed bytes
@group(0) @binding(2) var<storage, read> order: array<u32>;                 // [samples of the epoch]
@group(0) @binding(3) var<storage, read> progress: array<u32>;              // [2]: batches done in this epoch, samples of the epoch
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>;         // [N, PIXELS / 4]
@group(0) @binding(5) var<storage, read_write> batch_labels: array<u32>;    // [N]
@group(0) @binding(6) var<storage, read> random: array<u32>;                // [3]: lower and upper word of the seed, epoch
@group(0) @binding(7) var<storage, read> mixes: array<u32>;                 // [batches, 5]: top, left, bottom, right, bits of kept

// The streams of src/cpu/philox.rs.
const AUGMENT = 0u;
const HOLE = 1u;
const SIDE = 2u;

fn byte(at: u32) -> f32 {
    return f32((images[at / 4u] >> (at % 4u * 8u)) & 255u);
}

// What is drawn for a sample.
struct Drawn { sample: u32, down: u32, right: u32, flipped: bool, hole_top: u32, hole_left: u32 }

fn draw(sample: u32) -> Drawn {
    let key = vec2(random[0], random[1]);
    let epoch = random[2];
    let words = philox(vec4(sample, 0u, epoch, AUGMENT), key);
    var drawn = Drawn(sample, below(words.x, 2u * SHIFT + 1u), below(words.y, 2u * SHIFT + 1u), false, 0u, 0u);
    if (FLIP == 1u) { drawn.flipped = below(words.z, 2u) == 1u; }
    if (FLIP == 2u) {
        let side = below(philox(vec4(sample, 0u, 0u, SIDE), key).x, 2u);
        drawn.flipped = (side + epoch) % 2u == 1u;
    }
    if (CUTOUT > 0u) {
        let hole = philox(vec4(sample, 0u, epoch, HOLE), key);
        drawn.hole_top = below(hole.x, H - min(CUTOUT, H) + 1u);
        drawn.hole_left = below(hole.y, W - min(CUTOUT, W) + 1u);
    }
    return drawn;
}

// Returns a value of the augmented image of a sample.
fn augmented(drawn: Drawn, i: u32, j: u32, channel: u32) -> f32 {
    // Left of the image and above it, the difference wraps around to a huge number.
    let row = i + drawn.down - SHIFT;
    let column = select(j, W - 1u - j, drawn.flipped) + drawn.right - SHIFT;
    let in_hole = i - drawn.hole_top < CUTOUT && j - drawn.hole_left < CUTOUT;
    if (row >= H || column >= W || in_hole) { return 0.0; }
    return byte(drawn.sample * PIXELS + (row * W + column) * C + channel) / 255.0;
}

@compute @workgroup_size(64)
fn batch_gather(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let words = PIXELS / 4u;
    if (index >= N * words) { return; }
    let r = index / words;
    let word = index % words;
    let i = progress[0] * N + r;
    let valid = i < progress[1];
    let sample = order[select(0u, i, valid)];
    let packed = select(0u, images[sample * words + word], valid);
    let bytes = (vec4(packed) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u);
    x[index] = vec4<f32>(bytes) / 255.0;
    if (word == 0u) {
        batch_labels[r] = select(0u, (labels[sample / 4u] >> (sample % 4u * 8u)) & 255u, valid);
    }
}

@compute @workgroup_size(64)
fn batch_gather_augmented(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let words = PIXELS / 4u;
    if (index >= N * words) { return; }
    let r = index / words;
    let first = progress[0] * N;
    let n_valid = min(progress[1] - first, N);
    if (r >= n_valid) {
        x[index] = vec4(0.0);
        if (index % words == 0u) { batch_labels[r] = 0u; }
        return;
    }
    let sample = order[first + r];
    let own = draw(sample);
    var partner = own;
    let mix = progress[0] * 5u;
    if (MIXES != 0u) { partner = draw(order[first + (r + 1u) % n_valid]); }
    var values: vec4<f32>;
    for (var k = 0u; k < 4u; k++) {
        let at = index % words * 4u + k;
        let i = at / (W * C);
        let j = at / C % W;
        var value = augmented(own, i, j, at % C);
        if (MIXES != 0u) {
            if (i >= mixes[mix] && j >= mixes[mix + 1u] && i < mixes[mix + 2u] && j < mixes[mix + 3u]) {
                let kept = bitcast<f32>(mixes[mix + 4u]);
                value = kept * value + (1.0 - kept) * augmented(partner, i, j, at % C);
            }
        }
        values[k] = value;
    }
    x[index] = values;
    if (index % words == 0u) { batch_labels[r] = (labels[sample / 4u] >> (sample % 4u * 8u)) & 255u; }
}
