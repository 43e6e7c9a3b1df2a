//! Adapter and device, tensors, kernels, plans: everything that uses wgpu, and nothing that knows about layers.
//!
//! - [`adapter`] finds the adapters of the machine and chooses one.
//! - [`Gpu`] is an open device with its compiled kernels and its error log.
//! - [`Tensor`] is a named range of a GPU buffer with a shape.
//! - [`KernelSpec`] describes one WGSL entry point as plain data.
//! - [`pipeline_cache`] keeps compiled pipelines between runs.
//! - [`Plan`] is a list of recorded dispatches, replayed at each step.
//! - [`peak::Peak`] and [`timing::Timings`] measure what the adapter can do and how long each dispatch takes.

pub mod adapter;
mod device;
#[cfg(feature = "disk")]
mod environment;
#[cfg(not(feature = "disk"))]
#[path = "no_environment.rs"]
mod environment;
mod error;
mod kernel;
pub mod peak;
#[cfg(feature = "disk")]
pub mod pipeline_cache;
#[cfg(not(feature = "disk"))]
#[path = "no_pipeline_cache.rs"]
mod pipeline_cache;
mod plan;
mod readback;
mod tensor;
pub mod timing;

pub use adapter::{AdapterInfo, DeviceChoice};
pub use device::{Gpu, GpuOptions, LANES};
pub use error::GpuError;
pub use kernel::{Access, Binding, Constant, KernelSpec, read, write};
pub use plan::{Bound, DispatchInfo, Plan, PlanBuilder, bind, workgroups_linear};
pub(crate) use plan::{GUARD, UNWRITTEN};
pub(crate) use readback::Readback;
pub use tensor::{Element, Tensor};

/// Submitted work that can be waited for.
pub(crate) type Submission = wgpu::SubmissionIndex;

/// Which form of a heavy kernel runs: chosen once, according to the type of adapter.
///
/// On a software (CPU) adapter (lavapipe, WARP), every workgroup barrier is a switch between coroutines, which makes
/// kernels with barriers four times slower; a real GPU needs shared memory to be fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tiling {
    /// One output per invocation, or four by four: for software adapters without subgroup operations, as in a browser.
    Plain,
    /// Tiles in the registers of one subgroup, no workgroup memory, no barriers: for software adapters.
    Subgroup,
    /// Tiles in workgroup memory shared by 256 invocations: for GPUs.
    Shared,
}

impl Tiling {
    /// Returns the tiling that suits an adapter, given the number of lanes for subgroup tiles.
    fn for_adapter(info: &AdapterInfo, lanes: Option<usize>) -> Self {
        match (info.is_software(), lanes) {
            (true, Some(_)) => Tiling::Subgroup,
            (true, None) => Tiling::Plain,
            (false, _) => Tiling::Shared,
        }
    }
}
