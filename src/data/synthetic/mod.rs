//! A synthetic substitute for Fashion-MNIST: garments of the same ten classes, drawn from a seed.
//!
//! It is used when the genuine files are not available, and is designed to be a comparable task for a classifier. Each
//! class varies in proportions, sleeves, necklines, heels, straps, cloth and light; images are shifted, rotated, blurred
//! and noisy, and some are partly covered. Classes that are confused in the genuine set are also confused here: some
//! shirts, for example, are drawn exactly like a T-shirt, so no classifier reaches 100 %.
//!
//! Measured with seed 0 and Keras, five epochs on 60,000 images with batch size 32: `mlp` reaches 85.1 % and `cnn` 90.9 %
//! on the test split. The article reports 87.6 % and 91.6 % on the genuine set. Classification by the nearest class mean
//! is correct for 69 % here and for 68 % there.
//!
//! [`generate`] depends only on its arguments. Image `i` of a split has its own random streams (ChaCha8), so it is the
//! same for any number of images and threads. Only `+ - * /` and square roots are used, which IEEE 754 rounds identically
//! on all platforms.
//!
//! The work is split by file: `tops`, `garments` and `footwear` choose what to draw, `raster` converts outlines to pixels,
//! `cloth` gives them a surface, and this file photographs the result.

mod cloth;
mod dice;
mod footwear;
mod garments;
mod raster;
mod tops;

use self::dice::{Dice, Purpose};
use self::raster::{Easel, Frame};
use super::{IMAGE_SIDE, N_CLASSES, PIXELS, Split};
use crate::threads::{available, in_parallel};

/// Generates a training and a test split from `seed`.
///
/// Each group of ten consecutive images, counted from the first, contains every class once, in random order.
pub fn generate(n_train: usize, n_test: usize, seed: u64) -> (Split, Split) {
    generate_until(n_train, n_test, seed, &|| false)
}

/// Like [`generate`], but `is_over` is asked before each image; once it is true, the images that follow stay blank.
pub(super) fn generate_until(
    n_train: usize,
    n_test: usize,
    seed: u64,
    is_over: &(dyn Fn() -> bool + Sync),
) -> (Split, Split) {
    (split(n_train, seed, Half::Train, is_over), split(n_test, seed, Half::Test, is_over))
}

/// The two splits of a seed.
#[derive(Clone, Copy)]
enum Half {
    Train = 0,
    Test = 1,
}

fn split(n: usize, seed: u64, half: Half, is_over: &(dyn Fn() -> bool + Sync)) -> Split {
    let mut images = vec![0; n * PIXELS];
    let mut labels = vec![0; n];
    let per_thread = n.div_ceil(available()).max(1);
    let ranges = images.chunks_mut(per_thread * PIXELS).zip(labels.chunks_mut(per_thread));
    in_parallel(ranges.enumerate().map(|(i_thread, (images, labels))| {
        move || {
            let images = images.chunks_exact_mut(PIXELS);
            for (offset, (image, label)) in images.zip(labels).enumerate() {
                if is_over() {
                    break;
                }
                let i = i_thread * per_thread + offset;
                *label = label_of(seed, half, i);
                draw(*label, &mut Dice::new(seed, half, Purpose::Image, i), image);
            }
        }
    }));
    Split { images, labels }
}

/// Returns the class of image `i`: its element in the shuffle of the ten classes for its group of ten.
fn label_of(seed: u64, half: Half, i: usize) -> u8 {
    let mut dice = Dice::new(seed, half, Purpose::Labels, i / N_CLASSES);
    let mut classes: [u8; N_CLASSES] = std::array::from_fn(|class| class as u8);
    for last in (1..N_CLASSES).rev() {
        classes.swap(last, dice.below(last + 1));
    }
    classes[i % N_CLASSES]
}

