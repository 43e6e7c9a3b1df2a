//! Without an environment, adapters are chosen by options alone.

pub(super) fn variable(_: &str) -> Option<String> {
    None
}

pub(super) fn instance_descriptor() -> wgpu::InstanceDescriptor {
    wgpu::InstanceDescriptor::new_without_display_handle()
}
