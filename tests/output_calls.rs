//! Every write of every command to standard output and standard error, failed: no panic, and the work is done all the same.
//!
//! By default two points for each command; every point with `FMNIST_TEST_CRASH_POINTS=all`, as in `crash_points`.

use crate::support::points::{Fault, Point, Verdict, all, can_trace, device, program, said, try_all};
use crate::support::program::Place;
use crate::support::strace::{Call, Tracing, Value};
use crate::support::whole::{MODEL, files, hidden, train};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const FAULTS: [Fault; 5] = [
    Fault::Fails("EPIPE"),
    Fault::FailsForever("ENOSPC"),
    Fault::Fails("EAGAIN"),
    Fault::FailsForever("EPIPE"),
    Fault::Fails("ENOSPC"),
];

/// The commands, with `DEVICE` in place of the flags of the device. They find the runs `run` and `other`, a photo and weights. Those marked
/// `+` resemble others and are not part of the sample.
const COMMANDS: [&str; 35] = [
    "--help",
    "--version",
    "train --help",
    "train --model small.toml --dataset synthetic --train-limit 40 --epochs 2 --no-report DEVICE --out new",
    "train --model small.toml --dataset synthetic --train-limit 40 --epochs 2 --tensorboard --json DEVICE --out new",
    "+ train --resume run --epochs 4 --quiet DEVICE",
    "evaluate run DEVICE",
    "+ evaluate run --json --quiet DEVICE",
    "predict run photo.png DEVICE --grid grid.png",
    "+ predict run --test-index 0..2 --json DEVICE",
    "report run DEVICE --out page",
    "+ report run --json DEVICE --out page",
    "compare run other --out compared.html",
    "compare run other --json",
    "export run --format onnx",
    "export run --format keras --json",
    "import weights --model small.toml --out imported",
    "+ import weights --model small.toml --out imported --json",
    "filter photo.png DEVICE",
    "filter --show-steps DEVICE",
    "samples --dataset synthetic --count 4",
    "+ samples --dataset synthetic --count 4 --json",
    "devices",
    "+ devices --json",
    "doctor --no-selftest DEVICE",
    "+ doctor --no-selftest --json DEVICE",
    "summary --model small.toml",
    "bench --model small.toml --batch-size 8 --seconds 0.01 DEVICE",
    "speedrun --model small.toml --dataset synthetic --train-limit 40 --epochs 1 --target 0.01 --runs 2 DEVICE",
    "+ speedrun --model small.toml --dataset synthetic --train-limit 40 --epochs 1 --target 0.01 --runs 2 --json DEVICE",
    "+ profile --model small.toml --batch-size 8 DEVICE",
    "selftest --device cpu",
    "completions bash",
    "man",
    "man --out pages",
];

/// Returns the files that the commands find, by name.
fn found() -> BTreeMap<String, Vec<u8>> {
    let place = Place::new();
    fs::write(place.path(MODEL.0), MODEL.1).unwrap();
    for (run, seed) in [("run", 5), ("other", 6)] {
        place.run(&format!("{} {} --no-report --out {run}", train(seed, 3), device())).exits(0);
    }
    place.run("export run --format torch --out weights").exits(0);
    image::RgbImage::from_fn(64, 64, |x, _| image::Rgb([x as u8; 3]))
        .save_with_format(place.path("photo.png"), image::ImageFormat::Png)
        .unwrap();
    let mut found = files(&place.path(""));
    found.retain(|name, _| !name.starts_with("home/"));
    found
}

/// The names of the files that a command leaves, with the bytes of those that are the same every time.
type Left = BTreeMap<String, Option<Vec<u8>>>;

