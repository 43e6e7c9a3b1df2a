//! Downloads the files of the data set from a list of mirrors into the cache folder.
//!
//! A file is written under a temporary name in the cache folder, verified by size and SHA-256, synced and renamed, so the
//! cache never contains an incomplete file. If a mirror fails in any way, the next one is tried. Files that are already
//! in the cache are not downloaded again, so an interrupted download resumes with the next file.

use std::error::Error as _;
use std::fs::{self, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Proxy, ProxyProtocol};

use super::DataEvent;
use super::error::{Attempt, DataError};
use super::fashion_mnist::{self, DataFile, FileSet};
use crate::files::{Unfinished, temporary_files};

/// The mirrors of Fashion-MNIST: its authors' site (without TLS, so only the hash protects it), the copy that Keras uses,
/// and the authors' repository.
pub const MIRRORS: [&str; 3] = [
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
];

/// Bytes per chunk: small enough for a smooth progress bar, about 400 chunks for the largest file.
const CHUNK_BYTES: usize = 64 * 1024;
/// Maximum number of chunks waiting to be written.
const MAX_WAITING_CHUNKS: usize = 16;
/// How often the interrupt flag is checked while no data arrives.
const INTERRUPT_POLL: Duration = Duration::from_millis(100);
/// Attempts to create a partial file before another process, while starting, removes it as abandoned.
const MAX_PART_TRIES: usize = 8;
/// Age from which a partial file counts as abandoned on file systems without locks.
const STALE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Proxies for the requests to mirrors, by the scheme of the mirror's URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// URL of the proxy for `http://` mirrors.
    pub http: Option<String>,
    /// URL of the proxy for `https://` mirrors.
    pub https: Option<String>,
    /// Hosts that are contacted without a proxy, separated by commas: `example.org` includes its subdomains, `.example.org`
    /// means only the subdomains, `*` means all hosts.
    pub no_proxy: String,
}

impl Proxies {
    /// Returns the proxies that the given variables set, with curl's rules: `http_proxy` and `https_proxy`, else
    /// `all_proxy`; and `no_proxy`. Upper case works too, lower case takes precedence, and an empty value counts as unset.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let is_set = |value: &String| !value.trim().is_empty();
            variable(name).filter(is_set).or_else(|| variable(&name.to_uppercase()).filter(is_set))
        };
        Self {
            http: either("http_proxy").or_else(|| either("all_proxy")),
            https: either("https_proxy").or_else(|| either("all_proxy")),
            no_proxy: either("no_proxy").unwrap_or_default(),
        }
    }

    /// Returns the proxies that the environment sets; see [`Proxies::from_variables`].
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }
}

/// Mirrors, proxies and timeouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadOptions {
    /// Base URLs of the files, tried in this order; if empty, nothing is downloaded.
    pub mirrors: Vec<String>,
    /// Proxies for these mirrors. A redirect keeps using the proxy of the original URL.
    pub proxies: Proxies,
    /// Timeout for resolving a mirror's host name.
    pub resolve_timeout: Duration,
    /// Timeout for connecting, TLS included.
    pub connect_timeout: Duration,
    /// Longest time without receiving data.
    pub stall_timeout: Duration,
    /// Timeout for one file from one mirror.
    pub file_timeout: Duration,
}

impl Default for DownloadOptions {
    /// Returns [`MIRRORS`], the environment's proxies, and 5 s, 10 s, 20 s and 15 min (the largest file at 30 kB/s).
    fn default() -> Self {
        Self {
            mirrors: MIRRORS.map(String::from).to_vec(),
            proxies: Proxies::from_environment(),
            resolve_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(20),
            file_timeout: Duration::from_secs(15 * 60),
        }
    }
}

/// Why a file could not be downloaded from a mirror.
enum Failure {
    /// A problem of this mirror: another one may work.
    Mirror(String),
    /// An interrupt or a problem of the disk: no other mirror can help.
    Fatal(DataError),
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::Fatal(error)
    }
}

/// Downloads every file of the set that is missing or damaged in `dir`, compressed as served.
///
/// `interrupted` is polled between chunks and while no data arrives. Once every mirror has failed for one file, the other
/// files are not attempted. Damaged files of the same name are replaced.
pub fn fetch(
    files: &FileSet,
    dir: &Path,
    options: &DownloadOptions,
    interrupted: &dyn Fn() -> bool,
    events: &mut dyn FnMut(DataEvent),
) -> Result<(), DataError> {
    fs::create_dir_all(dir).map_err(DataError::io("create the folder", dir))?;
    remove_stale_parts(dir, files);
    let agents = Agents::new(options);
    // The mirror that served the last file comes first, so that a dead one costs its timeout only once.
    let mut mirrors = options.mirrors.clone();
    for (file, rank) in files.with_ranks() {
        if interrupted() {
            return Err(DataError::Interrupted);
        }
        match fashion_mnist::load_file(dir, file, rank) {
            Ok(_) => continue,
            Err(error @ DataError::OutOfMemory { .. }) => return Err(error),
            Err(_) => {}
        }
        let i_served = fetch_file(&agents, file, dir, &mirrors, interrupted, events)?;
        mirrors.rotate_left(i_served);
    }
    Ok(())
}

