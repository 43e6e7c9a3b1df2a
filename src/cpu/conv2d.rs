//! 2-D cross-correlation with bias, any window, any stride, zero padding.
//!
//! `y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, c] * w[p,q,c,o]`, where x outside its bounds is 0.
//! Images `[N, H, W, C]`, filters `[KH, KW, C, O]`. Source: tf.nn.conv2d.

use super::real::Real;
use super::{DimsError, check_len, check_positive, window_output};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a window treats the edge of the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// The output has ceil(input / stride) cells; zeros are added, the smaller half first.
    Same,
    /// No padding: only windows that lie inside the image.
    #[default]
    Valid,
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Padding::Same => "same",
            Padding::Valid => "valid",
        })
    }
}

/// Dimensions of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dDims {
    /// Images.
    pub n: usize,
    /// Input rows.
    pub h: usize,
    /// Input columns.
    pub w: usize,
    /// Input channels.
    pub c: usize,
    /// Filter rows.
    pub kh: usize,
    /// Filter columns.
    pub kw: usize,
    /// Output channels.
    pub o: usize,
    /// Stride down.
    pub stride_h: usize,
    /// Stride across.
    pub stride_w: usize,
    /// Rows of zeros above.
    pub pad_top: usize,
    /// Columns of zeros to the left.
    pub pad_left: usize,
    /// Output rows.
    pub ho: usize,
    /// Output columns.
    pub wo: usize,
}

impl Conv2dDims {
    /// Computes the output size and the padding.
    ///
    /// # Errors
    /// A size is zero, a window does not fit, or a tensor exceeds 32-bit indices.
    pub fn new(
        n: usize,
        [h, w, c]: [usize; 3],
        [kh, kw]: [usize; 2],
        o: usize,
        [stride_h, stride_w]: [usize; 2],
        padding: Padding,
    ) -> Result<Self, DimsError> {
        check_positive(&[
            ("the batch", n),
            ("the number of input rows", h),
            ("the number of input columns", w),
            ("the number of input channels", c),
            ("the number of window rows", kh),
            ("the number of window columns", kw),
            ("the number of output channels", o),
            ("the stride down", stride_h),
            ("the stride across", stride_w),
        ])?;
        check_len("the filter", &[kh, kw, c, o])?;
        let (ho, pad_top) = window_output("rows", h, kh, stride_h, padding)?;
        let (wo, pad_left) = window_output("columns", w, kw, stride_w, padding)?;
        check_len("the input", &[n, h, w, c])?;
        check_len("the output", &[n, ho, wo, o])?;
        Ok(Conv2dDims { n, h, w, c, kh, kw, o, stride_h, stride_w, pad_top, pad_left, ho, wo })
    }

    /// Returns the number of elements of the input.
    pub fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Returns the number of elements of the filter.
    pub fn w_len(&self) -> usize {
        self.kh * self.kw * self.c * self.o
    }

    /// Returns the number of elements of the output.
    pub fn y_len(&self) -> usize {
        self.n * self.ho * self.wo * self.o
    }

    /// Returns the number of products per output.
    pub fn terms(&self) -> usize {
        self.kh * self.kw * self.c
    }

    /// Calls `f` for every pair of an output position and a filter cell that meet inside the image, with the offsets of
    /// y `[.., O]` and x `[.., C]`, and the index of the cell.
    pub(super) fn for_each_tap(&self, mut f: impl FnMut(usize, usize, usize)) {
        for n in 0..self.n {
            for i in 0..self.ho {
                for j in 0..self.wo {
                    for p in 0..self.kh {
                        for q in 0..self.kw {
                            let (row, column) = (i * self.stride_h + p, j * self.stride_w + q);
                            if row < self.pad_top || column < self.pad_left {
                                continue;
                            }
                            let (row, column) = (row - self.pad_top, column - self.pad_left);
                            if row >= self.h || column >= self.w {
                                continue;
                            }
                            f(
                                ((n * self.ho + i) * self.wo + j) * self.o,
                                ((n * self.h + row) * self.w + column) * self.c,
                                p * self.kw + q,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Computes `y = conv(x, w) + b`. Shapes: x `[N, H, W, C]`, w `[KH, KW, C, O]`, b `[O]`, y `[N, HO, WO, O]`.
pub fn conv2d_forward<T: Real>(d: &Conv2dDims, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    for row in y.chunks_mut(d.o) {
        row.copy_from_slice(b);
    }
    d.for_each_tap(|y_at, x_at, cell| {
        for c in 0..d.c {
            for o in 0..d.o {
                y[y_at + o] += x[x_at + c] * w[(cell * d.c + c) * d.o + o];
            }
        }
    });
}

/// Computes the gradient of the input. Shapes: w `[KH, KW, C, O]`, dy `[N, HO, WO, O]`, dx `[N, H, W, C]`.
pub fn conv2d_backward_x<T: Real>(d: &Conv2dDims, w: &[T], dy: &[T], dx: &mut [T]) {
    dx.fill(T::ZERO);
    d.for_each_tap(|y_at, x_at, cell| {
        for c in 0..d.c {
            for o in 0..d.o {
                dx[x_at + c] += dy[y_at + o] * w[(cell * d.c + c) * d.o + o];
            }
        }
    });
}

/// Computes the gradient of the filter. Shapes: x `[N, H, W, C]`, dy `[N, HO, WO, O]`, dw `[KH, KW, C, O]`.
pub fn conv2d_backward_w<T: Real>(d: &Conv2dDims, x: &[T], dy: &[T], dw: &mut [T]) {
    dw.fill(T::ZERO);
    d.for_each_tap(|y_at, x_at, cell| {
        for c in 0..d.c {
            for o in 0..d.o {
                dw[(cell * d.c + c) * d.o + o] += x[x_at + c] * dy[y_at + o];
            }
        }
    });
}
