//! Gathers the next batch from the data set on the GPU: kernel in `shaders/batch_gather.wgsl`, mirror in
//! [`crate::cpu::batch_gather`].

use crate::cpu::batch_gather as cpu;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, bind, read, workgroups_linear, write};
use crate::verify::{UNIT_ROUNDOFF, Verifier};

const SOURCE: &str = include_str!("../../shaders/batch_gather.wgsl");

/// Gathers the images and labels of the next batch.
pub static GATHER: KernelSpec = KernelSpec {
    op: "batch_gather",
    entry: "batch_gather",
    source: SOURCE,
    bindings: &[
        read(0, "images"),
        read(1, "labels"),
        read(2, "order"),
        read(3, "progress"),
        write(4, "x"),
        write(5, "batch_labels"),
    ],
};

/// Every kernel of this operation.
pub static KERNELS: &[&KernelSpec] = &[&GATHER];

/// Sizes of a gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchGatherDims {
    /// Rows of the batch.
    pub n: usize,
    /// Bytes of one image, a multiple of four.
    pub pixels: usize,
    /// Samples in the data set.
    pub samples: usize,
}

/// Packs bytes into words as the kernel reads them: little-endian, the last word padded with zeros.
pub fn pack_bytes(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(word)
        })
        .collect()
}

/// Records the gather. Inputs: images `[samples, pixels / 4]` and labels `[samples / 4]` as packed bytes (see
/// [`pack_bytes`]), `order` with room for an epoch, progress `[batches done, samples of the epoch]`. Outputs: x `[N,
/// pixels]`, batch_labels `[N]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
#[allow(clippy::too_many_arguments, reason = "one argument per tensor")]
pub fn record(
    plan: &mut PlanBuilder<'_>,
    d: &BatchGatherDims,
    images: &Tensor,
    labels: &Tensor,
    order: &Tensor,
    progress: &Tensor,
    x: &Tensor,
    batch_labels: &Tensor,
) -> Result<(), GpuError> {
    let words = d.pixels / 4;
    plan.push(
        &GATHER,
        &[("N", d.n as f64), ("PIXELS", d.pixels as f64)],
        workgroups_linear(d.n * words, 64),
        &[
            bind("images", images, d.samples * words),
            bind("labels", labels, d.samples.div_ceil(4)),
            // Any length: an epoch may use fewer samples than the data set has.
            bind("order", order, order.len()),
            bind("progress", progress, 2),
            bind("x", x, d.n * d.pixels),
            bind("batch_labels", batch_labels, d.n),
        ],
    )?;
    // A batch of the data set: for each pixel, one byte read and one float written.
    plan.note_bytes(5 * d.n * d.pixels);
    Ok(())
}

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
    record(&mut run.plan, d, &timages, &tlabels, &torder, &tprogress, &tx, &tbatch)?;
    // One division: 2.5 units in the last place.
    let bound: Vec<f64> = x64.iter().map(|x| 5.0 * UNIT_ROUNDOFF * x).collect();
    run.check(GATHER.entry, &case, &[(&tx, &x64, &bound)], &[(&tbatch, &batch_labels)])
}

/// Checks the shapes of `fmnist-gpu selftest`: a whole batch, a short last batch, an odd number of samples.
///
/// # Errors
/// The device failed.
pub fn selftest(v: &mut Verifier<'_>) -> Result<(), GpuError> {
    verify(v, &BatchGatherDims { n: 32, pixels: 784, samples: 101 }, 1, 101)?;
    verify(v, &BatchGatherDims { n: 32, pixels: 784, samples: 101 }, 3, 101)?;
    verify(v, &BatchGatherDims { n: 5, pixels: 12, samples: 7 }, 0, 3)
}
