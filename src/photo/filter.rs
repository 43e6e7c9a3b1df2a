//! One filter applied to one grey image: what a convolutional network does thousands of times, with the same kernel.

use crate::cpu::DimsError;
use crate::cpu::conv2d::{self as cpu, Conv2dDims, Padding};
use crate::gpu::{Element, Gpu, GpuError, PlanBuilder};
use crate::ops::{Form, SharedTiles, conv2d};
use crate::text::shortened;
use thiserror::Error;

/// Maximum number of rows and columns of a filter.
pub const MAX_FILTER_SIDE: usize = 31;

/// Maximum number of characters of a word of a file that a message repeats.
const MAX_WORD: usize = 40;

/// A filter that cannot be used.
#[derive(Debug, Error)]
pub enum FilterError {
    /// A word of a filter file is not a number.
    #[error("line {line}, number {column}: `{word}` is not a finite number")]
    Number {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// The word, escaped and shortened.
        word: String,
    },
    /// Rows of different lengths.
    #[error("line {line} has {found} numbers, and the first row has {expected}")]
    Ragged {
        /// Counted from 1.
        line: usize,
        /// Numbers in the line.
        found: usize,
        /// Numbers in the first row.
        expected: usize,
    },
    /// No numbers, or too many.
    #[error(
        "the filter has {rows} x {columns} numbers; use at least one, and at most {MAX_FILTER_SIDE} x {MAX_FILTER_SIDE}"
    )]
    Size {
        /// Rows.
        rows: usize,
        /// Numbers per row.
        columns: usize,
    },
    /// The filter does not fit the image.
    #[error(transparent)]
    Dims(#[from] DimsError),
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// A filter of one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFilter {
    /// Its name.
    pub name: String,
    /// Rows and columns.
    pub size: [usize; 2],
    /// `[rows, columns]`.
    pub weights: Vec<f32>,
}

/// How results are mapped to grey values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Values are clamped to 0..255: for filters whose weights have a non-zero sum, whose result is again an image.
    Clamped,
    /// Absolute values, scaled so that the largest is 255: for filters whose weights sum to zero, whose results are differences of
    /// either sign. The border between padding and a bright photo would be by far the strongest edge and make all others dark, so
    /// the scale is that of the results unaffected by padding, and larger values are clamped.
    Magnitude,
}

impl ImageFilter {
    /// Names of the built-in filters.
    pub const NAMES: [&str; 6] = ["edge", "sharpen", "blur", "emboss", "sobel-x", "sobel-y"];

    /// Returns the 3 x 3 built-in filter of this name; `None` if there is none. Source: Gonzalez and Woods, Digital Image Processing.
    pub fn built_in(name: &str) -> Option<ImageFilter> {
        let weights = match name {
            "edge" => [-1.0, -1.0, -1.0, -1.0, 8.0, -1.0, -1.0, -1.0, -1.0],
            "sharpen" => [0.0, -1.0, 0.0, -1.0, 5.0, -1.0, 0.0, -1.0, 0.0],
            // The binomial weights; their sum is 16.
            "blur" => [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0].map(|weight: f32| weight / 16.0),
            "emboss" => [-2.0, -1.0, 0.0, -1.0, 1.0, 1.0, 0.0, 1.0, 2.0],
            "sobel-x" => [-1.0, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0],
            "sobel-y" => [-1.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0],
            _ => return None,
        };
        Some(ImageFilter { name: name.to_string(), size: [3, 3], weights: weights.to_vec() })
    }

