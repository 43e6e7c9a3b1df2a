//! Kernels as plain data, and their pipelines.

use super::{Gpu, GpuError};
use std::borrow::Cow;

/// How a kernel uses one of its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`: costs no barrier between readers.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
}

/// One binding of a kernel: the name of the variable in the WGSL file, its number, and its access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the variable in the shader and of the tensor in the host code.
    pub name: &'static str,
    /// `@binding(index)` in group 0.
    pub index: u32,
    /// Read-only or read-write.
    pub access: Access,
}

/// A binding that is only read.
pub const fn read(index: u32, name: &'static str) -> Binding {
    Binding { name, index, access: Access::Read }
}

/// A binding that is written (and perhaps read).
pub const fn write(index: u32, name: &'static str) -> Binding {
    Binding { name, index, access: Access::ReadWrite }
}

/// One WGSL entry point, described as plain data.
///
/// A test compares each of these with what naga reads from the shader, so that the two cannot disagree.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelSpec {
    /// The operation: the stem of the files in `shaders/`, `src/ops/`, `src/cpu/` and `tests/`.
    pub op: &'static str,
    /// The entry point.
    pub entry: &'static str,
    /// The text of the shader file.
    pub source: &'static str,
    /// The bindings that the entry point uses.
    pub bindings: &'static [Binding],
}

impl KernelSpec {
    /// The shader file, from the root of the repository.
    pub fn file(&self) -> String {
        let forms = ["_shared", "_subgroup"];
        let form = forms.into_iter().find(|form| self.entry.contains(form)).unwrap_or("");
        format!("shaders/{}{form}.wgsl", self.op)
    }
}

/// The value of one `override` constant of a shader: its name and its value.
pub type Constant = (&'static str, f64);

/// A compiled pipeline with the layout of its bindings.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

impl Kernel {
    /// Compiles `spec` with its constants.
    pub(super) fn new(gpu: &Gpu, spec: &'static KernelSpec, constants: &[Constant]) -> Result<Self, GpuError> {
        let device = gpu.device();
        // Everything below reports to this scope: a shader error comes back as a value, never as a panic.
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let module = gpu.shader_module(spec);
        let entries: Vec<wgpu::BindGroupLayoutEntry> = spec
            .bindings
            .iter()
            .map(|binding| wgpu::BindGroupLayoutEntry {
                binding: binding.index,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: binding.access == Access::Read },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(spec.entry), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(spec.entry),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(spec.entry),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(spec.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                // The shared kernels write every cell of their tiles before they read it.
                zero_initialize_workgroup_memory: gpu.checked(),
            },
            cache: None,
        });
        let error = pollster::block_on(internal.pop()).or(pollster::block_on(scope.pop()));
        match error {
            None => Ok(Kernel { pipeline, layout }),
            Some(error) => Err(GpuError::Shader {
                file: spec.file(),
                entry: spec.entry,
                adapter: gpu.info().name.clone(),
                message: error.to_string(),
            }),
        }
    }
}

/// Compiles a shader file, with or without wgpu's run-time checks.
pub(super) fn compile_module(device: &wgpu::Device, spec: &KernelSpec, checked: bool) -> wgpu::ShaderModule {
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(&spec.file()),
        source: wgpu::ShaderSource::Wgsl(Cow::Borrowed(spec.source)),
    };
    if checked {
        return device.create_shader_module(descriptor);
    }
    // SAFETY: the shaders are the project's own. Each guards or clamps its indices by the constants that the same code
    // used to size the buffers (`PlanBuilder::push` checks the sizes), every loop has a bound that is a constant, and
    // divisors are constants above zero. Indices that are data are kept in range by who writes them: the order of the
    // samples and the labels by `GpuEngine`, which checks them, and the number of the batch, which counts up to the
    // batches of the order. The tests and `--safe` run the same shaders with the checks on.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}
