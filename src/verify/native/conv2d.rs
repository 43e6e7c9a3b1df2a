//! Proof of the native loops of the convolution.
//!
//! Winograd's algorithm subtracts and adds before it multiplies, so its errors grow with other sums than those of the
//! definition: with the results of the algorithm itself when every number is replaced by its absolute value, and every
//! subtraction by an addition. They are the `scale` of its bound.

use super::Check;
use crate::cpu::pool2d::{Pool2dDims, pool2d_max_backward_x, pool2d_max_forward};
use crate::native::conv2d::{Algorithm, Conv2d, Packed, Scratch};
use crate::native::conv2d_transforms::{Four, LARGER, Three, Transforms, Two, transposed};
use crate::ops::conv2d::{Conv2dDims, Padding};
use crate::verify::conv2d::{backward_w, backward_x, forward};
use crate::verify::{Bounded, Breadth, compare, compare_exact};

/// Calls a function with the transforms of a side.
macro_rules! with_transforms {
    ($side:expr, $function:ident($($arguments:expr),*)) => {
        match $side {
            3 if LARGER => $function::<Three, 3, 5>($($arguments),*),
            4 if LARGER => $function::<Four, 4, 6>($($arguments),*),
            _ => $function::<Two, 2, 4>($($arguments),*),
        }
    };
}

