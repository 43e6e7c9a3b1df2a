// dense, in subgroup tiles: the passes of dense.wgsl for software adapters. Same formulas, layout and bindings.
//
//   y[n,o] = b[o] + sum over i of x[n,i] * w[i,o]
//
// Host: src/ops/dense.rs   Mirror: src/cpu/dense.rs   Test: tests/dense.rs
//
// conv2d_subgroup.wgsl explains how such a tile works, and why. In forward and backward_x, a workgroup computes 4 LANES
// rows by 4 LANES columns; in backward_w, whose rows are the inputs, 8 LANES by 4 LANES. I and O must be multiples of
// 4.

override N: u32 = 1u;               // rows, the batch
override I: u32 = 4u;               // inputs
override O: u32 = 4u;               // outputs
override RELU: bool = false;        // forward: y = max(y, 0)
override X_IS_RELU: bool = false;   // backward_x: x is the output of a ReLU, so dx is 0 where x is 0
override LANES: u32 = 8u;           // 8 or 4: invocations per workgroup, at most the size of a subgroup

@group(0) @binding(0) var<storage, read> x_by_4: array<vec4<f32>>;          // [N, I]
@group(0) @binding(1) var<storage, read> w_by_4: array<vec4<f32>>;          // [I, O]
@group(0) @binding(2) var<storage, read> b_by_4: array<vec4<f32>>;          // [O]
@group(0) @binding(3) var<storage, read_write> y_by_4: array<vec4<f32>>;    // [N, O]
@group(0) @binding(4) var<storage, read> dy_by_4: array<vec4<f32>>;         // [N, O]
@group(0) @binding(5) var<storage, read_write> dx_by_4: array<vec4<f32>>;   // [N, I]
@group(0) @binding(6) var<storage, read_write> dw_by_4: array<vec4<f32>>;   // [I, O]
@group(0) @binding(7) var<storage, read_write> db_by_4: array<vec4<f32>>;   // [O]

// LANES rows by four columns per lane.
alias Sums = array<vec4<f32>, 8>;

// sums += (x of every lane) times (w of this lane). Unrolled, so that the sums are in registers.
fn add(sums: ptr<function, Sums>, x: f32, w: vec4<f32>) {
    (*sums)[0] += subgroupBroadcast(x, 0u) * w;
    (*sums)[1] += subgroupBroadcast(x, 1u) * w;
    (*sums)[2] += subgroupBroadcast(x, 2u) * w;
    (*sums)[3] += subgroupBroadcast(x, 3u) * w;
    if (LANES > 4u) {
        (*sums)[4] += subgroupBroadcast(x, 4u) * w;
        (*sums)[5] += subgroupBroadcast(x, 5u) * w;
        (*sums)[6] += subgroupBroadcast(x, 6u) * w;
        (*sums)[7] += subgroupBroadcast(x, 7u) * w;
    }
}

// The same for four steps of the inner dimension: x has one of each, w has a row of each.
fn add_4(sums: ptr<function, Sums>, x: vec4<f32>, w_0: vec4<f32>, w_1: vec4<f32>, w_2: vec4<f32>, w_3: vec4<f32>) {
    add(sums, x.x, w_0);
    add(sums, x.y, w_1);
    add(sums, x.z, w_2);
    add(sums, x.w, w_3);
}

fn filled(value: vec4<f32>) -> Sums {
    return Sums(value, value, value, value, value, value, value, value);
}

// Rows past the end repeat the last one.
fn sample(n: u32) -> u32 {
    return min(n, N - 1u);
}

@compute @workgroup_size(LANES)
fn dense_forward_subgroup(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32
) {
    let n = (group.z * groups.x + group.x) * 4u * LANES;
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    let x_0 = sample(n + 0u * LANES + lane) * (I / 4u);
    let x_1 = sample(n + 1u * LANES + lane) * (I / 4u);
    let x_2 = sample(n + 2u * LANES + lane) * (I / 4u);
    let x_3 = sample(n + 3u * LANES + lane) * (I / 4u);
    var sum_0 = filled(b_by_4[quad]);
    var sum_1 = sum_0;
    var sum_2 = sum_0;
    var sum_3 = sum_0;
    for (var i = 0u; i < I / 4u; i++) {
        let w_0 = w_by_4[(i * 4u + 0u) * (O / 4u) + quad];
        let w_1 = w_by_4[(i * 4u + 1u) * (O / 4u) + quad];
        let w_2 = w_by_4[(i * 4u + 2u) * (O / 4u) + quad];
        let w_3 = w_by_4[(i * 4u + 3u) * (O / 4u) + quad];
        let value_0 = x_by_4[x_0 + i];
        let value_1 = x_by_4[x_1 + i];
        let value_2 = x_by_4[x_2 + i];
        let value_3 = x_by_4[x_3 + i];
        add_4(&sum_0, value_0, w_0, w_1, w_2, w_3);
        add_4(&sum_1, value_1, w_0, w_1, w_2, w_3);
        add_4(&sum_2, value_2, w_0, w_1, w_2, w_3);
        add_4(&sum_3, value_3, w_0, w_1, w_2, w_3);
    }
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_y(n + 0u * LANES, quad, &sum_0);
    store_y(n + 1u * LANES, quad, &sum_1);
    store_y(n + 2u * LANES, quad, &sum_2);
    store_y(n + 3u * LANES, quad, &sum_3);
}

