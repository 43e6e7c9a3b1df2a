//! The downloader against well-behaved and misbehaving local servers.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use fmnist_gpu::data::{DataError, DataEvent, DatasetChoice, DatasetKind, LoadOptions, Proxies, load};
use tempfile::TempDir;

use crate::data::{SmallSet, assert_error, load_with_events, options};
use crate::support::program::Place;

/// How a server responds to a request for one of its files.
#[derive(Clone, Copy)]
enum Manner {
    /// Correctly.
    Right,
    /// With one byte changed.
    WrongByte,
    /// By closing the connection after half of the file.
    Cut,
    /// With status 404.
    NotFound,
    /// With half of the file, then with silence.
    StallInBody,
    /// With nothing.
    StallBeforeHeaders,
    /// One byte at a time, slowly.
    Drip,
    /// With a wrong Content-Length.
    WrongLength,
    /// With bytes after the file and no Content-Length.
    Oversize,
    /// Without the last byte of the file and without Content-Length.
    Undersize,
    /// By redirecting to `/moved/<file>`, which is served correctly.
    Redirect,
    /// As a proxy that refuses every connection.
    Forbidden,
}

const FIRST: &str = "train-images-idx3-ubyte.gz";

/// A server of a set's compressed files; it stops when dropped.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Responds in this manner from request number `from` on (the first is 0), and correctly before.
    fn start(set: &SmallSet, manner: Manner, from: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let files: Arc<HashMap<String, Vec<u8>>> = Arc::new(set.served().into_iter().collect());
        let (log, stopped) = (requests.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let mut handlers = Vec::new();
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (files, log, stopped) = (files.clone(), log.clone(), stopped.clone());
                handlers.push(thread::spawn(move || {
                    // A client that disconnects is not a failure of the server.
                    let _ = answer(connection.unwrap(), &files, &log, manner, from, &stopped);
                }));
            }
            for handler in handlers {
                handler.join().unwrap();
            }
        });
        Self { address, requests, stop, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}/files/", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accept loop.
        let _ = TcpStream::connect(self.address);
        let joined = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            joined.unwrap().unwrap();
        }
    }
}

/// Reads the head of a request; returns its first line.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut first = Vec::new();
    reader.read_until(b'\n', &mut first)?;
    if first.starts_with(b"GET ") || first.starts_with(b"CONNECT ") {
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
    }
    Ok(String::from_utf8_lossy(&first).into_owned())
}

