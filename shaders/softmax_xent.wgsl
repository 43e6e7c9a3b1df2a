// softmax_xent: softmax over the classes with the cross-entropy of the true class, the gradient of the batch's mean
// loss, and the totals of the batch: its loss and its number of correct predictions.
//
//   m = max over c of x[n,c]          s = sum over c of exp(x[n,c] - m)
//   probabilities[n,c] = exp(x[n,c] - m) / s
//   loss[n] = log(s) - (x[n,label] - m)           correct[n] = 1 if the largest x (the first on ties) is at the label
//   batch_loss[batch] = sum of loss[n], batch_correct[batch] = sum of correct[n] over the valid rows;  progress[0] = batch + 1
//   dx[n,c] = (probabilities[n,c] - [c = label]) / valid rows of the batch;  0 in rows past the end of the epoch
//
// With soft targets t (label smoothing, class weights, mixed images), which sum to the weight of the row:
//
//   t[n,c] = share * target(label) + (1 - share) * target(label of the next valid row);  only the first, whole, unless images are mixed
//   target(label) = class_weights[label] * ((1 - SMOOTHING) * [c = label] + SMOOTHING / C)
//   loss[n] = weight * log(s) + sum over c of t[n,c] * (m - x[n,c])          weight = sum over c of t[n,c]
//   dx[n,c] = (weight * probabilities[n,c] - t[n,c]) / valid rows of the batch
//
// Subtracting the maximum keeps exp in range for any logits. Layout: row-major. Source: sparse categorical
// cross-entropy in Keras, with its class_weight; label smoothing as in Keras and PyTorch; mixup: Zhang and others, 2018.
// Host: src/ops/softmax_xent.rs   Mirror: src/cpu/softmax_xent.rs   Test: tests/softmax_xent.rs
//
// The last batch of an epoch may be short. Its rows past the end have dx = 0, and all later gradients are linear in dx,
// so these rows contribute exactly nothing: the same plan trains a short batch exactly.
//
// There is one slot per batch instead of one running total: the 1,875 sums of an epoch lose no digits, and the host
// sees every step. The batch counter is on the GPU, so that many steps run without the host. One workgroup processes
// all rows: the order of the sums is fixed, and one dispatch does what would otherwise take two.

override N: u32 = 1u;   // rows, the batch
override C: u32 = 1u;   // classes
override SMOOTHING: f32 = 0.0;   // the part of each target that all classes share
override MIXES: bool = false;    // whether each image is mixed with the next one of the batch

@group(0) @binding(0) var<storage, read> x: array<f32>;                     // [N, C] logits
@group(0) @binding(1) var<storage, read> labels: array<u32>;                // [N]
@group(0) @binding(2) var<storage, read_write> probabilities: array<f32>;   // [N, C]
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;              // [N, C]
@group(0) @binding(4) var<storage, read_write> progress: array<u32>;        // [2]: batches done in this epoch, samples of the epoch
@group(0) @binding(5) var<storage, read_write> batch_loss: array<f32>;      // [batches]
@group(0) @binding(6) var<storage, read_write> batch_correct: array<u32>;   // [batches]
@group(0) @binding(7) var<storage, read> class_weights: array<f32>;         // [C] the weight of each class in the loss
@group(0) @binding(8) var<storage, read> rates: array<vec4<f32>>;           // [batches of the epoch] the share of the own label, and numbers of others

const LANES = 256u;

struct Row { highest: f32, highest_at: u32, sum: f32 }

// Returns the numerically stable parts of the softmax of row `n`.
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

fn probability(n: u32, c: u32, row: Row) -> f32 {
    return exp(x[n * C + c] - row.highest) / row.sum;
}

// The sums of a lane over its rows.
struct Totals { loss: f32, correct: u32 }

fn add_row(totals: ptr<function, Totals>, n: u32, row: Row) {
    (*totals).loss += log(row.sum) - (x[n * C + labels[n]] - row.highest);
    (*totals).correct += select(0u, 1u, row.highest_at == labels[n]);
}

// Writes the sums of all lanes into the batch's slot, and advances to the next batch.
fn finish_batch(totals: Totals, lane: u32) {
    add_lanes(totals.loss, totals.correct, lane);
    if (lane != 0u) { return; }
    let batch = progress[0];
    batch_loss[batch] = tile_loss[0];
    batch_correct[batch] = tile_correct[0];
    progress[0] = batch + 1u;
}

fn valid_rows() -> u32 {
    return min(progress[1] - progress[0] * N, N);
}

// For evaluation and prediction. Lane l processes the rows l, l + LANES, ...
@compute @workgroup_size(LANES)
fn softmax_xent_forward(@builtin(local_invocation_index) lane: u32) {
    let n_valid = valid_rows();
    var totals: Totals;
    for (var n = lane; n < N; n += LANES) {
        let row = row_parts(n);
        if (n < n_valid) { add_row(&totals, n, row); }
        for (var c = 0u; c < C; c++) { probabilities[n * C + c] = probability(n, c, row); }
    }
    finish_batch(totals, lane);
}

// For training.
@compute @workgroup_size(LANES)
fn softmax_xent_backward_x(@builtin(local_invocation_index) lane: u32) {
    let n_valid = valid_rows();
    var totals: Totals;
    for (var n = lane; n < N; n += LANES) {
        let row = row_parts(n);
        if (n < n_valid) { add_row(&totals, n, row); }
        for (var c = 0u; c < C; c++) {
            let target_value = select(0.0, 1.0, c == labels[n]);
            let gradient = (probability(n, c, row) - target_value) / f32(n_valid);
            dx[n * C + c] = select(0.0, gradient, n < n_valid);
        }
    }
    finish_batch(totals, lane);
}

// The target of a row: what its label and that of its partner have besides `even`, which every class has.
struct Target { weight: f32, label: u32, own: f32, partner: u32, other: f32, even: f32 }

fn target_of(n: u32, n_valid: u32, share: f32) -> Target {
    let label = labels[n];
    var at = Target(0.0, label, class_weights[label], label, 0.0, 0.0);
    if (MIXES) {
        at.partner = labels[(n + 1u) % n_valid];
        at.own *= share;
        at.other = (1.0 - share) * class_weights[at.partner];
    }
    at.weight = at.own + at.other;
    at.own *= 1.0 - SMOOTHING;
    at.other *= 1.0 - SMOOTHING;
    at.even = SMOOTHING / f32(C) * at.weight;
    return at;
}

fn target_value(at: Target, c: u32) -> f32 {
    return select(0.0, at.own, c == at.label) + select(0.0, at.other, c == at.partner) + at.even;
}

// For training with soft targets.
@compute @workgroup_size(LANES)
fn softmax_xent_soft_backward_x(@builtin(local_invocation_index) lane: u32) {
    let n_valid = valid_rows();
    let share = rates[progress[0]].w;
    var totals: Totals;
    for (var n = lane; n < N; n += LANES) {
        if (n >= n_valid) {
            for (var c = 0u; c < C; c++) { dx[n * C + c] = 0.0; }
            continue;
        }
        let row = row_parts(n);
        let at = target_of(n, n_valid, share);
        var loss = at.weight * log(row.sum);
        for (var c = 0u; c < C; c++) {
            let value = target_value(at, c);
            loss += value * (row.highest - x[n * C + c]);
            dx[n * C + c] = (at.weight * probability(n, c, row) - value) / f32(n_valid);
        }
        totals.loss += loss;
        totals.correct += select(0u, 1u, row.highest_at == at.label);
    }
    finish_batch(totals, lane);
}
