//! One filter slid over one grey picture: what a convolutional network does thousands of times, by the same kernel.

use crate::cpu::DimsError;
use crate::cpu::conv2d::{self as cpu, Conv2dDims, Padding};
use crate::gpu::{Element, Gpu, GpuError, PlanBuilder};
use crate::native::conv2d as native;
use crate::ops::{Form, SharedTiles, conv2d};
use thiserror::Error;

/// Most rows and columns of a filter.
pub const MAX_FILTER_SIDE: usize = 31;

/// A filter that cannot be used.
#[derive(Debug, Error)]
pub enum FilterError {
    /// A word of a filter file is no number.
    #[error("line {line}, number {column}: `{word}` is not a finite number")]
    Number {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What stands there.
        word: String,
    },
    /// Rows of different lengths.
    #[error("line {line} has {found} numbers, and the first row has {expected}")]
    Ragged {
        /// Counted from 1.
        line: usize,
        /// Numbers in it.
        found: usize,
        /// Numbers in the first row.
        expected: usize,
    },
    /// No numbers, or too many.
    #[error(
        "the filter has {rows} x {columns} numbers; it needs at least one, and at most {MAX_FILTER_SIDE} x {MAX_FILTER_SIDE}"
    )]
    Size {
        /// Rows.
        rows: usize,
        /// Numbers in a row.
        columns: usize,
    },
    /// The filter does not fit the picture.
    #[error(transparent)]
    Dims(#[from] DimsError),
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// A filter of one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// What it is called.
    pub name: String,
    /// Rows and columns.
    pub size: [usize; 2],
    /// `[rows, columns]`.
    pub weights: Vec<f32>,
}

/// How results are shown as grey values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Values below 0 as 0, above 255 as 255: for filters whose weights sum to something, which give a picture again.
    Clamped,
    /// The absolute value, the largest as 255: for filters whose weights sum to zero, which give differences of either sign. Padding
    /// beside a bright photo is the strongest edge by far, and would leave the others in the dark: the largest is that of the results
    /// which saw no padding, and those that are larger are cut.
    Magnitude,
}

impl Filter {
    /// The built-in filters' names.
    pub const NAMES: [&str; 6] = ["edge", "sharpen", "blur", "emboss", "sobel-x", "sobel-y"];

    /// A built-in filter, 3 x 3; none of another name. Source: Gonzalez and Woods, Digital Image Processing.
    pub fn built_in(name: &str) -> Option<Filter> {
        let weights = match name {
            "edge" => [-1.0, -1.0, -1.0, -1.0, 8.0, -1.0, -1.0, -1.0, -1.0],
            "sharpen" => [0.0, -1.0, 0.0, -1.0, 5.0, -1.0, 0.0, -1.0, 0.0],
            // The binomial weights, whose sum is 16.
            "blur" => [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0].map(|weight: f32| weight / 16.0),
            "emboss" => [-2.0, -1.0, 0.0, -1.0, 1.0, 1.0, 0.0, 1.0, 2.0],
            "sobel-x" => [-1.0, 0.0, 1.0, -2.0, 0.0, 2.0, -1.0, 0.0, 1.0],
            "sobel-y" => [-1.0, -2.0, -1.0, 0.0, 0.0, 0.0, 1.0, 2.0, 1.0],
            _ => return None,
        };
        Some(Filter { name: name.to_string(), size: [3, 3], weights: weights.to_vec() })
    }

