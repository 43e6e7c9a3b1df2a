//! `fmnist-gpu doctor`

use super::device::DeviceArgs;
use super::selftest::compare_all;
use super::terminal::print_result;
use super::{Global, counted, with_causes};
use anyhow::Result;
use clap::Args;
use fmnist_gpu::data::Places;
use fmnist_gpu::engine::NativeEngine;
use fmnist_gpu::files::ShownPath;
use fmnist_gpu::gpu::adapter::{self, AdapterInfo};
use fmnist_gpu::gpu::peak::Peak;
use fmnist_gpu::model::{Model, initial_parameters};
use fmnist_gpu::native::instruction_set;
use fmnist_gpu::session::Device;
use fmnist_gpu::verify::{self, Breadth, Verdict};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `doctor`.
#[derive(Debug, Args)]
#[command(allow_negative_numbers = true)]
pub struct DoctorArgs {
    /// Skip the self-test, which takes a few seconds to a minute
    #[arg(long)]
    no_selftest: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// What `doctor --json` prints: what a bug report needs.
#[derive(Debug, Serialize)]
struct Page {
    version: &'static str,
    /// `release` or `debug`.
    build: &'static str,
    os: String,
    processor: &'static str,
    threads: usize,
    adapters: Vec<AdapterInfo>,
    /// Why there are no adapters, or why the device could not be opened.
    error: Option<String>,
    device: Option<DevicePage>,
    native: NativePage,
    environment: Vec<(String, String)>,
    data: Vec<Folder>,
    caches: Vec<Folder>,
}

/// The device that `--device` selects.
#[derive(Debug, Serialize)]
struct DevicePage {
    name: String,
    driver: String,
    backend: String,
    device_type: String,
    tiling: String,
    subgroup_lanes: Option<usize>,
    timestamps: bool,
    max_buffer_bytes: u64,
    max_binding_bytes: u64,
    max_workgroup_storage_bytes: u32,
    max_invocations_per_workgroup: u32,
    peak_gflops: f64,
    peak_gb_per_second: f64,
    selftest: Selftest,
}

/// The native engine.
#[derive(Debug, Serialize)]
struct NativePage {
    processor: String,
    instruction_set: &'static str,
    threads: usize,
    /// How each convolution of the built-in CNN is computed, forward and backward.
    convolutions: Vec<String>,
    peak_gflops: f64,
    peak_gb_per_second: f64,
    selftest: Selftest,
}

/// The result of comparing every kernel with its mirror.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Selftest {
    Passed { kernels: usize },
    Failed { kernels: Vec<String> },
    NotRun,
}

/// A folder that the program reads or writes.
#[derive(Debug, Serialize)]
struct Folder {
    path: PathBuf,
    state: String,
}

/// Environment variables that affect the program and its drivers; with `_` at the end, all that start with it.
const VARIABLES: &str = "FMNIST_ WGPU_ VK_ MESA_ LP_ GALLIUM_ LIBGL_ DISPLAY WAYLAND_DISPLAY XDG_RUNTIME_DIR \
                         XDG_CACHE_HOME NODEVICE_SELECT KERAS_HOME RUST_LOG CI NO_COLOR TERM";