pub(in crate::verify) fn proof(check: &mut Check) {
    let everything = check.breadth == Breadth::Everything;
    let pools = [None, Some([2, 2])];
    // n, [H, W, C], [KH, KW], O, [SH, SW], padding
    let mut convolutions = vec![
        (2, [28, 28, 1], [3, 3], 32, [1, 1], Padding::Same),
        (2, [14, 14, 32], [3, 3], 64, [1, 1], Padding::Same),
        (1, [9, 17, 16], [3, 3], 32, [1, 1], Padding::Same),
        (2, [11, 6, 5], [2, 3], 7, [2, 1], Padding::Valid),
        (2, [12, 8, 16], [3, 3], 32, [1, 1], Padding::Same),
        (3, [6, 6, 32], [3, 3], 32, [1, 1], Padding::Same),
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
            // Tiles of each size: 4x4 outputs, 3x3, and 2x2 after a pooling.
            (3, [8, 12, 32], [3, 3], 48, [1, 1], Padding::Same),
            (7, [6, 6, 64], [3, 3], 32, [1, 1], Padding::Same),
            (2, [11, 17, 16], [3, 3], 16, [1, 1], Padding::Valid),
            (5, [7, 7, 32], [3, 3], 32, [1, 1], Padding::Same),
            (1, [6, 10, 16], [3, 3], 32, [1, 1], Padding::Same),
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

    let [winograd, ..] = conv.winograd();
    let mut sums = forward(d, x, w, b);
    if let Some(side) = winograd {
        let w = |tap: usize, c: usize, o: usize| w[(tap * d.c + c) * d.o + o];
        let (scale, terms) = with_transforms!(side, winograd_scale(d, x, Some(b), w));
        sums = Bounded::sums(sums.values, &scale, terms);
    }
    // The transforms of larger tiles have sixths.
    let exact = exact && winograd.is_none_or(|side| side == 2);
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
    let [_, winograd_dx, winograd_dw] = conv.winograd();
    let [mut expected_dw, expected_db] = backward_w(d, &x, &dy);
    if let Some(side) = winograd_dw {
        let (scale, terms) = with_transforms!(side, winograd_scale_w(d, &x, &dy));
        expected_dw = Bounded::sums(expected_dw.values, &scale, terms);
    }
    check.bounded("native conv2d_backward_w", case, &dw, &expected_dw);
    check.bounded("native conv2d_backward_b", case, &db, &expected_db);
    if needs_dx {
        let mut expected = backward_x(d, &w, &dy);
        if let Some(side) = winograd_dx {
            // A convolution of dy by the turned filter.
            let (pad_top, pad_left) = (2 - d.pad_top, 2 - d.pad_left);
            let of_dy = Conv2dDims { h: d.ho, w: d.wo, c: d.o, ho: d.h, wo: d.w, o: d.c, pad_top, pad_left, ..*d };
            let turned = |tap: usize, o: usize, c: usize| w[((8 - tap) * d.c + c) * d.o + o];
            let (scale, terms) = with_transforms!(side, winograd_scale(&of_dy, &dy, None, turned));
            expected = Bounded::sums(expected.values, &scale, terms);
        }
        let expected = expected.masked(true, &x);
        check.bounded("native conv2d_backward_x", case, &dx, &expected);
        dx.fill(f32::NAN);
        conv.backward_x(true, [&x, &w, &given], &packed, &argmax, &mut dx, &mut scratch);
        check.bounded("native conv2d_backward_x", &format!("{case}, alone"), &dx, &expected);
    }
}

/// Applies the absolute values of a transform along both axes.
fn along_both<const R: usize, const C: usize>(matrix: &[[f32; C]; R], values: &[[f64; C]; C]) -> [[f64; R]; R] {
    let product = |p: usize, q: usize, i: usize, j: usize| {
        f64::from(matrix[p][i]).abs() * f64::from(matrix[q][j]).abs() * values[i][j]
    };
    let value = |p: usize, q: usize| (0..C * C).map(|at| product(p, q, at / C, at % C)).sum();
    std::array::from_fn(|p| std::array::from_fn(|q| value(p, q)))
}

/// Returns the roundoffs of a transform along both axes: of each sum, and of a product with a factor that is no power of two two, one of
/// them for the factor itself.
fn roundoffs<const R: usize, const C: usize>(matrix: &[[f32; C]; R]) -> usize {
    let of_row = |row: &[f32; C]| {
        let factors = row.iter().filter(|factor| **factor != 0.0);
        let rounds = factors.clone().any(|factor| factor.to_bits() << 9 != 0);
        factors.count() - 1 + if rounds { 2 } else { 0 }
    };
    2 * matrix.iter().map(of_row).max().unwrap_or(0)
}

/// The absolute values of the window of the tile at output `(i, j)`; outside of the image they are zero.
fn window<const T: usize>(d: &Conv2dDims, x: &[f32], [n, i, j, c]: [usize; 4]) -> [[f64; T]; T] {
    let pixel = |row: usize, column: usize| {
        let (row, column) = (row.checked_sub(d.pad_top)?, column.checked_sub(d.pad_left)?);
        (row < d.h && column < d.w).then(|| f64::from(x[((n * d.h + row) * d.w + column) * d.c + c]).abs())
    };
    std::array::from_fn(|p| std::array::from_fn(|q| pixel(i + p, j + q).unwrap_or(0.0)))
}

/// The scale of the bound of y, and its roundoffs; `w` returns the filter's value for a tap, an input channel and an output channel.
fn winograd_scale<X: Transforms<M, T>, const M: usize, const T: usize>(
    d: &Conv2dDims,
    x: &[f32],
    b: Option<&[f32]>,
    w: impl Fn(usize, usize, usize) -> f32,
) -> (Vec<f64>, usize) {
    let filter = |c: usize, o: usize| {
        let tap = |p: usize, q: usize| f64::from(w(3 * p + q, c, o)).abs();
        along_both(&X::FILTER, &std::array::from_fn(|p| std::array::from_fn(|q| tap(p, q))))
    };
    let filters: Vec<[[f64; T]; T]> = (0..d.c * d.o).map(|at| filter(at / d.o, at % d.o)).collect();
    let mut scale = vec![0.0; d.n * d.ho * d.wo * d.o];
    for (n, (i, j)) in tiles(d, M) {
        let inputs: Vec<_> = (0..d.c).map(|c| along_both(&X::INPUT, &window(d, x, [n, i, j, c]))).collect();
        for o in 0..d.o {
            let mut products = [[0.0; T]; T];
            for (c, inputs) in inputs.iter().enumerate() {
                add_products(inputs, &filters[c * d.o + o], &mut products);
            }
            let bias = b.map_or(0.0, |b| f64::from(b[o]).abs());
            for (k, y) in along_both(&X::OUTPUT, &products).concat().into_iter().enumerate() {
                scale[((n * d.ho + i + k / M) * d.wo + j + k % M) * d.o + o] = y + bias;
            }
        }
    }
    let bias = 1;
    (scale, d.c + roundoffs(&X::INPUT) + roundoffs(&X::FILTER) + roundoffs(&X::OUTPUT) + bias)
}

/// The scale of the bound of dw, and its roundoffs.
fn winograd_scale_w<X: Transforms<M, T>, const M: usize, const T: usize>(
    d: &Conv2dDims,
    x: &[f32],
    dy: &[f32],
) -> (Vec<f64>, usize) {
    let (output, filter) = (transposed(&X::OUTPUT), transposed(&X::FILTER));
    let mut products = vec![[[0.0; T]; T]; d.c * d.o];
    for (n, (i, j)) in tiles(d, M) {
        let gradient =
            |p: usize, q: usize, o: usize| f64::from(dy[((n * d.ho + i + p) * d.wo + j + q) * d.o + o]).abs();
        let gradients = |o: usize| std::array::from_fn(|p| std::array::from_fn(|q| gradient(p, q, o)));
        let gradients: Vec<_> = (0..d.o).map(|o| along_both(&output, &gradients(o))).collect();
        for c in 0..d.c {
            let inputs = along_both(&X::INPUT, &window(d, x, [n, i, j, c]));
            for (gradients, products) in gradients.iter().zip(&mut products[c * d.o..]) {
                add_products(&inputs, gradients, products);
            }
        }
    }
    let mut scale = vec![0.0; d.w_len()];
    for (at, products) in products.into_iter().enumerate() {
        for (tap, dw) in along_both(&filter, &products).concat().into_iter().enumerate() {
            scale[tap * d.c * d.o + at] = dw;
        }
    }
    // The sums of two parts, and of what was there before them.
    let parts = 8;
    (scale, d.n * d.ho * d.wo + roundoffs(&X::INPUT) + roundoffs(&output) + roundoffs(&filter) + parts)
}

/// The image and the first position of each tile of `side` outputs along an axis.
fn tiles(d: &Conv2dDims, side: usize) -> impl Iterator<Item = (usize, (usize, usize))> {
    let [rows, columns] = [d.ho, d.wo].map(|length| length.div_ceil(side));
    // The last of a row or column starts where it just fits.
    let start = move |tile: usize, length: usize| (tile * side).min(length - side);
    let position = move |at: usize| (start(at / columns % rows, d.ho), start(at % columns, d.wo));
    (0..d.n * rows * columns).map(move |at| (at / (rows * columns), position(at)))
}

fn add_products<const T: usize>(a: &[[f64; T]; T], b: &[[f64; T]; T], sums: &mut [[f64; T]; T]) {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    sums.iter_mut().flatten().zip(pairs).for_each(|(sum, (a, b))| *sum += a * b);
}
