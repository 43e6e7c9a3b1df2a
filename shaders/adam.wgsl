// adam: one step of Adam over all parameters, as in Keras.
//
//   w -= decay * w, weights only         g = clip * gradient
//   m += (g - m) * (1 - beta_1)          v += (g*g - v) * (1 - beta_2)          w -= alpha * m / (sqrt(v) + epsilon)
//   alpha = learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)
//
// alpha and decay depend only on the step. The host computes them in double precision for every step of an epoch (rates):
// in single precision, a power of 0.999 would leave 1 - beta_2^t with few digits in the first steps. A schedule needs no
// other code. The padding between the tensors of an arena stays 0: so are its gradients.
//
// adam_step_pending, for GPUs, first computes what is left of the gradients, which saves the dispatches that would:
//
//   filters: the sum of their parts          hidden weights: sum over n of inputs[n,k] * dhidden[n,i]
//   weights of the classes: sum over n of hidden[n,i] * dlogits[n,c]          biases: sum over n of dhidden[n,i], dlogits[n,c]
//   batch_loss[batch] = sum of loss[n], batch_correct[batch] = sum of correct[n];  progress[0] = batch + 1
//
// head.wgsl says what rows are. Source: Kingma and Ba, Adam, 2015, end of section 2; Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019;
// keras.optimizers.Adam and AdamW.
// Host: src/ops/adam.rs   Mirror: src/cpu/adam.rs   Test: tests/adam.rs

override LEN: u32 = 4u;   // a multiple of four: four parameters per invocation
override ONE_MINUS_BETA_1: f32 = 0.1;     // computed in double precision: 1 - 0.999 in single precision has a relative error of 1e-5
override ONE_MINUS_BETA_2: f32 = 0.001;
override EPSILON: f32 = 1e-7;
override DECAYED: u32 = 0u;          // the first elements, which decay: all weights, or none; a multiple of four, as the following
override FIRST_BIAS: u32 = 4u;       // the elements after the weights: biases, scales, shifts; LEN if the learning rate is the same everywhere
override FIRST_SCALE: u32 = 4u;
override FIRST_SHIFT: u32 = 4u;
override BIAS_FACTOR: f32 = 1.0;     // of their learning rates
override SCALE_FACTOR: f32 = 1.0;
override SHIFT_FACTOR: f32 = 1.0;
override CLIP: bool = false;         // whether the gradients are multiplied by clip[0]

// Of adam_step_pending. Quads are four elements; a tensor that is not pending starts at LEN.
override N: u32 = 1u;                // rows, the batch
override K: u32 = 1u;                // inputs of the hidden layer
override I: u32 = 4u;                // hidden units, a multiple of four
override C: u32 = 1u;                // classes
override SUMS: u32 = 0u;             // tensors in parts
override HIDDEN_W: u32 = 4u;         // the first elements of weights and biases of the dense layers, multiples of four
override HIDDEN_B: u32 = 4u;
override CLASSES_W: u32 = 4u;
override CLASSES_B: u32 = 4u;
override HIDDEN_AT: u32 = 0u;        // where the rows start in pending: elements, multiples of four
override DLOGITS_AT: u32 = 0u;
override DHIDDEN_AT: u32 = 0u;
override LOSS_AT: u32 = 0u;
override CORRECT_AT: u32 = 0u;
override BATCH_AT: u32 = 0u;
override BATCH_LOSS_AT: u32 = 2u;    // where the epoch's losses and correct predictions start in totals
override BATCH_CORRECT_AT: u32 = 3u;

@group(0) @binding(0) var<storage, read> g: array<vec4<f32>>;              // [LEN] gradients of all parameters
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;        // [LEN] the parameters
@group(0) @binding(2) var<storage, read_write> m: array<vec4<f32>>;        // [LEN] first moments
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;        // [LEN] second moments
@group(0) @binding(4) var<storage, read> rates: array<vec4<f32>>;    // [batches of the epoch] alpha, decay, and numbers of others
@group(0) @binding(5) var<storage, read> progress: array<u32>;       // [2]: batches of this epoch whose loss is known, including this one; samples
@group(0) @binding(6) var<storage, read> clip: array<f32>;           // [1] factor of the gradients
@group(0) @binding(7) var<storage, read_write> g_out: array<vec4<f32>>;    // [LEN] g, in which what was pending is written
@group(0) @binding(8) var<storage, read> pending: array<vec4<f32>>;        // [SUMS, 2] first and last quad + 1, quad of the first part, quads of a part; parts: then rows and parts
@group(0) @binding(9) var<storage, read> inputs: array<f32>;               // [N, K]
@group(0) @binding(10) var<storage, read_write> totals: array<u32>;        // [2] progress, then [batches] losses and [batches] correct predictions

