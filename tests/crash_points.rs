//! Every system call that saves: failed by itself, and the program killed before it. Nothing that was saved may be lost unless an error says so.
//!
//! By default a sample of a hundred points. `FMNIST_TEST_CRASH_POINTS=all` tries every point, on the device that
//! `FMNIST_TEST_CRASH_DEVICE` names (`cpu` or `auto`), and appends a table in Markdown to the file `FMNIST_TEST_CRASH_TABLE`:
//! `scripts/crash-points.sh` does both.

use crate::data::{SmallSet, options};
use crate::support::points::{Fault, Point, Verdict, all, can_trace, device, program, said, try_all};
use crate::support::program::Place;
use crate::support::strace::{Call, SAVING, Tracing, Value};
use crate::support::whole::{MODEL, Whole, files, hidden, train};
use fmnist_gpu::data::load;
use fmnist_gpu::run::Run;
use fmnist_gpu::run::checkpoint::Checkpoints;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

const FAULTS: [Fault; 5] =
    [Fault::Fails("EIO"), Fault::Fails("ENOSPC"), Fault::Fails("EDQUOT"), Fault::Fails("EINTR"), Fault::Killed];

/// A command whose system calls fail.
struct Scenario<'a> {
    title: String,
    /// Prepares the folder in which the command runs.
    prepare: &'a (dyn Fn(&Place) + Sync),
    command: &'a (dyn Fn(&Place) -> Command + Sync),
    /// Folders whose calls count.
    watched: &'a [&'a str],
    /// Whether the saving is done by another thread than the first.
    all_threads: bool,
    check: &'a (dyn Fn(&Place, &Point, &Output) -> Verdict + Sync),
}

impl Scenario<'_> {
    /// Returns the calls that save, in order, each with what it does.
    fn record(&self) -> Vec<(Call, String)> {
        let place = Place::new();
        (self.prepare)(&place);
        let tracing = Tracing { calls: SAVING, all_threads: true, ..Tracing::default() };
        let (output, threads) = tracing.run(&place, &(self.command)(&place));
        assert!(output.status.success(), "{}: {}", self.title, said(&output));
        let watched = |calls: Vec<Call>| -> Vec<(Call, String)> {
            let acts = calls.into_iter().map(|call| (act(&call, &place, self.watched), call));
            acts.filter_map(|(act, call)| Some((call, act?))).collect()
        };
        let mut threads = threads.into_iter().map(watched);
        let first = threads.next().unwrap();
        // Files are read on other threads.
        let saves = |calls: &Vec<(Call, String)>| calls.iter().any(|(call, _)| !call.text(2).contains("O_RDONLY"));
        let others: Vec<_> = threads.filter(saves).collect();
        if self.all_threads {
            assert!(first.is_empty() && others.len() == 1, "{}: these save: {first:?} {others:?}", self.title);
            return others.into_iter().next().unwrap();
        }
        assert!(others.is_empty(), "{}: another thread than the first saves: {:?}", self.title, others[0][0]);
        first
    }

    /// Returns all points: every call with every fault, and a kill when the program exits.
    fn points(&self) -> Vec<Point> {
        let calls = self.record();
        let at = |call: &Call, act: &str, fault| Point {
            row: call.name.clone(),
            ordinal: call.ordinal,
            act: act.to_string(),
            fault,
        };
        let mut points: Vec<Point> =
            calls.iter().flat_map(|(call, act)| FAULTS.map(|fault| at(call, act, fault))).collect();
        points.push(Point { row: "exit_group".into(), ordinal: 1, act: "the end".into(), fault: Fault::Killed });
        points
    }

    /// Runs the command with a fault at `point` and checks what is left.
    fn run(&self, point: &Point) -> Verdict {
        let place = Place::new();
        (self.prepare)(&place);
        let inject = Some(point.fault.inject(&point.row, point.ordinal));
        let tracing = Tracing { calls: &point.row, all_threads: self.all_threads, inject, ..Tracing::default() };
        let (output, threads) = tracing.run(&place, &(self.command)(&place));
        let is_hit = |call: &&Call| match point.fault {
            Fault::Killed => call.result == Value::Other("?".to_string()) && call.ordinal == point.ordinal,
            _ => call.injected,
        };
        let hits: Vec<&Call> = threads.iter().flatten().filter(is_hit).collect();
        let acts: Vec<_> = hits.iter().map(|call| act(call, &place, self.watched)).collect();
        let is_right =
            if self.all_threads { acts.contains(&Some(point.act.clone())) } else { acts == [Some(point.act.clone())] };
        if point.row != "exit_group" && !is_right {
            return Err(format!("missed: hit {acts:?}"));
        }
        if said(&output).contains("panicked") {
            return Err(format!("a panic: {}", said(&output)));
        }
        match (point.fault, output.status.code()) {
            (Fault::Killed, _) if output.status.signal() != Some(9) => {
                return Err(format!("not killed but {:?}", output.status));
            }
            (Fault::Killed, _) | (_, Some(0)) => {}
            (_, Some(2)) if said(&output).contains("fmnist-gpu: ") => {}
            _ => return Err(format!("{:?} {}", output.status, said(&output))),
        }
        // A file that could not be removed stays until the next run.
        let may_stay = point.fault == Fault::Killed || point.row.starts_with("unlink") || point.row == "rmdir";
        let left = hidden(&place.path("run"));
        if !left.is_empty() && !may_stay {
            return Err(format!("left behind: {left:?}"));
        }
        (self.check)(&place, point, &output)
    }
}