    /// A filter from text: a row a line, numbers apart by spaces, commas or semicolons; `#` begins a comment.
    ///
    /// # Errors
    /// A word is no number, rows have different lengths, or there are too many or none.
    pub fn parse(name: &str, text: &str) -> Result<Filter, FilterError> {
        let mut weights = Vec::new();
        let mut size = [0, 0];
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.split('#').next().unwrap_or_default();
            let words = content.split([' ', '\t', ',', ';']).filter(|word| !word.is_empty());
            let before = weights.len();
            for (column, word) in (1..).zip(words) {
                let value = word.parse::<f32>().ok().filter(|value| value.is_finite());
                weights.push(value.ok_or_else(|| FilterError::Number { line, column, word: shortened(word) })?);
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
        Ok(Filter { name: name.to_string(), size, weights })
    }

    /// How its results are best shown.
    pub fn shown(&self) -> Shown {
        let sum: f32 = self.weights.iter().sum();
        let all: f32 = self.weights.iter().map(|weight| weight.abs()).sum();
        if sum.abs() <= 1e-4 * all { Shown::Magnitude } else { Shown::Clamped }
    }

    /// The dimensions of sliding it over a picture of `[rows, columns]`.
    ///
    /// # Errors
    /// It does not fit, or the stride is zero.
    pub fn dims(&self, picture: [usize; 2], stride: usize, padding: Padding) -> Result<Conv2dDims, FilterError> {
        Ok(Conv2dDims::new(1, [picture[0], picture[1], 1], self.size, 1, [stride, stride], padding)?)
    }

    /// The results `[HO, WO]` for a picture `[H, W]`, by the kernel `conv2d_forward` on a device. As in every network the filter is
    /// not turned round: this is the cross-correlation.
    ///
    /// # Errors
    /// The device failed.
    pub fn apply(&self, gpu: &Gpu, dims: &Conv2dDims, picture: &[f32]) -> Result<Vec<f32>, FilterError> {
        let x = gpu.tensor_from("picture", &[dims.x_len()], picture)?;
        let w = gpu.tensor_from("filter", &[dims.w_len()], &self.weights)?;
        let b = gpu.tensor_from("bias", &[1], &[0.0])?;
        let y = gpu.tensor("result", &[dims.y_len()], Element::F32)?;
        let mut plan = PlanBuilder::new(gpu);
        let form = Form::choose(gpu, SharedTiles::default(), &[1]);
        conv2d::record_forward(&mut plan, form, dims, false, &x, &w, &b, &y)?;
        gpu.run(&plan.finish()?)?;
        Ok(gpu.read(&y)?)
    }

    /// The same by the native engine.
    pub fn apply_natively(&self, dims: &Conv2dDims, picture: &[f32]) -> Vec<f32> {
        let conv = native::Conv2d::new(dims, false, None, false, native::Form::Fastest);
        let (mut packed, mut scratch) = (native::Packed::default(), native::Scratch::new([&conv]));
        conv.pack(&self.weights, &mut packed);
        let mut y = vec![0.0; dims.y_len()];
        conv.forward(picture, &self.weights, &packed, &[0.0], &mut y, &mut [], &mut scratch);
        y
    }

    /// The same by the plain loops.
    pub fn apply_by_loops(&self, dims: &Conv2dDims, picture: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; dims.y_len()];
        cpu::conv2d_forward(dims, picture, &self.weights, &[0.0], &mut y);
        y
    }
}

/// A word of a file for a message: the start of it, with control characters escaped.
fn shortened(word: &str) -> String {
    const MAX_CHARS: usize = 40;
    let mut start: String = word.chars().take(MAX_CHARS).flat_map(char::escape_debug).collect();
    if word.chars().nth(MAX_CHARS).is_some() {
        start.push('…');
    }
    start
}

impl Shown {
    /// Grey values of the results `[HO, WO]` of a convolution of these dimensions.
    pub fn grey(self, d: &Conv2dDims, results: &[f32]) -> Vec<u8> {
        let is_inside = |at: usize, stride: usize, pad: usize, kernel: usize, length: usize| {
            at * stride >= pad && at * stride + kernel <= length + pad
        };
        let saw_no_padding = |i: usize| {
            is_inside(i / d.wo, d.stride_h, d.pad_top, d.kh, d.h)
                && is_inside(i % d.wo, d.stride_w, d.pad_left, d.kw, d.w)
        };
        let largest = |counts: &dyn Fn(usize) -> bool| {
            let sizes = results.iter().enumerate().filter(|(i, _)| counts(*i)).map(|(_, v)| v.abs());
            sizes.fold(f32::MIN_POSITIVE, f32::max)
        };
        // A filter larger than the picture sees padding everywhere.
        let inside = largest(&saw_no_padding);
        let largest = if (0..results.len()).any(saw_no_padding) { inside } else { largest(&|_| true) };
        let value = |&v: &f32| match self {
            Shown::Clamped => v.clamp(0.0, 255.0),
            Shown::Magnitude => 255.0 * (v.abs() / largest).min(1.0),
        };
        results.iter().map(|v| value(v).round() as u8).collect()
    }
}
