//! Proof of the native loops of the convolution.
//!
//! Winograd's algorithm subtracts and adds before it multiplies, so its errors grow with other sums than those of the
//! definition: with the results of the algorithm itself when every number is replaced by its absolute value, and every
//! subtraction by an addition. They are the `scale` of its bound.

use super::Check;
use crate::cpu::pool2d::{Pool2dDims, pool2d_max_backward_x, pool2d_max_forward};
use crate::native::conv2d::{Algorithm, Conv2d, Packed, Scratch};
use crate::ops::conv2d::{Conv2dDims, Padding};
use crate::verify::conv2d::{backward_w, backward_x, forward};
use crate::verify::{Bounded, Breadth, compare, compare_exact};

pub(in crate::verify) fn proof(check: &mut Check) {
    let everything = check.breadth == Breadth::Everything;
    let pools = [None, Some([2, 2])];
    // n, [H, W, C], [KH, KW], O, [SH, SW], padding
    let mut convolutions = vec![
        (2, [28, 28, 1], [3, 3], 32, [1, 1], Padding::Same),
        (2, [14, 14, 32], [3, 3], 64, [1, 1], Padding::Same),
        (1, [9, 17, 16], [3, 3], 32, [1, 1], Padding::Same),
        (2, [11, 6, 5], [2, 3], 7, [2, 1], Padding::Valid),
    ];
    if everything {
        convolutions.extend([
            (1, [1, 1, 1], [1, 1], 1, [1, 1], Padding::Valid),
            (3, [5, 5, 2], [3, 3], 16, [1, 1], Padding::Same),
            (2, [7, 15, 3], [3, 3], 32, [1, 1], Padding::Valid),
            (1, [8, 13, 32], [3, 3], 64, [1, 1], Padding::Same),
            (1, [16, 16, 64], [3, 3], 32, [1, 1], Padding::Same),
            (1, [16, 16, 16], [3, 3], 48, [1, 1], Padding::Same),
            (1, [15, 31, 8], [3, 3], 64, [1, 1], Padding::Same),
            (2, [17, 19, 1], [5, 5], 32, [1, 1], Padding::Same),
            (1, [20, 18, 32], [5, 3], 32, [1, 1], Padding::Valid),
            (2, [13, 11, 4], [4, 4], 12, [3, 2], Padding::Same),
            (1, [3, 4, 7], [5, 5], 3, [1, 1], Padding::Same),
            (1, [40, 300, 33], [3, 3], 17, [1, 1], Padding::Same),
            // More images than are computed together, single positions and rows, channels that fill no block, strides.
            (11, [3, 3, 128], [3, 3], 128, [1, 1], Padding::Same),
            (10, [13, 13, 16], [3, 3], 32, [1, 1], Padding::Same),
            (2, [1, 1, 20], [3, 3], 24, [1, 1], Padding::Same),
            (3, [1, 40, 16], [1, 3], 20, [1, 1], Padding::Same),
            (2, [40, 1, 16], [3, 1], 37, [1, 1], Padding::Valid),
            (5, [9, 7, 52], [3, 3], 52, [1, 1], Padding::Same),
            (2, [26, 26, 16], [3, 3], 32, [1, 1], Padding::Valid),
            (2, [12, 11, 16], [3, 3], 16, [2, 1], Padding::Same),
            (2, [10, 13, 17], [2, 2], 40, [3, 3], Padding::Same),
            (1, [6, 6, 128], [3, 3], 64, [1, 1], Padding::Same),
            // By Winograd's algorithm: more tiles than are transformed together, channels that fill no vector, one tile.
            (3, [24, 24, 16], [3, 3], 16, [1, 1], Padding::Same),
            (4, [12, 12, 32], [3, 3], 64, [1, 1], Padding::Same),
            (2, [14, 8, 52], [3, 3], 37, [1, 1], Padding::Same),
            (9, [4, 4, 20], [3, 3], 24, [1, 1], Padding::Valid),
            (1, [2, 2, 33], [3, 3], 17, [1, 1], Padding::Same),
        ]);
    }
    for (n, input, window, o, stride, padding) in convolutions {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).expect("the shapes above are valid");
        let more = [Some([3, 2]), Some([4, 4])];
        for pool in pools.iter().chain(more.iter().filter(|_| everything)) {
            let pool =
                pool.and_then(|window| Pool2dDims::new(d.n, [d.ho, d.wo, d.o], window, window, Padding::Valid).ok());
            for algorithm in [Algorithm::Fastest, Algorithm::Patches] {
                compare_case(check, &d, pool.as_ref(), algorithm);
            }
        }
    }
    if everything {
        // A window with more positions than fit into a byte.
        let d = Conv2dDims::new(1, [18, 18, 16], [3, 3], 32, [1, 1], Padding::Same).expect("the shape is valid");
        let pool = Pool2dDims::new(1, [18, 18, 32], [18, 17], [18, 17], Padding::Valid).expect("the window fits");
        compare_case(check, &d, Some(&pool), Algorithm::Fastest);
    }
}

