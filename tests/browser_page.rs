//! The core in a browser: a page trains the MLP through WebGPU in headless Chromium, on its software adapter.

use crate::support::not_run;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// The weights of the article's MLP, trained by WebGPU, agree with those of the reference engine.
#[test]
fn a_model_trained_in_a_browser_agrees_with_the_reference_engine() {
    let folder = PathBuf::from(std::env::var_os("FMNIST_TEST_BROWSER").unwrap_or_else(|| "target/browser".into()));
    if !folder.join("index.html").exists() {
        let reason = format!("{} has no page; see tests/browser.sh", folder.display());
        return not_run("browser", &reason, "FMNIST_EXPECT_BROWSER");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, reports) = channel();
    // This thread ends with the process.
    std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap(), &folder, &sender)));
    let profile = tempfile::tempdir().unwrap();
    let mut chromium = match chromium(&format!("http://{address}/index.html"), profile.path()) {
        Ok(chromium) => chromium,
        Err(error) => return not_run("browser", &format!("chromium: {error}"), "FMNIST_EXPECT_BROWSER"),
    };
    let report = reports.recv_timeout(Duration::from_secs(300));
    chromium.kill().unwrap();
    chromium.wait().unwrap();
    let report = report.expect("the page reports within five minutes");
    let report: Value = serde_json::from_str(&report).unwrap_or_else(|_| panic!("{report}"));
    eprintln!("in the browser: {report}");
    assert_eq!(report["device"][2], "webgpu");
    let close = |pair: &Value, bound: f64| {
        let [found, expected] = [0, 1].map(|i| pair[i].as_f64().unwrap());
        assert!((found - expected).abs() <= bound * expected, "{found}, the reference engine {expected}");
    };
    close(&report["test_losses"], 2e-5);
    let [found, expected] = [0, 1].map(|i| report["losses"][i].as_array().unwrap());
    assert_eq!((found.len(), expected.len()), (2, 2));
    for (found, expected) in found.iter().zip(expected) {
        close(&Value::from(vec![found.clone(), expected.clone()]), 2e-5);
    }
    let differences = report["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 4);
    for difference in differences {
        // As ten steps may differ from those of Keras, in `training`.
        assert!(difference[1].as_f64().is_some_and(|worst| worst <= 5e-5), "{difference}");
    }
    // It trained: the second epoch is better than the first, and than guessing.
    let losses: Vec<f64> = found.iter().map(|loss| loss.as_f64().unwrap()).collect();
    assert!(losses[1] < losses[0] && losses[1] < 10f64.ln(), "{losses:?}");
}

/// Opens a page in Chromium, in real time: it runs until it is killed.
fn chromium(url: &str, profile: &Path) -> std::io::Result<Child> {
    let program = std::env::var("FMNIST_TEST_CHROMIUM").unwrap_or_else(|_| "chromium".to_string());
    let mut command = Command::new(program);
    command.args(["--headless", "--no-sandbox", "--enable-unsafe-webgpu", "--no-first-run", "--disable-quic"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    command.args(["--remote-debugging-port=0", &format!("--user-data-dir={}", profile.display()), url]);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Answers one request: a file of the folder, or the report of the page.
fn answer(mut stream: TcpStream, folder: &Path, reports: &Sender<String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let name = request.split_whitespace().nth(1).unwrap_or_default().trim_start_matches('/').to_string();
    let (kind, body) = if request.starts_with("POST") {
        let length =
            headers.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        // The test is over if nobody waits for it.
        let _ = reports.send(String::from_utf8(body).unwrap());
        ("text/plain", Vec::new())
    } else {
        let kind = match name.rsplit('.').next() {
            Some("html") => "text/html",
            Some("js") => "text/javascript",
            _ => "application/wasm",
        };
        (kind, fs::read(folder.join(&name)).unwrap_or_default())
    };
    let status = if body.is_empty() && kind != "text/plain" { "404 Not Found" } else { "200 OK" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // The browser may have closed the connection.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}
