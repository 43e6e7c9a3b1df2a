use crate::support::{assert_all_right, breadth, gpu, is_thorough};
use fmnist_gpu::gpu::{Element, PlanBuilder};
use fmnist_gpu::ops::dense::{DenseDims, record_forward};
use fmnist_gpu::ops::{Form, SharedTiles};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::dense::{verify, verify_gathered};
use pollster::FutureExt as _;

type Case = (usize, usize, usize);

fn check(cases: &[Case]) {
    compare(Verifier::new(gpu(), 2), cases);
}

/// Compares shapes around the sizes of the tiles of some forms in these; in all forms if the tests are to be thorough.
fn check_tiles(forms: fn(&Form) -> bool, cases: &[Case]) {
    let forms = if is_thorough() { |_: &Form| true } else { forms };
    compare(Verifier::new(gpu(), 2).in_forms(forms), cases);
}

fn compare(mut verifier: Verifier, cases: &[Case]) {
    for (case, &(n, i, o)) in cases.iter().enumerate() {
        verify(&mut verifier, &DenseDims { n, i, o }, breadth(case)).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn dense_matches_cpu_on_small_and_odd_sizes() {
    check(&[(1, 1, 1), (1, 1, 4), (2, 3, 5), (3, 7, 8), (5, 1, 12), (13, 11, 7)]);
}

/// Tiles in workgroup memory: 32 or 64 columns, 64 or 128 rows.
#[test]
fn dense_matches_cpu_around_the_tile_sizes() {
    check_tiles(
        |form| matches!(form, Form::Shared(tiles) if !tiles.loads_by_4),
        &[(31, 63, 28), (32, 64, 32), (33, 65, 36), (63, 15, 63), (64, 16, 64), (65, 17, 65), (7, 62, 4), (7, 63, 4)],
    );
}

/// The same with four values per load, and a sum in parts of which the last is shorter.
#[test]
fn dense_matches_cpu_around_the_tile_sizes_by_4() {
    check_tiles(
        |form| matches!(form, Form::Shared(tiles) if tiles.loads_by_4),
        &[(31, 60, 28), (32, 64, 32), (33, 68, 36), (63, 12, 60), (65, 20, 68), (7, 64, 4), (5, 268, 8)],
    );
}

/// Tiles in registers: 16 or 32 columns, as many rows or twice as many; four by four. Partial tiles, odd batches.
#[test]
fn dense_matches_cpu_around_the_tile_sizes_in_registers() {
    check_tiles(
        |form| !matches!(form, Form::Shared(_)),
        &[(1, 4, 4), (7, 64, 4), (15, 12, 12), (17, 20, 20), (31, 60, 28), (32, 64, 32), (33, 68, 36)],
    );
}

#[test]
fn dense_matches_cpu_on_the_layers_of_the_article() {
    check(&[(32, 3136, 128), (32, 784, 128), (32, 128, 10), (100, 784, 128), (1, 784, 128)]);
}

/// More tiles in workgroup memory than fit into one dimension of workgroups: the rest are in the next dimension. The
/// values are integers, so that sums are exact.
#[test]
fn dense_in_workgroup_memory_goes_on_where_tiles_are_folded() {
    let gpu = gpu();
    let d = DenseDims { n: 65_535 * 128 + 5, i: 1, o: 1 };
    let x: Vec<f32> = (0..d.n).map(|n| (n % 251) as f32).collect();
    let tensor = |name: &str, data: &[f32]| gpu.tensor_from(name, &[data.len()], data).unwrap();
    let (tx, tw, tb) = (tensor("x", &x), tensor("w", &[3.0]), tensor("b", &[1.0]));
    let y = gpu.tensor("y", &[d.n], Element::F32).unwrap();
    let mut plan = PlanBuilder::new(gpu);
    record_forward(&mut plan, Form::Shared(SharedTiles::default()), &d, false, [&tx, &tw, &tb, &y]).unwrap();
    let plan = plan.finish().block_on().unwrap();
    assert!(plan.dispatches().all(|dispatch| dispatch.workgroups[1] > 1), "nothing was folded");
    gpu.run(&plan).block_on().unwrap();
    let wrong = gpu.read(&y).block_on().unwrap().iter().zip(&x).position(|(&y, &x)| y != 3.0 * x + 1.0);
    assert_eq!(wrong, None);
}

/// Tiles of all heights, sums in one part and in many, batches in the middle and at the end of an epoch.
#[test]
fn dense_that_gathers_its_batch_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 3);
    let tiles = SharedTiles { loads_by_4: true, ..SharedTiles::default() };
    let tall = SharedTiles { rows_each: 8, ..tiles };
    for (tiles, n, i, o, samples, batch, epoch) in [
        (tiles, 1, 4, 4, 1, 0, 1),
        (tiles, 5, 12, 8, 9, 1, 7),
        (tiles, 32, 784, 128, 70, 1, 64),
        (tall, 130, 260, 68, 40, 0, 129),
        (tall, 7, 272, 64, 20, 2, 20),
    ] {
        verify_gathered(&mut verifier, tiles, &DenseDims { n, i, o }, samples, [batch, epoch]).unwrap();
    }
    assert_all_right(&mut verifier);
}