fn answer(
    mut stream: TcpStream,
    files: &HashMap<String, Vec<u8>>,
    log: &Mutex<Vec<String>>,
    manner: Manner,
    from: usize,
    stopped: &AtomicBool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = read_head(&mut reader)?;
    if let Some(target) = request.strip_prefix("CONNECT ") {
        // As a proxy, this server acts as every other server.
        log.lock().unwrap().push(format!("CONNECT {}", target.split(' ').next().unwrap_or_default()));
        if let Manner::Forbidden = manner {
            return write!(stream, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        write!(stream, "HTTP/1.1 200 OK\r\n\r\n")?;
        request = read_head(&mut reader)?;
        if !request.starts_with("GET ") {
            // A TLS handshake, which this server does not support.
            return Ok(());
        }
    }
    let path = request.split(' ').nth(1).unwrap_or("/").to_string();
    let name = path.rsplit('/').next().unwrap_or_default().to_string();
    let n_before = {
        let mut log = log.lock().unwrap();
        log.push(name.clone());
        log.len() - 1
    };
    let manner = if n_before < from || path.starts_with("/moved/") { Manner::Right } else { manner };
    let Some(body) = files.get(&name) else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let half = body.len() / 2;
    let length = |n: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n");
    let no_length = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let wait_for_stop = || {
        while !stopped.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
    };
    match manner {
        Manner::Right | Manner::Forbidden => {
            stream.write_all(length(body.len()).as_bytes())?;
            stream.write_all(body)?;
        }
        Manner::WrongByte => {
            let mut wrong = body.clone();
            wrong[half] ^= 1;
            stream.write_all(length(body.len()).as_bytes())?;
            stream.write_all(&wrong)?;
        }
        Manner::Cut => {
            stream.write_all(length(body.len()).as_bytes())?;
            stream.write_all(&body[..half])?;
        }
        Manner::NotFound => {
            let page = "<html>not here</html>";
            let n = page.len();
            write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{page}")?;
        }
        Manner::StallInBody => {
            stream.write_all(length(body.len()).as_bytes())?;
            stream.write_all(&body[..half])?;
            wait_for_stop();
        }
        Manner::StallBeforeHeaders => wait_for_stop(),
        Manner::Drip => {
            stream.write_all(length(body.len()).as_bytes())?;
            for byte in body {
                stream.write_all(&[*byte])?;
                thread::sleep(Duration::from_millis(20));
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        Manner::WrongLength => {
            stream.write_all(length(body.len() + 7).as_bytes())?;
            stream.write_all(body)?;
            stream.write_all(b"1234567")?;
        }
        Manner::Oversize => {
            stream.write_all(no_length.as_bytes())?;
            stream.write_all(body)?;
            // Far more than the client's buffers: writing fails when the client disconnects.
            for _ in 0..10_000 {
                stream.write_all(&[0; 64 * 1024])?;
            }
        }
        Manner::Undersize => {
            stream.write_all(no_length.as_bytes())?;
            stream.write_all(&body[..body.len() - 1])?;
        }
        Manner::Redirect => {
            write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: /moved/{name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )?;
        }
    }
    stream.flush()
}

/// Returns options for these servers, with timeouts that are short but tolerate a busy machine.
fn from_mirrors(set: &SmallSet, cache: &Path, servers: &[&Server]) -> LoadOptions {
    let mut options = options(set, cache);
    options.download.mirrors = servers.iter().map(|server| server.url()).collect();
    options.download.stall_timeout = Duration::from_millis(500);
    options
}

/// Returns the sorted names of the files in a folder.
fn listing(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.unwrap().file_name();
        name.to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

fn whole_listing(set: &SmallSet) -> Vec<String> {
    let mut names: Vec<String> = set.served().into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

#[test]
fn files_are_downloaded_once_and_kept() {
    let set = SmallSet::new();
    let server = Server::start(&set, Manner::Right, 0);
    let folder = TempDir::new().unwrap();
    let cache = folder.path().join("not/yet/there");
    let options = from_mirrors(&set, &cache, &[&server]);
    let (result, events) = load_with_events(&options);
    let dataset = result.unwrap();
    set.assert_is(&dataset);
    assert_eq!(dataset.source, cache.display().to_string());
    assert_eq!(listing(&cache), whole_listing(&set), "no partial files remain");
    for (name, bytes) in set.served() {
        assert_eq!(fs::read(cache.join(name)).unwrap(), bytes);
    }
    assert_eq!(server.requests().len(), 4);

    // The progress starts at 0, never decreases and ends at the total.
    let total = set.files.train_images.gz_bytes;
    let progress: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            DataEvent::Downloading { file, received, total: announced, .. } if file == FIRST => {
                assert_eq!(*announced, total);
                Some(*received)
            }
            _ => None,
        })
        .collect();
    assert_eq!(progress.first(), Some(&0));
    assert_eq!(progress.last(), Some(&total));
    assert!(progress.is_sorted(), "{progress:?}");

    set.assert_is(&load_with_events(&options).0.unwrap());
    assert_eq!(server.requests().len(), 4, "nothing is downloaded again");

    // Only damaged files are downloaded again and replaced.
    fs::write(cache.join(FIRST), b"damaged").unwrap();
    set.assert_is(&load_with_events(&options).0.unwrap());
    assert_eq!(server.requests()[4..], [FIRST]);
    assert_eq!(listing(&cache), whole_listing(&set));
}

#[cfg(unix)]
#[test]
fn downloaded_files_have_ordinary_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let set = SmallSet::new();
    let server = Server::start(&set, Manner::Right, 0);
    let folder = TempDir::new().unwrap();
    load_with_events(&from_mirrors(&set, folder.path(), &[&server])).0.unwrap();
    fs::write(folder.path().join("ordinary"), b"").unwrap();
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode(FIRST), mode("ordinary"));
}

/// Asserts that the second mirror serves if the first one fails in this manner, and that its reason contains `reason`.
fn assert_second_mirror_serves(manner: Manner, reason: &str) {
    let set = SmallSet::new();
    let bad = Server::start(&set, manner, 0);
    let good = Server::start(&set, Manner::Right, 0);
    let folder = TempDir::new().unwrap();
    let mut options = from_mirrors(&set, folder.path(), &[&bad, &good]);
    if let Manner::Drip = manner {
        options.download.file_timeout = Duration::from_millis(700);
    }
    let (result, events) = load_with_events(&options);
    set.assert_is(&result.unwrap());
    assert_eq!(listing(folder.path()), whole_listing(&set));
    let failures: Vec<&DataEvent> =
        events.iter().filter(|event| matches!(event, DataEvent::MirrorFailed { .. })).collect();
    let [DataEvent::MirrorFailed { file, mirror, reason: found }] = failures[..] else {
        panic!("expected one failure, because the mirror that served comes first for the other files: {failures:?}");
    };
    assert_eq!((file.as_str(), mirror), (FIRST, &bad.url()));
    assert!(found.contains(reason), "no `{reason}` in: {found}");
    assert_eq!(bad.requests(), [FIRST]);
    assert_eq!(good.requests().len(), 4);
}

#[test]
fn a_wrong_hash_leads_to_the_next_mirror() {
    assert_second_mirror_serves(Manner::WrongByte, "SHA-256");
}

#[test]
fn a_cut_connection_leads_to_the_next_mirror() {
    assert_second_mirror_serves(Manner::Cut, "the connection failed after");
}

#[test]
fn a_missing_file_leads_to_the_next_mirror() {
    assert_second_mirror_serves(Manner::NotFound, "404");
}

#[test]
fn a_stalled_body_leads_to_the_next_mirror() {
    assert_second_mirror_serves(Manner::StallInBody, "no data for 0.5 s");
}

#[test]
fn a_silent_server_leads_to_the_next_mirror() {
    assert_second_mirror_serves(Manner::StallBeforeHeaders, "no data for 0.5 s");
}

#[test]
fn a_dripping_server_leads_to_the_next_mirror() {
    assert_second_mirror_serves(Manner::Drip, "not complete within 0.7 s");
}

#[test]
fn a_wrong_length_leads_to_the_next_mirror() {
    assert_second_mirror_serves(Manner::WrongLength, "Content-Length is");
}

#[test]
fn an_oversize_body_is_refused() {
    assert_second_mirror_serves(Manner::Oversize, "more than the expected");
}

#[test]
fn an_undersize_body_is_refused() {
    assert_second_mirror_serves(Manner::Undersize, "bytes received, expected");
}

#[test]
fn redirects_are_followed() {
    let set = SmallSet::new();
    let server = Server::start(&set, Manner::Redirect, 0);
    let folder = TempDir::new().unwrap();
    let (result, _) = load_with_events(&from_mirrors(&set, folder.path(), &[&server]));
    set.assert_is(&result.unwrap());
    assert_eq!(server.requests().len(), 8);
}

#[test]
fn the_error_lists_every_mirror_with_its_reason() {
    let set = SmallSet::new();
    let missing = Server::start(&set, Manner::NotFound, 0);
    let wrong = Server::start(&set, Manner::WrongByte, 0);
    let folder = TempDir::new().unwrap();
    let mut options = from_mirrors(&set, folder.path(), &[&missing, &wrong]);
    let nobody = nobody();
    options.download.mirrors.push(nobody.clone());
    // A name that never resolves, according to RFC 6761.
    options.download.mirrors.push("http://nowhere.invalid/x".into());
    let result = load_with_events(&options).0;
    if let Err(DataError::DownloadFailed { attempts, .. }) = &result {
        assert_eq!(attempts.len(), 4);
    }
    assert_error!(
        result,
        DataError::DownloadFailed { .. },
        format!("{FIRST} could not be downloaded"),
        format!("{}{FIRST}: HTTP status 404", missing.url()),
        format!("{}{FIRST}: SHA-256", wrong.url()),
        format!("{nobody}/{FIRST}: "),
        format!("http://nowhere.invalid/x/{FIRST}: "),
        "specify it as the data folder",
        "the synthetic data set"
    );
    assert_eq!(missing.requests(), [FIRST], "the other files are not attempted");
    assert_eq!(wrong.requests(), [FIRST]);
    assert!(listing(folder.path()).is_empty(), "nothing is left behind");

    options.choice = DatasetChoice::Auto;
    let (result, events) = load_with_events(&options);
    assert_eq!(result.unwrap().kind, DatasetKind::Synthetic);
    let warned = |event: &DataEvent| matches!(event, DataEvent::FallingBack(reason) if reason.contains("404"));
    assert!(events.iter().any(warned), "{events:?}");
}

#[test]
fn an_interrupt_leaves_no_partial_file_and_the_next_load_resumes() {
    let set = SmallSet::new();
    // The first file arrives, the second stalls in the middle of its body.
    let stalling = Server::start(&set, Manner::StallInBody, 1);
    let folder = TempDir::new().unwrap();
    let mut options = from_mirrors(&set, folder.path(), &[&stalling]);
    options.choice = DatasetChoice::Auto;
    options.download.stall_timeout = Duration::from_secs(60);
    let flag = Arc::new(AtomicBool::new(false));
    options.interrupt = Some(flag.clone());
    let start = Instant::now();
    let result = load(&options, &mut |event| {
        let falls_back = matches!(event, DataEvent::FallingBack { .. });
        assert!(!falls_back, "an interrupt must not fall back to the synthetic set");
        if let DataEvent::Downloading { file, received, .. } = event
            && file != FIRST
            && received > 0
        {
            flag.store(true, Ordering::Relaxed);
        }
    });
    assert_error!(result, DataError::Interrupted, "interrupted");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(listing(folder.path()), [FIRST]);

    let good = Server::start(&set, Manner::Right, 0);
    let options = from_mirrors(&set, folder.path(), &[&good]);
    set.assert_is(&load_with_events(&options).0.unwrap());
    assert_eq!(good.requests().len(), 3);
    assert!(!good.requests().contains(&FIRST.to_string()));
}

#[test]
fn an_interrupt_takes_effect_while_a_server_is_silent() {
    let set = SmallSet::new();
    let silent = Server::start(&set, Manner::StallBeforeHeaders, 0);
    let folder = TempDir::new().unwrap();
    let mut options = from_mirrors(&set, folder.path(), &[&silent]);
    options.download.stall_timeout = Duration::from_secs(60);
    let flag = Arc::new(AtomicBool::new(false));
    options.interrupt = Some(flag.clone());
    let start = Instant::now();
    let setter = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        flag.store(true, Ordering::Relaxed);
    });
    assert_error!(load_with_events(&options).0, DataError::Interrupted, "interrupted");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(listing(folder.path()).is_empty());
    setter.join().unwrap();
}

