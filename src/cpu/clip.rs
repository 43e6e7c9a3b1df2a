//! Clipping of the gradients by their norm. Source: Pascanu et al., On the difficulty of training recurrent neural networks, 2013;
//! `global_clipnorm` of the optimizers of Keras. PyTorch's `clip_grad_norm_` adds 1e-6 to the norm that it divides by.

use super::real::Real;

/// Returns `min(1, clip_norm / norm)`: the factor that limits a norm. 1 for a norm that is not a number.
pub fn limit(clip_norm: f64, norm: f64) -> f64 {
    if norm > clip_norm { clip_norm / norm } else { 1.0 }
}

/// Returns the factor that limits the norm of all gradients together to `clip_norm`: 1 if it is smaller already.
pub fn clip_factor<T: Real>(clip_norm: f64, gradients: &[Vec<T>]) -> T {
    let mut squares = 0.0;
    for gradient in gradients.iter().flatten() {
        squares += gradient.to_f64() * gradient.to_f64();
    }
    T::from_f64(limit(clip_norm, squares.sqrt()))
}