/// Returns what a call does to the watched folders of a place, without the parts that differ between runs; `None` if it does nothing there.
fn act(call: &Call, place: &Place, watched: &[&str]) -> Option<String> {
    let root = place.path("").canonicalize().unwrap();
    let paths = call.paths(&root);
    let names: Vec<&Path> = paths.iter().filter_map(|path| path.strip_prefix(&root).ok()).collect();
    // The folder itself is synced when a folder in it is new.
    let is_watched = |name: &&Path| *name == Path::new("") || watched.iter().any(|folder| name.starts_with(folder));
    if !names.iter().any(is_watched) {
        return None;
    }
    let names: Vec<String> = names.iter().map(|name| steady(&name.to_string_lossy())).collect();
    Some(format!("{} {}", call.name, names.join(" -> ")))
}

/// Removes the random part of a path: the letters of a temporary file, the time of an event file.
fn steady(path: &str) -> String {
    let mut parts: Vec<String> = path.split('/').map(String::from).collect();
    for part in &mut parts {
        if part.starts_with('.') && part.len() > 12 {
            *part = format!(".{}*", &part[1..12]);
        } else if let Some((name, _)) = part.split_once(".tfevents.").or_else(|| part.split_once(".part-")) {
            *part = format!("{name}.*");
        }
    }
    parts.join("/")
}

/// Returns `count` of the points: the middle one for each pair of call and fault, then evenly spaced ones.
fn sample(points: Vec<Point>, count: usize) -> Vec<Point> {
    if all() || points.len() <= count {
        return points;
    }
    let mut kinds: BTreeMap<(String, Fault), Vec<Point>> = BTreeMap::new();
    for point in points {
        kinds.entry((point.row.clone(), point.fault)).or_default().push(point);
    }
    let mut chosen: Vec<Point> = kinds.values_mut().map(|points| points.remove(points.len() / 2)).collect();
    let rest: Vec<Point> = kinds.into_values().flatten().collect();
    let missing = count.saturating_sub(chosen.len());
    chosen.extend((0..missing).map(|i| rest[(2 * i + 1) * rest.len() / (2 * missing)].clone()));
    chosen
}

fn prepare(place: &Place) {
    fs::write(place.path(MODEL.0), MODEL.1).unwrap();
    fs::create_dir(place.path("tmp")).unwrap();
}

/// Runs the program without a fault.
fn undisturbed(place: &Place, line: &str) -> Verdict {
    let output = program(place, line).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(format!("{line}: {:?} {}", output.status, said(&output))) }
}

/// Resumes the run, or starts it over if it has no checkpoint.
fn go_on(place: &Place, seed: u64, epochs: u64) -> Verdict {
    let resumed = undisturbed(place, &format!("train --resume run --tensorboard --quiet {}", device()));
    let has_checkpoint = matches!(Checkpoints::new(&place.path("run"), 1).newest(&mut |_, _| ()), Ok(Some(_)));
    if resumed.is_ok() || has_checkpoint {
        return resumed;
    }
    undisturbed(place, &format!("{} {} --out run --force", train(seed, epochs), device()))
}

/// After every point, the resumed training ends with the same bits, report and event files as one without a fault.
#[test]
fn a_training_survives_every_call_that_saves() {
    if !can_trace() {
        return;
    }
    let (seed, epochs) = (5, 3);
    let whole = Whole::new(&device(), seed, epochs);
    let line = format!("{} {} --out run", train(seed, epochs), device());
    let scenario = Scenario {
        title: format!("Training, {}", device()),
        prepare: &prepare,
        command: &|place| program(place, &line),
        watched: &["run", "home"],
        all_threads: false,
        check: &|place, _, output| {
            whole.has(&place.path("run"))?;
            if !output.status.success() {
                go_on(place, seed, epochs)?;
            }
            whole.is_at(place, "run")?;
            let left = hidden(&place.path("run"));
            if !left.is_empty() && !output.status.success() {
                return Err(format!("left behind after resuming: {left:?}"));
            }
            // A failure to write event files may lose events if it is reported.
            let is_reported = output.status.code() == Some(2) && said(output).contains("/tensorboard");
            if is_reported { Ok(()) } else { whole.has_events(&place.path("run")) }
        },
    };
    let points = sample(scenario.points(), 60);
    try_all(&scenario.title, &points, &|point| scenario.run(point));
}

