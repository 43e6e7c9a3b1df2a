// groupedconv2d: 2-D cross-correlation with bias in groups of channels, any window, any stride, zero padding at the edges.
//
//   y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, g*CG+c] * w[p,q,c,o]     (x outside its bounds is 0)
//   dx[n,h,w,g*CG+c] = sum over p,q,o of dy[n,i,j,o] * w[p,q,c,o]      where i*SH+p-PT = h and j*SW+q-PL = w
//   dw[p,q,c,o] = sum over n,i,j of x[n, i*SH+p-PT, j*SW+q-PL, g*CG+c] * dy[n,i,j,o]     db[o] = sum over n,i,j of dy
//   where g = o/OG is the group of output channel o, and CG and OG are the channels of a group
//
// Layout: row-major, last index fastest; images NHWC, filters HWIO. Source: Conv2D of Keras and Conv2d of PyTorch with
// groups, tf.nn.depthwise_conv2d.
// Host: src/ops/groupedconv2d.rs   Mirror: src/cpu/groupedconv2d.rs   Test: tests/groupedconv2d.rs
//
// Each invocation sums one output, and neighbours have neighbouring channels: with one channel per group (a depthwise
// convolution), which has few products per value and waits for memory, they load adjacent values. That case has a second
// form, `_by_4`, for channels in multiples of four. The gradient of the filter is summed in parts of some rows of the
// output, so that there are enough invocations.

override N: u32 = 1u;      // images
override H: u32 = 1u;      // input rows
override W: u32 = 1u;      // input columns
override C: u32 = 4u;      // input channels
override CG: u32 = 1u;     // input channels of a group
override KH: u32 = 1u;     // filter rows
override KW: u32 = 1u;     // filter columns
override O: u32 = 4u;      // output channels
override OG: u32 = 1u;     // output channels of a group
override SH: u32 = 1u;     // vertical stride
override SW: u32 = 1u;     // horizontal stride
override PT: u32 = 0u;     // padding above
override PL: u32 = 0u;     // padding to the left
override HO: u32 = 1u;     // output rows
override WO: u32 = 1u;     // output columns
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override ROWS_PER_PART: u32 = 1u;   // backward_w: rows of the output, of all images, summed in one part
override PARTS: u32 = 1u;           // backward_w_sum: number of parts

@group(0) @binding(0) var<storage, read> x: array<f32>;               // [N, H, W, C]
@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;    // the same, four channels at once; likewise below
@group(0) @binding(1) var<storage, read> w: array<f32>;               // [KH, KW, CG, O]
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<f32>;               // [O]
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;         // [N, HO, WO, O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;              // [N, HO, WO, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;        // [N, H, W, C]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> dw_parts: array<f32>;  // [parts, KH*KW*CG + 1, O]; the last row is db
@group(0) @binding(6) var<storage, read_write> dw_parts_by_4: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> parts: array<f32>;           // [parts, KH*KW*CG + 1, O]: dw_parts, read
@group(0) @binding(8) var<storage, read_write> dw: array<f32>;        // [KH, KW, CG, O]
@group(0) @binding(9) var<storage, read_write> db: array<f32>;        // [O]

// A position (n, row, column, c) in an image of the given size in NHWC.
struct Position { n: u32, row: u32, column: u32, c: u32 }

fn position(index: u32, rows: u32, columns: u32, channels: u32) -> Position {
    let cell = index / channels;
    return Position(cell / columns / rows, cell / columns % rows, cell % columns, index % channels);
}

@compute @workgroup_size(64)
fn groupedconv2d_forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * HO * WO * O) { return; }
    let at = position(index, HO, WO, O);
    let first = at.c / OG * CG;
    var sum = b[at.c];
    for (var p = 0u; p < KH; p++) {
        // Unsigned: a position above or left of the image wraps to a huge number and fails the same test.
        let row = at.row * SH + p - PT;
        if (row >= H) { continue; }
        for (var q = 0u; q < KW; q++) {
            let column = at.column * SW + q - PL;
            if (column >= W) { continue; }
            for (var c = 0u; c < CG; c++) {
                sum += x[((at.n * H + row) * W + column) * C + first + c] * w[((p * KW + q) * CG + c) * O + at.c];
            }
        }
    }
    y[index] = select(sum, max(sum, 0.0), RELU);
}

// A group for each channel, and as many outputs.
@compute @workgroup_size(64)
fn groupedconv2d_forward_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = C / 4u;
    if (index >= N * HO * WO * quads) { return; }
    let at = position(index, HO, WO, quads);
    var sum = b_by_4[at.c];
    for (var p = 0u; p < KH; p++) {
        let row = at.row * SH + p - PT;
        if (row >= H) { continue; }
        for (var q = 0u; q < KW; q++) {
            let column = at.column * SW + q - PL;
            if (column >= W) { continue; }
            sum += x_by_4[((at.n * H + row) * W + column) * quads + at.c] * w_by_4[(p * KW + q) * quads + at.c];
        }
    }
    y_by_4[index] = select(sum, max(sum, vec4(0.0)), RELU);
}

