// batchnorm: normalization of each channel over the images of a batch and their positions.
//
//   mean[c] = sum over n, p of x[n,p,c] / m           var[c] = sum over n, p of (x[n,p,c] - mean[c])^2 / m
//   running = MOMENTUM * running + (1 - MOMENTUM) * batch, for both
//   y[n,p,c] = normal * scale[c] + shift[c]           normal = (x[n,p,c] - mean[c]) / sqrt(var[c] + EPSILON)
//   dscale[c] = sum over n, p of dy * normal          dshift[c] = sum over n, p of dy
//   dx[n,p,c] = scale[c] / sqrt(var[c] + EPSILON) * (dy - dshift[c] / m - normal * dscale[c] / m)
//   fold: w_out[k,o] = w[k,o] * a[o]     b_out[o] = (b[o] - mean[o]) * a[o] + shift[o]     a = scale / sqrt(var + EPSILON)
//
// Layout: row-major; P counts the positions of an image, one after a dense layer. m is the number of valid images times P.
// Source: Ioffe and Szegedy, Batch Normalization, 2015; keras.layers.BatchNormalization.
// Host: src/ops/batchnorm.rs   Mirror: src/cpu/batchnorm.rs   Test: tests/batchnorm.rs
//
// The last batch of an epoch may be short. Its images past the end are normalized too, but the sums leave them out, and
// their dx is 0. The statistics write the number of valid images to moments, because the loss advances progress before
// the backward pass. For inference, moments are the running averages, of no image.
//
// The rows of a channel are summed in parts: an invocation sums a part of one channel, so that neighbours read neighbouring
// channels, and a workgroup then adds up the parts of one channel. The statistics are of the differences from the channel's
// first value, so that no digits are lost if the mean is large. The variance is put together from the squares about the mean of each part:
// sum over the parts of squares + rows * (mean of the part - mean)^2. The order of the sums is fixed.
// Source of the last: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.

override N: u32 = 1u;   // images, the batch
override P: u32 = 1u;   // positions of an image
override C: u32 = 1u;   // channels
override K: u32 = 1u;   // fold: rows of the weights
override O: u32 = 1u;   // fold: columns of the weights, the channels
override ROWS_PER_PART: u32 = 4u;   // rows (images times positions) that an invocation sums
override PARTS: u32 = 1u;           // of a channel
override EPSILON: f32 = 1e-3;
override MOMENTUM: f32 = 0.99;
override ONE_MINUS_MOMENTUM: f32 = 0.01;   // computed in double precision: in single precision its relative error is 1e-6

@group(0) @binding(0) var<storage, read> x: array<f32>;                     // [N, P, C]
@group(0) @binding(1) var<storage, read> progress: array<u32>;              // [2]: batches done in this epoch, samples of the epoch
@group(0) @binding(2) var<storage, read_write> moments_out: array<f32>;     // [3, C]: mean, variance, number of images
@group(0) @binding(3) var<storage, read_write> running_mean: array<f32>;    // [C]
@group(0) @binding(4) var<storage, read_write> running_var: array<f32>;     // [C]
@group(0) @binding(5) var<storage, read> running_mean_in: array<f32>;       // [C] or [O]: running_mean, read
@group(0) @binding(6) var<storage, read> running_var_in: array<f32>;        // [C] or [O]: running_var, read
@group(0) @binding(7) var<storage, read> moments: array<f32>;               // [3, C]: moments_out, read
@group(0) @binding(8) var<storage, read> scale: array<f32>;                 // [C] or [O]
@group(0) @binding(9) var<storage, read> shift: array<f32>;                 // [C] or [O]
@group(0) @binding(10) var<storage, read_write> y: array<f32>;              // [N, P, C]
@group(0) @binding(11) var<storage, read> dy: array<f32>;                   // [N, P, C]
@group(0) @binding(12) var<storage, read_write> dscale_out: array<f32>;     // [C]
@group(0) @binding(13) var<storage, read_write> dshift_out: array<f32>;     // [C]
@group(0) @binding(14) var<storage, read> dscale: array<f32>;               // [C]: dscale_out, read
@group(0) @binding(15) var<storage, read> dshift: array<f32>;               // [C]: dshift_out, read
@group(0) @binding(16) var<storage, read_write> dx: array<f32>;             // [N, P, C]
@group(0) @binding(17) var<storage, read> w: array<f32>;                    // [K, O]
@group(0) @binding(18) var<storage, read> b: array<f32>;                    // [O]
@group(0) @binding(19) var<storage, read_write> w_out: array<f32>;          // [K, O]
@group(0) @binding(20) var<storage, read_write> b_out: array<f32>;          // [O]
@group(0) @binding(21) var<storage, read_write> parts_out: array<f32>;      // [2, PARTS, C]: sums and squares, or sums for dscale and dshift
@group(0) @binding(22) var<storage, read> parts: array<f32>;                // [2, PARTS, C]: parts_out, read

const LANES = 64u;
var<workgroup> tile: array<f32, LANES>;

// Returns the sum of `value` over the lanes of a workgroup.
fn sum_of_lanes(value: f32, lane: u32) -> f32 {
    tile[lane] = value;
    workgroupBarrier();
    for (var half = LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) { tile[lane] += tile[lane + half]; }
        workgroupBarrier();
    }
    let sum = tile[0];
    workgroupBarrier();
    return sum;
}

// Returns the number of images of this batch.
fn valid_images() -> u32 {
    return min(progress[1] - progress[0] * N, N);
}

// Returns the rows row..row+3 of channel `c`, minus `origin`, minus `mean`; 0 for those from `end` on.
fn differences(row: u32, end: u32, c: u32, origin: f32, mean: f32) -> vec4<f32> {
    let at = vec4(row) + vec4(0u, 1u, 2u, 3u);
    let valid = at < vec4(end);
    let i = select(vec4(row), at, valid) * C + c;
    return select(vec4(0.0), (vec4(x[i.x], x[i.y], x[i.z], x[i.w]) - origin) - mean, valid);
}

