//! All tests of the project: one binary, one module an operation, then the parts above them.
//!
//! A test without an adapter fails, and says how to get one. Tests on the genuine data run where `../shared/fashion-mnist` or
//! `$FMNIST_TEST_DATA` has it, and say so where not.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

/// The shared adapter, case tables, temporary folders.
mod support;

/// Kernels against their mirrors, operation by operation.
mod adam;
mod autotune;
mod batch_gather;
mod bias;
mod conv2d;
mod dense;
mod pool2d;
mod relu;
mod sgd;
mod softmax_xent;

/// Speeds, peaks and timings: that they are measured, not how high they are.
mod bench;
/// The mirrors against finite differences and hand-made examples.
mod gradients;
/// Proof that the comparisons can fail.
mod negative;
mod non_finite;
/// Conventions as tests: every entry point has its spec, mirror, test and header.
mod registry;
/// Every shader through the writers for Vulkan, Metal and DX12; needs no GPU.
mod shaders;

/// Checkpoints: kills, interrupts, damage.
mod checkpoints;
/// Faults in every system call that saves.
#[cfg(unix)]
mod crash_points;
/// What goes wrong around a training: numbers, disks, folders, devices, sizes.
mod faults;
/// The device layer: choice of adapter, wrong dispatches, a lost device.
mod gpu;
/// Layers as data, weight files.
mod model;
/// The native engine: its loops, its bits, the program without an adapter.
mod native;
/// Faults in every write to standard output and standard error.
#[cfg(unix)]
mod output_calls;
/// Pipelines kept from one run to the next: good files, bad files, no folder.
mod pipeline_cache;
/// Every folder that a power loss may leave of a training.
#[cfg(unix)]
mod power_loss;
/// Training as a whole: against Keras, against the mirrors, the same seed twice, a batch learnt by heart.
mod training;

/// Files of the data set: every way in which they can be wrong.
mod data;
/// The downloader against a local server.
mod download;
/// The examples, run.
mod examples;
/// Models for other tools, opened by those tools.
mod export;
/// One filter over one picture.
mod filter;
/// Bytes of strangers: the seeds of fuzzing and what it found.
mod fuzz;
/// Weights of other tools: good files, files that fit twice or not at all, damaged files.
mod import;
/// Photos of one's own: decoding, what is done to them, what is doubted.
mod photo;
/// The pictures.
mod report;
/// The report and the comparison: figures, plots, pages, and how a browser shows them.
mod report_page;
/// The generated set.
mod synthetic;
/// Event files, read back, and opened by TensorBoard.
mod tensorboard;

/// The program from outside: commands, files, errors, exit codes.
mod cli;