// Returns the factor of the update of element `i`, for which `size` is that of a weight.
fn step_size(i: u32, size: f32) -> f32 {
    if (FIRST_BIAS >= LEN || i < FIRST_BIAS) { return size; }
    if (i < FIRST_SCALE) { return size * BIAS_FACTOR; }
    if (i < FIRST_SHIFT) { return size * SCALE_FACTOR; }
    return size * SHIFT_FACTOR;
}

// Updates four parameters.
fn update(index: u32, gradient: vec4<f32>, rate: vec4<f32>) {
    let alpha = step_size(4u * index, rate.x);
    let first = m[index] + (gradient - m[index]) * ONE_MINUS_BETA_1;
    let second = v[index] + (gradient * gradient - v[index]) * ONE_MINUS_BETA_2;
    m[index] = first;
    v[index] = second;
    var weight = w[index];
    if (index < DECAYED / 4u) { weight -= rate.y * weight; }
    w[index] = weight - alpha * first / (sqrt(second) + vec4(EPSILON));
}

@compute @workgroup_size(64)
fn adam_step(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= LEN / 4u) { return; }
    var gradient = g[index];
    if (CLIP) { gradient *= clip[0]; }
    update(index, gradient, rates[progress[0] - 1u]);
}

fn row_value(at: u32) -> f32 {
    return pending[at / 4u][at % 4u];
}

fn is_in(index: u32, first: u32, len: u32) -> bool {
    return index >= first / 4u && index < (first + len + 3u) / 4u;
}

// Four gradients of the classes' weights, or of their biases: the row after the last hidden unit, whose output is 1.
fn of_classes(first: u32, count: u32) -> vec4<f32> {
    var sums = vec4(0.0);
    for (var k = 0u; k < 4u; k++) {
        if (first % (I * C) + k >= count) { break; }
        let i = (first + k) / C;
        let c = (first + k) % C;
        var sum = 0.0;
        for (var n = 0u; n < N; n++) {
            let gradient = row_value(DLOGITS_AT + n * C + c);
            if (i < I) { sum += row_value(HIDDEN_AT + n * I + i) * gradient; } else { sum += gradient; }
        }
        sums[k] = sum;
    }
    return sums;
}

// Returns four gradients, from what is pending of them.
fn finished(index: u32) -> vec4<f32> {
    var sum = vec4(0.0);
    for (var s = 0u; s < SUMS; s++) {
        let at = vec4<u32>(pending[2u * s]);
        if (index < at.x || index >= at.y) { continue; }
        let parts = u32(pending[2u * s + 1u].x);
        for (var part = 0u; part < parts; part++) { sum += pending[at.z + part * at.w + index - at.x]; }
        return sum;
    }
    if (is_in(index, CLASSES_W, I * C)) { return of_classes(4u * index - CLASSES_W, I * C); }
    if (is_in(index, CLASSES_B, C)) { return of_classes(4u * index - CLASSES_B + I * C, C); }
    let is_bias = is_in(index, HIDDEN_B, I);
    if (!is_bias && !is_in(index, HIDDEN_W, K * I)) { return g_out[index]; }
    let quad = index - select(HIDDEN_W, HIDDEN_B, is_bias) / 4u;
    // Not zero, even where no hidden layer is pending.
    let quads = max(I / 4u, 1u);
    let k = quad / quads;
    let column = DHIDDEN_AT / 4u + quad % quads;
    for (var n = 0u; n < N; n++) {
        sum += select(inputs[n * K + k], 1.0, is_bias) * pending[column + n * quads];
    }
    return sum;
}

const LANES = 64u;

// The workgroup after those of the parameters adds up loss and correct predictions.
@compute @workgroup_size(LANES)
fn adam_step_pending(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let group_number = group.y * groups.x + group.x;
    let groups_of_parameters = (LEN / 4u + LANES - 1u) / LANES;
    if (group_number > groups_of_parameters) { return; }
    // Not from progress, which the last workgroup advances.
    let batch = u32(row_value(BATCH_AT));
    if (group_number == groups_of_parameters) {
        finish_batch(batch, lane);
        return;
    }
    let index = group_number * LANES + lane;
    if (index >= LEN / 4u) { return; }
    let gradient = finished(index);
    g_out[index] = gradient;
    update(index, gradient, rates[batch]);
}

// Writes the sums of all rows into the batch's slot, and advances to the next batch.
fn finish_batch(batch: u32, lane: u32) {
    var loss = 0.0;
    var correct = 0u;
    for (var n = lane; n < N; n += LANES) {
        loss += row_value(LOSS_AT + n);
        correct += u32(row_value(CORRECT_AT + n));
    }
    add_lanes(loss, correct, lane);
    if (lane != 0u) { return; }
    totals[BATCH_LOSS_AT + batch] = bitcast<u32>(tile_loss[0]);
    totals[BATCH_CORRECT_AT + batch] = tile_correct[0];
    totals[0] = batch + 1u;
}
