//! Dispatches recorded once and replayed at each step.

use super::kernel::{Access, Binding, Kernel, Specialized};
use super::{Constant, Element, Gpu, GpuError, KernelSpec, Tensor};
use crate::text::count;
use std::collections::HashMap;
use std::sync::Arc;

/// A tensor bound to a kernel's variable by name, with the number of elements that the kernel expects.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    name: &'static str,
    tensor: &'a Tensor,
    expected: usize,
}

/// Binds `tensor` to the variable `name` of a kernel that works on `expected` elements.
pub fn bind<'a>(name: &'static str, tensor: &'a Tensor, expected: usize) -> Bound<'a> {
    Bound { name, tensor, expected }
}

#[derive(Debug)]
struct Dispatch {
    info: DispatchInfo,
    kernel: Arc<Kernel>,
    group: wgpu::BindGroup,
    /// The float tensors that it writes.
    writes: Vec<Tensor>,
}

/// What a dispatch of a plan is and how much work it does.
#[derive(Clone, Copy, Debug)]
pub struct DispatchInfo {
    /// The entry point.
    pub entry: &'static str,
    /// Number of workgroups.
    pub workgroups: [u32; 3],
    /// Whether it waits for earlier dispatches: it uses a buffer written since, or writes one used since.
    pub barrier: bool,
    /// Bytes that must move at least: each bound tensor once, unless noted otherwise.
    pub bytes: u64,
    /// Floating-point operations of its sums of products, two per multiply-add; 0 if only memory matters.
    pub flop: f64,
}

/// A list of dispatches with their pipelines, bind groups and workgroup counts: fixed when recorded, replayed at each
/// step.
#[derive(Debug)]
pub struct Plan {
    dispatches: Vec<Dispatch>,
}

impl Plan {
    /// Returns the number of dispatches.
    pub(crate) fn len(&self) -> usize {
        self.dispatches.len()
    }

