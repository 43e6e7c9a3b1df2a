//! The command line: one file per subcommand. Arguments as typed become validated values before anything is touched.

mod advice;
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
mod page;
mod predict;
mod profile;
mod progress;
mod report;
mod resources;
mod samples;
mod selftest;
mod settings;
mod signals;
mod source;
mod speedrun;
mod summary;
pub mod terminal;
mod train;
mod views;
mod web;

use self::advice::{is_interruption, with_causes};
use self::signals::interrupt_flag;
use self::terminal::{print, print_result};
use anyhow::{Context, Result};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use fmnist_gpu::files::{ShownPath, write_whole};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Instant;
use thiserror::Error;

/// Train, evaluate and explain Fashion-MNIST classifiers with hand-written WGSL compute shaders, on any GPU.
///
/// Start with `fmnist-gpu train`: it finds or downloads Fashion-MNIST, trains a convolutional network for five epochs,
/// evaluates it on the test set, and writes weights, history and images into a run folder. Without a GPU it trains on the CPU.
#[derive(Debug, Parser)]
#[command(name = "fmnist-gpu", version, propagate_version = true, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 success; 1 the command ran and its verdict is negative (a self-test failed, the training loss \
                          became infinite or NaN, no speedrun reached its target); 2 it could not run, or could not save everything (bad input, no adapter, no data, \
                          a full disk); 130, 143, 129 stopped by Ctrl-C, SIGTERM, SIGHUP.";

/// Flags of every command.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Print only results and errors
    #[arg(long, short, global = true, display_order = 900)]
    quiet: bool,
    /// Print more; twice for the messages of wgpu
    #[arg(long, short, global = true, action = clap::ArgAction::Count, display_order = 901)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model, evaluate it, and write a run folder
    Train(train::TrainArgs),
    /// Measure loss and accuracy of a trained model on the test set
    Evaluate(evaluate::EvaluateArgs),
    /// Classify your own photos, or test images
    Predict(predict::PredictArgs),
    /// Write a report of a run: curves, confusion matrix, calibration, mistakes, feature maps
    Report(report::ReportArgs),
    /// Compare runs side by side, such as "without CNN" and "with CNN"
    Compare(compare::CompareArgs),
    /// Export a trained model to ONNX, PyTorch, Keras or NumPy, or as a web page
    Export(export::ExportArgs),
    /// Import weights from PyTorch or Keras as a run
    Import(import::ImportArgs),
    /// Show what a convolution does: apply a filter to an image, or print a small worked example
    Filter(filter::FilterArgs),
    /// Draw the first training images with their class names
    Samples(samples::SamplesArgs),
    /// Serve the page that trains in a browser, to this machine only, with its data and runs
    Web(web::WebArgs),
    /// List the devices of this machine, for --device
    Devices(devices::DevicesArgs),
    /// Collect facts for a bug report: version, system, adapters, limits, environment, self-test, speed
    Doctor(doctor::DoctorArgs),
    /// Check every kernel on this machine's adapter, and the native engine, against plain loops in double precision
    Selftest(selftest::SelftestArgs),
    /// Measure the speed of training and inference
    Bench(bench::BenchArgs),
    /// Time trainings until they reach an accuracy on the test set, over several seeds
    Speedrun(speedrun::SpeedrunArgs),
    /// Time each kernel of a training step and compare it with the adapter's peak
    Profile(profile::ProfileArgs),
    /// Print the layers, shapes, parameters and operations of a model
    Summary(summary::SummaryArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page, or write one per command
    Man(completions::ManArgs),
}

/// When the program started.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Runs the command that the arguments name, and waits until what it printed is written.
pub fn main() -> ExitCode {
    LazyLock::force(&START);
    quiet_drivers();
    report_panics();
    let mut code = run().unwrap_or_else(|error| {
        terminal::complain(with_causes(error.as_ref()));
        if is_interruption(&error) { signals::exit_code() } else { ExitCode::from(2) }
    });
    if let Err(error) = terminal::finish() {
        terminal::complain(format_args!("standard output could not be written: {error}"));
        let _ = terminal::finish();
        // A negative verdict stays one.
        if code == ExitCode::SUCCESS {
            code = ExitCode::from(2);
        }
    }
    code
}