fn store_y(n: u32, quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < LANES; k++) {
        let value = (*sums)[k];
        y_by_4[sample(n + k) * (O / 4u) + quad] = select(value, max(value, vec4(0.0)), RELU);
    }
}

@compute @workgroup_size(LANES)
fn dense_backward_x_subgroup(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32
) {
    let n = (group.z * groups.x + group.x) * 4u * LANES;
    let quad = min(group.y * LANES + lane, I / 4u - 1u);
    let w_0 = (quad * 4u + 0u) * (O / 4u);
    let w_1 = (quad * 4u + 1u) * (O / 4u);
    let w_2 = (quad * 4u + 2u) * (O / 4u);
    let w_3 = (quad * 4u + 3u) * (O / 4u);
    let dy_0 = sample(n + 0u * LANES + lane) * (O / 4u);
    let dy_1 = sample(n + 1u * LANES + lane) * (O / 4u);
    let dy_2 = sample(n + 2u * LANES + lane) * (O / 4u);
    let dy_3 = sample(n + 3u * LANES + lane) * (O / 4u);
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    for (var o = 0u; o < O / 4u; o++) {
        // Four inputs by four outputs, transposed so that w[0] is four inputs of the first output.
        let w = transpose(mat4x4(w_by_4[w_0 + o], w_by_4[w_1 + o], w_by_4[w_2 + o], w_by_4[w_3 + o]));
        let value_0 = dy_by_4[dy_0 + o];
        let value_1 = dy_by_4[dy_1 + o];
        let value_2 = dy_by_4[dy_2 + o];
        let value_3 = dy_by_4[dy_3 + o];
        add_4(&sum_0, value_0, w[0], w[1], w[2], w[3]);
        add_4(&sum_1, value_1, w[0], w[1], w[2], w[3]);
        add_4(&sum_2, value_2, w[0], w[1], w[2], w[3]);
        add_4(&sum_3, value_3, w[0], w[1], w[2], w[3]);
    }
    if (group.y * LANES + lane >= I / 4u) { return; }
    store_dx(n + 0u * LANES, quad, &sum_0);
    store_dx(n + 1u * LANES, quad, &sum_1);
    store_dx(n + 2u * LANES, quad, &sum_2);
    store_dx(n + 3u * LANES, quad, &sum_3);
}

fn store_dx(n: u32, quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < LANES; k++) {
        let at = sample(n + k) * (I / 4u) + quad;
        var value = (*sums)[k];
        if (X_IS_RELU) { value = select(vec4(0.0), value, x_by_4[at] > vec4(0.0)); }
        dx_by_4[at] = value;
    }
}

// Rows are inputs, of which each lane has two quads; the inner dimension is the batch. The gradient of the bias is
// computed along with them.
@compute @workgroup_size(LANES)
fn dense_backward_w_subgroup(
    @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32
) {
    let inputs = (group.z * groups.x + group.x) * 2u * LANES;
    let quad = min(group.y * LANES + lane, O / 4u - 1u);
    let i_0 = min(inputs + lane, I / 4u - 1u);
    let i_1 = min(inputs + LANES + lane, I / 4u - 1u);
    var sum_0 = Sums();
    var sum_1 = Sums();
    var sum_2 = Sums();
    var sum_3 = Sums();
    var sum_4 = Sums();
    var sum_5 = Sums();
    var sum_6 = Sums();
    var sum_7 = Sums();
    var sum_bias = vec4(0.0);
    for (var n = 0u; n < N; n++) {
        let x_0 = x_by_4[n * (I / 4u) + i_0];
        let x_1 = x_by_4[n * (I / 4u) + i_1];
        let gradients = dy_by_4[n * (O / 4u) + quad];
        add(&sum_0, x_0.x, gradients);
        add(&sum_1, x_0.y, gradients);
        add(&sum_2, x_0.z, gradients);
        add(&sum_3, x_0.w, gradients);
        add(&sum_4, x_1.x, gradients);
        add(&sum_5, x_1.y, gradients);
        add(&sum_6, x_1.z, gradients);
        add(&sum_7, x_1.w, gradients);
        sum_bias += gradients;
    }
    if (group.y * LANES + lane >= O / 4u) { return; }
    store_dw(inputs, 0u, quad, &sum_0);
    store_dw(inputs, 1u, quad, &sum_1);
    store_dw(inputs, 2u, quad, &sum_2);
    store_dw(inputs, 3u, quad, &sum_3);
    store_dw(inputs + LANES, 0u, quad, &sum_4);
    store_dw(inputs + LANES, 1u, quad, &sum_5);
    store_dw(inputs + LANES, 2u, quad, &sum_6);
    store_dw(inputs + LANES, 3u, quad, &sum_7);
    if (inputs == 0u) { db_by_4[quad] = sum_bias; }
}

// Stores rows of dw: one of the four inputs of each of LANES quads.
fn store_dw(first: u32, part: u32, quad: u32, sums: ptr<function, Sums>) {
    for (var k = 0u; k < LANES; k++) {
        let i = min(first + k, I / 4u - 1u) * 4u + part;
        dw_by_4[i * (O / 4u) + quad] = (*sums)[k];
    }
}
