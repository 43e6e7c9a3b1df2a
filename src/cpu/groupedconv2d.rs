//! 2-D cross-correlation with bias in groups of channels, any window, any stride, zero padding.
//!
//! `y[n,i,j,o] = b[o] + sum over p,q,c of x[n, i*SH+p-PT, j*SW+q-PL, g*CG+c] * w[p,q,c,o]`, where x outside its bounds is 0,
//! `CG = C / G` and `OG = O / G` are the channels of each of the `G` groups, and `g = o / OG`. Images `[N, H, W, C]`, filters
//! `[KH, KW, CG, O]`. With a group for each channel, it is a depthwise convolution. Source: Conv2D of Keras and Conv2d of
//! PyTorch with `groups`, tf.nn.depthwise_conv2d.

use super::conv2d::{Conv2dDims, Padding};
use super::real::Real;
use super::{DimsError, check_len, check_positive};

/// Dimensions of a grouped convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupedConv2dDims {
    /// Those of the convolution without groups: of all channels.
    pub conv: Conv2dDims,
    /// Groups; both numbers of channels are multiples of it.
    pub groups: usize,
}

impl GroupedConv2dDims {
    /// Computes the output size and the padding.
    ///
    /// # Errors
    /// A size is zero, a window does not fit, a number of channels cannot be divided into the groups, or a tensor exceeds
    /// 32-bit indices.
    pub fn new(
        n: usize,
        [h, w, c]: [usize; 3],
        window: [usize; 2],
        o: usize,
        stride: [usize; 2],
        padding: Padding,
        groups: usize,
    ) -> Result<Self, DimsError> {
        check_positive(&[("the number of groups", groups), ("the number of input channels", c)])?;
        for (name, channels) in [("input channels", c), ("output channels", o)] {
            if !channels.is_multiple_of(groups) {
                return Err(DimsError::Groups { name, channels, groups });
            }
        }
        // The filter sees the channels of one group.
        let conv = Conv2dDims { c, ..Conv2dDims::new(n, [h, w, c / groups], window, o, stride, padding)? };
        check_len("the input", &[n, h, w, c])?;
        Ok(GroupedConv2dDims { conv, groups })
    }

    /// Returns the same dimensions for `n` images.
    pub fn for_images(self, n: usize) -> Self {
        GroupedConv2dDims { conv: Conv2dDims { n, ..self.conv }, ..self }
    }

    /// Returns the numbers of input channels and of output channels of a group.
    pub fn of_group(&self) -> [usize; 2] {
        [self.conv.c / self.groups, self.conv.o / self.groups]
    }

    /// Returns the number of products per output.
    pub fn terms(&self) -> usize {
        self.conv.kh * self.conv.kw * self.of_group()[0]
    }

    /// Returns the number of elements of the filter.
    pub fn w_len(&self) -> usize {
        self.terms() * self.conv.o
    }

    /// Calls `f` for every product, with the offsets of y `[N, HO, WO, O]`, x `[N, H, W, C]` and w `[KH, KW, CG, O]`.
    fn for_each_product(&self, mut f: impl FnMut(usize, usize, usize)) {
        let [c_each, o_each] = self.of_group();
        self.conv.for_each_tap(|y_at, x_at, cell| {
            for o in 0..self.conv.o {
                for c in 0..c_each {
                    f(y_at + o, x_at + o / o_each * c_each + c, (cell * c_each + c) * self.conv.o + o);
                }
            }
        });
    }
}

/// Computes `y = conv(x, w) + b`. Shapes: x `[N, H, W, C]`, w `[KH, KW, CG, O]`, b `[O]`, y `[N, HO, WO, O]`.
pub fn groupedconv2d_forward<T: Real>(d: &GroupedConv2dDims, x: &[T], w: &[T], b: &[T], y: &mut [T]) {
    for row in y.chunks_mut(d.conv.o) {
        row.copy_from_slice(b);
    }
    d.for_each_product(|y_at, x_at, w_at| y[y_at] += x[x_at] * w[w_at]);
}

/// Computes the gradient of the input. Shapes: w `[KH, KW, CG, O]`, dy `[N, HO, WO, O]`, dx `[N, H, W, C]`.
pub fn groupedconv2d_backward_x<T: Real>(d: &GroupedConv2dDims, w: &[T], dy: &[T], dx: &mut [T]) {
    dx.fill(T::ZERO);
    d.for_each_product(|y_at, x_at, w_at| dx[x_at] += dy[y_at] * w[w_at]);
}

/// Computes the gradient of the filter. Shapes: x `[N, H, W, C]`, dy `[N, HO, WO, O]`, dw `[KH, KW, CG, O]`.
pub fn groupedconv2d_backward_w<T: Real>(d: &GroupedConv2dDims, x: &[T], dy: &[T], dw: &mut [T]) {
    dw.fill(T::ZERO);
    d.for_each_product(|y_at, x_at, w_at| dw[w_at] += x[x_at] * dy[y_at]);
}