/// Compares the forward pass and all gradients of a convolution, including what follows it.
fn compare_case(check: &mut Check, d: &Conv2dDims, pool: Option<&Pool2dDims>, algorithm: Algorithm) {
    let case = format!("{d:?}, {pool:?}, {algorithm:?}");
    for relu in [false, true] {
        let conv = Conv2d::new(d, relu, pool.copied(), true, algorithm);
        let (w, b) = (check.whole_numbers(d.w_len()), check.whole_numbers(d.o));
        let x = check.whole_numbers(d.x_len());
        forward_pass(check, &case, &conv, d, [&x, &w, &b], true);
        let (w, b, x) = (check.values(d.w_len()), check.values(d.o), check.values(d.x_len()));
        forward_pass(check, &case, &conv, d, [&x, &w, &b], false);
    }
    for needs_dx in [false, true] {
        backward_pass(check, &case, &Conv2d::new(d, true, pool.copied(), needs_dx, algorithm), d, needs_dx);
    }
}

/// Compares the forward pass; with `exact`, all sums are whole numbers.
fn forward_pass(check: &mut Check, case: &str, conv: &Conv2d, d: &Conv2dDims, [x, w, b]: [&[f32]; 3], exact: bool) {
    const NAME: &str = "native conv2d_forward";
    let (mut packed, mut scratch) = (Packed::default(), Scratch::new([conv]));
    conv.pack(w, &mut packed);
    let mut y = vec![f32::NAN; d.n * conv.y_len()];
    let mut argmax = vec![u32::MAX; if conv.pool.is_some() { y.len() } else { 0 }];
    conv.forward([x, w, b], &packed, &mut y, &mut argmax, &mut scratch);

    let [y_by_winograd, ..] = conv.winograd();
    let mut sums = forward(d, x, w, b);
    if y_by_winograd {
        sums = Bounded::sums(
            sums.values,
            &winograd_scale(d, x, Some(b), |tap, c, o| w[(tap * d.c + c) * d.o + o]),
            d.c + 11,
        );
    }
    let mut sums = sums.then_relu(conv.relu);
    if exact {
        sums.bound.fill(0.0);
    }
    let Some(pool) = conv.pool.map(|pool| pool.for_images(d.n)) else {
        return check.bounded(NAME, case, &y, &sums);
    };
    let (mut expected, mut expected_at) = (vec![0.0; y.len()], vec![0; y.len()]);
    pool2d_max_forward(&pool, &sums.values, &mut expected, &mut expected_at);
    // The error of a maximum is at most the largest error in its window.
    let (mut allowed, mut unused) = (vec![0.0; y.len()], vec![0; y.len()]);
    pool2d_max_forward(&pool, &sums.bound, &mut allowed, &mut unused);
    check.note(NAME, case, y.len(), &compare(&y, &expected, &allowed));
    if exact {
        check.note("native conv2d_forward, argmax", case, y.len(), &compare_exact(&argmax, &expected_at));
        return;
    }
    // The chosen value is a maximum within the accuracy of single precision.
    let image = d.ho * d.wo;
    let chosen: Vec<f32> = argmax
        .iter()
        .enumerate()
        .map(|(i, &at)| {
            let (n, o) = (i / conv.y_len(), i % d.o);
            if (at as usize) < image { sums.values[(n * image + at as usize) * d.o + o] as f32 } else { f32::NAN }
        })
        .collect();
    let allowed: Vec<f64> = allowed.iter().zip(&expected).map(|(a, e)| 2.0 * a + e.abs() * 1e-7).collect();
    check.note("native conv2d_forward, argmax", case, y.len(), &compare(&chosen, &expected, &allowed));
}

