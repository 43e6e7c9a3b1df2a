// conv2d: 2-D cross-correlation with bias, any window, any stride, zero padding at the edges.
//
//   y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, c] * w[p,q,c,o]        (x outside its bounds is 0)
//   dx[n,h,w,c] = sum over p,q,o of dy[n,i,j,o] * w[p,q,c,o]      where i*SH+p-PT = h and j*SW+q-PL = w
//   dw[p,q,c,o] = sum over n,i,j of x[n, i*SH+p-PT, j*SW+q-PL, c] * dy[n,i,j,o]            db[o] = sum over n,i,j of dy
//
// Layout: row-major, last index fastest; images NHWC, filters HWIO. Source: tf.nn.conv2d and its gradients (Keras
// Conv2D).
// Host: src/ops/conv2d.rs   Mirror: src/cpu/conv2d.rs   Test: tests/conv2d.rs
//
// Each pass has three forms, which all compute the same sums:
//   <name>            plain, in this file: one output per invocation; any shape; the easiest to read
//   <name>_shared     for GPUs: 64x64 or more outputs per workgroup, operands staged in workgroup memory; in conv2d_shared.wgsl
//   <name>_subgroup   for software adapters: 32x32 or more outputs per subgroup of 8, no barriers; in conv2d_subgroup.wgsl
// The fast forms treat the convolution as a matrix product: rows are output positions (for dw: filter cells), columns are
// channels.

override N: u32 = 1u;      // images
override H: u32 = 1u;      // input rows
override W: u32 = 1u;      // input columns
override C: u32 = 1u;      // input channels
override KH: u32 = 1u;     // filter rows
override KW: u32 = 1u;     // filter columns
override O: u32 = 4u;      // output channels
override SH: u32 = 1u;     // vertical stride
override SW: u32 = 1u;     // horizontal stride
override PT: u32 = 0u;     // padding above
override PL: u32 = 0u;     // padding to the left
override HO: u32 = 1u;     // output rows
override WO: u32 = 1u;     // output columns
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override IMAGES_PER_PART: u32 = 1u; // backward_w: images summed in one part
override PARTS: u32 = 1u;           // backward_w_sum: number of parts

@group(0) @binding(0) var<storage, read> x: array<f32>;              // [N, H, W, C]
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [KH, KW, C, O]
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, HO, WO, O]
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, HO, WO, O]
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, H, W, C]
@group(0) @binding(6) var<storage, read_write> dw_parts: array<f32>; // [parts, KH*KW*C + 1, O]; the last row is db
@group(0) @binding(7) var<storage, read> parts: array<f32>;          // [parts, KH*KW*C + 1, O]: dw_parts, read
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;       // [KH, KW, C, O]
@group(0) @binding(9) var<storage, read_write> db: array<f32>;       // [O]

@compute @workgroup_size(64)
fn conv2d_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * HO * WO * O) { return; }
    let o = index % O;
    let j = index / O % WO;
    let i = index / (O * WO) % HO;
    let n = index / (O * WO * HO);
    var sum = b[o];
    for (var p = 0u; p < KH; p++) {
        // Unsigned: a position above or left of the image wraps to a huge number and fails the same test.
        let row = i * SH + p - PT;
        if (row >= H) { continue; }
        for (var q = 0u; q < KW; q++) {
            let column = j * SW + q - PL;
            if (column >= W) { continue; }
            for (var c = 0u; c < C; c++) {
                sum += x[((n * H + row) * W + column) * C + c] * w[((p * KW + q) * C + c) * O + o];
            }
        }
    }
    y[index] = select(sum, max(sum, 0.0), RELU);
}

@compute @workgroup_size(64)
fn conv2d_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * H * W * C) { return; }
    let c = index % C;
    let column = index / C % W;
    let row = index / (C * W) % H;
    let n = index / (C * W * H);
    var sum = 0.0;
    for (var p = 0u; p < KH; p++) {
        let i = (row + PT - p) / SH;
        if (row + PT < p || (row + PT - p) % SH != 0u || i >= HO) { continue; }
        for (var q = 0u; q < KW; q++) {
            let j = (column + PL - q) / SW;
            if (column + PL < q || (column + PL - q) % SW != 0u || j >= WO) { continue; }
            for (var o = 0u; o < O; o++) {
                sum += dy[((n * HO + i) * WO + j) * O + o] * w[((p * KW + q) * C + c) * O + o];
            }
        }
    }
    if (X_IS_RELU) { sum = select(0.0, sum, x[index] > 0.0); }
    dx[index] = sum;
}

@compute @workgroup_size(64)
fn conv2d_backward_w(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let n_rows = KH * KW * C + 1u;
    let part = index / (n_rows * O);
    let first = part * IMAGES_PER_PART;
    if (first >= N) { return; }
    let o = index % O;
    let cell = index / O % n_rows;
    let c = cell % C;
    let q = cell / C % KW;
    let p = cell / (C * KW);
    let is_bias = cell == n_rows - 1u;
    var sum = 0.0;
    for (var n = first; n < min(first + IMAGES_PER_PART, N); n++) {
        for (var i = 0u; i < HO; i++) {
            for (var j = 0u; j < WO; j++) {
                let row = i * SH + p - PT;
                let column = j * SW + q - PL;
                let dy_value = dy[((n * HO + i) * WO + j) * O + o];
                if (is_bias) {
                    sum += dy_value;
                } else if (row < H && column < W) {
                    sum += x[((n * H + row) * W + column) * C + c] * dy_value;
                }
            }
        }
    }
    dw_parts[index] = sum;
}

// Sums the parts of dw and db, in the order of the images.
@compute @workgroup_size(64)
fn conv2d_backward_w_sum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let n_weights = KH * KW * C * O;
    if (index >= n_weights + O) { return; }
    var sum = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        sum += parts[part * (n_weights + O) + index];
    }
    if (index < n_weights) { dw[index] = sum; } else { db[index - n_weights] = sum; }
}
