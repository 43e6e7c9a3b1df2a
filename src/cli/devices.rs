//! `fmnist-gpu devices`

use super::terminal::print_result;
use anyhow::Result;
use clap::Args;
use fmnist_gpu::engine::NativeEngine;
use fmnist_gpu::gpu::adapter::{self, AdapterInfo};
use fmnist_gpu::session::Device;
use serde::Serialize;
use std::process::ExitCode;

/// Flags of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// A device that `--device` accepts.
#[derive(Debug, Serialize)]
struct Listed {
    /// The value for `--device`.
    device: String,
    /// The position of an adapter; only for adapters.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    name: String,
    backend: String,
    device_type: String,
    driver: String,
    default: bool,
}

/// Runs the command: lists the adapters, the native engine and the plain loops, and marks the default.
pub async fn run(args: DevicesArgs) -> Result<ExitCode> {
    let adapters = adapter::list().await?;
    let has_default = adapters.iter().any(|adapter| adapter.default);
    let mut listed = Vec::new();
    for AdapterInfo { index, name, backend, device_type, driver, default } in adapters {
        let device = index.to_string();
        listed.push(Listed { device, index: Some(index), name, backend, device_type, driver, default });
    }
    let native = Device::Native(NativeEngine::default_threads());
    for (word, device, kind) in [("cpu", native, "native"), ("reference", Device::Reference, "plain loops")] {
        let [name, driver, backend] = device.describe();
        let default = word == "cpu" && !has_default;
        let (device, device_type) = (word.to_string(), kind.to_string());
        listed.push(Listed { device, index: None, name, backend, device_type, driver, default });
    }
    print_result(args.json, &listed, |listed| table(listed))?;
    Ok(ExitCode::SUCCESS)
}

fn table(listed: &[Listed]) -> String {
    let mut lines = vec![format!("  {:<9} {:<48} {:<9} {:<11} driver", "device", "name", "backend", "type")];
    for Listed { device, name, backend, device_type, driver, default, .. } in listed {
        let mark = if *default { '*' } else { ' ' };
        lines.push(format!("{mark} {device:<9} {name:<48} {backend:<9} {device_type:<11} {driver}"));
    }
    lines.push("* default (--device auto)".to_string());
    if listed.iter().all(|device| device.index.is_none()) {
        lines.push("No GPU or software adapter was found; `sh scripts/setup.sh` installs a software adapter to run the shaders on.".into());
    }
    lines.join("\n")
}
