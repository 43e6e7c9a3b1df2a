//! The examples are the first thing that a user of the library reads: they must run and print what they promise.

use crate::support::gpu;
use crate::support::program::Place;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns an example as a program: `cargo test` builds the examples along with the tests; if only the tests were
/// built, it is built now.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let file = if cfg!(windows) { format!("{name}.exe") } else { name.to_string() };
    let path = profile.join("examples").join(file);
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "--example", name]).current_dir(env!("CARGO_MANIFEST_DIR"));
    // Cargo describes this test's package to it. Were that passed on, build scripts that look at it would run again, and half of the program's
    // dependencies be compiled again.
    for (name, _) in std::env::vars_os() {
        let described =
            ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"];
        if name.to_str().is_some_and(|name| described.iter().any(|start| name.starts_with(start))) {
            build.env_remove(name);
        }
    }
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let output = build.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

#[track_caller]
fn says(name: &str, parts: &[&str]) {
    let place = Place::new();
    let mut command = Command::new(example(name));
    // The same environment as in the program's own tests: none of this machine's data, no network.
    let surroundings = place.command("");
    for (key, value) in surroundings.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let output = command.current_dir(place.path("")).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}:\n{out}\n{err}");
    for part in parts {
        assert!(out.contains(part), "{name}: no `{part}` in\n{out}");
    }
}

#[test]
fn the_example_train_trains() {
    gpu();
    says("train", &["synthetic on ", "epoch 2: loss 0.", "test: loss 0."]);
}

#[test]
fn the_example_own_kernel_is_proven() {
    gpu();
    says(
        "own_kernel",
        &["leaky_relu([-2, -0.5, 0, 3]) = [-0.2, -0.05, 0.0, 3.0]", "leaky_relu_forward: 10200 elements"],
    );
}

#[test]
fn the_example_inference_predicts() {
    gpu();
    says("inference", &["batch 1: median ", "batch 32: median ", "first picture: "]);
}
