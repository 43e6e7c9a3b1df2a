//! The next batch; the results have the same bits as [`crate::cpu::batch_gather`].

use crate::cpu::batch_gather::{Augmented, Drawn};
use std::ops::Range;

/// Each byte divided by 255. A table, as a division takes several times longer.
static BYTES: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        values[byte] = byte as f32 / 255.0;
        byte += 1;
    }
    values
};

/// Gathers the images and labels of some samples, bytes divided by 255.
///
/// Shapes: images `[samples, pixels]`, all_labels `[samples]`, order `[N]`, x `[N, pixels]`, labels `[N]`.
pub fn batch_gather(pixels: usize, images: &[u8], all_labels: &[u8], order: &[u32], x: &mut [f32], labels: &mut [u32]) {
    for ((&sample, row), label) in order.iter().zip(x.chunks_exact_mut(pixels)).zip(labels) {
        let sample = sample as usize;
        let bytes = &images[sample * pixels..][..pixels];
        for (x, &byte) in row.iter_mut().zip(bytes) {
            *x = BYTES[usize::from(byte)];
        }
        *label = u32::from(all_labels[sample]);
    }
}

/// Gathers the rows from `first` on of a batch of the samples `batch`, augmented and mixed, as many as there is room for.
///
/// Shapes: images `[samples, H, W, C]`, all_labels `[samples]`, batch `[N]`, x `[rows, H, W, C]`, labels `[rows]`.
pub fn batch_gather_augmented(
    how: &Augmented,
    images: &[u8],
    all_labels: &[u8],
    batch: &[u32],
    first: usize,
    x: &mut [f32],
    labels: &mut [u32],
) {
    let [_, w, c] = how.shape;
    let pixels = how.shape.iter().product::<usize>();
    let draw = |sample: u32| {
        let bytes = &images[sample as usize * pixels..][..pixels];
        (bytes, how.augment.draw(how.shape, how.random, sample))
    };
    let mut other = vec![0.0; w * c];
    for (r, (label, image)) in labels.iter_mut().zip(x.chunks_exact_mut(pixels)).enumerate() {
        let sample = batch[first + r];
        *label = u32::from(all_labels[sample as usize]);
        let own = draw(sample);
        for (i, row) in image.chunks_exact_mut(w * c).enumerate() {
            augmented_row(how, own, i, row);
        }
        let Some(mix) = how.mix else { continue };
        let partner = draw(batch[(first + r + 1) % batch.len()]);
        let [top, left, bottom, right] = mix.rectangle.map(|at| at as usize);
        for (i, row) in image.chunks_exact_mut(w * c).enumerate().take(bottom).skip(top) {
            augmented_row(how, partner, i, &mut other);
            for (x, &other) in row[left * c..right * c].iter_mut().zip(&other[left * c..]) {
                *x = mix.kept * *x + (1.0 - mix.kept) * other;
            }
        }
    }
}

/// Computes row i of an augmented image.
fn augmented_row(how: &Augmented, (bytes, drawn): (&[u8], Drawn), i: usize, row: &mut [f32]) {
    let [h, w, c] = how.shape;
    let most = how.augment.shift as usize;
    let [top, left, bottom, right] = drawn.hole;
    let Some(source) = (i + drawn.shift[0]).checked_sub(most).filter(|&source| source < h) else {
        return row.fill(0.0);
    };
    let bytes = &bytes[source * w * c..][..w * c];
    let Range { start, end } = inside(w, drawn.shift[1], most);
    if drawn.flipped {
        row[..(w - end) * c].fill(0.0);
        row[(w - start) * c..].fill(0.0);
        for j in w - end..w - start {
            let column = w - 1 - j + drawn.shift[1] - most;
            copy(&bytes[column * c..][..c], &mut row[j * c..][..c]);
        }
    } else {
        row[..start * c].fill(0.0);
        row[end * c..].fill(0.0);
        if start < end {
            let column = start + drawn.shift[1] - most;
            copy(&bytes[column * c..], &mut row[start * c..end * c]);
        }
    }
    if (top..bottom).contains(&i) {
        row[left * c..right * c].fill(0.0);
    }
}

/// Returns the columns that come from inside an image of width `w` when `shift - most` is added to them.
fn inside(w: usize, shift: usize, most: usize) -> Range<usize> {
    let start = most.saturating_sub(shift).min(w);
    start..(w + most).saturating_sub(shift).clamp(start, w)
}

fn copy(bytes: &[u8], x: &mut [f32]) {
    for (x, &byte) in x.iter_mut().zip(bytes) {
        *x = BYTES[usize::from(byte)];
    }
}