/// A killed process leaves its partial file unlocked, however new; a running process holds the lock, however old the file.
#[test]
fn partial_files_are_removed_unless_a_running_process_writes_them() {
    let set = SmallSet::new();
    let server = Server::start(&set, Manner::Right, 0);
    let folder = TempDir::new().unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let [old, young, locked] = ["1-abc", "2-abc", "3-abc"].map(|end| format!("{FIRST}.part-{end}"));
    let mut files = Vec::new();
    for (name, age) in [(&old[..], 2 * day), (&young, Duration::ZERO), (&locked, 2 * day), ("notes.part-1", 2 * day)] {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
        files.push(file);
    }
    files[2].lock().unwrap();
    fs::create_dir(folder.path().join(format!("{FIRST}.part-folder"))).unwrap();
    load_with_events(&from_mirrors(&set, folder.path(), &[&server])).0.unwrap();
    let names = listing(folder.path());
    assert!(!names.contains(&old) && !names.contains(&young), "{names:?}");
    assert!(names.contains(&locked) && names.contains(&"notes.part-1".to_string()), "{names:?}");
    // The process that held the lock ends.
    drop(files);
    fs::remove_file(folder.path().join(FIRST)).unwrap();
    load_with_events(&from_mirrors(&set, folder.path(), &[&server])).0.unwrap();
    assert!(!listing(folder.path()).contains(&locked));
}

