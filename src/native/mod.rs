//! The operations as a processor computes them fast: what `--device cpu` runs.
//!
//! A function has the name of the plain loop in [`crate::cpu`] that it equals, and takes its tensors in the same order and layout; the plain
//! loops are the specification, and both are compared under the same bounds. Each call works through some rows of a batch in the
//! thread that calls it; the engine ([`crate::train::NativeEngine`]) gives each thread rows of its own.
//!
//! | what | how |
//! |---|---|
//! | convolution, dense layers | directly in vector registers ([`conv2d`], [`dense`]); where a shape does not suit that, as matrix products |
//! | its gradients | from behind the max pooling, which leaves one position of a window with a gradient: a quarter of the sums |
//! | other matrix products | the crate `matrixmultiply`: AVX-512, AVX2 with FMA, or NEON as the processor has it |
//! | optimizers | loops compiled for each instruction set by the crate `pulp`, which finds the widest when the program runs |
//! | the other operations | the plain loops themselves |

pub mod adam;
mod aligned;
pub mod batch_gather;
pub mod conv2d;
mod conv2d_direct;
mod conv2d_pooled;
pub mod dense;
mod dense_direct;
mod matmul;
pub mod peak;
pub mod sgd;

pub use aligned::Aligned;
pub use matmul::{Matrix, matmul};

use pulp::{Arch, Simd, WithSimd};
use std::sync::LazyLock;

/// The instruction set to use, found once: the widest of this processor, or a narrower one that `FMNIST_NATIVE_VECTORS` names, `avx2` or `none`, so
/// that a processor can test and time what others take.
static ARCH: LazyLock<Arch> = LazyLock::new(|| match std::env::var("FMNIST_NATIVE_VECTORS").as_deref() {
    Ok("none") => Arch::Scalar,
    #[cfg(target_arch = "x86_64")]
    Ok("avx2") => pulp::x86::V3::try_new().map_or_else(Arch::new, Arch::V3),
    _ => Arch::new(),
});

/// Runs `work` compiled for that instruction set.
#[inline(always)]
fn vectorised<W: WithSimd>(work: W) -> W::Output {
    ARCH.dispatch(work)
}

/// Single-precision numbers in a vector register: 16 with AVX-512, 8 with AVX2, 4 with NEON, 1 where none of these is there.
pub fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    vectorised(Lanes)
}

/// The instruction set in words, for reports.
pub fn instruction_set() -> &'static str {
    match (lanes(), cfg!(target_arch = "x86_64")) {
        (16, _) => "AVX-512",
        (8, _) => "AVX2",
        (4, false) => "NEON",
        _ => "no vector instructions",
    }
}

/// Makes dx zero where x is not above zero: the gradient of a ReLU whose output is x.
pub fn mask(x: &[f32], dx: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = if x > 0.0 { *dx } else { 0.0 };
            }
        },
    );
}

/// Numbers below 1e-30 become 0.
///
/// What an optimizer keeps of a parameter whose gradient is zero, such as that of a pixel that is always dark, shrinks a little in each step until it
/// is below the normal numbers of single precision, where many processors take far longer for a product: epochs of the article's MLP grew
/// from 0.99 to 1.19 s, and with this fell from 1.02 to 0.70 s, both on a busy machine. Nothing is lost, as epsilon, 1e-7, hides such a
/// root, and a step of 1e-30 changes no weight.
#[inline(always)]
fn negligible_to_zero(x: f32) -> f32 {
    if x.abs() < 1e-30 { 0.0 } else { x }
}
