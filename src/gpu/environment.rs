//! What the environment of the process says about adapters.

/// Returns a variable that is set.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the options of wgpu, some of which have variables.
pub(super) fn instance_descriptor() -> wgpu::InstanceDescriptor {
    wgpu::InstanceDescriptor::new_without_display_handle_from_env()
}