fn backward_pass(check: &mut Check, case: &str, conv: &Conv2d, d: &Conv2dDims, needs_dx: bool) {
    // The input is the output of a ReLU, and a ReLU follows: some values and gradients are zero.
    let x: Vec<f32> = check.values(d.x_len()).into_iter().map(|x| x.max(0.0)).collect();
    let (w, b) = (check.values(d.w_len()), check.values(d.o));
    let y_len = d.n * conv.y_len();
    let mut dy = check.values(y_len);
    dy.iter_mut().step_by(3).for_each(|dy| *dy = 0.0);
    let (mut packed, mut scratch) = (Packed::default(), Scratch::new([conv]));
    conv.pack(&w, &mut packed);
    let (mut y, mut argmax) = (vec![0.0; y_len], vec![0; if conv.pool.is_some() { y_len } else { 0 }]);
    conv.forward([&x, &w, &b], &packed, &mut y, &mut argmax, &mut scratch);

    // In two parts, the last image separately.
    let mut parts = vec![0.0; 2 * conv.sums_len()];
    let mut dx = vec![f32::NAN; d.x_len()];
    let first = d.n - 1;
    let (of_first, of_last) = parts.split_at_mut(conv.sums_len());
    for (sums, images) in [(of_first, 0..first), (of_last, first..d.n)] {
        let of = |len: usize| images.start * len..images.end * len;
        let (x_len, y_len) = (d.x_len() / d.n, conv.y_len());
        let argmax = if argmax.is_empty() { &argmax[..] } else { &argmax[of(y_len)] };
        let dx = needs_dx.then(|| &mut dx[of(x_len)]);
        conv.backward(true, [&x[of(x_len)], &w, &dy[of(y_len)]], &packed, argmax, sums, dx, &mut scratch);
    }
    let (mut dw, mut db) = (vec![f32::NAN; d.w_len()], vec![f32::NAN; d.o]);
    conv.gather_dw(&parts, &mut dw);
    conv.gather_db(&parts, &mut db);

    let given = dy;
    let dy = match conv.pool {
        Some(pool) => {
            let mut unpooled = vec![0.0; d.y_len()];
            pool2d_max_backward_x(&pool.for_images(d.n), &argmax, &given, &mut unpooled);
            unpooled
        }
        None => given.clone(),
    };
    let [_, dx_by_winograd, dw_by_winograd] = conv.winograd();
    let [mut expected_dw, expected_db] = backward_w(d, &x, &dy);
    if dw_by_winograd {
        expected_dw = Bounded::sums(expected_dw.values, &winograd_scale_w(d, &x, &dy), d.n * d.ho * d.wo + 16);
    }
    check.bounded("native conv2d_backward_w", case, &dw, &expected_dw);
    check.bounded("native conv2d_backward_b", case, &db, &expected_db);
    if needs_dx {
        let mut expected = backward_x(d, &w, &dy);
        if dx_by_winograd {
            // A convolution of dy by the turned filter.
            let (pad_top, pad_left) = (2 - d.pad_top, 2 - d.pad_left);
            let of_dy = Conv2dDims { h: d.ho, w: d.wo, c: d.o, ho: d.h, wo: d.w, o: d.c, pad_top, pad_left, ..*d };
            let scale = winograd_scale(&of_dy, &dy, None, |tap, o, c| w[((8 - tap) * d.c + c) * d.o + o]);
            expected = Bounded::sums(expected.values, &scale, d.o + 11);
        }
        let expected = expected.masked(true, &x);
        check.bounded("native conv2d_backward_x", case, &dx, &expected);
        dx.fill(f32::NAN);
        conv.backward_x(true, [&x, &w, &given], &packed, &argmax, &mut dx, &mut scratch);
        check.bounded("native conv2d_backward_x", &format!("{case}, alone"), &dx, &expected);
    }
}

/// A transform along one axis, on absolute values.
type Transform<const N: usize, const M: usize> = fn([f64; N]) -> [f64; M];

const INPUTS: Transform<4, 4> = |[x0, x1, x2, x3]| [x0 + x2, x1 + x2, x1 + x2, x1 + x3];
const FILTER: Transform<3, 4> = |[g0, g1, g2]| [g0, (g0 + g1 + g2) / 2.0, (g0 + g1 + g2) / 2.0, g2];
const OUTPUTS: Transform<4, 2> = |[m0, m1, m2, m3]| [m0 + m1 + m2, m1 + m2 + m3];
// Their transposes, but for the inputs.
const FILTER_T: Transform<4, 3> = |[u0, u1, u2, u3]| [u0 + (u1 + u2) / 2.0, (u1 + u2) / 2.0, (u1 + u2) / 2.0 + u3];
const OUTPUTS_T: Transform<2, 4> = |[y0, y1]| [y0, y0 + y1, y0 + y1, y1];