/// `--force` over an existing run: after every point the folder holds the old run or the new one, never a mix.
#[test]
fn a_run_that_is_overwritten_is_whole_or_untouched() {
    if !can_trace() {
        return;
    }
    // The old run has more epochs, so its checkpoints would look newer than those of the new one.
    let (old, new) = (Whole::new(&device(), 4, 4), Whole::new(&device(), 5, 3));
    let original = Place::new();
    prepare(&original);
    undisturbed(&original, &format!("{} {} --out run", train(4, 4), device())).unwrap();
    let before = files(&original.path("run"));
    let line = format!("{} {} --out run --force", train(5, 3), device());
    let scenario = Scenario {
        title: format!("Training over another run, {}", device()),
        prepare: &|place| {
            prepare(place);
            for (name, bytes) in &before {
                let path = place.path("run").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        },
        command: &|place| program(place, &line),
        watched: &["run", "home"],
        all_threads: false,
        check: &|place, _, output| {
            let run = place.path("run");
            // Whoever opens a run finishes a replacement that was interrupted.
            let _ = Run::open(&run);
            let is_old = files(&run) == before;
            if !is_old {
                new.has(&run).map_err(|reason| format!("neither the old run nor the new one: {reason}"))?;
            }
            if output.status.success() {
                return new.is_at(place, "run");
            }
            go_on(place, 5, 3)?;
            let left = hidden(&run);
            if !left.is_empty() {
                return Err(format!("left behind after resuming: {left:?}"));
            }
            match new.is_at(place, "run") {
                // The old run was complete, so there was nothing to resume.
                Err(_) if is_old => old.is_at(place, "run"),
                verdict => verdict,
            }
        },
    };
    let points = sample(scenario.points(), 40);
    try_all(&scenario.title, &points, &|point| scenario.run(point));
}

/// The environment variables that tell the child of the next test where to download to, and where from.
const DOWNLOAD: [&str; 2] = ["FMNIST_TEST_DOWNLOAD_TO", "FMNIST_TEST_DOWNLOAD_FROM"];

/// Part of the next test, run in a separate process.
#[test]
#[ignore = "run by the next test"]
fn download_in_a_process_of_its_own() {
    let [Some(to), Some(from)] = DOWNLOAD.map(std::env::var_os) else { return };
    // More calls of each kind than any other thread makes: strace counts the calls of each thread.
    let nowhere = Path::new("/dev/null/nowhere");
    let null = fs::File::options().write(true).open("/dev/null").unwrap();
    for _ in 0..300 {
        // All of these fail.
        let _ = (fs::File::open(nowhere), (&null).write(&[0]), null.sync_all(), fs::rename(nowhere, nowhere));
        let _ = (fs::create_dir(nowhere), fs::remove_file(nowhere), fs::remove_dir(nowhere));
    }
    let mut options = options(&SmallSet::new(), Path::new(&to));
    options.download.mirrors = vec![from.into_string().unwrap()];
    if let Err(error) = load(&options, &mut |_| ()) {
        eprintln!("fmnist-gpu: {error}");
        std::process::exit(2);
    }
}

/// After every point the cache contains only whole files, and the next download completes it.
#[test]
fn a_download_survives_every_call_that_saves() {
    if !can_trace() {
        return;
    }
    let set = SmallSet::new();
    let served: BTreeMap<String, Vec<u8>> = set.served().into_iter().collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let from = format!("http://{}/", listener.local_addr().unwrap());
    // This thread ends with the process.
    let answers = served.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            let name = request.split_whitespace().nth(1).unwrap_or_default().trim_matches('/').to_string();
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            let Some(body) = answers.get(&name) else { continue };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // The client may have been killed.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    let child = |place: &Place| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["crash_points::download_in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"]);
        command.current_dir(place.path("")).env(DOWNLOAD[0], place.path("cache")).env(DOWNLOAD[1], &from);
        // The last one makes the loader search many folders.
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        command
    };
    let scenario = Scenario {
        title: "Download".to_string(),
        prepare: &|_| (),
        command: &child,
        watched: &["cache"],
        all_threads: true,
        check: &|place, point, output| {
            let cache = place.path("cache");
            let is_part = |name: &str| name.contains(".part-");
            for (name, bytes) in files(&cache) {
                if is_part(&name) && point.fault != Fault::Killed && !point.row.starts_with("unlink") {
                    return Err(format!("{name} was left behind"));
                }
                if !is_part(&name) && served.get(&name) != Some(&bytes) {
                    return Err(format!("{name} is not whole"));
                }
            }
            if !output.status.success() {
                let again = child(place).output().unwrap();
                if !again.status.success() {
                    return Err(said(&again));
                }
            }
            let mut found = files(&cache);
            found.retain(|name, _| !is_part(name));
            if found == served { Ok(()) } else { Err(format!("the cache has {:?}", found.keys())) }
        },
    };
    let points = sample(scenario.points(), 1000);
    try_all(&scenario.title, &points, &|point| scenario.run(point));
}
