//! Compares the native engine's loops with the plain ones in double precision, under the same bounds as the shaders.

use super::batchnorm::{self as batchnorm_proof, Bounded, EPSILON, MOMENTUM};
use super::{Breadth, Comparison, Verdict, absolute, compare, compare_exact, gelu as gelu_proof, sum_bound, widen};
use crate::cpu::batchnorm::BatchNormDims;
use crate::cpu::bias::{BiasDims, bias_backward_b};
use crate::cpu::conv2d::{Conv2dDims, Padding, conv2d_backward_w, conv2d_backward_x, conv2d_forward};
use crate::cpu::dense::{self, DenseDims};
use crate::cpu::pool2d::{Pool2dDims, pool2d_max_backward_x, pool2d_max_forward};
use crate::cpu::{
    adam as cpu_adam, add as cpu_add, batch_gather as cpu_batch_gather, gelu as cpu_gelu, relu, sgd as cpu_sgd,
};
use crate::native::conv2d::{Conv2d, Form, Packed, Scratch};
use crate::native::{adam, add, batch_gather, batchnorm, dense as native_dense, gelu, sgd};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Compares every loop of the native engine with the plain one for a table of shapes: the article's layers and, with
/// [`Breadth::Everything`], ones, primes, tile sizes and their neighbours.
pub fn check_all(seed: u64, breadth: Breadth) -> Vec<Verdict> {
    let mut check = Check { random: ChaCha8Rng::seed_from_u64(seed), verdicts: Vec::new() };
    let pools = [None, Some([2, 2])];
    // n, [H, W, C], [KH, KW], O, [SH, SW], padding
    let mut convolutions = vec![
        (2, [28, 28, 1], [3, 3], 32, [1, 1], Padding::Same),
        (2, [14, 14, 32], [3, 3], 64, [1, 1], Padding::Same),
        (1, [9, 17, 16], [3, 3], 32, [1, 1], Padding::Same),
        (2, [11, 6, 5], [2, 3], 7, [2, 1], Padding::Valid),
    ];
    if breadth == Breadth::Everything {
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
        ]);
    }
    for (n, input, window, o, stride, padding) in convolutions {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).expect("the shapes above are valid");
        let more = [Some([3, 2]), Some([4, 4])];
        for pool in pools.iter().chain(more.iter().filter(|_| breadth == Breadth::Everything)) {
            let pool =
                pool.and_then(|window| Pool2dDims::new(d.n, [d.ho, d.wo, d.o], window, window, Padding::Valid).ok());
            for form in [Form::Fastest, Form::Patches] {
                check.conv2d(&d, pool.as_ref(), form);
            }
        }
    }
    if breadth == Breadth::Everything {
        // A window with more positions than fit into a byte.
        let d = Conv2dDims::new(1, [18, 18, 16], [3, 3], 32, [1, 1], Padding::Same).expect("the shape is valid");
        let pool = Pool2dDims::new(1, [18, 18, 32], [18, 17], [18, 17], Padding::Valid).expect("the window fits");
        check.conv2d(&d, Some(&pool), Form::Fastest);
    }
    let mut sizes = vec![(32, 784, 128), (16, 3136, 128), (32, 128, 10), (3, 5, 7)];
    if breadth == Breadth::Everything {
        sizes.extend([(1, 1, 1), (1, 65, 1), (7, 64, 17), (33, 63, 31), (13, 257, 64), (5, 2, 100)]);
    }
    for (n, i, o) in sizes {
        check.dense(&DenseDims { n, i, o });
    }
    for len in [1, 7, 16, 100, 1031] {
        check.optimizers(len);
        check.gelu(len);
        check.add(len);
    }
    let mut normalized = vec![(4, 196, 32), (32, 1, 128), (3, 7, 5)];
    if breadth == Breadth::Everything {
        normalized.extend([(1, 1, 1), (5, 1, 3), (3, 1023, 2), (7, 49, 17), (6, 784, 4), (2050, 1, 9)]);
    }
    for (n, positions, c) in normalized {
        check.batchnorm(&BatchNormDims { n, positions, c });
    }
    check.batch_gather(5, 28 * 28);
    check.batch_gather(3, 17);
    check.verdicts
}

struct Check {
    random: ChaCha8Rng,
    verdicts: Vec<Verdict>,
}

