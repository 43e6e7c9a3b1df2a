//! The next batch; see [`crate::cpu::batch_gather`], whose bits this gives.

use super::vectorised;

/// The pictures and labels of some samples: bytes divided by 255.
///
/// Shapes: images `[samples, pixels]`, all_labels `[samples]`, order `[N]`, x `[N, pixels]`, labels `[N]`.
pub fn batch_gather(
    pixels: usize,
    images: &[u8],
    all_labels: &[u8],
    order: &[u32],
    x: &mut [f32],
    labels: &mut [u32],
) {
    for ((&sample, row), label) in order.iter().zip(x.chunks_exact_mut(pixels)).zip(labels) {
        let sample = sample as usize;
        let bytes = &images[sample * pixels..][..pixels];
        vectorised(
            #[inline(always)]
            || {
                for (x, &byte) in row.iter_mut().zip(bytes) {
                    *x = f32::from(byte) / 255.0;
                }
            },
        );
        *label = u32::from(all_labels[sample]);
    }
}