/// Tries the mirrors in turn; returns the index of the one that served the file.
fn fetch_file(
    agents: &Agents,
    file: &DataFile,
    dir: &Path,
    mirrors: &[String],
    interrupted: &dyn Fn() -> bool,
    events: &mut dyn FnMut(DataEvent),
) -> Result<usize, DataError> {
    let mut attempts = Vec::new();
    for (i_mirror, mirror) in mirrors.iter().enumerate() {
        let url = format!("{}/{}", mirror.trim_end_matches('/'), file.gz_name());
        events(DataEvent::Connecting { file: file.gz_name(), mirror: mirror.clone() });
        let mut progress = |received| {
            events(DataEvent::Downloading { file: file.gz_name(), received, total: file.gz_bytes });
        };
        let messages = agents.for_url(&url).and_then(|agent| request(agent, url.clone(), file.gz_bytes));
        let received = messages.map_err(Failure::Mirror);
        match received.and_then(|messages| receive_file(file, dir, &messages, interrupted, &mut progress)) {
            Ok(()) => {
                events(DataEvent::Downloaded(dir.join(file.gz_name())));
                return Ok(i_mirror);
            }
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Mirror(reason)) => {
                // It may quote the server.
                let reason = reason.replace(char::is_control, " ");
                attempts.push(Attempt { url, reason: reason.clone() });
                events(DataEvent::MirrorFailed { file: file.gz_name(), mirror: mirror.clone(), reason });
            }
        }
    }
    Err(DataError::DownloadFailed { file: file.gz_name(), attempts })
}

/// Writes the received data to a temporary file, verifies it and renames it.
///
/// On failure, the temporary file is removed when it is dropped.
fn receive_file(
    file: &DataFile,
    dir: &Path,
    messages: &Receiver<Message>,
    interrupted: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let mut part = create_part(file, dir)?;
    let _unfinished = Unfinished::new(part.path());
    let path = part.path().to_path_buf();
    let mut hasher = Sha256::new();
    let mut received = 0;
    loop {
        match next_message(messages, interrupted)? {
            Message::Started => progress(0),
            Message::Chunk(chunk) => {
                received += chunk.len() as u64;
                if received > file.gz_bytes {
                    return Err(Failure::Mirror(format!("more than the expected {} bytes received", file.gz_bytes)));
                }
                hasher.update(&chunk);
                part.as_file_mut().write_all(&chunk).map_err(DataError::io("write", &path))?;
                progress(received);
            }
            Message::End => break,
            Message::Failed(reason) => return Err(Failure::Mirror(reason)),
        }
    }
    if received != file.gz_bytes {
        return Err(Failure::Mirror(format!("{received} bytes received, expected {}", file.gz_bytes)));
    }
    let hash = fashion_mnist::hex(&hasher.finalize());
    if hash != file.gz_sha256 {
        return Err(Failure::Mirror(format!("SHA-256 {hash} received, expected {}", file.gz_sha256)));
    }
    part.as_file().sync_all().map_err(DataError::io("sync", &path))?;
    let target = dir.join(file.gz_name());
    part.persist(&target).map_err(|error| DataError::io("move the finished download to", &target)(error.error))?;
    Ok(())
}

/// Prefix of the name of a partial file.
fn part_prefix(file: &DataFile) -> String {
    format!("{}.part-", file.gz_name())
}

/// Creates a partial file and locks it, so that [`remove_stale_parts`] in other processes leaves it alone.
fn create_part(file: &DataFile, dir: &Path) -> Result<NamedTempFile, DataError> {
    let prefix = format!("{}{}-", part_prefix(file), std::process::id());
    let builder = temporary_files(&prefix, "");
    let create = || builder.tempfile_in(dir).map_err(DataError::io("create a file in", dir));
    for _ in 0..MAX_PART_TRIES {
        let part = create()?;
        match part.as_file().try_lock() {
            Ok(()) if part.path().exists() => return Ok(part),
            // A process that is just starting found the file before it was locked.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            // This file system does not support locks.
            Err(TryLockError::Error(_)) => return Ok(part),
        }
    }
    create()
}