/// Applies a transform along both axes.
fn along_both<const N: usize, const M: usize>(transform: Transform<N, M>, values: [[f64; N]; N]) -> [[f64; M]; M] {
    let rows = values.map(transform);
    let columns: [[f64; M]; M] = std::array::from_fn(|j| transform(std::array::from_fn(|i| rows[i][j])));
    std::array::from_fn(|i| std::array::from_fn(|j| columns[j][i]))
}

/// The absolute values of the window of the tile at output `(i, j)`; outside of the image they are zero.
fn window(d: &Conv2dDims, x: &[f32], [n, i, j, c]: [usize; 4]) -> [[f64; 4]; 4] {
    let pixel = |row: usize, column: usize| {
        let (row, column) = (row.checked_sub(d.pad_top)?, column.checked_sub(d.pad_left)?);
        (row < d.h && column < d.w).then(|| f64::from(x[((n * d.h + row) * d.w + column) * d.c + c]).abs())
    };
    std::array::from_fn(|p| std::array::from_fn(|q| pixel(i + p, j + q).unwrap_or(0.0)))
}

/// The scale of the bound of y; `w` returns the filter's value for a tap, an input channel and an output channel.
fn winograd_scale(d: &Conv2dDims, x: &[f32], b: Option<&[f32]>, w: impl Fn(usize, usize, usize) -> f32) -> Vec<f64> {
    let filter = |c: usize, o: usize| {
        let tap = |p: usize, q: usize| f64::from(w(3 * p + q, c, o)).abs();
        along_both(FILTER, std::array::from_fn(|p| std::array::from_fn(|q| tap(p, q))))
    };
    let filters: Vec<_> = (0..d.c * d.o).map(|at| filter(at / d.o, at % d.o)).collect();
    let mut scale = vec![0.0; d.n * d.ho * d.wo * d.o];
    for (n, i, j) in tiles(d) {
        let inputs: Vec<_> = (0..d.c).map(|c| along_both(INPUTS, window(d, x, [n, i, j, c]))).collect();
        for o in 0..d.o {
            let mut products = [[0.0; 4]; 4];
            for (c, inputs) in inputs.iter().enumerate() {
                add_products(inputs, &filters[c * d.o + o], &mut products);
            }
            let bias = b.map_or(0.0, |b| f64::from(b[o]).abs());
            for (k, y) in along_both(OUTPUTS, products).concat().into_iter().enumerate() {
                scale[((n * d.ho + i + k / 2) * d.wo + j + k % 2) * d.o + o] = y + bias;
            }
        }
    }
    scale
}

/// The scale of the bound of dw.
fn winograd_scale_w(d: &Conv2dDims, x: &[f32], dy: &[f32]) -> Vec<f64> {
    let mut products = vec![[[0.0; 4]; 4]; d.c * d.o];
    for (n, i, j) in tiles(d) {
        let gradient =
            |p: usize, q: usize, o: usize| f64::from(dy[((n * d.ho + i + p) * d.wo + j + q) * d.o + o]).abs();
        let gradients = |o: usize| std::array::from_fn(|p| std::array::from_fn(|q| gradient(p, q, o)));
        let gradients: Vec<_> = (0..d.o).map(|o| along_both(OUTPUTS_T, gradients(o))).collect();
        for c in 0..d.c {
            let inputs = along_both(INPUTS, window(d, x, [n, i, j, c]));
            for (gradients, products) in gradients.iter().zip(&mut products[c * d.o..]) {
                add_products(&inputs, gradients, products);
            }
        }
    }
    let mut scale = vec![0.0; d.w_len()];
    for (at, products) in products.into_iter().enumerate() {
        for (tap, dw) in along_both(FILTER_T, products).concat().into_iter().enumerate() {
            scale[tap * d.c * d.o + at] = dw;
        }
    }
    scale
}

/// The image and the first position of each tile.
fn tiles(d: &Conv2dDims) -> impl Iterator<Item = (usize, usize, usize)> {
    let (columns, per_image) = (d.wo / 2, d.ho * d.wo / 4);
    (0..d.n * per_image).map(move |at| (at / per_image, at % per_image / columns * 2, at % columns * 2))
}

fn add_products(a: &[[f64; 4]; 4], b: &[[f64; 4]; 4], sums: &mut [[f64; 4]; 4]) {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    sums.iter_mut().flatten().zip(pairs).for_each(|(sum, (a, b))| *sum += a * b);
}
