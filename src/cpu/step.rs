//! What a step of an optimizer needs besides the gradient, whatever the optimizer is.

use super::real::Real;

/// The numbers of one step on one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step<T> {
    /// The factor of the update: the learning rate of this step and this parameter, for Adam with the correction of its moments.
    pub size: T,
    /// The part of each element that decays before the update; 0 for parameters that do not decay.
    pub decay: T,
    /// The factor of the gradient; below 1 if gradients are clipped.
    pub clip: T,
}

impl<T: Real> Step<T> {
    /// A step without decay and clipping.
    pub fn of_size(size: T) -> Self {
        Step { size, decay: T::ZERO, clip: T::ONE }
    }

    /// Whether there is neither decay nor clipping.
    pub fn is_plain(&self) -> bool {
        self.decay == T::ZERO && self.clip == T::ONE
    }

    /// Returns what the decay leaves of an element.
    #[inline(always)]
    pub fn decayed(&self, w: T) -> T {
        // Not `w - 0 * w`, which has another bit if w is -0.
        if self.decay == T::ZERO { w } else { w - self.decay * w }
    }
}
