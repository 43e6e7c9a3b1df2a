//! Code shared by several tests.

pub mod broken_off;
pub mod fixture;
/// Expected losses and averages of weights.
pub mod made;
#[cfg(unix)]
pub mod points;
pub mod program;
pub mod python;
#[cfg(unix)]
pub mod strace;
pub mod visit;
#[cfg(unix)]
pub mod whole;

use fmnist_gpu::gpu::{Gpu, GpuOptions};
use fmnist_gpu::verify::{Breadth, Verifier};
use pollster::FutureExt as _;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

/// How many devices the tests share. A software adapter compiles for a device in one thread, however many wait for it, and compiling is most of
/// what tests of kernels take: with two devices, two cores compile.
const DEVICES: usize = 2;

/// How many running tests use each device.
static USERS: Mutex<[usize; DEVICES]> = Mutex::new([0; DEVICES]);

thread_local! {
    /// The device of this test: each runs in a thread of its own.
    static LEASE: Lease = Lease::new();
}

/// A device that a test uses until its thread ends.
struct Lease(usize);

impl Lease {
    /// Of the device that the fewest tests use.
    fn new() -> Lease {
        let mut users = USERS.lock().unwrap();
        let device = (0..DEVICES).min_by_key(|&device| users[device]).unwrap();
        users[device] += 1;
        Lease(device)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        USERS.lock().unwrap()[self.0] -= 1;
    }
}

/// Returns one of the devices that the tests share, the same one throughout a test, with wgpu's run-time checks on.
///
/// # Panics
/// There is no adapter: that is a failure, never a skip. `FMNIST_EXPECT_ADAPTER=llvmpipe` also requires a name, so that
/// continuous integration cannot silently run elsewhere; `FMNIST_GPU_TEST_LOG` names a file that gets one line per GPU
/// test.
pub fn gpu() -> &'static Gpu {
    static GPUS: [OnceLock<Gpu>; DEVICES] = [const { OnceLock::new() }; DEVICES];
    let gpu = GPUS[LEASE.with(|lease| lease.0)].get_or_init(|| {
        let options = GpuOptions { checked: true, ..GpuOptions::default() };
        let gpu = Gpu::open(&options).block_on().unwrap_or_else(|error| panic!("the tests need an adapter: {error}"));
        if let Ok(expected) = std::env::var("FMNIST_EXPECT_ADAPTER") {
            let name = &gpu.info().name;
            assert!(name.contains(&expected), "the adapter is `{name}`, FMNIST_EXPECT_ADAPTER wants `{expected}`");
        }
        gpu
    });
    if let Ok(path) = std::env::var("FMNIST_GPU_TEST_LOG") {
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let name = std::thread::current().name().unwrap_or("unnamed").to_string();
        // A single write, so that lines of parallel tests stay whole.
        log.write_all(format!("{name}\n").as_bytes()).unwrap();
    }
    gpu
}

/// Runs what was recorded, and fails unless there was at least one comparison and all of them passed.
pub fn assert_all_right(verifier: &mut Verifier) {
    let verdicts = verifier.verdicts().block_on().unwrap();
    assert!(!verdicts.is_empty(), "nothing was compared");
    for verdict in verdicts {
        assert!(verdict.passed(), "{}: {:#?}", verdict.kernel, &verdict.failures[..verdict.failures.len().min(10)]);
    }
}

/// Returns the folder of the genuine data, if this machine has it.
pub fn genuine_data() -> Option<PathBuf> {
    let named = std::env::var_os("FMNIST_TEST_DATA").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fashion-mnist"));
    let found = folder.join("train-images-idx3-ubyte.gz").exists();
    if !found {
        eprintln!("not run: the genuine data is not at {} (FMNIST_TEST_DATA names another place)", folder.display());
    }
    found.then_some(folder)
}

/// Whether to try more than usual, which takes an hour: `FMNIST_TEST_THOROUGH=1`.
pub fn is_thorough() -> bool {
    std::env::var_os("FMNIST_TEST_THOROUGH").is_some()
}

/// How much to compare for shape number `i` of a table: the first with and without ReLU, which does not depend on the shape.
pub fn breadth(i: usize) -> Breadth {
    if i == 0 || is_thorough() { Breadth::Everything } else { Breadth::EveryForm }
}

/// How many cases at random to try: `usual` or `thorough`, unless the environment variable `name` says it.
pub fn cases(name: &str, usual: u64, thorough: u64) -> u64 {
    let asked = std::env::var(name).ok().map(|number| number.parse().unwrap());
    asked.unwrap_or(if is_thorough() { thorough } else { usual })
}

/// Reports that a test could not run, and adds a line to the file that `FMNIST_TEST_SKIP_LOG` names, so that it is
/// counted.
///
/// # Panics
/// `expected` names an environment variable that is set, which means that nothing may be missing.
pub fn not_run(what: &str, reason: &str, expected: &str) {
    assert!(std::env::var_os(expected).is_none(), "{what}: {reason}, and {expected} is set");
    eprintln!("NOT RUN: {what}: {reason}");
    if let Ok(path) = std::env::var("FMNIST_TEST_SKIP_LOG") {
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        log.write_all(format!("{what}: {reason}\n").as_bytes()).unwrap();
    }
}
