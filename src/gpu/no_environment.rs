//! Without an environment, adapters are chosen by options alone.

/// No variable is set.
pub(super) fn variable(_: &str) -> Option<String> {
    None
}

/// Returns the standard options of wgpu.
pub(super) fn instance_descriptor() -> wgpu::InstanceDescriptor {
    wgpu::InstanceDescriptor::new_without_display_handle()
}
