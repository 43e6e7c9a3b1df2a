//! Output that cannot be written, or that nobody reads, ends and delays nothing.

use crate::support::program::{Place, Ran};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A network small enough for a training of a third of a second.
pub const TINY: &str = "name = \"tiny\"\nlayer = [{ type = \"flatten\" }, { type = \"dense\", units = 10 }]\n";
/// Trains it.
pub const TRAIN: &str = "train --model tiny.toml --dataset synthetic --train-limit 200 --batch-size 20 --epochs 2 --validation-split 0.2 \
                     --device cpu";

/// A folder with the model, a trained run and a photo.
pub fn place() -> Place {
    let place = Place::new();
    fs::write(place.path("tiny.toml"), TINY).unwrap();
    place.run(&format!("{TRAIN} --out run --quiet --no-report")).exits(0);
    place.run("samples --dataset synthetic --count 1 --grid photo.png --quiet").exits(0);
    place
}

/// Every command that prints, with what it must have written.
const COMMANDS: [(&str, &[&str]); 13] = [
    (
        "train --model tiny.toml --dataset synthetic --train-limit 200 --epochs 2 --device cpu --json --out new --force",
        &[
            "new/model.safetensors",
            "new/summary.json",
            "new/report.html",
            "new/checkpoints/step-000000000014.safetensors",
        ],
    ),
    ("evaluate run --device cpu", &[]),
    ("predict run --device cpu --json", &[]),
    ("predict run photo.png missing.png --device cpu", &[]),
    ("report run --device cpu --out report --force", &["report/report.html"]),
    ("export run --format npz --force --out run.npz", &["run.npz"]),
    ("samples --dataset synthetic --grid samples.png --force", &["samples.png"]),
    ("compare run other --out compare.html --force", &["compare.html"]),
    (
        "speedrun --model tiny.toml --dataset synthetic --train-limit 40 --epochs 1 --target 0.01 --runs 2 --device cpu",
        &[],
    ),
    ("filter photo.png --device cpu --out filter.png --force", &["filter.png"]),
    ("summary --model cnn", &[]),
    ("man --out pages --force", &["pages/fmnist-gpu.1"]),
    ("devices", &[]),
];

/// Both streams: a pipe whose reader went away, a full disk. Nothing panics, and what is written is there.
#[test]
fn output_that_cannot_be_written_ends_nothing() {
    let place = place();
    place.run(&format!("{TRAIN} --out other --quiet --no-report")).exits(0);
    for (line, files) in COMMANDS {
        let undisturbed = place.run(line);
        let code = undisturbed.code();
        assert!(matches!(code, Some(0 | 2)), "{line}: {code:?} {}", undisturbed.err);
        for (what, stdout, stderr) in disturbances() {
            for file in files {
                fs::remove_file(place.path(file)).unwrap_or_else(|error| panic!("{line}: {file}: {error}"));
            }
            let output = place.command(line).stdout(stdout).stderr(stderr).output().unwrap();
            // Results that a full disk did not take are missing; a reader that went away wanted no more of them.
            let expected = if what.starts_with("full output") && !undisturbed.out.is_empty() { Some(2) } else { code };
            assert_eq!(output.status.code(), expected, "{what}: {line}");
            for file in files {
                assert!(place.path(file).exists(), "{what}: {line}: no {file}");
            }
        }
    }
}

fn disturbances() -> Vec<(&'static str, Stdio, Stdio)> {
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    if cfg!(not(target_os = "linux")) {
        return vec![("closed output and messages", closed(), closed())];
    }
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    vec![("closed output, full messages", closed(), full()), ("full output, closed messages", full(), closed())]
}