/// Draws a photographed garment of the class into 784 pixels.
fn draw(class: u8, dice: &mut Dice, image: &mut [u8]) {
    let frame = Frame {
        shift: [dice.bell(0.9), dice.bell(0.9)],
        slope: dice.bell(0.03),
        scale: [dice.range(0.95, 1.08), dice.range(0.95, 1.05)],
        mirror: dice.chance(0.02),
    };
    let mut easel = Easel::new(frame);
    match class {
        0 | 2 | 4 | 6 => tops::top(class, &mut easel, dice),
        1 => garments::trouser(&mut easel, dice),
        3 => garments::dress(&mut easel, dice),
        5 | 7 | 9 => footwear::shoe(class, &mut easel, dice),
        _ => garments::bag(&mut easel, dice),
    }
    photograph(&mut easel, dice);
    for (pixel, tone) in image.iter_mut().zip(&easel.tones) {
        *pixel = (tone * 255.0 + 0.5) as u8; // the cast saturates at 0 and 255
    }
}

/// Applies light, shade, lens and sensor effects to the whole drawing.
fn photograph(easel: &mut Easel, dice: &mut Dice) {
    shade_rim(easel, dice.range(0.0, 0.25));
    light(&mut easel.tones, dice);
    if dice.chance(0.05) {
        cover_part(&mut easel.tones, dice);
    }
    soften(&mut easel.tones, dice.range(0.0, 0.4));
    let grain = if dice.chance(0.15) { dice.range(0.05, 0.1) } else { dice.range(0.005, 0.04) };
    for (tone, ink) in easel.tones.iter_mut().zip(&easel.ink) {
        *tone = (*tone + dice.bell(grain) * ink).clamp(0.0, 1.0);
    }
}

/// Darkens the rim, where cloth turns away from the camera.
fn shade_rim(easel: &mut Easel, depth: f32) {
    let mut inside = easel.ink;
    soften(&mut inside, 1.0);
    soften(&mut inside, 1.0);
    for (tone, inside) in easel.tones.iter_mut().zip(&inside) {
        *tone *= 1.0 - depth * (1.0 - inside);
    }
}

/// Applies light from one side, and exposure.
fn light(tones: &mut [f32; PIXELS], dice: &mut Dice) {
    let exposure = dice.range(0.9, 1.2);
    let [across, down] = [dice.bell(0.012), dice.bell(0.008)];
    let middle = (IMAGE_SIDE as f32 - 1.0) / 2.0;
    for (i, tone) in tones.iter_mut().enumerate() {
        let x = (i % IMAGE_SIDE) as f32 - middle;
        let y = (i / IMAGE_SIDE) as f32 - middle;
        *tone *= exposure * (1.0 + across * x + down * y);
    }
}

/// Covers part of the image with a plain rectangle, like a label or a crop.
fn cover_part(tones: &mut [f32; PIXELS], dice: &mut Dice) {
    let [width, height] = [4 + dice.below(7), 4 + dice.below(7)];
    let [left, top] = [dice.below(IMAGE_SIDE - width), dice.below(IMAGE_SIDE - height)];
    let tone = if dice.chance(0.6) { 0.0 } else { dice.range(0.2, 0.9) };
    for row in tones.chunks_exact_mut(IMAGE_SIDE).skip(top).take(height) {
        row[left..left + width].fill(tone);
    }
}

/// Blends in the image blurred by the binomial kernel `[1 2 1] x [1 2 1] / 16`; outside is black.
fn soften(image: &mut [f32; PIXELS], share: f32) {
    let original = *image;
    let blurred_across = |row: usize, column: usize| {
        let row = &original[row * IMAGE_SIDE..][..IMAGE_SIDE];
        let left = if column > 0 { row[column - 1] } else { 0.0 };
        let right = row.get(column + 1).copied().unwrap_or(0.0);
        (left + 2.0 * row[column] + right) / 4.0
    };
    let across: [f32; PIXELS] = std::array::from_fn(|i| blurred_across(i / IMAGE_SIDE, i % IMAGE_SIDE));
    for (i, pixel) in image.iter_mut().enumerate() {
        let above = if i >= IMAGE_SIDE { across[i - IMAGE_SIDE] } else { 0.0 };
        let below = across.get(i + IMAGE_SIDE).copied().unwrap_or(0.0);
        let blurred = (above + 2.0 * across[i] + below) / 4.0;
        *pixel += share * (blurred - *pixel);
    }
}
