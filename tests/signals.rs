//! Ctrl-C, SIGTERM and SIGHUP at every stage.

use crate::output::{TRAIN, place};
use crate::support::program::{Place, json_file};
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LONG: &str = "train --model tiny.toml --dataset synthetic --train-limit 2000 --batch-size 1 --epochs 200 --device cpu --no-report";

fn send(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap().success());
}

fn begin(place: &Place, line: &str) -> Child {
    place.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_for(is_there: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_there() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(is_there());
}

/// Each signal writes a checkpoint and has its exit code; resumed, the bits are those of a training that was never stopped.
#[test]
#[cfg(unix)]
fn every_signal_leaves_a_run_to_resume() {
    let place = place();
    let short = LONG.replace("--epochs 200", "--epochs 3");
    place.run(&format!("{short} --out whole --quiet")).exits(0);
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let run = format!("run {signal}");
        let mut command = place.command(&short.replace("--epochs 3", "--epochs 40"));
        command.args(["--out", &run]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(|| place.path(&run).join("config.json").exists());
        std::thread::sleep(Duration::from_millis(30));
        send(&child, signal);
        // A supervisor may send several; only a person who asks again is in a hurry.
        if signal != "INT" {
            send(&child, signal);
        }
        let output = child.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{signal}: {err}");
        let resume = format!("resume with: fmnist-gpu train --resume 'run {signal}'");
        assert!(out.contains(&resume), "{signal}: {out}");
        assert_eq!(json_file(&place.path(&run).join("summary.json"))["status"], "interrupted");
        assert_eq!(fs::read_dir(place.path(&run).join("checkpoints")).unwrap().count(), 1, "{signal}");
        // As the message says, by a shell.
        let program = env!("CARGO_BIN_EXE_fmnist-gpu");
        let line = out.split("resume with: fmnist-gpu").nth(1).unwrap().trim();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{program} {line} --epochs 3 --no-report --quiet")]).current_dir(place.path(""));
        let resumed = shell.output().unwrap();
        assert!(resumed.status.success(), "{line}: {}", String::from_utf8_lossy(&resumed.stderr));
        let weights = |run: &str| fs::read(place.path(run).join("model.safetensors")).unwrap();
        assert!(weights(&run) == weights("whole"), "{signal}: other bits");
    }
}

/// A signal that was ignored when the program started stays ignored.
#[test]
#[cfg(unix)]
fn nohup_is_respected() {
    let place = place();
    let program = env!("CARGO_BIN_EXE_fmnist-gpu");
    let line = format!("trap '' HUP; exec {program} {} --out kept --quiet", LONG.replace("--epochs 200", "--epochs 4"));
    let mut command = Command::new("sh");
    command.args(["-c", &line]).current_dir(place.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for(|| place.path("kept/config.json").exists());
    send(&child, "HUP");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(json_file(&place.path("kept/summary.json"))["status"], "complete");
}

/// Long computations outside of training stop at once, with the exit code of the signal.
#[test]
#[cfg(unix)]
fn predictions_and_reports_stop_when_they_are_told_to() {
    let place = place();
    // A network that keeps the plain loops busy.
    let slow =
        "train --model cnn --dataset synthetic --train-limit 32 --epochs 0 --device cpu --no-report --quiet --out slow";
    place.run(slow).exits(0);
    for line in [
        "predict slow --dataset synthetic --test-index 0..10000 --device reference",
        "evaluate slow --dataset synthetic --device reference",
        "report slow --dataset synthetic --device reference --out page",
    ] {
        for (signal, code) in [("INT", 130), ("TERM", 143)] {
            let child = begin(&place, line);
            std::thread::sleep(Duration::from_millis(1500));
            send(&child, signal);
            let told = Instant::now();
            let output = child.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{line}: {err}");
            assert!(told.elapsed() < Duration::from_secs(3), "{line}: {:?}", told.elapsed());
            assert!(!place.path("page/report.html").exists());
        }
    }
}

/// A server that never answers: the download ends with the signal's code, and nothing is left of it.
#[test]
#[cfg(unix)]
fn an_interrupted_download_leaves_nothing() {
    let place = place();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", server.local_addr().unwrap());
    for (line, signal, code) in [
        (format!("{TRAIN} --out fresh"), "INT", 130),
        (format!("{TRAIN} --out fresh"), "TERM", 143),
        ("evaluate run --dataset fashion-mnist --device cpu".to_string(), "INT", 130),
        ("samples --grid never.png".to_string(), "HUP", 129),
    ] {
        let line = line.replace("--dataset synthetic", "--dataset fashion-mnist");
        let mut command = place.command(&line);
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, &proxy);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // Once it is connected it waits.
        let _connection = server.accept().unwrap();
        send(&child, signal);
        let told = Instant::now();
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {err}");
        assert!(told.elapsed() < Duration::from_secs(3), "{line}: {:?}", told.elapsed());
        assert!(!place.path("fresh").exists(), "{line}: a folder stayed of a run that never started");
        let mut left = Vec::new();
        for folder in ["", "home", "home/fmnist-gpu", "home/.cache/fmnist-gpu"] {
            let entries = fs::read_dir(place.path(folder)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        }
        assert!(!left.iter().any(|name| name.contains(".part")), "{line}: {left:?}");
    }
}
