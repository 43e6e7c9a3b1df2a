//! The only place that writes to standard output and standard error.
//!
//! What the program says must neither end nor delay what it computes. A thread per stream does the writing, so a terminal stopped with Ctrl-S
//! or a pipe that nobody reads holds nothing up, and a message for people that cannot be written is dropped. Results on standard output are
//! never dropped: [`finish`] waits for them, and reports when they could not be written.
//!
//! Control characters (in file names, in files that the program was given) are escaped, so that they cannot drive the terminal.

use super::{print_json, signals};
use anyhow::Result;
use indicatif::{ProgressDrawTarget, TermLike};
use std::collections::VecDeque;
use std::fmt::{Display, Write as _};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Messages for people that wait to be written, bytes; later ones are dropped.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// How long the end of the program waits for standard error.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a full non-blocking pipe is tried again.
const RETRY: Duration = Duration::from_millis(5);

/// Prints a line for people on standard error.
pub fn say(line: impl Display) {
    let text = escaped(&line.to_string()) + "\n";
    // What was printed before should appear before, where both streams are one terminal.
    STDOUT.wait_briefly();
    STDERR.push(text.into_bytes(), Some(MAX_WAITING_BYTES));
}

/// Prints an error, a warning or a notice under the program's name on standard error.
pub fn complain(message: impl Display) {
    say(format_args!("fmnist-gpu: {message}"));
}

/// Prints a result on standard output.
pub fn print(text: &str) {
    STDERR.wait_briefly();
    STDOUT.push((escaped(text) + "\n").into_bytes(), None);
}

/// Prints a result on standard output, as JSON or as `text` shows it.
pub fn print_result<T: serde::Serialize>(json: bool, result: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
    if json {
        return print_json(result);
    }
    print(&text(result));
    Ok(())
}

/// Prints the program's own help on standard output, with bold headings where a terminal shows them.
pub fn print_help(plain: &str, styled: &str) {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = is_set("NO_COLOR") || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let text = if io::stdout().is_terminal() && !is_dumb { styled } else { plain };
    STDOUT.push(format!("{text}\n").into_bytes(), None);
}

/// Waits until the results are written, and for a moment until the messages are.
///
/// # Errors
/// Standard output could not be written. A reader that went away (`| head`) is not an error.
pub fn finish() -> io::Result<()> {
    let written = STDOUT.finish(None);
    // Nobody waits for a message; a pipe that is full and not read would hold the program for ever.
    let _ = STDERR.finish(Some(PATIENCE));
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Where progress bars are drawn: standard error, through the same thread.
pub fn bars() -> ProgressDrawTarget {
    ProgressDrawTarget::term_like_with_hz(Box::new(Bars::default()), 20)
}

/// Standard error for a logger.
pub fn log() -> Box<dyn Write + Send> {
    Box::new(Log)
}

/// The columns of the terminal on standard error; 80 if it is not known.
pub fn columns() -> u16 {
    terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| width.0)
}