/// A pipe that is full and that nobody reads, blocking or not: training goes on and the program ends.
#[test]
#[cfg(unix)]
fn messages_that_nobody_reads_delay_nothing() {
    use std::os::fd::AsRawFd;
    let place = place();
    for is_blocking in [false, true] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let set = |flags: i32| {
            // SAFETY: sets the flags of a descriptor that is open.
            assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, flags) }, 0);
        };
        set(libc::O_NONBLOCK);
        while writer.write(&[b'x'; 4096]).is_ok() {}
        while writer.write(b"x").is_ok() {}
        let flags = if is_blocking { 0 } else { libc::O_NONBLOCK };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, flags) }, 0);
        let begin = Instant::now();
        let line = format!("{TRAIN} --out new --force --json");
        let output = place.command(&line).stderr(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "blocking: {is_blocking}");
        assert_eq!(Ran::new(output, &line).summary()["status"], "complete");
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
        drop(reader);
    }
}

/// Results are not dropped: a slow reader gets all of them, through a non-blocking pipe too.
#[test]
#[cfg(unix)]
fn a_slow_reader_gets_every_result() {
    use std::os::fd::AsRawFd;
    let place = place();
    let line = "predict run --device cpu --json --test-index 0..2000 --quiet";
    let whole = place.run(line).exits(0).out;
    assert!(whole.len() > 1 << 17, "a pipe would hold all of it");
    for flags in [0, libc::O_NONBLOCK] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        // SAFETY: sets the flags of a descriptor that is open.
        assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, flags) }, 0);
        let mut child = place.command(line).stdout(writer).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(read == whole, "{} of {} bytes", read.len(), whole.len());
    }
}

/// Names and contents that would drive the terminal are shown with escapes.
#[test]
#[cfg(unix)]
fn control_characters_do_not_reach_the_terminal() {
    let place = place();
    let evil = "evil\u{1b}[2J\nname";
    fs::create_dir(place.path(evil)).unwrap();
    fs::copy(place.path("photo.png"), place.path(evil).join("photo.png")).unwrap();
    fs::write(place.path(evil).join("damaged.png"), "none").unwrap();
    let run = |words: &[&str]| {
        let mut command = place.command("");
        let output = command.args(words).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    for words in [
        &["evaluate", evil][..],
        &["predict", "run", evil, "--device", "cpu"],
        &["train", "--resume", evil],
        &["train", "--model", evil],
        &["train", "--data-dir", evil, "--out", evil],
        &["export", "run", "--format", "npz", "--out", evil, "--force"],
        &["summary", "--model", evil],
        &["no-such-command\u{1b}[2J"],
        &["train", "--device", evil, "--model", "tiny.toml", "--dataset", "synthetic"],
        &["filter", evil],
    ] {
        let (code, text) = run(words);
        assert_eq!(code, Some(2), "{words:?}: {text}");
        assert!(!text.contains('\u{1b}'), "{words:?}: {text:?}");
        // A device has no path.
        let is_path = !words[0].starts_with("no-such") && words[1] != "--device";
        assert!(!is_path || !text.contains("2J\nname"), "{words:?}: {text:?}");
    }
}

/// The terminal goes away, and the program was told to ignore that (`nohup`): it ends as if nothing had happened.
#[test]
fn a_terminal_that_goes_away_ends_nothing() {
    if cfg!(not(target_os = "linux")) || Command::new("script").arg("--version").output().is_err() {
        return crate::support::not_run("vanished terminal", "there is no util-linux `script`", "FMNIST_EXPECT_SCRIPT");
    }
    let place = place();
    let program = env!("CARGO_BIN_EXE_fmnist-gpu");
    // The training outlives `script`, whose end takes the terminal away.
    let train =
        "train --model mlp --dataset synthetic --train-limit 20000 --epochs 4 --device cpu --no-report --out gone";
    let line = format!("trap '' HUP; {program} {train} & sleep 1");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).current_dir(place.path("")).env("TERM", "xterm").env_remove("CI");
    for (key, value) in place.command("").get_envs().filter_map(|(key, value)| value.map(|value| (key, value))) {
        command.env(key, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let begin = Instant::now();
    while !place.path("gone/summary.json").exists() && begin.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let summary = crate::support::program::json_file(&place.path("gone/summary.json"));
    assert_eq!(summary["status"], "complete");
    // It removes its lock as the last thing that it does.
    while place.path("gone/.lock").exists() && begin.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(50));
    }
}
