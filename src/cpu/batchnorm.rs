//! Batch normalization of each channel over the images of a batch and their positions.
//!
//! `y = (x - mean) / sqrt(variance + epsilon) * scale + shift`, with the biased mean and variance of the batch in
//! training, and running averages of them afterwards. Source: Ioffe and Szegedy, Batch Normalization, 2015;
//! keras.layers.BatchNormalization.
//!
//! Images `[N, P, C]`: the positions of an image in any order, one (P = 1) after a dense layer. `moments` is `[3, C]`:
//! mean, biased variance, and the number of images that they are of, the same in every column.

use super::real::Real;

/// Dimensions of a batch normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNormDims {
    /// Images, the batch.
    pub n: usize,
    /// Positions of an image.
    pub positions: usize,
    /// Channels.
    pub c: usize,
}

impl BatchNormDims {
    /// Returns the number of elements of x, and of y.
    pub fn x_len(&self) -> usize {
        self.n * self.positions * self.c
    }
}

/// Computes mean and biased variance of each channel over the first `n_valid` images, and `running = momentum * running
/// + (1 - momentum) * batch` for both.
///
/// Shapes: x `[N, P, C]`, moments `[3, C]`, running mean and variance `[C]`.
pub fn batchnorm_statistics<T: Real>(
    d: &BatchNormDims,
    momentum: f64,
    n_valid: usize,
    x: &[T],
    moments: &mut [T],
    running_mean: &mut [T],
    running_var: &mut [T],
) {
    let (old, new) = (T::from_f64(momentum), T::from_f64(1.0 - momentum));
    let rows = n_valid * d.positions;
    let m = T::from_f64(rows as f64);
    for c in 0..d.c {
        let mut sum = T::ZERO;
        for row in 0..rows {
            sum += x[row * d.c + c];
        }
        let mean = sum / m;
        let mut squares = T::ZERO;
        for row in 0..rows {
            let difference = x[row * d.c + c] - mean;
            squares += difference * difference;
        }
        let variance = squares / m;
        moments[c] = mean;
        moments[d.c + c] = variance;
        moments[2 * d.c + c] = T::from_f64(n_valid as f64);
        running_mean[c] = old * running_mean[c] + new * mean;
        running_var[c] = old * running_var[c] + new * variance;
    }
}

/// Copies the running averages into moments, for inference; they are of no image. Shapes: running mean and variance
/// `[C]`, moments `[3, C]`.
pub fn batchnorm_moments<T: Real>(running_mean: &[T], running_var: &[T], moments: &mut [T]) {
    let c = running_mean.len();
    moments[..c].copy_from_slice(running_mean);
    moments[c..2 * c].copy_from_slice(running_var);
    moments[2 * c..].fill(T::ZERO);
}

/// Returns `1 / sqrt(variance + epsilon)`.
fn inverse<T: Real>(variance: T, epsilon: f64) -> T {
    T::ONE / (variance + T::from_f64(epsilon)).sqrt()
}

/// Computes `y = (x - mean) / sqrt(variance + epsilon) * scale + shift` for all images.
///
/// Shapes: x and y `[N, P, C]`, moments `[3, C]`, scale and shift `[C]`.
pub fn batchnorm_forward<T: Real>(
    d: &BatchNormDims,
    epsilon: f64,
    x: &[T],
    moments: &[T],
    scale: &[T],
    shift: &[T],
    y: &mut [T],
) {
    for row in 0..d.n * d.positions {
        for c in 0..d.c {
            let normal = (x[row * d.c + c] - moments[c]) * inverse(moments[d.c + c], epsilon);
            y[row * d.c + c] = normal * scale[c] + shift[c];
        }
    }
}

/// Computes the gradients of scale and shift: the sums of `dy * (x - mean) / sqrt(variance + epsilon)` and of dy over the
/// images that moments are of.
///
/// Shapes: x and dy `[N, P, C]`, moments `[3, C]`, dscale and dshift `[C]`.
pub fn batchnorm_backward_w<T: Real>(
    d: &BatchNormDims,
    epsilon: f64,
    x: &[T],
    moments: &[T],
    dy: &[T],
    dscale: &mut [T],
    dshift: &mut [T],
) {
    dscale.fill(T::ZERO);
    dshift.fill(T::ZERO);
    let images = moments[2 * d.c].to_f64() as usize;
    for row in 0..images * d.positions {
        for c in 0..d.c {
            let normal = (x[row * d.c + c] - moments[c]) * inverse(moments[d.c + c], epsilon);
            dscale[c] += dy[row * d.c + c] * normal;
            dshift[c] += dy[row * d.c + c];
        }
    }
}

/// Computes the gradient of the input, through mean and variance of the batch: with m the number of images that moments
/// are of times P, `dx = scale / sqrt(variance + epsilon) * (dy - dshift / m - (x - mean) / sqrt(variance + epsilon) *
/// dscale / m)`. 0 in images after these.
///
/// Shapes: x, dy and dx `[N, P, C]`, moments `[3, C]`, scale, dscale and dshift `[C]`.
pub fn batchnorm_backward_x<T: Real>(
    d: &BatchNormDims,
    epsilon: f64,
    [x, moments, scale, dscale, dshift, dy]: [&[T]; 6],
    dx: &mut [T],
) {
    dx.fill(T::ZERO);
    let images = moments[2 * d.c].to_f64() as usize;
    let m = T::from_f64((images * d.positions) as f64);
    for row in 0..images.min(d.n) * d.positions {
        for c in 0..d.c {
            let at = row * d.c + c;
            let inverse = inverse(moments[d.c + c], epsilon);
            let normal = (x[at] - moments[c]) * inverse;
            dx[at] = scale[c] * inverse * (dy[at] - dshift[c] / m - normal * dscale[c] / m);
        }
    }
}

/// Folds the normalization after a convolution or a dense layer into its weights, for inference: with `a = scale /
/// sqrt(running_var + epsilon)`, `w_out = w * a` and `b_out = (b - running_mean) * a + shift`.
///
/// Shapes: w and w_out `[K, O]`, K all indices before the output channel; the others `[O]`.
pub fn batchnorm_fold<T: Real>(
    o: usize,
    epsilon: f64,
    [w, b, scale, shift, running_mean, running_var]: [&[T]; 6],
    [w_out, b_out]: [&mut [T]; 2],
) {
    for (i, (w_out, &w)) in w_out.iter_mut().zip(w).enumerate() {
        *w_out = w * (scale[i % o] * inverse(running_var[i % o], epsilon));
    }
    for i in 0..o {
        b_out[i] = (b[i] - running_mean[i]) * (scale[i] * inverse(running_var[i], epsilon)) + shift[i];
    }
}
