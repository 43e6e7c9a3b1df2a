//! Ctrl-C, SIGTERM and SIGHUP.
//!
//! The first signal sets a flag where the command looks at it ([`interrupt_flag`]): training then writes a checkpoint and ends. Elsewhere, and
//! at a second Ctrl-C, the program ends at once. Files appear whole or not at all, so nothing breaks; temporary files are removed.

use super::terminal;
use anyhow::{Context, Result};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, LazyLock};

/// The signal that came first; 0 before any.
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// What the first signal sets.
static FLAG: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Whether the command looks at the flag.
static IS_HEEDED: AtomicBool = AtomicBool::new(false);

const INTERRUPT: i32 = 2;

/// A flag that the first signal sets. Whoever asks for it promises to look at it several times per second.
pub fn interrupt_flag() -> Arc<AtomicBool> {
    IS_HEEDED.store(true, Ordering::SeqCst);
    Arc::clone(&FLAG)
}

/// The signal that was received, if any.
pub fn received() -> Option<i32> {
    Some(RECEIVED.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
}

/// The exit code of a command that a signal ended, as shells have it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
pub fn exit_code() -> ExitCode {
    ExitCode::from(code(received().unwrap_or(INTERRUPT)))
}

fn code(signal: i32) -> u8 {
    128 + signal as u8
}

/// Takes note of a signal.
fn receive(signal: i32) {
    let first = RECEIVED.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    if !IS_HEEDED.load(Ordering::SeqCst) {
        leave_at_once(signal);
    }
    match first {
        Ok(_) => {
            FLAG.store(true, Ordering::SeqCst);
            let hint = if signal == INTERRUPT { " (Ctrl-C again to exit at once)" } else { "" };
            terminal::say(format_args!("\nstopping after the work in flight{hint}"));
        }
        // A supervisor or a closing terminal may send several; only a person who asks again is in a hurry.
        Err(_) if signal == INTERRUPT => leave_at_once(signal),
        Err(_) => {}
    }
}

/// Ends the process, whatever its other threads are doing.
///
/// On Unix without the exit handlers of libraries: those of a Vulkan driver take down what a thread is still working with, and NVIDIA's
/// ended in a segmentation fault.
fn leave_at_once(signal: i32) -> ! {
    fmnist_gpu::files::discard_unfinished();
    #[cfg(unix)]
    // SAFETY: `_exit` takes any number and touches no memory of the program; what is half-written lies in files of other names.
    unsafe {
        libc::_exit(i32::from(code(signal)))
    }
    #[cfg(not(unix))]
    std::process::exit(i32::from(code(signal)))
}

/// Starts listening. Where no thread can be started for it, signals end the program as they end any other.
#[cfg(unix)]
pub fn listen() -> Result<()> {
    use signal_hook::consts::{SIGABRT, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    let wanted = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal));
    let (sender, receiver) = std::sync::mpsc::channel::<Signals>();
    let wait = move || receiver.iter().for_each(|mut signals| signals.forever().for_each(receive));
    if std::thread::Builder::new().name("signals".into()).spawn(wait).is_ok() {
        let signals = Signals::new(wanted).context("installing the signal handlers")?;
        // The thread waits for it.
        let _ = sender.send(signals);
    }
    // SAFETY: the handler only calls `write` and `_exit`, which a signal handler may call.
    unsafe { signal_hook::low_level::register(SIGABRT, report_abort) }.context("installing the handler of SIGABRT")?;
    // A file that grows past its limit (`ulimit -f`) is then an error of that write and not the end of the program.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).context("installing the handler of SIGXFSZ")?;
    Ok(())
}

/// Turns an abort by the standard library (no memory) or by a driver into an error. Files appear whole or not at all, so what was saved is
/// there.
#[cfg(unix)]
fn report_abort() {
    const MESSAGE: &str = "fmnist-gpu: memory ran out, or a driver failed; close other programs, raise the limit (ulimit -v), or use a smaller \
                           model or batch\n";
    // SAFETY: both calls are allowed in a signal handler; the pointer and the length are those of a constant.
    unsafe {
        libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::_exit(2)
    }
}

/// Whether a signal was ignored when the program started, as `nohup` does for SIGHUP.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: `sigaction` is a C structure for which all zeros are a value; with no new action the call only fills it in.
    let action = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, std::ptr::null(), &mut action) == 0).then_some(action)
    };
    action.is_some_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

/// Starts listening.
#[cfg(not(unix))]
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| receive(INTERRUPT)).context("installing the Ctrl-C handler")
}
