//! Training: the engines, the loop over epochs, and the run folder.

mod autotune;
pub mod checkpoint;
pub mod engine;
mod gpu_batches;
mod gpu_engine;
mod gpu_limits;
mod kernel_times;
mod native_batch;
mod native_engine;
mod native_network;
mod network;
mod reference;
pub mod run;
pub mod run_folder;
mod trainer;

pub use autotune::{TileChoices, autotune};
pub use engine::{Engine, EngineError, Epoch, NonFinite, Optimizer, State, Totals};
pub use gpu_engine::{Evaluator, GpuEngine};
pub use kernel_times::{KernelTime, KernelTimes};
pub use native_engine::NativeEngine;
pub use reference::{Batch, Pass, ReferenceEngine};
pub use trainer::{EpochRecord, Event, Outcome, Position, TrainOptions, Trained, train};