/// A partial file that cannot be locked, here because it is a program that runs, is removed once it is a day old.
#[test]
#[cfg(target_os = "linux")]
fn partial_files_that_cannot_be_locked_are_removed_by_their_age() {
    use std::os::unix::process::CommandExt as _;
    let set = SmallSet::new();
    let server = Server::start(&set, Manner::Right, 0);
    let folder = TempDir::new().unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    let names = ["1-abc", "2-abc"].map(|end| format!("{FIRST}.part-{end}"));
    let mut running = Vec::new();
    for (name, age) in names.iter().zip([2 * day, Duration::ZERO]) {
        let path = folder.path().join(name);
        fs::copy("/bin/sleep", &path).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        // Where one program has many names, it goes by the one it is called by. Another test may be between its fork and its exec, with the
        // file still open for writing.
        let start = || Command::new(&path).arg0("sleep").arg("600").spawn().ok();
        running.push(std::iter::repeat_with(start).take(1000).flatten().next().expect("a copy of sleep starts"));
    }
    load_with_events(&from_mirrors(&set, folder.path(), &[&server])).0.unwrap();
    let found = listing(folder.path());
    for mut program in running {
        program.kill().unwrap();
        program.wait().unwrap();
    }
    assert!(!found.contains(&names[0]) && found.contains(&names[1]), "{found:?}");
}

