//! Download of the data set's files from a list of mirrors into the cache folder.
//!
//! A file is received under a temporary name beside its place, checked by size and SHA-256, synced and renamed, so the
//! cache never holds a file that is not whole. A mirror that fails in any way hands over to the next one. Files that
//! are in the cache already are not fetched again, so a download that was interrupted goes on file by file.

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

/// Where Fashion-MNIST is served: its makers' site (without TLS, so the hash is the protection), the copy that Keras
/// uses, and the makers' repository.
pub const MIRRORS: [&str; 3] = [
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
];

/// Bytes handed over at once: small enough for a smooth progress bar, 400 of them for the largest file.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks that may wait to be written.
const MAX_WAITING_CHUNKS: usize = 16;
/// How often the wish to stop is looked at while nothing arrives.
const INTERRUPT_POLL: Duration = Duration::from_millis(100);
/// How often a new partial file is created if others take it for an abandoned one; they can only while they start.
const MAX_PART_TRIES: usize = 8;
/// Age from which a partial file counts as left behind by a killed program, if the file system has no locks to tell.
const STALE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The proxies through which mirrors are asked, by the scheme of the mirror's address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Address of the proxy for `http://` mirrors.
    pub http: Option<String>,
    /// Address of the proxy for `https://` mirrors.
    pub https: Option<String>,
    /// Hosts that are asked without a proxy, separated by commas: `example.org` with its subdomains, `.example.org` for
    /// these alone, `*` for all.
    pub no_proxy: String,
}

impl Proxies {
    /// The proxies that `variable` names, as curl reads them: `http_proxy` and `https_proxy`, else `all_proxy`; and
    /// `no_proxy`. Each also in upper case, for which the lower-case one takes precedence; an empty one is as none.
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

    /// The proxies that the environment names; see [`Proxies::from_variables`].
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }
}

/// Mirrors, proxies and time-outs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadOptions {
    /// Addresses below which the files lie, tried in this order; none means that nothing is downloaded.
    pub mirrors: Vec<String>,
    /// The proxies through which they are asked. A redirect stays with the proxy of the address that redirects.
    pub proxies: Proxies,
    /// The most time for finding a mirror's address.
    pub resolve_timeout: Duration,
    /// The most time for a connection, TLS included.
    pub connect_timeout: Duration,
    /// The most time without a byte.
    pub stall_timeout: Duration,
    /// The most time for one file from one mirror.
    pub file_timeout: Duration,
}

impl Default for DownloadOptions {
    /// The mirrors of [`MIRRORS`], the environment's proxies; 5 s, 10 s, 20 s and 15 min (the largest file at 30 kB/s).
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

/// Why a file was not had from a mirror.
enum Failure {
    /// The mirror's fault: the next one may do better.
    Mirror(String),
    /// The user's wish or the disk's fault: no other mirror can help.
    Fatal(DataError),
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::Fatal(error)
    }
}

/// Brings every file of the set that `dir` lacks (or holds damaged) into `dir`, compressed as it is served.
///
/// `interrupted` is asked between chunks and while nothing arrives. As soon as every mirror has failed for one file the
/// others are not tried. Damaged files of the same name are replaced.
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
    // The mirror that served the last file is asked first, so that a dead one costs its time-out only once.
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
        let i_served = fetch_file(&agents, file, dir, &mirrors, options, interrupted, events)?;
        mirrors.rotate_left(i_served);
    }
    Ok(())
}

