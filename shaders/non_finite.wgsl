// non_finite: counts the elements of a tensor that are infinite or NaN, and finds the first.
//
//   found[0] += elements whose eight exponent bits are all ones          found[1] = least index of such an element
//
// Any shape; found starts as 0 and 4294967295. Reads the bits as integers: a compiler may assume that floats are always
// finite, and that `x != x` is false. Integer atomics give the same result in any order. Source: IEEE 754-2019, 3.4.
// Host: src/ops/non_finite.rs   Mirror: src/cpu/non_finite.rs   Test: tests/non_finite.rs

@group(0) @binding(0) var<storage, read> x: array<u32>;                        // [any]: the bits of floats
@group(0) @binding(1) var<storage, read_write> found: array<atomic<u32>, 2>;   // [2]: count, first index

const EXPONENT: u32 = 0x7f800000u;

@compute @workgroup_size(64)
fn non_finite(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= arrayLength(&x)) { return; }
    if ((x[index] & EXPONENT) == EXPONENT) {
        atomicAdd(&found[0], 1u);
        atomicMin(&found[1], index);
    }
}