    /// Parses a filter: one row per line, numbers separated by spaces, commas or semicolons; `#` starts a comment.
    ///
    /// # Errors
    /// A word is not a number, rows differ in length, or there are too many numbers or none.
    pub fn parse(name: &str, text: &str) -> Result<ImageFilter, FilterError> {
        let mut weights = Vec::new();
        let mut size = [0, 0];
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.split('#').next().unwrap_or_default();
            let words = content.split([' ', '\t', ',', ';']).filter(|word| !word.is_empty());
            let before = weights.len();
            for (column, word) in (1..).zip(words) {
                let value = word.parse::<f32>().ok().filter(|value| value.is_finite());
                let escaped = || shortened(word, MAX_WORD).chars().flat_map(char::escape_debug).collect();
                weights.push(value.ok_or_else(|| FilterError::Number { line, column, word: escaped() })?);
                if column > MAX_FILTER_SIDE || size[0] > MAX_FILTER_SIDE {
                    return Err(FilterError::Size { rows: size[0], columns: column });
                }
            }
            let found = weights.len() - before;
            if found == 0 {
                continue;
            }
            if size[0] > 0 && found != size[1] {
                return Err(FilterError::Ragged { line, found, expected: size[1] });
            }
            size = [size[0] + 1, found];
        }
        let [rows, columns] = size;
        if rows == 0 || rows > MAX_FILTER_SIDE {
            return Err(FilterError::Size { rows, columns });
        }
        Ok(ImageFilter { name: name.to_string(), size, weights })
    }

    /// Returns how its results are best shown.
    pub fn shown(&self) -> Shown {
        let sum: f32 = self.weights.iter().sum();
        let all: f32 = self.weights.iter().map(|weight| weight.abs()).sum();
        if sum.abs() <= 1e-4 * all { Shown::Magnitude } else { Shown::Clamped }
    }

    /// Returns the dimensions of the convolution with an image of size `[rows, columns]`.
    ///
    /// # Errors
    /// The filter does not fit, or the stride is zero.
    pub fn dims(&self, image: [usize; 2], stride: usize, padding: Padding) -> Result<Conv2dDims, FilterError> {
        Ok(Conv2dDims::new(1, [image[0], image[1], 1], self.size, 1, [stride, stride], padding)?)
    }

    /// Returns the results `[HO, WO]` for an image `[H, W]`, computed by the kernel `conv2d_forward` on a device. As in neural
    /// networks, the filter is not flipped: this is a cross-correlation.
    ///
    /// # Errors
    /// The device failed.
    pub async fn apply(&self, gpu: &Gpu, dims: &Conv2dDims, image: &[f32]) -> Result<Vec<f32>, FilterError> {
        let x = gpu.tensor_from("image", &[dims.x_len()], image)?;
        let w = gpu.tensor_from("filter", &[dims.w_len()], &self.weights)?;
        let b = gpu.tensor_from("bias", &[1], &[0.0])?;
        let y = gpu.tensor("result", &[dims.y_len()], Element::F32)?;
        let mut plan = PlanBuilder::new(gpu);
        let form = Form::choose(gpu, SharedTiles::default(), &[1]);
        conv2d::record_forward(&mut plan, form, dims, false, [&x, &w, &b, &y], None)?;
        gpu.run(&plan.finish().await?).await?;
        Ok(gpu.read(&y).await?)
    }

    /// Like [`ImageFilter::apply`], computed by the plain loops.
    pub fn apply_by_loops(&self, dims: &Conv2dDims, image: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; dims.y_len()];
        cpu::conv2d_forward(dims, image, &self.weights, &[0.0], &mut y);
        y
    }
}

impl Shown {
    /// Converts the results `[HO, WO]` of a convolution with these dimensions to grey values.
    pub fn grey(self, d: &Conv2dDims, results: &[f32]) -> Vec<u8> {
        let is_inside = |at: usize, stride: usize, pad: usize, kernel: usize, length: usize| {
            at * stride >= pad && at * stride + kernel <= length + pad
        };
        let saw_no_padding = |i: usize| {
            is_inside(i / d.wo, d.stride_h, d.pad_top, d.kh, d.h)
                && is_inside(i % d.wo, d.stride_w, d.pad_left, d.kw, d.w)
        };
        let inside: Vec<f32> = (0..results.len()).filter(|&i| saw_no_padding(i)).map(|i| results[i]).collect();
        // A filter larger than the image overlaps padding everywhere.
        let counted = if inside.is_empty() { results } else { &inside };
        let largest = counted.iter().map(|v| v.abs()).fold(f32::MIN_POSITIVE, f32::max);
        let value = |&v: &f32| match self {
            Shown::Clamped => v.clamp(0.0, 255.0),
            Shown::Magnitude => 255.0 * (v.abs() / largest).min(1.0),
        };
        results.iter().map(|v| value(v).round() as u8).collect()
    }
}
