// head: the end of a model whose last hidden layer is dense, forward and backward: what four dispatches of dense.wgsl and
// softmax_xent.wgsl do, in two.
//
//   hidden[n,i] = max(hidden_b[i] + sum over parts of parts[part,n,i], 0)          logits[n,c] = b[c] + sum over i of hidden[n,i] * w[i,c]
//   loss[n], correct[n], dlogits[n,c]: as in softmax_xent.wgsl;  0 in rows past the end of the epoch
//   dhidden[n,i] = sum over c of dlogits[n,c] * w[i,c] where hidden[n,i] > 0, else 0
//   dw[i,c] = sum over n of hidden[n,i] * dlogits[n,c]          db[c] = sum over n of dlogits[n,c]
//   batch_loss[batch] = sum of loss[n], batch_correct[batch] = sum of correct[n];  progress[0] = batch + 1
//
// A row needs nothing of another one until its gradient is there: head_rows computes a row per workgroup. What is summed over
// rows follows in head_backward_w. What the first writes and the second reads is in one tensor, rows.
// Layout: row-major; parts: y_parts of dense_shared.wgsl. Source: keras.layers.Dense; sparse categorical cross-entropy in Keras.
// Host: src/ops/head.rs   Mirror: src/cpu/head.rs   Test: tests/head.rs

override N: u32 = 1u;             // rows, the batch
override PARTS: u32 = 1u;         // parts of the sums of the hidden layer
override I: u32 = 1u;             // hidden units, at most MOST_HIDDEN
override C: u32 = 1u;             // classes, at most MOST_CLASSES
override LOGITS_AT: u32 = 0u;     // where the tensors start in rows; hidden is the first
override DLOGITS_AT: u32 = 0u;
override DHIDDEN_AT: u32 = 0u;
override LOSS_AT: u32 = 0u;
override CORRECT_AT: u32 = 0u;
override BATCH_AT: u32 = 0u;

@group(0) @binding(0) var<storage, read> parts: array<f32>;                  // [PARTS, N, I]
@group(0) @binding(1) var<storage, read> hidden_b: array<f32>;               // [I]
@group(0) @binding(2) var<storage, read> w: array<f32>;                      // [I, C]
@group(0) @binding(3) var<storage, read> b: array<f32>;                      // [C]
@group(0) @binding(4) var<storage, read> labels: array<u32>;                 // [N]
@group(0) @binding(5) var<storage, read> progress: array<u32>;               // [2]: batches done in this epoch, samples of the epoch
@group(0) @binding(6) var<storage, read_write> rows_out: array<f32>;         // [N, I] hidden, [N, C] logits, [N, C] dlogits, [N, I] dhidden, [N] loss, [N] correct, [1] batch
@group(0) @binding(7) var<storage, read> rows: array<f32>;                   // [N, I] hidden and so on, the same
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;               // [I, C]
@group(0) @binding(9) var<storage, read_write> db: array<f32>;               // [C]
@group(0) @binding(10) var<storage, read_write> progress_out: array<u32>;    // [2] progress
@group(0) @binding(11) var<storage, read_write> batch_loss: array<f32>;      // [batches]
@group(0) @binding(12) var<storage, read_write> batch_correct: array<u32>;   // [batches]

const LANES = 256u;
const MOST_HIDDEN = 1024u;
const MOST_CLASSES = 128u;
const SUMS = 16u;   // of head_backward_w, in a workgroup
var<workgroup> hidden: array<f32, MOST_HIDDEN>;
var<workgroup> scores: array<f32, MOST_CLASSES>;
var<workgroup> gradients: array<f32, MOST_CLASSES>;
var<workgroup> partial: array<f32, LANES>;

