//! Kernels as plain data, and their pipelines.

use super::pipeline_cache::Store;
use super::{Gpu, GpuError};
use crate::threads::in_any_order;
use std::borrow::Cow;

/// How a kernel uses one of its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`: needs no barrier between readers.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
}

/// A binding of a kernel: the name of the variable in the WGSL file, its number, and its access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the variable in the shader and of the tensor in the host code.
    pub name: &'static str,
    /// `@binding(index)` in group 0.
    pub index: u32,
    /// Read-only or read-write.
    pub access: Access,
}

/// Returns a binding that is only read.
pub const fn read(index: u32, name: &'static str) -> Binding {
    Binding { name, index, access: Access::Read }
}

/// Returns a binding that is written (and perhaps read).
pub const fn write(index: u32, name: &'static str) -> Binding {
    Binding { name, index, access: Access::ReadWrite }
}

/// A WGSL entry point, described as plain data.
///
/// A test compares each of these with what naga reads from the shader, so that the two always agree.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelSpec {
    /// The operation: the stem of the files in `shaders/`, `src/ops/`, `src/cpu/`, `src/verify/` and `tests/`.
    pub op: &'static str,
    /// The entry point.
    pub entry: &'static str,
    /// The text of the shader file.
    pub source: &'static str,
    /// The bindings that the entry point uses.
    pub bindings: &'static [Binding],
}

impl KernelSpec {
    /// Returns the path of the shader file, relative to the root of the repository.
    pub fn file(&self) -> String {
        let forms = ["_shared", "_subgroup"];
        let form = forms.into_iter().find(|form| self.entry.contains(form)).unwrap_or("");
        format!("shaders/{}{form}.wgsl", self.op)
    }
}

/// The value of an `override` constant of a shader: its name and its value.
pub type Constant = (&'static str, f64);

/// An entry point with its constants.
pub(super) type Specialized = (&'static KernelSpec, Vec<Constant>);

/// A compiled pipeline with the layout of its bindings.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

impl Kernel {
    /// Compiles `spec` with its constants; the future tells whether it is a kernel.
    fn new(
        gpu: &Gpu,
        spec: &'static KernelSpec,
        constants: &[Constant],
    ) -> impl Future<Output = Result<Self, GpuError>> + use<> {
        let device = &gpu.device;
        let file = gpu.shader_file(spec);
        let module = file.get_or_init(|| parse(gpu, spec)).clone();
        let scopes = Scopes::push(device);
        let entry = |binding: &Binding| {
            let ty = wgpu::BufferBindingType::Storage { read_only: binding.access == Access::Read };
            let ty = wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
            let visibility = wgpu::ShaderStages::COMPUTE;
            wgpu::BindGroupLayoutEntry { binding: binding.index, visibility, ty, count: None }
        };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = spec.bindings.iter().map(entry).collect();
        let label = Some(spec.entry);
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let bind_group_layouts = &[Some(&layout)];
        let descriptor = wgpu::PipelineLayoutDescriptor { label, bind_group_layouts, immediate_size: 0 };
        let pipeline_layout = device.create_pipeline_layout(&descriptor);
        // The shared kernels write every cell of their tiles before they read it.
        let zero_initialize_workgroup_memory = gpu.checked();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: label,
            compilation_options: wgpu::PipelineCompilationOptions { constants, zero_initialize_workgroup_memory },
            cache: gpu.pipelines().map(Store::cache),
        });
        let (error, adapter) = (scopes.pop(), gpu.info().name.clone());
        async move {
            let Some(error) = error.await else { return Ok(Kernel { pipeline, layout }) };
            // Every kernel of a broken file reports the cause, which is there.
            let message = errors(&module).await.unwrap_or(error);
            Err(GpuError::Shader { file: spec.file(), entry: spec.entry, adapter, message })
        }
    }
}

/// Compiles kernels in parallel on as many threads as the CPU has; returns results in the order of `wanted`.
pub(super) async fn compile(gpu: &Gpu, wanted: &[Specialized]) -> Vec<Result<Kernel, GpuError>> {
    let is_first_of_file = |i: usize| !wanted[..i].iter().any(|(spec, _)| spec.source == wanted[i].0.source);
    // One kernel of each file before all others, so that threads parse files in parallel instead of waiting for one.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&i| !is_first_of_file(i));
    let mut compiling = in_any_order("compile", &order, &|i| Kernel::new(gpu, wanted[i].0, &wanted[i].1));
    compiling.sort_by_key(|(i, _)| *i);
    // A browser compiles aside, all of them at the same time, until the first is awaited.
    let mut kernels = Vec::with_capacity(wanted.len());
    for (_, kernel) in compiling {
        kernels.push(kernel.await);
    }
    kernels
}

/// Catches the errors that wgpu reports in this thread, where it would panic otherwise: wgpu has error scopes per thread.
pub(super) struct Scopes {
    // Fields are dropped from the top: in the reverse order of `push`, as wgpu requires.
    internal: wgpu::ErrorScopeGuard,
    validation: wgpu::ErrorScopeGuard,
    memory: wgpu::ErrorScopeGuard,
}

impl Scopes {
    pub(super) fn push(device: &wgpu::Device) -> Self {
        Scopes {
            memory: device.push_error_scope(wgpu::ErrorFilter::OutOfMemory),
            validation: device.push_error_scope(wgpu::ErrorFilter::Validation),
            internal: device.push_error_scope(wgpu::ErrorFilter::Internal),
        }
    }

    /// Ends the scopes now. The future is the text of an error since [`Scopes::push`].
    pub(super) fn pop(self) -> impl Future<Output = Option<String>> + use<> {
        // Scopes end in the reverse order; the compiler's error takes precedence over its consequences.
        let [internal, validation, memory] =
            [self.internal, self.validation, self.memory].map(wgpu::ErrorScopeGuard::pop);
        async move {
            let (internal, validation, memory) = (internal.await, validation.await, memory.await);
            internal.or(validation).or(memory).map(|error| error.to_string())
        }
    }
}

/// Parses a shader file, with or without wgpu's run-time checks. If there is an error in it, every kernel that is made of it has one.
fn parse(gpu: &Gpu, spec: &KernelSpec) -> wgpu::ShaderModule {
    let device = &gpu.device;
    let scopes = Scopes::push(device);
    let (label, source) = (spec.file(), wgpu::ShaderSource::Wgsl(Cow::Borrowed(gpu.source(spec))));
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(&label), source };
    let module = if gpu.checked() {
        device.create_shader_module(descriptor)
    } else {
        // SAFETY: the shaders are the project's own. Each guards or clamps its indices by the constants that the same
        // code used to size the buffers (`PlanBuilder::push` checks the sizes), every loop has a bound that is a
        // constant, and divisors are constants above zero. Indices that are data are kept in range by the code that
        // writes them: the order of the samples and the labels by `GpuEngine`, which checks them, and the batch
        // number, which counts up to the number of batches in the order. The tests and `--safe` run the same shaders
        // with the checks on.
        unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
    };
    drop(scopes.pop());
    module
}

/// Returns the text of the errors in a shader file, if there are any.
async fn errors(module: &wgpu::ShaderModule) -> Option<String> {
    let is_error = |message: &wgpu::CompilationMessage| message.message_type == wgpu::CompilationMessageType::Error;
    let messages = module.get_compilation_info().await.messages.into_iter().filter(is_error);
    messages.map(|message| message.message).reduce(|all, next| format!("{all}\n{next}"))
}