/// Two simultaneous downloads into the same folder: the second one does not touch the partial file of the first.
#[test]
fn a_download_in_progress_keeps_its_partial_file() {
    let set = SmallSet::new();
    let slow = Server::start(&set, Manner::StallInBody, 0);
    let good = Server::start(&set, Manner::Right, 0);
    let folder = TempDir::new().unwrap();
    let mut options = from_mirrors(&set, folder.path(), &[&slow]);
    options.download.stall_timeout = Duration::from_secs(60);
    let flag = Arc::new(AtomicBool::new(false));
    options.interrupt = Some(flag.clone());
    let (started, start) = std::sync::mpsc::channel();
    let first = thread::spawn(move || {
        load(&options, &mut |event| {
            if let DataEvent::Downloading { received, .. } = event
                && received > 0
            {
                started.send(()).unwrap();
            }
        })
    });
    start.recv_timeout(Duration::from_secs(20)).unwrap();
    let parts = || listing(folder.path()).into_iter().filter(|name| name.contains(".part-")).collect::<Vec<_>>();
    let before = parts();
    assert_eq!(before.len(), 1);
    set.assert_is(&load_with_events(&from_mirrors(&set, folder.path(), &[&good])).0.unwrap());
    assert_eq!(parts(), before);
    flag.store(true, Ordering::Relaxed);
    assert_error!(first.join().unwrap(), DataError::Interrupted, "interrupted");
    assert!(parts().is_empty());
}

