use crate::support::{assert_all_right, gpu};
use fmnist_gpu::cpu::DimsError;
use fmnist_gpu::cpu::conv2d::{Conv2dDims, conv2d_backward_w, conv2d_backward_x, conv2d_forward};
use fmnist_gpu::cpu::groupedconv2d::{groupedconv2d_backward_w, groupedconv2d_backward_x, groupedconv2d_forward};
use fmnist_gpu::gpu::{GpuError, PlanBuilder};
use fmnist_gpu::native::groupedconv2d as native;
use fmnist_gpu::ops::groupedconv2d::{GroupedConv2dDims, Padding, record_backward_w};
use fmnist_gpu::verify::groupedconv2d::verify;
use fmnist_gpu::verify::{Bounded, Verifier};

/// Images, their shape, window, output channels, stride, padding, groups.
type Case = (usize, [usize; 3], [usize; 2], usize, [usize; 2], Padding, usize);

fn dims(&(n, input, window, o, stride, padding, groups): &Case) -> GroupedConv2dDims {
    GroupedConv2dDims::new(n, input, window, o, stride, padding, groups).unwrap()
}

fn check(cases: &[Case]) {
    let mut verifier = Verifier::new(gpu(), 22);
    for case in cases {
        verify(&mut verifier, &dims(case)).unwrap();
    }
    assert_all_right(&mut verifier);
}

use Padding::{Same, Valid};

#[test]
fn groupedconv2d_matches_cpu_on_sizes_of_one() {
    check(&[
        (1, [1, 1, 1], [1, 1], 1, [1, 1], Valid, 1),
        (1, [1, 1, 4], [1, 1], 4, [1, 1], Same, 4),
        (2, [1, 9, 3], [1, 3], 3, [1, 1], Same, 3),
        (3, [1, 1, 8], [3, 3], 8, [1, 1], Same, 8),
    ]);
}

#[test]
fn groupedconv2d_matches_cpu_on_depthwise_convolutions() {
    check(&[
        (3, [7, 5, 3], [3, 2], 3, [1, 1], Same, 3),
        (2, [11, 13, 8], [5, 3], 8, [1, 1], Valid, 8),
        (2, [9, 8, 4], [3, 3], 4, [2, 2], Same, 4),
        (2, [10, 7, 12], [2, 4], 12, [3, 2], Valid, 12),
        (3, [6, 11, 5], [3, 2], 5, [1, 3], Same, 5),
        // Strides larger than the window leave pixels that no output sees: their gradient is zero, not unwritten.
        (2, [7, 7, 4], [2, 2], 4, [3, 4], Valid, 4),
        (2, [7, 7, 3], [2, 2], 3, [3, 4], Valid, 3),
        // The window exceeds the image.
        (2, [3, 2, 4], [5, 7], 4, [1, 1], Same, 4),
        (1, [2, 4, 3], [6, 5], 3, [2, 3], Same, 3),
        // Several parts of the filter's gradient, the last one shorter.
        (32, [14, 14, 64], [3, 3], 64, [1, 1], Same, 64),
        (37, [9, 5, 33], [3, 3], 33, [1, 1], Same, 33),
    ]);
}

#[test]
fn groupedconv2d_matches_cpu_on_groups_of_channels() {
    check(&[
        (2, [7, 5, 6], [3, 2], 4, [1, 1], Same, 2),
        (2, [5, 7, 12], [2, 2], 18, [1, 1], Valid, 6),
        (2, [9, 8, 8], [3, 3], 16, [2, 1], Same, 4),
        // One input channel for several outputs, and several for one.
        (2, [6, 5, 4], [3, 3], 12, [1, 1], Same, 4),
        (2, [6, 5, 12], [3, 3], 4, [1, 2], Same, 4),
        // A single group.
        (2, [6, 5, 3], [3, 3], 5, [1, 1], Same, 1),
        (8, [7, 7, 32], [3, 3], 32, [1, 1], Same, 8),
    ]);
}

/// More than 65,535 workgroups: the dispatch is folded into two dimensions, and the shader unfolds it.
#[test]
fn groupedconv2d_matches_cpu_beyond_one_dimension_of_workgroups() {
    check(&[(2100, [32, 32, 2], [1, 1], 2, [1, 1], Valid, 2)]);
}

/// lavapipe ends an invocation's loops after 65,535 iterations: a row of the output is summed as a whole, up to the largest that it can
/// sum. The values are integers, so that sums are exact.
#[test]
fn groupedconv2d_sums_the_longest_rows_it_accepts_and_refuses_others() {
    for c in [2, 4] {
        let d = dims(&(1, [2, 65_000, c], [1, 1], c, [1, 1], Valid, c));
        let x: Vec<f32> = (0..d.conv.x_len()).map(|i| (i % 5) as f32).collect();
        let dy: Vec<f32> = (0..d.conv.y_len()).map(|i| (i % 3) as f32).collect();
        let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
        for (i, (x, dy)) in x.iter().zip(&dy).enumerate() {
            dw[i % c] += f64::from(x * dy);
            db[i % c] += f64::from(*dy);
        }
        let mut verifier = Verifier::new(gpu(), 23);
        let (dw, db) = (Bounded::exact(dw), Bounded::exact(db));
        verifier
            .check("groupedconv2d_backward_w", "longest", [&x, &dy], [&dw, &db], |plan, [x, dy], [dw, db]| {
                record_backward_w(plan, &d, [x, dy, dw, db])
            })
            .unwrap();
        assert_all_right(&mut verifier);

        let d = dims(&(1, [2, 65_001, c], [1, 1], c, [1, 1], Valid, c));
        let tensor = gpu().tensor_from("t", &[1], &[0.0]).unwrap();
        let mut plan = PlanBuilder::new(gpu());
        let refused = record_backward_w(&mut plan, &d, [&tensor; 4]);
        let Err(GpuError::Record { message, .. }) = refused else { panic!("it is recorded: {refused:?}") };
        assert!(message.contains("65001 columns") && message.contains("65000"), "{message}");
    }
}

