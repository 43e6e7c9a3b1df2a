use crate::support::{assert_all_right, gpu};
use fmnist_gpu::ops::batch_gather::{BatchGatherDims, pack_bytes};
use fmnist_gpu::verify::Verifier;
use fmnist_gpu::verify::batch_gather::verify;

#[test]
fn batch_gather_matches_cpu() {
    let mut verifier = Verifier::new(gpu(), 8);
    for (n, pixels, samples, batch, epoch) in [
        (1, 4, 1, 0, 1),
        (3, 8, 10, 2, 10),
        // The short last batch: rows past the end are zeros.
        (4, 8, 10, 2, 10),
        (32, 784, 65, 2, 65),
        // An epoch of fewer samples than the data set has, and label words that are not full.
        (32, 784, 67, 0, 33),
        (32, 784, 67, 1, 33),
    ] {
        verify(&mut verifier, &BatchGatherDims { n, pixels, samples }, batch, epoch).unwrap();
    }
    assert_all_right(&mut verifier);
}

#[test]
fn bytes_are_packed_little_endian_and_the_last_word_is_filled_with_zeros() {
    assert_eq!(pack_bytes(&[1, 2, 3, 4, 5]), [0x0403_0201, 5]);
}
