//! The views of an image in which a model looks at it to predict its class: the image itself, its mirror image, and shifted ones.

use crate::text::Named;
use serde::{Deserialize, Serialize};

/// How a model predicts: a model file's `[predict]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predict {
    /// The views of each image.
    #[serde(default)]
    pub views: Views,
}

impl Predict {
    pub(super) fn is_default(&self) -> bool {
        *self == Predict::default()
    }
}

/// The views of each image, whose probabilities are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Views {
    /// The image alone.
    #[default]
    #[serde(rename = "one")]
    One,
    /// The image and its mirror image.
    #[serde(rename = "flip")]
    Flip,
    /// These, and the image moved by a pixel in both directions, down and up, each with its mirror image; the first two count as much as the
    /// other four. Source: Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024, section 3.5.
    #[serde(rename = "flip+shift")]
    FlipShift,
}

impl Named for Views {
    const ALL: &[(&'static str, &'static str, Self)] = &[
        ("one", "The image alone", Views::One),
        ("flip", "The image and its mirror image", Views::Flip),
        (
            "flip+shift",
            "These, and the image moved by a pixel down right and up left, each mirrored too",
            Views::FlipShift,
        ),
    ];
}

/// One of the views.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Its part of the average.
    pub weight: f64,
    /// Whether the image is mirrored, left to right, after it was moved.
    pub is_mirrored: bool,
    /// Pixels by which it is moved down and to the right; zeros move in.
    pub shift: isize,
}

impl Views {
    /// Returns the views; the image itself is the first, and the weights add up to 1.
    pub fn list(self) -> Vec<View> {
        let pair = |weight: f64, shift| [false, true].map(|is_mirrored| View { weight, is_mirrored, shift });
        match self {
            Views::One => vec![View { weight: 1.0, is_mirrored: false, shift: 0 }],
            Views::Flip => pair(0.5, 0).to_vec(),
            Views::FlipShift => [pair(0.25, 0), pair(0.125, 1), pair(0.125, -1)].concat(),
        }
    }
}

impl View {
    /// Returns some images of the shape `[H, W, C]`, a byte for each value, in this view.
    pub fn of(&self, images: &[u8], [h, w, c]: [usize; 3]) -> Vec<u8> {
        let mut seen = vec![0; images.len()];
        let moved = |at: usize, size: usize| at.checked_add_signed(-self.shift).filter(|&at| at < size);
        for (image, seen) in images.chunks_exact(h * w * c).zip(seen.chunks_exact_mut(h * w * c)) {
            for (at, pixel) in seen.chunks_exact_mut(c).enumerate() {
                let (i, j) = (at / w, at % w);
                let column = if self.is_mirrored { w - 1 - j } else { j };
                if let (Some(row), Some(column)) = (moved(i, h), moved(column, w)) {
                    pixel.copy_from_slice(&image[(row * w + column) * c..][..c]);
                }
            }
        }
        seen
    }
}
