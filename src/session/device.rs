//! What computes: the one place that knows which engine belongs to which device.

use super::Plan;
#[cfg(feature = "native")]
use super::processor;
use crate::data::Split;
#[cfg(feature = "native")]
use crate::engine::NativeEngine;
use crate::engine::{Engine, EngineError, GpuEngine, KernelTimes, ReferenceEngine, StepConfig};
use crate::gpu::{Gpu, GpuError, Tiling};
use crate::model::Model;
use crate::ops::SharedTiles;

/// What computes.
#[derive(Debug)]
pub enum Device {
    /// An adapter.
    Gpu(Gpu),
    /// The native engine, with this number of threads.
    #[cfg(feature = "native")]
    Native(usize),
    /// The plain loops.
    Reference,
}

impl Device {
    /// Name, driver and backend, as the files of a run have them.
    pub fn describe(&self) -> [String; 3] {
        match self {
            Device::Gpu(gpu) => [gpu.info().name.clone(), gpu.info().driver.clone(), gpu.info().backend.clone()],
            // Without the number of threads, which changes no result.
            #[cfg(feature = "native")]
            Device::Native(_) => processor::describe(),
            Device::Reference => {
                let version = format!("fmnist-gpu {}", env!("CARGO_PKG_VERSION"));
                ["reference (plain loops)".to_string(), version, "reference".to_string()]
            }
        }
    }

    /// The adapter, if it is one.
    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Device::Gpu(gpu) => Some(gpu),
            _ => None,
        }
    }

    /// Whether results depend on the tile sizes in workgroup memory.
    pub fn has_tiles(&self) -> bool {
        self.gpu().is_some_and(|gpu| gpu.tiling() == Tiling::Shared)
    }

    /// An engine that evaluates a model.
    ///
    /// # Errors
    /// The model cannot be built, or the device failed.
    pub fn evaluator(&self, model: &Model, parameters: &[Vec<f32>]) -> Result<Box<dyn Engine>, EngineError> {
        Ok(match self {
            Device::Gpu(gpu) => Box::new(GpuEngine::new(gpu, model, parameters)?),
            #[cfg(feature = "native")]
            Device::Native(threads) => Box::new(NativeEngine::new(model, parameters, *threads)?),
            Device::Reference => {
                let step = StepConfig::default();
                Box::new(ReferenceEngine::<f32>::new(model, parameters, &Split::default(), 100, &step)?)
            }
        })
    }

    /// An engine that trains a model. Devices without [tiles](Device::has_tiles) ignore `tiles`.
    ///
    /// # Errors
    /// The model cannot be built, the samples cannot be used, the batch does not fit, or the device failed.
    pub async fn trainer<'d>(
        &self,
        model: &Model,
        parameters: &[Vec<f32>],
        train: &'d Split,
        batch_size: usize,
        config: &StepConfig,
        tiles: SharedTiles,
    ) -> Result<Box<dyn Engine + 'd>, EngineError> {
        Ok(match self {
            Device::Gpu(gpu) => {
                let engine = GpuEngine::new(gpu, model, parameters)?.with_tiles(tiles);
                let engine = engine.and_training(train, batch_size, config).await;
                Box::new(engine.map_err(|error| too_large(error, gpu, model, batch_size))?)
            }
            #[cfg(feature = "native")]
            Device::Native(threads) => {
                let engine = NativeEngine::new(model, parameters, *threads)?;
                Box::new(engine.and_training(train, batch_size, config)?)
            }
            Device::Reference => Box::new(ReferenceEngine::<f32>::new(model, parameters, train, batch_size, config)?),
        })
    }

    /// Times the kernels of a training step of a model; the samples are for the native engine. `None` for the plain loops.
    ///
    /// # Errors
    /// The model cannot be built, or the device failed.
    #[cfg_attr(
        not(feature = "native"),
        expect(unused_variables, reason = "an adapter takes its time whatever the values")
    )]
    pub async fn kernel_times(
        &self,
        model: &Model,
        parameters: &[Vec<f32>],
        samples: &Split,
        batch_size: usize,
        config: &StepConfig,
        tiles: SharedTiles,
    ) -> Result<Option<KernelTimes>, EngineError> {
        match self {
            Device::Gpu(gpu) => KernelTimes::measure(gpu, model, batch_size, config, tiles).await.map(Some),
            #[cfg(feature = "native")]
            Device::Native(_) => {
                let [name, ..] = self.describe();
                KernelTimes::measure_native(&name, model, parameters, samples, batch_size, config).map(Some)
            }
            Device::Reference => Ok(None),
        }
    }
}

/// Before training.
impl Device {
    /// The adapter, if something will be trained on it.
    fn trained_on(&self, plan: &Plan) -> Option<&Gpu> {
        self.gpu().filter(|_| plan.recipe.epochs > 0)
    }

    /// Checks that no step keeps an adapter busy for so long that its driver resets it, before anything of that size runs. Other errors are
    /// reported, better explained, when the engine is created.
    ///
    /// # Errors
    /// A step would take too long.
    pub async fn check_time(&self, plan: &Plan) -> Result<(), EngineError> {
        let Some(gpu) = self.trained_on(plan) else { return Ok(()) };
        match GpuEngine::check_time(gpu, &plan.model, plan.recipe.batch_size, &plan.step).await {
            Err(error @ EngineError::Slow { .. }) => Err(error),
            Err(error) => {
                log::debug!("no step could be timed: {error}");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The tile sizes to train with: those of the run that is resumed, since others would sum in another order, or those that `choose`
    /// returns for the adapter.
    pub async fn tiles(&self, plan: &Plan, choose: impl AsyncFnOnce(&Gpu) -> SharedTiles) -> SharedTiles {
        match (plan.begun.as_ref().and_then(|config| config.tiles), self.trained_on(plan)) {
            (Some(begun), _) => begun,
            (None, Some(gpu)) => choose(gpu).await,
            (None, None) => SharedTiles::default(),
        }
    }

    /// Compiles the kernels of the training, while something else is waited for, as long as they are `wanted`. Returns whether they are ready.
    pub async fn compile(&self, plan: &Plan, tiles: SharedTiles, wanted: &dyn Fn() -> bool) -> bool {
        let Some(gpu) = self.trained_on(plan).filter(|_| wanted()) else { return false };
        let Plan { model, recipe, step, .. } = plan;
        let compiled = GpuEngine::prepare_training(gpu, model, recipe.batch_size, step, tiles, wanted).await;
        // The error is reported when the engine is created.
        compiled.inspect_err(|error| log::debug!("the kernels could not be prepared: {error}")).is_ok()
    }
}

/// Adds the largest batch size that fits to the error of one that does not.
fn too_large(error: EngineError, gpu: &Gpu, model: &Model, batch_size: usize) -> EngineError {
    match error {
        EngineError::Gpu(source @ GpuError::TensorTooLarge { .. }) => match GpuEngine::largest_batch(gpu, model) {
            Ok(largest) if largest < batch_size => EngineError::TooLarge { batch_size, largest, source },
            _ => EngineError::Gpu(source),
        },
        error => error,
    }
}