fn values(len: usize, step: f64) -> Vec<f64> {
    (0..len).map(|i| (i as f64 * step).sin() + 0.1).collect()
}

fn assert_near(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-12, "{what}: differs by {worst:e}");
}

/// What a grouped convolution means: a convolution of each group by itself.
#[test]
fn each_group_is_a_convolution_of_its_own() {
    for case in [
        (2, [6, 5, 6], [3, 2], 9, [2, 1], Same, 3),
        (2, [5, 6, 4], [3, 3], 4, [1, 1], Same, 4),
        (1, [7, 5, 3], [2, 3], 6, [1, 2], Valid, 3),
        (2, [5, 4, 3], [3, 3], 2, [1, 1], Same, 1),
    ] {
        let d = dims(&case);
        let ([c_each, o_each], c, o) = (d.of_group(), d.conv.c, d.conv.o);
        let (x, w, b) = (values(d.conv.x_len(), 0.7), values(d.w_len(), 1.3), values(o, 2.9));
        let dy = values(d.conv.y_len(), 2.1);
        let (mut y, mut dx, mut dw) = (vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        groupedconv2d_forward(&d, &x, &w, &b, &mut y);
        groupedconv2d_backward_x(&d, &w, &dy, &mut dx);
        groupedconv2d_backward_w(&d, &x, &dy, &mut dw);
        for group in 0..d.groups {
            // The channels of the group, out of rows of all.
            let of = |values: &[f64], all: usize, each: usize| -> Vec<f64> {
                values.chunks(all).flat_map(|row| &row[group * each..][..each]).copied().collect()
            };
            let (x, w, b, dy) = (of(&x, c, c_each), of(&w, o, o_each), of(&b, o, o_each), of(&dy, o, o_each));
            let (n, [h, width, _], window, _, stride, padding, _) = case;
            let one = Conv2dDims::new(n, [h, width, c_each], window, o_each, stride, padding).unwrap();
            let mut expected = vec![0.0; one.y_len()];
            conv2d_forward(&one, &x, &w, &b, &mut expected);
            assert_near("y", &of(&y, o, o_each), &expected);
            let mut expected = vec![0.0; one.x_len()];
            conv2d_backward_x(&one, &w, &dy, &mut expected);
            assert_near("dx", &of(&dx, c, c_each), &expected);
            let mut expected = vec![0.0; one.w_len()];
            conv2d_backward_w(&one, &x, &dy, &mut expected);
            assert_near("dw", &of(&dw, o, o_each), &expected);
        }
    }
}

#[test]
fn channels_that_make_no_groups_are_refused() {
    let new = |c, o, groups| GroupedConv2dDims::new(1, [5, 5, c], [3, 3], o, [1, 1], Same, groups).map(|_| ());
    let refused = |name, channels, groups| Err(DimsError::Groups { name, channels, groups });
    assert_eq!(new(4, 8, 4), Ok(()));
    assert_eq!(new(4, 8, 3), refused("input channels", 4, 3));
    assert_eq!(new(6, 8, 3), refused("output channels", 8, 3));
    assert_eq!(new(4, 8, 0), Err(DimsError::Zero { name: "the number of groups" }));
    assert_eq!(new(0, 8, 2), Err(DimsError::Zero { name: "the number of input channels" }));
    assert_eq!(new(4, 0, 2), Err(DimsError::Zero { name: "the number of output channels" }));
    // The filter of a depthwise convolution has one input channel, however many the image has.
    let wide = GroupedConv2dDims::new(1, [2, 2, 1 << 17], [3, 3], 1 << 17, [1, 1], Same, 1 << 17).unwrap();
    assert_eq!((wide.w_len(), wide.terms()), (9 << 17, 9));
    let large = GroupedConv2dDims::new(1 << 14, [2, 2, 1 << 17], [3, 3], 1 << 17, [3, 3], Same, 1 << 17);
    assert_eq!(large.map(|_| ()), Err(DimsError::TooLarge { tensor: "the input" }));
}

/// The groups of images of the sums do not depend on the threads.
#[test]
fn groupedconv2d_has_the_same_bits_for_any_number_of_threads() {
    for case in [(67, [7, 7, 20], [3, 3], 20, [1, 1], Same, 20), (70, [6, 5, 12], [3, 3], 18, [1, 1], Same, 3)] {
        let d = dims(&case);
        let values = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin() + 0.5).collect::<Vec<f32>>();
        let (x, dy) = (values(d.conv.x_len(), 0.7), values(d.conv.y_len(), 1.3));
        let results: Vec<Vec<u32>> = [1, 2, 3, 7]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (mut dw, mut db) = (vec![0.0; d.w_len()], vec![0.0; d.conv.o]);
                pool.install(|| {
                    native::groupedconv2d_backward_w(&d, &x, &dy, &mut dw);
                    native::groupedconv2d_backward_b(&d, &dy, &mut db);
                });
                dw.iter().chain(&db).map(|value| value.to_bits()).collect()
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{case:?}");
    }
}