// The same of dy.
fn gradients(row: u32, end: u32, c: u32) -> vec4<f32> {
    let at = vec4(row) + vec4(0u, 1u, 2u, 3u);
    let valid = at < vec4(end);
    let i = select(vec4(row), at, valid) * C + c;
    return select(vec4(0.0), vec4(dy[i.x], dy[i.y], dy[i.z], dy[i.w]), valid);
}

fn sum_of_four(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// Sums a part of the rows of a channel, then the squares of the differences from its mean.
@compute @workgroup_size(64)
fn batchnorm_statistics_parts(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= PARTS * C) { return; }
    let c = index % C;
    let first = index / C * ROWS_PER_PART;
    let end = min(first + ROWS_PER_PART, valid_images() * P);
    var sum = 0.0;
    for (var row = first; row < end; row += 4u) { sum += sum_of_four(differences(row, end, c, x[c], 0.0)); }
    let mean = sum / f32(max(end, first + 1u) - first);
    var squares = 0.0;
    for (var row = first; row < end; row += 4u) {
        let difference = differences(row, end, c, x[c], mean);
        squares += sum_of_four(difference * difference);
    }
    parts_out[index] = sum;
    parts_out[PARTS * C + index] = squares;
}

// Lane l adds up the parts l, l + LANES, ...
@compute @workgroup_size(LANES)
fn batchnorm_statistics(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let c = group.y * groups.x + group.x;
    if (c >= C) { return; }
    let n_valid = valid_images();
    let rows = n_valid * P;
    let m = f32(max(rows, 1u));
    var part = 0.0;
    for (var i = lane; i < PARTS; i += LANES) { part += parts[i * C + c]; }
    let mean = sum_of_lanes(part, lane) / m;
    part = 0.0;
    for (var i = lane; i < PARTS; i += LANES) {
        let first = i * ROWS_PER_PART;
        let n = f32(min(max(rows, first) - first, ROWS_PER_PART));
        let difference = parts[i * C + c] / max(n, 1.0) - mean;
        part += parts[(PARTS + i) * C + c] + n * (difference * difference);
    }
    let variance = sum_of_lanes(part, lane) / m;
    if (lane != 0u) { return; }
    moments_out[c] = x[c] + mean;
    moments_out[C + c] = variance;
    moments_out[2u * C + c] = f32(n_valid);
    running_mean[c] = MOMENTUM * running_mean[c] + ONE_MINUS_MOMENTUM * (x[c] + mean);
    running_var[c] = MOMENTUM * running_var[c] + ONE_MINUS_MOMENTUM * variance;
}

@compute @workgroup_size(64)
fn batchnorm_moments(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let c = id.y * groups.x * 64u + id.x;
    if (c >= C) { return; }
    moments_out[c] = running_mean_in[c];
    moments_out[C + c] = running_var_in[c];
    moments_out[2u * C + c] = 0.0;
}

@compute @workgroup_size(64)
fn batchnorm_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * P * C) { return; }
    let c = index % C;
    let normal = (x[index] - moments[c]) * inverseSqrt(moments[C + c] + EPSILON);
    y[index] = normal * scale[c] + shift[c];
}

// As batchnorm_statistics_parts.
@compute @workgroup_size(64)
fn batchnorm_backward_w_parts(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= PARTS * C) { return; }
    let c = index % C;
    let first = index / C * ROWS_PER_PART;
    let end = min(first + ROWS_PER_PART, min(u32(moments[2u * C + c]), N) * P);
    let mean = moments[c];
    var scale_sum = 0.0;
    var shift_sum = 0.0;
    for (var row = first; row < end; row += 4u) {
        let gradient = gradients(row, end, c);
        scale_sum += sum_of_four(gradient * differences(row, end, c, mean, 0.0));
        shift_sum += sum_of_four(gradient);
    }
    parts_out[index] = scale_sum;
    parts_out[PARTS * C + index] = shift_sum;
}

// As batchnorm_statistics.
@compute @workgroup_size(LANES)
fn batchnorm_backward_w(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let c = group.y * groups.x + group.x;
    if (c >= C) { return; }
    var scale_part = 0.0;
    var shift_part = 0.0;
    for (var i = lane; i < PARTS; i += LANES) {
        scale_part += parts[i * C + c];
        shift_part += parts[(PARTS + i) * C + c];
    }
    let scale_sum = sum_of_lanes(scale_part, lane);
    let shift_sum = sum_of_lanes(shift_part, lane);
    if (lane != 0u) { return; }
    dscale_out[c] = scale_sum * inverseSqrt(moments[C + c] + EPSILON);
    dshift_out[c] = shift_sum;
}

@compute @workgroup_size(64)
fn batchnorm_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * P * C) { return; }
    let c = index % C;
    let rows = u32(moments[2u * C + c]) * P;
    if (index / C >= rows) {
        dx[index] = 0.0;
        return;
    }
    let m = f32(rows);
    let inverse = inverseSqrt(moments[C + c] + EPSILON);
    let normal = (x[index] - moments[c]) * inverse;
    dx[index] = scale[c] * inverse * (dy[index] - dshift[c] / m - normal * (dscale[c] / m));
}

@compute @workgroup_size(64)
fn batchnorm_fold(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= K * O) { return; }
    let o = index % O;
    let a = scale[o] * inverseSqrt(running_var_in[o] + EPSILON);
    w_out[index] = w[index] * a;
    if (index < O) { b_out[o] = (b[o] - running_mean_in[o]) * a + shift[o]; }
}
