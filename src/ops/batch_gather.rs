//! Gathers the next batch from the data set on the GPU: kernel in `shaders/batch_gather.wgsl`, mirror in
//! [`crate::cpu::batch_gather`].

use super::{Shader, constants, push};
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

const SHADER: Shader = Shader { op: "batch_gather", source: include_str!("../../shaders/batch_gather.wgsl") };

/// Gathers the images and labels of the next batch.
pub static GATHER: KernelSpec = SHADER.kernel(
    "batch_gather",
    &[
        read(0, "images"),
        read(1, "labels"),
        read(2, "order"),
        read(3, "progress"),
        write(4, "x"),
        write(5, "batch_labels"),
    ],
);

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
pub fn record(
    plan: &mut PlanBuilder,
    d: &BatchGatherDims,
    [images, labels, order, progress, x, batch_labels]: [&Tensor; 6],
) -> Result<(), GpuError> {
    let words = d.pixels / 4;
    let tensors = [
        (images, d.samples * words),
        (labels, d.samples.div_ceil(4)),
        // Any length: an epoch may use fewer samples than the data set has.
        (order, order.len()),
        (progress, 2),
        (x, d.n * d.pixels),
        (batch_labels, d.n),
    ];
    let constants = constants(&[("N", d.n), ("PIXELS", d.pixels)], &[]);
    push(plan, &GATHER, &constants, workgroups_linear(d.n * words, 64), &tensors)?;
    // A batch of the data set: for each pixel, one byte read and one float written.
    plan.note_bytes(5 * d.n * d.pixels);
    Ok(())
}
