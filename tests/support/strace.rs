//! Records the system calls of the program, and injects faults into them. Uses strace, so Linux only.

use super::program::Place;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The calls that save: those that create, write, truncate, sync, rename and remove files and folders.
pub const SAVING: &str = "openat,write,writev,pwrite64,fsync,fdatasync,ftruncate,truncate,fallocate,rename,renameat,renameat2,link,\
                          linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,copy_file_range,sendfile";

/// A traced program that takes more seconds than this hangs.
const MAX_SECONDS: &str = "120";

/// Returns why system calls cannot be traced here; `None` if they can.
pub fn obstacle() -> Option<String> {
    if cfg!(not(target_os = "linux")) {
        return Some("strace runs on Linux".to_string());
    }
    match Command::new("strace").args(["-o", "/dev/null", "true"]).output() {
        Err(error) => Some(format!("strace: {error}")),
        Ok(output) if !output.status.success() => {
            Some(format!("strace: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Ok(_) => None,
    }
}

/// An argument or the result of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// An open file with its path.
    File(i64, PathBuf),
    /// A string: a path, or the data written.
    Bytes(Vec<u8>),
    /// A number, flags, an error.
    Other(String),
}

/// A system call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub args: Vec<Value>,
    /// What it returned; `?` if it did not return.
    pub result: Value,
    /// Whether its error was injected.
    pub injected: bool,
    /// Its number among the calls of this name in its thread, counted from 1.
    pub ordinal: usize,
}

impl Call {
    /// Parses a line of strace; `None` for lines about signals and exits.
    fn parse(line: &str) -> Option<Self> {
        let (call, result) = line.rsplit_once(" = ")?;
        let (name, args) = call.trim_end().split_once('(')?;
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        let args = args.strip_suffix(')')?;
        let args = args.split(", ").filter(|arg| !arg.is_empty()).map(Value::parse).collect();
        let injected = result.contains("(INJECTED)");
        Some(Call { name: name.to_string(), args, result: Value::parse(result), injected, ordinal: 0 })
    }

    /// Whether it returned without an error.
    pub fn succeeded(&self) -> bool {
        !matches!(&self.result, Value::Other(text) if text.starts_with('-') || text.starts_with('?'))
    }

    /// Returns the paths that it names, or else that of the file it is called on; relative paths start in `folder`.
    pub fn paths(&self, folder: &Path) -> Vec<PathBuf> {
        let is_write = self.name.contains("write");
        let mut paths = Vec::new();
        let mut open: Option<&Path> = None;
        for value in self.args.iter().chain([&self.result]) {
            match value {
                // `AT_FDCWD` or an open folder precedes the path that is relative to it.
                Value::File(_, path) => open = Some(path),
                Value::Bytes(bytes) if !is_write => {
                    paths.push(open.unwrap_or(folder).join(String::from_utf8_lossy(bytes).as_ref()));
                }
                _ => {}
            }
        }
        if paths.is_empty() {
            paths.extend(open.map(Path::to_path_buf));
        }
        paths
    }

    /// Returns the argument `i` if it is a string.
    pub fn bytes(&self, i: usize) -> Option<&[u8]> {
        match self.args.get(i)? {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the argument `i` as strace prints it if it is flags or a number.
    pub fn text(&self, i: usize) -> &str {
        match self.args.get(i) {
            Some(Value::Other(text)) => text,
            _ => "",
        }
    }
}

impl Value {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        if let Some(quoted) = text.strip_prefix('"') {
            // A truncated string is followed by `...`.
            return Value::Bytes(unhex(quoted.split('"').next().unwrap_or_default()));
        }
        match text.split_once('<') {
            // A file that was removed is `3<path>(deleted)`.
            Some((number, path)) if path.contains('>') => {
                let path = path.split('>').next().unwrap_or_default();
                let path = String::from_utf8_lossy(&unhex(path)).into_owned();
                Value::File(number.parse().unwrap_or(-1), PathBuf::from(path))
            }
            _ => Value::Other(text.to_string()),
        }
    }
}

/// Returns the bytes of `\x2f\x74...`.
fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// What to trace, and what to inject.
#[derive(Clone, Default)]
pub struct Tracing<'a> {
    /// The names of the calls, separated by commas.
    pub calls: &'a str,
    /// Whether threads other than the first are traced too.
    pub all_threads: bool,
    /// Whether what is written is recorded.
    pub data: bool,
    /// Only trace calls on these files, if any are named.
    pub only: Vec<PathBuf>,
    /// The `inject=` expression of strace.
    pub inject: Option<String>,
}

impl Tracing<'_> {
    /// Runs a command and returns its output and the calls of each thread, those of the first thread first.
    ///
    /// Standard output and error go to the files `OUT` and `ERR` of the place, so that their paths are known.
    pub fn run(&self, place: &Place, command: &Command) -> (Output, Vec<Vec<Call>>) {
        let log = tempfile::tempdir().unwrap();
        let prefix = log.path().join("log");
        // `timeout` kills the whole process group.
        let mut traced = Command::new("timeout");
        traced.args(["-s", "KILL", MAX_SECONDS, "strace", "-y", "-xx", "-s"]);
        traced.arg(if self.data { "100000000" } else { "0" }).arg("-o").arg(&prefix);
        let names: Vec<String> = self.calls.split(',').map(|name| format!("?{name}")).collect();
        // Only the first thread calls `execve`.
        traced.arg("-e").arg(format!("trace=execve,{}", names.join(",")));
        if self.all_threads {
            traced.arg("-ff");
            // Much faster, but a kill would come too late: after the call.
            if self.inject.as_ref().is_none_or(|inject| !inject.contains("signal")) {
                traced.arg("--seccomp-bpf");
            }
        }
        for path in &self.only {
            traced.arg("-P").arg(path);
        }
        if let Some(inject) = &self.inject {
            traced.arg("-e").arg(format!("inject={inject}"));
        }
        traced.arg(command.get_program()).args(command.get_args()).current_dir(command.get_current_dir().unwrap());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => traced.env(key, value),
                None => traced.env_remove(key),
            };
        }
        let (out, err) = (place.path("OUT"), place.path("ERR"));
        let file = |path: &Path| Stdio::from(fs::File::create(path).unwrap());
        let status = traced.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err)).status().unwrap();
        assert!(status.code() != Some(137), "{command:?}: not over after {MAX_SECONDS} s, {:?}", self.inject);
        let output = Output { status, stdout: fs::read(&out).unwrap(), stderr: fs::read(&err).unwrap() };
        let mut threads = Vec::new();
        for entry in fs::read_dir(log.path()).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            let is_first = text.starts_with("execve(");
            let mut calls: Vec<Call> = text.lines().filter_map(Call::parse).collect();
            calls.retain(|call| call.name != "execve");
            let mut counts = HashMap::new();
            for call in &mut calls {
                let count = counts.entry(call.name.clone()).or_insert(0);
                *count += 1;
                call.ordinal = *count;
            }
            threads.insert(if is_first { 0 } else { threads.len() }, calls);
        }
        (output, threads)
    }
}
