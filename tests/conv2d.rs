use crate::support::{assert_all_right, breadth, gpu, is_thorough};
use fmnist_gpu::ops::conv2d::{Conv2dDims, Padding, record_backward_w};
use fmnist_gpu::ops::{Form, SharedTiles};
use fmnist_gpu::verify::conv2d::verify;
use fmnist_gpu::verify::{Bounded, Breadth, Verifier};

type Case = (usize, [usize; 3], [usize; 2], usize, [usize; 2], Padding);

fn check(cases: &[Case]) {
    compare(Verifier::new(gpu(), 1), cases);
}

/// Compares shapes around the sizes of the tiles of some forms in these; in all forms if the tests are to be thorough.
fn check_tiles(forms: fn(&Form) -> bool, cases: &[Case]) {
    let forms = if is_thorough() { |_: &Form| true } else { forms };
    compare(Verifier::new(gpu(), 1).in_forms(forms), cases);
}

fn compare(mut verifier: Verifier, cases: &[Case]) {
    for (i, &(n, input, window, o, stride, padding)) in cases.iter().enumerate() {
        let d = Conv2dDims::new(n, input, window, o, stride, padding).unwrap();
        verify(&mut verifier, &d, breadth(i)).unwrap();
    }
    assert_all_right(&mut verifier);
}

use Padding::{Same, Valid};

#[test]
fn conv2d_matches_cpu_on_sizes_of_one() {
    check(&[
        (1, [1, 1, 1], [1, 1], 1, [1, 1], Valid),
        (1, [1, 1, 1], [1, 1], 4, [1, 1], Same),
        (1, [1, 9, 1], [1, 3], 4, [1, 1], Same),
        (3, [1, 1, 7], [3, 3], 8, [1, 1], Same),
    ]);
}

#[test]
fn conv2d_matches_cpu_on_odd_sizes() {
    check(&[
        (3, [7, 5, 3], [3, 2], 5, [1, 1], Same),
        (2, [11, 13, 2], [5, 3], 7, [1, 1], Valid),
        (5, [5, 7, 11], [2, 2], 13, [1, 1], Same),
        (1, [17, 3, 6], [1, 3], 12, [1, 1], Valid),
    ]);
}

#[test]
fn conv2d_matches_cpu_with_strides() {
    check(&[
        (2, [9, 8, 4], [3, 3], 8, [2, 2], Same),
        (2, [9, 8, 4], [3, 3], 8, [2, 2], Valid),
        (1, [10, 7, 3], [2, 4], 4, [3, 2], Valid),
        (3, [6, 11, 5], [3, 2], 6, [1, 3], Same),
        // Strides larger than the window leave pixels that no output sees: their gradient is zero, not unwritten.
        (2, [7, 7, 4], [2, 2], 4, [3, 4], Valid),
    ]);
}

/// More row tiles than fit into one dimension of workgroups: the rest are in the next dimension.
#[test]
fn conv2d_matches_cpu_where_tiles_are_folded() {
    let d = Conv2dDims::new(1050, [32, 32, 4], [1, 1], 4, [1, 1], Valid).unwrap();
    // The number of a tile does not depend on how it is loaded.
    let takes = |form: &Form| is_thorough() || !matches!(form, Form::Shared(tiles) if tiles.loads_by_4);
    let mut verifier = Verifier::new(gpu(), 1).in_forms(takes);
    verify(&mut verifier, &d, Breadth::EveryForm).unwrap();
    assert_all_right(&mut verifier);
}

