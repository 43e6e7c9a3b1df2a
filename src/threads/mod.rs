//! Work on several threads where there are threads, and one task after the other in a browser.

#[cfg(target_family = "wasm")]
mod one;
#[cfg(not(target_family = "wasm"))]
mod several;

#[cfg(all(target_family = "wasm", feature = "native"))]
pub(crate) use one::Pool;
#[cfg(target_family = "wasm")]
pub(crate) use one::{available, in_any_order, in_parallel};
#[cfg(all(not(target_family = "wasm"), feature = "native"))]
pub(crate) use several::Pool;
#[cfg(all(not(target_family = "wasm"), feature = "disk"))]
pub(crate) use several::beside;
#[cfg(not(target_family = "wasm"))]
pub(crate) use several::{available, in_any_order, in_parallel};
