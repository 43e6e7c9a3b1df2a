//! `--device`, `--threads` and `--safe`: opening the device that computes.

use super::advice::gpu_error;
use super::{Global, Interrupted, counted};
use anyhow::{Result, bail};
use clap::Args;
use fmnist_gpu::data::Places;
use fmnist_gpu::engine::{NativeEngine, StepConfig, autotune};
use fmnist_gpu::gpu::{DeviceChoice, Gpu, GpuError, GpuOptions};
use fmnist_gpu::model::Model;
use fmnist_gpu::ops::SharedTiles;
use fmnist_gpu::run::RunConfig;
use fmnist_gpu::session::Device;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Flags of all commands that compute.
#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// auto (the strongest GPU, else cpu), cpu (the native engine), an index or part of a name from `fmnist-gpu devices`,
    /// or reference (plain loops: for checking, slow) [default: auto; for a run that is resumed, the device it was started on]
    #[arg(long, value_name = "auto|cpu|reference|INDEX|NAME")]
    device: Option<String>,
    /// The device of the run that is resumed, if it was not named.
    #[arg(skip)]
    started_on: Option<String>,
    /// Threads of the native engine; the results are the same for any number [default: one per CPU core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Compile wgpu's run-time checks into the shaders (array bounds, loop bounds, division by zero): slower
    #[arg(long)]
    pub safe: bool,
}

/// `--no-autotune`, for the commands that train.
#[derive(Clone, Debug, Args)]
pub struct TuneArgs {
    /// On a GPU, use the standard tile sizes instead of timing a few on the first run and keeping the fastest
    #[arg(long)]
    no_autotune: bool,
}

impl TuneArgs {
    /// The tiles to train with: chosen earlier, or timed now and kept; nothing is timed on software adapters.
    pub async fn tiles(&self, gpu: &Gpu, model: &Model, batch_size: usize, step: &StepConfig) -> SharedTiles {
        if self.no_autotune {
            return SharedTiles::default();
        }
        let kept = Places::from_environment().cache_dir.map(|folder| folder.join("autotune.json"));
        autotune(gpu, model, batch_size, step, kept.as_deref()).await.unwrap_or_else(|error| {
            // The same error is reported when the engine is created.
            log::debug!("the tiles could not be chosen: {error}");
            SharedTiles::default()
        })
    }
}

impl DeviceArgs {
    /// What to open. The names of what is not an adapter are the same in capitals.
    fn name(&self) -> &str {
        let name = self.device.as_deref().or(self.started_on.as_deref()).unwrap_or("auto");
        let known = ["auto", "cpu", "reference"].into_iter().find(|known| known.eq_ignore_ascii_case(name));
        known.unwrap_or(name)
    }

    /// Takes the device that a run was started on, unless another one was named: only there the same bits are sure to come out.
    pub fn resume_on(&mut self, config: &RunConfig) {
        self.started_on = Some(match config.backend.as_str() {
            known @ ("cpu" | "reference") => known.to_string(),
            _ => config.device.clone(),
        });
    }

    /// Explains an error of the device that a run was started on.
    fn explained(&self, error: GpuError) -> anyhow::Error {
        match (&self.device, &self.started_on) {
            (None, Some(device)) => anyhow::Error::from(error).context(format!(
                "the run was started on `{device}`, which is not available now; choose another device with --device \
                 (`fmnist-gpu devices` lists them; the last bits may come out differently)"
            )),
            _ => error.into(),
        }
    }

    /// Opens the device, and prints what it is.
    pub async fn open(&self, global: &Global) -> Result<Device> {
        match self.name() {
            "reference" => Ok(Device::Reference),
            "cpu" => Ok(self.native(global)),
            "auto" => self.open_auto(global).await,
            _ => Ok(Device::Gpu(self.open_gpu(global).await?)),
        }
    }

    async fn open_auto(&self, global: &Global) -> Result<Device> {
        let how = match open_silently(DeviceChoice::Hardware, self.safe, pipelines()).await {
            Ok(gpu) => {
                announce(&gpu, global);
                return Ok(Device::Gpu(gpu));
            }
            Err(GpuError::NoHardware { software, index }) => {
                format!("`--device {index}` runs the shaders on {software} instead")
            }
            Err(error) if is_without_adapter(&error) => {
                "`sh scripts/setup.sh` installs a software adapter that can run the shaders".to_string()
            }
            Err(error) => return Err(error.into()),
        };
        let device = self.native(global);
        global.say(format!("No hardware GPU was found: computing on the CPU with the native engine; {how}."));
        Ok(device)
    }