/// Tries the mirrors in turn; the index of the one that served the file.
fn fetch_file(
    agents: &Agents,
    file: &DataFile,
    dir: &Path,
    mirrors: &[String],
    options: &DownloadOptions,
    interrupted: &dyn Fn() -> bool,
    events: &mut dyn FnMut(DataEvent),
) -> Result<usize, DataError> {
    let mut attempts = Vec::new();
    for (i_mirror, mirror) in mirrors.iter().enumerate() {
        let url = format!("{}/{}", mirror.trim_end_matches('/'), file.gz_name());
        events(DataEvent::Connecting { file: file.gz_name(), mirror: mirror.clone() });
        let mut progress = |received| {
            events(DataEvent::Downloading {
                file: file.gz_name(),
                mirror: mirror.clone(),
                received,
                total: file.gz_bytes,
            });
        };
        let received = agents.for_url(&url).map_err(Failure::Mirror).and_then(|agent| {
            let messages = request(agent, url.clone(), file.gz_bytes, options.clone());
            receive_file(file, dir, &messages, interrupted, &mut progress)
        });
        match received {
            Ok(()) => {
                events(DataEvent::Downloaded { file: file.gz_name(), path: dir.join(file.gz_name()) });
                return Ok(i_mirror);
            }
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Mirror(reason)) => {
                events(DataEvent::MirrorFailed {
                    file: file.gz_name(),
                    mirror: mirror.clone(),
                    reason: reason.clone(),
                });
                attempts.push(Attempt { url, reason });
            }
        }
    }
    Err(DataError::DownloadFailed { file: file.gz_name(), attempts })
}

/// Writes what arrives under a temporary name, checks it and gives it its name.
///
/// The temporary file removes itself on every way out but the last.
fn receive_file(
    file: &DataFile,
    dir: &Path,
    messages: &Receiver<Message>,
    interrupted: &dyn Fn() -> bool,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let mut part = create_part(file, dir)?;
    let path = part.path().to_path_buf();
    let mut hasher = Sha256::new();
    let mut received = 0;
    loop {
        match next_message(messages, interrupted)? {
            Message::Started => progress(0),
            Message::Chunk(chunk) => {
                received += chunk.len() as u64;
                if received > file.gz_bytes {
                    return Err(Failure::Mirror(format!(
                        "more than {} bytes received, expected exactly so many",
                        file.gz_bytes
                    )));
                }
                hasher.update(&chunk);
                part.as_file_mut().write_all(&chunk).map_err(DataError::io("write", &path))?;
                progress(received);
            }
            Message::End => break,
            Message::Failed(reason) => return Err(Failure::Mirror(reason)),
        }
    }
    check_received(file, received, &fashion_mnist::hex(&hasher.finalize()))?;
    part.as_file().sync_all().map_err(DataError::io("sync", &path))?;
    let target = dir.join(file.gz_name());
    part.persist(&target).map_err(|error| {
        let to_error = DataError::io("move the finished download to", &target);
        to_error(error.error)
    })?;
    Ok(())
}

fn check_received(file: &DataFile, received: u64, hash: &str) -> Result<(), Failure> {
    if received != file.gz_bytes {
        return Err(Failure::Mirror(format!("{received} bytes received, expected {}", file.gz_bytes)));
    }
    if hash != file.gz_sha256 {
        return Err(Failure::Mirror(format!("SHA-256 {hash} received, expected {}", file.gz_sha256)));
    }
    Ok(())
}

/// The start of the name of a file that is being received.
fn part_prefix(file: &DataFile) -> String {
    format!("{}.part-", file.gz_name())
}

/// Creates a file to receive into and locks it, so that [`remove_stale_parts`] of other processes leaves it alone.
fn create_part(file: &DataFile, dir: &Path) -> Result<NamedTempFile, DataError> {
    let prefix = format!("{}{}-", part_prefix(file), std::process::id());
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    // Temporary files are private by default, but this one becomes an ordinary file: the umask decides.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let create = || builder.tempfile_in(dir).map_err(DataError::io("create a file in", dir));
    for _ in 0..MAX_PART_TRIES {
        let part = create()?;
        match part.as_file().try_lock() {
            Ok(()) if part.path().exists() => return Ok(part),
            // A process that starts at this moment took the file for an abandoned one.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            // This file system has no locks.
            Err(TryLockError::Error(_)) => return Ok(part),
        }
    }
    create()
}

