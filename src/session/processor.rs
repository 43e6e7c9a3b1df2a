//! The CPU as a device.

use crate::native::instruction_set;

/// Name, driver and backend of the native engine.
pub(super) fn describe() -> [String; 3] {
    let driver = format!("fmnist-gpu {}, {}", env!("CARGO_PKG_VERSION"), instruction_set());
    [processor(), driver, "cpu".to_string()]
}

/// The CPU's name if the system reports it, else its architecture.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_string());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_string())
}
