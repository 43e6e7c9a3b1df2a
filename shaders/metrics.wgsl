// metrics: the loss and the number of right answers of one batch, and the end of the step.
//
//   batch_loss[batch] = sum of loss[n], batch_correct[batch] = sum of correct[n] over the valid rows, in a fixed order
//   progress[0] = batch + 1
//
// One slot a batch instead of one running total: 1,875 sums of an epoch lose no digits, and the host sees every step.
// The step counter lives here, so that many steps run without a word from the host.
// Host: src/ops/metrics.rs   Mirror: src/cpu/metrics.rs   Test: tests/metrics.rs

override N: u32 = 1u;   // rows, the batch

@group(0) @binding(0) var<storage, read> loss: array<f32>;                 // [N]
@group(0) @binding(1) var<storage, read> correct: array<u32>;              // [N]
@group(0) @binding(2) var<storage, read_write> progress: array<u32>;       // [2]: batches done in this epoch, samples of the epoch
@group(0) @binding(3) var<storage, read_write> batch_loss: array<f32>;     // [batches]
@group(0) @binding(4) var<storage, read_write> batch_correct: array<u32>;  // [batches]

var<workgroup> lane_loss: array<f32, 64>;
var<workgroup> lane_correct: array<u32, 64>;

// One workgroup. Lane l sums the rows l, l+64, ...; lane 0 sums the lanes.
@compute @workgroup_size(64)
fn metrics_accumulate(@builtin(local_invocation_index) lane: u32) {
    let batch = progress[0];
    let n_valid = min(progress[1] - batch * N, N);
    var loss_sum = 0.0;
    var correct_sum = 0u;
    for (var n = lane; n < n_valid; n += 64u) {
        loss_sum += loss[n];
        correct_sum += correct[n];
    }
    lane_loss[lane] = loss_sum;
    lane_correct[lane] = correct_sum;
    workgroupBarrier();
    if (lane != 0u) { return; }
    for (var other = 1u; other < 64u; other++) {
        loss_sum += lane_loss[other];
        correct_sum += lane_correct[other];
    }
    batch_loss[batch] = loss_sum;
    batch_correct[batch] = correct_sum;
    progress[0] = batch + 1u;
}
