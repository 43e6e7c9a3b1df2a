use thiserror::Error;

/// Errors between the program and the graphics driver.
#[derive(Debug, Error)]
pub enum GpuError {
    /// No adapter was found.
    #[error(
        "no graphics adapter was found (backends tried: {backends}).\n\
         On Linux without a GPU a software adapter can run everything: install Mesa's lavapipe\n\
         (Debian, Ubuntu: apt-get install libvulkan1 mesa-vulkan-drivers; Fedora: dnf install mesa-vulkan-drivers vulkan-loader;\n\
         Arch: pacman -S vulkan-swrast; Alpine: apk add mesa-vulkan-swrast vulkan-loader), or run scripts/setup.sh.\n\
         Windows includes WARP and macOS includes Metal."
    )]
    NoAdapter {
        /// The backends that were tried.
        backends: String,
    },
    /// There are only software adapters, but a hardware GPU was requested.
    #[error("there is no hardware GPU; the best adapter is {software}, number {index}")]
    NoHardware {
        /// The best of the software adapters.
        software: String,
        /// Its position in the list.
        index: usize,
    },
    /// The named adapter does not exist.
    #[error(
        "no adapter matches `{wanted}`{origin}; this machine has:\n{available}\nChoose one by its index or by part of its name."
    )]
    NoSuchAdapter {
        /// The requested adapter.
        wanted: String,
        /// Where the request came from, if not from the command line.
        origin: &'static str,
        /// One line per available adapter.
        available: String,
    },
    /// `WGPU_BACKEND` names an unknown backend.
    #[error(
        "WGPU_BACKEND is `{value}`, which is not a known backend; use vulkan, metal, dx12 or a comma-separated list of them"
    )]
    UnknownBackend {
        /// The value found.
        value: String,
    },
    /// The adapter offers less than the kernels need.
    #[error("adapter `{adapter}` offers {limit} = {found}, but {needed} is needed; choose another adapter")]
    Limit {
        /// The adapter's name.
        adapter: String,
        /// Name of the limit, as in wgpu.
        limit: &'static str,
        /// What the adapter offers.
        found: u64,
        /// The value needed.
        needed: u64,
    },
    /// The driver refused to open the device.
    #[error("adapter `{adapter}` could not be opened: {reason}")]
    OpenDevice {
        /// The adapter's name.
        adapter: String,
        /// The driver's message.
        reason: String,
    },
    /// A shader did not compile.
    #[error("shader entry point `{entry}` ({file}) did not compile on `{adapter}`:\n{message}")]
    Shader {
        /// The shader file.
        file: String,
        /// The entry point.
        entry: &'static str,
        /// The adapter's name.
        adapter: String,
        /// The compiler's message.
        message: String,
    },
    /// A dispatch was recorded with the wrong tensors.
    #[error("dispatch of `{entry}`: {message}")]
    Record {
        /// The entry point.
        entry: &'static str,
        /// What does not fit, with names and numbers.
        message: String,
    },
    /// A tensor does not fit the adapter.
    #[error(
        "tensor `{name}` needs {bytes} bytes, but `{adapter}` allows {allowed} bytes in one binding; use a smaller batch size"
    )]
    TensorTooLarge {
        /// The tensor.
        name: String,
        /// Its size in bytes.
        bytes: u64,
        /// The adapter's limit.
        allowed: u64,
        /// The adapter's name.
        adapter: String,
    },
    /// The adapter ran out of memory.
    #[error(
        "adapter `{adapter}` ran out of memory while creating the buffer `{name}` ({bytes} bytes): {reason}; use a smaller batch size"
    )]
    OutOfMemory {
        /// The adapter's name.
        adapter: String,
        /// The buffer.
        name: String,
        /// The number of bytes requested.
        bytes: u64,
        /// The driver's message.
        reason: String,
    },
    /// The device was lost: a driver reset, a time-out, or it was unplugged.
    #[error(
        "the device `{adapter}` ({driver}) was lost: {reason}; if it happens repeatedly, a smaller batch size or \
         another adapter may help"
    )]
    DeviceLost {
        /// The adapter's name.
        adapter: String,
        /// The driver and its version.
        driver: String,
        /// The driver's message.
        reason: String,
    },
    /// The driver or wgpu reported an error outside any call that could return it.
    #[error("`{adapter}` ({driver}) reported an error: {reason}")]
    Uncaptured {
        /// The adapter's name.
        adapter: String,
        /// The driver and its version.
        driver: String,
        /// The text of the error.
        reason: String,
    },
    /// Results could not be read back.
    #[error("reading `{name}` back from `{adapter}` failed: {reason}")]
    Readback {
        /// The tensor.
        name: String,
        /// The adapter's name.
        adapter: String,
        /// What was reported.
        reason: String,
    },
}
