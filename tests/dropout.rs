use crate::support::{assert_all_right, gpu};
use fmnist_gpu::cpu::dropout::{Dropping, dropout_forward};
use fmnist_gpu::cpu::philox::Random;
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::dropout::verify;

#[test]
fn dropout_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 5);
    for (rate, layer, random) in
        [(0.5, 0, Random { seed: 1, epoch: 1, step: 0 }), (0.1, 7, Random { seed: 1 << 63, epoch: 2, step: 77 })]
    {
        for len in [1, 2, 3, 4, 5, 63, 64, 65, 255, 257, 1009] {
            verify(&mut verifier, &Dropping { rate, layer }, random, len).unwrap();
        }
    }
    assert_all_right(&mut verifier);
}

/// The elements of a batch that are kept.
fn kept(rate: f64, layer: u32, random: Random, len: usize) -> Vec<bool> {
    let mut y = vec![0.0; len];
    dropout_forward(&Dropping { rate, layer }, random, 0, &vec![1.0f64; len], &mut y);
    y.into_iter().map(|y| y != 0.0).collect()
}

/// As many as the rate says are dropped, and the mean stays.
#[test]
fn the_rate_is_that_of_the_dropped_elements() {
    const LEN: usize = 100_000;
    for rate in [0.1, 0.5, 0.9] {
        let share = kept(rate, 0, Random { seed: 3, epoch: 1, step: 0 }, LEN).iter().filter(|kept| !**kept).count();
        let deviation = (rate * (1.0 - rate) * LEN as f64).sqrt();
        assert!((share as f64 - rate * LEN as f64).abs() < 4.0 * deviation, "{share} of {LEN} at rate {rate}");
    }
    let mut y = [0.0f32; 1000];
    dropout_forward(&Dropping { rate: 0.75, layer: 0 }, Random::default(), 0, &[2.0; 1000], &mut y);
    assert!(y.iter().all(|&y| y == 0.0 || y == 8.0));
}

/// Seed, epoch, step and layer each change what is dropped: two masks agree in about half of the elements.
#[test]
fn each_layer_and_each_step_drops_others() {
    let random = Random { seed: 3, epoch: 1, step: 0 };
    let one = kept(0.5, 0, random, 10_000);
    assert_eq!(one, kept(0.5, 0, random, 10_000));
    for (layer, random) in [
        (1, random),
        (0, Random { seed: 4, ..random }),
        (0, Random { seed: 3 + (1 << 32), ..random }),
        (0, Random { epoch: 2, ..random }),
        (0, Random { step: 1, ..random }),
    ] {
        let agree = one.iter().zip(kept(0.5, layer, random, 10_000)).filter(|(a, b)| **a == *b).count();
        assert!((4_800..5_200).contains(&agree), "{agree} of 10000 with layer {layer}, {random:?}");
    }
}