fn run() -> Result<ExitCode> {
    signals::listen()?;
    let Cli { global, command } = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come this way too.
        Err(message) => return Ok(print_message(&message)),
    };
    init_log(&global);
    fmnist_gpu::native::check_environment()?;
    // The one place that waits: commands are asynchronous as far as they may wait for a device.
    pollster::block_on(carry_out(command, &global))
}

async fn carry_out(command: Command, global: &Global) -> Result<ExitCode> {
    match command {
        Command::Train(args) => return train::run(args, global).await,
        Command::Evaluate(args) => return evaluate::run(args, global).await,
        Command::Predict(args) => return predict::run(args, global).await,
        Command::Report(args) => report::run(args, global).await?,
        Command::Compare(args) => compare::run(args, global)?,
        Command::Export(args) => export::run(args, global)?,
        Command::Import(args) => import::run(args, global)?,
        Command::Filter(args) => filter::run(args, global).await?,
        Command::Samples(args) => samples::run(args, global)?,
        Command::Web(args) => return web::run(args, global),
        Command::Devices(args) => return devices::run(args).await,
        Command::Doctor(args) => return doctor::run(args, global).await,
        Command::Selftest(args) => return selftest::run(args, global).await,
        Command::Bench(args) => return bench::run(args, global).await,
        Command::Speedrun(args) => return speedrun::run(args, global).await,
        Command::Profile(args) => return profile::run(args, global).await,
        Command::Summary(args) => summary::run(args)?,
        Command::Completions(args) => completions::run(args)?,
        Command::Man(args) => completions::run_man(args, global)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what clap has to say: help and version as results, errors as such.
fn print_message(message: &clap::Error) -> ExitCode {
    let text = message.render();
    match message.use_stderr() {
        // An error quotes what was typed, which may hold anything of any length.
        true => terminal::say(with_short_arguments(text.to_string()).trim_end()),
        false => terminal::print_help(text.to_string().trim_end(), text.ansi().to_string().trim_end()),
    }
    ExitCode::from(message.exit_code() as u8)
}

/// The text with the middle of very long arguments left out.
fn with_short_arguments(mut text: String) -> String {
    for argument in std::env::args_os() {
        let argument = argument.to_string_lossy();
        // A flag and its value may be one argument, of which clap quotes only the value.
        for part in argument.split('=').filter(|part| part.chars().count() > 100) {
            let start: String = part.chars().take(40).collect();
            text = text.replace(part, &format!("{start}... ({} characters)", part.chars().count()));
        }
    }
    text
}

/// The command ended because of a signal.
#[derive(Debug, Error)]
#[error("interrupted")]
struct Interrupted;

/// Reports a panic like any other error, except one inside an image decoder, which becomes an error of that file.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if !fmnist_gpu::photo::is_decoding() {
            terminal::complain(format_args!(
                "{panic}\nThis is a defect of the program. Please report it with the output of `fmnist-gpu doctor`."
            ));
            let _ = terminal::finish();
        }
    }));
}

/// Parses the name of a file or folder to write.
fn output_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|text| match text.to_str() {
        Some("-") => Err("`-` is not a file, and nothing is written to standard output; ./- is a file of that name"),
        Some("") => Err("the name is empty"),
        _ => Ok(PathBuf::from(text)),
    })
}

/// A path as an argument for a shell.
fn shell_quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into_owned();
    }
    if text.chars().any(char::is_control) {
        return format!("$'{}'", path.shown().replace('\'', "\\'"));
    }
    format!("'{}'", text.replace('\'', "'\\''"))
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
    let target = env_logger::Target::Pipe(terminal::log());
    let mut builder = env_logger::Builder::from_env(environment);
    builder.target(target).format(|line, record| {
        let (seconds, level, target) = (START.elapsed().as_secs_f64(), record.level(), record.target());
        writeln!(line, "[{seconds:.3} s {level} {target}] {}", record.args())
    });
    // A second initialisation could only happen in a test of this function.
    let _ = builder.try_init();
}

impl Global {
    /// A line for people, on standard error; not with `--quiet`.
    fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            terminal::say(line);
        }
    }
}

/// Prints a result as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    terminal::print(&serde_json::to_string_pretty(value).context("encoding the result as JSON")?);
    Ok(())
}

/// As a line of JSON; numbers, strings and lists always have such a form.
fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Writes an image to the file that the user named.
fn write_png(path: &Path, png: &[u8], force: bool) -> Result<()> {
    write_whole(path, png, force).context("writing the image")
}

/// `1 image`, `2 images`.
fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
