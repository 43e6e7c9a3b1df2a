//! Windows of convolutions and poolings with explicit padding: the meaning of `same` differs between tools.

use crate::model::{Layer, LayerShape, conv2d_dims, pool2d_dims};

/// Why the dimensions of a layer cannot be wrong here.
const FITS: &str = "Model::shapes has checked that every window fits its image";

/// The window of a convolution or a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Rows and columns.
    pub(super) size: [usize; 2],
    /// Steps, vertical and horizontal.
    pub(super) stride: [usize; 2],
    /// Rows added above and columns added to the left.
    pub(super) begin: [usize; 2],
    /// Rows added below and columns added to the right.
    pub(super) end: [usize; 2],
}

impl Window {
    /// Returns the window of a layer.
    ///
    /// # Panics
    /// If the layer is neither a convolution nor a pooling.
    pub(super) fn of(shape: &LayerShape) -> Self {
        let is_convolution = matches!(shape.layer, Layer::Conv2d { .. } | Layer::DepthwiseConv2d { .. });
        let [input, size, stride, begin, output] = if is_convolution {
            let d = conv2d_dims(&shape.layer, 1, &shape.input).expect(FITS).conv;
            [[d.h, d.w], [d.kh, d.kw], [d.stride_h, d.stride_w], [d.pad_top, d.pad_left], [d.ho, d.wo]]
        } else {
            let d = pool2d_dims(&shape.layer, 1, &shape.input).expect(FITS);
            [[d.h, d.w], [d.kh, d.kw], [d.stride_h, d.stride_w], [d.pad_top, d.pad_left], [d.ho, d.wo]]
        };
        // The last window ends here, counted from the first padded cell; everything past the image is padding.
        let end = [0, 1].map(|i| ((output[i] - 1) * stride[i] + size[i]).saturating_sub(begin[i] + input[i]));
        Window { size, stride, begin, end }
    }

    /// Returns the number of cells in the window.
    pub(super) fn cells(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Whether there is any padding.
    pub(super) fn is_padded(&self) -> bool {
        self.begin != [0, 0] || self.end != [0, 0]
    }

    /// Whether the padding is the same before and after, which is all that many tools can express with a single number.
    pub(super) fn is_even(&self) -> bool {
        self.begin == self.end
    }
}
