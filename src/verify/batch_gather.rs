//! Proof of the gather: the kernel picks the rows that [`crate::cpu::batch_gather`] picks.

use super::{Bounded, UNIT_ROUNDOFF, Verifier};
use crate::cpu::batch_gather as cpu;
use crate::gpu::GpuError;
use crate::ops::batch_gather::{BatchGatherDims, GATHER, pack_bytes, record};

/// Compares the kernel with the mirror: batch number `batch` of an epoch of `epoch` samples in scrambled order.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify(v: &mut Verifier, d: &BatchGatherDims, batch: usize, epoch: usize) -> Result<(), GpuError> {
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
    run.check(GATHER.entry, &case, &[(&tx, &x)], &[(&tbatch, &batch_labels)]);
    Ok(())
}

/// Checks the shapes of `fmnist-gpu selftest`: a whole batch, a short last batch, an odd number of samples.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    verify(v, &BatchGatherDims { n: 32, pixels: 784, samples: 101 }, 1, 101)?;
    verify(v, &BatchGatherDims { n: 32, pixels: 784, samples: 101 }, 3, 101)?;
    verify(v, &BatchGatherDims { n: 5, pixels: 12, samples: 7 }, 0, 3)
}
