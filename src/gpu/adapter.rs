//! Finds and chooses an adapter: strongest hardware first, one entry per card, software last.

use super::{GpuError, environment};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// An adapter of this machine, as listed by `fmnist-gpu devices`.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Position in the list: the number that `--device` takes.
    pub index: usize,
    /// The name reported by the driver.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub device_type: String,
    /// Driver and version.
    pub driver: String,
    /// Whether `--device auto` chooses this adapter. If all adapters are software, it chooses none, unless
    /// `WGPU_ADAPTER_NAME` names one.
    pub default: bool,
}

/// Which adapter the user wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first in the list, or the one that `WGPU_ADAPTER_NAME` names.
    #[default]
    Auto,
    /// The first in the list unless it is a software adapter; or the one that `WGPU_ADAPTER_NAME` names, whatever its
    /// type.
    Hardware,
    /// By position in the list.
    Index(usize),
    /// By name or, if no name is equal, by any part of it; case is ignored.
    Name(String),
}

impl From<&str> for DeviceChoice {
    fn from(text: &str) -> Self {
        match text.parse() {
            _ if text == "auto" => DeviceChoice::Auto,
            Ok(index) => DeviceChoice::Index(index),
            Err(_) => DeviceChoice::Name(text.to_string()),
        }
    }
}

/// An adapter with the handle to open it.
pub(super) struct Candidate {
    pub(super) info: AdapterInfo,
    pub(super) adapter: wgpu::Adapter,
}

impl AdapterInfo {
    /// Whether the adapter is software running on the CPU.
    pub(super) fn is_software(&self) -> bool {
        self.device_type == "software"
    }
}

/// Returns all adapters of this machine in order of preference; the first is the default.
///
/// # Errors
/// `WGPU_BACKEND` or `WGPU_ADAPTER_NAME` names something that does not exist. An empty list is not an error here.
pub async fn list() -> Result<Vec<AdapterInfo>, GpuError> {
    let candidates = enumerate(backends_from_env()?).await;
    if !candidates.is_empty() {
        position(&candidates, &DeviceChoice::Auto)?;
    }
    Ok(candidates.into_iter().map(|candidate| candidate.info).collect())
}

/// Returns the adapter that `choice` refers to.
pub(super) async fn choose(choice: &DeviceChoice) -> Result<Candidate, GpuError> {
    let backends = backends_from_env()?;
    let mut candidates = enumerate(backends).await;
    if candidates.is_empty() {
        return Err(GpuError::NoAdapter { backends: backend_names(backends) });
    }
    let index = position(&candidates, choice)?;
    let candidate = candidates.swap_remove(index);
    if *choice == DeviceChoice::Hardware && !candidate.info.default {
        return Err(GpuError::NoHardware { software: candidate.info.name, index });
    }
    Ok(candidate)
}

fn position(candidates: &[Candidate], choice: &DeviceChoice) -> Result<usize, GpuError> {
    let by_name = |wanted: &str| {
        let exact = candidates.iter().position(|c| c.info.name == wanted);
        let wanted = wanted.to_lowercase();
        exact.or_else(|| candidates.iter().position(|c| c.info.name.to_lowercase().contains(&wanted)))
    };
    let (found, wanted, origin) = match choice {
        DeviceChoice::Index(index) => ((*index < candidates.len()).then_some(*index), index.to_string(), ""),
        DeviceChoice::Name(name) => (by_name(name), name.clone(), ""),
        DeviceChoice::Auto | DeviceChoice::Hardware => match named_by_environment() {
            Some(name) => (by_name(&name), name, " (from WGPU_ADAPTER_NAME)"),
            None => return Ok(0),
        },
    };
    found.ok_or_else(|| {
        let line = |AdapterInfo { index, name, backend, device_type, .. }: &AdapterInfo| {
            format!("  {index}: {name} ({backend}, {device_type})")
        };
        let available: Vec<String> = candidates.iter().map(|c| line(&c.info)).collect();
        GpuError::NoSuchAdapter { wanted, origin, available: available.join("\n") }
    })
}

/// Returns the adapter that `WGPU_ADAPTER_NAME` names. An empty value would match every name, so it counts as not set.
fn named_by_environment() -> Option<String> {
    environment::variable("WGPU_ADAPTER_NAME").filter(|name| !name.is_empty())
}

const COMPILED_IN: wgpu::Backends = if cfg!(target_family = "wasm") {
    wgpu::Backends::BROWSER_WEBGPU
} else {
    wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12)
};

