//! Fast CPU implementations of the operations: what `--device cpu` runs.
//!
//! Each function has the same name as the plain loop in [`crate::cpu`] that it replaces, and takes its tensors in the same
//! order and layout. The plain loops are the specification; both are tested with the same error bounds. Each call
//! processes some rows of a batch in the calling thread; the engine ([`crate::engine::NativeEngine`]) assigns each thread
//! its own rows. Only a batch normalization adds up the whole batch, from the sums of each image.
//!
//! | operation | implementation |
//! |---|---|
//! | convolution, dense layers | in tiles of sums in vector registers ([`conv2d`], [`dense`]); as matrix products for shapes that do not allow it |
//! | gradients of a convolution | in tiles too; after a max pooling, which leaves one position per window with a gradient, a quarter of the sums |
//! | 3x3 convolutions | forward, and their gradients where few are zero, by Winograd's algorithm: a quarter to a half of the products |
//! | other matrix products | the crate `matrixmultiply`: AVX-512, AVX2 with FMA, or NEON, whichever the CPU has |
//! | grouped and depthwise convolution | sums of products of vectors of channels ([`groupedconv2d`]) |
//! | batch normalization | sums of each image while it is in the cache, then of the images, in double precision; a GELU after it with it ([`batchnorm`]) |
//! | GELU, SiLU | an exponential that vectorizes ([`gelu`], [`silu`]) |
//! | dropout | sixteen draws at a time ([`dropout`]) |
//! | pooling | all channels of a cell at once ([`pool2d`]) |
//! | leaky ReLU, fixed factors, sums of tensors, norms of gradients, optimizers, averages | loops compiled for each instruction set by the crate `pulp`, which selects the widest at run time |
//! | the other operations | the plain loops themselves |

pub mod adam;
pub mod add;
mod aligned;
pub mod average;
pub mod batch_gather;
pub mod batchnorm;
pub mod clip;
pub mod conv2d;
mod conv2d_direct;
mod conv2d_patches;
mod conv2d_pooled;
mod conv2d_tiles;
pub(crate) mod conv2d_transforms;
mod conv2d_winograd;
pub mod dense;
mod dense_direct;
pub mod dropout;
mod exp;
pub mod gelu;
pub mod groupedconv2d;
pub mod leakyrelu;
mod matmul;
pub mod peak;
pub mod pool2d;
pub mod scale;
pub mod sgd;
pub mod silu;

pub use aligned::Aligned;
pub use matmul::{Matrix, matmul};

#[cfg(not(target_feature = "simd128"))]
use pulp::Arch;
use pulp::{Simd, WithSimd};
use std::ffi::OsStr;
#[cfg(not(target_feature = "simd128"))]
use std::sync::LazyLock;
use thiserror::Error;

/// The environment variable that selects a narrower instruction set.
const VECTORS_VARIABLE: &str = "FMNIST_NATIVE_VECTORS";

/// The values of [`VECTORS_VARIABLE`] that this target has.
const VECTORS_VALUES: &[&str] = if cfg!(target_arch = "x86_64") { &["avx2", "none"] } else { &["none"] };

/// `FMNIST_NATIVE_VECTORS` has an invalid value: this one, shortened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{VECTORS_VARIABLE} is `{0}`, which is not a valid value; use `{valid}`, or unset it",
    valid = VECTORS_VALUES.join("` or `")
)]
pub struct EnvironmentError(pub String);

/// Checks the environment variables that this module reads: `FMNIST_NATIVE_VECTORS`.
///
/// A program should call this at start-up. Without the check, an invalid value is ignored.
///
/// # Errors
/// A variable is set to a value that is not valid on this target.
pub fn check_environment() -> Result<(), EnvironmentError> {
    check_vectors(std::env::var_os(VECTORS_VARIABLE).as_deref())
}

/// Checks a value of [`VECTORS_VARIABLE`]; an empty one counts as not set.
fn check_vectors(value: Option<&OsStr>) -> Result<(), EnvironmentError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(()) };
    if VECTORS_VALUES.iter().any(|valid| value == *valid) {
        return Ok(());
    }
    const MOST_SHOWN: usize = 40;
    let text = value.to_string_lossy();
    let mut shown: String = text.chars().take(MOST_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    Err(EnvironmentError(shown))
}

/// The instruction set to use, detected once: the widest of this CPU, or a narrower one that `FMNIST_NATIVE_VECTORS`
/// selects (`avx2` or `none`), to test and time on one CPU what others would run. An invalid value is ignored here;
/// [`check_environment`] reports it.
#[cfg(not(target_feature = "simd128"))]
static ARCH: LazyLock<Arch> = LazyLock::new(|| match std::env::var(VECTORS_VARIABLE).as_deref() {
    Ok("none") => Arch::Scalar,
    #[cfg(target_arch = "x86_64")]
    Ok("avx2") => pulp::x86::V3::try_new().map_or_else(Arch::new, Arch::V3),
    _ => Arch::new(),
});

