//! Finds and chooses an adapter: strongest hardware first, one entry per card, software last.

use super::GpuError;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// An adapter of this machine, as listed by `fmnist-gpu devices`.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Position in the list: the number that `--device` takes.
    pub index: usize,
    /// The name reported by the driver.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first in the list, or the one that `WGPU_ADAPTER_NAME` names.
    Auto,
    /// The first in the list unless it is a software adapter; or the one that `WGPU_ADAPTER_NAME` names, whatever its
    /// type.
    Hardware,
    /// By position in the list.
    Index(usize),
    /// By name or, if no name is equal, by any part of it; case is ignored.
    Name(String),
}

impl FromStr for DeviceChoice {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse::<usize>() {
            _ if text == "auto" => DeviceChoice::Auto,
            Ok(index) => DeviceChoice::Index(index),
            Err(_) => DeviceChoice::Name(text.to_string()),
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Hardware => f.write_str("a hardware GPU"),
            DeviceChoice::Index(index) => write!(f, "{index}"),
            DeviceChoice::Name(name) => f.write_str(name),
        }
    }
}

/// An adapter with the handle to open it.
pub(super) struct Candidate {
    pub(super) info: AdapterInfo,
    pub(super) device_type: wgpu::DeviceType,
    pub(super) adapter: wgpu::Adapter,
}

/// Returns all adapters of this machine in order of preference; the first is the default.
///
/// # Errors
/// `WGPU_BACKEND` or `WGPU_ADAPTER_NAME` names something that does not exist. An empty list is not an error here.
pub fn list() -> Result<Vec<AdapterInfo>, GpuError> {
    let candidates = enumerate(backends_from_env()?);
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let chosen = default_of(&candidates, position(&candidates, &DeviceChoice::Auto)?);
    let mut infos: Vec<AdapterInfo> = candidates.into_iter().map(|c| c.info).collect();
    for (i, info) in infos.iter_mut().enumerate() {
        info.default = Some(i) == chosen;
    }
    Ok(infos)
}

/// Returns the adapter that `choice` refers to.
pub(super) fn choose(choice: &DeviceChoice) -> Result<Candidate, GpuError> {
    let backends = backends_from_env()?;
    let mut candidates = enumerate(backends);
    if candidates.is_empty() {
        return Err(GpuError::NoAdapter { backends: backend_names(backends) });
    }
    let index = position(&candidates, choice)?;
    if *choice == DeviceChoice::Hardware && default_of(&candidates, index).is_none() {
        return Err(GpuError::NoHardware { software: candidates[index].info.name.clone(), index });
    }
    let default = default_of(&candidates, position(&candidates, &DeviceChoice::Auto).unwrap_or(0));
    let mut candidate = candidates.swap_remove(index);
    candidate.info.default = Some(index) == default;
    Ok(candidate)
}

/// Returns `first`, the adapter used if the user names none, if it is a hardware GPU or named by the environment.
fn default_of(candidates: &[Candidate], first: usize) -> Option<usize> {
    let is_software = candidates[first].device_type == wgpu::DeviceType::Cpu;
    (!is_software || named_by_environment().is_some()).then_some(first)
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
    found.ok_or_else(|| GpuError::NoSuchAdapter {
        wanted,
        origin: origin.to_string(),
        available: candidates
            .iter()
            .map(|c| format!("  {}: {} ({}, {})", c.info.index, c.info.name, c.info.backend, c.info.device_type))
            .collect::<Vec<_>>()
            .join("\n"),
    })
}

/// Returns the adapter that `WGPU_ADAPTER_NAME` names. An empty value would match every name, so it counts as not set.
fn named_by_environment() -> Option<String> {
    std::env::var("WGPU_ADAPTER_NAME").ok().filter(|name| !name.is_empty())
}

const COMPILED_IN: wgpu::Backends = wgpu::Backends::VULKAN.union(wgpu::Backends::METAL).union(wgpu::Backends::DX12);

fn backends_from_env() -> Result<wgpu::Backends, GpuError> {
    let Ok(value) = std::env::var("WGPU_BACKEND") else { return Ok(COMPILED_IN) };
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
    let names = [(wgpu::Backends::VULKAN, "vulkan"), (wgpu::Backends::METAL, "metal"), (wgpu::Backends::DX12, "dx12")];
    let built = if cfg!(windows) {
        wgpu::Backends::VULKAN | wgpu::Backends::DX12
    } else if cfg!(target_vendor = "apple") {
        wgpu::Backends::METAL
    } else {
        wgpu::Backends::VULKAN
    };
    let asked: Vec<&str> =
        names.iter().filter(|(b, _)| backends.contains(*b) && built.contains(*b)).map(|(_, n)| *n).collect();
    if asked.is_empty() { "none available on this system".to_string() } else { asked.join(", ") }
}

fn enumerate(backends: wgpu::Backends) -> Vec<Candidate> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));

    // A card shows up once per backend. The k-th adapter of a name within one backend is the same card as the k-th of
    // that name within another, so that two identical cards remain two entries.
    let mut seen: Vec<(wgpu::Backend, String, usize)> = Vec::new();
    let mut found: Vec<(usize, wgpu::AdapterInfo, wgpu::Adapter)> = Vec::new();
    for adapter in adapters {
        let info = adapter.get_info();
        let nth = seen.iter().filter(|(b, name, _)| *b == info.backend && *name == info.name).count();
        seen.push((info.backend, info.name.clone(), nth));
        found.push((nth, info, adapter));
    }
    // The sort is stable: adapters of equal rank keep the driver's order.
    found.sort_by_key(|(_, info, _)| (type_rank(device_type(info)), backend_rank(info.backend)));
    let mut kept: Vec<Candidate> = Vec::new();
    let mut cards: Vec<(String, usize)> = Vec::new();
    for (nth, info, adapter) in found {
        let card = (info.name.clone(), nth);
        if cards.contains(&card) {
            continue;
        }
        cards.push(card);
        let device_type = device_type(&info);
        kept.push(Candidate { info: describe(kept.len(), &info, device_type), device_type, adapter });
    }
    kept
}

/// Returns the device type. WARP counts as a CPU: some versions of Windows list it as an integrated GPU.
fn device_type(info: &wgpu::AdapterInfo) -> wgpu::DeviceType {
    if info.name.contains("Microsoft Basic Render Driver") { wgpu::DeviceType::Cpu } else { info.device_type }
}

fn type_rank(device_type: wgpu::DeviceType) -> u8 {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

fn backend_rank(backend: wgpu::Backend) -> u8 {
    match backend {
        wgpu::Backend::Vulkan | wgpu::Backend::Metal => 0,
        wgpu::Backend::Dx12 => 1,
        _ => 2,
    }
}

fn describe(index: usize, info: &wgpu::AdapterInfo, device_type: wgpu::DeviceType) -> AdapterInfo {
    let driver = match (info.driver.as_str(), info.driver_info.as_str()) {
        ("", "") => "unknown".to_string(),
        (driver, "") | ("", driver) => driver.to_string(),
        (driver, version) => format!("{driver} {version}"),
    };
    AdapterInfo {
        index,
        name: info.name.clone(),
        backend: info.backend.to_str().to_string(),
        device_type: match device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        }
        .to_string(),
        driver,
        default: false,
    }
}
