//! What differs between the parameters that an optimizer updates in one dispatch.

use crate::gpu::Constant;

/// An arena of parameters in groups, in this order: weights, biases, scales, shifts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Groups {
    /// The first elements of biases, scales and shifts.
    pub starts: [usize; 3],
    /// The factor of the learning rate of each of these; that of weights is 1.
    pub factors: [f64; 3],
    /// Whether weights decay; the others never do.
    pub decay: bool,
    /// Whether gradients are clipped.
    pub clip: bool,
}

impl Groups {
    /// `len` parameters that are all treated alike, without decay and clipping.
    pub fn alike(len: usize) -> Self {
        Groups { starts: [len; 3], factors: [1.0; 3], decay: false, clip: false }
    }

    /// Returns the constants of the shaders for an arena of `len` elements.
    pub(super) fn constants(&self, len: usize) -> [Constant; 8] {
        // A kernel whose groups do not differ does not depend on where they start.
        let starts = if self.factors == [1.0; 3] { [len; 3] } else { self.starts };
        let [bias, scale, shift] = starts.map(|start| start as f64);
        [
            ("DECAYED", if self.decay { self.starts[0] as f64 } else { 0.0 }),
            ("FIRST_BIAS", bias),
            ("FIRST_SCALE", scale),
            ("FIRST_SHIFT", shift),
            ("BIAS_FACTOR", self.factors[0]),
            ("SCALE_FACTOR", self.factors[1]),
            ("SHIFT_FACTOR", self.factors[2]),
            ("CLIP", f64::from(u8::from(self.clip))),
        ]
    }
}
