//! Runs the program from the outside, in its own folder.

use fmnist_gpu::gpu::adapter;
use pollster::FutureExt as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A folder to work in, and the program without this machine's data or network.
pub struct Place {
    folder: TempDir,
}

/// The commands that have `--safe`.
const COMPUTING: [&str; 10] =
    ["train", "evaluate", "predict", "report", "filter", "selftest", "bench", "speedrun", "profile", "doctor"];

impl Place {
    /// Creates a new, empty folder.
    pub fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    /// Returns a path in the folder; an empty name is the folder itself.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the program with the arguments in `line`, separated by spaces, ready to run in the folder.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fmnist-gpu"));
        command.args(line.split_whitespace()).current_dir(self.folder.path());
        // `FMNIST_TEST_SAFE=1 cargo test` runs the program with wgpu's run-time checks for everything that it computes.
        let computes = |word: &str| COMPUTING.contains(&word);
        if std::env::var_os("FMNIST_TEST_SAFE").is_some()
            && line.split_whitespace().next().is_some_and(computes)
            && !["--safe", "--ab-checks"].iter().any(|flag| line.contains(flag))
        {
            command.arg("--safe");
        }
        for name in ["FMNIST_DATA_DIR", "KERAS_HOME", "WGPU_BACKEND", "WGPU_ADAPTER_NAME", "RUST_LOG"] {
            command.env_remove(name);
        }
        // Without a GPU, the default would be the native engine. These tests are about the shaders, unless `--device
        // cpu` is given.
        if let Some(name) = adapter_name() {
            command.env("WGPU_ADAPTER_NAME", name);
        }
        for name in ["HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA", "USERPROFILE"] {
            command.env(name, self.folder.path().join("home"));
        }
        // The home folder is new each time; the driver's compiled shaders need not be.
        command.env("MESA_SHADER_CACHE_DIR", env!("CARGO_TARGET_TMPDIR"));
        // Nothing listens there: the mirrors cannot be reached, with or without a network.
        for name in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy"] {
            command.env(name, "http://127.0.0.1:9");
        }
        command
    }

    /// Runs the program and waits for it.
    pub fn run(&self, line: &str) -> Ran {
        Ran::new(self.command(line).output().unwrap(), line)
    }
}

/// Returns the name of the adapter that tests of the shaders run on.
fn adapter_name() -> Option<&'static str> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    NAME.get_or_init(|| adapter::list().block_on().unwrap().first().map(|first| first.name.clone())).as_deref()
}

/// The result of running the program.
pub struct Ran {
    line: String,
    code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// Takes the output of a run with the arguments `line`.
    pub fn new(output: Output, line: &str) -> Self {
        Ran {
            line: line.to_string(),
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// Fails unless the exit code is `code`, and if there was a panic.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "fmnist-gpu {}\n{}\n{}", self.line, self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Fails unless standard error contains all `parts`.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "fmnist-gpu {}: no `{part}` in\n{}", self.line, self.err);
        }
        self
    }

    /// Parses standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in\n{}", self.out))
    }

    /// Parses standard output as one JSON object per line.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in\n{}", self.out));
        self.out.lines().map(parse).collect()
    }

    /// Returns what `train --json` prints last.
    pub fn summary(&self) -> Value {
        self.json_lines().pop().unwrap()
    }
}

/// Reads the JSON in a file.
pub fn json_file(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Returns every file below a folder by name, except hidden ones.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}
