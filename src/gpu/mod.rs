//! Adapter and device, tensors, kernels, plans: everything that touches wgpu, and nothing that knows of layers.
//!
//! - [`adapter`] finds the adapters of the machine and chooses one.
//! - [`Gpu`] is an opened device with its compiled kernels and its fault log.
//! - [`Tensor`] is a named range of a GPU buffer with a shape.
//! - [`KernelSpec`] describes one WGSL entry point as plain data.
//! - [`pipeline_cache`] keeps compiled pipelines from one run to the next.
//! - [`Plan`] is a list of recorded dispatches that is replayed each step.
//! - [`peak::Peak`] and [`timing::Timings`] measure what the adapter can do and what each dispatch takes.

pub mod adapter;
mod device;
mod error;
mod kernel;
pub mod peak;
pub mod pipeline_cache;
mod plan;
mod readback;
mod tensor;
pub mod timing;

pub use adapter::{AdapterInfo, DeviceChoice};
pub use device::{Gpu, GpuOptions, LANES};
pub use error::GpuError;
pub use kernel::{Access, Binding, Constant, KernelSpec, read, write};
pub(crate) use plan::Guard;
pub use plan::{Bound, DispatchInfo, Plan, PlanBuilder, bind, workgroups_linear};
pub use readback::Readback;
pub use tensor::{Element, Tensor};

/// A submitted piece of work that can be waited for.
pub type Submission = wgpu::SubmissionIndex;

/// Which form of a heavy kernel runs: chosen once, by the kind of adapter.
///
/// A processor that plays GPU (lavapipe, WARP) turns every workgroup barrier into a switch of coroutines and
/// loses a factor of four by it; a real GPU needs shared memory to be fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tiling {
    /// One output an invocation: for adapters that are processors and have no subgroup operations.
    Plain,
    /// Tiles in the registers of one subgroup, no workgroup memory, no barriers: for adapters that are processors.
    Subgroup,
    /// Tiles in workgroup memory shared by 256 invocations: for GPUs.
    Shared,
}

impl Tiling {
    /// The tiling that suits a kind of device with that many lanes for subgroup tiles.
    fn for_device(device_type: wgpu::DeviceType, lanes: Option<usize>) -> Self {
        match (device_type, lanes) {
            (wgpu::DeviceType::Cpu, Some(_)) => Tiling::Subgroup,
            (wgpu::DeviceType::Cpu, None) => Tiling::Plain,
            _ => Tiling::Shared,
        }
    }
}