/// Runs the command, also if there is no adapter. The exit code is 1 if a self-test fails, and 2 if a device that the user named could not
/// be opened.
pub async fn run(args: DoctorArgs, global: &Global) -> Result<ExitCode> {
    let (adapters, no_list) = match adapter::list().await {
        Ok(adapters) => (adapters, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let (device, error) = match device(&args, global).await {
        Ok(device) => (Some(device), no_list),
        Err(error) => (None, Some(with_causes(error.as_ref()))),
    };
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        os: os(),
        processor: std::env::consts::ARCH,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        adapters,
        error,
        device,
        native: native(&args, global)?,
        environment: environment(),
        data: data_folders(),
        caches: caches(),
    };
    print_result(args.json, &page, text)?;
    let tests = page.device.iter().map(|device| &device.selftest).chain([&page.native.selftest]);
    let has_failed = tests.into_iter().any(|test| matches!(test, Selftest::Failed { .. }));
    Ok(match &page.device {
        _ if has_failed => ExitCode::from(1),
        // The native engine needs no adapter, but a device that was named must open.
        None if args.device.is_named() => ExitCode::from(2),
        _ => ExitCode::SUCCESS,
    })
}

fn native(args: &DoctorArgs, global: &Global) -> Result<NativePage> {
    let model = Model::cnn();
    let parameters = initial_parameters(&model.parameters()?, 0);
    let engine = NativeEngine::new(&model, &parameters, args.device.threads())?;
    let peak = engine.peak();
    let verdicts = (!args.no_selftest).then(|| {
        global.say("Testing the native engine");
        verify::native::check_all(0, Breadth::Forms)
    });
    let [processor, ..] = Device::Native(args.device.threads()).describe();
    Ok(NativePage {
        processor,
        instruction_set: instruction_set(),
        threads: args.device.threads(),
        convolutions: engine.describe(),
        peak_gflops: peak.gflops,
        peak_gb_per_second: peak.gb_per_second,
        selftest: Selftest::new(verdicts),
    })
}

impl Selftest {
    /// The result, if it was run.
    fn new(verdicts: Option<Vec<Verdict>>) -> Self {
        let Some(verdicts) = verdicts else { return Selftest::NotRun };
        let failed: Vec<String> = verdicts.iter().filter(|v| !v.passed()).map(|v| v.kernel.to_string()).collect();
        match failed.is_empty() {
            true => Selftest::Passed { kernels: verdicts.len() },
            false => Selftest::Failed { kernels: failed },
        }
    }

    fn text(&self) -> String {
        match self {
            Selftest::Passed { kernels } => format!("  self-test: all {kernels} kernels passed"),
            Selftest::Failed { kernels } => format!("  self-test: FAILED: {}", kernels.join(", ")),
            Selftest::NotRun => "  self-test: not run".to_string(),
        }
    }
}

async fn device(args: &DoctorArgs, global: &Global) -> Result<DevicePage> {
    let gpu = args.device.open_fresh(global).await?;
    let peak = Peak::measure(&gpu).await?;
    let verdicts = match args.no_selftest {
        true => None,
        false => Some(compare_all(&gpu, &args.device, 0, global).await?),
    };
    let (info, limits) = (gpu.info(), gpu.limits());
    Ok(DevicePage {
        name: info.name.clone(),
        driver: info.driver.clone(),
        backend: info.backend.clone(),
        device_type: info.device_type.clone(),
        tiling: format!("{:?}", gpu.tiling()).to_lowercase(),
        subgroup_lanes: gpu.lanes(),
        timestamps: gpu.has_timestamps(),
        max_buffer_bytes: limits.max_buffer_size,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_workgroup_storage_bytes: limits.max_compute_workgroup_storage_size,
        max_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
        peak_gflops: peak.gflops,
        peak_gb_per_second: peak.gb_per_second,
        selftest: Selftest::new(verdicts),
    })
}

/// Describes the operating system, with its version if it is known.
fn os() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let parts = [std::env::consts::OS, name.unwrap_or_default().trim_matches('"'), kernel.trim()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}

fn environment() -> Vec<(String, String)> {
    let matches = |name: &str, known: &str| if known.ends_with('_') { name.starts_with(known) } else { name == known };
    let matters = |name: &str| VARIABLES.split(' ').any(|known| matches(name, known));
    let all = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
    let mut set: Vec<(String, String)> = all.filter(|(name, _)| matters(name)).collect();
    set.sort();
    set
}

/// Lists the folders that are searched for the data, and what they contain.
fn data_folders() -> Vec<Folder> {
    let places = Places::from_environment();
    let folders = places.env_dir.into_iter().chain(places.cache_dir).chain(places.others);
    let state = |path: &Path| {
        let has = |name: &str| path.join(name).exists() || path.join(format!("{name}.gz")).exists();
        let files =
            ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
        match files.iter().filter(|name| has(name)).count() {
            _ if !path.exists() => "does not exist".to_string(),
            n => format!("{n} of 4 files"),
        }
    };
    folders.map(|path| Folder { state: state(&path), path }).collect()
}

/// Lists the files that the program keeps between runs.
fn caches() -> Vec<Folder> {
    let Some(cache) = Places::from_environment().cache_dir else { return Vec::new() };
    let state = |path: &Path| {
        let size = |path: &Path| path.metadata().map_or(0, |m| m.len());
        match (path.is_dir(), path.exists()) {
            (true, _) => {
                let files: Vec<PathBuf> =
                    std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path()).collect();
                format!("{}, {} bytes", counted(files.len(), "file"), files.iter().map(|file| size(file)).sum::<u64>())
            }
            (false, true) => format!("{} bytes", size(path)),
            (false, false) => "does not exist".to_string(),
        }
    };
    let paths = ["pipelines", "autotune.json"].map(|name| cache.join(name));
    paths.into_iter().map(|path| Folder { state: state(&path), path }).collect()
}

