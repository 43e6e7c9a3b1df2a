//! An open device: queue, limits, compiled kernels, and the log of errors that no call could return.
//!
//! Whatever has to wait for the device is asynchronous, because a page in a browser must not block: there, the device answers only while the
//! page does nothing. Elsewhere, a device does nothing by itself: the future that waits for it drives it ([`Gpu::drive`]), and is done when
//! it is polled for the first time.

use super::adapter::{self, AdapterInfo, DeviceChoice};
use super::kernel::{self, Constant, Kernel, KernelSpec, Specialized};
use super::pipeline_cache::Store;
use super::{GpuError, Plan, Submission, Tiling};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use wgpu::CommandEncoder;

/// Options for opening a device.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// The adapter.
    pub choice: DeviceChoice,
    /// Whether wgpu's run-time checks (array bounds, forced loop bounds, integer division, zeroed workgroup memory) are
    /// compiled into the shaders: on in the tests and with `--safe`, off otherwise.
    pub checked: bool,
    /// The tiling of the heavy kernels; `None` chooses the one that suits the adapter. [`Tiling::Subgroup`] on a device
    /// without subgroup operations runs the plain kernels.
    pub tiling: Option<Tiling>,
    /// The folder that keeps compiled pipelines between runs, if the backend supports it (Vulkan); `None` keeps none.
    ///
    /// It is read when the device is opened and written when the last handle is dropped. Only this program may write to it.
    /// Failing to read or write it is not an error. Without the feature `disk`, nothing is kept.
    pub pipeline_cache: Option<PathBuf>,
    /// The text of a shader file, and another in its place, which runs with the checks: for tests that a wrong kernel is found.
    #[doc(hidden)]
    pub mutant: Option<(&'static str, String)>,
}

/// A handle of an open device: cheap to clone, and kept by all that use the device. The last one closes it.
#[derive(Clone, Debug)]
pub struct Gpu {
    shared: Arc<Shared>,
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// How long a submission may take before the device counts as lost.
    patience: Option<Duration>,
}

/// What the handles of a device share.
#[derive(Debug)]
struct Shared {
    info: AdapterInfo,
    tiling: Tiling,
    lanes: Option<usize>,
    checked: bool,
    mutant: Option<(&'static str, String)>,
    limits: wgpu::Limits,
    faults: Arc<Mutex<Faults>>,
    files: Mutex<HashMap<&'static str, Arc<OnceLock<wgpu::ShaderModule>>>>,
    kernels: Mutex<HashMap<KernelKey, Arc<Kernel>>>,
    pipelines: Option<Store>,
}

/// A hardware adapter that has not finished a submission within this time has hung: submissions are sized to take a
/// fraction of a second. A software adapter never hangs, and may be paused along with the rest of the machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// An entry point with the bits of its constants.
type KernelKey = (&'static str, Vec<(&'static str, u64)>);

#[derive(Debug, Default)]
struct Faults {
    lost: Option<String>,
    uncaptured: Option<String>,
}

