//! Gathers the next batch from the data set on the GPU: kernel in `shaders/batch_gather.wgsl`, mirror in
//! [`crate::cpu::batch_gather`].

use super::{Shader, constants, push};
use crate::cpu::batch_gather::{Augment, Flip, Mix};
use crate::cpu::philox::Random;
use crate::gpu::{GpuError, KernelSpec, PlanBuilder, Tensor, read, workgroups_linear, write};

const SHADER: Shader = Shader {
    op: "batch_gather",
    source: concat!(shader_text!("batch_gather.wgsl"), shader_text!("parts/philox.wgsl")),
};

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

/// Gathers the images and labels of the next batch, augmented and mixed.
pub static GATHER_AUGMENTED: KernelSpec = SHADER.kernel(
    "batch_gather_augmented",
    &[
        read(0, "images"),
        read(1, "labels"),
        read(2, "order"),
        read(3, "progress"),
        write(4, "x"),
        write(5, "batch_labels"),
        read(6, "random"),
        read(7, "mixes"),
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

/// Words of [`random_words`].
pub const RANDOM_WORDS: usize = 3;
/// Words of [`mix_words`].
pub const MIX_WORDS: usize = 5;

/// Returns what draws follow from, as the kernels read it; they know the step by their progress.
pub fn random_words(random: Random) -> [u32; RANDOM_WORDS] {
    let [low, high] = random.key();
    [low, high, random.epoch]
}

/// Returns how a batch is mixed, as the kernel reads it.
pub fn mix_words(mix: &Mix) -> [u32; MIX_WORDS] {
    let [top, left, bottom, right] = mix.rectangle;
    [top, left, bottom, right, mix.kept.to_bits()]
}

/// Records the gather of augmented images of the shape `[H, W, C]`. Inputs as for [`record`], and `random` as of [`random_words`], mixes
/// `[batches of the epoch, 5]` as of [`mix_words`]; without `mixing`, any that is not empty. Outputs: x `[N, H, W, C]`, batch_labels `[N]`.
///
/// # Errors
/// A tensor's size does not fit the dimensions.
pub fn record_augmented(
    plan: &mut PlanBuilder,
    d: &BatchGatherDims,
    shape: [usize; 3],
    augment: &Augment,
    mixing: bool,
    [images, labels, order, progress, x, batch_labels, random, mixes]: [&Tensor; 8],
) -> Result<(), GpuError> {
    let words = d.pixels / 4;
    let tensors = [
        (images, d.samples * words),
        (labels, d.samples.div_ceil(4)),
        (order, order.len()),
        (progress, 2),
        (x, d.n * shape.iter().product::<usize>()),
        (batch_labels, d.n),
        (random, RANDOM_WORDS),
        (mixes, mixes.len()),
    ];
    let [h, w, c] = shape;
    let flip = match augment.flip {
        Flip::None => 0,
        Flip::Random => 1,
        Flip::Alternating => 2,
    };
    let drawn = [
        ("SHIFT", f64::from(augment.shift)),
        ("FLIP", f64::from(flip)),
        ("CUTOUT", f64::from(augment.cutout)),
        ("MIXES", f64::from(u8::from(mixing))),
    ];
    let constants = constants(&[("N", d.n), ("PIXELS", d.pixels), ("H", h), ("W", w), ("C", c)], &drawn);
    push(plan, &GATHER_AUGMENTED, &constants, workgroups_linear(d.n * words, 64), &tensors)?;
    // For each pixel one byte read, and with mixing another one of the partner; and one float written.
    plan.note_bytes((if mixing { 6 } else { 5 }) * d.n * d.pixels);
    Ok(())
}