/// lavapipe stops an invocation's loops after 65,535 iterations: a large batch must be summed in more parts. The values are integers, so
/// that sums are exact.
#[test]
fn conv2d_matches_cpu_on_a_batch_of_thousands() {
    let d = Conv2dDims::new(2700, [28, 28, 1], [1, 1], 4, [1, 1], Valid).unwrap();
    let x: Vec<f32> = (0..d.x_len()).map(|i| (i % 5) as f32).collect();
    let dy: Vec<f32> = (0..d.y_len()).map(|i| (i % 7) as f32).collect();
    let (mut dw, mut db) = (vec![0.0; 4], vec![0.0; 4]);
    for (x, dy) in x.iter().zip(dy.chunks(4)) {
        for o in 0..4 {
            dw[o] += f64::from(x * dy[o]);
            db[o] += f64::from(dy[o]);
        }
    }
    let (dw, db) = (Bounded::exact(dw), Bounded::exact(db));
    let mut verifier = Verifier::new(gpu(), 1);
    let in_registers = |tiles| SharedTiles { small_filters: true, ..tiles };
    for form in verifier.forms(Breadth::EveryForm, d.o, &[d.o], &[in_registers]) {
        verifier
            .check("conv2d_backward_w", &format!("{form:?}"), [&x, &dy], [&dw, &db], |plan, [x, dy], [dw, db]| {
                record_backward_w(plan, form, &d, [x, dy, dw, db], None)
            })
            .unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn conv2d_matches_cpu_where_the_window_exceeds_the_picture() {
    check(&[(2, [3, 2, 4], [5, 7], 4, [1, 1], Same), (1, [2, 4, 3], [6, 5], 4, [2, 3], Same)]);
}

/// Tiles in workgroup memory: 32 or 64 columns, 64 or 128 rows. With one value per load, sizes that are no multiples of four.
#[test]
fn conv2d_matches_cpu_around_the_tile_sizes() {
    check_tiles(
        |form| matches!(form, Form::Shared(tiles) if !tiles.loads_by_4),
        &[
            // Rows: 63, 64 and 65 output positions; columns: 28, 32 and 36 channels.
            (1, [9, 7, 3], [1, 1], 28, [1, 1], Valid),
            (1, [8, 8, 3], [1, 1], 32, [1, 1], Valid),
            (1, [5, 13, 3], [1, 1], 36, [1, 1], Valid),
            // 63, 64 and 65 channels, and as many inputs.
            (1, [3, 3, 63], [1, 1], 63, [1, 1], Valid),
            (1, [3, 3, 64], [1, 1], 64, [1, 1], Valid),
            (1, [3, 3, 65], [1, 1], 65, [1, 1], Valid),
            // Filter cells including the bias row: 63 + 1, 64 + 1.
            (2, [5, 5, 7], [3, 3], 8, [1, 1], Same),
            (2, [5, 5, 16], [2, 2], 8, [1, 1], Same),
            // More input channels than one tile of columns, with a remainder; more output channels than one, pooled.
            (1, [5, 13, 37], [1, 1], 36, [1, 1], Valid),
            (2, [6, 8, 7], [3, 4], 36, [1, 1], Same),
            // Parts of the filter's gradient: the last one has fewer positions.
            (65, [2, 2, 32], [3, 3], 64, [1, 1], Same),
            (7, [3, 3, 7], [3, 3], 32, [1, 1], Same),
            // 15 filter cells: fewer than the rows of one tile.
            (2, [6, 6, 3], [5, 1], 8, [1, 1], Same),
        ],
    );
}

/// With four values per load, sizes that are.
#[test]
fn conv2d_matches_cpu_around_the_tile_sizes_by_4() {
    check_tiles(
        |form| matches!(form, Form::Shared(tiles) if tiles.loads_by_4),
        &[
            // Rows: 63, 64 and 65 output positions; columns: 28, 32 and 36 channels.
            (1, [9, 7, 4], [1, 1], 28, [1, 1], Valid),
            (1, [8, 8, 4], [1, 1], 32, [1, 1], Valid),
            (1, [5, 13, 4], [1, 1], 36, [1, 1], Valid),
            // 60, 64 and 68 channels, and as many inputs.
            (1, [3, 3, 60], [1, 1], 60, [1, 1], Valid),
            (1, [3, 3, 64], [1, 1], 64, [1, 1], Valid),
            (1, [3, 3, 68], [1, 1], 68, [1, 1], Valid),
            // Filter cells including the bias row: 64 + 1; 16 and 1: one quad more than the cells fill.
            (2, [5, 5, 16], [2, 2], 8, [1, 1], Same),
            (2, [6, 6, 4], [2, 2], 8, [1, 1], Same),
            // More input channels than one tile of columns, with a remainder; more output channels than one, pooled; strides.
            (1, [5, 13, 36], [1, 1], 36, [1, 1], Valid),
            (2, [6, 8, 8], [3, 4], 36, [1, 1], Same),
            (2, [7, 9, 8], [3, 2], 36, [2, 3], Same),
            // Parts of the filter's gradient: the last one has fewer positions.
            (65, [2, 2, 32], [3, 3], 64, [1, 1], Same),
            (7, [3, 3, 8], [3, 3], 32, [1, 1], Same),
        ],
    );
}

/// Tiles in registers: 16 or 32 columns, as many rows or twice as many; four by four, eight by four.
#[test]
fn conv2d_matches_cpu_around_the_tile_sizes_in_registers() {
    check_tiles(
        |form| !matches!(form, Form::Shared(_)),
        &[
            // Rows: 63, 64 and 65 output positions; columns: 28, 32 and 36 channels.
            (1, [9, 7, 4], [1, 1], 28, [1, 1], Valid),
            (1, [8, 8, 4], [1, 1], 32, [1, 1], Valid),
            (1, [5, 13, 4], [1, 1], 36, [1, 1], Valid),
            // More input channels than one tile of columns, with a remainder; more output channels than one, pooled and not.
            (1, [5, 13, 36], [1, 1], 36, [1, 1], Valid),
            (2, [6, 8, 7], [3, 4], 36, [1, 1], Same),
            (2, [6, 8, 8], [3, 4], 36, [1, 1], Same),
            // Parts of the filter's gradient: the last one has fewer images.
            (65, [2, 2, 32], [3, 3], 64, [1, 1], Same),
            (7, [3, 3, 8], [3, 3], 32, [1, 1], Same),
            // 15 and 16 filter cells: fewer than the rows of one tile, with and without a remainder of vec4.
            (2, [6, 6, 3], [5, 1], 8, [1, 1], Same),
            (2, [6, 6, 4], [2, 2], 8, [1, 1], Same),
        ],
    );
}

#[test]
fn conv2d_matches_cpu_on_the_layers_of_the_article() {
    check(&[
        (7, [28, 28, 1], [3, 3], 32, [1, 1], Same),
        (32, [28, 28, 1], [3, 3], 32, [1, 1], Same),
        (32, [14, 14, 32], [3, 3], 64, [1, 1], Same),
    ]);
}
