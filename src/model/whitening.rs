//! Filters that whiten the images: over all patches of the images, their outputs have no mean, are uncorrelated, and vary equally.
//!
//! They are the leading eigenvectors of the covariance of the patches, each divided by the square root of its eigenvalue, and the negatives of
//! these. Source: Keller Jordan, airbench (`init_whitening_conv`), which follows David Page, How to Train Your ResNet 8.
//!
//! There, the images are normalized first: in each channel, the mean over all pixels is subtracted, and the rest divided by the standard
//! deviation. Here the network reads pixels divided by 255, so the weight includes the division, and the bias the subtraction. Without padding,
//! both give the same outputs.

use super::eigen::eigenvectors;
use super::{Init, Layer, Pair, Source};

/// The images that are looked at, the first ones: their patches are many times as many.
const IMAGES: usize = 5_000;
/// Added to the eigenvalues, so that directions in which the patches hardly vary are not amplified without limit.
const EPSILON: f64 = 5e-4;
/// Maximum number of cells of a window, times channels: the work grows with its cube.
const MAX_CELLS: usize = 256;

/// Returns why a layer that reads `sources`, of the shape `input`, cannot whiten the images, if it is to.
pub(super) fn check(layer: &Layer, sources: &[Source], input: &[usize]) -> Result<(), String> {
    let Layer::Conv2d { init: Init::Whitening, filters, kernel_size, use_bias, .. } = layer else { return Ok(()) };
    let cells = kernel_size.0 * kernel_size.1 * input[input.len() - 1];
    let reason = if sources != [Source::Image] {
        "it does not read the images".to_string()
    } else if kernel_size.0 > input[0] || kernel_size.1 > input[1] {
        "its window is larger than the images".to_string()
    } else if !use_bias {
        "`use_bias` is false; the bias subtracts the mean of the images".to_string()
    } else if cells > MAX_CELLS {
        format!("its window has {cells} values; use at most {MAX_CELLS}")
    } else if !filters.is_multiple_of(2) || *filters > 2 * cells {
        format!("`filters` is {filters}; use an even number, at most twice the {cells} values of its window")
    } else {
        return Ok(());
    };
    Err(format!("`init` is whitening, but {reason}"))
}

/// Returns weight and bias of a convolution `[KH, KW, C, O]` that whitens the first [`IMAGES`] of `images`, one byte for each value of `[H, W, C]`.
pub(super) fn whitening(images: &[u8], shape: [usize; 3], window: Pair, filters: usize) -> [Vec<f32>; 2] {
    let channels = shape[2];
    let images: Vec<&[u8]> = images.chunks_exact(shape.iter().product()).take(IMAGES).collect();
    let scales: Vec<[f64; 2]> = (0..channels).map(|c| mean_and_deviation(&images, channels, c)).collect();
    let patches = Patches::of(&images, shape, window);
    let cells = patches.cells;
    let covariance = (0..cells * cells).map(|at| patches.covariance(&scales, at / cells, at % cells)).collect();
    let pairs = eigenvectors(covariance, cells);
    let (mut weight, mut bias) = (vec![0.0; cells * filters], vec![0.0; filters]);
    for (o, bias) in bias.iter_mut().enumerate() {
        let (value, vector) = &pairs[o % (filters / 2)];
        let factor = if o < filters / 2 { 1.0 } else { -1.0 } / (value + EPSILON).sqrt();
        let mut shift = 0.0;
        for (i, element) in vector.iter().enumerate() {
            let [mean, deviation] = scales[i % channels];
            weight[i * filters + o] = (element * factor / deviation) as f32;
            shift -= element * factor * mean / deviation;
        }
        *bias = shift as f32;
    }
    [weight, bias]
}

/// Returns mean and standard deviation of a channel over all pixels, divided by 255.
fn mean_and_deviation(images: &[&[u8]], channels: usize, channel: usize) -> [f64; 2] {
    let pixels = || images.iter().flat_map(|image| image.iter().skip(channel).step_by(channels));
    let count = pixels().count().max(1) as f64;
    let mean = pixels().map(|&pixel| u64::from(pixel)).sum::<u64>() as f64 / count;
    let squares = pixels().map(|&pixel| u64::from(pixel).pow(2)).sum::<u64>() as f64 / count;
    let deviation = (squares - mean * mean).max(0.0).sqrt();
    // Nothing is learned from a blank channel, whatever it is divided by.
    [mean / 255.0, if deviation > 0.0 { deviation / 255.0 } else { 1.0 }]
}

/// Sums over all windows that lie inside an image, of bytes, so that they are exact.
struct Patches {
    /// Values of a window.
    cells: usize,
    /// Their number.
    count: u64,
    /// The sum of each value.
    sums: Vec<u64>,
    /// The sums of the products of two values: those of the second from the first on.
    products: Vec<u64>,
}

impl Patches {
    fn of(images: &[&[u8]], [h, w, channels]: [usize; 3], Pair(height, width): Pair) -> Self {
        let row = width * channels;
        let cells = height * row;
        let (mut sums, mut products) = (vec![0; cells], vec![0; cells * cells]);
        let mut patch = vec![0u32; cells];
        let mut count = 0;
        for image in images {
            for (i, j) in (0..=h - height).flat_map(|i| (0..=w - width).map(move |j| (i, j))) {
                for (p, patch) in patch.chunks_exact_mut(row).enumerate() {
                    let pixels = &image[((i + p) * w + j) * channels..][..row];
                    patch.iter_mut().zip(pixels).for_each(|(cell, &pixel)| *cell = u32::from(pixel));
                }
                count += 1;
                for (k, &a) in patch.iter().enumerate().filter(|(_, a)| **a != 0) {
                    sums[k] += u64::from(a);
                    let products = &mut products[k * cells + k..(k + 1) * cells];
                    products.iter_mut().zip(&patch[k..]).for_each(|(product, &b)| *product += u64::from(a * b));
                }
            }
        }
        Patches { cells, count, sums, products }
    }

    /// Returns the mean product of two values of normalized patches.
    fn covariance(&self, scales: &[[f64; 2]], i: usize, j: usize) -> f64 {
        let count = self.count.max(1) as f64;
        let [a, b] = [i, j].map(|i| self.sums[i] as f64 / count / 255.0);
        let product = self.products[i.min(j) * self.cells + i.max(j)] as f64 / count / (255.0 * 255.0);
        let [[mean_a, deviation_a], [mean_b, deviation_b]] = [i, j].map(|i| scales[i % scales.len()]);
        (product - mean_a * b - a * mean_b + mean_a * mean_b) / (deviation_a * deviation_b)
    }
}