/// Text whose control characters, but for line feeds and tabs, are written as escapes such as `\u{1b}`.
fn escaped(text: &str) -> String {
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(is_plain) {
        return text.to_string();
    }
    text.chars().map(|c| if is_plain(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

/// One of the two streams.
struct Stream {
    queue: Mutex<Queue>,
    changed: Condvar,
    open: fn() -> Box<dyn Write + Send>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether the thread is writing what it took from the queue.
    is_writing: bool,
    /// Whether the thread is there; none of them if none could be started.
    has_thread: Option<bool>,
    /// Whether somebody waited in vain. Nobody waits again until something was written.
    is_stalled: bool,
    failure: Option<io::Error>,
}

static STDOUT: LazyLock<Stream> = LazyLock::new(|| Stream::new(|| unbuffered(io::stdout())));
static STDERR: LazyLock<Stream> = LazyLock::new(|| Stream::new(|| unbuffered(io::stderr())));

/// The stream without the standard library's buffer, which cannot tell how much of a line a full pipe accepted.
#[cfg(unix)]
fn unbuffered(stream: impl Write + Send + std::os::fd::AsFd + 'static) -> Box<dyn Write + Send> {
    match stream.as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(std::fs::File::from(descriptor)),
        Err(_) => Box::new(stream),
    }
}

/// The stream as it is: a console of Windows needs the standard library's translation to UTF-16.
#[cfg(not(unix))]
fn unbuffered(stream: impl Write + Send + 'static) -> Box<dyn Write + Send> {
    Box::new(stream)
}

impl Stream {
    fn new(open: fn() -> Box<dyn Write + Send>) -> Self {
        Stream { queue: Mutex::default(), changed: Condvar::new(), open }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic elsewhere must not silence its own message.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&'static self, bytes: Vec<u8>, limit: Option<usize>) {
        let mut queue = self.lock();
        if queue.failure.is_some() || limit.is_some_and(|limit| queue.bytes + bytes.len() > limit) {
            return;
        }
        if queue.has_thread.is_none() {
            let spawned = thread::Builder::new().name("output".into()).spawn(|| self.write_all());
            queue.has_thread = Some(spawned.is_ok());
        }
        if queue.has_thread == Some(false) {
            queue.failure = write_fully(&mut *(self.open)(), &bytes).err();
            return;
        }
        queue.bytes += bytes.len();
        queue.waiting.push_back(bytes);
        self.changed.notify_all();
    }

    /// Writes what comes, until the program ends or the stream fails.
    fn write_all(&self) {
        let mut stream = (self.open)();
        let mut queue = self.lock();
        loop {
            let Some(bytes) = queue.waiting.pop_front() else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.is_writing = true;
            drop(queue);
            let written = write_fully(&mut *stream, &bytes);
            queue = self.lock();
            queue.is_writing = false;
            queue.is_stalled = false;
            queue.bytes -= bytes.len();
            if let Err(error) = written {
                queue.failure = Some(error);
                queue.waiting.clear();
                queue.bytes = 0;
            }
            self.changed.notify_all();
        }
    }

    /// Waits until everything is written, a tenth of a second at most and not again while nothing moves.
    fn wait_briefly(&self) {
        let queue = self.lock();
        if queue.is_stalled || queue.is_empty() {
            return;
        }
        let wait = self.changed.wait_timeout_while(queue, Duration::from_millis(100), |queue| !queue.is_empty());
        let (mut queue, timed_out) = wait.unwrap_or_else(PoisonError::into_inner);
        queue.is_stalled = timed_out.timed_out();
    }

    /// Waits until everything is written, no longer than `patience` and not after an interruption.
    fn finish(&self, patience: Option<Duration>) -> io::Result<()> {
        let begin = Instant::now();
        let mut queue = self.lock();
        while !queue.is_empty() {
            let waited = begin.elapsed();
            let is_over = match patience {
                Some(patience) => waited >= patience,
                None => signals::received().is_some() && waited >= PATIENCE,
            };
            if is_over {
                break;
            }
            let wait = self.changed.wait_timeout(queue, Duration::from_millis(50));
            queue = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.failure.take().map_or(Ok(()), Err)
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.is_writing
    }
}

/// Writes all of `bytes`, waiting where a non-blocking pipe is full.
fn write_fully(stream: &mut dyn Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}

/// What indicatif draws, handed over with each flush.
#[derive(Debug, Default)]
struct Bars {
    drawn: Mutex<String>,
}

impl Bars {
    fn add(&self, text: impl Display) -> io::Result<()> {
        // Writing to a String cannot fail.
        let _ = write!(self.drawn.lock().unwrap_or_else(PoisonError::into_inner), "{text}");
        Ok(())
    }

    fn sequence(&self, n: usize, end: char) -> io::Result<()> {
        if n == 0 { Ok(()) } else { self.add(format_args!("\x1b[{n}{end}")) }
    }
}

impl TermLike for Bars {
    fn width(&self) -> u16 {
        columns()
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.sequence(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.sequence(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.sequence(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.sequence(n, 'D')
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.add(format_args!("{line}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        let drawn = std::mem::take(&mut *self.drawn.lock().unwrap_or_else(PoisonError::into_inner));
        // A bar is drawn again and again: one that cannot be shown now is not worth waiting for.
        STDERR.push(drawn.into_bytes(), Some(1 << 12));
        Ok(())
    }
}

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        STDERR.push(bytes.to_vec(), Some(MAX_WAITING_BYTES));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_drive_the_terminal() {
        assert_eq!(escaped("plain\n\ttext"), "plain\n\ttext");
        assert_eq!(escaped("a\x1b[2Jb\r\u{7f}\u{9b}"), "a\\u{1b}[2Jb\\r\\u{7f}\\u{9b}");
    }

    /// A pipe that takes a little, is full for a while, and is interrupted.
    struct Reluctant(Vec<u8>, usize);

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 % 3 {
                0 => Err(ErrorKind::WouldBlock.into()),
                1 => Err(ErrorKind::Interrupted.into()),
                _ => {
                    self.0.extend(&bytes[..bytes.len().min(2)]);
                    Ok(bytes.len().min(2))
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_pipe_gets_every_byte_in_the_end() {
        let mut pipe = Reluctant(Vec::new(), 0);
        write_fully(&mut pipe, b"all of it").unwrap();
        assert_eq!(pipe.0, b"all of it");
    }
}
