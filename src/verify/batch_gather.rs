//! Proof of the gather: the kernel picks the rows that [`crate::cpu::batch_gather`] picks.

use super::{Bounded, UNIT_ROUNDOFF, Verifier};
use crate::cpu::batch_gather::{self as cpu, Augment, Augmented, Flip, Mix};
use crate::cpu::philox::Random;
use crate::gpu::GpuError;
use crate::ops::batch_gather::{
    BatchGatherDims, GATHER, GATHER_AUGMENTED, mix_words, pack_bytes, random_words, record, record_augmented,
};

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

/// Compares the kernel that augments with the mirror: the batch `how.random.step` of an epoch of `epoch` samples in scrambled order.
///
/// # Errors
/// The device failed; a wrong result is recorded in the verifier instead.
pub fn verify_augmented(
    v: &mut Verifier,
    how: &Augmented,
    n: usize,
    samples: usize,
    epoch: usize,
) -> Result<(), GpuError> {
    let (pixels, batch) = (how.shape.iter().product(), how.random.step as usize);
    let case = format!("{n} of {samples} samples, an epoch of {epoch}, {how:?}");
    // No zeros, so that those that move in show.
    let images: Vec<u8> = v.random(samples * pixels).iter().map(|x| (x * 127.0 + 128.0) as u8 | 1).collect();
    let labels: Vec<u8> = v.random(samples).iter().map(|x| (x.abs() * 10.0) as u8).collect();
    let mut order: Vec<u32> = (0..epoch as u32).map(|i| i % samples as u32).collect();
    order.reverse();
    order.rotate_left(epoch / 3);
    let (mut x64, mut batch_labels) = (vec![0.0f64; n * pixels], vec![0; n]);
    cpu::batch_gather_augmented(how, &images, &labels, &order, batch * n, &mut x64, &mut batch_labels);

    let mut run = v.run();
    let (timages, tlabels) = (run.input_u32(&pack_bytes(&images))?, run.input_u32(&pack_bytes(&labels))?);
    let (torder, tprogress) = (run.input_u32(&order)?, run.input_u32(&[batch as u32, epoch as u32])?);
    // Those of other steps would mix everything.
    let other = Mix { rectangle: [0, 0, u32::MAX, u32::MAX], kept: 0.5 };
    let mixes: Vec<u32> = (0..=batch + 1)
        .flat_map(|step| mix_words(how.mix.as_ref().filter(|_| step == batch).unwrap_or(&other)))
        .collect();
    let (trandom, tmixes) = (run.input_u32(&random_words(how.random))?, run.input_u32(&mixes)?);
    let (tx, tbatch) = (run.output(n * pixels)?, run.output_u32(n)?);
    let tensors = [&timages, &tlabels, &torder, &tprogress, &tx, &tbatch, &trandom, &tmixes];
    let d = BatchGatherDims { n, pixels, samples };
    record_augmented(&mut run.plan, &d, how.shape, &how.augment, how.mix.is_some(), tensors)?;
    // A division has 5 roundoffs. A mixed value has two such parts, each times a factor, of which one is a difference, and their sum.
    let bound = x64.iter().map(|x| 8.0 * UNIT_ROUNDOFF * x + f64::from(f32::MIN_POSITIVE)).collect();
    let x = Bounded { bound, values: x64 };
    run.check(GATHER_AUGMENTED.entry, &case, &[(&tx, &x)], &[(&tbatch, &batch_labels)]);
    Ok(())
}

/// Every kind of change alone and all together, for grey and coloured images that are no squares, in whole and short batches.
pub(super) fn cases() -> impl Iterator<Item = (Augmented, usize, usize, usize)> {
    let none = Augment::default();
    let all = Augment { shift: 2, flip: Flip::Alternating, cutout: 3 };
    let changes = [
        none,
        Augment { shift: 1, ..none },
        Augment { flip: Flip::Random, ..none },
        Augment { flip: Flip::Alternating, ..none },
        Augment { cutout: 2, ..none },
        all,
        // Images that leave, and a hole that is all of them.
        Augment { shift: 40, flip: Flip::Random, cutout: 0 },
        Augment { cutout: 40, ..none },
    ];
    let mixes = [
        None,
        Some(Mix { rectangle: [0, 0, 6, 6], kept: 0.3 }),
        Some(Mix { rectangle: [1, 3, 5, 4], kept: 0.0 }),
        Some(Mix { rectangle: [2, 2, 2, 2], kept: 0.0 }),
    ];
    let shapes = [([6, 8, 1], 5, 12, 12, 1), ([8, 6, 3], 4, 11, 9, 2)];
    let random = |step| Random { seed: 0x0123_4567_89ab_cdef, epoch: 3, step };
    shapes.into_iter().flat_map(move |(shape, n, samples, epoch, step)| {
        changes.into_iter().enumerate().flat_map(move |(i, augment)| {
            let mixes = mixes.into_iter().skip(if i == 0 { 0 } else { i % 2 }).step_by(if i == 0 { 1 } else { 2 });
            mixes.map(move |mix| (Augmented { shape, augment, mix, random: random(step) }, n, samples, epoch))
        })
    })
}

/// Checks the shapes of `fmnist-gpu selftest`: a whole batch, a short last batch, an odd number of samples.
pub(super) fn selftest(v: &mut Verifier) -> Result<(), GpuError> {
    for (how, n, samples, epoch) in cases() {
        verify_augmented(v, &how, n, samples, epoch)?;
    }
    let augment = Augment { shift: 2, flip: Flip::Random, cutout: 8 };
    let random = Random { seed: 1, epoch: 1, step: 3 };
    let how = Augmented { shape: [28, 28, 1], augment, mix: None, random };
    verify_augmented(v, &how, 32, 101, 101)?;
    verify(v, &BatchGatherDims { n: 32, pixels: 784, samples: 101 }, 1, 101)?;
    verify(v, &BatchGatherDims { n: 32, pixels: 784, samples: 101 }, 3, 101)?;
    verify(v, &BatchGatherDims { n: 5, pixels: 12, samples: 7 }, 0, 3)
}
