//! `fmnist-gpu web`

use super::page::{self, FILES};
use super::terminal::{print, say};
use super::{Global, counted, interrupt_flag, signals};
use anyhow::{Context, Result, bail};
use clap::Args;
use fmnist_gpu::data::{Places, fashion_mnist};
use fmnist_gpu::files::{ShownPath, read_bounded};
use fmnist_gpu::run::archive::{self, Files};
use fmnist_gpu::run::checkpoint::MAX_CHECKPOINT_BYTES;
use fmnist_gpu::run::{MODEL_FILE, RUN_FILES};
use oxhttp::Server;
use oxhttp::model::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use oxhttp::model::{Body, Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Flags of `web`.
#[derive(Debug, Args)]
pub struct WebArgs {
    /// Port on this machine [default: any that is free]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Print the address, but do not open a browser
    #[arg(long)]
    no_open: bool,
    /// Folder whose runs the page can open
    #[arg(long, default_value = "runs", value_name = "DIR")]
    runs: PathBuf,
}

/// The most bytes of one file that is served.
const MAX_BYTES: u64 = MAX_CHECKPOINT_BYTES;

/// Serves the page to this machine's browsers until a signal comes.
pub fn run(args: WebArgs, global: &Global) -> Result<ExitCode> {
    page::check()?;
    let interrupt = interrupt_flag();
    let port = free_port(args.port)?;
    let site = Site::new(args.runs);
    let address = format!("http://127.0.0.1:{port}/{}/", site.token);
    match &site.data {
        Some(folder) => global.say(format!("Data: {}", folder.shown())),
        None => {
            global.say("Data: none on this machine; the page downloads it, and `fmnist-gpu train` would keep it here")
        }
    }
    global.say(format!("Runs: {} in {}", counted(site.runs().len(), "run"), site.folder.shown()));
    let server = Server::new(move |request| site.answer(request))
        .bind((Ipv4Addr::LOCALHOST, port))
        .with_global_timeout(Duration::from_secs(60))
        .with_max_concurrent_connections(64);
    // It ends with the process.
    server.spawn().with_context(|| format!("cannot listen on port {port}; choose another with --port"))?;
    print(&address);
    if !args.no_open
        && let Err(error) = open::that_detached(&address)
    {
        say(format_args!("no browser could be opened ({error}); open the address yourself"));
    }
    global.say("Only this machine can reach the page, and only with this address. Ctrl-C ends it.");
    while !interrupt.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(signals::exit_code())
}

/// The port that was asked for, or one that is free.
fn free_port(wanted: Option<u16>) -> Result<u16> {
    let found = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted.unwrap_or(0)));
    match (found, wanted) {
        (Ok(listener), _) => Ok(listener.local_addr()?.port()),
        (Err(error), Some(port)) => {
            bail!("port {port} cannot be used: {error}; leave --port out to take any that is free")
        }
        (Err(error), None) => bail!("no port of this machine can be used: {error}"),
    }
}

/// What is served: the page, the data set and the runs. Every address begins with a token that nobody can guess, so that other users of the
/// machine, and pages of other sites, get nothing.
struct Site {
    token: String,
    /// Where the data set lies, if it does.
    data: Option<PathBuf>,
    /// The folder of the runs.
    folder: PathBuf,
}

/// A file with its content type, and whether it is compressed.
struct Served {
    kind: &'static str,
    bytes: Vec<u8>,
    is_packed: bool,
}

impl Site {
    fn new(folder: PathBuf) -> Self {
        // Its keys are from the system's source of randomness.
        let part = || RandomState::new().hash_one(std::process::id());
        let token = format!("{:016x}{:016x}", part(), part());
        Site { token, data: Places::from_environment().find(&fashion_mnist::FILES), folder }
    }

    fn answer(&self, request: &mut Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        let name = path.strip_prefix('/').and_then(|path| path.strip_prefix(&self.token)?.strip_prefix('/'));
        let found = match (request.method(), name) {
            (&Method::GET, Some(name)) => self.find(name),
            _ => None,
        };
        let Some(Served { kind, bytes, is_packed }) = found else {
            let text = "Not found. The address that `fmnist-gpu web` has printed is the only one.\n";
            return respond(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", false, text.into());
        };
        respond(StatusCode::OK, kind, is_packed, bytes)
    }

    /// What is served by this name. It is compared with the names that exist, and is never part of a path.
    fn find(&self, name: &str) -> Option<Served> {
        let plain = |kind, bytes| Some(Served { kind, bytes, is_packed: false });
        if name.is_empty() || name == "index.html" {
            let page = String::from_utf8(page::file("index.html")?).ok()?;
            // It asks for the list of runs only where there is one.
            return plain(
                "text/html; charset=utf-8",
                page.replace("<body ", "<body data-runs=\"runs.json\" ").into_bytes(),
            );
        }
        if let Some((_, bytes)) = FILES.iter().find(|(known, _)| *known == name) {
            return Some(Served { kind: kind(name), bytes: bytes.to_vec(), is_packed: true });
        }
        if name == "runs.json" {
            let runs: Vec<String> = self.runs().into_iter().map(|(name, _)| name).collect();
            return plain("application/json", serde_json::to_vec(&runs).ok()?);
        }
        if let Some(file) = name.strip_prefix("data/") {
            let mut known = fashion_mnist::FILES.names().into_iter().map(|name| format!("{name}.gz"));
            let path = self.data.as_ref()?.join(known.find(|known| known == file)?);
            return plain("application/gzip", read_bounded(&path, MAX_BYTES).ok()?);
        }
        let wanted = percent_decode_str(name.strip_prefix("runs/")?.strip_suffix(".zip")?).decode_utf8().ok()?;
        let (name, path) = self.runs().into_iter().find(|(name, _)| *name == wanted)?;
        plain("application/zip", packed(&name, &path)?)
    }

    /// The runs in the folder, by their names.
    fn runs(&self) -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let runs = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
        let mut runs: Vec<(String, PathBuf)> = runs.filter(|(_, path)| path.join(MODEL_FILE).is_file()).collect();
        runs.sort();
        runs
    }
}

/// The files of a run and its newest checkpoint as a zip archive.
fn packed(name: &str, run: &Path) -> Option<Vec<u8>> {
    let read = |name: &str| Some((name.to_string(), read_bounded(&run.join(name), MAX_BYTES).ok()?));
    let mut files: Files = RUN_FILES.into_iter().filter_map(read).collect();
    let mut checkpoints = fmnist_gpu::run::checkpoint::names(run);
    checkpoints.sort();
    files.extend(checkpoints.last().and_then(|name| read(name)));
    archive::pack(name, &files).ok()
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

fn respond(status: StatusCode, kind: &str, is_packed: bool, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .header(CACHE_CONTROL, "no-cache")
        .header(X_CONTENT_TYPE_OPTIONS, "nosniff");
    if is_packed {
        response = response.header(CONTENT_ENCODING, "gzip");
    }
    response.body(Body::from(bytes)).expect("these headers are valid")
}
