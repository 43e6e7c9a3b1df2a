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
// channels. So do the plain passes `_by_4`, if C and O (forward: O) are multiples of four: four columns of four rows (forward: eight)
// per invocation. Each value loaded serves at least four products, and loads are what costs on a software adapter.

override N: u32 = 1u;      // images
override H: u32 = 1u;      // input rows
override W: u32 = 1u;      // input columns
override C: u32 = 4u;      // input channels
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
@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;   // the same, four channels at once; likewise below
@group(0) @binding(1) var<storage, read> w: array<f32>;              // [KH, KW, C, O]
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<f32>;              // [O]
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [N, HO, WO, O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;             // [N, HO, WO, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;       // [N, H, W, C]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> dw_parts: array<f32>; // [parts, KH*KW*C + 1, O]; the last row is db
@group(0) @binding(6) var<storage, read_write> dw_parts_by_4: array<vec4<f32>>;
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

// A position under a filter cell: where its values start, and whether it is inside (otherwise they are 0).
struct Source { inside: bool, first: u32 }

// Output position `row` under filter cell (p, q): the pixel of x. Rows past the end repeat the last one, and are not stored.
fn x_source(row: u32, p: u32, q: u32) -> Source {
    let position = min(row, N * HO * WO - 1u);
    let top = position / WO % HO * SH + p - PT;
    let left = position % WO * SW + q - PL;
    let inside = top < H && left < W;
    return Source(inside, select(0u, ((position / (HO * WO) * H + top) * W + left) * C, inside));
}

// Input position `row` under filter cell (p, q): the output that used it.
fn dy_source(row: u32, p: u32, q: u32) -> Source {
    let position = min(row, N * H * W - 1u);
    // Above or left of the first output the difference wraps; the quotient is then past the last output.
    let bottom = position / W % H + PT - p;
    let right = position % W + PL - q;
    let inside = bottom % SH == 0u && right % SW == 0u && bottom / SH < HO && right / SW < WO;
    return Source(inside, select(0u, ((position / (H * W) * HO + bottom / SH) * WO + right / SW) * O, inside));
}

fn x_value(source: Source, c: u32) -> f32 {
    return select(0.0, x[source.first + c], source.inside);
}

fn x_quad(source: Source, c: u32) -> vec4<f32> {
    return select(vec4(0.0), x_by_4[source.first / 4u + c], source.inside);
}

fn dy_quad(source: Source, o: u32) -> vec4<f32> {
    return select(vec4(0.0), dy_by_4[source.first / 4u + o], source.inside);
}

// Eight rows by four columns, for any C.
@compute @workgroup_size(64)
fn conv2d_forward_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = O / 4u;
    let quad = index % quads;
    let row = index / quads * 8u;
    if (row >= N * HO * WO) { return; }
    var sum_0 = b_by_4[quad];
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    var sum_4 = sum_0;
    var sum_5 = sum_0;
    var sum_6 = sum_0;
    var sum_7 = sum_0;
    for (var p = 0u; p < KH; p++) {
        for (var q = 0u; q < KW; q++) {
            let x_0 = x_source(row + 0u, p, q);
            let x_1 = x_source(row + 1u, p, q);
            let x_2 = x_source(row + 2u, p, q);
            let x_3 = x_source(row + 3u, p, q);
            let x_4 = x_source(row + 4u, p, q);
            let x_5 = x_source(row + 5u, p, q);
            let x_6 = x_source(row + 6u, p, q);
            let x_7 = x_source(row + 7u, p, q);
            for (var c = 0u; c < C; c++) {
                let w = w_by_4[((p * KW + q) * C + c) * quads + quad];
                sum_0 += x_value(x_0, c) * w;
                sum_1 += x_value(x_1, c) * w;
                sum_2 += x_value(x_2, c) * w;
                sum_3 += x_value(x_3, c) * w;
                sum_4 += x_value(x_4, c) * w;
                sum_5 += x_value(x_5, c) * w;
                sum_6 += x_value(x_6, c) * w;
                sum_7 += x_value(x_7, c) * w;
            }
        }
    }
    store_y(row + 0u, quad, sum_0);
    store_y(row + 1u, quad, sum_1);
    store_y(row + 2u, quad, sum_2);
    store_y(row + 3u, quad, sum_3);
    store_y(row + 4u, quad, sum_4);
    store_y(row + 5u, quad, sum_5);
    store_y(row + 6u, quad, sum_6);
    store_y(row + 7u, quad, sum_7);
}