/// Runs `work` compiled for that instruction set.
#[cfg(not(target_feature = "simd128"))]
#[inline(always)]
fn vectorized<W: WithSimd>(work: W) -> W::Output {
    ARCH.dispatch(work)
}

/// Runs `work` with the vectors of WebAssembly. A module with these instructions loads only where they are, so nothing else is compiled, and
/// the module is a tenth smaller.
#[cfg(target_feature = "simd128")]
#[inline(always)]
fn vectorized<W: WithSimd>(work: W) -> W::Output {
    Simd::vectorize(pulp::wasm::Simd128::try_new().expect("the module was compiled for it"), work)
}

/// Runs a loop compiled for that instruction set.
///
/// A closure that is called as a `FnOnce` is called through another function, which is compiled for no instruction set in particular and
/// contains the loop; if it is long, it stays a function, and the loop runs in vectors of four numbers.
#[inline(always)]
fn vectorized_loop<R>(work: impl FnMut() -> R) -> R {
    struct Loop<F>(F);
    impl<R, F: FnMut() -> R> WithSimd for Loop<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> R {
            (self.0)()
        }
    }
    vectorized(Loop(work))
}

/// Returns the number of single-precision numbers per vector register: 16 with AVX-512, 8 with AVX2, 4 with NEON or in a browser, 1
/// without any of these.
pub fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    vectorized(Lanes)
}

/// The number of vector registers for which loops are unrolled; sums beyond it would be kept in memory.
///
/// WebAssembly has any number, but most visitors' computers have 16, and browsers load all operands of a tile before they use the first.
const fn registers<S: Simd>() -> usize {
    if cfg!(target_arch = "wasm32") { 12 } else { S::REGISTER_COUNT }
}

/// Returns the name of the instruction set, for reports.
pub fn instruction_set() -> &'static str {
    match (lanes(), cfg!(target_arch = "x86_64")) {
        (16, _) => "AVX-512",
        (8, _) => "AVX2",
        (4, false) if cfg!(target_arch = "wasm32") => "128-bit vectors",
        (4, false) => "NEON",
        _ => "no vector instructions",
    }
}

/// Sets dx to zero where x is not above zero: the gradient of a ReLU whose output is x.
pub fn mask(x: &[f32], dx: &mut [f32]) {
    vectorized_loop(
        #[inline(always)]
        || {
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = if x > 0.0 { *dx } else { 0.0 };
            }
        },
    );
}

/// Returns 0 for numbers below 1e-30, and other numbers unchanged.
///
/// If the gradient of a parameter is always zero, for example that of a pixel that is always dark, the optimizer's state for
/// it shrinks a little at each step until it is subnormal, and many CPUs take far longer to multiply subnormal numbers:
/// epochs of the article's MLP slowed down from 0.99 to 1.19 s, and with this function sped up from 1.02 to 0.70 s, both on
/// a busy machine. Nothing is lost: epsilon, 1e-7, hides the root of such a number, and a step of 1e-30 changes no weight.
#[inline(always)]
fn negligible_to_zero(x: f32) -> f32 {
    if x.abs() < 1e-30 { 0.0 } else { x }
}

#[cfg(test)]
mod tests {
    use super::{EnvironmentError, VECTORS_VALUES, check_vectors};
    use std::ffi::OsStr;

    fn check(value: &str) -> Result<(), EnvironmentError> {
        check_vectors(Some(OsStr::new(value)))
    }

    #[test]
    fn valid_values_of_the_environment_are_accepted() {
        assert_eq!(check_vectors(None), Ok(()));
        assert_eq!(check(""), Ok(()));
        for valid in VECTORS_VALUES {
            assert_eq!(check(valid), Ok(()));
        }
    }

    #[test]
    fn an_invalid_value_of_the_environment_is_named_with_the_valid_ones() {
        for invalid in ["avx3", "AVX2", " none", "0"] {
            let error = check(invalid).unwrap_err().to_string();
            assert!(error.contains("FMNIST_NATIVE_VECTORS") && error.contains(&format!("`{invalid}`")), "{error}");
            assert!(VECTORS_VALUES.iter().all(|valid| error.contains(&format!("`{valid}`"))), "{error}");
        }
        assert_eq!(check(&"x".repeat(500)).unwrap_err().0.chars().count(), 41);
    }
}