impl Check {
    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.random.next_u32() >> 8) as f32 / (1u32 << 24) as f32 * 1.6 - 0.6).collect()
    }

    /// Returns small integers: sums of their products are exact, and maxima tie.
    fn whole_numbers(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.random.next_u32() % 5) as f32 - 2.0).collect()
    }

    fn note(&mut self, kernel: &'static str, case: &str, elements: usize, comparison: &Comparison) {
        let index = self.verdicts.iter().position(|v| v.kernel == kernel).unwrap_or_else(|| {
            let (worst_ratio, failures) = (0.0, Vec::new());
            self.verdicts.push(Verdict { kernel, comparisons: 0, elements: 0, worst_ratio, failures });
            self.verdicts.len() - 1
        });
        let verdict = &mut self.verdicts[index];
        verdict.comparisons += 1;
        verdict.elements += elements;
        verdict.worst_ratio = verdict.worst_ratio.max(comparison.worst_ratio);
        if !comparison.passed() {
            verdict.failures.push(format!("{case}: {comparison}"));
        }
    }

    fn sums(
        &mut self,
        kernel: &'static str,
        case: &str,
        actual: &[f32],
        expected: &[f64],
        scale: &[f64],
        terms: usize,
    ) {
        let bound: Vec<f64> = scale.iter().map(|&scale| sum_bound(terms, scale)).collect();
        self.note(kernel, case, expected.len(), &compare(actual, expected, &bound));
    }

    /// Compares the forward pass and all gradients of a convolution, including what follows it.
    fn conv2d(&mut self, d: &Conv2dDims, pool: Option<&Pool2dDims>, form: Form) {
        let case = format!("{d:?}, {pool:?}, {form:?}");
        for relu in [false, true] {
            let conv = Conv2d::new(d, relu, pool.copied(), true, form);
            let (w, b) = (self.whole_numbers(d.w_len()), self.whole_numbers(d.o));
            let x = self.whole_numbers(d.x_len());
            self.conv2d_forward(&case, &conv, d, &x, &w, &b, true);
            let (w, b, x) = (self.values(d.w_len()), self.values(d.o), self.values(d.x_len()));
            self.conv2d_forward(&case, &conv, d, &x, &w, &b, false);
        }
        for needs_dx in [false, true] {
            self.conv2d_backward(&case, &Conv2d::new(d, true, pool.copied(), needs_dx, form), d, needs_dx);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one argument per tensor, named as in the formula")]
    fn conv2d_forward(
        &mut self,
        case: &str,
        conv: &Conv2d,
        d: &Conv2dDims,
        x: &[f32],
        w: &[f32],
        b: &[f32],
        exact: bool,
    ) {
        const NAME: &str = "native conv2d_forward";
        let (mut packed, mut scratch) = (Packed::default(), Scratch::new([conv]));
        conv.pack(w, &mut packed);
        let mut y = vec![f32::NAN; d.n * conv.y_len()];
        let mut argmax = vec![u32::MAX; if conv.pool().is_some() { y.len() } else { 0 }];
        conv.forward(x, w, &packed, b, &mut y, &mut argmax, &mut scratch);

        let (x, w, b) = (widen(x), widen(w), widen(b));
        let (mut sums, mut scale) = (vec![0.0; d.y_len()], vec![0.0; d.y_len()]);
        conv2d_forward(d, &x, &w, &b, &mut sums);
        conv2d_forward(d, &absolute(&x), &absolute(&w), &absolute(&b), &mut scale);
        let mut bound: Vec<f64> = scale.iter().map(|&scale| sum_bound(d.terms() + 1, scale)).collect();
        if exact {
            bound.fill(0.0);
        }
        if conv.relu() {
            let before = sums.clone();
            relu::relu_forward(&before, &mut sums);
        }
        let Some(pool) = conv.pool().map(|pool| Pool2dDims { n: d.n, ..*pool }) else {
            self.note(NAME, case, y.len(), &compare(&y, &sums, &bound));
            return;
        };
        let (mut expected, mut expected_at) = (vec![0.0; y.len()], vec![0; y.len()]);
        pool2d_max_forward(&pool, &sums, &mut expected, &mut expected_at);
        // The error of a maximum is at most the largest error in its window.
        let (mut allowed, mut unused) = (vec![0.0; y.len()], vec![0; y.len()]);
        pool2d_max_forward(&pool, &bound, &mut allowed, &mut unused);
        self.note(NAME, case, y.len(), &compare(&y, &expected, &allowed));
        if exact {
            self.note("native conv2d_forward, argmax", case, y.len(), &compare_exact(&argmax, &expected_at));
            return;
        }
        // The chosen value is a maximum within the accuracy of single precision.
        let image = d.ho * d.wo;
        let chosen: Vec<f32> = argmax
            .iter()
            .enumerate()
            .map(|(i, &at)| {
                let (n, o) = (i / conv.y_len(), i % d.o);
                if (at as usize) < image { sums[(n * image + at as usize) * d.o + o] as f32 } else { f32::NAN }
            })
            .collect();
        let allowed: Vec<f64> = allowed.iter().zip(&expected).map(|(a, e)| 2.0 * a + e.abs() * 1e-7).collect();
        self.note("native conv2d_forward, argmax", case, y.len(), &compare(&chosen, &expected, &allowed));
    }

    fn conv2d_backward(&mut self, case: &str, conv: &Conv2d, d: &Conv2dDims, needs_dx: bool) {
        // The input is the output of a ReLU, and a ReLU follows: some values and gradients are zero.
        let x: Vec<f32> = self.values(d.x_len()).into_iter().map(|x| x.max(0.0)).collect();
        let (w, b) = (self.values(d.w_len()), self.values(d.o));
        let y_len = d.n * conv.y_len();
        let mut dy = self.values(y_len);
        dy.iter_mut().step_by(3).for_each(|dy| *dy = 0.0);
        let (mut packed, mut scratch) = (Packed::default(), Scratch::new([conv]));
        conv.pack(&w, &mut packed);
        let (mut y, mut argmax) = (vec![0.0; y_len], vec![0; if conv.pool().is_some() { y_len } else { 0 }]);
        conv.forward(&x, &w, &packed, &b, &mut y, &mut argmax, &mut scratch);

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
            conv.backward(true, &x[of(x_len)], &w, &packed, &dy[of(y_len)], argmax, sums, dx, &mut scratch);
        }
        let (mut dw, mut db) = (vec![f32::NAN; d.w_len()], vec![f32::NAN; d.o]);
        conv.gather_dw(&parts, &mut dw);
        conv.gather_db(&parts, &mut db);

        let (x, w, dy) = (widen(&x), widen(&w), widen(&dy));
        let dy = match conv.pool() {
            Some(pool) => {
                let mut unpooled = vec![0.0; d.y_len()];
                pool2d_max_backward_x(&Pool2dDims { n: d.n, ..*pool }, &argmax, &dy, &mut unpooled);
                unpooled
            }
            None => dy,
        };
        let positions = d.n * d.ho * d.wo;
        let (mut expected, mut scale) = (vec![0.0; d.w_len()], vec![0.0; d.w_len()]);
        conv2d_backward_w(d, &x, &dy, &mut expected);
        conv2d_backward_w(d, &absolute(&x), &absolute(&dy), &mut scale);
        self.sums("native conv2d_backward_w", case, &dw, &expected, &scale, positions);
        let (mut expected, mut scale) = (vec![0.0; d.o], vec![0.0; d.o]);
        let rows = BiasDims { n: positions, o: d.o };
        bias_backward_b(&rows, &dy, &mut expected);
        bias_backward_b(&rows, &absolute(&dy), &mut scale);
        self.sums("native conv2d_backward_b", case, &db, &expected, &scale, positions);
        if needs_dx {
            let (mut unmasked, mut scale) = (vec![0.0; d.x_len()], vec![0.0; d.x_len()]);
            conv2d_backward_x(d, &w, &dy, &mut unmasked);
            conv2d_backward_x(d, &absolute(&w), &absolute(&dy), &mut scale);
            let mut expected = vec![0.0; d.x_len()];
            relu::relu_backward_x(&x, &unmasked, &mut expected);
            self.sums("native conv2d_backward_x", case, &dx, &expected, &scale, d.kh * d.kw * d.o);
        }
    }

    fn dense(&mut self, d: &DenseDims) {
        let case = format!("{d:?}");
        let (w, b, dy) = (self.values(d.i * d.o), self.values(d.o), self.values(d.n * d.o));
        let x: Vec<f32> = self.values(d.n * d.i).into_iter().map(|x| x.max(0.0)).collect();
        let (xd, wd, bd, dyd) = (widen(&x), widen(&w), widen(&b), widen(&dy));
        for relu in [false, true] {
            let (mut y, mut expected, mut scale) =
                (vec![f32::NAN; d.n * d.o], vec![0.0; d.n * d.o], vec![0.0; d.n * d.o]);
            native_dense::dense_forward(d, relu, &x, &w, &b, &mut y);
            dense::dense_forward(d, &xd, &wd, &bd, &mut expected);
            dense::dense_forward(d, &absolute(&xd), &absolute(&wd), &absolute(&bd), &mut scale);
            if relu {
                let before = expected.clone();
                relu::relu_forward(&before, &mut expected);
            }
            self.sums("native dense_forward", &case, &y, &expected, &scale, d.i + 1);
        }
        for masked in [false, true] {
            let len = d.n * d.i;
            let (mut dx, mut expected, mut scale) = (vec![f32::NAN; len], vec![0.0; len], vec![0.0; len]);
            native_dense::dense_backward_x(d, masked, &x, &w, &dy, &mut dx);
            dense::dense_backward_x(d, &wd, &dyd, &mut expected);
            dense::dense_backward_x(d, &absolute(&wd), &absolute(&dyd), &mut scale);
            if masked {
                let before = expected.clone();
                relu::relu_backward_x(&xd, &before, &mut expected);
            }
            self.sums("native dense_backward_x", &case, &dx, &expected, &scale, d.o);
        }
        let len = d.i * d.o;
        let (mut dw, mut expected, mut scale) = (vec![f32::NAN; len], vec![0.0; len], vec![0.0; len]);
        // In slices of rows, as threads share the work.
        let rows = d.i.div_ceil(3);
        for (i, dw) in dw.chunks_mut(rows * d.o).enumerate() {
            native_dense::dense_backward_w(d, &x, &dy, i * rows, dw);
        }
        dense::dense_backward_w(d, &xd, &dyd, &mut expected);
        dense::dense_backward_w(d, &absolute(&xd), &absolute(&dyd), &mut scale);
        self.sums("native dense_backward_w", &case, &dw, &expected, &scale, d.n);
    }

    /// Compares the optimizers, whose results must have the same bits as the plain loops.
    fn optimizers(&mut self, len: usize) {
        let (g, w, m) = (self.values(len), self.values(len), self.values(len));
        let v: Vec<f32> = self.values(len).into_iter().map(f32::abs).collect();
        let config = cpu_adam::AdamConfig::default();
        let (mut actual, mut expected) = ([w.clone(), m.clone(), v.clone()], [w.clone(), m.clone(), v.clone()]);
        let [w_, m_, v_] = &mut actual;
        adam::adam_step(&config, 0.01, &g, w_, m_, v_);
        let [w_, m_, v_] = &mut expected;
        cpu_adam::adam_step(config.beta_1, config.beta_2, config.epsilon, 0.01, &g, w_, m_, v_);
        self.same("native adam_step", len, &actual.concat(), &expected.concat());
        let (mut actual, mut expected) = ([w.clone(), m.clone()], [w, m]);
        let [w_, m_] = &mut actual;
        sgd::sgd_step(0.9, 0.01, &g, w_, m_);
        let [w_, m_] = &mut expected;
        cpu_sgd::sgd_step(0.9, 0.01, &g, w_, m_);
        self.same("native sgd_step", len, &actual.concat(), &expected.concat());
    }

    fn add(&mut self, len: usize) {
        let (x1, x2) = (self.values(len), self.values(len));
        let (mut y, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
        add::add_forward(&x1, &x2, &mut y);
        cpu_add::add_forward(&x1, &x2, &mut expected);
        self.same("native add_forward", len, &y, &expected);
    }

    fn gelu(&mut self, len: usize) {
        let case = format!("{len} elements");
        let (x, dy) = (gelu_proof::inputs(|len| self.values(len), len), self.values(len));
        let (x64, dy64) = (widen(&x), widen(&dy));
        let (mut y, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
        gelu::gelu_forward(&x, &mut y);
        cpu_gelu::gelu_forward(&x64, &mut expected);
        let bound: Vec<f64> = x64.iter().map(|&x| gelu_proof::forward_bound(x)).collect();
        self.note("native gelu_forward", &case, len, &compare(&y, &expected, &bound));
        let (mut dx, mut expected) = (vec![f32::NAN; len], vec![0.0; len]);
        gelu::gelu_backward_x(&x, &dy, &mut dx);
        cpu_gelu::gelu_backward_x(&x64, &dy64, &mut expected);
        let bound: Vec<f64> = x64.iter().zip(&dy64).map(|(&x, &dy)| gelu_proof::backward_x_bound(x, dy)).collect();
        self.note("native gelu_backward_x", &case, len, &compare(&dx, &expected, &bound));
    }

    fn batchnorm(&mut self, d: &BatchNormDims) {
        // A sum of four, and the rounding of the total: everything else is in double precision.
        const ADDITIONS: usize = 3;
        let case = format!("{d:?}");
        let x = batchnorm_proof::inputs(d, d.n, self.values(d.x_len()));
        let dy = self.values(d.x_len());
        let (scale, shift, mean) = (self.values(d.c), self.values(d.c), self.values(d.c));
        let var: Vec<f32> = self.values(d.c).into_iter().map(f32::abs).collect();
        let (mut moments, mut mean_after, mut var_after) = (vec![f32::NAN; 3 * d.c], mean.clone(), var.clone());
        batchnorm::batchnorm_statistics(d, MOMENTUM, &x, &mut moments, &mut mean_after, &mut var_after);
        let expected = batchnorm_proof::statistics(d, d.n, &x, &mean, &var, ADDITIONS);
        for (actual, expected) in [&moments, &mean_after, &var_after].into_iter().zip(&expected) {
            self.bounded("native batchnorm_statistics", &case, actual, expected);
        }

        // In two parts, the last image separately.
        let image = d.positions * d.c;
        let (first, last) = (BatchNormDims { n: d.n - 1, ..*d }, BatchNormDims { n: 1, ..*d });
        let split = first.n * image;
        let mut y = vec![f32::NAN; d.x_len()];
        let (y_first, y_last) = y.split_at_mut(split);
        batchnorm::batchnorm_forward(&first, EPSILON, &x[..split], &moments, &scale, &shift, y_first);
        batchnorm::batchnorm_forward(&last, EPSILON, &x[split..], &moments, &scale, &shift, y_last);
        let expected = batchnorm_proof::forward(d, &x, &moments, &scale, &shift);
        self.bounded("native batchnorm_forward", &case, &y, &expected);

        let (mut dscale, mut dshift) = (vec![f32::NAN; d.c], vec![f32::NAN; d.c]);
        batchnorm::batchnorm_backward_w(d, EPSILON, &x, &moments, &dy, &mut dscale, &mut dshift);
        let expected = batchnorm_proof::backward_w(d, &x, &moments, &dy, ADDITIONS);
        for (actual, expected) in [&dscale, &dshift].into_iter().zip(&expected) {
            self.bounded("native batchnorm_backward_w", &case, actual, expected);
        }

        let mut dx = vec![f32::NAN; d.x_len()];
        let (dx_first, dx_last) = dx.split_at_mut(split);
        for (part, rows, dx) in [(first, 0..split, dx_first), (last, split..d.x_len(), dx_last)] {
            let (x, dy) = (&x[rows.clone()], &dy[rows]);
            batchnorm::batchnorm_backward_x(&part, EPSILON, x, &moments, &scale, &dscale, &dshift, dy, dx);
        }
        let expected = batchnorm_proof::backward_x(d, &x, &moments, &scale, &dscale, &dshift, &dy);
        self.bounded("native batchnorm_backward_x", &case, &dx, &expected);
    }

    fn bounded(&mut self, kernel: &'static str, case: &str, actual: &[f32], expected: &Bounded) {
        self.note(kernel, case, actual.len(), &compare(actual, &expected.values, &expected.bound));
    }

    fn batch_gather(&mut self, samples: usize, pixels: usize) {
        let mut images = vec![0; samples * pixels];
        self.random.fill_bytes(&mut images);
        let labels: Vec<u8> = (0..samples).map(|i| (i % 10) as u8).collect();
        let order: Vec<u32> = (0..samples as u32).rev().collect();
        let n = order.len();
        let (mut x, mut found) = (vec![f32::NAN; n * pixels], vec![u32::MAX; n]);
        batch_gather::batch_gather(pixels, &images, &labels, &order, &mut x, &mut found);
        let (mut expected, mut expected_labels) = (vec![0.0f32; n * pixels], vec![0; n]);
        let (e, l) = (&mut expected, &mut expected_labels);
        cpu_batch_gather::batch_gather(pixels, &images, &labels, &order, 0, e, l);
        self.same("native batch_gather", pixels, &x, &expected);
        let kernel = "native batch_gather";
        self.note(kernel, "labels", n, &compare_exact(&found, &expected_labels));
    }

    fn same(&mut self, kernel: &'static str, len: usize, actual: &[f32], expected: &[f32]) {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let comparison = compare_exact(&bits(actual), &bits(expected));
        self.note(kernel, &format!("{len} elements"), actual.len(), &comparison);
    }
}
