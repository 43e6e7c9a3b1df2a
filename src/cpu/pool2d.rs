//! Max, average and sum pooling, any window, any stride, `valid` or `same` padding.
//!
//! Padding never wins a maximum and is not counted in an average. Images `[N, H, W, C]`. Source: tf.nn.max_pool2d,
//! tf.nn.avg_pool2d.

use super::conv2d::Padding;
use super::real::Real;
use super::{DimsError, check_len, check_positive, window_output};
use std::ops::Range;

/// What a pooling without an argmax makes of the cells of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The mean of the cells inside the image.
    Average,
    /// Their sum.
    Sum,
}

/// Dimensions of a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2dDims {
    /// Images.
    pub n: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Channels.
    pub c: usize,
    /// Window rows.
    pub kh: usize,
    /// Window columns.
    pub kw: usize,
    /// Stride down.
    pub stride_h: usize,
    /// Stride across.
    pub stride_w: usize,
    /// Padding above.
    pub pad_top: usize,
    /// Padding to the left.
    pub pad_left: usize,
    /// Output rows.
    pub ho: usize,
    /// Output columns.
    pub wo: usize,
}

impl Pool2dDims {
    /// Returns the same for another number of images.
    pub fn for_images(&self, n: usize) -> Self {
        Pool2dDims { n, ..*self }
    }

    /// Computes the output size and the padding.
    ///
    /// # Errors
    /// A size is zero, a window does not fit, or a tensor exceeds 32-bit indices.
    pub fn new(
        n: usize,
        [h, w, c]: [usize; 3],
        [kh, kw]: [usize; 2],
        [stride_h, stride_w]: [usize; 2],
        padding: Padding,
    ) -> Result<Self, DimsError> {
        check_positive(&[
            ("the batch", n),
            ("the number of input rows", h),
            ("the number of input columns", w),
            ("the number of channels", c),
            ("the number of window rows", kh),
            ("the number of window columns", kw),
            ("the stride down", stride_h),
            ("the stride across", stride_w),
        ])?;
        check_len("the window", &[kh, kw])?;
        let (ho, pad_top) = window_output("rows", h, kh, stride_h, padding)?;
        let (wo, pad_left) = window_output("columns", w, kw, stride_w, padding)?;
        check_len("the input", &[n, h, w, c])?;
        check_len("the output", &[n, ho, wo, c])?;
        Ok(Pool2dDims { n, h, w, c, kh, kw, stride_h, stride_w, pad_top, pad_left, ho, wo })
    }

    /// Returns the number of elements of the input.
    pub fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Returns the number of elements of the output.
    pub fn y_len(&self) -> usize {
        self.n * self.ho * self.wo * self.c
    }

    /// Returns the input rows of window row `i` that lie inside the image.
    pub(crate) fn rows(&self, i: usize) -> Range<usize> {
        let start = i * self.stride_h;
        start.saturating_sub(self.pad_top)..(start + self.kh - self.pad_top).min(self.h)
    }

    /// Returns the input columns of window column `j` that lie inside the image.
    pub(crate) fn columns(&self, j: usize) -> Range<usize> {
        let start = j * self.stride_w;
        start.saturating_sub(self.pad_left)..(start + self.kw - self.pad_left).min(self.w)
    }

    /// Calls `f` with the offset of each output and its window's rows and columns.
    fn for_each_window(&self, mut f: impl FnMut(usize, usize, usize, Range<usize>, Range<usize>)) {
        for n in 0..self.n {
            for i in 0..self.ho {
                for j in 0..self.wo {
                    for c in 0..self.c {
                        let at = ((n * self.ho + i) * self.wo + j) * self.c + c;
                        f(at, n, c, self.rows(i), self.columns(j));
                    }
                }
            }
        }
    }

    fn x_at(&self, n: usize, row: usize, column: usize, c: usize) -> usize {
        ((n * self.h + row) * self.w + column) * self.c + c
    }
}

/// Computes max pooling; argmax is `row * W + column` of the maximum in its image, the first in row-major order on
/// ties.
///
/// Shapes: x `[N, H, W, C]`, y and argmax `[N, HO, WO, C]`.
pub fn pool2d_max_forward<T: Real>(d: &Pool2dDims, x: &[T], y: &mut [T], argmax: &mut [u32]) {
    d.for_each_window(|at, n, c, rows, columns| {
        let mut best_at = (rows.start, columns.start);
        for row in rows {
            for column in columns.clone() {
                if x[d.x_at(n, row, column, c)] > x[d.x_at(n, best_at.0, best_at.1, c)] {
                    best_at = (row, column);
                }
            }
        }
        y[at] = x[d.x_at(n, best_at.0, best_at.1, c)];
        argmax[at] = (best_at.0 * d.w + best_at.1) as u32;
    });
}

/// Computes the gradient of max pooling. Shapes: argmax and dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
pub fn pool2d_max_backward_x<T: Real>(d: &Pool2dDims, argmax: &[u32], dy: &[T], dx: &mut [T]) {
    dx.fill(T::ZERO);
    d.for_each_window(|at, n, c, _, _| {
        let position = argmax[at] as usize;
        dx[d.x_at(n, position / d.w, position % d.w, c)] += dy[at];
    });
}

/// Computes average pooling: the mean of the window's cells inside the image. Shapes: x `[N, H, W, C]`, y `[N, HO, WO,
/// C]`.
pub fn pool2d_average_forward<T: Real>(d: &Pool2dDims, x: &[T], y: &mut [T]) {
    mean_forward(d, x, y, true);
}

/// Computes the gradient of average pooling. Shapes: dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
pub fn pool2d_average_backward_x<T: Real>(d: &Pool2dDims, dy: &[T], dx: &mut [T]) {
    mean_backward_x(d, dy, dx, true);
}

/// Computes sum pooling. Shapes: x `[N, H, W, C]`, y `[N, HO, WO, C]`.
pub fn pool2d_sum_forward<T: Real>(d: &Pool2dDims, x: &[T], y: &mut [T]) {
    mean_forward(d, x, y, false);
}

/// Computes the gradient of sum pooling. Shapes: dy `[N, HO, WO, C]`, dx `[N, H, W, C]`.
pub fn pool2d_sum_backward_x<T: Real>(d: &Pool2dDims, dy: &[T], dx: &mut [T]) {
    mean_backward_x(d, dy, dx, false);
}

fn cells<T: Real>(rows: &Range<usize>, columns: &Range<usize>) -> T {
    T::from_f64((rows.len() * columns.len()) as f64)
}

fn mean_forward<T: Real>(d: &Pool2dDims, x: &[T], y: &mut [T], divide: bool) {
    d.for_each_window(|at, n, c, rows, columns| {
        let divisor = if divide { cells(&rows, &columns) } else { T::ONE };
        let mut sum = T::ZERO;
        for row in rows {
            for column in columns.clone() {
                sum += x[d.x_at(n, row, column, c)];
            }
        }
        y[at] = sum / divisor;
    });
}

fn mean_backward_x<T: Real>(d: &Pool2dDims, dy: &[T], dx: &mut [T], divide: bool) {
    dx.fill(T::ZERO);
    d.for_each_window(|at, n, c, rows, columns| {
        let divisor = if divide { cells(&rows, &columns) } else { T::ONE };
        for row in rows {
            for column in columns.clone() {
                dx[d.x_at(n, row, column, c)] += dy[at] / divisor;
            }
        }
    });
}
