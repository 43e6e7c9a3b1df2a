//! `--device` and `--safe`: opening what computes.

use super::Global;
use anyhow::{Result, bail};
use clap::Args;
use fmnist_gpu::data::Places;
use fmnist_gpu::gpu::{DeviceChoice, Gpu, GpuOptions};
use fmnist_gpu::model::Model;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::train::{Optimizer, autotune};
use std::path::PathBuf;

/// Flags of every command that computes.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// auto (the strongest GPU, else a software adapter), an index or part of a name from `fmnist-gpu devices`, or reference
    /// (plain loops on the processor: for checking, slow)
    #[arg(long, default_value = "auto", value_name = "auto|reference|INDEX|NAME")]
    device: String,
    /// Compile wgpu's run-time checks into the shaders (array bounds, loop bounds, division by zero): slower
    #[arg(long)]
    safe: bool,
}

/// `--no-autotune`, of the commands that train.
#[derive(Clone, Debug, Args)]
pub struct TuneArgs {
    /// On a GPU, take the standard tiles instead of timing a few on the first run and keeping the fastest
    #[arg(long)]
    no_autotune: bool,
}

impl TuneArgs {
    /// The tiles to train with: chosen before, or timed now and kept; nothing is timed on software adapters.
    pub fn tiles(&self, gpu: &Gpu, model: &Model, batch_size: usize, optimizer: &Optimizer) -> SharedTiles {
        if self.no_autotune {
            return SharedTiles::default();
        }
        let kept = Places::from_environment().cache_dir.map(|folder| folder.join("autotune.json"));
        autotune(gpu, model, batch_size, optimizer, kept.as_deref()).unwrap_or_else(|error| {
            // What is wrong comes back when the engine is made.
            log::debug!("the tiles could not be chosen: {error}");
            SharedTiles::default()
        })
    }
}

/// What was chosen.
pub enum Device {
    /// An adapter.
    Gpu(Box<Gpu>),
    /// The plain loops.
    Reference,
}

impl DeviceArgs {
    /// Opens the device, and says so when it is a software adapter.
    pub fn open(&self, global: &Global) -> Result<Device> {
        match self.device.as_str() {
            "reference" => Ok(Device::Reference),
            "cpu" => bail!(
                "--device cpu is kept for a native engine that does not exist yet. Use auto, which takes a software adapter \
                 where there is no GPU, or reference, the plain loops (slow)"
            ),
            _ => Ok(Device::Gpu(Box::new(self.open_gpu(global)?))),
        }
    }

    /// As [`DeviceArgs::open`], for commands that are about the adapter.
    pub fn open_gpu(&self, global: &Global) -> Result<Gpu> {
        // The program's own folder, beside the data that it downloaded.
        self.open_keeping(global, Places::from_environment().cache_dir.map(|folder| folder.join("pipelines")))
    }

    /// As [`DeviceArgs::open_gpu`], with every pipeline compiled anew and none kept: for a self-test, which is about the
    /// compiler too, and whose many sizes no later run needs.
    pub fn open_fresh(&self, global: &Global) -> Result<Gpu> {
        self.open_keeping(global, None)
    }

    /// The same device once more, without a word.
    pub fn open_another(&self) -> Result<Gpu> {
        self.open_silently(self.safe, None)
    }

    /// The same device once more, with wgpu's run-time checks.
    pub fn open_checked(&self) -> Result<Gpu> {
        self.open_silently(true, None)
    }

    fn open_silently(&self, checked: bool, pipeline_cache: Option<PathBuf>) -> Result<Gpu> {
        let choice: DeviceChoice = match self.device.parse() {
            Ok(choice) => choice,
            Err(never) => match never {},
        };
        Ok(Gpu::open(&GpuOptions { choice, checked, tiling: None, pipeline_cache })?)
    }

    fn open_keeping(&self, global: &Global, pipeline_cache: Option<PathBuf>) -> Result<Gpu> {
        let gpu = self.open_silently(self.safe, pipeline_cache)?;
        let info = gpu.info();
        global.say(format!("Device: {} ({}, {}, {})", info.name, info.backend, info.device_type, info.driver));
        if gpu.is_software() && self.device == "auto" {
            global.say("No hardware GPU was found: the shaders run on a software adapter, on the processor.");
        }
        Ok(gpu)
    }

    /// Whether `--safe` was given.
    pub fn safe(&self) -> bool {
        self.safe
    }
}

impl Device {
    /// Name, driver and backend, as the run's files have them.
    pub fn describe(&self) -> [String; 3] {
        match self {
            Device::Gpu(gpu) => [gpu.info().name.clone(), gpu.info().driver.clone(), gpu.info().backend.clone()],
            Device::Reference => {
                let version = format!("fmnist-gpu {}", env!("CARGO_PKG_VERSION"));
                ["reference (plain loops)".to_string(), version, "reference".to_string()]
            }
        }
    }
}