/// Removes partial files that killed programs left behind; errors are ignored.
fn remove_stale_parts(dir: &Path, files: &FileSet) {
    let prefixes = files.with_ranks().map(|(file, _)| part_prefix(file));
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_part = prefixes.iter().any(|prefix| name.starts_with(prefix));
        // Only regular files: to open a named pipe would block.
        if is_part && let Some(metadata) = entry.metadata().ok().filter(fs::Metadata::is_file) {
            remove_if_abandoned(&entry.path(), &metadata);
        }
    }
}

/// Removes a partial file unless a living process holds its lock. The system releases the locks of a killed process.
fn remove_if_abandoned(path: &Path, metadata: &fs::Metadata) {
    let is_old = || metadata.modified().is_ok_and(|time| time.elapsed().unwrap_or_default() > STALE_AGE);
    // Network file systems lock only files that are opened for writing.
    let file = fs::OpenOptions::new().write(true).open(path);
    let is_abandoned = match file.as_ref().map(fs::File::try_lock) {
        Ok(Ok(())) => true,
        Ok(Err(TryLockError::WouldBlock)) => false,
        // No locks here, or the file belongs to somebody else: its age has to tell.
        Ok(Err(TryLockError::Error(_))) | Err(_) => is_old(),
    };
    // The lock is held until the file is gone.
    if is_abandoned {
        let _ = fs::remove_file(path);
    }
}

/// What the receiving thread reports.
enum Message {
    /// The mirror has answered and will send the file.
    Started,
    /// The next bytes of the file.
    Chunk(Vec<u8>),
    /// The answer is complete.
    End,
    /// The mirror cannot be used.
    Failed(String),
}

/// Waits for the next message, looking now and then whether the user wants to stop.
fn next_message(messages: &Receiver<Message>, interrupted: &dyn Fn() -> bool) -> Result<Message, Failure> {
    loop {
        if interrupted() {
            return Err(Failure::Fatal(DataError::Interrupted));
        }
        match messages.recv_timeout(INTERRUPT_POLL) {
            Ok(message) => return Ok(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::Mirror("the receiving thread ended early".into()));
            }
        }
    }
}

/// Asks for `url` in a thread of its own, because a connection that blocks cannot look at the wish to stop.
///
/// The thread ends by itself: by one of the time-outs, or when the other end of the channel is dropped.
fn request(agent: RoutedAgent, url: String, expected_bytes: u64, options: DownloadOptions) -> Receiver<Message> {
    let (sender, receiver) = mpsc::sync_channel(MAX_WAITING_CHUNKS);
    let failure_sender = sender.clone();
    let spawned = thread::Builder::new().name("download".into()).spawn(move || {
        let end = match send_body(&agent, &url, expected_bytes, &options, &sender) {
            Ok(()) => Message::End,
            Err(reason) => Message::Failed(reason),
        };
        // Nobody listens any more after an interrupt or a failed write.
        let _ = sender.send(end);
    });
    if let Err(error) = spawned {
        let reason = format!("cannot start the receiving thread: {error}");
        // The channel is empty and its receiver is held here, so this neither blocks nor fails.
        let _ = failure_sender.send(Message::Failed(reason));
    }
    receiver
}

/// Sends the body of the answer in chunks, at most one byte more than expected; the error is the reason in words.
fn send_body(
    agent: &RoutedAgent,
    url: &str,
    expected_bytes: u64,
    options: &DownloadOptions,
    sender: &SyncSender<Message>,
) -> Result<(), String> {
    let response = agent.agent.get(url).call().map_err(|error| format!("{}{}", reason(&error, options), agent.via))?;
    if response.status() != 200 {
        return Err(format!("HTTP status {} received, expected 200", response.status()));
    }
    let body = response.into_body();
    if let Some(announced) = body.content_length().filter(|&n| n != expected_bytes) {
        return Err(format!("{announced} bytes announced, expected {expected_bytes}"));
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
                return Err(format!(
                    "broke off after {n_received} of {expected_bytes} bytes: {}",
                    io_reason(&error, options)
                ));
            }
        };
        n_received += n as u64;
        chunk.truncate(n);
        if sender.send(Message::Chunk(chunk)).is_err() {
            return Ok(());
        }
    }
}