fn backends_from_env() -> Result<wgpu::Backends, GpuError> {
    let value = environment::variable("WGPU_BACKEND").unwrap_or_default();
    if value.trim().is_empty() {
        return Ok(COMPILED_IN);
    }
    let mut backends = wgpu::Backends::empty();
    for word in value.split(',') {
        backends |= match word.trim().to_lowercase().as_str() {
            "vulkan" | "vk" => wgpu::Backends::VULKAN,
            "metal" | "mtl" => wgpu::Backends::METAL,
            "dx12" | "d3d12" => wgpu::Backends::DX12,
            _ => return Err(GpuError::UnknownBackend { value }),
        };
    }
    Ok(backends)
}

fn backend_names(backends: wgpu::Backends) -> String {
    let names = [
        (wgpu::Backends::VULKAN, "vulkan"),
        (wgpu::Backends::METAL, "metal"),
        (wgpu::Backends::DX12, "dx12"),
        (wgpu::Backends::BROWSER_WEBGPU, "webgpu"),
    ];
    let built = if cfg!(target_family = "wasm") {
        wgpu::Backends::BROWSER_WEBGPU
    } else if cfg!(windows) {
        wgpu::Backends::VULKAN | wgpu::Backends::DX12
    } else if cfg!(target_vendor = "apple") {
        wgpu::Backends::METAL
    } else {
        wgpu::Backends::VULKAN
    };
    let tried = backends & built;
    let asked: Vec<&str> = names.iter().filter(|(b, _)| tried.contains(*b)).map(|(_, n)| *n).collect();
    if asked.is_empty() { "none available on this system".to_string() } else { asked.join(", ") }
}

async fn enumerate(backends: wgpu::Backends) -> Vec<Candidate> {
    let mut descriptor = environment::instance_descriptor();
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let adapters = instance.enumerate_adapters(backends).await;

    // A card shows up once per backend. The k-th adapter of a name within one backend is the same card as the k-th of
    // that name within another, so that two identical cards remain two entries.
    let mut counts = HashMap::new();
    let mut found = Vec::new();
    for adapter in adapters {
        let info = adapter.get_info();
        let count: &mut usize = counts.entry((info.backend, info.name.clone())).or_default();
        *count += 1;
        found.push(((info.name.clone(), *count), info, adapter));
    }
    // The sort is stable: adapters of equal rank keep the driver's order.
    found.sort_by_key(|(_, info, _)| (device_type(info).0, info.backend == wgpu::Backend::Dx12));
    let mut cards = HashSet::new();
    found.retain(|(card, ..)| cards.insert(card.clone()));
    let candidates = found.into_iter().enumerate();
    let mut candidates: Vec<Candidate> =
        candidates.map(|(index, (_, info, adapter))| Candidate { info: describe(index, &info), adapter }).collect();
    let first = position(&candidates, &DeviceChoice::Auto).unwrap_or(0);
    if let Some(Candidate { info, .. }) = candidates.get_mut(first) {
        info.default = !info.is_software() || named_by_environment().is_some();
    }
    candidates
}

/// Returns the rank and the name of the device type. WARP counts as software: some versions of Windows list it as an
/// integrated GPU.
fn device_type(info: &wgpu::AdapterInfo) -> (u8, &'static str) {
    match info.device_type {
        _ if info.name.contains("Microsoft Basic Render Driver") => (4, "software"),
        wgpu::DeviceType::DiscreteGpu => (0, "discrete"),
        wgpu::DeviceType::IntegratedGpu => (1, "integrated"),
        wgpu::DeviceType::VirtualGpu => (2, "virtual"),
        wgpu::DeviceType::Other => (3, "other"),
        wgpu::DeviceType::Cpu => (4, "software"),
    }
}

fn describe(index: usize, info: &wgpu::AdapterInfo) -> AdapterInfo {
    let driver = match (info.driver.as_str(), info.driver_info.as_str()) {
        ("", "") => "unknown".to_string(),
        (driver, "") | ("", driver) => driver.to_string(),
        (driver, version) => format!("{driver} {version}"),
    };
    // Browsers do not name it.
    let name = if info.name.is_empty() { "WebGPU adapter".to_string() } else { info.name.clone() };
    AdapterInfo {
        index,
        name,
        backend: info.backend.to_str().to_string(),
        device_type: device_type(info).1.to_string(),
        driver,
        default: false,
    }
}
