//! Proof of the gather: the kernel picks the rows that [`crate::cpu::batch_gather`] picks.

use super::native::Check;
use super::{Bounded, UNIT_ROUNDOFF, Verifier, compare_exact};
use crate::cpu::batch_gather as cpu;
use crate::gpu::GpuError;
use crate::native::batch_gather as fast;
use crate::ops::batch_gather::{BatchGatherDims, GATHER, pack_bytes, record};
use rand_chacha::rand_core::Rng;

/// Compares the kernel with the mirror: batch number `batch` of an epoch of `epoch` samples in scrambled order.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier<'_>, d: &BatchGatherDims, batch: usize, epoch: usize) -> Result<(), GpuError> {
    let case = format!("{} of {} samples, batch {batch} of an epoch of {epoch}", d.n, d.samples);
    let images: Vec<u8> = v.random(d.samples * d.pixels).iter().map(|x| (x * 127.0 + 128.0) as u8).collect();
    let labels: Vec<u8> = v.random(d.samples).iter().map(|x| (x.abs() * 10.0) as u8).collect();
    let mut order: Vec<u32> = (0..epoch as u32).map(|i| i % d.samples as u32).collect();
    order.reverse();
    order.rotate_left(epoch / 3);
    let (mut x64, mut batch_labels) = (vec![0.0f64; d.n * d.pixels], vec![0; d.n]);
    cpu::batch_gather(d.pixels, &images, &labels, &order, batch * d.n, &mut x64, &mut batch_labels);

    let mut run = v.run();
    let (timages, tlabels) = (run.input_u32(&pack_bytes(&images))?, run.input_u32(&pack_bytes(&labels))?);
    let (torder, tprogress) = (run.input_u32(&order)?, run.input_u32(&[batch as u32, epoch as u32])?);
    let (tx, tbatch) = (run.output(d.n * d.pixels)?, run.output_u32(d.n)?);
    record(&mut run.plan, d, [&timages, &tlabels, &torder, &tprogress, &tx, &tbatch])?;
    // One division: 2.5 units in the last place.
    let x = Bounded { bound: x64.iter().map(|x| 5.0 * UNIT_ROUNDOFF * x).collect(), values: x64 };
    run.check(GATHER.entry, &case, &[(&tx, &x)], &[(&tbatch, &batch_labels)])
}

/// Checks the shapes of `fmnist-gpu selftest`: a whole batch, a short last batch, an odd number of samples.
pub(super) fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    verify(v, &BatchGatherDims { n: 32, pixels: 784, samples: 101 }, 1, 101)?;
    verify(v, &BatchGatherDims { n: 32, pixels: 784, samples: 101 }, 3, 101)?;
    verify(v, &BatchGatherDims { n: 5, pixels: 12, samples: 7 }, 0, 3)
}

pub(super) fn native(check: &mut Check) {
    for (samples, pixels) in [(5, 28 * 28), (3, 17)] {
        let mut images = vec![0; samples * pixels];
        check.random.fill_bytes(&mut images);
        let labels: Vec<u8> = (0..samples).map(|i| (i % 10) as u8).collect();
        let order: Vec<u32> = (0..samples as u32).rev().collect();
        let n = order.len();
        let (mut x, mut found) = (vec![f32::NAN; n * pixels], vec![u32::MAX; n]);
        fast::batch_gather(pixels, &images, &labels, &order, &mut x, &mut found);
        let (mut expected, mut expected_labels) = (vec![0.0f32; n * pixels], vec![0; n]);
        cpu::batch_gather(pixels, &images, &labels, &order, 0, &mut expected, &mut expected_labels);
        check.same("native batch_gather", pixels, &x, &expected);
        check.note("native batch_gather", "labels", n, &compare_exact(&found, &expected_labels));
    }
}