    /// Returns the dispatches in order of execution.
    pub fn dispatches(&self) -> impl Iterator<Item = DispatchInfo> + '_ {
        self.dispatches.iter().map(|d| d.info)
    }

    /// Returns the float tensors that are written, in order of execution, each with the entry point that writes it.
    pub fn written(&self) -> impl Iterator<Item = (&'static str, &Tensor)> + '_ {
        self.dispatches.iter().flat_map(|d| d.writes.iter().map(|tensor| (d.info.entry, tensor)))
    }

    /// Returns the indices of the dispatches that are the first to use their kernel.
    pub(super) fn first_of_kernels(&self) -> impl Iterator<Item = usize> + '_ {
        let is_first = |i: &usize| {
            let kernel = &self.dispatches[*i].kernel;
            !self.dispatches[..*i].iter().any(|before| Arc::ptr_eq(&before.kernel, kernel))
        };
        (0..self.dispatches.len()).filter(is_first)
    }

    /// Replays dispatch `i` into a compute pass. Allocates nothing.
    pub(super) fn replay_one(&self, pass: &mut wgpu::ComputePass<'_>, i: usize) {
        self.dispatch(pass, i, self.dispatches[i].info.workgroups);
    }

    /// As [`Plan::replay_one`], with other numbers of workgroups.
    pub(super) fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>, i: usize, [x, y, z]: [u32; 3]) {
        let dispatch = &self.dispatches[i];
        pass.set_pipeline(&dispatch.kernel.pipeline);
        pass.set_bind_group(0, &dispatch.group, &[]);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// A dispatch whose kernel is not compiled yet.
#[derive(Debug)]
struct Recorded {
    info: DispatchInfo,
    spec: &'static KernelSpec,
    /// Index into the builder's kernels.
    kernel: usize,
    /// In the order of the spec's bindings.
    tensors: Vec<Tensor>,
}

/// Records a [`Plan`]: every size, name and access is checked here, so that replaying cannot fail.
#[derive(Debug)]
pub struct PlanBuilder {
    gpu: Gpu,
    /// Each kernel with its constants once, in order of first use.
    kernels: Vec<Specialized>,
    dispatches: Vec<Recorded>,
    /// How each buffer was last used.
    last_use: HashMap<wgpu::Buffer, Access>,
    /// Whether scratch tensors are watched.
    is_guarded: bool,
    watched: Vec<(Tensor, usize)>,
}

/// Cells after the end of a watched tensor.
const GUARD_CELLS: usize = 64;
/// What they contain: a number that no kernel computes.
pub(crate) const GUARD: u32 = 0x7fa5_c3e1;
/// The initial content of watched cells that a kernel is to write: a quiet NaN.
pub(crate) const UNWRITTEN: u32 = 0x7fc0_dead;

impl PlanBuilder {
    /// Creates an empty plan for `gpu`.
    pub fn new(gpu: &Gpu) -> Self {
        let (kernels, dispatches, watched) = (Vec::new(), Vec::new(), Vec::new());
        let gpu = gpu.clone();
        PlanBuilder { gpu, kernels, dispatches, last_use: HashMap::new(), is_guarded: false, watched }
    }

    /// As [`PlanBuilder::new`], but every scratch tensor is watched.
    pub(crate) fn guarded(gpu: &Gpu) -> Self {
        PlanBuilder { is_guarded: true, ..PlanBuilder::new(gpu) }
    }

    /// Creates a float tensor for use by this plan only: one dispatch writes it, and a later one reads it.
    ///
    /// # Errors
    /// The tensor exceeds the device's limits, or memory runs out.
    pub fn scratch(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, GpuError> {
        if !self.is_guarded {
            return self.gpu.tensor(name, shape, Element::F32);
        }
        let tensor = self.watched(name, &vec![UNWRITTEN; shape.iter().product()], Element::F32)?;
        Ok(tensor.slice(name, 0, shape))
    }

    /// Creates a watched tensor: filled with `words`, and followed by cells that contain [`GUARD`].
    pub(crate) fn watched(&mut self, name: &str, words: &[u32], element: Element) -> Result<Tensor, GpuError> {
        let whole = self.gpu.tensor(name, &[words.len() + GUARD_CELLS], element)?;
        self.gpu.write_words(&whole, &[words, &[GUARD; GUARD_CELLS]].concat());
        self.watched.push((whole.clone(), words.len()));
        Ok(whole.slice(name, 0, &[words.len()]))
    }

    /// Returns the watched tensors with their guard cells, and their lengths without.
    pub(crate) fn all_watched(&self) -> &[(Tensor, usize)] {
        &self.watched
    }

    /// Returns the device that the plan is for.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Records a dispatch of `spec`, specialized by `constants`; it is compiled by [`PlanBuilder::finish`].
    ///
    /// # Errors
    /// A binding is missing, unknown or bound twice; a tensor does not have the expected number of elements; a buffer
    /// is both read and written; or the workgroup count exceeds the device's limit.
    pub fn push(
        &mut self,
        spec: &'static KernelSpec,
        constants: &[Constant],
        workgroups: [u32; 3],
        tensors: &[Bound<'_>],
    ) -> Result<(), GpuError> {
        let fail = |message: String| GpuError::Record { entry: spec.entry, message };
        let tensors = in_order(spec, tensors).map_err(fail)?;
        let allowed = self.gpu.limits().max_compute_workgroups_per_dimension;
        if let Some(count) = workgroups.iter().find(|&&count| count > allowed || count == 0) {
            return Err(fail(format!("{count} workgroups in one dimension; 1 to {allowed} are allowed")));
        }
        let known = self.kernels.iter().position(|(known, with)| std::ptr::eq(*known, spec) && with == constants);
        let kernel = known.unwrap_or_else(|| {
            self.kernels.push((spec, constants.to_vec()));
            self.kernels.len() - 1
        });
        let bytes = tensors.iter().map(Tensor::size_bytes).sum();
        let mut barrier = false;
        for (tensor, binding) in tensors.iter().zip(spec.bindings) {
            let before = self.last_use.insert(tensor.buffer.clone(), binding.access);
            barrier |= before.is_some_and(|before| before != binding.access || before == Access::ReadWrite);
        }
        let info = DispatchInfo { entry: spec.entry, workgroups, barrier, bytes, flop: 0.0 };
        self.dispatches.push(Recorded { info, spec, kernel, tensors });
        Ok(())
    }

    /// Records how many multiply-adds the last dispatch does, for `fmnist-gpu profile`.
    pub fn note_multiply_adds(&mut self, count: usize) {
        if let Some(last) = self.dispatches.last_mut() {
            last.info.flop = 2.0 * count as f64;
        }
    }

    /// Records how many bytes the last dispatch moves, if it does not access each of its tensors exactly once.
    pub fn note_bytes(&mut self, bytes: usize) {
        if let Some(last) = self.dispatches.last_mut() {
            last.info.bytes = bytes as u64;
        }
    }

    /// Returns the finished plan. Kernels that the device has not compiled yet are compiled here, in parallel.
    ///
    /// # Errors
    /// A shader does not compile (the first in order of recording), or a dispatch does not fit its bindings.
    pub async fn finish(self) -> Result<Plan, GpuError> {
        let kernels = self.gpu.kernels(&self.kernels).await?;
        let created = self.dispatches.iter();
        let created = created.map(|of| bind_group(&self.gpu, &kernels[of.kernel], of.spec, &of.tensors));
        // All are there before the first is asked for errors, which a browser has to be waited for.
        let created: Vec<_> = created.collect();
        let mut dispatches = Vec::with_capacity(created.len());
        for (Recorded { info, spec, kernel, tensors }, (group, error)) in self.dispatches.into_iter().zip(created) {
            if let Some(error) = error.await {
                return Err(GpuError::Record { entry: spec.entry, message: error.to_string() });
            }
            let kernel = Arc::clone(&kernels[kernel]);
            let mut writes = Vec::new();
            for (tensor, binding) in tensors.into_iter().zip(spec.bindings) {
                if binding.access == Access::ReadWrite && tensor.element == Element::F32 {
                    writes.push(tensor);
                }
            }
            dispatches.push(Dispatch { info, kernel, group, writes });
        }
        Ok(Plan { dispatches })
    }
}

/// Creates the bind group of a dispatch; the future tells what was wrong with it.
fn bind_group(
    gpu: &Gpu,
    kernel: &Kernel,
    spec: &KernelSpec,
    tensors: &[Tensor],
) -> (wgpu::BindGroup, impl Future<Output = Option<wgpu::Error>> + use<>) {
    let mut entries = Vec::with_capacity(tensors.len());
    for (tensor, binding) in tensors.iter().zip(spec.bindings) {
        let size = wgpu::BufferSize::new(tensor.size_bytes());
        let range = wgpu::BufferBinding { buffer: &tensor.buffer, offset: tensor.offset, size };
        let resource = wgpu::BindingResource::Buffer(range);
        entries.push(wgpu::BindGroupEntry { binding: binding.index, resource });
    }
    let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let descriptor = wgpu::BindGroupDescriptor { label: Some(spec.entry), layout: &kernel.layout, entries: &entries };
    (gpu.device.create_bind_group(&descriptor), scope.pop())
}

/// Checks the bound tensors, and returns them in the order of the spec's bindings.
fn in_order(spec: &'static KernelSpec, tensors: &[Bound<'_>]) -> Result<Vec<Tensor>, String> {
    let mut ordered = Vec::with_capacity(spec.bindings.len());
    for Binding { name, .. } in spec.bindings {
        let found: Vec<&Bound<'_>> = tensors.iter().filter(|bound| bound.name == *name).collect();
        match found[..] {
            [bound] => ordered.push(bound.tensor.clone()),
            [] => return Err(format!("nothing is bound to `{name}`")),
            _ => return Err(format!("`{name}` is bound {} times", found.len())),
        }
    }
    for Bound { name, tensor, expected } in tensors {
        if !spec.bindings.iter().any(|binding| binding.name == *name) {
            return Err(format!("the kernel has no binding `{name}`"));
        }
        if tensor.len() != *expected {
            let (of, has, shape) = (&tensor.name, count(tensor.len(), "element"), &tensor.shape);
            let wanted = if *expected == 1 { "1 is".to_string() } else { format!("{expected} are") };
            return Err(format!("tensor `{of}` bound to `{name}` has {has} (shape {shape:?}), but {wanted} expected"));
        }
    }
    for (i, (a, of_a)) in ordered.iter().zip(spec.bindings).enumerate() {
        for (b, of_b) in ordered.iter().zip(spec.bindings).skip(i + 1) {
            let written = of_a.access == Access::ReadWrite || of_b.access == Access::ReadWrite;
            // wgpu tracks whole buffers, so reading one range and writing another is rejected too. Two writes are
            // allowed if their ranges do not overlap.
            let overlap = a.offset < b.offset + b.size_bytes() && b.offset < a.offset + a.size_bytes();
            if a.buffer == b.buffer && written && (overlap || of_a.access != of_b.access) {
                return Err(format!(
                    "`{}` and `{}` share a buffer (`{}`, `{}`), and one of them is written",
                    of_a.name, of_b.name, a.name, b.name
                ));
            }
        }
    }
    Ok(ordered)
}

/// Returns the workgroups for `n` invocations in groups of `size`, folded into two dimensions if one dimension would
/// exceed 65,535.
///
/// The shaders undo the folding: `i = id.y * (num_workgroups.x * size) + id.x`.
pub fn workgroups_linear(n: usize, size: usize) -> [u32; 3] {
    const MAX: usize = 65_535;
    let groups = n.div_ceil(size).max(1);
    let rows = groups.div_ceil(MAX);
    [groups.div_ceil(rows) as u32, rows as u32, 1]
}