/// Removes partial files that killed processes left behind; errors are ignored.
fn remove_stale_parts(dir: &Path, files: &FileSet) {
    let prefixes = files.with_ranks().map(|(file, _)| part_prefix(file));
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_part = prefixes.iter().any(|prefix| name.starts_with(prefix));
        // Only regular files: opening a named pipe would block.
        if is_part && let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) {
            remove_if_abandoned(&entry.path(), &metadata);
        }
    }
}

/// Removes a partial file unless a running process holds its lock. The system releases the locks of killed processes.
fn remove_if_abandoned(path: &Path, metadata: &fs::Metadata) {
    let is_old = || metadata.modified().is_ok_and(|time| time.elapsed().unwrap_or_default() > STALE_AGE);
    // Network file systems lock only files opened for writing.
    let file = fs::OpenOptions::new().write(true).open(path);
    let is_abandoned = match file.as_ref().map(fs::File::try_lock) {
        Ok(Ok(())) => true,
        Ok(Err(TryLockError::WouldBlock)) => false,
        // Locks are not supported, or the file belongs to another user: its age decides.
        Ok(Err(TryLockError::Error(_))) | Err(_) => is_old(),
    };
    // `file` keeps the lock until the file is removed.
    if is_abandoned {
        let _ = fs::remove_file(path);
    }
}

/// Messages from the download thread.
enum Message {
    /// The mirror responded and will send the file.
    Started,
    /// The next bytes of the file.
    Chunk(Vec<u8>),
    /// The response is complete.
    End,
    /// The mirror cannot be used.
    Failed(String),
}

/// Waits for the next message, polling for an interrupt.
fn next_message(messages: &Receiver<Message>, interrupted: &dyn Fn() -> bool) -> Result<Message, Failure> {
    loop {
        if interrupted() {
            return Err(Failure::Fatal(DataError::Interrupted));
        }
        match messages.recv_timeout(INTERRUPT_POLL) {
            Ok(message) => return Ok(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Mirror("the download thread ended early".into()));
            }
        }
    }
}

/// Requests `url` on a separate thread, because a blocked connection cannot poll for an interrupt.
///
/// The thread ends by itself: through one of the timeouts, or when the receiver is dropped.
fn request(agent: RoutedAgent, url: String, expected_bytes: u64) -> Result<Receiver<Message>, String> {
    let (sender, receiver) = mpsc::sync_channel(MAX_WAITING_CHUNKS);
    let spawned = thread::Builder::new().name("download".into()).spawn(move || {
        let end = match send_body(&agent, &url, expected_bytes, &sender) {
            Ok(()) => Message::End,
            Err(reason) => Message::Failed(reason),
        };
        // After an interrupt or a failed write, nobody receives this.
        let _ = sender.send(end);
    });
    spawned.map_err(|error| format!("the download thread could not be started: {error}"))?;
    Ok(receiver)
}

/// Sends the body of the response in chunks, at most one byte more than expected; the error is the reason as text.
fn send_body(agent: &RoutedAgent, url: &str, expected_bytes: u64, sender: &SyncSender<Message>) -> Result<(), String> {
    let response =
        agent.agent.get(url).call().map_err(|error| format!("{}{}", reason(&error, &agent.options), agent.via))?;
    if response.status() != 200 {
        return Err(format!("HTTP status {} received, expected 200", response.status()));
    }
    let body = response.into_body();
    if let Some(announced) = body.content_length().filter(|&n| n != expected_bytes) {
        return Err(format!("Content-Length is {announced} bytes, expected {expected_bytes}"));
    }
    let mut reader = body.into_reader().take(expected_bytes.saturating_add(1));
    if sender.send(Message::Started).is_err() {
        return Ok(());
    }
    let mut n_received = 0;
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let n = match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let reason = io_reason(&error, &agent.options);
                return Err(format!("the connection failed after {n_received} of {expected_bytes} bytes: {reason}"));
            }
        };
        n_received += n as u64;
        chunk.truncate(n);
        if sender.send(Message::Chunk(chunk)).is_err() {
            return Ok(());
        }
    }
}

/// Describes a client's error; for timeouts with their length.
fn reason(error: &ureq::Error, options: &DownloadOptions) -> String {
    let (what, limit) = match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve) => {
            ("the host name was not resolved within", options.resolve_timeout)
        }
        ureq::Error::Timeout(ureq::Timeout::Connect) => ("no connection within", options.connect_timeout),
        ureq::Error::Timeout(ureq::Timeout::PerRead) => ("no data for", options.stall_timeout),
        ureq::Error::Timeout(ureq::Timeout::Global) => ("not complete within", options.file_timeout),
        ureq::Error::Timeout(other) => return format!("timeout ({other})"),
        ureq::Error::HostNotFound => return "the host name could not be resolved".into(),
        ureq::Error::Io(error) => return error.to_string(),
        error => return error.to_string(),
    };
    format!("{what} {} s", limit.as_secs_f64())
}

