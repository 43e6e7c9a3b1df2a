use crate::support::{assert_all_right, gpu};
use fmnist_gpu::gpu::{Constant, GpuError, KernelSpec, PlanBuilder, bind, workgroups_linear};
use fmnist_gpu::native::batchnorm as native;
use fmnist_gpu::ops::batchnorm::{
    BACKWARD_X, BatchNormDims, MOST_ROWS, STATISTICS, STATISTICS_PARTS, additions, parts, record_backward_w,
    record_statistics,
};
use fmnist_gpu::verify::batchnorm::{self as proof, EPSILON, MOMENTUM, verify};
use fmnist_gpu::verify::{Verifier, compare, sum_bound};
use pollster::FutureExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

fn dims([n, positions, c]: [usize; 3]) -> BatchNormDims {
    BatchNormDims { n, positions, c }
}

fn check(cases: &[([usize; 3], usize)]) {
    let mut verifier = Verifier::new(gpu(), 18);
    for &(d, n_valid) in cases {
        verify(&mut verifier, &dims(d), n_valid).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn batchnorm_matches_cpu() {
    check(&[
        ([1, 1, 1], 1),
        ([1, 7, 1], 1),
        ([2, 1, 63], 2),
        ([64, 1, 64], 64),
        ([65, 1, 65], 65),
        ([3, 5, 7], 3),
        ([32, 49, 64], 32),
        // One row fewer than a part takes, than the lanes take parts, than there are parts of this length; as many, one more.
        ([31, 1, 2], 31),
        ([32, 1, 2], 32),
        ([33, 1, 2], 33),
        ([2047, 1, 3], 2047),
        ([2048, 1, 3], 2048),
        ([2049, 1, 3], 2049),
        ([32_767, 1, 2], 32_767),
        ([32_768, 1, 2], 32_768),
        ([32_769, 1, 2], 32_769),
        ([13, 787, 3], 13),
    ]);
}

#[test]
fn batchnorm_matches_cpu_on_short_last_batches() {
    check(&[([32, 1, 10], 1), ([32, 49, 16], 31), ([7, 29, 5], 3), ([2, 1024, 4], 1), ([2, 1, 1], 1)]);
}

/// More than 65,535 workgroups: the dispatch is folded into two dimensions, and the shader unfolds it.
#[test]
fn batchnorm_matches_cpu_beyond_one_dimension_of_workgroups() {
    check(&[([2, 1, 65_535 + 78], 2), ([1, 65_537, 65], 1)]);
}

/// lavapipe ends an invocation's loops after 65,535 iterations: none of them is left out.
#[test]
fn batchnorm_sums_as_many_rows_as_it_accepts() {
    let gpu = gpu();
    let d = dims([1, MOST_ROWS, 1]);
    let x: Vec<f32> = (0..MOST_ROWS).map(|i| (i % 251) as f32).collect();
    let values = || x.iter().map(|&x| f64::from(x));
    let m = MOST_ROWS as f64;
    let mean = values().sum::<f64>() / m;
    let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / m;
    let tensor = |data: &[f32]| gpu.tensor_from("t", &[data.len()], data).unwrap();
    let (tx, tmoments, tmean, tvar) = (tensor(&x), tensor(&[0.0; 3]), tensor(&[0.0]), tensor(&[0.0]));
    let tprogress = gpu.tensor_from_u32("progress", &[2], &[0, 1]).unwrap();
    let mut plan = PlanBuilder::new(gpu);
    record_statistics(&mut plan, &d, MOMENTUM, [&tx, &tprogress, &tmoments, &tmean, &tvar]).unwrap();
    gpu.run(&plan.finish().block_on().unwrap()).block_on().unwrap();
    // The sums are of positive numbers, so their bound is relative; a missing step of the last sum is a half.
    let error = sum_bound(additions(&d) + 6, 1.0);
    let bound = [error * mean, error * variance + (error * mean).powi(2), 0.0];
    let result = compare(&gpu.read(&tmoments).block_on().unwrap(), &[mean, variance, 1.0], &bound);
    assert!(result.passed(), "{result}");
}

/// Beyond that, sums would silently be incomplete.
#[test]
fn batchnorm_refuses_more_rows_than_it_can_sum() {
    let gpu = gpu();
    let tensor = gpu.tensor_from("t", &[1], &[0.0]).unwrap();
    for (d, advice) in [
        (dims([MOST_ROWS / 784 + 1, 784, 1]), format!("use at most {} images", MOST_ROWS / 784)),
        (dims([1, MOST_ROWS + 1, 1]), "use smaller images".to_string()),
        (dims([usize::MAX, 2, 1]), format!("use at most {} images", MOST_ROWS / 2)),
    ] {
        let mut plan = PlanBuilder::new(gpu);
        let t = &tensor;
        let results = [
            record_statistics(&mut plan, &d, MOMENTUM, [t, t, t, t, t]),
            record_backward_w(&mut plan, &d, EPSILON, [t, t, t, t, t]),
        ];
        for result in results {
            let Err(GpuError::Record { message, .. }) = result else { panic!("{d:?} is recorded: {result:?}") };
            assert!(message.contains(&advice) && message.contains(&MOST_ROWS.to_string()), "{message}");
        }
    }
}

/// Runs a kernel with `from` replaced by `to` in its shader, as `verify` runs the right one.
fn passes(right: &'static KernelSpec, from: &str, to: &str) -> bool {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let changed = |right: &'static KernelSpec| -> &'static KernelSpec {
        // Compiled kernels are kept by entry point, so each has its own name.
        let entry = format!("{}_{number}", right.entry).leak();
        let mut source = right.source.to_string();
        for (from, to) in [(from, to), (&format!("fn {}(", right.entry), &format!("fn {entry}("))] {
            assert_eq!(source.matches(from).count(), 1, "`{from}` in the shader");
            source = source.replace(from, to);
        }
        Box::leak(Box::new(KernelSpec { entry, source: source.leak(), ..*right }))
    };
    let spec = changed(right);
    let (d, n_valid) = (dims([8, 25, 6]), 7);
    let mut v = Verifier::new(gpu(), 19);
    // The images that do not count are like the others, so that an error is as small as it may be.
    let (x, dy) = (proof::inputs(&d, d.n, v.random(d.x_len())), v.random(d.x_len()));
    let (scale, mean, var) = (v.random(d.c), vec![0.0; d.c], vec![1.0; d.c]);
    let [mut expected, mean_after, var_after] = proof::statistics_in_parts(&d, n_valid, &x, &mean, &var);
    let [rows_per_part, n_parts] = parts(&d);
    let mut constants: Vec<Constant> = vec![("N", 8.0), ("P", 25.0), ("C", 6.0)];
    let mut run = v.run();
    let tx = run.input(&x).unwrap();
    if right.entry == STATISTICS.entry {
        let (tprogress, tmoments) = (run.input_u32(&[1, 8 + 7]).unwrap(), run.output(3 * d.c).unwrap());
        let (tmean, tvar) = (run.in_place(&mean).unwrap(), run.in_place(&var).unwrap());
        constants.extend([("ROWS_PER_PART", rows_per_part as f64), ("PARTS", n_parts as f64)]);
        let tparts = run.output(2 * n_parts * d.c).unwrap();
        let tensors =
            [bind("x", &tx, d.x_len()), bind("progress", &tprogress, 2), bind("parts_out", &tparts, tparts.len())];
        let workgroups = workgroups_linear(n_parts * d.c, 64);
        run.plan.push(changed(&STATISTICS_PARTS), &constants, workgroups, &tensors).unwrap();
        let tensors = [
            bind("x", &tx, d.x_len()),
            bind("progress", &tprogress, 2),
            bind("parts", &tparts, tparts.len()),
            bind("moments_out", &tmoments, 3 * d.c),
            bind("running_mean", &tmean, d.c),
            bind("running_var", &tvar, d.c),
        ];
        run.plan.push(spec, &constants, workgroups_linear(d.c, 1), &tensors).unwrap();
        // All but the count of images, which alone would not pass.
        expected.bound[2 * d.c..].fill(100.0);
        let outputs = [(&tmoments, &expected), (&tmean, &mean_after), (&tvar, &var_after)];
        run.check(spec.entry, "negative", &outputs, &[]);
    } else {
        let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        let moments = narrow(&expected.values);
        let [dscale, dshift] = proof::backward_w(&d, &x, &moments, &dy, additions(&d));
        let (dscale, dshift) = (narrow(&dscale.values), narrow(&dshift.values));
        let expected = proof::backward_x(&d, &x, &moments, &scale, &dscale, &dshift, &dy);
        let [tmoments, tscale, tdscale, tdshift, tdy] =
            [&moments, &scale, &dscale, &dshift, &dy].map(|data| run.input(data).unwrap());
        let tdx = run.output(d.x_len()).unwrap();
        let tensors = [
            bind("x", &tx, d.x_len()),
            bind("moments", &tmoments, 3 * d.c),
            bind("scale", &tscale, d.c),
            bind("dscale", &tdscale, d.c),
            bind("dshift", &tdshift, d.c),
            bind("dy", &tdy, d.x_len()),
            bind("dx", &tdx, d.x_len()),
        ];
        run.plan.push(spec, &constants, workgroups_linear(d.x_len(), 64), &tensors).unwrap();
        run.check(spec.entry, "negative", &[(&tdx, &expected)], &[]);
    }
    v.verdicts().block_on().unwrap().iter().all(|verdict| verdict.passed())
}

#[test]
fn batchnorm_that_counts_padded_images_is_found() {
    let counted = "min(progress[1] - progress[0] * N, N);";
    assert!(passes(&STATISTICS, counted, counted));
    assert!(!passes(&STATISTICS, counted, "N;"), "padded images are counted");
    assert!(!passes(&STATISTICS, counted, "min(progress[1], N);"), "the batches done are not subtracted");
    let divided = "let m = f32(max(rows, 1u));";
    assert!(!passes(&STATISTICS, divided, "let m = f32(max(rows, 2u) - 1u);"), "the variance is unbiased");
}

#[test]
fn batchnorm_without_the_gradient_through_the_statistics_is_found() {
    let mean = "(dy[index] - dshift[c] / m";
    assert!(passes(&BACKWARD_X, mean, mean));
    assert!(!passes(&BACKWARD_X, mean, "(dy[index] - 0.0 * dshift[c]"), "the mean is taken for a constant");
    assert!(
        !passes(&BACKWARD_X, "- normal * (dscale[c] / m)", "- 0.0 * dscale[c]"),
        "the variance is taken for a constant"
    );
    assert!(!passes(&BACKWARD_X, "if (index / C >= rows)", "if (index / C >= N * P)"), "padded images have a gradient");
}

/// A large mean: the square of the mean would cancel nearly all digits of the mean of the squares.
#[test]
fn batchnorm_keeps_the_digits_of_a_small_variance() {
    let d = dims([64, 16, 3]);
    let mut v = Verifier::new(gpu(), 20);
    let x: Vec<f32> = v.random(d.x_len()).iter().map(|x| 1000.0 + x).collect();
    let (zeros, ones) = (vec![0.0; d.c], vec![1.0; d.c]);
    let [expected, ..] = proof::statistics_in_parts(&d, d.n, &x, &zeros, &ones);
    let mut run = v.run();
    let (tx, tprogress, tmoments) =
        (run.input(&x).unwrap(), run.input_u32(&[0, 64]).unwrap(), run.output(3 * d.c).unwrap());
    let (tmean, tvar) = (run.in_place(&zeros).unwrap(), run.in_place(&ones).unwrap());
    record_statistics(&mut run.plan, &d, MOMENTUM, [&tx, &tprogress, &tmoments, &tmean, &tvar]).unwrap();
    run.check("batchnorm_statistics", "large mean", &[(&tmoments, &expected)], &[]);
    assert_all_right(&mut v);
    for c in d.c..2 * d.c {
        assert!(expected.bound[c] < 1e-3 * expected.values[c], "the bound is too wide: {:e}", expected.bound[c]);
    }
}

/// Each image has its sums, whichever thread has its rows, and they are added up in order.
#[test]
fn batchnorm_has_the_same_bits_for_any_division_of_the_rows() {
    let d = dims([67, 49, 5]);
    let values = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin() + 0.5).collect::<Vec<f32>>();
    let (x, dy) = (values(d.x_len(), 0.7), values(d.x_len(), 1.3));
    let image = d.positions * d.c;
    let of_shares = |rows: usize| {
        let shares = || (0..d.n).step_by(rows).map(|first| (first, rows.min(d.n - first)));
        let mut all = vec![0.0; 7 * d.c];
        let (moments, rest) = all.split_at_mut(3 * d.c);
        let (running, gradients) = rest.split_at_mut(2 * d.c);
        let (mean, var) = running.split_at_mut(d.c);
        let (dscale, dshift) = gradients.split_at_mut(d.c);
        let (mut images, mut backward) = (vec![f32::NAN; d.n * 3 * d.c], vec![f32::NAN; d.n * 2 * d.c]);
        for (first, n) in shares() {
            let x = &x[first * image..][..n * image];
            native::batchnorm_images(&BatchNormDims { n, ..d }, x, &mut images[first * 3 * d.c..][..n * 3 * d.c]);
        }
        native::batchnorm_statistics(&d, MOMENTUM, &images, [&mut *moments, mean, var]);
        for (first, n) in shares() {
            let [x, dy] = [&x, &dy].map(|values| &values[first * image..][..n * image]);
            let images = &mut backward[first * 2 * d.c..][..n * 2 * d.c];
            native::batchnorm_backward_images(&BatchNormDims { n, ..d }, [x, &*moments, dy], images);
        }
        native::batchnorm_backward_w(&d, EPSILON, [&backward, &*moments], [dscale, dshift]);
        all.iter().map(|value| value.to_bits()).collect::<Vec<u32>>()
    };
    let results = [67, 1, 10, 32].map(of_shares);
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
}
