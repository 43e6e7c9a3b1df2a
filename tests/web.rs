//! `fmnist-gpu web`, which serves the page, and the page that `export --format html` writes.

use crate::support::program::Place;
use crate::support::visit::{Browser, visit};
use crate::support::{genuine_data, not_run};
use fmnist_gpu::data::fashion_mnist;
use fmnist_gpu::engine::{Engine, NativeEngine};
use fmnist_gpu::model::weights;
use fmnist_gpu::run::{RunFiles, archive};
use pollster::block_on;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::process::{Child, Stdio};
use std::sync::Arc;

/// Whether the program has the page; if not, it says how to get it.
pub fn has_page(place: &Place) -> bool {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = place.command(&format!("web --no-open --port {port}")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    if said.contains(&format!("port {port} cannot be used")) {
        return true;
    }
    assert!(said.contains("built without the page") && said.contains("sh web/build.sh"), "{said}");
    not_run("web", "the program was built without the page; see web/build.sh", "FMNIST_EXPECT_PAGE");
    false
}

/// The running command.
struct Served {
    child: Child,
    port: u16,
    /// What every path begins with: `/TOKEN/`.
    base: String,
}

impl Served {
    fn start(place: &Place) -> Self {
        let mut child = place.command("web --no-open").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let (host, base) = address.trim().strip_prefix("http://").unwrap().split_once('/').unwrap();
        let port = host.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
        Served { child, port, base: format!("/{base}") }
    }

    /// Sends bytes, and returns the answer.
    fn send(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // The program may have closed the connection already.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    /// The status of an answer, its head and its body.
    fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        self.ask("GET", path)
    }

    fn ask(&self, method: &str, path: &str) -> (u16, String, Vec<u8>) {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        let answer = self.send(request.as_bytes());
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("{path}"));
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        (status, head, answer[end + 4..].to_vec())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_page_is_served_to_this_machine_with_its_runs_and_nothing_else() {
    let place = Place::new();
    if !has_page(&place) {
        return;
    }
    let line = "train --model mlp --dataset synthetic --train-limit 100 --epochs 1 --device cpu --no-report --out";
    place.run(&format!("{line} runs/50%-déjà")).exits(0);
    std::fs::write(place.path("secret"), "not to be served").unwrap();
    let served = Served::start(&place);
    let path = |name: &str| format!("{}{name}", served.base);
    for (name, kind) in [
        ("", "text/html"),
        ("main.js", "text/javascript"),
        ("report.css", "text/css"),
        ("fmnist_gpu_web_bg.wasm", "application/wasm"),
        ("runs.json", "application/json"),
    ] {
        let (status, head, body) = served.get(&path(name));
        assert!(status == 200 && head.contains(&format!("content-type: {kind}")) && !body.is_empty(), "{name}: {head}");
    }
    assert!(String::from_utf8(served.get(&path("")).2).unwrap().contains("data-runs=\"runs.json\""));
    assert_eq!(served.get(&path("runs.json")).2, "[\"50%-déjà\"]".as_bytes());
    let run = archive::unpack(&served.get(&path("runs/50%25-d%C3%A9j%C3%A0.zip")).2).unwrap();
    let run = RunFiles::open(&run).unwrap();
    assert_eq!((run.model.name.as_str(), run.history.len()), ("mlp", 1));
    assert_eq!(run.checkpoint.unwrap().position.history.len(), 1);
    // Nothing without the token, nothing outside, nothing but GET.
    let outside = ["/", "/main.js", "/0123456789abcdef0123456789abcdef/main.js"].map(str::to_string);
    let inside = [
        "../secret",
        "%2e%2e/secret",
        "runs/../secret",
        "runs/50%25-d%C3%A9j%C3%A0/config.json",
        "runs/..%2fsecret.zip",
        "data/../secret",
        "runs/",
    ];
    for path in outside.into_iter().chain(inside.map(path)) {
        let (status, _, body) = served.get(&path);
        assert_eq!(status, 404, "{path}");
        assert!(!String::from_utf8_lossy(&body).contains("not to be served"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(served.ask(method, &path("")).0, 404, "{method}");
    }
    // Whatever is sent, it keeps serving.
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let valid = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path("main.js")).into_bytes();
    for _ in 0..300 {
        let mut request = valid.clone();
        for _ in 0..1 + random.next_u32() % 8 {
            let at = random.next_u32() as usize % request.len();
            request[at] = random.next_u32() as u8;
        }
        request.truncate(1 + random.next_u32() as usize % (2 * request.len()));
        served.send(&request);
    }
    assert_eq!(served.get(&path("")).0, 200);
    // The port is taken.
    let second = place.run(&format!("web --no-open --port {}", served.port)).exits(2);
    second.says(&["cannot be used", "leave --port out"]);
    #[cfg(unix)]
    {
        let mut served = served;
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(served.child.id() as i32, libc::SIGINT) };
        assert_eq!(served.child.wait().unwrap().code(), Some(130));
    }
}

#[test]
fn an_exported_page_is_small_and_classifies_as_the_program_does() {
    let place = Place::new();
    if !has_page(&place) {
        return;
    }
    let line = "train --model cnn --dataset synthetic --train-limit 1000 --epochs 1 --device cpu --no-report --out";
    place.run(&format!("{line} run")).exits(0);
    let exported = place.run("export run --format html --json").exits(0).json();
    let bytes = exported["bytes"].as_u64().unwrap();
    assert!(bytes < 2_000_000, "{bytes} bytes");
    assert!(exported.get("python").is_none());
    let page = std::fs::read(place.path("run/model.html")).unwrap();
    assert_eq!(page.len() as u64, bytes);
    let text = String::from_utf8(page.clone()).unwrap();
    assert!(!text.contains("src=\"http") && !text.contains("href=\"http"), "it needs the network");
    place.run("export run --format html").exits(2).says(&["exists"]);

    let extra = move |path: &str| (path == "model.html").then(|| page.clone());
    let Some(result) = visit(Browser::ChromiumOffline, "blank.html", "classifier", Arc::new(extra)) else { return };
    let png = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, result["png"].as_str().unwrap()).unwrap();
    std::fs::write(place.path("photo.png"), png).unwrap();
    let predicted = place.run("predict run photo.png --device cpu --json").exits(0).json();
    let (class, probability) = (predicted[0]["class"].as_str().unwrap(), predicted[0]["probability"].as_f64().unwrap());
    assert_eq!(result["verdict"], format!("{class}, {:.0} %", 100.0 * probability));
    assert!(result["maps"].as_u64().unwrap() >= 6);
    assert_eq!(result["failure"], "");
}

/// Half precision changes the class of an image only where two classes are as good as tied.
#[test]
fn half_precision_changes_no_class_but_by_a_tie() {
    const TIE: f32 = 0.01;
    let Some(folder) = genuine_data() else { return };
    let place = Place::new();
    let line = format!(
        "train --model cnn --data-dir {} --train-limit 12000 --epochs 1 --device cpu --no-report --out run",
        folder.display()
    );
    place.run(&line).exits(0);
    place.run("export run --format half").exits(0);
    let (_, test) = fashion_mnist::load_from_dir(&folder, &fashion_mnist::FILES).unwrap();
    let [single, half] = ["run/model.safetensors", "run/model.half.safetensors"].map(|name| {
        let (model, parameters) = weights::from_bytes(&std::fs::read(place.path(name)).unwrap()).unwrap();
        let mut engine = NativeEngine::new(&model, &parameters, 2).unwrap();
        block_on(engine.infer(&test, &mut |_| ControlFlow::Continue(()))).unwrap().probabilities
    });
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let mut changed = 0;
    for (i, (single, half)) in single.chunks(10).zip(half.chunks(10)).enumerate() {
        let (before, after) = (best(single), best(half));
        changed += usize::from(before != after);
        assert!(single[before] - single[after] < TIE, "image {i}: {single:?}, in half precision {half:?}");
    }
    eprintln!("{changed} of {} images have another class in half precision", test.len());
}
