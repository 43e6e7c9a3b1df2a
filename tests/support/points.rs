//! Faults injected into system calls: tried on two threads, counted, listed in a table.

use super::not_run;
use super::program::Place;
use super::strace;
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is done to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It returns this error, once.
    Fails(&'static str),
    /// It returns this error, and so do all later ones.
    FailsForever(&'static str),
    /// The program is killed before the call has any effect.
    Killed,
}

impl Fault {
    /// Returns the `inject=` expression of strace for the call number `ordinal` named `call`.
    pub fn inject(self, call: &str, ordinal: usize) -> String {
        match self {
            Fault::Fails(error) => format!("{call}:error={error}:when={ordinal}"),
            Fault::FailsForever(error) => format!("{call}:error={error}:when={ordinal}+"),
            Fault::Killed => format!("{call}:signal=KILL:when={ordinal}"),
        }
    }
}

/// A call and the fault that is injected into it.
#[derive(Clone, Debug)]
pub struct Point {
    /// The row of the table: the name of the call, or of the command.
    pub row: String,
    /// Its number among the calls of this name in its thread, counted from 1.
    pub ordinal: usize,
    /// What it does, without the parts that differ between runs.
    pub act: String,
    /// The fault.
    pub fault: Fault,
}

/// The result of a point: an error describes what is wrong.
pub type Verdict = Result<(), String>;

/// Returns the standard error of a program.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Whether to try every point instead of a sample.
pub fn all() -> bool {
    std::env::var("FMNIST_TEST_CRASH_POINTS").is_ok_and(|value| value == "all")
}

/// Returns the flags that choose the device.
pub fn device() -> String {
    match std::env::var("FMNIST_TEST_CRASH_DEVICE").as_deref() {
        Ok("auto") => "--device auto".to_string(),
        _ => "--device cpu --threads 1".to_string(),
    }
}

/// Tries all points on two threads, and writes a table of them to the file that `FMNIST_TEST_CRASH_TABLE` names.
///
/// # Panics
/// A point failed; the message lists all that did.
pub fn try_all(title: &str, points: &[Point], run: &(dyn Fn(&Point) -> Verdict + Sync)) {
    let begin = std::time::Instant::now();
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(vec![Err("never tried".to_string()); points.len()]);
    let survived = Survived::open();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(point) = points.get(i) else { break };
                    let verdict = survived.or_try(&format!("{title}, {point:?}"), || {
                        let tried = catch_unwind(AssertUnwindSafe(|| run(point)));
                        tried.unwrap_or_else(|_| Err("the check panicked, see above".to_string()))
                    });
                    verdicts.lock().unwrap()[i] = verdict;
                    if i % 100 == 99 {
                        eprintln!("{title}: {} of {} points", i + 1, points.len());
                    }
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().unwrap();
    let survived = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    let seconds = begin.elapsed().as_secs_f64();
    let summary = format!("{title}: {} points tried, {survived} survived, {seconds:.0} s", points.len());
    eprintln!("{summary}");
    if let Some(path) = std::env::var_os("FMNIST_TEST_CRASH_TABLE") {
        let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{summary}\n\n{}\n", table(points, &verdicts)).as_bytes()).unwrap();
    }
    let wrong: Vec<String> = points
        .iter()
        .zip(&verdicts)
        .filter_map(|(point, verdict)| {
            let reason = verdict.as_ref().err()?;
            let reason = shortened(reason);
            Some(format!("{:?} at {} number {}, {}: {reason}", point.fault, point.row, point.ordinal, point.act))
        })
        .collect();
    assert!(wrong.is_empty(), "{title}: {} of {} points:\n{}", wrong.len(), points.len(), wrong.join("\n"));
}

/// The points that survived in an earlier run that was interrupted: one per line of the file that `FMNIST_TEST_CRASH_SURVIVED` names.
struct Survived {
    known: HashSet<String>,
    file: Option<Mutex<fs::File>>,
}

impl Survived {
    fn open() -> Self {
        let Some(path) = std::env::var_os("FMNIST_TEST_CRASH_SURVIVED") else {
            return Survived { known: HashSet::new(), file: None };
        };
        let known = fs::read_to_string(&path).unwrap_or_default().lines().map(String::from).collect();
        let file = fs::File::options().create(true).append(true).open(path).unwrap();
        Survived { known, file: Some(Mutex::new(file)) }
    }

    /// Tries a point unless it is known, and adds it to the file if it survives.
    fn or_try(&self, point: &str, run: impl FnOnce() -> Verdict) -> Verdict {
        if !self.known.contains(point) {
            run()?;
            if let Some(file) = &self.file {
                writeln!(file.lock().unwrap(), "{point}").unwrap();
            }
        }
        Ok(())
    }
}

/// Returns the start and the end of a long text.
fn shortened(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    match letters.len() {
        ..500 => text.to_string(),
        length => letters[..150].iter().chain(&[' ', '.', '.', '.', ' ']).chain(&letters[length - 300..]).collect(),
    }
}

/// Returns a table in Markdown: one row per call, one column per fault, with the number of points tried, and of those survived if fewer.
fn table(points: &[Point], verdicts: &[Verdict]) -> String {
    let mut faults: Vec<Fault> = points.iter().map(|point| point.fault).collect();
    faults.sort_unstable();
    faults.dedup();
    let mut calls: Vec<&str> = points.iter().map(|point| point.row.as_str()).collect();
    calls.sort_unstable();
    calls.dedup();
    let mut text = "| |".to_string();
    for fault in &faults {
        text += &match fault {
            Fault::Fails(error) => format!(" {error} |"),
            Fault::FailsForever(error) => format!(" {error} from then on |"),
            Fault::Killed => " killed before |".to_string(),
        };
    }
    text += &format!("\n|---|{}\n", "---|".repeat(faults.len()));
    for call in calls {
        text += &format!("| `{call}` |");
        for fault in &faults {
            let of =
                || points.iter().zip(verdicts).filter(|(point, _)| (point.row.as_str(), point.fault) == (call, *fault));
            let (tried, survived) = (of().count(), of().filter(|(_, verdict)| verdict.is_ok()).count());
            text += &if survived == tried { format!(" {tried} |") } else { format!(" {survived} of {tried} |") };
        }
        text.push('\n');
    }
    text
}

/// Returns the program in a place, with its temporary files there too.
pub fn program(place: &Place, line: &str) -> Command {
    let mut command = place.command(line);
    command.env("TMPDIR", place.path("tmp"));
    command
}

/// Whether strace works here; reports the tests as not run if it does not.
pub fn can_trace() -> bool {
    let obstacle = strace::obstacle();
    if let Some(reason) = &obstacle {
        not_run("crash points", reason, "FMNIST_EXPECT_STRACE");
    }
    obstacle.is_none()
}
