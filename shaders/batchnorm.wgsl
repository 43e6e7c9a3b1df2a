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
// A workgroup sums one channel: the mean first, then the squares of the differences, which lose no digits if the mean is
// large. The order of the sums is fixed.

override N: u32 = 1u;   // images, the batch
override P: u32 = 1u;   // positions of an image
override C: u32 = 1u;   // channels
override K: u32 = 1u;   // fold: rows of the weights
override O: u32 = 1u;   // fold: columns of the weights, the channels
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

const LANES = 256u;
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

// Returns the rows (images times positions) row, row + LANES, ... of channel `c`, minus `mean`; 0 for those from `rows` on.
fn differences(row: u32, rows: u32, c: u32, mean: f32) -> vec4<f32> {
    let at = vec4(row) + LANES * vec4(0u, 1u, 2u, 3u);
    let valid = at < vec4(rows);
    let i = select(vec4(row), at, valid) * C + c;
    return select(vec4(0.0), vec4(x[i.x], x[i.y], x[i.z], x[i.w]) - mean, valid);
}

// The same of dy.
fn gradients(row: u32, rows: u32, c: u32) -> vec4<f32> {
    let at = vec4(row) + LANES * vec4(0u, 1u, 2u, 3u);
    let valid = at < vec4(rows);
    let i = select(vec4(row), at, valid) * C + c;
    return select(vec4(0.0), vec4(dy[i.x], dy[i.y], dy[i.z], dy[i.w]), valid);
}

fn sum_of_four(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

// Lane l sums the rows l, l + LANES, ..., four per iteration.
@compute @workgroup_size(LANES)
fn batchnorm_statistics(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let c = group.y * groups.x + group.x;
    if (c >= C) { return; }
    let n_valid = min(progress[1] - progress[0] * N, N);
    let rows = n_valid * P;
    let m = f32(max(rows, 1u));
    var part = 0.0;
    for (var row = lane; row < rows; row += 4u * LANES) { part += sum_of_four(differences(row, rows, c, 0.0)); }
    let mean = sum_of_lanes(part, lane) / m;
    part = 0.0;
    for (var row = lane; row < rows; row += 4u * LANES) {
        let difference = differences(row, rows, c, mean);
        part += sum_of_four(difference * difference);
    }
    let variance = sum_of_lanes(part, lane) / m;
    if (lane != 0u) { return; }
    moments_out[c] = mean;
    moments_out[C + c] = variance;
    moments_out[2u * C + c] = f32(n_valid);
    running_mean[c] = MOMENTUM * running_mean[c] + ONE_MINUS_MOMENTUM * mean;
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

// As batchnorm_statistics.
@compute @workgroup_size(LANES)
fn batchnorm_backward_w(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32
) {
    let c = group.y * groups.x + group.x;
    if (c >= C) { return; }
    let mean = moments[c];
    let rows = min(u32(moments[2u * C + c]), N) * P;
    var scale_part = 0.0;
    var shift_part = 0.0;
    for (var row = lane; row < rows; row += 4u * LANES) {
        let gradient = gradients(row, rows, c);
        scale_part += sum_of_four(gradient * differences(row, rows, c, mean));
        shift_part += sum_of_four(gradient);
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
