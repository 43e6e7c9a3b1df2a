//! Trains, evaluates and explains image classifiers on Fashion-MNIST with hand-written WGSL compute shaders through wgpu:
//! on Vulkan, Metal and DX12, on any vendor's GPU; and by a native engine on the processor where there is none.
//!
//! # A model trained in a few lines
//!
//! ```
//! use fmnist_gpu::data::{Split, synthetic};
//! use fmnist_gpu::model::{Model, initial_parameters};
//! use fmnist_gpu::ops::adam::AdamConfig;
//! use fmnist_gpu::train::{Engine, NativeEngine, Optimizer, Position, TrainOptions, train};
//! use std::ops::ControlFlow;
//! use std::sync::atomic::AtomicBool;
//!
//! let (training, test) = synthetic::generate(64, 32, 1);
//! let model = Model::mlp();
//! let weights = initial_parameters(&model.parameters()?, 0);
//! let optimizer = Optimizer::Adam(AdamConfig::default());
//! // On the processor, as this runs anywhere; on an adapter it is `GpuEngine::with_training(&Gpu::open(..)?, ..)`.
//! let mut engine = NativeEngine::with_training(&model, &weights, &training, 32, &optimizer, 2)?;
//!
//! let options = TrainOptions::new(2, training.len(), 32, optimizer);
//! let trained = train(&mut engine, &options, Position::default(), &Split::default(), &AtomicBool::new(false), &mut |_| {})?;
//! let history = &trained.position.history;
//! assert!(history[1].loss < history[0].loss);
//!
//! let totals = engine.evaluate(&test, &mut |_| ControlFlow::Continue(()))?;
//! println!("accuracy {:.3}", totals.accuracy());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The same with a GPU, a kernel of one's own and a loop of predictions are in `examples/`.
//!
//! # Where to begin reading
//!
//! - To learn how training works: [`cpu`], whose loops are the specification, then a shader of the same name, then
//!   [`train`] for the loop around them.
//! - To reuse the kernels: [`gpu`] (a device, tensors, a [`gpu::Plan`]) and the `record_...` functions of [`ops`].
//! - To reuse a trained model: [`export`], or [`train::run::Run::open`] and [`train::GpuEngine`].
//!
//! # How it is laid out
//!
//! Data flows one way: [`data`] -> [`model`] -> plan -> [`train`] -> run folder -> evaluation, prediction, [`report`].
//!
//! - [`gpu`]: adapter and device, tensors, kernels (pipelines), plans (recorded dispatches). Knows nothing of layers.
//! - [`cpu`]: every operation as the plainest loops, generic over single and double precision: the specification.
//! - [`native`]: the operations as a processor computes them fast, held to the same specification.
//! - [`ops`]: the host side of each operation: its kernels as data, how it is recorded, how it is proven.
//! - [`verify`]: comparing kernels with their mirrors, behind `fmnist-gpu selftest` and the tests.
//! - [`data`]: IDX files, the Fashion-MNIST download and cache, the generated stand-in set.
//! - [`model`]: layers as data, the built-in models, initial weights, weight files.
//! - [`train`]: the engines (GPU, processor, plain loops), the loop over epochs, the run folder.
//! - [`export`], [`import`]: models in the formats of other tools, and back.
//! - [`photo`]: picture files of the user, as the network wants them.
//! - [`report`]: pictures and pages for people.
//! - [`tensorboard`]: event files.
//!
//! `gpu`, `cpu` and `native` import nothing from the modules above them. An operation has one stem in four places:
//! `shaders/<op>.wgsl`, `src/ops/<op>.rs`, `src/cpu/<op>.rs`, `tests/<op>.rs`.
//!
//! # What a training step does
//!
//! Everything stays on the GPU: the data set is uploaded once as bytes, an epoch's permutation and step sizes once an epoch.
//! A step is a [`gpu::Plan`], recorded once: gather the batch, forward, loss with its gradient, backward, update.
//! Many steps go into one submission, sized by measured time; the host only reads the losses back while the next one runs.
//!
//! On the processor the same list of layers becomes a list of calls over tensors that are made once. Threads share out the rows of the batch,
//! and then the parameters; see [`train::NativeEngine`].

#![deny(missing_docs)]

pub mod cpu;
pub mod data;
pub mod export;
pub mod files;
pub mod gpu;
pub mod import;
pub mod model;
pub mod native;
pub mod ops;
pub mod photo;
pub mod report;
pub mod tensorboard;
pub mod train;
pub mod verify;