fn store_y(row: u32, quad: u32, sum: vec4<f32>) {
    if (row < N * HO * WO) { y_by_4[row * (O / 4u) + quad] = select(sum, max(sum, vec4(0.0)), RELU); }
}

@compute @workgroup_size(64)
fn conv2d_backward_x_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = C / 4u;
    let quad = index % quads;
    let row = index / quads * 4u;
    if (row >= N * H * W) { return; }
    var sum_0 = vec4(0.0);
    var sum_1 = vec4(0.0);
    var sum_2 = vec4(0.0);
    var sum_3 = vec4(0.0);
    for (var p = 0u; p < KH; p++) {
        for (var q = 0u; q < KW; q++) {
            let dy_0 = dy_source(row + 0u, p, q);
            let dy_1 = dy_source(row + 1u, p, q);
            let dy_2 = dy_source(row + 2u, p, q);
            let dy_3 = dy_source(row + 3u, p, q);
            let first = ((p * KW + q) * C + quad * 4u) * (O / 4u);
            for (var o = 0u; o < O / 4u; o++) {
                // Four outputs of each of four inputs: the columns of a matrix, which a vector on the left multiplies one by one.
                let w = mat4x4(
                    w_by_4[first + o], w_by_4[first + O / 4u + o],
                    w_by_4[first + 2u * (O / 4u) + o], w_by_4[first + 3u * (O / 4u) + o]
                );
                sum_0 += dy_quad(dy_0, o) * w;
                sum_1 += dy_quad(dy_1, o) * w;
                sum_2 += dy_quad(dy_2, o) * w;
                sum_3 += dy_quad(dy_3, o) * w;
            }
        }
    }
    store_dx(row + 0u, quad, sum_0);
    store_dx(row + 1u, quad, sum_1);
    store_dx(row + 2u, quad, sum_2);
    store_dx(row + 3u, quad, sum_3);
}

fn store_dx(row: u32, quad: u32, sum: vec4<f32>) {
    if (row >= N * H * W) { return; }
    let at = row * (C / 4u) + quad;
    var value = sum;
    if (X_IS_RELU) { value = select(vec4(0.0), sum, x_by_4[at] > vec4(0.0)); }
    dx_by_4[at] = value;
}

// Rows are four channels under one cell of the window. The gradient of the bias is the sum of what all rows read; those of the
// first quad store it.
@compute @workgroup_size(64)
fn conv2d_backward_w_by_4(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    let quads = O / 4u;
    let row_quads = KH * KW * C / 4u;
    let quad = index % quads;
    let row_quad = index / quads % row_quads;
    let part = index / (quads * row_quads);
    let first = part * IMAGES_PER_PART;
    if (first >= N) { return; }
    let p = row_quad / (KW * C / 4u);
    let q = row_quad / (C / 4u) % KW;
    let c = row_quad % (C / 4u);
    var sum_0 = vec4(0.0);
    var sum_1 = vec4(0.0);
    var sum_2 = vec4(0.0);
    var sum_3 = vec4(0.0);
    var sum_bias = vec4(0.0);
    for (var n = first; n < min(first + IMAGES_PER_PART, N); n++) {
        for (var i = 0u; i < HO; i++) {
            for (var j = 0u; j < WO; j++) {
                let position = (n * HO + i) * WO + j;
                let inputs = x_quad(x_source(position, p, q), c);
                let gradients = dy_by_4[position * quads + quad];
                sum_0 += inputs.x * gradients;
                sum_1 += inputs.y * gradients;
                sum_2 += inputs.z * gradients;
                sum_3 += inputs.w * gradients;
                sum_bias += gradients;
            }
        }
    }
    let row = part * (KH * KW * C + 1u) + row_quad * 4u;
    dw_parts_by_4[(row + 0u) * quads + quad] = sum_0;
    dw_parts_by_4[(row + 1u) * quads + quad] = sum_1;
    dw_parts_by_4[(row + 2u) * quads + quad] = sum_2;
    dw_parts_by_4[(row + 3u) * quads + quad] = sum_3;
    if (row_quad == 0u) { dw_parts_by_4[(row + KH * KW * C) * quads + quad] = sum_bias; }
}
