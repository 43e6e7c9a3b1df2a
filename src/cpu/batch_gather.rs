//! The next batch of images and labels, in the order of the epoch's permutation.

use super::real::Real;

/// Gathers a batch: row r is sample `order[first + r]`, its bytes divided by 255, and its label. Rows past the end of
/// `order` are zeros with label 0.
///
/// Shapes: images `[samples, pixels]`, all_labels `[samples]`, x `[N, pixels]`, labels `[N]`.
pub fn batch_gather<T: Real>(
    pixels: usize,
    images: &[u8],
    all_labels: &[u8],
    order: &[u32],
    first: usize,
    x: &mut [T],
    labels: &mut [u32],
) {
    for (r, label) in labels.iter_mut().enumerate() {
        let row = &mut x[r * pixels..(r + 1) * pixels];
        match order.get(first + r) {
            Some(&sample) => {
                let sample = sample as usize;
                for (x, &byte) in row.iter_mut().zip(&images[sample * pixels..]) {
                    *x = T::from_f64(f64::from(byte)) / T::from_f64(255.0);
                }
                *label = u32::from(all_labels[sample]);
            }
            None => {
                row.fill(T::ZERO);
                *label = 0;
            }
        }
    }
}