/// Returns the limits to request: what the kernels need, and for buffer sizes what the adapter offers, since a larger
/// batch may use it.
fn limits_to_ask(adapter: &str, offered: &wgpu::Limits) -> Result<wgpu::Limits, GpuError> {
    // The largest buffer of the built-in models is the training set as bytes (47 MB).
    let needs: [(&'static str, u64, u64); 6] = [
        ("max_storage_buffers_per_shader_stage", 8, offered.max_storage_buffers_per_shader_stage.into()),
        ("max_storage_buffer_binding_size", 64 << 20, offered.max_storage_buffer_binding_size),
        ("max_buffer_size", 64 << 20, offered.max_buffer_size),
        ("max_compute_invocations_per_workgroup", 256, offered.max_compute_invocations_per_workgroup.into()),
        ("max_compute_workgroup_storage_size", 16_384, offered.max_compute_workgroup_storage_size.into()),
        ("max_compute_workgroups_per_dimension", 65_535, offered.max_compute_workgroups_per_dimension.into()),
    ];
    if let Some((limit, needed, found)) = needs.into_iter().find(|(_, needed, found)| found < needed) {
        return Err(GpuError::Limit { adapter: adapter.to_string(), limit, found, needed });
    }
    // Offsets in shaders are 32-bit counts of four-byte elements; 2 GiB also keeps the arithmetic of every driver safe.
    const CAP: u64 = (1 << 31) - 4;
    Ok(wgpu::Limits {
        max_storage_buffers_per_shader_stage: 8,
        max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size.min(CAP),
        max_buffer_size: offered.max_buffer_size.min(CAP),
        max_compute_workgroup_storage_size: 16_384,
        max_compute_invocations_per_workgroup: 256,
        max_compute_workgroups_per_dimension: 65_535,
        ..wgpu::Limits::downlevel_defaults()
    })
}

/// The possible widths of subgroup tiles: those of an AVX2 register, and of an SSE or NEON register.
pub const LANES: [usize; 2] = [8, 4];

impl Gpu {
    /// Opens the adapter that `options.choice` refers to.
    ///
    /// # Errors
    /// There is no adapter, or none that matches; a limit is too low (the error names it); or the driver refuses.
    pub async fn open(options: &GpuOptions) -> Result<Self, GpuError> {
        let candidate = adapter::choose(&options.choice).await?;
        let info = candidate.info;
        let limits = limits_to_ask(&info.name, &candidate.adapter.limits())?;
        // Used if offered; everything runs without them too.
        let mut wanted = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        if options.pipeline_cache.is_some() {
            wanted |= wgpu::Features::PIPELINE_CACHE;
        }
        let features = candidate.adapter.features() & wanted;
        let has_subgroups = features.contains(wgpu::Features::SUBGROUP);
        let smallest = candidate.adapter.get_info().subgroup_min_size as usize;
        let lanes = LANES.into_iter().find(|&lanes| has_subgroups && lanes <= smallest);
        let opened = candidate.adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("fmnist-gpu"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        });
        let fail = |reason: String| GpuError::OpenDevice { adapter: info.name.clone(), reason };
        let (device, queue) = opened.await.map_err(|error| fail(error.to_string()))?;

        let faults = Arc::new(Mutex::new(Faults::default()));
        let log = Arc::clone(&faults);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lock(&log).lost.get_or_insert(format!("{reason:?}: {message}"));
            }
        });
        let log = Arc::clone(&faults);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            // The first error is the cause; later ones are mostly its consequences.
            lock(&log).uncaptured.get_or_insert(error.to_string());
        }));
        let pipelines = match &options.pipeline_cache {
            Some(folder) => Store::open(&device, &candidate.adapter.get_info(), folder).await,
            None => None,
        };
        let patience = (!info.is_software()).then_some(PATIENCE);
        let shared = Arc::new(Shared {
            tiling: options.tiling.unwrap_or(Tiling::for_adapter(&info, lanes)),
            info,
            lanes,
            // A browser always checks.
            checked: options.checked || options.mutant.is_some() || cfg!(target_family = "wasm"),
            mutant: options.mutant.clone(),
            limits,
            faults,
            files: Mutex::default(),
            kernels: Mutex::default(),
            pipelines,
        });
        Ok(Gpu { shared, device, queue, patience })
    }

    /// Sets how long a submission that is awaited through this handle may take before the device counts as lost. The default is ten
    /// minutes for hardware, and no limit for software and in browsers, which watch over their devices themselves.
    pub fn with_patience(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }

    /// Returns the adapter.
    pub fn info(&self) -> &AdapterInfo {
        &self.shared.info
    }

    /// Whether the adapter is software running on the CPU.
    pub fn is_software(&self) -> bool {
        self.shared.info.is_software()
    }

    /// Returns the tiling of the heavy kernels on this device.
    pub fn tiling(&self) -> Tiling {
        self.shared.tiling
    }

    /// Returns the number of invocations per workgroup in subgroup tiles; `None` if the device has no subgroup
    /// operations or its subgroups are too small.
    pub fn lanes(&self) -> Option<usize> {
        self.shared.lanes
    }

    /// Whether the adapter's clock can be read between passes.
    pub fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Whether wgpu's run-time checks are compiled into the shaders.
    pub fn checked(&self) -> bool {
        self.shared.checked
    }

    /// Returns the limits that the device was opened with.
    pub fn limits(&self) -> &wgpu::Limits {
        &self.shared.limits
    }

    /// Returns a new command encoder.
    pub(crate) fn encoder(&self, label: &str) -> CommandEncoder {
        self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(label) })
    }

    /// Replays `plan` `times` times in one compute pass of `encoder`.
    pub(crate) fn encode(&self, encoder: &mut CommandEncoder, label: &str, plan: &Plan, times: usize) {
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(label), timestamp_writes: None });
        for _ in 0..times {
            (0..plan.len()).for_each(|i| plan.replay_one(&mut pass, i));
        }
    }

    /// Submits each dispatch of `plan` except the last separately (the first together with the commands in `encoder`),
    /// and leaves the last one in it. This way the watchdog of a slow adapter only sees short submissions.
    pub(crate) fn submit_all_but_last(&self, encoder: &mut CommandEncoder, plan: &Plan) -> Result<(), GpuError> {
        for i in 0..plan.len() {
            let descriptor = wgpu::ComputePassDescriptor { label: Some("piece"), timestamp_writes: None };
            plan.replay_one(&mut encoder.begin_compute_pass(&descriptor), i);
            if i + 1 < plan.len() {
                self.submit(std::mem::replace(encoder, self.encoder("piece")).finish())?;
            }
        }
        Ok(())
    }

    /// Submits the commands. The error may be from before.
    pub(crate) fn submit(&self, commands: wgpu::CommandBuffer) -> Result<Submission, GpuError> {
        let index = self.queue.submit([commands]);
        self.check()?;
        Ok(index)
    }

    /// Runs a plan once and waits for it.
    ///
    /// # Errors
    /// The device was lost or reported an error.
    pub async fn run(&self, plan: &Plan) -> Result<(), GpuError> {
        let mut encoder = self.encoder("run");
        self.encode(&mut encoder, "run", plan, 1);
        let submission = self.submit(encoder.finish())?;
        self.wait(submission).await
    }

    /// Runs one workgroup of each kernel of a plan, discarding the results, and waits for it: lavapipe compiles a
    /// kernel only at its first dispatch. Stops between two kernels as soon as it is no longer `wanted`.
    pub(crate) async fn touch(&self, plan: &Plan, wanted: &dyn Fn() -> bool) -> Result<(), GpuError> {
        for i in plan.first_of_kernels().take_while(|_| wanted()) {
            let mut encoder = self.encoder("touch");
            let descriptor = wgpu::ComputePassDescriptor { label: Some("touch"), timestamp_writes: None };
            plan.dispatch(&mut encoder.begin_compute_pass(&descriptor), i, [1, 1, 1]);
            let submission = self.submit(encoder.finish())?;
            self.wait(submission).await?;
        }
        Ok(())
    }

    /// Submits nothing. Firefox looks for finished work only ten times per second, and at each submission.
    #[cfg(target_family = "wasm")]
    pub fn nudge(&self) {
        self.queue.submit([]);
    }

    /// Waits until a submission has finished.
    pub(super) async fn wait(&self, submission: Submission) -> Result<(), GpuError> {
        #[cfg(target_family = "wasm")]
        {
            let (sender, receiver) = futures_intrusive::channel::shared::oneshot_channel();
            // The receiver is gone only if nobody waits any more.
            self.queue.on_submitted_work_done(move || drop(sender.send(())));
            receiver.receive().await;
        }
        self.drive(submission)
    }

    /// A browser drives its devices itself.
    #[cfg(target_family = "wasm")]
    pub(super) fn drive(&self, _: Submission) -> Result<(), GpuError> {
        self.check()
    }

    /// Drives the device until a submission has finished: a mapping of its results is then answered at once.
    #[cfg(not(target_family = "wasm"))]
    pub(super) fn drive(&self, submission: Submission) -> Result<(), GpuError> {
        let timeout = self.patience;
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout });
        if let (Err(wgpu::PollError::Timeout), Some(patience)) = (&polled, timeout) {
            let reason = format!("it has not finished a submission in {} s", patience.as_secs_f64());
            lock(&self.shared.faults).lost.get_or_insert(reason);
        }
        self.check()?;
        polled.map(drop).map_err(|error| self.uncaptured(error.to_string()))
    }

    /// Reports a lost device, or an error that no call could return.
    ///
    /// # Errors
    /// There was one since the device was opened.
    pub fn check(&self) -> Result<(), GpuError> {
        let faults = lock(&self.shared.faults);
        if let Some(reason) = faults.lost.clone() {
            let (adapter, driver) = (self.info().name.clone(), self.info().driver.clone());
            return Err(GpuError::DeviceLost { adapter, driver, reason });
        }
        faults.uncaptured.clone().map_or(Ok(()), |reason| Err(self.uncaptured(reason)))
    }

    fn uncaptured(&self, reason: String) -> GpuError {
        GpuError::Uncaptured { adapter: self.info().name.clone(), driver: self.info().driver.clone(), reason }
    }

    /// Destroys the device, as a driver reset would: every later call fails. For tests of that case.
    pub fn destroy(&self) {
        lock(&self.shared.faults).lost.get_or_insert("destroyed on request".to_string());
        self.device.destroy();
    }

    /// Returns the compiled kernels for these entry points and constants, in the same order. Kernels that are not yet
    /// compiled are compiled now, in parallel; the error is that of the first in `wanted` that does not compile.
    pub(super) async fn kernels(&self, wanted: &[Specialized]) -> Result<Vec<Arc<Kernel>>, GpuError> {
        let compiled = |(spec, constants): &Specialized| lock(&self.shared.kernels).get(&key(spec, constants)).cloned();
        let missing: Vec<_> = wanted.iter().filter(|kernel| compiled(kernel).is_none()).cloned().collect();
        if let Some(pipelines) = self.pipelines().filter(|_| !missing.is_empty()) {
            pipelines.note_compiled();
        }
        for ((spec, constants), kernel) in missing.iter().zip(kernel::compile(self, &missing).await) {
            lock(&self.shared.kernels).insert(key(spec, constants), Arc::new(kernel?));
        }
        Ok(wanted.iter().filter_map(compiled).collect())
    }

    /// Returns the number of kernels compiled so far.
    pub fn compiled_kernels(&self) -> usize {
        lock(&self.shared.kernels).len()
    }

    /// Returns where pipelines are kept between runs, if they are.
    pub(super) fn pipelines(&self) -> Option<&Store> {
        self.shared.pipelines.as_ref()
    }

    /// Returns the text of the file of `spec`.
    pub(super) fn source<'a>(&'a self, spec: &KernelSpec) -> &'a str {
        self.shared.mutant.as_ref().filter(|(of, _)| *of == spec.source).map_or(spec.source, |(_, text)| text)
    }

    /// Returns the slot of the parsed file of `spec`, so that each file is parsed once.
    pub(super) fn shader_file(&self, spec: &KernelSpec) -> Arc<OnceLock<wgpu::ShaderModule>> {
        Arc::clone(lock(&self.shared.files).entry(spec.source).or_default())
    }
}

/// Saves the compiled pipelines for the next run. This happens here so that it does not delay the first step of this
/// run.
impl Drop for Shared {
    fn drop(&mut self) {
        let lost = lock(&self.faults).lost.is_some();
        if let Some(pipelines) = self.pipelines.as_ref().filter(|_| !lost) {
            pipelines.save();
        }
    }
}

fn key(spec: &KernelSpec, constants: &[Constant]) -> KernelKey {
    (spec.entry, constants.iter().map(|(name, value)| (*name, value.to_bits())).collect())
}

/// Locks, ignoring poisoning: the guarded values are valid after any panic, since each is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
