//! Windows of convolutions and poolings with their padding as numbers: other tools have no `same` that means the same everywhere.

use crate::model::{Layer, LayerShape, conv2d_dims, pool2d_dims};

/// The window of a convolution or a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Rows and columns.
    pub(super) size: [usize; 2],
    /// Steps down and across.
    pub(super) stride: [usize; 2],
    /// Rows above and columns to the left that are added.
    pub(super) begin: [usize; 2],
    /// Rows below and columns to the right that are added.
    pub(super) end: [usize; 2],
}

impl Window {
    /// The window of a layer; of others than convolutions and poolings there is none.
    pub(super) fn of(shape: &LayerShape) -> Option<Self> {
        let fits = "Model::shapes has fitted every window to its picture";
        let (input, size, stride, begin, output) = match &shape.layer {
            Layer::Conv2d { .. } => {
                let d = conv2d_dims(&shape.layer, 1, &shape.input).expect(fits);
                ([d.h, d.w], [d.kh, d.kw], [d.stride_h, d.stride_w], [d.pad_top, d.pad_left], [d.ho, d.wo])
            }
            Layer::MaxPool2d { .. } | Layer::AveragePool2d { .. } | Layer::SumPool2d { .. } => {
                let d = pool2d_dims(&shape.layer, 1, &shape.input).expect(fits);
                ([d.h, d.w], [d.kh, d.kw], [d.stride_h, d.stride_w], [d.pad_top, d.pad_left], [d.ho, d.wo])
            }
            Layer::Relu | Layer::Flatten | Layer::Dense { .. } => return None,
        };
        // The last window ends here, counted from the first padded cell; what lies beyond the picture is padding.
        let end = [0, 1].map(|i| ((output[i] - 1) * stride[i] + size[i]).saturating_sub(begin[i] + input[i]));
        Some(Window { size, stride, begin, end })
    }

    /// Cells of the window.
    pub(super) fn cells(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Whether anything is added.
    pub(super) fn is_padded(&self) -> bool {
        self.begin != [0, 0] || self.end != [0, 0]
    }

    /// Whether as much is added after as before, which is all that many tools can say in one word.
    pub(super) fn is_even(&self) -> bool {
        self.begin == self.end
    }
}
