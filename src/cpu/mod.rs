//! Every operation as the plainest possible loops, generic over f32 and f64: the specification of the kernels in
//! `shaders/`.
//!
//! Each function has the name of the WGSL entry point that it mirrors, and takes its tensors in the order of the
//! bindings. Tensors are row-major slices, last index fastest: images NHWC, filters HWIO (`[KH, KW, C, O]`), matrices
//! `[rows, columns]`. Outputs are overwritten completely. Nothing here is optimized or parallel: the fast kernels and
//! the loops of [`crate::native`] are compared with this code, and `--device reference` runs it.

pub mod adam;
pub mod add;
pub mod average;
pub mod batch_gather;
pub mod batchnorm;
pub mod bias;
pub mod clip;
pub mod conv2d;
pub mod dense;
pub mod dropout;
pub mod gelu;
pub mod groupedconv2d;
pub mod head;
pub mod leakyrelu;
pub mod non_finite;
pub mod philox;
pub mod pool2d;
pub mod real;
pub mod relu;
pub mod scale;
pub mod sgd;
pub mod silu;
pub mod softmax_xent;
pub mod step;

use thiserror::Error;

/// Dimensions that do not describe an operation.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DimsError {
    /// A size is zero.
    #[error("{name} is 0")]
    Zero {
        /// The size that is zero.
        name: &'static str,
    },
    /// The window does not fit, and there is no padding.
    #[error("the window has {window} {axis}, but the input has only {input}, and `valid` adds no padding; use `same`")]
    Window {
        /// Rows or columns.
        axis: &'static str,
        /// Size of the window.
        window: usize,
        /// Size of the input.
        input: usize,
    },
    /// A number of channels that cannot be divided into groups of equal size.
    #[error("{channels} {name} cannot be divided into {groups} groups of equal size")]
    Groups {
        /// Input or output channels.
        name: &'static str,
        /// Number of channels.
        channels: usize,
        /// Number of groups.
        groups: usize,
    },
    /// Too large for 32-bit indices, which the kernels use.
    #[error("{tensor} would have more than {} elements", u32::MAX)]
    TooLarge {
        /// The tensor that is too large.
        tensor: &'static str,
    },
}

/// Fails if a size is zero.
fn check_positive(sizes: &[(&'static str, usize)]) -> Result<(), DimsError> {
    match sizes.iter().find(|(_, size)| *size == 0) {
        Some(&(name, _)) => Err(DimsError::Zero { name }),
        None => Ok(()),
    }
}

/// Fails if a tensor of this shape could not be indexed with 32 bits.
fn check_len(tensor: &'static str, shape: &[usize]) -> Result<(), DimsError> {
    let len = shape.iter().try_fold(1usize, |len, &size| len.checked_mul(size));
    match len {
        Some(len) if u32::try_from(len).is_ok() => Ok(()),
        _ => Err(DimsError::TooLarge { tensor }),
    }
}

/// Returns the output size and the padding before the first cell, along one axis, by TensorFlow's rules.
fn window_output(
    axis: &'static str,
    input: usize,
    window: usize,
    stride: usize,
    padding: conv2d::Padding,
) -> Result<(usize, usize), DimsError> {
    match padding {
        conv2d::Padding::Valid if window > input => Err(DimsError::Window { axis, window, input }),
        conv2d::Padding::Valid => Ok(((input - window) / stride + 1, 0)),
        conv2d::Padding::Same => {
            let output = input.div_ceil(stride);
            let total = ((output - 1) * stride + window).saturating_sub(input);
            Ok((output, total / 2))
        }
    }
}
