//! `fmnist-gpu devices`

use super::{print, print_json};
use anyhow::Result;
use clap::Args;
use fmnist_gpu::gpu::{Gpu, GpuOptions, adapter};
use std::process::ExitCode;

/// Flags of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// Lists the adapters, the default one marked.
pub fn run(args: DevicesArgs) -> Result<ExitCode> {
    let adapters = adapter::list()?;
    if args.json {
        print_json(&adapters)?;
    } else if !adapters.is_empty() {
        let mut lines = vec![format!("  {:<5} {:<48} {:<8} {:<11} driver", "index", "name", "backend", "type")];
        for a in &adapters {
            let mark = if a.default { '*' } else { ' ' };
            lines.push(format!(
                "{mark} {:<5} {:<48} {:<8} {:<11} {}",
                a.index, a.name, a.backend, a.device_type, a.driver
            ));
        }
        lines.push("* what --device auto takes".to_string());
        print(&lines.join("\n"))?;
    }
    if adapters.is_empty() {
        // The error of opening says which package brings an adapter.
        Gpu::open(&GpuOptions::default())?;
    }
    Ok(ExitCode::SUCCESS)
}