// Returns the position of the output that the filter cell p (of a row or a column) connects with an input, if it is below
// `count`; otherwise a larger number.
fn output_at(input: u32, p: u32, padding: u32, stride: u32, count: u32) -> u32 {
    // Unsigned: below the first output, it wraps to a huge number.
    let start = input + padding - p;
    return select(count, start / stride, start % stride == 0u && input + padding >= p);
}

@compute @workgroup_size(64)
fn groupedconv2d_backward_x(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= N * H * W * C) { return; }
    let at = position(index, H, W, C);
    let first = at.c / CG * OG;
    var sum = 0.0;
    for (var p = 0u; p < KH; p++) {
        let i = output_at(at.row, p, PT, SH, HO);
        if (i >= HO) { continue; }
        for (var q = 0u; q < KW; q++) {
            let j = output_at(at.column, q, PL, SW, WO);
            if (j >= WO) { continue; }
            for (var o = first; o < first + OG; o++) {
                sum += dy[((at.n * HO + i) * WO + j) * O + o] * w[((p * KW + q) * CG + at.c % CG) * O + o];
            }
        }
    }
    if (X_IS_RELU) { sum = select(0.0, sum, x[index] > 0.0); }
    dx[index] = sum;
}

@compute @workgroup_size(64)
fn groupedconv2d_backward_x_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = C / 4u;
    if (index >= N * H * W * quads) { return; }
    let at = position(index, H, W, quads);
    var sum = vec4(0.0);
    for (var p = 0u; p < KH; p++) {
        let i = output_at(at.row, p, PT, SH, HO);
        if (i >= HO) { continue; }
        for (var q = 0u; q < KW; q++) {
            let j = output_at(at.column, q, PL, SW, WO);
            if (j >= WO) { continue; }
            sum += dy_by_4[((at.n * HO + i) * WO + j) * quads + at.c] * w_by_4[(p * KW + q) * quads + at.c];
        }
    }
    if (X_IS_RELU) { sum = select(vec4(0.0), sum, x_by_4[index] > vec4(0.0)); }
    dx_by_4[index] = sum;
}

@compute @workgroup_size(64)
fn groupedconv2d_backward_w(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let n_rows = KH * KW * CG + 1u;
    let first = index / (n_rows * O) * ROWS_PER_PART;
    if (first >= N * HO) { return; }
    let o = index % O;
    let cell = index / O % n_rows;
    let q = cell / CG % KW;
    let p = cell / (CG * KW);
    let c = o / OG * CG + cell % CG;
    let is_bias = cell == n_rows - 1u;
    var sum = 0.0;
    for (var i = first; i < min(first + ROWS_PER_PART, N * HO); i++) {
        let row = i % HO * SH + p - PT;
        if (row >= H && !is_bias) { continue; }
        for (var j = 0u; j < WO; j++) {
            let column = j * SW + q - PL;
            let dy_value = dy[(i * WO + j) * O + o];
            if (is_bias) {
                sum += dy_value;
            } else if (column < W) {
                sum += x[((i / HO * H + row) * W + column) * C + c] * dy_value;
            }
        }
    }
    dw_parts[index] = sum;
}

@compute @workgroup_size(64)
fn groupedconv2d_backward_w_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = C / 4u;
    let n_rows = KH * KW + 1u;
    let first = index / (n_rows * quads) * ROWS_PER_PART;
    if (first >= N * HO) { return; }
    let c = index % quads;
    let cell = index / quads % n_rows;
    let q = cell % KW;
    let p = cell / KW;
    let is_bias = cell == n_rows - 1u;
    var sum = vec4(0.0);
    for (var i = first; i < min(first + ROWS_PER_PART, N * HO); i++) {
        let row = i % HO * SH + p - PT;
        if (row >= H && !is_bias) { continue; }
        for (var j = 0u; j < WO; j++) {
            let column = j * SW + q - PL;
            let dy_value = dy_by_4[(i * WO + j) * quads + c];
            if (is_bias) {
                sum += dy_value;
            } else if (column < W) {
                sum += x_by_4[((i / HO * H + row) * W + column) * quads + c] * dy_value;
            }
        }
    }
    dw_parts_by_4[index] = sum;
}

// Sums the parts of dw and db, in the order of the rows.
@compute @workgroup_size(64)
fn groupedconv2d_backward_w_sum(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let n_weights = KH * KW * CG * O;
    if (index >= n_weights + O) { return; }
    var sum = 0.0;
    for (var part = 0u; part < PARTS; part++) {
        sum += parts[part * (n_weights + O) + index];
    }
    if (index < n_weights) { dw[index] = sum; } else { db[index - n_weights] = sum; }
}
