//! The command line: one file a subcommand. Arguments as typed become validated values before anything is touched.

mod bench;
mod compare;
mod completions;
mod device;
mod devices;
mod doctor;
mod evaluate;
mod export;
mod filter;
mod import;
mod picture;
mod predict;
mod profile;
mod progress;
mod report;
mod samples;
mod selftest;
mod source;
mod summary;
mod train;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Train, evaluate and explain Fashion-MNIST classifiers with hand-written WGSL compute shaders, on any GPU.
///
/// Start with `fmnist-gpu train`: it finds or downloads Fashion-MNIST, trains a convolutional network for five epochs,
/// evaluates it on the test set, and writes weights, history and pictures into a run folder. Without a GPU it trains on the
/// processor.
#[derive(Debug, Parser)]
#[command(name = "fmnist-gpu", version, propagate_version = true, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 done; 1 the work ran and its verdict is negative (a self-test failed, training met a \
                          loss that is not finite); 2 it could not run (bad input, no adapter, no data); 130 interrupted.";

/// Flags of every command.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Say nothing but results and errors
    #[arg(long, short, global = true, display_order = 900)]
    quiet: bool,
    /// Say more; twice for the messages of wgpu
    #[arg(long, short, global = true, action = clap::ArgAction::Count, display_order = 901)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model, evaluate it, and write a run folder
    Train(train::TrainArgs),
    /// Loss and accuracy of a trained model on the test set
    Evaluate(evaluate::EvaluateArgs),
    /// Say what is on photos of your own, or on test images
    Predict(predict::PredictArgs),
    /// Make a page of a run: curves, confusion, calibration, mistakes, feature maps
    Report(report::ReportArgs),
    /// Set runs side by side, such as "without CNN" and "with CNN"
    Compare(compare::CompareArgs),
    /// Write a trained model for ONNX, PyTorch, Keras or NumPy
    Export(export::ExportArgs),
    /// Make a run from weights of PyTorch or Keras
    Import(import::ImportArgs),
    /// See what a convolution does: slide a filter over a picture, or print a small example with its numbers
    Filter(filter::FilterArgs),
    /// Draw the first images of the data set with their class names
    Samples(samples::SamplesArgs),
    /// List what --device can name on this machine
    Devices(devices::DevicesArgs),
    /// One page for a bug report: version, system, adapters, limits, environment, self-test, speed
    Doctor(doctor::DoctorArgs),
    /// Compare every kernel on this machine's adapter, and the native engine, with the plain loops in double precision
    Selftest(selftest::SelftestArgs),
    /// Measure the speed of training and inference
    Bench(bench::BenchArgs),
    /// Show how long each kernel of a training step takes, beside what the adapter can do
    Profile(profile::ProfileArgs),
    /// Show the layers, shapes, parameters and work of a model
    Summary(summary::SummaryArgs),
    /// Print what makes a shell complete commands and flags
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(completions::ManArgs),
}

/// Parses the command line and runs the command.
pub fn run() -> Result<ExitCode> {
    quiet_drivers();
    let Cli { global, command } = Cli::parse();
    init_log(&global);
    match command {
        Command::Train(args) => train::run(args, &global),
        Command::Evaluate(args) => evaluate::run(args, &global),
        Command::Predict(args) => predict::run(args, &global),
        Command::Report(args) => report::run(args, &global),
        Command::Compare(args) => compare::run(args, &global),
        Command::Export(args) => export::run(args, &global),
        Command::Import(args) => import::run(args, &global),
        Command::Filter(args) => filter::run(args, &global),
        Command::Samples(args) => samples::run(args, &global),
        Command::Devices(args) => devices::run(args),
        Command::Doctor(args) => doctor::run(args, &global),
        Command::Selftest(args) => selftest::run(args, &global),
        Command::Bench(args) => bench::run(args, &global),
        Command::Profile(args) => profile::run(args, &global),
        Command::Summary(args) => summary::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => completions::run_man(args, &global),
    }
}

/// An error with its causes, each said once: most messages of the library quote their cause themselves.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Keeps Mesa's device selection layer from complaining about a missing desktop, in containers and over ssh.
fn quiet_drivers() {
    let is_set = |name| std::env::var_os(name).is_some();
    if cfg!(unix) && !is_set("XDG_RUNTIME_DIR") && !is_set("MESA_VK_DEVICE_SELECT") && !is_set("NODEVICE_SELECT") {
        // SAFETY: this is the first thing that the program does, and no other thread exists yet that could read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

fn init_log(global: &Global) {
    // Drivers are talkative at start-up; what matters comes back as an error.
    let filter = match global.verbose {
        0 => "off",
        1 => "fmnist_gpu=debug",
        _ => "fmnist_gpu=debug,wgpu_core=info,wgpu_hal=info,warn",
    };
    let environment = env_logger::Env::default().default_filter_or(filter);
    // A second initialisation could only happen in a test of this function.
    let _ = env_logger::Builder::from_env(environment).try_init();
}

impl Global {
    /// A line for people, on standard error; not with `--quiet`.
    fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

/// Prints a result on standard output. A reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("writing to standard output"),
    }
}

/// Prints a result as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value).context("making JSON")?)
}

/// A flag that Ctrl-C sets. The second Ctrl-C leaves at once: files appear whole or not at all, so nothing breaks.
fn interrupt_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            leave_at_once();
        }
        eprintln!("\nstopping after the work in flight (Ctrl-C again to leave at once)");
    })
    .context("installing the Ctrl-C handler")?;
    Ok(flag)
}

/// Ends the process with the exit code 130, whatever its other threads are doing.
///
/// On Unix without the exit handlers of libraries: those of a Vulkan driver take down what a thread is still working with, and NVIDIA's
/// ended in a segmentation fault.
fn leave_at_once() -> ! {
    #[cfg(unix)]
    // SAFETY: `_exit` takes any number and touches no memory of the program; what is half-written lies in files of other names.
    unsafe {
        libc::_exit(i32::from(INTERRUPTED))
    }
    #[cfg(not(unix))]
    std::process::exit(i32::from(INTERRUPTED))
}

/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;
