// softmax_xent: softmax over the classes with the cross-entropy of the true class, and the gradient of the batch's mean loss.
//
//   m = max over c of x[n,c]          s = sum over c of exp(x[n,c] - m)
//   probabilities[n,c] = exp(x[n,c] - m) / s
//   loss[n] = log(s) - (x[n,label] - m)           correct[n] = 1 where the largest x (the first on ties) is at the label
//   dx[n,c] = (probabilities[n,c] - [c = label]) / valid rows of the batch;  0 in rows past the end of the epoch
//
// Subtracting the maximum keeps exp in range for any logits. Layout: row-major. Source: sparse categorical cross-entropy of Keras.
// Host: src/ops/softmax_xent.rs   Mirror: src/cpu/softmax_xent.rs   Test: tests/softmax_xent.rs
//
// The last batch of an epoch may be short. Its rows past the end have dx = 0, and all later gradients are linear in dx, so these
// rows add exactly nothing: the short batch is trained exactly, by the same plan.

override N: u32 = 1u;   // rows, the batch
override C: u32 = 1u;   // classes

@group(0) @binding(0) var<storage, read> x: array<f32>;                     // [N, C] logits
@group(0) @binding(1) var<storage, read> labels: array<u32>;                // [N]
@group(0) @binding(2) var<storage, read_write> probabilities: array<f32>;   // [N, C]
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;            // [N]
@group(0) @binding(4) var<storage, read_write> correct: array<u32>;         // [N]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;              // [N, C]
@group(0) @binding(6) var<storage, read> progress: array<u32>;              // [2]: batches done in this epoch, samples of the epoch

struct Row { highest: f32, highest_at: u32, sum: f32 }

// The stable parts of the softmax of row `n`.
fn row_parts(n: u32) -> Row {
    var row = Row(x[n * C], 0u, 0.0);
    for (var c = 1u; c < C; c++) {
        if (x[n * C + c] > row.highest) {
            row.highest = x[n * C + c];
            row.highest_at = c;
        }
    }
    for (var c = 0u; c < C; c++) { row.sum += exp(x[n * C + c] - row.highest); }
    return row;
}

fn store_loss(n: u32, row: Row) {
    loss[n] = log(row.sum) - (x[n * C + labels[n]] - row.highest);
    correct[n] = select(0u, 1u, row.highest_at == labels[n]);
}

// For evaluation and prediction.
@compute @workgroup_size(64)
fn softmax_xent_forward(@builtin(global_invocation_id) id: vec3<u32>) {
    let n = id.x;
    if (n >= N) { return; }
    let row = row_parts(n);
    store_loss(n, row);
    for (var c = 0u; c < C; c++) { probabilities[n * C + c] = exp(x[n * C + c] - row.highest) / row.sum; }
}

// For training: loss, correct flag and gradient in one pass.
@compute @workgroup_size(64)
fn softmax_xent_backward_x(@builtin(global_invocation_id) id: vec3<u32>) {
    let n = id.x;
    if (n >= N) { return; }
    let row = row_parts(n);
    store_loss(n, row);
    let n_valid = min(progress[1] - progress[0] * N, N);
    for (var c = 0u; c < C; c++) {
        let target_value = select(0.0, 1.0, c == labels[n]);
        let gradient = (exp(x[n * C + c] - row.highest) / row.sum - target_value) / f32(n_valid);
        dx[n * C + c] = select(0.0, gradient, n < n_valid);
    }
}
