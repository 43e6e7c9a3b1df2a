//! Opens the page in a browser, and does there what a script says.

use super::not_run;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tempfile::TempDir;

/// A browser, without windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Browser {
    /// With WebGPU, on its own software adapter.
    Chromium,
    /// As it comes on Linux, where it has no adapter.
    ChromiumWithoutWebGpu,
    /// Without a network but this machine's.
    ChromiumOffline,
    /// For a visitor who prefers light pages.
    ChromiumLight,
    /// For a visitor who prefers dark pages.
    ChromiumDark,
    /// With WebGPU, on the system's software adapter.
    Firefox,
}

/// What the page's server has besides the page: the bytes of a file by its path.
pub type Extra = dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync;

/// The folder of the page, if it was built; else says so.
pub fn page() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("FMNIST_TEST_PAGE").unwrap_or_else(|| "web/dist".into()));
    if folder.join("index.html").exists() {
        return Some(folder);
    }
    not_run("page", &format!("{} has no page; see web/build.sh", folder.display()), "FMNIST_EXPECT_PAGE");
    None
}

/// Opens the page with this query, or `blank.html` in its place if the query is that, runs `tests/page/SCRIPT.js` in it, and returns what the script returns. `None` if there is no page, or no
/// such browser.
///
/// # Panics
/// The script fails, or the page writes anything to the console, or wants something from outside.
pub fn visit(browser: Browser, query: &str, script: &str, extra: Arc<Extra>) -> Option<Value> {
    let folder = page()?;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, reports) = channel();
    let script = ["visit", script].map(|name| fs::read_to_string(format!("tests/page/{name}.js")).unwrap()).concat();
    let server = Server { folder, script, extra, reports: sender };
    // This thread ends with the process. A thread per request, as a browser keeps connections open.
    std::thread::spawn(move || {
        let server = Arc::new(server);
        for stream in listener.incoming() {
            let server = Arc::clone(&server);
            std::thread::spawn(move || server.answer(stream.unwrap()));
        }
    });
    let profile = tempfile::tempdir().unwrap();
    let query = if query == "blank.html" { query.to_string() } else { format!("?{query}") };
    let mut child = match browser.open(&format!("http://{address}/{query}"), &profile) {
        Ok(child) => child,
        Err(error) => {
            not_run(&format!("{browser:?}"), &error.to_string(), browser.expected());
            return None;
        }
    };
    let report = reports.recv_timeout(Duration::from_secs(300));
    child.kill().unwrap();
    child.wait().unwrap();
    let report = report.unwrap_or_else(|_| panic!("{browser:?} reports within five minutes"));
    let report: Value = serde_json::from_str(&report).unwrap_or_else(|_| panic!("{report}"));
    assert_eq!(report["failure"], Value::Null, "{browser:?} {query}: {report:#}");
    assert_eq!(report["complaints"], Value::from(Vec::<Value>::new()), "{browser:?} {query}");
    Some(report["result"].clone())
}

/// Nothing beyond the page.
pub fn nothing() -> Arc<Extra> {
    Arc::new(|_| None)
}

impl Browser {
    fn expected(self) -> &'static str {
        if self == Browser::Firefox { "FMNIST_EXPECT_FIREFOX" } else { "FMNIST_EXPECT_CHROMIUM" }
    }

    fn open(self, url: &str, profile: &TempDir) -> std::io::Result<Child> {
        let mut command = if self == Browser::Firefox { firefox(profile.path())? } else { chromium(profile.path()) };
        command.args(match self {
            // A software adapter compiles for so long that the browser would take it for hung.
            Browser::Chromium => &["--enable-unsafe-webgpu", "--disable-gpu-watchdog"][..],
            Browser::ChromiumOffline => &["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
            Browser::ChromiumDark => &["--blink-settings=preferredColorScheme=0"],
            Browser::ChromiumLight => &["--blink-settings=preferredColorScheme=1"],
            Browser::ChromiumWithoutWebGpu | Browser::Firefox => &[],
        });
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.arg(url).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    }
}

fn chromium(profile: &Path) -> Command {
    let mut command = Command::new(std::env::var("FMNIST_TEST_CHROMIUM").unwrap_or_else(|_| "chromium".to_string()));
    command.args(["--headless", "--no-sandbox", "--no-first-run", "--disable-quic", "--disable-background-networking"]);
    command.args(["--disable-component-update", "--disable-sync", "--remote-debugging-port=0"]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command
}

fn firefox(profile: &Path) -> std::io::Result<Command> {
    const PREFERENCES: &str = r#"
        user_pref("dom.webgpu.enabled", true);
        user_pref("gfx.webgpu.ignore-blocklist", true);
        user_pref("datareporting.policy.dataSubmissionEnabled", false);
        user_pref("toolkit.telemetry.enabled", false);
    "#;
    fs::write(profile.join("user.js"), PREFERENCES)?;
    let mut command = Command::new(std::env::var("FMNIST_TEST_FIREFOX").unwrap_or_else(|_| "firefox-esr".to_string()));
    command.args(["--headless", "--no-remote", "--profile"]).arg(profile);
    // It keeps files in the home folder too, and refuses one that belongs to someone else.
    command.env("HOME", profile);
    Ok(command)
}

struct Server {
    folder: PathBuf,
    script: String,
    extra: Arc<Extra>,
    reports: Sender<String>,
}

impl Server {
    /// Answers one request: a file, or the report of the script.
    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut lines = reader.by_ref().lines().map_while(Result::ok);
        let request = lines.next().unwrap_or_default();
        let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let path = request.split([' ', '?']).nth(1).unwrap_or_default().trim_start_matches('/');
        let (kind, body) = if request.starts_with("POST") {
            let length = headers
                .iter()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            reader.read_exact(&mut body).unwrap();
            // The test is over if nobody waits for it.
            let _ = self.reports.send(String::from_utf8(body).unwrap());
            ("text/plain", Some(Vec::new()))
        } else {
            (kind(path), self.file(path))
        };
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_default();
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        // The browser may have closed the connection.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
    }

    fn file(&self, path: &str) -> Option<Vec<u8>> {
        match path {
            "visit.js" => Some(self.script.clone().into_bytes()),
            "blank.html" => {
                Some(b"<!doctype html><title>frame</title><script type=module src=visit.js></script><body>".to_vec())
            }
            // The script comes first, so that it sees everything.
            "" | "index.html" => {
                let page = fs::read_to_string(self.folder.join("index.html")).unwrap();
                let with = page.replacen("<script", "<script type=\"module\" src=\"visit.js\"></script>\n<script", 1);
                Some(with.into_bytes())
            }
            path => (self.extra)(path).or_else(|| fs::read(self.folder.join(path)).ok()),
        }
    }
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        Some("wasm") => "application/wasm",
        Some("gz") => "application/gzip",
        Some("safetensors") => "application/octet-stream",
        _ => "text/html",
    }
}
