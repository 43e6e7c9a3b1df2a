//! Trains, evaluates and explains image classifiers on Fashion-MNIST. Hand-written WGSL compute shaders run through
//! wgpu on Vulkan, Metal and DX12, on GPUs of any vendor; without a GPU, a native engine runs on the CPU.
//!
//! # Training a model in a few lines
//!
//! ```
//! use fmnist_gpu::data::{Split, synthetic};
//! use fmnist_gpu::model::{Model, initial_parameters};
//! use fmnist_gpu::ops::adam::AdamConfig;
//! use fmnist_gpu::engine::{Engine, NativeEngine, Optimizer};
//! use fmnist_gpu::train::{Position, TrainOptions, train};
//! use std::ops::ControlFlow;
//! use std::sync::atomic::AtomicBool;
//!
//! let (training, test) = synthetic::generate(64, 32, 1);
//! let model = Model::mlp();
//! let weights = initial_parameters(&model.parameters()?, 0);
//! let optimizer = Optimizer::Adam(AdamConfig::default());
//! // On the CPU, which works everywhere; on an adapter, use `GpuEngine::new(&Gpu::open(..).await?, ..)`.
//! let mut engine = NativeEngine::new(&model, &weights, 2)?.and_training(&training, 32, &optimizer)?;
//!
//! let options = TrainOptions::new(2, training.len(), 32, optimizer);
//! let never = AtomicBool::new(false);
//! // What may have to wait for a device is asynchronous, because a page in a browser must not block. A program may.
//! let trained = pollster::block_on(train(&mut engine, &options, Position::default(), &Split::default(), &never, &mut |_, _| {}))?;
//! let history = trained.position.history;
//! assert!(history[1].loss < history[0].loss);
//!
//! let totals = pollster::block_on(engine.evaluate(&test, &mut |_| ControlFlow::Continue(())))?;
//! println!("accuracy {:.3}", totals.accuracy());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/` shows the same on a GPU, a custom kernel, and an inference loop.
//!
//! # Where to start reading
//!
//! - To learn how training works: [`cpu`], whose loops are the specification, then a shader of the same name, then
//!   [`train`] for the loop around them.
//! - To reuse the kernels: [`gpu`] (a device, tensors, a [`gpu::Plan`]) and the `record_...` functions of [`ops`].
//! - To reuse a trained model: [`export`], or [`run::Run::open`] and [`engine::GpuEngine`].
//!
//! # Structure
//!
//! Data flows one way: [`data`] and [`model`] -> program ([`lower`]) -> [`engine`] -> [`train`] -> [`run`] -> evaluation,
//! prediction, [`report`].
//!
//! - [`gpu`]: adapter and device, tensors, kernels (pipelines), plans (recorded dispatches). Knows nothing about
//!   layers.
//! - [`cpu`]: every operation as the plainest possible loops, generic over single and double precision: the
//!   specification.
//! - [`native`]: fast CPU implementations of the operations, tested against the same specification.
//! - [`ops`]: the host side of each operation: its kernels as data, how to record it.
//! - [`verify`]: the proof of each operation, which compares its kernels with their mirrors; used by `fmnist-gpu
//!   selftest` and the tests. [`verify::OPS`] lists every kernel.
//! - [`data`]: IDX files, the Fashion-MNIST download and cache, the generated stand-in set.
//! - [`model`]: graphs of layers as data, the built-in models, initial weights, weight files.
//! - [`lower`]: turns a model into a program of steps, forward and backward; the only code that differentiates.
//! - [`engine`]: GPU, CPU and plain loops, which run programs and know no layers.
//! - [`train`]: the loop over epochs.
//! - [`run`]: the run folder, with checkpoints.
//! - [`session`]: training and evaluation as a user means them.
//! - [`export`], [`import`]: models to and from the formats of other tools.
//! - [`photo`]: turns the user's photos into network inputs.
//! - [`report`]: charts and pages for people.
//! - [`tensorboard`]: event files.
//!
//! No two modules import each other: a table in `tests/registry.rs` lists what each may import. Each operation has
//! files of the same name: `shaders/<op>.wgsl`, `src/ops/<op>.rs`, `src/cpu/<op>.rs`,
//! `src/verify/<op>.rs`, `tests/<op>.rs`; and `src/native/<op>.rs` with its proof `src/verify/native/<op>.rs`, if there are loops of its own.
//!
//! # Features
//!
//! By default everything is compiled. Without features, the library is its core: models, engines, training, exports and reports, which touch no
//! file, thread, environment, network or process. The features add:
//!
//! - `native`: the engine that computes on the CPU, with threads and vector instructions; in a browser with one thread ([`native`], [`engine::NativeEngine`]).
//! - `disk`: files and the environment. Data sets, model files, runs, photos by their paths, [`tensorboard`], compiled pipelines and tile sizes
//!   that are kept between runs, and the variables that choose an adapter.
//! - `download`: the data set from the network. Implies `disk`.
//! - `cli`: the program, with all of the above. The default.
//! - `web`: WebGPU in a browser, with the core alone: `cargo build --lib --target wasm32-unknown-unknown --no-default-features --features web`.
//!
//! # What a training step does
//!
//! Everything stays on the GPU: the data set is uploaded once, as bytes; the permutation and the step sizes are
//! uploaded once per epoch. A step is a [`gpu::Plan`], recorded once: gather the batch, forward pass, loss with its
//! gradient, backward pass, update. Each submission contains many steps, a number that is adjusted to their measured
//! time; the host only reads back the losses while the next submission runs.
//!
//! On the CPU, the same program runs over tensors that are allocated once. Threads divide the rows of the batch between
//! them, then the parameters; see [`engine::NativeEngine`].

#![deny(missing_docs)]

mod clock;
pub mod cpu;
pub mod data;
pub mod engine;
pub mod export;
pub mod files;
pub mod gpu;
pub mod import;
pub mod lower;
pub mod model;
#[cfg(feature = "native")]
pub mod native;
pub mod ops;
pub mod photo;
pub mod report;
pub mod run;
pub mod session;
#[cfg(feature = "disk")]
pub mod tensorboard;
mod text;
mod threads;
pub mod train;
pub mod verify;
