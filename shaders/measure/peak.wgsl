// Measures the peak rates of an adapter: multiply-adds without memory access, and copying memory. Host: src/gpu/peak.rs
//
//   s = s * x + y, over and over, in independent chains         2 floating-point operations per multiply-add
//   y = x                                                       8 bytes per float: one float read, one written
//
// Which form of the multiply-adds is fastest on an adapter is not known in advance, so there are several, and the best
// one counts.

override ROUNDS: u32 = 256u;    // multiply-adds per chain

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;         // [LEN / 4]
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;   // [LEN / 4]

// Twelve chains of one float: enough to hide the latency of two units on a CPU.
@compute @workgroup_size(64)
fn peak_scalars(@builtin(global_invocation_id) id: vec3<u32>) {
    let factor = x[0].x;
    let summand = x[0].y;
    let start = f32(id.x);
    var s_0 = start;
    var s_1 = start + 1.0;
    var s_2 = start + 2.0;
    var s_3 = start + 3.0;
    var s_4 = start + 4.0;
    var s_5 = start + 5.0;
    var s_6 = start + 6.0;
    var s_7 = start + 7.0;
    var s_8 = start + 8.0;
    var s_9 = start + 9.0;
    var s_10 = start + 10.0;
    var s_11 = start + 11.0;
    for (var i = 0u; i < ROUNDS; i++) {
        s_0 = fma(s_0, factor, summand);
        s_1 = fma(s_1, factor, summand);
        s_2 = fma(s_2, factor, summand);
        s_3 = fma(s_3, factor, summand);
        s_4 = fma(s_4, factor, summand);
        s_5 = fma(s_5, factor, summand);
        s_6 = fma(s_6, factor, summand);
        s_7 = fma(s_7, factor, summand);
        s_8 = fma(s_8, factor, summand);
        s_9 = fma(s_9, factor, summand);
        s_10 = fma(s_10, factor, summand);
        s_11 = fma(s_11, factor, summand);
    }
    y[id.x] = vec4(s_0 + s_1 + s_2, s_3 + s_4 + s_5, s_6 + s_7 + s_8, s_9 + s_10 + s_11);
}

// Six chains of four floats.
@compute @workgroup_size(64)
fn peak_vectors(@builtin(global_invocation_id) id: vec3<u32>) {
    let factor = x[0];
    let summand = x[1];
    let start = vec4(f32(id.x));
    var s_0 = start;
    var s_1 = start + 1.0;
    var s_2 = start + 2.0;
    var s_3 = start + 3.0;
    var s_4 = start + 4.0;
    var s_5 = start + 5.0;
    for (var i = 0u; i < ROUNDS; i++) {
        s_0 = fma(s_0, factor, summand);
        s_1 = fma(s_1, factor, summand);
        s_2 = fma(s_2, factor, summand);
        s_3 = fma(s_3, factor, summand);
        s_4 = fma(s_4, factor, summand);
        s_5 = fma(s_5, factor, summand);
    }
    y[id.x] = s_0 + s_1 + s_2 + s_3 + s_4 + s_5;
}

@compute @workgroup_size(64)
fn peak_copy(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index < arrayLength(&y)) { y[index] = x[index]; }
}