@compute @workgroup_size(LANES)
fn head_rows(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let n = group.y * groups.x + group.x;
    if (n >= N) { return; }
    for (var i = lane; i < I; i += LANES) {
        var sum = hidden_b[i];
        for (var part = 0u; part < PARTS; part++) { sum += parts[(part * N + n) * I + i]; }
        hidden[i] = max(sum, 0.0);
        rows_out[n * I + i] = hidden[i];
    }
    workgroupBarrier();
    // Each class has a lane in each slice of the hidden units; those of the first slice add up what all have summed.
    let slices = LANES / C;
    let slice = lane / C;
    let class_of_lane = lane % C;
    var sum_of_slice = 0.0;
    if (slice < slices) {
        for (var i = slice; i < I; i += slices) { sum_of_slice += hidden[i] * w[i * C + class_of_lane]; }
    }
    partial[lane] = sum_of_slice;
    workgroupBarrier();
    if (lane < C) {
        var score = b[lane];
        for (var s = 0u; s < slices; s++) { score += partial[s * C + lane]; }
        scores[lane] = score;
        rows_out[LOGITS_AT + n * C + lane] = score;
    }
    workgroupBarrier();
    var highest = scores[0];
    var highest_at = 0u;
    for (var c = 1u; c < C; c++) {
        if (scores[c] > highest) {
            highest = scores[c];
            highest_at = c;
        }
    }
    var total = 0.0;
    for (var c = 0u; c < C; c++) { total += exp(scores[c] - highest); }
    let n_valid = min(progress[1] - progress[0] * N, N);
    let label = labels[n];
    if (lane < C) {
        let target_value = select(0.0, 1.0, lane == label);
        let gradient = (exp(scores[lane] - highest) / total - target_value) / f32(n_valid);
        gradients[lane] = select(0.0, gradient, n < n_valid);
        rows_out[DLOGITS_AT + n * C + lane] = gradients[lane];
    }
    if (lane == 0u) {
        rows_out[LOSS_AT + n] = select(0.0, log(total) - (scores[label] - highest), n < n_valid);
        rows_out[CORRECT_AT + n] = select(0.0, 1.0, n < n_valid && highest_at == label);
        // For a later dispatch that cannot read progress, because it advances it.
        if (n == 0u) { rows_out[BATCH_AT] = f32(progress[0]); }
    }
    workgroupBarrier();
    for (var i = lane; i < I; i += LANES) {
        var sum = 0.0;
        for (var c = 0u; c < C; c++) { sum += gradients[c] * w[i * C + c]; }
        rows_out[DHIDDEN_AT + n * I + i] = select(0.0, sum, hidden[i] > 0.0);
    }
}

// The workgroup after those of the sums adds up loss and correct predictions.
@compute @workgroup_size(LANES)
fn head_backward_w(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    // The row after the last hidden unit is the bias, whose input is 1.
    let cells = (I + 1u) * C;
    let group_number = group.y * groups.x + group.x;
    let groups_of_sums = (cells + SUMS - 1u) / SUMS;
    if (group_number > groups_of_sums) { return; }
    if (group_number == groups_of_sums) {
        finish_batch(lane);
        return;
    }
    let index = group_number * SUMS + lane % SUMS;
    let i = index / C;
    let c = index % C;
    var sum_of_slice = 0.0;
    if (index < cells) {
        for (var n = lane / SUMS; n < N; n += LANES / SUMS) {
            let gradient = rows[DLOGITS_AT + n * C + c];
            if (i < I) { sum_of_slice += rows[n * I + i] * gradient; } else { sum_of_slice += gradient; }
        }
    }
    partial[lane] = sum_of_slice;
    workgroupBarrier();
    if (lane >= SUMS || index >= cells) { return; }
    var sum = 0.0;
    for (var slice = 0u; slice < LANES / SUMS; slice++) { sum += partial[slice * SUMS + lane]; }
    if (i < I) { dw[index] = sum; } else { db[c] = sum; }
}

// Writes the sums of all rows into the batch's slot, and advances to the next batch.
fn finish_batch(lane: u32) {
    var loss = 0.0;
    var correct = 0u;
    for (var n = lane; n < N; n += LANES) {
        loss += rows[LOSS_AT + n];
        correct += u32(rows[CORRECT_AT + n]);
    }
    add_lanes(loss, correct, lane);
    if (lane != 0u) { return; }
    let batch = progress_out[0];
    batch_loss[batch] = tile_loss[0];
    batch_correct[batch] = tile_correct[0];
    progress_out[0] = batch + 1u;
}
