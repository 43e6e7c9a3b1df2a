//! A filter applied by the loops of the native engine.

use super::ImageFilter;
use crate::native::conv2d::{Algorithm, Conv2d, Packed, Scratch};
use crate::ops::conv2d::Conv2dDims;

impl ImageFilter {
    /// Like [`ImageFilter::apply`], computed by the native engine.
    pub fn apply_natively(&self, dims: &Conv2dDims, image: &[f32]) -> Vec<f32> {
        let conv = Conv2d::new(dims, false, None, false, Algorithm::Fastest);
        let (mut packed, mut scratch) = (Packed::default(), Scratch::new([&conv]));
        conv.pack(&self.weights, &mut packed);
        let mut y = vec![0.0; dims.y_len()];
        conv.forward([image, &self.weights, &[0.0]], &packed, &mut y, &mut [], &mut scratch);
        y
    }
}