/// A process is killed while it downloads: the next run removes its partial file.
#[cfg(unix)]
#[test]
fn the_run_after_a_killed_one_removes_its_partial_file() {
    let set = SmallSet::new();
    // Announces the length of the genuine file, then stalls.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_head(&mut reader).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\n\r\n").unwrap();
        read_head(&mut reader).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 26421880\r\n\r\n").unwrap();
        stream.write_all(&[0; 100_000]).unwrap();
        // Waits until the client disconnects.
        let _ = reader.read_line(&mut String::new());
    });
    let place = Place::new();
    let cache = place.path("cache/fmnist-gpu");
    let mut command = place.command("samples --dataset fashion-mnist");
    command.env("http_proxy", format!("http://{address}")).env("XDG_CACHE_HOME", place.path("cache"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let size = |name: &String| fs::metadata(cache.join(name)).map_or(0, |metadata| metadata.len());
    let start = Instant::now();
    while !listing(&cache).iter().any(|name| name.contains(".part-") && size(name) > 0) {
        assert!(start.elapsed() < Duration::from_secs(30), "no partial file in {}", cache.display());
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    server.join().unwrap();
    assert_eq!(listing(&cache).len(), 1, "the killed process left its partial file");
    let good = Server::start(&set, Manner::Right, 0);
    set.assert_is(&load_with_events(&from_mirrors(&set, &cache, &[&good])).0.unwrap());
    assert_eq!(listing(&cache), whole_listing(&set));
}

/// Returns a URL on whose port nobody listens.
fn nobody() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

fn proxies(http: Option<String>, https: Option<String>, no_proxy: &str) -> Proxies {
    Proxies { http, https, no_proxy: no_proxy.to_string() }
}

#[test]
fn the_scheme_of_a_mirror_selects_its_proxy() {
    let set = SmallSet::new();
    let folder = TempDir::new().unwrap();
    let http = Server::start(&set, Manner::Right, 0);
    let https = Server::start(&set, Manner::Forbidden, 0);
    let as_proxy = |server: &Server| Some(format!("http://{}", server.address));
    let mut options = from_mirrors(&set, folder.path(), &[]);
    // Names that never resolve, according to RFC 6761: only a proxy can resolve them.
    options.download.mirrors = vec!["https://tls.invalid/files".into(), "http://plain.invalid/files/".into()];
    options.download.proxies = proxies(as_proxy(&http), as_proxy(&https), "");
    let (result, events) = load_with_events(&options);
    set.assert_is(&result.unwrap());
    assert_eq!(https.requests(), ["CONNECT tls.invalid:443"]);
    assert!(http.requests().contains(&"CONNECT plain.invalid:80".to_string()), "{:?}", http.requests());
    assert!(http.requests().contains(&FIRST.to_string()), "{:?}", http.requests());
    let reason = events.iter().find_map(|event| match event {
        DataEvent::MirrorFailed { reason, .. } => Some(reason),
        _ => None,
    });
    let reason = reason.unwrap();
    assert!(reason.contains(&format!("(through the proxy {})", https.address)), "{reason}");
}

#[test]
fn hosts_in_no_proxy_are_contacted_directly() {
    let set = SmallSet::new();
    let server = Server::start(&set, Manner::Right, 0);
    for (no_proxy, is_direct) in [
        ("127.0.0.1", true),
        ("example.org, 127.0.0.1 ,x", true),
        ("*", true),
        ("27.0.0.1", false),
        ("example.org", false),
        ("", false),
    ] {
        let folder = TempDir::new().unwrap();
        let mut options = from_mirrors(&set, folder.path(), &[&server]);
        options.download.proxies = proxies(Some(nobody()), Some(nobody()), no_proxy);
        assert_eq!(load_with_events(&options).0.is_ok(), is_direct, "{no_proxy}");
    }
}

/// Unusable proxies are refused, not bypassed, and their passwords are not printed.
#[test]
fn unusable_proxies_are_refused() {
    let set = SmallSet::new();
    let server = Server::start(&set, Manner::Right, 0);
    for (address, part) in [
        ("socks5://user:secret@127.0.0.1:1080", "SOCKS proxies are not supported"),
        ("http://user:secret@", "the URL of the proxy is invalid"),
        ("ftp://user:secret@127.0.0.1", "the URL of the proxy is invalid"),
    ] {
        let folder = TempDir::new().unwrap();
        let mut options = from_mirrors(&set, folder.path(), &[&server]);
        options.download.proxies = proxies(Some(address.to_string()), None, "");
        let error = load_with_events(&options).0.unwrap_err().full_message();
        assert!(error.contains(part) && !error.contains("secret"), "{error}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn proxies_are_read_from_the_same_variables_as_in_curl() {
    let read = |variables: &[(&str, &str)]| {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        Proxies::from_variables(value)
    };
    let some = |value: &str| Some(value.to_string());
    assert_eq!(read(&[]), Proxies::default());
    assert_eq!(read(&[("https_proxy", "s")]), proxies(None, some("s"), ""));
    assert_eq!(read(&[("HTTP_PROXY", "p"), ("ALL_PROXY", "a")]), proxies(some("p"), some("a"), ""));
    assert_eq!(read(&[("http_proxy", "p"), ("HTTP_PROXY", "P")]), proxies(some("p"), None, ""));
    assert_eq!(read(&[("http_proxy", ""), ("HTTP_PROXY", "P")]), proxies(some("P"), None, ""));
    assert_eq!(read(&[("all_proxy", "a"), ("NO_PROXY", "x,y")]), proxies(some("a"), some("a"), "x,y"));
}

/// The program takes its proxies from the environment.
#[test]
fn the_program_uses_the_proxy_of_each_mirrors_scheme() {
    let set = SmallSet::new();
    let http = Server::start(&set, Manner::Forbidden, 0);
    let https = Server::start(&set, Manner::Forbidden, 0);
    let place = Place::new();
    let mut command = place.command("samples --dataset fashion-mnist");
    command
        .env("http_proxy", format!("http://{}", http.address))
        .env("https_proxy", format!("http://{}", https.address));
    command.env_remove("HTTP_PROXY").env_remove("HTTPS_PROXY").env_remove("no_proxy").env_remove("NO_PROXY");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(http.requests(), ["CONNECT fashion-mnist.s3-website.eu-central-1.amazonaws.com:80"]);
    assert_eq!(https.requests(), ["CONNECT storage.googleapis.com:443", "CONNECT raw.githubusercontent.com:443"]);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let set = SmallSet::new();
    let server = Server::start(&set, Manner::Right, 0);
    let folder = TempDir::new().unwrap();
    let blocked = folder.path().join("file");
    fs::write(&blocked, b"not a folder").unwrap();
    let options = from_mirrors(&set, &blocked.join("cache"), &[&server]);
    assert_error!(
        load_with_events(&options).0,
        DataError::Io { .. },
        "cannot create the folder",
        blocked.display().to_string()
    );
    assert!(server.requests().is_empty());
}