fn text(page: &Page) -> String {
    let Page { version, build, os, processor, .. } = page;
    let threads = counted(page.threads, "thread");
    let mut lines = vec![format!("fmnist-gpu {version} ({build}), {os}, {processor}, {threads}\n\nAdapters")];
    for a in &page.adapters {
        let mark = if a.default { '*' } else { ' ' };
        lines.push(format!("{mark} {} {} ({}, {}, {})", a.index, a.name, a.backend, a.device_type, a.driver));
    }
    if page.adapters.is_empty() {
        lines.push("  none".to_string());
    }
    if let Some(error) = &page.error {
        lines.push(format!("\nERROR: {error}"));
    }
    if let Some(d) = &page.device {
        lines.push(format!("\nDevice: {} ({}, {})", d.name, d.backend, d.driver));
        let lanes = d.subgroup_lanes.map_or("none".to_string(), |lanes| lanes.to_string());
        let timestamps = if d.timestamps { "yes" } else { "no" };
        lines.push(format!("  tiling {}, subgroup lanes {lanes}, timestamps {timestamps}", d.tiling));
        lines.push(format!(
            "  buffers up to {} MiB, bindings up to {} MiB, workgroup memory {} KiB, {} invocations per workgroup",
            d.max_buffer_bytes >> 20,
            d.max_binding_bytes >> 20,
            d.max_workgroup_storage_bytes >> 10,
            d.max_invocations_per_workgroup
        ));
        lines.push(format!("  {:.0} GFLOP/s (multiply-add), {:.1} GB/s (copy)", d.peak_gflops, d.peak_gb_per_second));
        lines.push(d.selftest.text());
    }
    let n = &page.native;
    lines.push(format!("\nNative engine: {}, {}, {}", n.processor, n.instruction_set, counted(n.threads, "thread")));
    lines.push(format!("  {:.0} GFLOP/s (multiply-add), {:.1} GB/s (copy)", n.peak_gflops, n.peak_gb_per_second));
    lines.extend(n.convolutions.iter().map(|convolution| format!("  convolution: {convolution}")));
    lines.push(n.selftest.text());
    lines.push("\nEnvironment".to_string());
    lines.extend(page.environment.iter().map(|(name, value)| format!("  {name}={value}")));
    for (title, folders) in [("\nData", &page.data), ("\nCaches", &page.caches)] {
        lines.push(title.to_string());
        lines.extend(folders.iter().map(|folder| format!("  {}: {}", folder.path.shown(), folder.state)));
    }
    lines.join("\n")
}
