//! All tests of the project: one binary, one module per operation, then the parts above them.
//!
//! A test without an adapter fails and says how to get one. Tests on the genuine data run if it is in
//! `../shared/fashion-mnist` or `$FMNIST_TEST_DATA`, and report it if it is not.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

/// The shared adapter, tables of cases, temporary folders.
mod support;

/// Kernels compared with their mirrors, operation by operation.
mod adam;
mod add;
mod augment;
mod autotune;
mod average;
mod batch_gather;
mod batchnorm;
mod bias;
mod clip;
mod conv2d;
mod dense;
mod dropout;
mod gelu;
mod groupedconv2d;
mod head;
mod leakyrelu;
mod pool2d;
mod relu;
mod scale;
mod sgd;
mod silu;
mod softmax_xent;

/// Speeds, peaks and timings: whether they are measured, not how high they are.
mod bench;
/// How much the comparisons allow.
mod bounds;
/// The mirrors compared with finite differences and examples computed by hand.
mod gradients;
/// Proof that the proofs can fail.
mod mutants;
/// Proof that the comparisons can fail.
mod negative;
mod non_finite;
/// The page in real browsers.
mod page;
/// Conventions as tests: every entry point has its spec, mirror, test and header.
mod registry;
/// Every shader translated for Vulkan, Metal and DX12; needs no GPU.
mod shaders;

/// Checkpoints: kills, interrupts, damage.
mod checkpoints;
/// Every system call that saves, made to fail, and the program killed before it.
#[cfg(unix)]
mod crash_points;
/// When training ends before its last epoch, and with which weights.
mod early_stopping;
/// Failures during training: numbers, disks, folders, devices, sizes.
mod faults;
/// The device layer: choice of adapter, invalid dispatches, a lost device.
mod gpu;
/// Layers as data, weight files.
mod model;
/// The native engine: its loops, reproducible results, the program without an adapter.
mod native;
/// Optimizers and schedules against PyTorch, and training that is resumed in the middle of a schedule.
mod optimizers;
/// Every output call, made to fail.
#[cfg(unix)]
mod output_calls;
/// Layers without bias, frozen layers, initial values.
mod parameters;
/// Pipelines kept between runs: valid files, damaged files, no folder.
mod pipeline_cache;
/// What a power failure may leave of a training.
#[cfg(unix)]
mod power_loss;
mod programs;
/// Training and evaluation as library calls.
mod session;
/// The table of settings, and all that is made of it.
mod settings;
/// Training as a whole: compared with Keras and with the mirrors, the same seed twice, overfitting a single batch.
mod training;
mod views;
/// The page as a server and as a file.
mod web;

/// Any number of runs, sorted and drawn.
mod comparison;
/// Files of the data set: every way in which they can be invalid.
mod data;
/// The downloader with a local server.
mod download;
/// Runs the examples.
mod examples;
/// Models for other tools, opened by those tools.
mod export;
/// One filter applied to one image.
mod filter;
/// Untrusted input: the seeds of the fuzzers, and what fuzzing found.
mod fuzz;
/// Weights of other tools: valid files, ambiguous files, files that do not fit, damaged files.
mod import;
/// The user's own photos: decoding, processing, and doubtful results.
mod photo;
/// Plots, pictures, pages and texts compared with what is recorded.
mod recorded;
/// The charts and image grids.
mod report;
/// The report and the comparison: figures, plots, pages, and how a browser displays them.
mod report_page;
/// Times to an accuracy on the test set.
mod speedrun;
/// Many runs, driven by Ray Tune, Optuna and SLURM.
#[cfg(unix)]
mod sweeps;
/// The generated data set.
mod synthetic;
/// Event files, read back and opened by TensorBoard.
mod tensorboard;

/// The first tier: everything once.
mod quick;

/// The program from the outside: commands, files, errors, exit codes.
mod cli;
mod output;
mod replacement;
mod signals;
