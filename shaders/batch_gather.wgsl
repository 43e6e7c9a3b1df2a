// batch_gather: the next batch of images and labels, in the order of the epoch's permutation.
//
//   row r of the batch is sample s = order[batch*N + r]:  x[r,:] = images[s,:] / 255,  batch_labels[r] = labels[s]
//   rows past the end of the epoch are zeros with label 0
//
// The data set stays on the GPU as bytes, four per word (little-endian): 47 MB instead of 188 MB, and no upload in the
// training loop.
// Host: src/ops/batch_gather.rs   Mirror: src/cpu/batch_gather.rs   Test: tests/batch_gather.rs

override N: u32 = 1u;        // rows, the batch
override PIXELS: u32 = 4u;   // bytes of one image, a multiple of 4

@group(0) @binding(0) var<storage, read> images: array<u32>;                // [samples, PIXELS / 4] packed bytes
@group(0) @binding(1) var<storage, read> labels: array<u32>;                // [samples / 4] packed bytes
@group(0) @binding(2) var<storage, read> order: array<u32>;                 // [samples of the epoch]
@group(0) @binding(3) var<storage, read> progress: array<u32>;              // [2]: batches done in this epoch, samples of the epoch
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>;         // [N, PIXELS / 4]
@group(0) @binding(5) var<storage, read_write> batch_labels: array<u32>;    // [N]

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