fn io_reason(error: &io::Error, options: &DownloadOptions) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (inner, error.source()) {
        (Some(inner), _) => reason(inner, options),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// One client per route, so that connections are reused between files.
struct Agents<'a> {
    options: &'a DownloadOptions,
    direct: Agent,
    http: Route,
    https: Route,
}

/// How URLs of one scheme are requested: directly, through a proxy, or not at all, for this reason.
type Route = Result<Option<(Proxy, Agent)>, String>;

/// A client with its options, and the proxy as errors mention it.
struct RoutedAgent {
    agent: Agent,
    options: DownloadOptions,
    via: String,
}

impl<'a> Agents<'a> {
    fn new(options: &'a DownloadOptions) -> Self {
        let route = |address: &Option<String>| {
            let Some(address) = address else { return Ok(None) };
            let proxy = proxy(address, &options.proxies.no_proxy)?;
            let agent = agent(options, Some(proxy.clone()));
            Ok(Some((proxy, agent)))
        };
        let [http, https] = [&options.proxies.http, &options.proxies.https].map(route);
        Self { options, direct: agent(options, None), http, https }
    }

    /// Returns the client for a URL; the error is the reason as text.
    fn for_url(&self, url: &str) -> Result<RoutedAgent, String> {
        let uri: ureq::http::Uri = url.parse().map_err(|error| format!("invalid URL: {error}"))?;
        let route = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        let (agent, via) = match route.as_ref().map_err(String::clone)? {
            Some((proxy, agent)) if !proxy.is_no_proxy(&uri) => {
                (agent, format!(" (through the proxy {}:{})", proxy.host(), proxy.port()))
            }
            _ => (&self.direct, String::new()),
        };
        Ok(RoutedAgent { agent: agent.clone(), options: self.options.clone(), via })
    }
}

/// Parses the URL of a proxy. Messages do not repeat the URL, which may contain a password.
fn proxy(address: &str, no_proxy: &str) -> Result<Proxy, String> {
    let invalid = |_| "the URL of the proxy is invalid; correct the variable http_proxy, https_proxy or all_proxy";
    let parsed = Proxy::new(address.trim()).map_err(invalid)?;
    if !matches!(parsed.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
        return Err("SOCKS proxies are not supported; set http_proxy and https_proxy to an HTTP proxy".to_string());
    }
    let mut builder = Proxy::builder(parsed.protocol()).host(parsed.host()).port(parsed.port());
    if let Some(name) = parsed.username() {
        builder = builder.username(name);
    }
    if let Some(password) = parsed.password() {
        builder = builder.password(password);
    }
    for host in no_proxy.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        builder = builder.no_proxy(host);
        if !host.starts_with(['.', '*']) {
            builder = builder.no_proxy(&format!(".{host}"));
        }
    }
    builder.build().map_err(invalid).map_err(String::from)
}

fn agent(options: &DownloadOptions, proxy: Option<Proxy>) -> Agent {
    // Windows and Apple systems use the system's own TLS and certificates.
    let tls = if cfg!(any(windows, target_vendor = "apple")) {
        TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier)
    } else {
        TlsConfig::builder().provider(TlsProvider::Rustls)
    };
    Agent::config_builder()
        .tls_config(tls.build())
        // Set even if `None`: by default the client would use the first proxy that any variable sets, whatever the scheme.
        .proxy(proxy)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        // The hash is that of the stored file, so the server must not compress it again.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .timeout_resolve(Some(options.resolve_timeout))
        .timeout_connect(Some(options.connect_timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .timeout_global(Some(options.file_timeout))
        .build()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in curl: the host and those below it; with a dot in front, only those below.
    #[test]
    fn no_proxy_covers_the_hosts_below() {
        let covers = |no_proxy: &str, host: &str| {
            proxy("http://127.0.0.1:1", no_proxy).unwrap().is_no_proxy(&format!("http://{host}/").parse().unwrap())
        };
        let below = ["a.example.org", "a.b.example.org"];
        for no_proxy in ["example.org", " x , example.org,"] {
            assert!(covers(no_proxy, "example.org") && below.iter().all(|host| covers(no_proxy, host)), "{no_proxy}");
        }
        assert!(below.iter().all(|host| covers(".example.org", host)));
        assert!(!covers("example.org", "anexample.org") && !covers("", "example.org"));
    }
}