    /// Prepares to open the device again after it was lost, or was not available: waits for a driver that is reset.
    pub fn wait_for(&mut self, error: &anyhow::Error, interrupt: &AtomicBool) -> Result<()> {
        match gpu_error(error) {
            // The same adapter, for the same bits: not another one, nor the CPU, that is available while a reset driver is not.
            Some(GpuError::DeviceLost { adapter, .. }) if self.name() == "auto" => self.device = Some(adapter.clone()),
            Some(GpuError::DeviceLost { .. }) => {}
            _ => {
                let waiting = Instant::now();
                while waiting.elapsed() < Duration::from_secs(5) {
                    if interrupt.load(Ordering::Relaxed) {
                        return Err(Interrupted.into());
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        Ok(())
    }

    /// Whether `--device` names what is no adapter.
    pub fn names_no_adapter(&self) -> bool {
        matches!(self.name(), "cpu" | "reference")
    }

    /// Whether the user named an adapter, here or by `WGPU_ADAPTER_NAME`.
    pub fn is_named(&self) -> bool {
        !self.names_no_adapter() && (self.name() != "auto" || is_named_by_environment())
    }

    /// The native engine's threads.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(NativeEngine::default_threads, usize::from)
    }

    fn native(&self, global: &Global) -> Device {
        let device = Device::Native(self.threads());
        let [name, driver, _] = device.describe();
        global.say(format!("Device: {name} (cpu, {driver}, {})", counted(self.threads(), "thread")));
        device
    }

    /// Opens an adapter, a software one too, for commands that are about shaders.
    pub async fn open_gpu(&self, global: &Global) -> Result<Gpu> {
        // The program's own folder, beside the data that it downloaded.
        self.open_keeping(global, pipelines()).await
    }

    /// As [`DeviceArgs::open_gpu`], with every pipeline compiled afresh and none kept: for a self-test, which is about the
    /// compiler too, and whose many sizes no later run needs.
    pub async fn open_fresh(&self, global: &Global) -> Result<Gpu> {
        self.open_keeping(global, None).await
    }

    /// As [`DeviceArgs::open_fresh`]; `None` if `--device cpu` asks for no shaders, or if `--device auto` finds no adapter, which is reported.
    pub async fn open_shaders(&self, global: &Global) -> Result<Option<Gpu>> {
        if self.name() == "cpu" {
            return Ok(None);
        }
        match self.open_fresh(global).await {
            Err(error) if self.name() == "auto" && error.downcast_ref().is_some_and(is_without_adapter) => {
                global.say(format!("No shaders are tested: {error}"));
                Ok(None)
            }
            opened => opened.map(Some),
        }
    }

    /// The same device once more, silently, with wgpu's run-time checks or without.
    pub async fn open_again(&self, checked: bool) -> Result<Gpu> {
        Ok(open_silently(self.choice(), checked, None).await?)
    }

    fn choice(&self) -> DeviceChoice {
        self.name().into()
    }

    async fn open_keeping(&self, global: &Global, pipeline_cache: Option<PathBuf>) -> Result<Gpu> {
        let name = self.name();
        if self.names_no_adapter() {
            bail!("this command is about shaders, and --device {name} runs none; name an adapter, or omit the flag");
        }
        let opened = open_silently(self.choice(), self.safe, pipeline_cache).await;
        let gpu = opened.map_err(|error| self.explained(error))?;
        announce(&gpu, global);
        if gpu.is_software() && name == "auto" {
            global.say("No hardware GPU was found: the shaders run on a software (CPU) adapter.");
        }
        Ok(gpu)
    }
}

/// Whether an error is that of a device that was lost or is not available, which may come back.
pub fn is_gone(error: &anyhow::Error) -> bool {
    matches!(
        gpu_error(error),
        Some(
            GpuError::DeviceLost { .. }
                | GpuError::NoAdapter { .. }
                | GpuError::NoSuchAdapter { .. }
                | GpuError::OpenDevice { .. }
        )
    )
}

async fn open_silently(choice: DeviceChoice, checked: bool, pipeline_cache: Option<PathBuf>) -> Result<Gpu, GpuError> {
    Gpu::open(&GpuOptions { choice, checked, pipeline_cache, ..GpuOptions::default() }).await
}

fn is_named_by_environment() -> bool {
    std::env::var_os("WGPU_ADAPTER_NAME").is_some_and(|name| !name.is_empty())
}

/// Whether an error means that there is no adapter at all, and none was asked for by name.
fn is_without_adapter(error: &GpuError) -> bool {
    !is_named_by_environment() && matches!(error, GpuError::NoAdapter { .. })
}

/// Where compiled pipelines are kept.
fn pipelines() -> Option<PathBuf> {
    Places::from_environment().cache_dir.map(|folder| folder.join("pipelines"))
}

fn announce(gpu: &Gpu, global: &Global) {
    let info = gpu.info();
    global.say(format!("Device: {} ({}, {}, {})", info.name, info.backend, info.device_type, info.driver));
}