/// Runs a command in a new place, with its standard output and standard error traced.
fn run(line: &str, found: &BTreeMap<String, Vec<u8>>, inject: Option<String>) -> (Place, Output, Vec<Vec<Call>>) {
    let place = Place::new();
    for (name, bytes) in found {
        let path = place.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::create_dir(place.path("tmp")).unwrap();
    let root = place.path("").canonicalize().unwrap();
    let only = ["OUT", "ERR"].map(|name| root.join(name)).to_vec();
    let tracing = Tracing { calls: "write,writev", all_threads: true, only, inject, ..Tracing::default() };
    let (output, threads) = tracing.run(&place, &program(&place, &line.replace("DEVICE", &device())));
    (place, output, threads)
}

/// Returns the files that a command left, by name, except its output.
fn left(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let mut left = files(&place.path(""));
    left.retain(|name, _| !["home/", "tmp/", "OUT", "ERR"].iter().any(|other| name.starts_with(other)));
    // The names of event files contain the time.
    left.into_iter().map(|(name, bytes)| (name.split(".tfevents.").next().unwrap().to_string(), bytes)).collect()
}

#[test]
fn every_command_survives_output_that_fails() {
    if !can_trace() {
        return;
    }
    let found = found();
    // The native engine runs no shaders that could be profiled.
    let is_possible = |line: &&str| device() == "--device auto" || !line.starts_with("profile");
    let lines: Vec<&str> = COMMANDS
        .into_iter()
        .filter_map(
            |line| if all() { Some(line.trim_start_matches("+ ")) } else { (!line.starts_with('+')).then_some(line) },
        )
        .filter(is_possible)
        .collect();
    // The files that each command leaves and the number of its writes, without faults.
    let recorded = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(line) = lines.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = record(line, &found);
                    recorded.lock().unwrap().insert(*line, one);
                }
            });
        }
    });
    let recorded = recorded.into_inner().unwrap();
    let mut points = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let writes = recorded[line].1;
        for ordinal in 1..=writes {
            for (j, fault) in FAULTS.into_iter().enumerate() {
                let is_first = ordinal == 1 && j == i % FAULTS.len();
                let is_last = ordinal == writes && j == (i + 1) % FAULTS.len();
                if all() || is_first || is_last {
                    points.push(Point { row: line.to_string(), ordinal, act: "write".to_string(), fault });
                }
            }
        }
    }
    try_all(&format!("Output calls, {}", device()), &points, &|point| {
        let (place, output, threads) = run(&point.row, &found, Some(point.fault.inject("write", point.ordinal)));
        let injected = || threads.iter().flatten().filter(|call| call.injected);
        // The number of writes may differ between runs, but there is always a first.
        let is_missed = injected().next().is_none();
        if is_missed && (point.ordinal == 1 || threads.iter().any(|calls| calls.len() >= point.ordinal)) {
            return Err("missed".to_string());
        }
        check(&place, point, &output, &recorded[point.row.as_str()].0)?;
        // A result that could not be written is an error unless the reader closed the pipe.
        let lost =
            injected().any(|call| matches!(call.args.first(), Some(Value::File(_, path)) if path.ends_with("OUT")));
        let allowed: &[i32] = match point.fault {
            // Clap prints these and ignores errors.
            _ if point.row.ends_with("--help") || point.row == "--version" => &[0, 2],
            Fault::Fails("ENOSPC") | Fault::FailsForever("ENOSPC") if lost => &[2],
            _ if lost => &[0, 2],
            _ => &[0],
        };
        let code = output.status.code().unwrap_or(-1);
        if allowed.contains(&code) {
            Ok(())
        } else {
            Err(format!("exit {code}, allowed are {allowed:?}: {}", said(&output)))
        }
    });
}

/// Returns the files that a command leaves and the number of its writes.
fn record(line: &str, found: &BTreeMap<String, Vec<u8>>) -> (Left, usize) {
    let (place, output, threads) = run(line, found, None);
    assert!(output.status.success(), "{line}: {}", said(&output));
    assert!(threads.iter().flatten().all(|call| call.name == "write"), "{line}: other calls than write");
    let writes = threads.iter().map(Vec::len).max().unwrap_or(0);
    assert!(writes > 0, "{line}: it printed nothing");
    let left = left(&place);
    let again = if left == *found { left.clone() } else { self::left(&run(line, found, None).0) };
    let is_fixed = |name: &String, bytes: &Vec<u8>| again.get(name) == Some(bytes);
    let left = left.into_iter().map(|(name, bytes)| (is_fixed(&name, &bytes).then_some(bytes), name));
    (left.map(|(bytes, name)| (name, bytes)).collect(), writes)
}

/// Checks that there was no panic and no signal, and that every file is there and whole.
fn check(place: &Place, point: &Point, output: &Output, expected: &Left) -> Verdict {
    if !matches!(output.status.code(), Some(0 | 2)) || said(output).contains("panicked") {
        let (code, signal) = (output.status.code(), output.status.signal());
        return Err(format!("exit {code:?}, signal {signal:?}: {}", said(output)));
    }
    let found = left(place);
    for (name, bytes) in expected {
        match (found.get(name), bytes) {
            (None, _) => return Err(format!("{name} is missing, exit {:?}", output.status.code())),
            (Some(found), Some(bytes)) if found != bytes => return Err(format!("{name} differs")),
            _ => {}
        }
    }
    let hidden: Vec<String> = hidden(&place.path("")).into_iter().filter(|name| !name.starts_with(".cache")).collect();
    if hidden.is_empty() { Ok(()) } else { Err(format!("{} left {hidden:?}", point.row)) }
}