/// A client's error in words that say how long was waited.
fn reason(error: &ureq::Error, options: &DownloadOptions) -> String {
    let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
    match error {
        ureq::Error::Timeout(timeout) => match timeout {
            ureq::Timeout::Resolve => {
                format!("the host name was not resolved within {}", seconds(options.resolve_timeout))
            }
            ureq::Timeout::Connect => {
                format!("no connection within {}", seconds(options.connect_timeout))
            }
            ureq::Timeout::PerRead => {
                format!("no byte for {}", seconds(options.stall_timeout))
            }
            ureq::Timeout::Global => {
                format!("not complete within {}", seconds(options.file_timeout))
            }
            other => format!("time-out ({other})"),
        },
        ureq::Error::HostNotFound => "the host name is not known".into(),
        ureq::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

fn io_reason(error: &io::Error, options: &DownloadOptions) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match (inner, error.source()) {
        (Some(inner), _) => reason(inner, options),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// One client per route: connections are kept between files.
struct Agents {
    direct: Agent,
    http: Route,
    https: Route,
}

/// How addresses of one scheme are asked: directly, through a proxy, or not at all, for this reason.
type Route = Result<Option<(Proxy, Agent)>, String>;

/// A client, and what errors add to their reason: the proxy.
struct RoutedAgent {
    agent: Agent,
    via: String,
}

impl Agents {
    fn new(options: &DownloadOptions) -> Self {
        let route = |address: &Option<String>| {
            let Some(address) = address else { return Ok(None) };
            let proxy = proxy(address, &options.proxies.no_proxy)?;
            let agent = agent(options, Some(proxy.clone()));
            Ok(Some((proxy, agent)))
        };
        Self { direct: agent(options, None), http: route(&options.proxies.http), https: route(&options.proxies.https) }
    }

    /// The client for an address; the error is the reason in words.
    fn for_url(&self, url: &str) -> Result<RoutedAgent, String> {
        let uri: ureq::http::Uri = url.parse().map_err(|error| format!("not a valid address: {error}"))?;
        let route = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        Ok(match route.as_ref().map_err(String::clone)? {
            Some((proxy, agent)) if !proxy.is_no_proxy(&uri) => RoutedAgent {
                agent: agent.clone(),
                via: format!(" (through the proxy {}:{})", proxy.host(), proxy.port()),
            },
            _ => RoutedAgent { agent: self.direct.clone(), via: String::new() },
        })
    }
}

/// The proxy at an address. Messages do not repeat the address: it may hold a password.
fn proxy(address: &str, no_proxy: &str) -> Result<Proxy, String> {
    let invalid = |_| "the proxy's address is not valid; correct the variable http_proxy, https_proxy or all_proxy";
    let parsed = Proxy::new(address.trim()).map_err(invalid)?;
    if !matches!(parsed.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
        return Err("SOCKS proxies are not supported; name an HTTP proxy in http_proxy and https_proxy".to_string());
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
    // On Windows and Apple systems the system's own TLS is used, with the system's certificates.
    let tls = if cfg!(any(windows, target_vendor = "apple")) {
        TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier)
    } else {
        TlsConfig::builder().provider(TlsProvider::Rustls)
    };
    Agent::config_builder()
        .tls_config(tls.build())
        // Set even if there is none: by itself the client would take the first proxy that any variable names.
        .proxy(proxy)
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        // The hash is that of the file as it lies, so no server may pack it once more.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .timeout_resolve(Some(options.resolve_timeout))
        .timeout_connect(Some(options.connect_timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .timeout_global(Some(options.file_timeout))
        .build()
        .into()
}
