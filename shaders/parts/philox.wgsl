
// Philox4x32-10: four random words for a counter and a key, without any state. The host appends this text to shaders that draw.
// Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011. Mirror: src/cpu/philox.rs

// Returns the lower and the upper word of a product, from the products of halves.
fn wide_product(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let middle = a_high * b_low + ((a_low * b_low) >> 16u);
    let other = a_low * b_high + (middle & 0xffffu);
    return vec2(a * b, a_high * b_high + (middle >> 16u) + (other >> 16u));
}

fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var i = 0u; i < 10u; i++) {
        let left = wide_product(0xd2511f53u, c.x);
        let right = wide_product(0xcd9e8d57u, c.z);
        c = vec4(right.y ^ c.y ^ k.x, right.x, left.y ^ c.w ^ k.y, left.x);
        k += vec2(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// Returns a whole number below n.
fn below(word: u32, n: u32) -> u32 {
    return wide_product(word, n).y;
}
